"""One connection, and all that was said on it: lines, replies, TLS. Nothing here judges; nothing here can fill the memory."""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from typing import NoReturn

import trio
from attrs import define, field, frozen

READ = 65536
LINE = 65536
"""Octets of a line, after which it is no line: 128 times what RFC 5321 4.5.3.1.5 allows a reply."""
LINES = 1000
"""Lines of a reply, after which it has no end."""
HEARD = 16 * 1024 * 1024
"""Octets in one session, after which the peer is flooding."""
KEPT = 2000
"""Octets of one entry of a record; of the rest it is said how many they are."""
ENTRIES = 200
GUESSABLE = 4
"""Octets; a secret with fewer may be any word, and hiding it would hide nothing."""

TOKEN = re.compile(rb"\{(\w+)\}")
CODE = re.compile(rb"[0-9]{3}")


class WrongAnswer(Exception):
    """What came is not what was due: the case has failed. The text is for people."""


class Hungup(WrongAnswer):
    """The connection ended where something was due."""


@frozen
class Entry:
    """A piece of what was said: by the client ("C"), by the server ("S"), or about the connection ("-")."""

    side: str
    data: bytes
    length: int
    """Of the whole; `data` may be its beginning."""


@frozen
class Reply:
    """A reply as it came: all its lines, with their ends."""

    lines: tuple[bytes, ...]
    to: str
    """The verb that it answers, in capitals; empty for the greeting, for what nobody asked for, and in a group."""
    number: int
    """Its place among all replies of the connection; the greeting is 0."""
    smtputf8: bool = False
    """Whether the client had said SMTPUTF8."""
    secret: re.Pattern[bytes] | None = field(default=None, eq=False, repr=False)
    """What `str` masks."""

    @property
    def code(self) -> str:
        return self.lines[0][:3].decode("ascii")

    @property
    def text(self) -> str:
        """What stands behind the codes, line for line."""
        return "\n".join(line[4:].rstrip(b"\r\n").decode(errors="replace") for line in self.lines)

    def __str__(self) -> str:
        return " / ".join(show(masked(line, self.secret)[0]) for line in self.lines[:5]) + (
            " / ..." if len(self.lines) > 5 else ""
        )


@define(eq=False)
class Ahead(trio.abc.Stream):
    """A stream of which a part was read already: it is read again, first."""

    stream: trio.abc.Stream
    read: bytearray

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        if not self.read:
            return await self.stream.receive_some(max_bytes)
        await trio.lowlevel.checkpoint()
        data = bytes(self.read[:max_bytes])
        del self.read[:max_bytes]
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self.stream.aclose()


