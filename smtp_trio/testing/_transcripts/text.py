r"""Conversion of transcripts to text and back. Each line of the text is one of these:

| ``C: MAIL FROM:<a@b>`` a line that the client sent, without its CRLF; ``S: 250 Ok`` one that the server sent;
| ``C> no end`` octets to which nothing is added, escaped as in Python: ``C> \xff\r\n``;
| ``C. closes`` another event: ``closes``, ``resets`` or ``begins TLS``;
| ``@ 300`` the time of what follows, in seconds since the beginning;
| ``~`` the end of a piece, where the same side continues;
| ``== 2`` the beginning of another session with this name;
| ``# text`` a comment.

``***`` stands for a secret.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from attrs import Factory, define

from .entry import MASK, Entry, Event, Side, Span, masked, secrets

EVENTS: tuple[Event, ...] = ("closes", "resets", "begins TLS")


def escape(octets: bytes) -> str:
    """Return octets as ASCII text with Python's escapes."""
    text = octets.decode("latin-1").encode("unicode_escape").decode("ascii")
    return text[:-1] + "\\x20" if text.endswith(" ") else text


def unescape(text: str) -> bytes:
    """Return the octets that `escape` returned ``text`` for."""
    return text.encode("latin-1").decode("unicode_escape").encode("latin-1")


def printable(octets: bytes) -> str | None:
    """Return octets as a line of text that editors do not change, or None if that is not possible."""
    try:
        text = octets.decode()
    except UnicodeDecodeError:
        return None
    return text if text == text.rstrip() and text.replace("\t", " ").isprintable() else None


def format_time(seconds: float) -> str:
    """Return a time with at most six decimals."""
    return f"{seconds:.6f}".rstrip("0").rstrip(".")


def pattern(line: str) -> re.Pattern[str]:
    """Return a pattern for ``line``, in which ``***`` matches any text."""
    return re.compile(".*".join(map(re.escape, line.split(MASK.decode()))), re.DOTALL)


@define
class _Writer:
    """Writes one session."""

    times: bool
    pieces: bool
    spans: dict[Side, list[Span]]
    lines: list[str] = Factory(list)
    _time: str = "0"
    _side: Side | None = None
    #: Octets of this side that are not written yet, because no end of line came, and when the last of them were sent.
    _rest: bytes = b""
    _rest_time: float = 0
    #: Octets of each side that were written.
    _offsets: dict[Side, int] = Factory(lambda: {"C": 0, "S": 0})

    def write(self, entry: Entry) -> None:
        if self._side != entry.side or entry.event:
            self.write_rest()
        elif self.pieces and not (self.times and format_time(entry.time) != self._time):
            self.lines.append("~")
        self._side = entry.side
        if entry.event:
            self._write_time(entry.time)
            self.lines.append(f"{entry.side}. {entry.event}")
            self._side = None
            return
        self._rest += entry.data
        self._rest_time = entry.time
        while (end := self._rest.find(b"\r\n") + 2) > 1:
            self._write_time(entry.time)
            self._write_octets(self._rest[:end])
            self._rest = self._rest[end:]
        if self._rest and self.pieces:
            self.write_rest()

    def write_rest(self) -> None:
        """Write octets without an end of line: the other side continues, or none does."""
        if self._rest:
            self._write_time(self._rest_time)
            self._write_octets(self._rest)
            self._rest = b""

    def _write_time(self, time: float) -> None:
        if self.times and (now := format_time(time)) != self._time:
            self._time = now
            self.lines.append(f"@ {now}")

    def _write_octets(self, octets: bytes) -> None:
        side = self._side
        assert side is not None
        at = self._offsets[side]
        self._offsets[side] += len(octets)
        shown = b"".join(MASK if secret else part for part, secret in masked(octets, at, self.spans[side]))
        line = printable(shown[:-2]) if octets[-2:] == b"\r\n" else None
        self.lines.append(f"{side}> {escape(shown)}" if line is None else f"{side}: {line}".rstrip())


def render(entries: Sequence[Entry], *, times: bool, pieces: bool) -> list[str]:
    """Return the lines of a transcript. Sessions follow each other, even if they overlapped in time."""
    names = list(dict.fromkeys(entry.session for entry in entries))
    lines: list[str] = []
    for name in names:
        session = [entry for entry in entries if entry.session == name]
        writer = _Writer(times, pieces, secrets(session))
        for entry in session:
            writer.write(entry)
        writer.write_rest()
        lines += [f"== {name}"] if len(names) > 1 else []
        lines += writer.lines
    return lines


def parse(lines: Iterable[str]) -> list[Entry]:
    """Return the entries of a transcript's lines. Raises ValueError for an invalid line."""
    entries: list[Entry] = []
    time, session = 0.0, "1"
    joined = False  # the next line belongs to the last entry

    def add(side: Side, data: bytes) -> None:
        nonlocal joined
        if joined and entries and entries[-1].side == side:
            last = entries.pop()
            data = last.data + data
        entries.append(Entry(time, side, data, session=session))
        joined = True

    for number, line in enumerate(lines, 1):
        kind, text = line[:2], line[2:].removeprefix(" ")
        match kind.rstrip():
            case "C:" | "S:":
                add("C" if kind == "C:" else "S", text.encode() + b"\r\n")
            case "C>" | "S>":
                add("C" if kind == "C>" else "S", unescape(text))
            case "C." | "S." if text in EVENTS:
                entries.append(Entry(time, "C" if kind == "C." else "S", event=text, session=session))
                joined = False
            case "@":
                time, joined = float(text), False
            case "~":
                joined = False
            case "==":
                time, session, joined = 0.0, text, False
            case "" | "#":
                pass
            case _:
                raise ValueError(f"line {number} is not a line of a transcript: {line!r}")
    return entries
