"""Expectations: what a client must do, or must not do, in a case."""

from __future__ import annotations

import re
from collections.abc import Iterator

from attrs import frozen

from ._client_case import ClientRun, ClientSession, ReceivedCommand
from ._connection import show


def after(session: ClientSession, event: str) -> Iterator[ReceivedCommand]:
    """Yield the commands that were sent after the reply to this event, without those of the same group."""
    seen = event == "GREETING"
    for command in session.commands:
        if seen and not command.early:
            yield command
        seen = seen or command.verb == event


@frozen
class ReportsSuccess:
    """The message was accepted, and the client reports that."""

    def violation(self, run: ClientRun) -> str:
        if run.exit.code:
            return f"the client ended with {run.exit.code}: it reports a failure"
        if not any(message.code.startswith("2") for message in run.messages):
            return "no message was sent completely"
        return ""


@frozen
class ReportsFailure:
    """The client does not report that the message was accepted."""

    def violation(self, run: ClientRun) -> str:
        return "the client ended with 0: it reports that the message was sent" if run.exit.code == 0 else ""


@frozen
class Sends:
    """These verbs are sent in this order in one connection. ``EHLO|HELO`` stands for either."""

    verbs: tuple[str, ...]

    def violation(self, run: ClientRun) -> str:
        for session in run.sessions:
            rest = iter(session.commands)
            if all(any(command.verb in verb.split("|") for command in rest) for verb in self.verbs):
                return ""
        return f"expected {', then '.join(self.verbs).replace('|', ' or ')}"


@frozen
class NeverSends:
    """None of these verbs is sent, or, with `cleartext`, none outside TLS."""

    verbs: tuple[str, ...]
    cleartext: bool = False

    def violation(self, run: ClientRun) -> str:
        for command in run.commands:
            if command.verb in self.verbs and not (self.cleartext and command.secure):
                return f"sent{' outside TLS' if self.cleartext else ''}: {show(command.line)}"
        return ""


@frozen
class OnlyAfter:
    """No other commands are sent after the reply to an event. Commands of the same group do not count."""

    event: str
    verbs: tuple[str, ...]

    def violation(self, run: ClientRun) -> str:
        for session in run.sessions:
            for command in after(session, self.event):
                if command.verb not in self.verbs:
                    return f"sent after the reply to {self.event}: {show(command.line)}"
        return ""


@frozen
class WaitsForReply:
    """Nothing is sent between this event and the reply to it. ``*``: every event; ``DATA``: the message as well."""

    event: str

    def violation(self, run: ClientRun) -> str:
        for session in run.sessions:
            before = "GREETING"
            for command in session.commands:
                if command.early and self.event in (before, "*"):
                    return f"sent before the reply to {before}: {show(command.line)}"
                before = command.verb
            for message in session.messages:
                if message.early and self.event in ("DATA", "*"):
                    return f"sent before the reply to DATA: {show(message.data)}"
        return ""


@frozen
class EndsWithQuit:
    """QUIT is sent last in every connection."""

    def violation(self, run: ClientRun) -> str:
        for session in run.sessions:
            if not session.quit:
                return "the client closed the connection without QUIT"
            if session.after_quit:
                return f"sent after QUIT: {show(session.after_quit)}"
        return ""


@frozen
class NoMessageData:
    """No message is sent, or an empty one (which RFC 2920 3.1 requires after an unexpected 354)."""

    def violation(self, run: ClientRun) -> str:
        return next((f"sent a message: {show(message.data)}" for message in run.messages if message.data), "")


@frozen
class AtMostOneMessage:
    """At most one message is sent completely."""

    def violation(self, run: ClientRun) -> str:
        complete = [message for message in run.messages if message.complete and message.data]
        return f"sent {len(complete)} complete messages" if len(complete) > 1 else ""


@frozen
class MessageUnchanged:
    """The body that arrives is the one that was to be sent. Clients may change the header section."""

    trailing_lines: bool = False
    """True if blank lines at the end are compared as well."""
    or_failure: bool = False
    """True if the client may also report that it does not send the message."""

    def violation(self, run: ClientRun) -> str:
        expected = body(run.message)
        sent = [body(message.text) for message in run.messages if message.code.startswith("2")]
        if not self.trailing_lines:
            expected, sent = expected.rstrip(), [text.rstrip() for text in sent]
        if not sent:
            return "" if self.or_failure and run.exit.code != 0 else "no message was sent completely"
        return "" if expected in sent else f"sent another text: {show(difference(sent[0], expected))}"


def body(message: bytes) -> bytes:
    """Return the body of a message, with an end to its last line."""
    complete = message + b"\r\n" * (not message.endswith(b"\r\n"))
    return complete.partition(b"\r\n\r\n")[2]


def difference(sent: bytes, expected: bytes) -> bytes:
    """Return what was sent from the first difference on, with some context before it."""
    pairs = enumerate(zip(sent, expected, strict=False))
    at = next((index for index, (left, right) in pairs if left != right), min(len(sent), len(expected)))
    start = sent.rfind(b"\n", 0, max(0, at - 20)) + 1
    return (b"... " if start else b"") + sent[start:]


@frozen
class NoCommandMatching:
    """This pattern occurs in no command; case is ignored."""

    pattern: bytes

    def violation(self, run: ClientRun) -> str:
        found = (command.line for command in run.commands if re.search(self.pattern, command.line, re.IGNORECASE))
        return next((f"sent: {show(line)}" for line in found), "")


@frozen
class CommandMatching:
    """This pattern occurs in a command; case is ignored."""

    pattern: bytes
    meaning: str

    def violation(self, run: ClientRun) -> str:
        if any(re.search(self.pattern, command.line, re.IGNORECASE) for command in run.commands):
            return ""
        return f"expected {self.meaning}"


@frozen
class NoDataMatching:
    """This pattern occurs in no message."""

    pattern: bytes
    meaning: str

    def violation(self, run: ClientRun) -> str:
        for message in run.messages:
            if (found := re.search(self.pattern, message.data)) is not None:
                return f"{self.meaning}: {show(found[0])}"
        return ""


@frozen
class AtMostOne:
    """This verb is sent at most once in a connection."""

    verb: str

    def violation(self, run: ClientRun) -> str:
        twice = any(len(session.sent(self.verb)) > 1 for session in run.sessions)
        return f"sent {self.verb} a second time" if twice else ""


@frozen
class MailMatchingFor:
    """A message in which `data` occurs has a MAIL command in which `mail` occurs."""

    mail: bytes
    data: bytes

    def violation(self, run: ClientRun) -> str:
        for message in run.messages:
            if re.search(self.data, message.data) and not re.search(self.mail, message.mail, re.IGNORECASE):
                return f"the message needs a MAIL that matches {show(self.mail)}, got {show(message.mail)}"
        return ""