@define(eq=False)
class Talk:
    """A connection, seen from one of its sides.

    In what is sent, ``{name}`` stands for a value of `values` (shown in the record) or of `secrets` (not shown).
    A peer may echo the secrets: they are masked in `record`, and in what is said of what came.
    """

    stream: trio.abc.Stream
    values: dict[str, bytes] = field(factory=dict)
    secrets: Mapping[str, bytes] = field(factory=dict)
    side: str = "C"
    tls: ssl.SSLContext | None = None
    """For `start_tls`."""
    host: str = ""
    """Whose certificate it must be."""
    entries: list[Entry] = field(factory=list)
    replies: list[Reply] = field(factory=list)
    extensions: dict[str, str] = field(factory=dict)
    secure: bool = False
    smtputf8: bool = False
    _buffer: bytearray = field(factory=bytearray)
    due: str = ""
    """What is waited for, for whom it concerns when it does not come."""
    _heard: int = 0
    _floods: bool = False
    _ended: str = ""
    _secret: re.Pattern[bytes] | None = field(init=False)
    _longest: int = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._secret = secret_pattern(self.secrets)
        self._longest = max(map(len, self.secrets.values()), default=0)

    # --- what we say --------------------------------------------------------------------------------------------------

    def expand(self, template: bytes, *, secret: bool) -> bytes:
        """Put the values in; the secret ones too if it is for the wire."""

        def value(match: re.Match[bytes]) -> bytes:
            name = match[1].decode()
            if name in self.values:
                return self.values[name]
            return self.secrets.get(name, match[0]) if secret else match[0]

        return TOKEN.sub(value, template)

    async def send(self, template: bytes, *, times: int = 1, chunk: int = 0) -> None:
        """Send it, so many times, in pieces of `chunk` octets if that is not 0.

        What comes meanwhile is read: neither side waits for the other. A peer that has gone does not make this fail; it will be
        missed where something is expected of it.
        """
        data = self.expand(template, secret=True)
        shown = self.expand(template, secret=False)
        self.note(self.side, shown, len(shown) * times)
        self.smtputf8 = self.smtputf8 or b"SMTPUTF8" in data.upper()
        pieces = [data[at : at + chunk] for at in range(0, len(data), chunk)] if chunk else [data]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.listen)
            try:
                for _ in range(times):
                    for piece in pieces:
                        await self.stream.send_all(piece)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self.note("-", b"the connection broke while this was sent")
            nursery.cancel_scope.cancel()

    async def listen(self) -> None:
        """Read what comes, until they hang up; it can be looked at later."""
        while await self._more():
            pass

    def hide(self, data: bytes) -> bytes:
        """The same without the secrets: their names are in their places."""
        return masked(data, self._secret)[0]

    # --- what they say ------------------------------------------------------------------------------------------------

    async def _more(self) -> bool:
        """Read a piece; false at the end."""
        if self._ended:
            return False
        try:
            data = await self.stream.receive_some(READ)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            cause = error.__cause__
            self._end(f"the connection broke ({cause})" if cause is not None else "the connection broke")
            return False
        if not data:
            self._end("they closed")
            return False
        self._heard += len(data)
        self._buffer += data
        self.note("S" if self.side == "C" else "C", bytes(data))
        if self._heard > HEARD:
            self._floods = True
            self._end(f"more than {HEARD:,} octets came")
        return True

    async def line(self) -> bytes:
        """The next line, with the LF that ends it and whatever stands before that.

        Raises:
            Hungup: there is none.
            WrongAnswer: it has no end.
        """
        start = 0
        while (end := self._buffer.find(b"\n", start) + 1) == 0:
            start = len(self._buffer)
            if start > LINE:
                raise WrongAnswer(f"{start:,} octets without the end of a line")
            if not await self._more():
                self._raise_end()
        line = bytes(self._buffer[:end])
        del self._buffer[:end]
        return line

    async def reply(self, to: str = "") -> Reply:
        """The next reply, whole.

        Raises:
            Hungup: there is none.
            WrongAnswer: it is none, or it has no end.
        """
        lines: list[bytes] = []
        while True:
            line = await self.line()
            if not CODE.match(line):
                raise WrongAnswer(f"this is no reply: {show(self.hide(line))}")
            lines.append(line)
            if line[3:4] != b"-":
                break
            if len(lines) == LINES:
                raise WrongAnswer(f"a reply of more than {LINES:,} lines")
        reply = Reply(tuple(lines), to, len(self.replies), self.smtputf8, self._secret)
        self.replies.append(reply)
        return reply

    async def gather(self, count: int) -> None:
        """Wait until so many octets have come, whatever they are; they stay to be read.

        Raises:
            Hungup: there are not so many.
        """
        while len(self._buffer) < count:
            if not await self._more():
                self._raise_end()

    async def octets(self, count: int) -> bytes:
        """The next so many octets, whatever they are.

        Raises:
            Hungup: there are not so many.
        """
        await self.gather(count)
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        return data

    async def ended(self) -> bool:
        """Whether they end the connection, with nothing said before; waits for either."""
        while not self._buffer and await self._more():
            pass
        if self._floods:
            self._raise_end()
        return not self._buffer

    def _raise_end(self) -> NoReturn:
        if self._floods:
            raise WrongAnswer(self._ended)
        raise Hungup(f"{self.due}, and {self._ended}" if self.due else self._ended)

    @property
    def hung_up(self) -> bool:
        """Whether the connection has come to its end, as far as was looked."""
        return bool(self._ended)

    @property
    def unread(self) -> bytes:
        """What has come and was not looked at yet."""
        return bytes(self._buffer)

    def forget(self) -> None:
        """Throw away what has come and was not looked at."""
        self._buffer.clear()

    # --- the connection -----------------------------------------------------------------------------------------------

    async def hang_up(self) -> None:
        """Close it, without a goodbye; what has come and was not looked at is forgotten."""
        self._end("we closed")
        self.forget()
        await trio.aclose_forcefully(self.stream)

    async def start_tls(self, *, server_side: bool = False) -> None:
        """Shake hands.

        Raises:
            WrongAnswer: it failed.
        """
        assert self.tls is not None
        self.note("-", b"TLS handshake")
        stream = trio.SSLStream(
            Ahead(self.stream, self._buffer) if server_side and self._buffer else self.stream,
            self.tls,
            server_hostname=None if server_side else self.host,
            server_side=server_side,
            https_compatible=True,
        )
        try:
            await stream.do_handshake()
        except trio.BrokenResourceError as error:
            cause = error.__cause__ or error
            self._end(
                f"the TLS handshake failed: {getattr(cause, 'verify_message', '') or str(cause) or 'they hung up'}"
            )
            raise WrongAnswer(self._ended) from None
        self.stream = stream
        if server_side:
            self._buffer = bytearray()
        self.secure = True
        self.extensions = {}
        self.note("-", (stream.version() or "TLS").encode() + b" from here on")

    def note(self, side: str, data: bytes, length: int | None = None) -> None:
        """Put it into the record; pieces of one side become one."""
        length = len(data) if length is None else length
        most = KEPT + self._longest
        if self.entries and self.entries[-1].side == side != "-":
            last = self.entries.pop()
            data, length = last.data + data[: max(0, most - len(last.data))], last.length + length
        elif len(self.entries) >= ENTRIES:
            return
        self.entries.append(Entry(side, data[:most], length))

    @property
    def record(self) -> list[Entry]:
        """What was said, for a report: without the secrets, wherever they come from."""
        record = []
        for entry in self.entries:
            data, heard = (
                (entry.data[:KEPT], min(KEPT, len(entry.data)))
                if entry.side == self.side
                else masked(entry.data, self._secret, KEPT)
            )
            record.append(Entry(entry.side, data, len(data) + entry.length - heard))
        return record

    def _end(self, how: str) -> None:
        if not self._ended:
            self._ended = how
            self.note("-", how.encode())


