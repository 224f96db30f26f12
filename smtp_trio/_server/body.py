"""`Body`: a message being received, as an async iterator for the `data` hook. `BodyReader` does the reading."""

from __future__ import annotations

import io
import os
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, BinaryIO

from .._types import Envelope
from ..protocol import Reply
from ..protocol.arguments import check_number, check_type
from .body_reader import BodyReader
from .memory import UNCOUNTED, Keeper, with_reserve
from .spool import check_path, spool

if TYPE_CHECKING:
    import email.message

#: The default limit of `Body.headers` in octets, the same as Postfix's ``header_size_limit``.
HEADER_OCTETS = 102400


class Body:
    """The message being received, as the `data` hook sees it: an async iterable of ``bytes``.

    A body is the whole message: its header section and its content. Dots are unstuffed and CRLF is kept; DATA and BDAT
    make no difference. Each piece is what has arrived since the last one: at least one octet, and about 65536 at most
    (16384 over TLS), or twice as many if ``newlines="normalize"`` adds a CR to every LF. The boundaries of pieces mean
    nothing; a line, or a UTF-8 character, may be divided.

    The first read sends the 354 (RFC 5321 4.1.1.4). While the hook does not read, nothing is received, so TCP slows the
    client down. A read raises `BodyError` as soon as the message cannot be accepted any more; a hook should let it
    propagate. A hook that accepts the message must have read it to its end, or called `discard`. After the hook has
    returned, a read raises RuntimeError.
    """

    __slots__ = ("_reader",)

    def __init__(self, reader: BodyReader) -> None:
        self._reader = reader

    @property
    def envelope(self) -> Envelope:
        """The sender and the recipients of the message."""
        return self._reader.envelope

    @property
    def size(self) -> int:
        """The number of octets received so far."""
        return self._reader.size

    @property
    def complete(self) -> bool:
        """True if the whole message has been read, so that it may be accepted."""
        return self._reader.complete

    def __aiter__(self) -> Body:
        return self

    def __anext__(self) -> Coroutine[Any, Any, bytes]:
        reader = self._reader
        if reader.closed:
            raise RuntimeError(f"message {reader.envelope.id} cannot be read any more: its data hook has returned")
        # not `async def`, to save one coroutine in every wait for the peer
        return reader.take_peeked() if reader.peeked else reader.next()

    async def read(self) -> bytes:
        """Read the rest of the message and return it; no more than ``Server(size=...)`` octets.

        :raises BodyError: the message cannot be accepted, or the server has not enough memory left (`Limits.memory`).
        """
        kept = io.BytesIO()  # unlike a list of the pieces, it is not copied at the end
        counted = 0
        async for piece in self:
            counted, before = with_reserve(kept.tell() + len(piece)), counted
            self._reader.keep(counted - before)
            kept.write(piece)
        return kept.getvalue()

    async def headers(self, *, limit: int = HEADER_OCTETS) -> email.message.EmailMessage:
        """Receive the header section of the message and return its fields, without its content (RFC 5322 2.2).

        Call it before any other read. The following reads return the whole message, header section included. A header
        that is larger than ``limit`` octets is refused with 552, like a message that is too large.

        Values are those of `email.policy.default`, with two exceptions for fields that are made to do harm: a value that
        cannot be parsed, or has more than 2000 characters, is the text of the field as it was sent, without attributes
        such as ``addresses``. Reading a value raises no exception.

        :raises BodyError: the message cannot be accepted.
        :raises RuntimeError: a part of the message has already been read, or the hook has returned.
        """
        check_number(limit, "limit", integer=True)
        from .header_fields import parse_header  # imported here because `email` is slow to import

        return parse_header(await self._reader.peek_header(limit))

    async def spool(self, *, max_size: int = 1 << 20, dir: str | os.PathLike[str] | None = None) -> BinaryIO:
        """Read the rest of the message, and return it as a temporary binary file, at its beginning.

        Up to ``max_size`` octets are kept in memory, and fewer when the server has little memory left
        (`Limits.memory`). A larger message is written to the disk, in threads, so its size does not matter. The file
        has no name, and is deleted when it is closed; close it with a ``with`` block. Use it in a thread, or through
        ``trio.wrap_file``, since reading a file may block.

        :param dir: the directory of the file; by default that of ``tempfile``.
        :raises BodyError: the message cannot be accepted.
        :raises OSError: the file cannot be written.
        """
        check_number(max_size, "max_size", integer=True)
        return await spool(self, self._reader, max_size, None if dir is None else check_path(dir, "dir"))

    async def discard(self) -> None:
        """Read the rest of the message and drop it. A hook may accept the message after that.

        :raises BodyError: the message cannot be accepted.
        """
        async for _ in self:
            pass

    async def reply(self, reply: Reply | None = None) -> None:
        """Send the reply for the next recipient now, and not when the hook returns. In LMTP only (RFC 2033 4.2, 5).

        For a hook that takes a while for each of ``envelope.rcpts``. None is the default reply, 250. What the hook returns is
        for the recipients that have no reply yet; if there are any, it must not be None. If the hook raises an exception or
        is late, they get 451. Each reply begins the time of the hook anew.

        :raises RuntimeError: the server uses SMTP, the message has not been read to its end, or each recipient has a reply.
        :raises ValueError: the reply is not one to a message, or it is 421, which ends the session.
        """
        check_type(reply, "reply", Reply, optional=True)
        await self._reader.reply(reply)


def keep_start(body: object) -> None:
    """Add no empty line at the beginning of a `Body`, because the caller does that itself."""
    if isinstance(body, Body):
        body._reader.separate = False


def keeper_of(session: object) -> Keeper:
    """Return what counts the octets of the message that a session is receiving.

    An object that is used in place of a session, such as a stub in a test, need not have a transaction.
    """
    body = getattr(getattr(session, "_transaction", None), "body", None)
    return body if isinstance(body, BodyReader) else UNCOUNTED
