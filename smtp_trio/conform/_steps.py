"""The steps that cases against a server are made of."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from math import inf

import trio
from attrs import evolve, field, frozen
from attrs.validators import matches_re

from ._case import Step
from ._talk import Hungup, Reply, Talk, WrongAnswer, show

CODES = r"[0-9.|]+"
ANYTHING = "ANYTHING"
MOST = 100_000
"""Replies, of which one waits for no more."""


def verb(line: bytes) -> str:
    """The word that a command begins with, in capitals."""
    return re.split(rb"[ \r\n]", line, maxsplit=1)[0].decode("ascii", "replace").upper()


@frozen
class Send:
    """Octets, as they are: nothing is waited for. `chunk`: in segments of that size; `times`: again and again."""

    data: bytes
    chunk: int = 0
    times: int = 1

    async def play(self, talk: Talk) -> None:
        await talk.send(self.data, chunk=self.chunk, times=self.times)


@frozen
class Expect:
    """One reply, with one of these codes: ``250|251``, ``5..``.

    `text`, `lists` and `each` are patterns for the text. With ``!`` in front, `text` and `lists` must not match. The extensions
    of the connection are taken from a 250 reply to EHLO.
    """

    codes: str = field(validator=matches_re(CODES))
    meaning: str = ""
    """What a correct reply means; read after "was due:"."""
    text: str = ""
    """Must be found in the text (all lines, case ignored)."""
    lists: str = ""
    """One line after the first must match (case ignored)."""
    each: str = ""
    """Every line after the first must match."""
    to: str = ""
    """The verb of the command that it answers, where that is known."""
    or_close: bool = False
    """Whether the server may also close the connection, with or without a 421 reply."""

    def answering(self, verb: str) -> Expect:
        """Return this expectation of a reply to a command."""
        return evolve(self, to=verb)

    async def play(self, talk: Talk) -> None:
        talk.due = self._due()
        try:
            reply = await talk.reply(self.to)
        except Hungup:
            if self.or_close:
                return
            raise
        if not re.fullmatch(self.codes, reply.code) and not (self.or_close and reply.code == "421"):
            raise WrongAnswer(f"{self._due()}, and {reply.code} came: {reply}")
        found = re.search(self.text.removeprefix("!"), reply.text, re.IGNORECASE | re.MULTILINE)
        if (found is None) != self.text.startswith("!"):
            raise WrongAnswer(f"{self._due()}, and its text is: {reply}")
        if self.to == "EHLO" and reply.code == "250":
            learn(talk, reply)
        self._check_lines(talk, reply.text.split("\n")[1:])

    def _check_lines(self, talk: Talk, lines: list[str]) -> None:
        for line in lines if self.each else ():
            if not re.fullmatch(self.each, line):
                raise WrongAnswer(f"EHLO lists {hidden(talk, line)!a}")
        pattern = self.lists.removeprefix("!")
        found = [line for line in lines if re.fullmatch(pattern, line, re.IGNORECASE)]
        if self.lists and bool(found) == self.lists.startswith("!"):
            listed = ", ".join(ascii(hidden(talk, line)) for line in found)
            raise WrongAnswer(f"EHLO lists {listed or f'nothing like {pattern!r}'}")

    def _due(self) -> str:
        codes = self.codes.replace("|", " or ").replace(".", "x")
        return f"{codes} was due" + (f" ({self.meaning})" if self.meaning else "")


def ask(line: bytes, codes: str, meaning: str = "") -> tuple[Send, Expect]:
    """Return the steps that send a command and expect one reply to it."""
    return Send(line + b"\r\n"), Expect(codes, meaning, to=verb(line))


async def play(talk: Talk, steps: Iterable[Step]) -> None:
    """Play steps one after the other."""
    for step in steps:
        await step.play(talk)


EHLO = ask(b"EHLO {name}", "250")


def learn(talk: Talk, reply: Reply) -> None:
    """Take the extensions from a reply to EHLO."""
    talk.extensions = keywords(reply)
    most = octets(talk.extensions.get("SIZE", ""))
    talk.values |= {"most": b"%d" % most, "over": b"%d" % (most + 1)}


def hidden(talk: Talk, text: str) -> str:
    """A text of the server's without the secrets."""
    return talk.hide(text.encode()).decode(errors="replace")


