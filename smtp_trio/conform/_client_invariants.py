"""Checks of every connection of a client, by the name that ``check:`` refers to.

Each returns a description of the violation, or an empty string.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from itertools import takewhile

from ._client_case import ClientSession, ReceivedCommand
from ._connection import show

DOMAIN = rb"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*"
LITERAL = rb"\[(?:[0-9]{1,3}(?:\.[0-9]{1,3}){3}|IPv6:[0-9A-Fa-f:.]+|[A-Za-z0-9-]*[A-Za-z0-9]:[!-Z^-~]+)\]"
HELLO = re.compile(rb"(?:EHLO (?:%b|%b)|HELO (?:%b|%b)) *\r\n" % (DOMAIN, LITERAL, DOMAIN, LITERAL), re.IGNORECASE)
# The lookahead finds the end of the line first. Without it, the search for the closing ">" would look for the end after
# each ">", which takes quadratic time.
PATH = re.compile(rb"(?=[^\r\n]*\r\n)(?:MAIL FROM:<[^>\r\n]*>|RCPT TO:<[^\r\n]+>)( [^\r\n]*)?\r\n", re.IGNORECASE)
PARAMETER = re.compile(rb" ([A-Za-z0-9][A-Za-z0-9-]*)(?:=[!-<>-~]+)?")
COMMAND_LINE = 512
AUTH_LINE = 12288
VERBS = {"EHLO", "HELO", "MAIL", "RCPT", "DATA", "BDAT", "RSET", "NOOP", "QUIT", "STARTTLS", "AUTH", "VRFY"}
KEYWORDS = {"SIZE": "SIZE", "BODY": "8BITMIME", "RET": "DSN", "ENVID": "DSN", "NOTIFY": "DSN", "ORCPT": "DSN"}
"""The EHLO keywords of parameters, where they have another name."""
LAST_IN_GROUP = {"EHLO", "HELO", "DATA", "VRFY", "EXPN", "QUIT", "NOOP", "STARTTLS", "AUTH", "RESPONSE"}
"""RFC 2920 3.1: nothing may be sent after these before the reply."""


def first_command(session: ClientSession, wrong: Callable[[ReceivedCommand], bool]) -> str:
    """Return the first command for which `wrong` is true."""
    return next((show(command.line) for command in session.commands if wrong(command)), "")


def parameters(line: bytes) -> bytes:
    """Return what follows the path of a MAIL or RCPT command."""
    match = PATH.fullmatch(line)
    return (match[1] or b"").rstrip() if match else b""


def line_ends(session: ClientSession) -> str:
    """Return a command that does not end with CRLF, or contains another CR."""
    return first_command(session, lambda command: not command.line.endswith(b"\r\n") or b"\r" in command.line[:-2])


def ascii_only(session: ClientSession) -> str:
    """Return a command that is not printable ASCII, unless SMTPUTF8 is offered."""

    def wrong(command: ReceivedCommand) -> bool:
        printable = all(32 <= octet <= 126 for octet in command.line.rstrip(b"\r\n"))
        return not printable and not (session.offered("SMTPUTF8") and b"\0" not in command.line)

    return first_command(session, wrong)


def length(session: ClientSession) -> str:
    """Return a command of more than 512 octets, or 12,288 with AUTH (RFC 4954 4), without its parameters."""

    def wrong(command: ReceivedCommand) -> bool:
        most = AUTH_LINE if command.verb in ("AUTH", "RESPONSE") else COMMAND_LINE
        return len(command.line) - len(parameters(command.line)) > most

    return first_command(session, wrong)


def known_verbs(session: ClientSession) -> str:
    """Return a command with an unknown verb. A message may follow a refused DATA; other cases check that."""
    commands = takewhile(lambda command: command.verb != "DATA", session.commands)
    return next((show(command.line) for command in commands if command.verb not in VERBS | {"RESPONSE"}), "")


def hello_argument(session: ClientSession) -> str:
    """Return an EHLO or HELO without a domain or an address literal."""
    return first_command(
        session, lambda command: command.verb in ("EHLO", "HELO") and not HELLO.fullmatch(command.line)
    )


def hello_first(session: ClientSession) -> str:
    """Return a command of a transaction that was sent before EHLO or HELO."""
    for command in session.commands:
        if command.verb in ("EHLO", "HELO"):
            return ""
        if command.verb in ("MAIL", "RCPT", "DATA", "BDAT"):
            return show(command.line)
    return ""


def paths(session: ClientSession) -> str:
    """Return a MAIL or RCPT without a path in angle brackets, or with invalid parameters."""

    def wrong(command: ReceivedCommand) -> bool:
        if command.verb not in ("MAIL", "RCPT"):
            return False
        return not PATH.fullmatch(command.line) or bool(PARAMETER.sub(b"", parameters(command.line)))

    return first_command(session, wrong)


def offered_parameters(session: ClientSession) -> str:
    """Return a parameter of an extension that was not offered."""
    if any(reaction.event == "EHLO" for reaction in session.performed):  # what that listed is not in `offers`
        return ""
    listed = {offer.partition(" ")[0].upper() for offer in session.offers}
    for command in session.sent("MAIL", "RCPT"):
        for name in PARAMETER.findall(parameters(command.line)):
            keyword = name.decode().upper()
            if KEYWORDS.get(keyword, keyword) not in listed:
                return f"{keyword} was not offered: {show(command.line)}"
    return ""


def sequence(session: ClientSession) -> str:
    """Return a MAIL that was sent in a transaction, or a RCPT or DATA that was sent outside one.

    Only commands that were sent after the reply to the previous one count: TCP may divide groups anywhere.
    """
    if session.offered("PIPELINING"):
        return ""
    mail, recipients = False, 0
    for command in session.commands:
        accepted = command.code.startswith("2")
        match command.verb:
            case "EHLO" | "HELO" | "RSET" | "STARTTLS" if accepted:
                mail, recipients = False, 0
            case "MAIL":
                if mail and not command.early:
                    return show(command.line)
                mail = mail or accepted
            case "RCPT":
                if not mail and not command.early:
                    return show(command.line)
                recipients += accepted
            case "DATA" | "BDAT":
                if not recipients and not command.early:
                    return show(command.line)
                if command.code.startswith("3") or b"LAST" in command.line.upper():
                    mail, recipients = False, 0
    return ""


def groups(session: ClientSession) -> str:
    """Return a command that was sent before a reply, outside the groups that PIPELINING allows (RFC 2920 3.1).

    Unknown verbs do not count: after unusual replies they may be lines of a message.
    """
    before, pipelining = "GREETING", False
    for command in session.commands:
        allowed = not command.early or before == "QUIT" or (pipelining and before not in LAST_IN_GROUP)
        if not allowed and command.verb in VERBS:
            return f"sent before the reply to {before}: {show(command.line)}"
        before, pipelining = command.verb, session.offered("PIPELINING")
    return ""


def no_bare_line_ends(session: ClientSession) -> str:
    """Return a CR or LF alone in a message."""
    found = (re.search(rb"(?<!\r)\n|\r(?!\n)", each.data) for each in session.messages if not each.chunked)
    return next((show(match[0]) for match in found if match), "")


def declared_8bit(session: ClientSession) -> str:
    """Return a description of a message with octets above 127 that was sent without BODY."""
    for message in session.messages:
        if re.search(rb"[\x80-\xff]", message.data) and not re.search(rb" BODY=[8B]", message.mail.upper()):
            return f"non-ASCII octets, after {show(message.mail)}"
    return ""


CLIENT_INVARIANTS: Mapping[str, Callable[[ClientSession], str]] = {
    "CRLF": line_ends,
    "ASCII": ascii_only,
    "length": length,
    "known verbs": known_verbs,
    "EHLO argument": hello_argument,
    "EHLO first": hello_first,
    "paths": paths,
    "offered parameters": offered_parameters,
    "sequence": sequence,
    "groups": groups,
    "no bare CR or LF": no_bare_line_ends,
    "declared 8-bit data": declared_8bit,
}
