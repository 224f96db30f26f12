r"""A transcript as text, and back.

| ``C: MAIL FROM:<a@b>`` is a line of the client's, less its CRLF, ``S: 250 Ok`` one of the server's;
| ``C> no end`` octets with nothing added, as Python escapes them: ``C> \xff\r\n``;
| ``C. closes`` something else that it does: ``closes``, ``resets`` or ``begins TLS``;
| ``@ 300`` the time from here on, in seconds since the beginning;
| ``~`` the end of a piece, where the same side goes on;
| ``== 2`` the beginning of another session, which has this name;
| ``# words`` a remark.

``***`` is what stands for a secret.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from attrs import Factory, define

from .entry import MASK, Entry, Side, Span, What, masked, secrets

EVENTS: tuple[What, ...] = ("closes", "resets", "begins TLS")


def escaped(octets: bytes) -> str:
    text = octets.decode("latin-1").encode("unicode_escape").decode("ascii")
    return text[:-1] + "\\x20" if text.endswith(" ") else text


def unescaped(text: str) -> bytes:
    return text.encode("latin-1").decode("unicode_escape").encode("latin-1")


def readable(octets: bytes) -> str | None:
    """Octets as a line of text that an editor would leave alone, or None."""
    try:
        text = octets.decode()
    except UnicodeDecodeError:
        return None
    return text if text == text.rstrip() and text.replace("\t", " ").isprintable() else None


def spelled(seconds: float) -> str:
    """A time, to the microsecond."""
    return f"{seconds:.6f}".rstrip("0").rstrip(".")


@define
class _Writer:
    """Writes one session."""

    times: bool
    pieces: bool
    spans: dict[Side, list[Span]]
    lines: list[str] = Factory(list)
    _time: str = "0"
    _side: Side | None = None
    _rest: bytes = b""  # what it said without an end of line so far
    _last: float = 0  # … and when
    _said: dict[Side, int] = Factory(lambda: {"C": 0, "S": 0})

    def write(self, entry: Entry) -> None:
        if self._side != entry.side or entry.event:
            self._cut()
        elif self.pieces and not (self.times and spelled(entry.time) != self._time):
            self.lines.append("~")
        self._side = entry.side
        if entry.event:
            self._clock(entry.time)
            self.lines.append(f"{entry.side}. {entry.event}")
            self._side = None
            return
        self._rest += entry.data
        self._last = entry.time
        while (end := self._rest.find(b"\r\n") + 2) > 1:
            self._clock(entry.time)
            self._put(self._rest[:end])
            self._rest = self._rest[end:]
        if self._rest and self.pieces:
            self._cut()

    def end(self) -> None:
        self._cut()

    def _cut(self) -> None:
        """Somebody else has the word: what has no end of line is shown without."""
        if self._rest:
            self._clock(self._last)
            self._put(self._rest)
            self._rest = b""

    def _clock(self, time: float) -> None:
        if self.times and (now := spelled(time)) != self._time:
            self._time = now
            self.lines.append(f"@ {now}")

    def _put(self, octets: bytes) -> None:
        side = self._side
        assert side is not None
        at = self._said[side]
        self._said[side] += len(octets)
        shown = b"".join(MASK if secret else part for part, secret in masked(octets, at, self.spans[side]))
        line = readable(shown[:-2]) if octets[-2:] == b"\r\n" else None
        self.lines.append(f"{side}> {escaped(shown)}" if line is None else f"{side}: {line}".rstrip())


def render(entries: Sequence[Entry], *, times: bool, pieces: bool) -> list[str]:
    """The lines of a transcript. Sessions come one after the other, however they were mixed in time."""
    names = list(dict.fromkeys(entry.session for entry in entries))
    lines: list[str] = []
    for name in names:
        mine = [entry for entry in entries if entry.session == name]
        writer = _Writer(times, pieces, secrets(mine))
        for entry in mine:
            writer.write(entry)
        writer.end()
        lines += [f"== {name}"] if len(names) > 1 else []
        lines += writer.lines
    return lines


def parse(lines: Iterable[str]) -> list[Entry]:
    """The entries that lines are about. Raises ValueError for a line that is none."""
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
                add("C" if kind == "C>" else "S", unescaped(text))
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
                raise ValueError(f"line {number} is none of a transcript: {line!r}")
    return entries
