"""A name server in the process, on loopback."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import dns.message
import dns.rdatatype
import trio
from attrs import define, field

#: Returns the response to a query, or octets that are not one, or None for no response. The flag is True for TCP.
Respond = Callable[[dns.message.Message, bool], "dns.message.Message | bytes | None"]


@define
class NameServerOnLoopback:
    """A name server. ``queries`` are those that it has received."""

    respond: Respond
    port: int = 0
    queries: list[tuple[str, str, bool]] = field(factory=list)

    @property
    def address(self) -> tuple[str, int]:
        """The address and port, as `DnsResolver` takes them."""
        return "127.0.0.1", self.port

    def answer(self, message: bytes, *, tcp: bool) -> bytes | None:
        """Return what is sent for a message."""
        request = dns.message.from_wire(message)
        [question] = request.question
        self.queries.append((question.name.to_text()[:-1], dns.rdatatype.to_text(question.rdtype), tcp))
        response = self.respond(request, tcp)
        return to_wire(response) if isinstance(response, dns.message.Message) else response

    async def serve_udp(self, udp: trio.socket.SocketType) -> None:
        """Answer datagrams."""
        while True:
            message, sender = await udp.recvfrom(4096)
            if (answer := self.answer(message, tcp=False)) is not None:
                await udp.sendto(answer, sender)

    async def serve_tcp(self, stream: trio.SocketStream) -> None:
        """Answer one message of a connection (RFC 1035 4.2.2)."""
        async with stream:
            data = b""
            while len(data) < 2 or len(data) < 2 + int.from_bytes(data[:2], "big"):
                chunk = await stream.receive_some()
                if not chunk:
                    return
                data += chunk
            if (answer := self.answer(data[2:], tcp=True)) is not None:
                await stream.send_all(len(answer).to_bytes(2, "big") + answer)


def to_wire(message: dns.message.Message) -> bytes:
    """Return the octets of a message of any size, with the records in their order."""
    return bytes(message.to_wire(max_size=65535, want_shuffle=False))


@asynccontextmanager
async def name_server(
    respond: Respond, kind: type[NameServerOnLoopback] | None = None
) -> AsyncGenerator[NameServerOnLoopback]:
    """Run a name server on a free port of 127.0.0.1, for UDP and TCP."""
    server = (kind or NameServerOnLoopback)(respond)
    error: Exception | None = None
    async with trio.open_nursery() as nursery:
        while True:
            [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
            server.port = listener.socket.getsockname()[1]
            udp = trio.socket.socket(type=trio.socket.SOCK_DGRAM)
            try:
                await udp.bind(server.address)
            except OSError:  # another process uses the port for UDP
                udp.close()
                await listener.aclose()
            else:
                break
        with udp:
            nursery.start_soon(server.serve_udp, udp)
            nursery.start_soon(trio.serve_listeners, server.serve_tcp, [listener])
            try:
                yield server
            except Exception as exc:
                error = exc  # which is raised outside of the nursery, and so not in a group
            nursery.cancel_scope.cancel()
    if error is not None:
        raise error
