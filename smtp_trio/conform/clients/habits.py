"""What holds for all that a client says, in every scene."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import takewhile

from .._scene import Command, Habit, Visit
from .._talk import show
from ._laws import WAIT, Law

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


def habit(id: str, title: str, law: Law, broken: Callable[[Visit], str]) -> Habit:
    return Habit(
        id=f"habits.{id}", title=title, section=law.section, sentence=law.sentence, level=law.level, broken=broken
    )


HABITS = (
    habit(
        "crlf",
        "commands end with CRLF, and have no CR or LF besides",
        Law("RFC 5321 2.3.8", "MUST, as indicated above, transmit them only as a <CRLF> sequence"),
        ends,
    ),
    habit(
        "ascii",
        "commands are printable ASCII, but for what SMTPUTF8 allows",
        Law("RFC 5321 2.4", "Commands and replies are composed of characters from the ASCII character set"),
        ascii_only,
    ),
    habit(
        "length",
        "commands have at most 512 octets, not counting parameters of extensions",
        Law(
            "RFC 5321 4.5.3.1.4",
            "The maximum total length of a command line including the command word and the <CRLF> is 512 octets.",
        ),
        length,
    ),
    habit(
        "verbs",
        "there are no commands that are none",
        Law(
            "RFC 5321 4.1.1",
            "The SMTP commands define the mail transfer or the mail system function requested by the user.",
        ),
        verbs,
    ),
    habit(
        "hello",
        "EHLO and HELO are followed by a domain or an address literal",
        Law("RFC 5321 4.1.1.1", 'ehlo           = "EHLO" SP ( Domain / address-literal ) CRLF'),
        hello,
    ),
    habit(
        "hello-first",
        "no transaction begins before EHLO or HELO",
        Law("RFC 5321 4.1.1.1", "In any event, a client MUST issue HELO or EHLO before starting a mail transaction."),
        hello_first,
    ),
    habit(
        "paths",
        "MAIL FROM:<...> and RCPT TO:<...>, with parameters behind a space",
        Law("RFC 5321 4.1.1.2", 'mail = "MAIL FROM:" Reverse-path [SP Mail-parameters] CRLF'),
        paths,
    ),
    habit(
        "offered",
        "parameters are only those of extensions that are offered",
        Law(
            "RFC 5321 4.1.1.3",
            "The client MUST NOT transmit parameters other than those associated with a service extension "
            "offered by the server in its EHLO response.",
        ),
        offered,
    ),
    habit(
        "nested",
        "MAIL, RCPT and DATA come where they can be",
        Law("RFC 5321 4.1.4", "MAIL (or SEND, SOML, or SAML) MUST NOT be sent if a mail transaction is already open"),
        nested,
    ),
    habit(
        "waits",
        "nothing is sent before the last command was answered, but for groups where PIPELINING is offered",
        WAIT,
        pipelined,
    ),
    habit(
        "bare",
        "messages have no CR or LF alone",
        Law(
            "RFC 5321 2.3.8",
            "SMTP client implementations MUST NOT transmit these characters except when they are intended as line terminators",
        ),
        texts(rb"(?<!\r)\n|\r(?!\n)"),
    ),
    habit(
        "8bit",
        "octets outside of ASCII are sent with BODY=8BITMIME only",
        Law(
            "RFC 5321 2.4",
            "An originating SMTP client that has not successfully negotiated an appropriate extension with a particular server "
            "(see the next paragraph) MUST NOT transmit messages with information in the high-order bit of octets.",
        ),
        eight,
    ),
)
