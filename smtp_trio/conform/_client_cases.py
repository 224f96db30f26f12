"""The cases for clients: reads ``client_cases/*.txt``.

The server sends the ``S:`` lines below ``on MAIL:`` when MAIL arrives. The client must meet the ``expect:`` lines.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.resources import files

from ._case import Requirement, Step
from ._client_case import USUAL_OFFERS, ClientCase, ClientInvariant, Expectation, Reaction
from ._client_expectations import (
    AtMostOne,
    AtMostOneMessage,
    CommandMatching,
    EndsWithQuit,
    MailMatchingFor,
    MessageUnchanged,
    NeverSends,
    NoCommandMatching,
    NoDataMatching,
    NoMessageData,
    OnlyAfter,
    ReportsFailure,
    ReportsSuccess,
    Sends,
    WaitsForReply,
)
from ._client_invariants import CLIENT_INVARIANTS
from ._notation import Block, Definition, Line, octets, read, split_remark
from ._server_actions import AcceptTls, CloseConnection, Pause, SendNothing, SendSlowly, WaitForOctets
from ._steps import Send

#: The chapters in the order in which they are tried. The chapter "habits" has the invariants, which are checked on the
#: connections of all other cases, so it is the last.
CHAPTERS = (
    *("session", "replies", "refusals", "lost", "data", "pipelining", "size", "encoding", "chunking", "starttls"),
    *("auth", "slow", "danger", "habits"),
)
KEYS = (
    *("needs", "skip if", "offers", "offers exactly", "offers in TLS", "message", "from", "to", "reply delay"),
    *("certificate", "expect", "check"),
)
EVENT = re.compile(r"([A-Z]+)(?: ([0-9]+))?( in TLS)?(, optional)?")
#: ``S.`` lines: what the server does besides sending octets.
ACTIONS: Sequence[tuple[str, Callable[[re.Match[str]], Step]]] = (
    ("S. closes", lambda match: CloseConnection()),
    ("S. resets", lambda match: CloseConnection(reset=True)),
    ("S. begins TLS", lambda match: AcceptTls()),
    ("S. pauses for ([0-9.]+) s", lambda match: Pause(float(match[1]))),
    ("S. sends nothing", lambda match: SendNothing()),
    ("S. waits for ([0-9]+) octets", lambda match: WaitForOctets(int(match[1]))),
)
SLOWLY = re.compile(r"S\. sends one octet every ([0-9.]+) s")
#: ``expect:`` lines. Text after ``#`` explains a violation.
EXPECTATIONS: Sequence[tuple[str, Callable[[re.Match[str], str], Expectation]]] = (
    ("success", lambda match, meaning: ReportsSuccess()),
    ("failure", lambda match, meaning: ReportsFailure()),
    ("sends (.+)", lambda match, meaning: Sends(listed(match[1]))),
    (
        "does not send (.+?)( outside TLS)?",
        lambda match, meaning: NeverSends(listed(match[1]), cleartext=bool(match[2])),
    ),
    ("only (.+) after ([A-Z]+)", lambda match, meaning: OnlyAfter(match[2], listed(match[1]))),
    ("waits for every reply", lambda match, meaning: WaitsForReply("*")),
    ("waits for the reply to ([A-Z]+)", lambda match, meaning: WaitsForReply(match[1])),
    ("ends with QUIT", lambda match, meaning: EndsWithQuit()),
    ("no message data", lambda match, meaning: NoMessageData()),
    ("at most one message", lambda match, meaning: AtMostOneMessage()),
    ("at most one ([A-Z]+)", lambda match, meaning: AtMostOne(match[1])),
    (
        "message unchanged( with trailing blank lines)?( or failure)?",
        lambda match, meaning: MessageUnchanged(trailing_lines=bool(match[1]), or_failure=bool(match[2])),
    ),
    ("no command matching (.+)", lambda match, meaning: NoCommandMatching(pattern(match[1]))),
    ("a command matching (.+)", lambda match, meaning: CommandMatching(pattern(match[1]), meaning)),
    ("no message data matching (.+)", lambda match, meaning: NoDataMatching(pattern(match[1]), meaning)),
    (
        "MAIL matching (.+) for message data matching (.+)",
        lambda match, meaning: MailMatchingFor(pattern(match[1]), pattern(match[2])),
    ),
)


def pattern(text: str) -> bytes:
    """Return a regular expression for octets. Raises re.error if it is invalid."""
    re.compile(text.encode())
    return text.encode()


def listed(text: str) -> tuple[str, ...]:
    """Return the parts of a list with commas."""
    return tuple(part.strip() for part in text.split(","))


@cache
def client_cases() -> Sequence[Requirement]:
    """Return all cases for clients, in the order in which they are tried."""
    return tuple(requirement for chapter in CHAPTERS for requirement in _chapter(chapter)[1])


def client_titles() -> Mapping[str, str]:
    """Return the titles of the chapters."""
    return {chapter: _chapter(chapter)[0] for chapter in CHAPTERS}


@cache
def messages() -> Mapping[str, bytes]:
    """Return the messages for clients to send, by name (``client_cases/messages.txt``)."""
    _, cases = read(_text("messages"), "client_cases/messages.txt")
    found = {}
    for case in cases:
        parts = [octets(line) for line in case.body if isinstance(line, Line)]
        found[case.id.partition(".")[2]] = b"".join(part[1] for part in parts if part is not None)
    return found


@cache
def _chapter(name: str) -> tuple[str, Sequence[Requirement]]:
    return read_client_cases(_text(name), f"client_cases/{name}.txt")


def _text(name: str) -> str:
    return (files(__package__) / "client_cases" / f"{name}.txt").read_text(encoding="utf-8")


def read_client_cases(text: str, file: str = "cases") -> tuple[str, Sequence[Requirement]]:
    """Return the title of a chapter, and its cases and invariants. `file` is the name that errors begin with.

    Raises:
        NotationError: A line is invalid.
    """
    title, definitions = read(text, file)
    return title, tuple(_requirement(each) for each in definitions)


def _requirement(case: Definition) -> Requirement:
    case.check(KEYS)
    for name, line in case.all("check"):
        if name not in CLIENT_INVARIANTS:
            raise line.error(f"unknown check {name!r}, expected one of {', '.join(CLIENT_INVARIANTS)}")
        return ClientInvariant(
            id=case.id,
            title=case.title,
            section=case.section,
            sentence=case.sentence,
            level=case.level,
            violation=CLIENT_INVARIANTS[name],
        )
    names = {name for name, _, _ in case.keys}
    exactly = "offers exactly" in names
    offers = case.values("offers exactly" if exactly else "offers")
    return ClientCase(
        id=case.id,
        title=case.title,
        section=case.section,
        sentence=case.sentence,
        level=case.level,
        needs=case.values("needs"),
        skip_if=case.values("skip if"),
        reactions=[_reaction(item) for item in case.body],
        expectations=[_expectation(value, line) for value, line in case.all("expect")],
        offers=offers if exactly or "offers" in names else USUAL_OFFERS,
        tls_offers=case.values("offers in TLS") if "offers in TLS" in names else None,
        exact_offers=exactly,
        message=case.value("message", "plain"),
        values={key: _unescaped(case.value(key)) for key in ("from", "to") if key in names},
        reply_delay=float(case.value("reply delay", "0 s").removesuffix(" s")),
        certificate=case.value("certificate", "good"),
    )


def _unescaped(text: str) -> str:
    return text.encode("latin-1").decode("unicode_escape")


def _reaction(item: Line | Block) -> Reaction:
    line = item if isinstance(item, Line) else item.line
    if isinstance(item, Line) or item.keyword != "on" or (match := EVENT.fullmatch(item.argument)) is None:
        raise line.error("expected 'on EVENT:', and what the server does indented below it")
    return Reaction(
        event=match[1],
        steps=tuple(_actions(item.body)),
        nth=int(match[2] or 0),
        secure=True if match[3] else None,
        required=match[4] is None,
    )


def _actions(body: Sequence[Line]) -> Sequence[Step]:
    """Make steps of lines. Consecutive lines are sent in one piece; ``~`` begins another piece."""
    steps: list[Step] = []
    piece = b""
    pause = 0.0

    def send() -> None:
        nonlocal piece, pause
        if piece:
            steps.append(SendSlowly(piece, pause) if pause else Send(piece))
            piece, pause = b"", 0.0

    for line in body:
        if (sent := octets(line)) is not None and sent[0] == "S":
            if sent[2] == 1:
                piece += sent[1]
                continue
            send()
            steps.append(Send(sent[1], times=sent[2]))
            continue
        send()
        if slowly := SLOWLY.fullmatch(line.text):
            pause = float(slowly[1])
        elif line.text != "~":
            steps.append(_action(line))
    send()
    return steps


def _action(line: Line) -> Step:
    for form, action in ACTIONS:
        if match := re.fullmatch(form, line.text):
            return action(match)
    raise line.error("invalid line of a case")


def _expectation(value: str, line: Line) -> Expectation:
    text, meaning = split_remark(value)
    for form, expectation in EXPECTATIONS:
        if match := re.fullmatch(form, text):
            try:
                return expectation(match, meaning)
            except re.error as error:
                raise line.error(f"invalid pattern: {error}") from None
    raise line.error("unknown expectation")
