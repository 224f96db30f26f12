"""Checks that hold for every connection of a client, by the name that ``check:`` gives them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from itertools import takewhile

from ._scene import Command, Visit
from ._talk import show

DOMAIN = rb"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*"
LITERAL = rb"\[(?:[0-9]{1,3}(?:\.[0-9]{1,3}){3}|IPv6:[0-9A-Fa-f:.]+|[A-Za-z0-9-]*[A-Za-z0-9]:[!-Z^-~]+)\]"
HELLO = re.compile(rb"(?:EHLO (?:%b|%b)|HELO (?:%b|%b)) *\r\n" % (DOMAIN, LITERAL, DOMAIN, LITERAL), re.IGNORECASE)
# That it is one line is asked first: what looks for the right ">" would ask again behind each.
PATH = re.compile(rb"(?=[^\r\n]*\r\n)(?:MAIL FROM:<[^>\r\n]*>|RCPT TO:<[^\r\n]+>)( [^\r\n]*)?\r\n", re.IGNORECASE)
PARAMETER = re.compile(rb" ([A-Za-z0-9][A-Za-z0-9-]*)(?:=[!-<>-~]+)?")
COMMAND_LINE = 512
AUTH_LINE = 12288
KEYWORDS = {"SIZE": "SIZE", "BODY": "8BITMIME", "RET": "DSN", "ENVID": "DSN", "NOTIFY": "DSN", "ORCPT": "DSN"}
"""Parameters, and the extension that brings them, where that has another name."""
ALONE = {"EHLO", "HELO", "DATA", "VRFY", "EXPN", "QUIT", "NOOP", "STARTTLS", "AUTH", "RESPONSE"}
"""RFC 2920 3.1: nothing may be sent behind them before they are answered."""


def each(visit: Visit, wrong: Callable[[Command], bool]) -> str:
    """The first command that is wrong."""
    return next((show(command.line) for command in visit.commands if wrong(command)), "")


def parameters(line: bytes) -> bytes:
    """What stands behind the path."""
    match = PATH.fullmatch(line)
    return (match[1] or b"").rstrip() if match else b""


def known(command: Command) -> bool:
    """Whether a command has a verb of SMTP: a server whose replies are odd may have taken something else for one."""
    return command.verb in {
        "EHLO",
        "HELO",
        "MAIL",
        "RCPT",
        "DATA",
        "BDAT",
        "RSET",
        "NOOP",
        "QUIT",
        "STARTTLS",
        "AUTH",
        "VRFY",
    }


def ends(visit: Visit) -> str:
    return each(visit, lambda command: not command.line.endswith(b"\r\n") or b"\r" in command.line[:-2])


def ascii_only(visit: Visit) -> str:
    return each(
        visit,
        lambda command: (
            any(octet < 32 or octet > 126 for octet in command.line.rstrip(b"\r\n"))
            and not (visit.offered("SMTPUTF8") and b"\0" not in command.line)
        ),
    )


def length(visit: Visit) -> str:
    def wrong(command: Command) -> bool:
        most = AUTH_LINE if command.verb in ("AUTH", "RESPONSE") else COMMAND_LINE
        return len(command.line) - len(parameters(command.line)) > most

    return each(visit, wrong)


def verbs(visit: Visit) -> str:
    """What comes behind a DATA that was refused is a message, maybe: scenes about that say so."""
    heard = list(takewhile(lambda command: command.verb != "DATA", visit.commands))
    return next((show(command.line) for command in heard if command.verb != "RESPONSE" and not known(command)), "")


def hello(visit: Visit) -> str:
    return each(visit, lambda command: command.verb in ("EHLO", "HELO") and not HELLO.fullmatch(command.line))


def hello_first(visit: Visit) -> str:
    """MAIL comes only behind an EHLO or HELO."""
    for command in visit.commands:
        if command.verb in ("EHLO", "HELO"):
            return ""
        if command.verb in ("MAIL", "RCPT", "DATA", "BDAT"):
            return show(command.line)
    return ""


def paths(visit: Visit) -> str:
    def wrong(command: Command) -> bool:
        if command.verb not in ("MAIL", "RCPT"):
            return False
        rest = parameters(command.line)
        return not PATH.fullmatch(command.line) or bool(PARAMETER.sub(b"", rest))

    return each(visit, wrong)


def offered(visit: Visit) -> str:
    """Parameters come only with what was offered."""
    if any(on.event == "EHLO" for on in visit.played):  # what it listed then is known to the scene alone
        return ""
    listed = {offer.partition(" ")[0].upper() for offer in visit.offers}
    for command in visit.said("MAIL", "RCPT"):
        for name in PARAMETER.findall(parameters(command.line)):
            keyword = name.decode().upper()
            if KEYWORDS.get(keyword, keyword) not in listed:
                return f"{keyword} was not offered: {show(command.line)}"
    return ""


def nested(visit: Visit) -> str:
    """No MAIL in a transaction, no RCPT or DATA outside of one, where the answers were known: groups may be torn on their way."""
    if visit.offered("PIPELINING"):
        return ""
    mail, recipients = False, 0
    for command in visit.commands:
        done = command.answer.startswith("2")
        match command.verb:
            case "EHLO" | "HELO" | "RSET" | "STARTTLS" if done:
                mail, recipients = False, 0
            case "MAIL":
                if mail and not command.early:
                    return show(command.line)
                mail = mail or done
            case "RCPT":
                if not mail and not command.early:
                    return show(command.line)
                recipients += done
            case "DATA" | "BDAT":
                if not recipients and not command.early:
                    return show(command.line)
                if command.answer.startswith("3") or b"LAST" in command.line.upper():
                    mail, recipients = False, 0
    return ""


def pipelined(visit: Visit) -> str:
    """Nothing is sent ahead, but for groups where they are allowed."""
    before, may = "GREETING", False
    for command in visit.commands:
        if command.early and before != "QUIT" and known(command) and (not may or before in ALONE):
            return f"behind {before}, which was not answered: {show(command.line)}"
        before, may = command.verb, visit.offered("PIPELINING")
    return ""


def texts(pattern: bytes) -> Callable[[Visit], str]:
    """No message has this in it."""

    def wrong(visit: Visit) -> str:
        found = (re.search(pattern, message.data) for message in visit.messages if not message.chunked)
        return next((show(match[0]) for match in found if match), "")

    return wrong


def eight(visit: Visit) -> str:
    """What is not ASCII is sent with BODY= only."""
    for message in visit.messages:
        if re.search(rb"[\x80-\xff]", message.data) and not re.search(rb" BODY=[8B]", message.mail.upper()):
            return f"octets outside of ASCII, after {show(message.mail)}"
    return ""


#: Each returns the text that violates the rule, or an empty string.
INVARIANTS: Mapping[str, Callable[[Visit], str]] = {
    "CRLF": ends,
    "ASCII": ascii_only,
    "length": length,
    "known verbs": verbs,
    "EHLO argument": hello,
    "EHLO first": hello_first,
    "paths": paths,
    "offered parameters": offered,
    "sequence": nested,
    "groups": pipelined,
    "no bare CR or LF": texts(rb"(?<!\r)\n|\r(?!\n)"),
    "declared 8-bit data": eight,
}
