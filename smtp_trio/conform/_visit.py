"""The server of a scene, for one connection. It does what every server does, but for what the scene says."""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from contextlib import suppress

import trio
from attrs import define, field, frozen

from ._moves import Pause, Shake
from ._scene import Command, Message, On, Scene, Visit
from ._steps import Send, verb
from ._talk import Hungup, WrongAnswer

NAME = "mx.test"
USER, PASSWORD = "conform", "conform-password"
AUTH = "AUTH PLAIN LOGIN"
GREETING = b"220 mx.test ESMTP\r\n"
LINGER = 2.0
"""Seconds for the client to close after QUIT."""
MOST = 1000
"""Commands, after which a client is out of its mind."""


@frozen
class Setting:
    """What the client was told, for all scenes."""

    require_tls: bool = False
    login: bool = False


@define(eq=False)
class Performance:
    """Fills in a `Visit`."""

    visit: Visit
    setting: Setting
    early: bool = False
    mail: bytes | None = None
    recipients: int = 0
    chunks: Message | None = None
    count: dict[str, int] = field(factory=dict)

    @property
    def scene(self) -> Scene:
        return self.visit.scene

    async def run(self) -> None:
        """Serve, until either side hangs up."""
        try:
            await self.answer("GREETING", Send(GREETING))
            while len(self.visit.commands) < MOST:
                await self.command(await self.visit.talk.line())
            self.visit.problem = f"more than {MOST:,} commands"
        except Hungup:
            pass
        except WrongAnswer as wrong:
            self.visit.problem = str(wrong)
        finally:
            await trio.aclose_forcefully(self.visit.talk.stream)

    async def command(self, line: bytes) -> None:
        """A line from the client."""
        talk = self.visit.talk
        command = Command(verb(line), line, self.early, talk.secure)
        self.visit.commands.append(command)
        if command.verb == "AUTH":
            await self.auth(command)
        elif command.verb == "BDAT":
            await self.bdat(command)
        else:
            steps = self.usual(command)
            command.answer = await self.answer(command.verb, *steps)
            await self.then(command)

    async def answer(self, event: str, *usual: Send | Shake) -> str:
        """Do what the scene wants, or what is usual; gives the code."""
        talk = self.visit.talk
        self.count[event] = number = self.count.get(event, 0) + 1
        if self.scene.hold:
            with trio.move_on_after(self.scene.hold):
                await talk.ended()
        self.early = bool(talk.unread)
        act = On(event, *usual)
        for on in self.scene.acts:
            if on.event == event and on.nth in (0, number) and on.secure in (None, talk.secure):
                self.visit.played.append(on)
                act = on
                break
        if event == "STARTTLS":  # RFC 3207 4.2: what comes in clear from here on counts for nothing
            talk.forget()
        if not act.steps:  # it was answered before
            self.early = False
        silent = True
        for step in act.steps:
            await step.play(talk)
            silent = silent and isinstance(step, Pause)
            if silent:
                self.early = bool(talk.unread)
        return act.code

    # --- what is usual ------------------------------------------------------------------------------------------------

    def usual(self, command: Command) -> tuple[Send | Shake, ...]:
        """The answer of every server, as far as it is known before its data."""
        if command.verb == "STARTTLS":
            if self.visit.offered("STARTTLS") and not command.secure:
                return Send(b"220 2.0.0 Go ahead\r\n"), Shake()
            return (Send(b"503 5.5.1 Not now\r\n"),)
        replies = {
            "EHLO": self.ehlo(command),
            "HELO": b"250 mx.test\r\n",
            "MAIL": b"250 2.1.0 Ok\r\n" if self.mail is None else b"503 5.5.1 There is a sender\r\n",
            "RCPT": b"250 2.1.5 Ok\r\n" if self.mail is not None else b"503 5.5.1 Who sends it?\r\n",
            "DATA": b"354 Go ahead\r\n" if self.recipients else b"554 5.5.1 No valid recipients\r\n",
            "RSET": b"250 2.0.0 Ok\r\n",
            "NOOP": b"250 2.0.0 Ok\r\n",
            "VRFY": b"252 2.5.0 Perhaps\r\n",
            "QUIT": b"221 2.0.0 Bye\r\n",
        }
        return (Send(replies.get(command.verb, b"500 5.5.1 What?\r\n")),)

    def ehlo(self, command: Command) -> bytes:
        """What is listed, here and now."""
        scene, setting = self.scene, self.setting
        if command.verb != "EHLO":
            return b""
        offers = list(scene.offers)
        if command.secure:
            usual = [offer for offer in scene.offers if offer != "STARTTLS"]
            offers = usual if scene.inside is None else list(scene.inside)
        if not scene.bare:
            if setting.require_tls and not command.secure and "STARTTLS" not in offers:
                offers.append("STARTTLS")
            if setting.login and (command.secure or not setting.require_tls):
                offers += [AUTH] * (not any(offer.startswith("AUTH") for offer in offers))
        self.visit.offers = offers
        return listing(offers)

    async def then(self, command: Command) -> None:
        """What follows from it."""
        done = command.answer[:1] == "2"
        match command.verb:
            case "EHLO" | "HELO" | "RSET" | "STARTTLS" if done:
                self.mail, self.recipients, self.chunks = None, 0, None
            case "MAIL" if done:
                self.mail = command.line
            case "RCPT" if done:
                self.recipients += 1
            case "DATA" if command.answer[:1] == "3":
                await self.body()
            case "QUIT" if done:
                await self.goodbye()

    async def goodbye(self) -> None:
        """The client closes, or we do."""
        talk = self.visit.talk
        self.visit.quit = True
        with trio.move_on_after(LINGER), suppress(WrongAnswer):
            while not await talk.ended():
                self.visit.after += talk.unread[:1000]
                talk.forget()
        await talk.hang_up()
        raise Hungup

    # --- messages -----------------------------------------------------------------------------------------------------

    async def body(self) -> None:
        """All up to the dot on a line of its own (RFC 5321 4.1.1.4)."""
        talk = self.visit.talk
        message = Message(self.mail or b"", early=self.early, secure=talk.secure)
        self.visit.messages.append(message)
        lines: list[bytes] = []
        try:
            while True:
                line = await talk.line()
                if line == b".\r\n" and (not lines or lines[-1].endswith(b"\r\n")):
                    break
                lines.append(line)
            message.whole = True
        finally:
            message.data = b"".join(lines)
        self.mail, self.recipients = None, 0
        message.answer = await self.answer("BODY", Send(b"250 2.0.0 Taken\r\n"))

    async def bdat(self, command: Command) -> None:
        """A chunk (RFC 3030 2)."""
        talk = self.visit.talk
        match = re.fullmatch(rb"BDAT ([0-9]{1,9})( LAST)? *\r\n", command.line, re.IGNORECASE)
        if match is None:
            command.answer = await self.answer("BDAT", Send(b"501 5.5.4 How much?\r\n"))
            return
        if self.chunks is None:
            self.chunks = Message(self.mail or b"", chunked=True, secure=talk.secure)
            self.visit.messages.append(self.chunks)
        message = self.chunks
        message.data += await talk.octets(int(match[1]))
        good = self.recipients > 0
        command.answer = await self.answer("BDAT", Send(b"250 2.0.0 Ok\r\n" if good else b"503 5.5.1 For whom?\r\n"))
        if match[2]:
            message.whole, message.answer = True, command.answer
            self.mail, self.recipients, self.chunks = None, 0, None

    # --- AUTH ---------------------------------------------------------------------------------------------------------

    async def auth(self, command: Command) -> None:
        """PLAIN and LOGIN (RFC 4954 4, RFC 4616)."""
        words = command.line.split()[1:]
        mechanism = words[0].upper() if words else b""
        given = words[1:2]
        command.answer = await self.answer("AUTH", Send(self.verdict(mechanism, given)))
        while command.answer[:1] == "3" and len(self.visit.commands) < MOST:
            line = await self.visit.talk.line()
            response = Command("RESPONSE", line, self.early, self.visit.talk.secure)
            self.visit.commands.append(response)
            given = [*given, line.strip()]
            command.answer = response.answer = await self.answer("RESPONSE", Send(self.verdict(mechanism, given)))

    def verdict(self, mechanism: bytes, given: list[bytes]) -> bytes:
        """The next reply of the exchange."""
        if not self.visit.offered("AUTH"):
            return b"502 5.5.1 No\r\n"
        questions = {b"PLAIN": [b""], b"LOGIN": [b"Username:", b"Password:"]}.get(mechanism)
        if questions is None:
            return b"504 5.5.4 Another one, please\r\n"
        if b"*" in given:
            return b"501 5.0.0 Cancelled\r\n"
        if len(given) < len(questions):
            return b"334 " + b64encode(questions[len(given)]) + b"\r\n"
        try:
            words = [b64decode(each, validate=True) for each in given]
        except Base64Error:
            return b"501 5.5.2 That is no base64\r\n"
        right = words[0].split(b"\0")[1:] if mechanism == b"PLAIN" else words
        if right == [USER.encode(), PASSWORD.encode()]:
            return b"235 2.7.0 Welcome\r\n"
        return b"535 5.7.8 Wrong\r\n"


def listing(offers: list[str]) -> bytes:
    """An answer to EHLO."""
    lines = [f"{NAME} is here", *offers]
    return b"".join(b"250%c%s\r\n" % (b" -"[at < len(lines)], line.encode()) for at, line in enumerate(lines, 1))
