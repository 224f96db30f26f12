"""What a client must have done, or must not have done."""

from __future__ import annotations

import re
from collections.abc import Iterator

from attrs import frozen

from ._scene import Command, Heard, Visit
from ._talk import show

GIVES_UP = ("RSET", "NOOP", "QUIT")
"""What may follow where there is nothing more to be done."""


def after(visit: Visit, event: str) -> Iterator[Command]:
    """The commands that were said after this one was answered, and not together with it."""
    seen = event == "GREETING"
    for command in visit.commands:
        if seen and not command.early:
            yield command
        seen = seen or command.verb == event


@frozen
class Succeeds:
    """The message was taken, and the client says so."""

    def wrong(self, heard: Heard) -> str:
        if heard.ending.code:
            return f"the client ended with {heard.ending.code}: it says that it could not send"
        if not any(message.answer.startswith("2") for message in heard.messages):
            return "no message was sent to its end"
        return ""


@frozen
class Fails:
    """The client does not say that the message was taken."""

    def wrong(self, heard: Heard) -> str:
        return "the client ended with 0: it says that the message was sent" if heard.ending.code == 0 else ""


@frozen(init=False)
class Says:
    """These verbs, in this order, in one connection. A verb may be several, with ``|`` between."""

    verbs: tuple[str, ...]

    def __init__(self, *verbs: str) -> None:
        self.__attrs_init__(verbs)

    def wrong(self, heard: Heard) -> str:
        for visit in heard.visits:
            rest = iter(visit.commands)
            if all(any(command.verb in verb.split("|") for command in rest) for verb in self.verbs):
                return ""
        return f"{', then '.join(self.verbs).replace('|', ' or ')} was due, and was not said"


@frozen(init=False)
class NeverSays:
    """None of these verbs; with `clear`, not outside TLS."""

    verbs: tuple[str, ...]
    clear: bool

    def __init__(self, *verbs: str, clear: bool = False) -> None:
        self.__attrs_init__(verbs, clear)

    def wrong(self, heard: Heard) -> str:
        for command in heard.commands:
            if command.verb in self.verbs and not (self.clear and command.secure):
                return f"this was said{' in clear' if self.clear else ''}: {show(command.line)}"
        return ""


@frozen
class Then:
    """After this nothing else is said in that connection: what was sent together with it is no matter."""

    event: str
    allowed: tuple[str, ...] = GIVES_UP

    def wrong(self, heard: Heard) -> str:
        for visit in heard.visits:
            for command in after(visit, self.event):
                if command.verb not in self.allowed:
                    return f"this was said after {self.event} was answered: {show(command.line)}"
        return ""


@frozen
class Waits:
    """What follows this (``*``: any command, ``DATA``: the message as well) is not sent before it was answered."""

    event: str

    def wrong(self, heard: Heard) -> str:
        for visit in heard.visits:
            before = "GREETING"
            for command in visit.commands:
                if command.early and self.event in (before, "*"):
                    return f"this was sent before {before} was answered: {show(command.line)}"
                before = command.verb
            for message in visit.messages:
                if message.early and self.event in ("DATA", "*"):
                    return f"this was sent before DATA was answered: {show(message.data)}"
        return ""


@frozen
class Quits:
    """QUIT is the last thing that is said, in every connection; what follows it is nothing."""

    def wrong(self, heard: Heard) -> str:
        for visit in heard.visits:
            if not visit.quit:
                return "the client has closed without QUIT"
            if visit.after:
                return f"this was said after QUIT: {show(visit.after)}"
        return ""


@frozen
class NoText:
    """No message was sent, or an empty one (RFC 2920 3.1 wants that where DATA was answered 354 against all expectation)."""

    def wrong(self, heard: Heard) -> str:
        for message in heard.messages:
            if message.data:
                return f"a message was sent: {show(message.data)}"
        return ""


@frozen
class Once:
    """At most one message was sent to its end."""

    def wrong(self, heard: Heard) -> str:
        whole = [message for message in heard.messages if message.whole and message.data]
        return f"{len(whole)} messages were sent to their ends" if len(whole) > 1 else ""


@frozen
class Arrives:
    """The message that was sent is the message that was to be sent, but for its header, where clients have their ways."""

    to_the_end: bool = False
    """Whether blank lines at the end count as well."""
    or_none: bool = False
    """Whether the client may say as well that it sends none."""

    def wrong(self, heard: Heard) -> str:
        due = part(heard.text)
        sent = [part(message.text) for message in heard.messages if message.answer.startswith("2")]
        if not self.to_the_end:
            due, sent = due.rstrip(), [text.rstrip() for text in sent]
        if not sent:
            return "" if self.or_none and heard.ending.code != 0 else "no message was sent to its end"
        if due in sent:
            return ""
        return f"this was sent: {show(difference(sent[0], due))}"


def part(text: bytes) -> bytes:
    """What stands behind the header, with an end to its last line."""
    body = re.split(rb"\r\n\r\n", text + b"\r\n" * (not text.endswith(b"\r\n")), maxsplit=1)[1:]
    return body[0] if body else b""


def difference(sent: bytes, due: bytes) -> bytes:
    """The part of what was sent where it is no more what was due."""
    same = next((at for at, (left, right) in enumerate(zip(sent, due, strict=False)) if left != right), None)
    at = min(len(sent), len(due)) if same is None else same
    start = sent.rfind(b"\n", 0, max(0, at - 20)) + 1
    return (b"... " if start else b"") + sent[start:]


@frozen
class NoLine:
    """No command is like this pattern."""

    pattern: bytes

    def wrong(self, heard: Heard) -> str:
        for command in heard.commands:
            if re.search(self.pattern, command.line, re.IGNORECASE):
                return f"this was said: {show(command.line)}"
        return ""


@frozen
class SomeLine:
    """A command is like this pattern."""

    pattern: bytes
    meaning: str

    def wrong(self, heard: Heard) -> str:
        if any(re.search(self.pattern, command.line, re.IGNORECASE) for command in heard.commands):
            return ""
        return f"{self.meaning} was due, and was not said"


@frozen
class Sends:
    """Every message that was begun is as this pattern wants it, or, with ``!`` in front, none is."""

    pattern: bytes
    meaning: str

    def wrong(self, heard: Heard) -> str:
        wanted = not self.pattern.startswith(b"!")
        for message in heard.messages:
            if (found := re.search(self.pattern.removeprefix(b"!"), message.data)) is not None and not wanted:
                return f"{self.meaning}: {show(found[0])}"
            if found is None and wanted:
                return f"{self.meaning}: {show(message.data)}"
        return ""


@frozen
class NoSecond:
    """This is said once in a connection, at most."""

    verb: str

    def wrong(self, heard: Heard) -> str:
        twice = any(len(visit.said(self.verb)) > 1 for visit in heard.visits)
        return f"{self.verb} was said a second time" if twice else ""


@frozen
class Declares:
    """A message that has this in it comes with a MAIL that is like that."""

    pattern: bytes
    parameter: bytes

    def wrong(self, heard: Heard) -> str:
        for message in heard.messages:
            found = re.search(self.pattern, message.data)
            if found and not re.search(self.parameter, message.mail, re.IGNORECASE):
                return f"the message needs {self.parameter.decode().strip()}, and came with {show(message.mail)}"
        return ""
