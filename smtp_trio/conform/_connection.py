"""One connection and the record of it: lines, replies, TLS.

A `Connection` is either side of an SMTP session. It does not check what the peer sends. Every quantity that the peer
controls has a limit, so that no peer can exhaust the memory.
"""

from __future__ import annotations

import re
import ssl
from base64 import b64encode
from collections.abc import Mapping
from typing import NoReturn

import trio
from attrs import define, field, frozen

READ_SIZE = 65536
MAX_LINE = 65536
"""Octets of a line before it is an error: 128 times what RFC 5321 4.5.3.1.5 allows for a reply."""
MAX_REPLY_LINES = 1000
MAX_RECEIVED = 16 * 1024 * 1024
"""Octets that are read in one session."""
RECORDED_OCTETS = 2000
"""Octets of one entry of a record. Of longer ones, the number of omitted octets is kept."""
RECORDED_ENTRIES = 200
MIN_SECRET = 4
"""Octets. A shorter secret may be part of any word, so that masking it would hide nothing."""

TOKEN = re.compile(rb"\{(\w+)\}")
ENCODED = re.compile(rb"\{base64:((?:[^{}]|\{\w+\})*)\}")
CODE = re.compile(rb"[0-9]{3}")
EHLO = re.compile(rb"^E(?=HLO\b)", re.MULTILINE | re.IGNORECASE)


class CaseFailedError(Exception):
    """The peer did not do what the case expects. The text is for the report."""


class ConnectionClosedError(CaseFailedError):
    """The connection was closed where something was expected."""


@frozen
class RecordEntry:
    """Octets that were sent by the client ("C") or the server ("S"), or a remark about the connection ("-")."""

    side: str
    data: bytes
    length: int
    """Of all octets; `data` may be their beginning."""


@frozen
class ReceivedReply:
    """A reply as it was received: all lines, with their line ends."""

    lines: tuple[bytes, ...]
    to: str
    """The verb of the command, in capitals. Empty for the greeting, for unsolicited replies and within groups."""
    number: int
    """Index among all replies of the connection; the greeting is 0."""
    smtputf8: bool = False
    """True if the client had sent SMTPUTF8 before."""
    secret: re.Pattern[bytes] | None = field(default=None, eq=False, repr=False)
    """A pattern for the octets that `str` masks."""

    @property
    def code(self) -> str:
        """The code of the first line."""
        return self.lines[0][:3].decode("ascii")

    @property
    def text(self) -> str:
        """The text after the codes, line by line."""
        return "\n".join(line[4:].rstrip(b"\r\n").decode(errors="replace") for line in self.lines)

    def __str__(self) -> str:
        return " / ".join(show(masked(line, self.secret)[0]) for line in self.lines[:5]) + (
            " / ..." if len(self.lines) > 5 else ""
        )


@define(eq=False)
class PrefixedStream(trio.abc.Stream):
    """A stream of which some octets were already read: these are received first."""

    stream: trio.abc.Stream
    prefix: bytearray

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        if not self.prefix:
            return await self.stream.receive_some(max_bytes)
        await trio.lowlevel.checkpoint()
        data = bytes(self.prefix[:max_bytes])
        del self.prefix[:max_bytes]
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self.stream.aclose()


