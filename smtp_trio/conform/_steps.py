"""The steps of cases for servers."""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Iterable
from contextlib import suppress
from math import inf

import trio
from attrs import evolve, field, frozen
from attrs.validators import matches_re

from ._case import Step
from ._connection import CaseFailedError, Connection, ConnectionClosedError, ReceivedReply, show

CODES = r"[0-9.|]+"
ANYTHING = "ANYTHING"
MAX_REPLIES = 100_000
"""Replies that `ExpectReplies` reads."""
LIMITS = ("MAILMAX", "RCPTMAX", "RCPTDOMAINMAX")
"""The limits of RFC 9422."""
MAX_REPEATED = 1000
"""The greatest one that is tried."""


def verb(line: bytes) -> str:
    """Return the first word of a line, in capitals."""
    return re.split(rb"[ \r\n]", line, maxsplit=1)[0].decode("ascii", "replace").upper()


@frozen
class Send:
    """Send octets, in segments of `chunk` octets if that is not 0, and `times` times."""

    data: bytes
    chunk: int = 0
    times: int = 1

    async def perform(self, connection: Connection) -> None:
        await connection.send(self.data, chunk=self.chunk, times=self.times)


@frozen
class Expect:
    """Expect one reply, with one of these codes: ``250|251``, ``5..``.

    `text`, `lists` and `each` are patterns for the text. With ``!`` in front, `text` and `lists` must not match. The
    extensions of the connection are taken from a 250 reply to EHLO.
    """

    codes: str = field(validator=matches_re(CODES))
    meaning: str = ""
    """An explanation for the report."""
    text: str = ""
    """Must occur in the text of all lines; case is ignored."""
    lists: str = ""
    """One line after the first must match; case is ignored."""
    each: str = ""
    """Every line after the first must match."""
    decodes: str = ""
    """Must match the text decoded from base64, a challenge of AUTH. Its named groups become values of the connection."""
    to: str = ""
    """The verb of the command, if that is known."""
    or_close: bool = False
    """True if the server may also close the connection, with or without a 421 reply."""

    def answering(self, verb: str) -> Expect:
        """Return this expectation for the reply to a command."""
        return evolve(self, to=verb)

    async def perform(self, connection: Connection) -> None:
        connection.expected = self._expected()
        try:
            reply = await connection.read_reply(self.to)
        except ConnectionClosedError:
            if self.or_close:
                return
            raise
        if not re.fullmatch(self.codes, reply.code) and not (self.or_close and reply.code == "421"):
            raise CaseFailedError(f"{self._expected()}, got {reply.code}: {reply}")
        found = re.search(self.text.removeprefix("!"), reply.text, re.IGNORECASE | re.MULTILINE)
        if (found is None) != self.text.startswith("!"):
            raise CaseFailedError(f"{self._expected()}, got another text: {reply}")
        if self.to in ("EHLO", "LHLO") and reply.code == "250":
            take_extensions(connection, reply)
        self._check_lines(connection, reply.text.split("\n")[1:])
        if self.decodes:
            self._check_challenge(connection, reply)

    def _check_lines(self, connection: Connection, lines: list[str]) -> None:
        for line in lines if self.each else ():
            if not re.fullmatch(self.each, line):
                raise CaseFailedError(f"EHLO lists {masked_text(connection, line)!a}")
        pattern = self.lists.removeprefix("!")
        found = [line for line in lines if re.fullmatch(pattern, line, re.IGNORECASE)]
        if self.lists and bool(found) == self.lists.startswith("!"):
            listed = ", ".join(ascii(masked_text(connection, line)) for line in found)
            raise CaseFailedError(f"EHLO lists {listed or f'nothing that matches {pattern!r}'}")

    def _check_challenge(self, connection: Connection, reply: ReceivedReply) -> None:
        try:
            challenge = b64decode(reply.text, validate=True).decode()
        except ValueError:
            raise CaseFailedError(f"expected a text in base64, got {reply}") from None
        match = re.fullmatch(self.decodes, challenge)
        if match is None:
            raise CaseFailedError(f"{self._expected()}, got {masked_text(connection, challenge)[:300]!a} in base64")
        connection.values |= {name: value.encode() for name, value in match.groupdict("").items()}

    def _expected(self) -> str:
        codes = self.codes.replace("|", " or ").replace(".", "x")
        return f"expected {codes}" + (f" ({self.meaning})" if self.meaning else "")


def exchange(line: bytes, codes: str, meaning: str = "") -> tuple[Send, Expect]:
    """Return the steps that send a command and expect one reply to it."""
    return Send(line + b"\r\n"), Expect(codes, meaning, to=verb(line))


EHLO = exchange(b"EHLO {name}", "250")


async def perform_steps(connection: Connection, steps: Iterable[Step]) -> None:
    """Perform steps one after the other."""
    for step in steps:
        await step.perform(connection)


def take_extensions(connection: Connection, reply: ReceivedReply) -> None:
    """Store the extensions of a reply to EHLO, and values that depend on their parameters."""
    connection.extensions = offered = keywords(reply)
    most = parse_size(offered.get("SIZE", ""))
    interval = parse_size(offered.get("FUTURERELEASE", "").partition(" ")[0])
    minimum = parse_size(offered.get("DELIVERBY", "").partition(",")[0])
    connection.values |= {
        "most": b"%d" % most,
        "over": b"%d" % (most + 1),
        "longest": b"%d" % interval,
        "longer": b"%d" % (interval + 1),
        "shorter": b"%d" % (minimum - 1),
        "class": offered.get("NO-SOLICITING", "").partition(",")[0].encode(),
    }