def keywords(reply: Reply) -> dict[str, str]:
    """What an answer to EHLO lists: keywords in capitals, with their parameters."""
    found: dict[str, str] = {}
    for line in reply.text.split("\n")[1:]:
        keyword, _, parameters = line.strip().partition(" ")
        found[keyword.upper()] = f"{found.get(keyword.upper(), '')} {parameters}".strip()
    return found


def octets(text: str) -> int:
    """A number of octets; 0 for what is none. One with more than 20 digits is none (RFC 1870 3)."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 20 else 0


@frozen
class SendTooMuch:
    """Lines of a message, until it is larger than the SIZE that EHLO has listed."""

    async def play(self, talk: Talk) -> None:
        line = b"x" * 78 + b"\r\n"
        await talk.send(line, times=int(talk.values["over"]) // len(line) + 1)


@frozen
class ExpectAll:
    """All that comes until the server closes: the codes, with spaces between, must be like this pattern.

    It needs no pauses, so it is exact: send QUIT last. Where a server may take its time, it is what comes in `within` seconds.
    """

    codes: str
    meaning: str
    within: float = 0

    async def play(self, talk: Talk) -> None:
        codes: list[str] = []
        talk.due = self.meaning
        with trio.move_on_after(self.within or inf), suppress(Hungup):
            while len(codes) < MOST:
                codes.append((await talk.reply()).code)
        told = " ".join(codes)
        if not re.fullmatch(self.codes, told):
            raise WrongAnswer(f"{self.meaning}, but all that came is: {told[:300] or 'nothing'}")


@frozen
class ExpectClose:
    """The server hangs up, in so many seconds if not 0. With `after`, replies with these codes may come before, or `ANYTHING`."""

    after: str = ""
    within: float = 0

    async def play(self, talk: Talk) -> None:
        talk.due = "the connection was to be closed"
        with trio.move_on_after(self.within or inf) as scope:
            while not await talk.ended():
                if self.after == ANYTHING:
                    talk.forget()
                    continue
                reply = await talk.reply()
                if not re.fullmatch(self.after, reply.code):
                    raise WrongAnswer(f"{talk.due}, and this came: {reply}")
        if scope.cancelled_caught:
            raise WrongAnswer(f"{talk.due}, and was not for {self.within:g} s")


@frozen
class ExpectSilence:
    """Nothing may come for so many seconds, and the connection stays (unless it may be closed as well)."""

    seconds: float
    meaning: str
    or_close: bool = False

    async def play(self, talk: Talk) -> None:
        with trio.move_on_after(self.seconds):
            ended = await talk.ended()
            if ended and self.or_close:
                return
            raise WrongAnswer(
                f"{self.meaning}, but " + ("they closed" if ended else f"this came: {show(talk.hide(talk.unread))}")
            )


@frozen
class When:
    """Steps that are played only if the last reply had one of these codes; `otherwise` are played if not."""

    codes: str
    steps: tuple[Step, ...]
    otherwise: tuple[Step, ...] = ()

    async def play(self, talk: Talk) -> None:
        last = talk.replies[-1].code if talk.replies else ""
        for step in self.steps if re.fullmatch(self.codes, last) else self.otherwise:
            await step.play(talk)


@frozen
class StartTls:
    """The handshake of TLS. With `may_fail`, the server may break it off as well."""

    may_fail: bool = False

    async def play(self, talk: Talk) -> None:
        try:
            await talk.start_tls()
        except WrongAnswer:
            if not self.may_fail:
                raise


@frozen
class SendEof:
    """The end of what the client has to say; the server can still be heard."""

    async def play(self, talk: Talk) -> None:
        talk.note("-", b"end of file from the client")
        if isinstance(talk.stream, trio.abc.HalfCloseableStream):
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await talk.stream.send_eof()
