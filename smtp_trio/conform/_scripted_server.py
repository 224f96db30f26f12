"""The server of a client case, for one connection: an ordinary server, except for the reactions of the case."""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from contextlib import suppress

import trio
from attrs import define, field

from ._client_case import ClientCase, ClientSession, Reaction, ReceivedCommand, ReceivedMessage
from ._connection import CaseFailedError, ConnectionClosedError
from ._server_actions import AcceptTls, Pause
from ._steps import Send, verb

USER, PASSWORD = "conform", "conform-password"
AUTH = "AUTH PLAIN LOGIN"
GREETING = b"220 mx.test ESMTP\r\n"
CLOSE_TIMEOUT = 2.0
"""Seconds for the client to close the connection after QUIT."""
MAX_COMMANDS = 1000
"""Commands of one connection."""


@define(eq=False)
class ScriptedServer:
    """Serves one connection and fills in its `ClientSession`."""

    session: ClientSession
    require_tls: bool = False
    login: bool = False
    early: bool = False
    """True if octets of the next command arrived before the reply to the previous one."""
    mail: bytes | None = None
    recipients: int = 0
    chunks: ReceivedMessage | None = None
    count: dict[str, int] = field(factory=dict)

    @property
    def case(self) -> ClientCase:
        """The case that is tried."""
        return self.session.case

    async def run(self) -> None:
        """Serve until either side closes the connection."""
        try:
            await self.react("GREETING", Send(GREETING))
            while len(self.session.commands) < MAX_COMMANDS:
                await self.handle(await self.session.connection.read_line())
            self.session.problem = f"received more than {MAX_COMMANDS:,} commands"
        except ConnectionClosedError:
            pass
        except CaseFailedError as error:
            self.session.problem = str(error)
        finally:
            await trio.aclose_forcefully(self.session.connection.stream)

    async def handle(self, line: bytes) -> None:
        """Handle a line of the client."""
        command = ReceivedCommand(verb(line), line, self.early, self.session.connection.secure)
        self.session.commands.append(command)
        if command.verb == "AUTH":
            await self.authenticate(command)
        elif command.verb == "BDAT":
            await self.receive_chunk(command)
        else:
            command.code = await self.react(command.verb, *self.usual_steps(command))
            await self.update_state(command)

    async def react(self, event: str, *usual: Send | AcceptTls) -> str:
        """Perform the reaction of the case, or the usual steps if it has none. Return the code of the reply."""
        connection = self.session.connection
        self.count[event] = number = self.count.get(event, 0) + 1
        if self.case.reply_delay:
            with trio.move_on_after(self.case.reply_delay):
                await connection.closes()
        self.early = bool(connection.unread)
        reaction = Reaction(event=event, steps=usual)
        for each in self.case.reactions:
            if each.event == event and each.nth in (0, number) and each.secure in (None, connection.secure):
                self.session.performed.append(each)
                reaction = each
                break
        if event == "STARTTLS":  # RFC 3207 4.2: cleartext octets that arrive from here on have no effect
            connection.discard_unread()
        if not reaction.steps:  # the reply was sent before
            self.early = False
        # Octets that arrive during pauses before the reply were not sent in answer to it.
        replied = False
        for step in reaction.steps:
            await step.perform(connection)
            replied = replied or not isinstance(step, Pause)
            if not replied:
                self.early = bool(connection.unread)
        return reaction.code

    # --- the usual replies --------------------------------------------------------------------------------------------

    def usual_steps(self, command: ReceivedCommand) -> tuple[Send | AcceptTls, ...]:
        """Return what an ordinary server does."""
        if command.verb == "STARTTLS":
            if self.session.offered("STARTTLS") and not command.secure:
                return Send(b"220 2.0.0 Go ahead\r\n"), AcceptTls()
            return (Send(b"503 5.5.1 STARTTLS is not possible now\r\n"),)
        replies = {
            "EHLO": self.ehlo_reply(command),
            "HELO": b"250 mx.test\r\n",
            "MAIL": b"250 2.1.0 Ok\r\n" if self.mail is None else b"503 5.5.1 Nested MAIL command\r\n",
            "RCPT": b"250 2.1.5 Ok\r\n" if self.mail is not None else b"503 5.5.1 Send MAIL first\r\n",
            "DATA": b"354 Go ahead\r\n" if self.recipients else b"554 5.5.1 No valid recipients\r\n",
            "RSET": b"250 2.0.0 Ok\r\n",
            "NOOP": b"250 2.0.0 Ok\r\n",
            "VRFY": b"252 2.5.0 Cannot verify\r\n",
            "QUIT": b"221 2.0.0 Bye\r\n",
        }
        return (Send(replies.get(command.verb, b"500 5.5.1 Command not recognized\r\n")),)

    def ehlo_reply(self, command: ReceivedCommand) -> bytes:
        """Return the reply to EHLO, and store what it offers."""
        case = self.case
        if command.verb != "EHLO":
            return b""
        offers = list(case.offers)
        if command.secure:
            without_starttls = [offer for offer in case.offers if offer != "STARTTLS"]
            offers = without_starttls if case.tls_offers is None else list(case.tls_offers)
        if not case.exact_offers:
            if self.require_tls and not command.secure and "STARTTLS" not in offers:
                offers.append("STARTTLS")
            if self.login and (command.secure or not self.require_tls):
                offers += [AUTH] * (not any(offer.startswith("AUTH") for offer in offers))
        self.session.offers = offers
        lines = ["mx.test greets you", *offers]
        return b"".join(b"250%c%s\r\n" % (b" -"[at < len(lines)], line.encode()) for at, line in enumerate(lines, 1))

    async def update_state(self, command: ReceivedCommand) -> None:
        """Change the state of the session as the reply to a command demands."""
        accepted = command.code[:1] == "2"
        match command.verb:
            case "EHLO" | "HELO" | "RSET" | "STARTTLS" if accepted:
                self.mail, self.recipients, self.chunks = None, 0, None
            case "MAIL" if accepted:
                self.mail = command.line
            case "RCPT" if accepted:
                self.recipients += 1
            case "DATA" if command.code[:1] == "3":
                await self.receive_message()
            case "QUIT" if accepted:
                await self.end()

    async def end(self) -> None:
        """Wait for the client to close the connection, or close it."""
        connection = self.session.connection
        self.session.quit = True
        with trio.move_on_after(CLOSE_TIMEOUT), suppress(CaseFailedError):
            while not await connection.closes():
                self.session.after_quit += connection.unread[:1000]
                connection.discard_unread()
        await connection.close()
        raise ConnectionClosedError

    # --- messages -----------------------------------------------------------------------------------------------------

    async def receive_message(self) -> None:
        """Receive everything up to a line of a single dot (RFC 5321 4.1.1.4)."""
        connection = self.session.connection
        message = ReceivedMessage(self.mail or b"", early=self.early, secure=connection.secure)
        self.session.messages.append(message)
        lines: list[bytes] = []
        try:
            while True:
                line = await connection.read_line()
                if line == b".\r\n" and (not lines or lines[-1].endswith(b"\r\n")):
                    break
                lines.append(line)
            message.complete = True
        finally:
            message.data = b"".join(lines)
        self.mail, self.recipients = None, 0
        message.code = await self.react("BODY", Send(b"250 2.0.0 Taken\r\n"))

    async def receive_chunk(self, command: ReceivedCommand) -> None:
        """Receive a chunk (RFC 3030 2)."""
        connection = self.session.connection
        match = re.fullmatch(rb"BDAT ([0-9]{1,9})( LAST)? *\r\n", command.line, re.IGNORECASE)
        if match is None:
            command.code = await self.react("BDAT", Send(b"501 5.5.4 Invalid chunk size\r\n"))
            return
        if self.chunks is None:
            self.chunks = ReceivedMessage(self.mail or b"", chunked=True, secure=connection.secure)
            self.session.messages.append(self.chunks)
        message = self.chunks
        message.data += await connection.read_octets(int(match[1]))
        reply = b"250 2.0.0 Ok\r\n" if self.recipients else b"503 5.5.1 No valid recipients\r\n"
        command.code = await self.react("BDAT", Send(reply))
        if match[2]:
            message.complete, message.code = True, command.code
            self.mail, self.recipients, self.chunks = None, 0, None

    # --- AUTH ---------------------------------------------------------------------------------------------------------

    async def authenticate(self, command: ReceivedCommand) -> None:
        """Handle AUTH PLAIN and AUTH LOGIN (RFC 4954 4, RFC 4616)."""
        connection = self.session.connection
        words = command.line.split()[1:]
        mechanism = words[0].upper() if words else b""
        responses = words[1:2]
        command.code = await self.react("AUTH", Send(self.auth_reply(mechanism, responses)))
        while command.code[:1] == "3" and len(self.session.commands) < MAX_COMMANDS:
            line = await connection.read_line()
            response = ReceivedCommand("RESPONSE", line, self.early, connection.secure)
            self.session.commands.append(response)
            responses = [*responses, line.strip()]
            command.code = response.code = await self.react("RESPONSE", Send(self.auth_reply(mechanism, responses)))

    def auth_reply(self, mechanism: bytes, responses: list[bytes]) -> bytes:
        """Return the next reply of the exchange."""
        if not self.session.offered("AUTH"):
            return b"502 5.5.1 AUTH is not offered\r\n"
        challenges = {b"PLAIN": [b""], b"LOGIN": [b"Username:", b"Password:"]}.get(mechanism)
        if challenges is None:
            return b"504 5.5.4 Unknown mechanism\r\n"
        if b"*" in responses:
            return b"501 5.0.0 Cancelled\r\n"
        if len(responses) < len(challenges):
            return b"334 " + b64encode(challenges[len(responses)]) + b"\r\n"
        try:
            decoded = [b64decode(each, validate=True) for each in responses]
        except Base64Error:
            return b"501 5.5.2 Invalid base64\r\n"
        credentials = decoded[0].split(b"\0")[1:] if mechanism == b"PLAIN" else decoded
        if credentials == [USER.encode(), PASSWORD.encode()]:
            return b"235 2.7.0 Authentication succeeded\r\n"
        return b"535 5.7.8 Authentication failed\r\n"