@define(eq=False)
class Connection:
    """A connection, seen from one of its sides.

    In data to send, ``{name}`` stands for one of `values`, which the record shows, or of `secrets`, which it does not, and
    ``{base64:text}`` for the base64 of a text, in which these may occur.
    A peer may repeat secrets: they are masked in `record` and in all texts about what was received.
    """

    stream: trio.abc.Stream
    values: dict[str, bytes] = field(factory=dict)
    secrets: Mapping[str, bytes] = field(factory=dict)
    side: str = "C"
    tls: ssl.SSLContext | None = None
    """For `start_tls`."""
    host: str = ""
    """The name that the certificate must have."""
    entries: list[RecordEntry] = field(factory=list)
    replies: list[ReceivedReply] = field(factory=list)
    extensions: dict[str, str] = field(factory=dict)
    secure: bool = False
    smtputf8: bool = False
    lmtp: bool = False
    """Send LHLO in place of EHLO. Their semantics are the same (RFC 2033 4.1)."""
    expected: str = ""
    """Describes what is waited for, such as "expected 250": the beginning of the error when it does not arrive."""
    _buffer: bytearray = field(factory=bytearray)
    _received: int = 0
    _flooded: bool = False
    _end_reason: str = ""
    _secret: re.Pattern[bytes] | None = field(init=False)
    _longest_secret: int = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._secret = secret_pattern(self.secrets)
        self._longest_secret = max(map(len, self.secrets.values()), default=0)

    # --- sending ------------------------------------------------------------------------------------------------------

    def expand(self, template: bytes, *, secret: bool) -> bytes:
        """Return the template with values in place of their names, and with secrets as well if `secret`."""

        def value(match: re.Match[bytes]) -> bytes:
            name = match[1].decode()
            if name in self.values:
                return self.values[name]
            return self.secrets.get(name, match[0]) if secret else match[0]

        template = ENCODED.sub(lambda match: b64encode(TOKEN.sub(value, match[1])), template)
        return TOKEN.sub(value, template)

    async def send(self, template: bytes, *, times: int = 1, chunk: int = 0) -> None:
        """Send octets, `times` times, in pieces of `chunk` octets if that is not 0.

        Received octets are read meanwhile, so that the two sides cannot wait for each other. A closed connection is not
        an error here, but where a reply is expected.
        """
        if self.lmtp:
            template = EHLO.sub(lambda match: b"L" if match[0] == b"E" else b"l", template)
        data = self.expand(template, secret=True)
        shown = self.expand(template, secret=False)
        self.add_entry(self.side, shown, len(shown) * times)
        self.smtputf8 = self.smtputf8 or b"SMTPUTF8" in data.upper()
        pieces = [data[at : at + chunk] for at in range(0, len(data), chunk)] if chunk else [data]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.read_until_closed)
            try:
                for _ in range(times):
                    for piece in pieces:
                        await self.stream.send_all(piece)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self.add_entry("-", b"the connection broke while this was sent")
            nursery.cancel_scope.cancel()

    # --- receiving ----------------------------------------------------------------------------------------------------

    async def read_until_closed(self) -> None:
        """Read into the buffer until the connection is closed."""
        while await self._read_some():
            pass

    async def _read_some(self) -> bool:
        """Read into the buffer once. Return False at the end of the connection."""
        if self._end_reason:
            return False
        try:
            data = await self.stream.receive_some(READ_SIZE)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            cause = error.__cause__
            self._end(f"the connection broke ({cause})" if cause is not None else "the connection broke")
            return False
        if not data:
            self._end("the peer closed the connection")
            return False
        self._received += len(data)
        self._buffer += data
        self.add_entry("S" if self.side == "C" else "C", bytes(data))
        if self._received > MAX_RECEIVED:
            self._flooded = True
            self._end(f"received more than {MAX_RECEIVED:,} octets")
        return True

    async def read_line(self) -> bytes:
        """Return the next line, including the LF that ends it.

        Raises:
            ConnectionClosedError: The connection ended before.
            CaseFailedError: The line is too long.
        """
        start = 0
        while (end := self._buffer.find(b"\n", start) + 1) == 0:
            start = len(self._buffer)
            if start > MAX_LINE:
                raise CaseFailedError(f"received {start:,} octets without a line end")
            if not await self._read_some():
                self._raise_end()
        line = bytes(self._buffer[:end])
        del self._buffer[:end]
        return line

    async def read_reply(self, to: str = "") -> ReceivedReply:
        """Return the next reply, with all its lines. `to` is the verb of the command, if that is known.

        Raises:
            ConnectionClosedError: The connection ended before.
            CaseFailedError: It is not a reply, or too long.
        """
        lines: list[bytes] = []
        while True:
            line = await self.read_line()
            if not CODE.match(line):
                raise CaseFailedError(f"received an invalid reply: {show(self.mask(line))}")
            lines.append(line)
            if line[3:4] != b"-":
                break
            if len(lines) == MAX_REPLY_LINES:
                raise CaseFailedError(f"received a reply of more than {MAX_REPLY_LINES:,} lines")
        reply = ReceivedReply(tuple(lines), to, len(self.replies), self.smtputf8, self._secret)
        self.replies.append(reply)
        return reply

    async def wait_for_octets(self, count: int) -> None:
        """Wait until the buffer holds `count` octets.

        Raises:
            ConnectionClosedError: The connection ended before.
        """
        while len(self._buffer) < count:
            if not await self._read_some():
                self._raise_end()

    async def read_octets(self, count: int) -> bytes:
        """Return the next `count` octets.

        Raises:
            ConnectionClosedError: The connection ended before.
        """
        await self.wait_for_octets(count)
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        return data

    async def closes(self) -> bool:
        """Wait for octets or the end of the connection. Return True if it ended and the buffer is empty."""
        while not self._buffer and await self._read_some():
            pass
        if self._flooded:
            self._raise_end()
        return not self._buffer

    def _raise_end(self) -> NoReturn:
        if self._flooded:
            raise CaseFailedError(self._end_reason)
        raise ConnectionClosedError(f"{self.expected}, but {self._end_reason}" if self.expected else self._end_reason)

    @property
    def closed(self) -> bool:
        """True if the end of the connection was read, or this side closed it."""
        return bool(self._end_reason)

    @property
    def unread(self) -> bytes:
        """The octets in the buffer."""
        return bytes(self._buffer)

    def discard_unread(self) -> None:
        """Empty the buffer."""
        self._buffer.clear()

    # --- the connection -----------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Close the connection, and discard unread octets."""
        self._end("this side closed the connection")
        self.discard_unread()
        await trio.aclose_forcefully(self.stream)

    async def start_tls(self, *, server_side: bool = False) -> None:
        """Perform the TLS handshake.

        Raises:
            CaseFailedError: The handshake failed.
        """
        assert self.tls is not None
        self.add_entry("-", b"TLS handshake")
        stream = trio.SSLStream(
            PrefixedStream(self.stream, self._buffer) if server_side and self._buffer else self.stream,
            self.tls,
            server_hostname=None if server_side else self.host,
            server_side=server_side,
            https_compatible=True,
        )
        try:
            await stream.do_handshake()
        except trio.BrokenResourceError as error:
            cause = error.__cause__ or error
            why = getattr(cause, "verify_message", "") or str(cause) or "the peer closed the connection"
            self._end(f"the TLS handshake failed: {why}")
            raise CaseFailedError(self._end_reason) from None
        self.stream = stream
        if server_side:
            self._buffer = bytearray()
        self.secure = True
        self.extensions = {}
        self.add_entry("-", (stream.version() or "TLS").encode() + b" begins")

    def add_entry(self, side: str, data: bytes, length: int | None = None) -> None:
        """Add to the record. Octets of the same side become one entry."""
        length = len(data) if length is None else length
        # A secret at the cut is kept whole, so that `record` can mask it.
        most = RECORDED_OCTETS + self._longest_secret
        if self.entries and self.entries[-1].side == side != "-":
            last = self.entries.pop()
            data, length = last.data + data[: max(0, most - len(last.data))], last.length + length
        elif len(self.entries) >= RECORDED_ENTRIES:
            return
        self.entries.append(RecordEntry(side, data[:most], length))

    @property
    def record(self) -> list[RecordEntry]:
        """The record for a report, with all secrets masked."""
        record = []
        for entry in self.entries:
            data, covered = (
                (entry.data[:RECORDED_OCTETS], min(RECORDED_OCTETS, len(entry.data)))
                if entry.side == self.side
                else masked(entry.data, self._secret, RECORDED_OCTETS)
            )
            record.append(RecordEntry(entry.side, data, len(data) + entry.length - covered))
        return record

    def mask(self, data: bytes) -> bytes:
        """Return the data with the names of secrets in place of the secrets."""
        return masked(data, self._secret)[0]

    def _end(self, reason: str) -> None:
        if not self._end_reason:
            self._end_reason = reason
            self.add_entry("-", reason.encode())


