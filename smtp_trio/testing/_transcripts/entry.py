"""One event of a session, and which of its octets are secret."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import inf
from typing import Literal, Protocol, get_args

from attrs import field, frozen

from ...protocol.arguments import argument, check_choice, check_number, check_type
from .._wire_tracker import Piece, Role, WireTracker

Side = Literal["C", "S"]
#: Events besides octets.
Event = Literal["", "closes", "resets", "begins TLS"]

#: The text in the place of a secret.
MASK = b"***"

ROLES: dict[Side, Role] = {"C": "client", "S": "server"}


def other(side: Side) -> Side:
    """Return the other end."""
    return "S" if side == "C" else "C"


@frozen
class Entry:
    """Octets that one side sent in one piece, or another event.

    ``side`` is "C" for the client and "S" for the server. ``time`` is in seconds since the transcript began, by Trio's
    clock. ``session`` is the name of the connection. ``event`` is "closes", "resets" or "begins TLS", or "" for octets.
    """

    time: float = field(validator=argument(check_number, -inf))
    side: Side = field(validator=argument(check_choice, get_args(Side)))
    data: bytes = field(default=b"", validator=argument(check_type, bytes))
    event: Event = field(default="", validator=argument(check_choice, get_args(Event)))
    session: str = field(default="1", validator=argument(check_type, str))

    def __repr__(self) -> str:  # without the octets, which may be secret
        what = self.event or f"{len(self.data)} octets"
        return f"<Entry {self.session}: {self.side} {what} at {self.time:g} s>"


class Log(Protocol):
    """The receiver of a recording's entries: a `Transcript`."""

    def add(self, side: Side, data: bytes | bytearray | memoryview, *, session: str = "1") -> None: ...
    def note(self, side: Side, event: Event, *, session: str = "1") -> None: ...


#: A part of the octets of one side, as two offsets.
Span = tuple[int, int]


def secrets(entries: Iterable[Entry]) -> dict[Side, list[Span]]:
    """Return where the octets of each side contain passwords, tokens, or data from which they could be computed."""
    tracker = WireTracker(cautious=True)
    found: dict[Side, list[Span]] = {"C": [], "S": []}
    offsets: dict[Side, int] = {"C": 0, "S": 0}

    def add(side: Side, pieces: Iterable[Piece]) -> None:
        for piece in pieces:
            end = len(piece.octets.removesuffix(b"\r\n"))
            if piece.secret is not None and piece.secret < end:
                found[side].append((offsets[side] + piece.secret, offsets[side] + end))
            offsets[side] += len(piece.octets)

    for entry in entries:
        add(entry.side, tracker.feed(ROLES[entry.side], entry.data))
    for side, role in ROLES.items():
        add(side, tracker.finish(role))
    return found


def masked(data: bytes, at: int, spans: Iterable[Span]) -> Iterator[tuple[bytes, bool]]:
    """Divide ``data``, which begins at offset ``at``, into parts; return each with whether it is secret."""
    done = 0
    for begin, end in spans:
        first, last = max(begin - at, done), min(end - at, len(data))
        if first < last:
            if first > done:
                yield data[done:first], False
            yield data[first:last], True
            done = last
    if done < len(data):
        yield data[done:], False
