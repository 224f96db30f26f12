"""The scenes, a table for each section."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .._case import Rule
from . import danger, data, extensions, habits, lost, pipelining, refusals, replies, security, session, slow

#: Section, title and table, in the order in which they are played. What is said of all connections comes last.
SECTIONS: Sequence[tuple[str, str, Sequence[Rule]]] = (
    ("session", "Sessions", session.CASES),
    ("replies", "Replies of every form", replies.CASES),
    ("refusals", "Refusals", refusals.CASES),
    ("lost", "Lost connections", lost.CASES),
    ("data", "Messages", data.CASES),
    ("pipelining", "PIPELINING", pipelining.CASES),
    ("size", "SIZE", extensions.SIZE_CASES),
    ("encoding", "8BITMIME and SMTPUTF8", extensions.ENCODING_CASES),
    ("chunking", "CHUNKING", extensions.CHUNKING_CASES),
    ("starttls", "STARTTLS", security.STARTTLS_CASES),
    ("auth", "AUTH", security.AUTH_CASES),
    ("slow", "Time", slow.CASES),
    ("danger", "Attacks", danger.CASES),
    ("habits", "All connections", habits.HABITS),
)

SCENES: Sequence[Rule] = tuple(rule for _, _, rules in SECTIONS for rule in rules)
TITLES: Mapping[str, str] = {name: title for name, title, _ in SECTIONS}