def masked_text(connection: Connection, text: str) -> str:
    """Return a text of the peer with masked secrets."""
    return connection.mask(text.encode()).decode(errors="replace")


def keywords(reply: ReceivedReply) -> dict[str, str]:
    """Return the extensions in a reply to EHLO: keywords in capitals, with their parameters."""
    found: dict[str, str] = {}
    for line in reply.text.split("\n")[1:]:
        keyword, _, parameters = line.strip().partition(" ")
        found[keyword.upper()] = f"{found.get(keyword.upper(), '')} {parameters}".strip()
    return found


def parse_limit(parameters: str, name: str) -> int:
    """Return a limit from the parameters of LIMITS, or 0 if it is absent, invalid, or more than a case can try."""
    match = re.search(rf"(?<!\S){name}=([1-9][0-9]{{0,5}})(?!\S)", parameters, re.IGNORECASE | re.ASCII)
    limit = int(match[1]) if match is not None else 0
    return limit if limit <= MAX_REPEATED else 0


def parse_size(text: str) -> int:
    """Return a number of octets, or 0 if it is invalid. It has at most 20 digits (RFC 1870 3)."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 20 else 0


@frozen
class ExpectLine:
    """Expect a line that matches a pattern and is not a reply: the server has become the client (RFC 2645)."""

    pattern: str
    meaning: str

    async def perform(self, connection: Connection) -> None:
        connection.expected = f"expected: {self.meaning}"
        line = await connection.read_line()
        if re.fullmatch(self.pattern, line.removesuffix(b"\r\n").decode(errors="replace"), re.IGNORECASE) is None:
            raise CaseFailedError(f"{connection.expected}; got {show(connection.mask(line))}")


@frozen
class SendTooMuch:
    """Send lines of a message until they exceed the SIZE that EHLO listed."""

    async def perform(self, connection: Connection) -> None:
        line = b"x" * 78 + b"\r\n"
        await connection.send(line, times=int(connection.values["over"]) // len(line) + 1)


@frozen
class ExpectReplies:
    """Expect that the codes of all replies until the connection is closed, separated by spaces, match a pattern.

    This needs no pauses, so it is exact: send QUIT last. With `within`, it is the replies of so many seconds.
    """

    codes: str
    meaning: str
    within: float = 0

    async def perform(self, connection: Connection) -> None:
        codes: list[str] = []
        connection.expected = f"expected: {self.meaning}"
        with trio.move_on_after(self.within or inf), suppress(ConnectionClosedError):
            while len(codes) < MAX_REPLIES:
                codes.append((await connection.read_reply()).code)
        received = " ".join(codes)
        if not re.fullmatch(self.codes, received):
            raise CaseFailedError(f"expected: {self.meaning}; got {received[:300] or 'no reply'}")


@frozen
class ExpectClose:
    """Expect that the server closes the connection, within so many seconds if that is not 0.

    With `after`, replies with these codes may come before it, or anything if it is `ANYTHING`.
    """

    after: str = ""
    within: float = 0

    async def perform(self, connection: Connection) -> None:
        connection.expected = "expected the end of the connection"
        with trio.move_on_after(self.within or inf) as scope:
            while not await connection.closes():
                if self.after == ANYTHING:
                    connection.discard_unread()
                    continue
                reply = await connection.read_reply()
                if not re.fullmatch(self.after, reply.code):
                    raise CaseFailedError(f"{connection.expected}, got {reply}")
        if scope.cancelled_caught:
            raise CaseFailedError(f"{connection.expected} within {self.within:g} s")


@frozen
class ExpectSilence:
    """Expect that nothing arrives for so many seconds and that the connection stays open, unless `or_close`."""

    seconds: float
    meaning: str
    or_close: bool = False

    async def perform(self, connection: Connection) -> None:
        with trio.move_on_after(self.seconds):
            closed = await connection.closes()
            if closed and self.or_close:
                return
            what = "the end of the connection" if closed else show(connection.mask(connection.unread))
            raise CaseFailedError(f"expected nothing ({self.meaning}), got {what}")


@frozen
class When:
    """Play steps if the last reply had one of these codes, and `otherwise` if not."""

    codes: str
    steps: tuple[Step, ...]
    otherwise: tuple[Step, ...] = ()

    async def perform(self, connection: Connection) -> None:
        last = connection.replies[-1].code if connection.replies else ""
        await perform_steps(connection, self.steps if re.fullmatch(self.codes, last) else self.otherwise)


@frozen
class RepeatLimit:
    """Perform steps as often as a limit of LIMITS in the reply to EHLO allows (RFC 9422).

    The value ``{count}`` is the number of the repetition.
    """

    limit: str
    steps: tuple[Step, ...]

    async def perform(self, connection: Connection) -> None:
        for count in range(parse_limit(connection.extensions.get("LIMITS", ""), self.limit)):
            connection.values["count"] = b"%d" % (count + 1)
            await perform_steps(connection, self.steps)


@frozen
class BeginTls:
    """Perform the TLS handshake. With `may_fail`, the server may abort it."""

    may_fail: bool = False

    async def perform(self, connection: Connection) -> None:
        try:
            await connection.start_tls()
        except CaseFailedError:
            if not self.may_fail:
                raise


@frozen
class SendEof:
    """Send the end of file. Replies can still be received."""

    async def perform(self, connection: Connection) -> None:
        connection.add_entry("-", b"end of file from the client")
        if isinstance(connection.stream, trio.abc.HalfCloseableStream):
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await connection.stream.send_eof()