def secret_pattern(secrets: Mapping[str, bytes]) -> re.Pattern[bytes] | None:
    """What finds them, each in a group with its name: in any case, and without the ``=`` that end base64."""
    patterns = []
    for name, value in sorted(secrets.items(), key=lambda item: -len(item[1])):
        bare = value.rstrip(b"=")
        if len(value) >= GUESSABLE:
            like = re.escape(bare) + b"={0,2}" if len(bare) >= GUESSABLE else re.escape(value)
            patterns.append(b"(?P<%b>%b)" % (name.encode(), like))
    return re.compile(b"|".join(patterns), re.IGNORECASE) if patterns else None


def masked(data: bytes, secret: re.Pattern[bytes] | None, most: int | None = None) -> tuple[bytes, int]:
    """Its first octets without the secrets, and how many they were: a secret is not cut into two."""
    most = len(data) if most is None else most
    pieces, at = [], 0
    for match in secret.finditer(data) if secret is not None else ():
        if match.start() >= most:
            break
        pieces += [data[at : match.start()], b"{%b}" % str(match.lastgroup).encode()]
        at = match.end()
    return b"".join([*pieces, data[at:most]]), max(at, min(most, len(data)))


def show(data: bytes, most: int = 200) -> str:
    """Octets in one printable line; of long ones, how many more they are."""
    text = data[:most].decode("latin-1").encode("unicode_escape").decode("ascii").replace("\\\\", "\\")
    return text + (f" ... ({len(data) - most:,} more octets)" if len(data) > most else "")
