"""The link between a Trio stream and a protocol: the only module that reads, writes, upgrades or closes a stream."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

import trio

from .protocol.arguments import check_type

#: Octets to ask for in one read, at most. A connection buffers no more than these of its peer's, besides one incomplete line.
RECEIVE_SIZE = 65536
#: The flag of a `send` whose octets may wait for others; none on systems other than Linux.
MORE = getattr(socket, "MSG_MORE", 0)
#: Octets that the kernel takes at most before they are sent, as in a `trio.SocketStream`.
NOTSENT = 1 << 14
#: Seconds that closing a stream in an orderly way may take before it is closed by force.
CLOSE_TIMEOUT = 1
#: How many reads wait for the peer, at most, before one is tried again without waiting.
MOST_WAITS = 16
#: Steps of the scheduler in which a stream returns what has already arrived; `trio.SSLStream` over a socket needs four.
READY_STEPS = 8

#: The protocol of an `ssl.SSLContext` that a server (True) or a client (False) cannot use.
OTHER_SIDE = {True: ssl.PROTOCOL_TLS_CLIENT, False: ssl.PROTOCOL_TLS_SERVER}
BROKEN = (trio.BrokenResourceError, trio.ClosedResourceError)


def check_context(context: object, what: str, *, server_side: bool) -> None:
    """Raise TypeError if ``context`` is neither an SSL context nor None, and ValueError if it is for the other side."""
    check_type(context, what, ssl.SSLContext, optional=True)
    if isinstance(context, ssl.SSLContext) and context.protocol == OTHER_SIDE[server_side]:
        side = "server" if server_side else "client"
        raise ValueError(f"{what} must be an SSL context for a {side}, got one for {context.protocol.name}")


def fails_short(stream: object) -> bool:
    """Return whether an exception of ``send_all`` means that the last octet was not sent.

    Trio's contract is that after an exception it is not known how much was sent: a stream that is not known here may
    have sent everything. Trio's own streams raise before the last octet is sent. A stream of this package that does the
    same has an attribute ``sends_to`` in its class: the stream that it sends to, or None if that is itself.
    """
    kind = type(stream)
    if kind.__module__.partition(".")[0] == "trio":  # sockets, pipes, TLS, streams in memory and those made of two
        below = getattr(stream, "transport_stream", getattr(stream, "send_stream", None))
    elif "sends_to" in vars(kind):  # not one that a subclass inherits, or that ``__getattr__`` finds
        below = getattr(stream, "sends_to")  # noqa: B009  (mypy does not know it)
    else:
        return False
    return below is None or fails_short(below)


class VerifyingContext(ssl.SSLContext):
    """An SSL context whose connections verify the peer themselves during the handshake, whatever ``verify_mode`` is.

    ``verifies`` is True if a handshake succeeds only with a peer that is authenticated.
    """

    verifies: bool = False


def verifies_peer(context: ssl.SSLContext) -> bool:
    """Return whether the peer of a client is authenticated once the handshake has succeeded."""
    if isinstance(context, VerifyingContext):
        return context.verifies
    return context.verify_mode == ssl.CERT_REQUIRED and context.check_hostname


class AcceptedSocket:
    """The descriptor of an accepted connection, whose `trio.SocketStream` is made when it is asked for.

    The session that it is given to closes it.
    """

    # To make a stream takes four calls of the kernel and five objects, and to close it one more, because it might be in use in
    # another task. A session without TLS reads and writes by the descriptor (see below) and needs none of that: without it, one
    # that receives one message takes 7 % less time. The options that Trio sets are those of the listening socket, which
    # `inherit_options` has set.

    __slots__ = ("_descriptor", "_made_as", "_stream")

    def __init__(self, descriptor: int, made_as: tuple[int, int, int]) -> None:
        """``made_as`` is the family, the type and the protocol of the socket."""
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._made_as = made_as
        self._stream: trio.SocketStream | None = None

    @property
    def stream(self) -> trio.SocketStream:
        """The stream, which closes the descriptor from then on. Raises `trio.ClosedResourceError` if it was closed before."""
        if self._stream is None:
            if self._descriptor < 0:
                raise trio.ClosedResourceError("the connection was closed")
            self._stream = trio.SocketStream(
                trio.socket.from_stdlib_socket(socket.socket(*self._made_as, self._descriptor))
            )
        return self._stream

    def fileno(self) -> int:
        """Return the descriptor; -1 if it was closed."""
        return self._descriptor if self._stream is None else self._stream.socket.fileno()

    def getsockname(self) -> tuple[Any, ...]:
        """Return the address of this end. Raises OSError if the peer has reset the connection."""
        sock = socket.socket(*self._made_as, self.fileno())
        try:
            address: tuple[Any, ...] = sock.getsockname()
            return address
        finally:
            sock.detach()

    def send_last(self, data: bytes) -> bytes | memoryview:
        """Send the last octets, as far as that is possible without waiting, and end the output. Return the rest.

        If there is a rest, the output is not ended. A connection that cannot be used any more has none.
        """
        # The last reply and the end of the connection (FIN) are one segment, which the kernel sends in 3 % less of the time of a
        # session that receives one message. `close` alone would not do: it discards what has not been sent if there is input
        # that was not read.
        if (descriptor := self.fileno()) < 0:
            return b""
        sock = socket.socket(*self._made_as, descriptor)
        try:
            if socket.getdefaulttimeout() is not None:  # with a timeout, `send` would wait
                sock.setblocking(False)
            sent = sock.send(data, MORE)
            if sent == len(data):
                sock.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            return data
        except OSError:
            return b""
        finally:
            sock.detach()
        return memoryview(data)[sent:]

    def close(self) -> None:
        """Close the connection without waiting. No task may wait for the descriptor."""
        if self._stream is not None:
            self._stream.socket.close()
        elif self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            socket.close(descriptor)  # not `os.close`, which raises ECONNRESET on some systems


def as_stream(connection: trio.abc.Stream | AcceptedSocket) -> trio.abc.Stream:
    """Return the stream of a connection."""
    return connection.stream if isinstance(connection, AcceptedSocket) else connection


def inherit_options(listening: socket.socket) -> None:
    """Set the options of a `trio.SocketStream` for all connections that this socket will accept: they are inherited."""
    with suppress(OSError):  # not TCP
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(trio.socket, "TCP_NOTSENT_LOWAT"):
            listening.setsockopt(socket.IPPROTO_TCP, trio.socket.TCP_NOTSENT_LOWAT, NOTSENT)


class OctetProtocol(Protocol):
    """The part of a `ServerProtocol` or `ClientProtocol` that a `Wire` uses."""

    def receive_data(self, data: bytes) -> None: ...
    def data_to_send(self) -> bytes: ...


# Direct access to the descriptor, and checkpoints
#
# `SocketStream.send_all` and `receive_some` cost 8 µs each on top of the system call, nearly all of it for a pass
# through Trio's scheduler: every Trio function is a checkpoint, even if it need not wait. A session that receives one
# message makes eight or more of these calls, and parsing and answering everything in between takes less time than they
# do. So a plain socket, and only that, is read and written directly by its descriptor, with `os.read` and `os.write`,
# which is public and never waits, since Trio has made the descriptor non-blocking:
#
# * `flush_now` writes without a checkpoint. A reply fits into the kernel's buffer nearly always; what does not is
#   returned, and `send` passes it to `send_all`, with a timeout.
# * `receive` waits with `trio.lowlevel.wait_readable`, a full checkpoint, and then reads directly. `receive_now` tries
#   to read without waiting and is only called right after a checkpoint: a peer that answers at once has often done so
#   while other tasks ran, and then no deadline has to be moved and the descriptor need not be registered with epoll.
# * A peer that is reached over a network never answers so soon, and then the checkpoint and the read that finds nothing are
#   a seventh of the bytecodes that are executed for a message. So after a `receive_now` that has found nothing, the next
#   read waits at once; after the second in a row the next two reads do, then four, and so on up to MOST_WAITS (``waits``).
#
# Thus writing is never a checkpoint and reading always includes one. That is enough, since a session cannot run for
# long without reading. The exception is a client that sends 64 KiB of commands in one segment; for this there is
# `SessionTask.yield_turn`. Two things depend on it: tasks take turns whatever a peer sends, and a cancellation cannot
# come between a change of the protocol's state and the write that informs the peer.
#
# Everything else (`SSLStream`, streams in memory, subclasses, other systems) goes through Trio's methods. After
# STARTTLS the descriptor is not used any more, since it would bypass the encryption.
#
# ``broken`` means that nothing can be sent any more. It is also set *before* a `send_all` or a handshake and reset
# after it: if either is cancelled or fails halfway, it is not known how much has arrived, and what is sent next could
# be taken for something else. A `send_all` that fails may nevertheless have sent everything: `in_doubt`. A message is
# not lost by that, but a client that took it for "not sent" would send it twice.


class Wire:
    """Carries octets between one stream and one protocol."""

    __slots__ = (
        "_accepted",
        "_descriptor",
        "_next_waits",
        "_protocol",
        "_receiving",
        "_stream",
        "_write_timeout",
        "broken",
        "in_doubt",
        "quick",
        "read_size",
        "stalled",
        "waits",
    )

    def __init__(self, stream: trio.abc.Stream | AcceptedSocket, protocol: OctetProtocol, write_timeout: float) -> None:
        #: Nothing can be sent any more.
        self.broken: bool = False
        #: It is broken because the peer did not read for ``write_timeout`` seconds.
        self.stalled: bool = False
        #: It is broken because a `send_all` has failed that may have sent everything.
        self.in_doubt: bool = False
        #: Octets to ask for in one read.
        self.read_size: int = RECEIVE_SIZE
        #: How many of the next reads should wait, without a `receive_now` before.
        self.waits: int = 0
        self._next_waits = 1  # after the next `receive_now` that finds nothing
        # Tasks in `receive`: an application may read a message in a task that goes on after its hook.
        self._receiving = 0
        self._protocol = protocol
        self._write_timeout = write_timeout
        # The function that returns the descriptor, which is -1 once the socket was closed; None without direct access.
        self._descriptor: Callable[[], int] | None = None
        self._accepted: AcceptedSocket | None = None
        self._stream: trio.abc.Stream | None = None  # None for that of `_accepted`
        if isinstance(stream, AcceptedSocket):
            self._accepted, self._descriptor = stream, stream.fileno
        else:
            self._stream = stream
            if type(stream) is trio.SocketStream and os.name == "posix":
                self._descriptor = stream.socket.fileno
        #: The stream is read and written by its descriptor, so that `receive_now` may receive something.
        self.quick: bool = self._descriptor is not None

    @property
    def stream(self) -> trio.abc.Stream:
        """The stream, which is made on first use if the connection was accepted."""
        if self._stream is None:
            assert self._accepted is not None
            self._stream = self._accepted.stream
        return self._stream

    def receive_now(self) -> bool:
        """Receive without waiting, and pass the octets to the protocol; return whether anything was received.

        Only for a `quick` wire, right after a checkpoint.
        """
        assert self._descriptor is not None
        try:
            data = os.read(self._descriptor(), self.read_size)
        except BlockingIOError:
            self.waits, self._next_waits = self._next_waits, min(2 * self._next_waits, MOST_WAITS)
            return False
        except OSError:
            data = self._lost()
        self._next_waits = 1
        self._protocol.receive_data(data)
        return True

    async def receive(self) -> None:
        """Wait for octets from the peer and pass them to the protocol; b"" at the end of the input or after a reset."""
        self._receiving += 1
        try:
            if self._descriptor is None:
                self._protocol.receive_data(bytes(await self.stream.receive_some(self.read_size)))
                return
            waits, next_waits = self.waits, self._next_waits
            await trio.lowlevel.wait_readable(self._descriptor())
            while not self.receive_now():  # a spurious wake-up
                await trio.lowlevel.wait_readable(self._descriptor())
            # A read after a wait shows nothing about one without.
            self.waits, self._next_waits = max(waits - 1, 0), next_waits
        except (*BROKEN, OSError, ValueError):  # ValueError: the descriptor is -1, since a hook has closed the stream
            self._protocol.receive_data(self._lost())
        finally:
            self._receiving -= 1

    def interrupt(self) -> None:
        """End a `receive` in another task, as if the connection were lost. Only for a `quick` wire."""
        if self._descriptor is not None:
            trio.lowlevel.notify_closing(self._descriptor())

    async def receive_arrived(self) -> None:
        """Receive what has already arrived, without waiting for the peer."""
        if self._descriptor is not None:
            await trio.lowlevel.checkpoint()
            self.receive_now()
            return
        # Other streams can only be asked to wait. A stream that has data returns after a few steps of the scheduler.
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.receive)
            for _ in range(READY_STEPS):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()

    def _lost(self) -> bytes:
        """Return b"", the end of the input, for a reset connection: nothing can be sent any more, either."""
        self.broken = True
        return b""

    def flush_now(self) -> bytes | memoryview:
        """Send what the protocol has queued, as far as that is possible without waiting; return the rest.

        The rest is a memoryview, whose `repr` does not show it: it may be a line with a password, and the variables of
        those that wait until it is sent may be shown in a traceback.
        """
        data = self._protocol.data_to_send()
        if not data or self.broken:
            return b""
        if self._descriptor is None:
            return memoryview(data)
        try:
            sent = os.write(self._descriptor(), data)
        except BlockingIOError:
            return memoryview(data)
        except OSError:
            self.broken = True
            return b""
        return memoryview(data)[sent:] if sent < len(data) else b""

    def flush_last(self) -> bytes | memoryview:
        """Send what the protocol has queued as `flush_now` does, when nothing is to be sent after it."""
        if self._accepted is None:
            return self.flush_now()
        data = self._protocol.data_to_send()
        return self._accepted.send_last(data) if data and not self.broken else b""

    async def send(self, data: bytes | memoryview) -> None:
        """Send what `flush_now` returned. If that fails or takes too long, the wire is broken."""
        self.broken = True
        try:
            with trio.move_on_after(self._write_timeout) as scope:
                await self.stream.send_all(data)
        except BROKEN:
            self.in_doubt = not fails_short(self.stream)
            return
        self.broken = self.stalled = scope.cancelled_caught

    async def start_tls(
        self,
        context: ssl.SSLContext,
        seconds: float,
        *,
        server_side: bool,
        server_hostname: str | None = None,
        transport: trio.abc.Stream | None = None,
    ) -> trio.SSLStream[Any]:
        """Do a TLS handshake and use the encrypted stream from then on; return it.

        :param seconds: how long the handshake may take.
        :param transport: what the handshake uses in place of the present stream, over which it is a layer.
        :raises trio.BrokenResourceError: the handshake failed. The wire is broken then.
        :raises trio.TooSlowError: it took too long. The wire is broken then.
        """
        stream: trio.SSLStream[Any] = trio.SSLStream(
            transport or self.stream,
            context,
            server_hostname=server_hostname,
            server_side=server_side,
            https_compatible=False,
        )
        self.broken = True
        try:
            # Not `trio.fail_after`: its frame refers to the exception of the cancellation, and that to all frames up to here.
            with trio.move_on_after(seconds) as scope:
                await stream.do_handshake()
            if scope.cancelled_caught:
                raise trio.TooSlowError
        finally:
            stream.transport_stream = self.stream  # also after a failure: the other one refers to the session
        self.carry(stream)
        self.broken = False
        return stream

    def carry(self, stream: trio.abc.Stream) -> None:
        """Use ``stream``, which is a layer over the present one, from now on."""
        self._stream, self._accepted, self._descriptor, self.quick = stream, None, None, False

    async def close(self) -> None:
        """Close the stream, in an orderly way if that is still possible.

        Also works in a cancelled scope, without waiting then.
        """
        if self._accepted is not None:
            if self._receiving:  # otherwise the connection that has this descriptor next could not be waited for
                self.interrupt()
            self._accepted.close()
            return
        if self._descriptor is not None and isinstance(self.stream, trio.SocketStream):
            self.stream.socket.close()  # does not wait, unlike `aclose`
            return
        if self.broken or trio.current_effective_deadline() == -float("inf"):
            await trio.aclose_forcefully(self.stream)
            return
        with trio.move_on_after(CLOSE_TIMEOUT):
            with suppress(*BROKEN):
                await self.stream.aclose()