def secret_pattern(secrets: Mapping[str, bytes]) -> re.Pattern[bytes] | None:
    """Return a pattern for all secrets in any case, with or without base64 padding, each in a group of its name."""
    patterns = []
    for name, value in sorted(secrets.items(), key=lambda item: -len(item[1])):
        bare = value.rstrip(b"=")
        if len(value) >= MIN_SECRET:
            like = re.escape(bare) + b"={0,2}" if len(bare) >= MIN_SECRET else re.escape(value)
            patterns.append(b"(?P<%b>%b)" % (name.encode(), like))
    return re.compile(b"|".join(patterns), re.IGNORECASE) if patterns else None


def masked(data: bytes, secret: re.Pattern[bytes] | None, most: int | None = None) -> tuple[bytes, int]:
    """Return the first `most` octets with masked secrets, and the number of octets they cover. A secret is not cut."""
    most = len(data) if most is None else most
    pieces, at = [], 0
    for match in secret.finditer(data) if secret is not None else ():
        if match.start() >= most:
            break
        pieces += [data[at : match.start()], b"{%b}" % str(match.lastgroup).encode()]
        at = match.end()
    return b"".join([*pieces, data[at:most]]), max(at, min(most, len(data)))


def show(data: bytes, most: int = 200) -> str:
    """Return octets as one printable line, with the number of those that it omits."""
    text = data[:most].decode("latin-1").encode("unicode_escape").decode("ascii").replace("\\\\", "\\")
    return text + (f" ... ({len(data) - most:,} more octets)" if len(data) > most else "")
