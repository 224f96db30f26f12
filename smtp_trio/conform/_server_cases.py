"""The cases for servers: reads ``cases/*.txt``, where ``C:`` lines are sent and ``S:`` lines are expected."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from importlib.resources import files

from ..protocol.arguments import check_type
from ._case import Case, Invariant, Requirement, Stage, Step
from ._logins import AnswerCram, ProvePassword
from ._notation import Block, Definition, Line, joined, octets, read, split_remark
from ._server_invariants import SERVER_INVARIANTS
from ._steps import (
    LIMITS,
    BeginTls,
    Expect,
    ExpectClose,
    ExpectLine,
    ExpectReplies,
    ExpectSilence,
    RepeatLimit,
    Send,
    SendEof,
    SendTooMuch,
    When,
    verb,
)

#: The chapters in the order in which they are tried. Many cases of AUTH fail to log in, after which a server may refuse this
#: host for a while. Invariants (replies) look at the replies of all other cases, so they come last.
CHAPTERS = (
    *("connection", "ehlo", "mail", "rcpt", "data", "commands", "syntax", "pipelining", "size", "encoding"),
    *("chunking", "starttls", "dsn", "delivery", "burl", "limits", "lmtp", "proxy", "auth", "danger", "replies"),
)
KEYS = ("after", "needs", "skip if", "end", "check")
STAGES = {stage.value: stage for stage in Stage}
#: ``C.`` and ``S.`` lines: what happens besides octets.
EVENTS: Sequence[tuple[str, Callable[[re.Match[str], str], Step]]] = (
    ("C. begins TLS( or fails)?", lambda match, meaning: BeginTls(may_fail=match[1] is not None)),
    ("C. closes its side", lambda match, meaning: SendEof()),
    ("C. sends more than SIZE", lambda match, meaning: SendTooMuch()),
    ("C. answers the challenge of CRAM-MD5", lambda match, meaning: AnswerCram()),
    (
        "C. proves the password with (SCRAM-\\S+?)(, saw no channel binding and is refused)?",
        lambda match, meaning: ProvePassword(match[1], deceived=match[2] is not None),
    ),
    (
        "S. closes(?: within ([0-9.]+) s)?(?: after (\\S+))?",
        lambda match, meaning: ExpectClose(after=match[2] or "", within=float(match[1] or 0)),
    ),
    (
        "S. sends nothing for ([0-9.]+) s( or closes)?",
        lambda match, meaning: ExpectSilence(float(match[1]), meaning, or_close=match[2] is not None),
    ),
    ("S. commands (.+)", lambda match, meaning: ExpectLine(match[1], meaning)),
    (
        "S. replies (.+?)(?: and closes| within ([0-9.]+) s)",
        lambda match, meaning: ExpectReplies(match[1], meaning, within=float(match[2] or 0)),
    ),
)
REPLY = re.compile(r"S: ([0-9.|]+)( or closes)?(?: (text|no text|lists|does not list|lines|decodes) (.+))?")


@cache
def server_cases() -> Sequence[Requirement]:
    """Return all cases for servers, in the order in which they are tried."""
    return tuple(requirement for chapter in CHAPTERS for requirement in _chapter(chapter)[1])


def server_titles() -> Mapping[str, str]:
    """Return the titles of the chapters."""
    return {chapter: _chapter(chapter)[0] for chapter in CHAPTERS}


@cache
def _chapter(name: str) -> tuple[str, Sequence[Requirement]]:
    file = files(__package__) / "cases" / f"{name}.txt"
    return read_cases(file.read_text(encoding="utf-8"), f"cases/{name}.txt")


def read_cases(text: str, file: str = "cases") -> tuple[str, Sequence[Requirement]]:
    """Return the title of a chapter, and its cases and invariants. `file` is the name that errors begin with.

    Raises:
        NotationError: A line is invalid.
    """
    check_type(text, "text", str)
    title, definitions = read(text, file)
    return title, tuple(_requirement(each) for each in definitions)


def _requirement(case: Definition) -> Requirement:
    case.check(KEYS)
    for name, line in case.all("check"):
        if name not in SERVER_INVARIANTS:
            raise line.error(f"unknown check {name!r}, expected one of {', '.join(SERVER_INVARIANTS)}")
        return Invariant(
            id=case.id,
            title=case.title,
            section=case.section,
            sentence=case.sentence,
            level=case.level,
            needs=case.values("needs"),
            violated=SERVER_INVARIANTS[name],
        )
    for stage, line in case.all("after"):
        if stage not in STAGES:
            raise line.error(f"'after' must be one of {', '.join(STAGES)}")
    return Case(
        id=case.id,
        title=case.title,
        section=case.section,
        sentence=case.sentence,
        level=case.level,
        needs=case.values("needs"),
        skip_if=case.values("skip if"),
        stage=STAGES[case.value("after", "EHLO")],
        send_quit=case.value("end") != "no QUIT",
        steps=_steps(case.body),
    )


def _steps(body: Iterable[Line | Block]) -> tuple[Step, ...]:
    """Make steps of lines. Consecutive lines of the client are sent in one piece; ``~`` begins another piece."""
    steps: list[Step] = []
    piece = b""
    chunk = 0

    def send() -> None:
        nonlocal piece, chunk
        if piece:
            steps.append(Send(piece, chunk=chunk))
            piece, chunk = b"", 0

    for item, otherwise in joined(body):
        if isinstance(item, Line) and (sent := octets(item)) is not None and sent[0] == "C":
            _, data, times = sent
            if times == 1:
                piece += data
            else:
                send()
                steps.append(Send(data, times=times))
            continue
        send()
        if isinstance(item, Block):
            steps += _block(item, otherwise)
        elif item.text == "C. sends one octet at a time":
            chunk = 1
        elif item.text != "~":
            steps.append(_expectation(item))
    send()
    return _answering(steps)


def _block(block: Block, otherwise: Block | None) -> Iterable[Step]:
    if block.keyword == "repeat" and block.argument.isdecimal():
        return _steps(block.body) * int(block.argument)
    if block.keyword == "repeat" and block.argument in LIMITS:
        return [RepeatLimit(block.argument, _steps(block.body))]
    if block.keyword == "if":
        return [When(block.argument, _steps(block.body), _steps(otherwise.body) if otherwise is not None else ())]
    raise block.line.error("expected 'if CODES:' or 'repeat NUMBER:'")


def _expectation(line: Line) -> Step:
    """Make a step of an ``S:``, ``S.`` or ``C.`` line. Text after ``#`` explains a failure."""
    text, meaning = split_remark(line.text)
    for known, step in EVENTS:
        if event := re.fullmatch(known, text):
            return step(event, meaning)
    match = REPLY.fullmatch(text)
    if match is None:
        raise line.error("invalid line of a case")
    codes, close, kind, pattern = match.groups()
    try:
        re.compile(pattern or "")
    except re.error as error:
        raise line.error(f"invalid pattern: {error}") from None
    return Expect(
        codes,
        meaning,
        text={"text": pattern, "no text": f"!{pattern}"}.get(kind, ""),
        lists={"lists": pattern, "does not list": f"!{pattern}"}.get(kind, ""),
        each=pattern if kind == "lines" else "",
        decodes=pattern if kind == "decodes" else "",
        or_close=close is not None,
    )


def _answering(steps: Sequence[Step]) -> tuple[Step, ...]:
    """Set `Expect.to` where it is known: the verb of a piece that is followed by exactly one reply."""
    made: list[Step] = []
    for at, step in enumerate(steps):
        before = steps[at - 1] if at else None
        after = steps[at + 1] if at + 1 < len(steps) else None
        if isinstance(step, Expect) and isinstance(before, Send) and not isinstance(after, Expect):
            step = step.answering(verb(before.data))
        made.append(step)
    return tuple(made)
