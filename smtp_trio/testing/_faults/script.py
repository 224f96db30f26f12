"""The rules of one fault script, and how often each has acted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from random import Random
from typing import TYPE_CHECKING

import trio
from attrs import define, field

from .._wire_tracker import Piece, Role
from .rule import ANYWHERE, Rule, Sometimes, Step
from .rules import Answer, decides
from .scope import EVERYWHERE, Scope, Subject

if TYPE_CHECKING:
    from ..._server.session import Session


def ignore(subject: Subject | None) -> None:
    """Do nothing when a rule acts."""


@define(eq=False)
class Entry:
    """A rule in use, with its counts. Streams and hooks of one script share it, so each occurrence counts once.

    Counts of octets that the side sends and of those that it receives are separate.
    """

    rule: Rule
    chance: float
    #: What the random numbers of the rule depend on, besides its counts.
    key: str
    scope: Scope = EVERYWHERE
    #: The occasions so far, and those of them in which it was the rule's turn.
    occasions: Counter[bool] = field(factory=Counter)
    taken: Counter[bool] = field(factory=Counter)
    #: Called on each occasion on which the rule has changed something.
    on_act: Callable[[Subject | None], None] = ignore
    #: The number of these occasions.
    acted: int = 0
    #: Its place among the rules of a script.
    order: int = 0
    #: Set when the rule is removed, for the sessions that wait because of it.
    removed: trio.Event = field(factory=trio.Event)

    def covers(self, subject: Subject | None) -> bool:
        """Return whether the rule acts for this subject. One without a scope acts for all."""
        return not self.scope or (subject is not None and self.scope.covers(subject))

    @property
    def remaining(self) -> int | None:
        """The number of times that the rule can still act; None without a limit."""
        if not self.rule.times:
            return None
        both = self.rule.both_ways
        taken = min(self.taken[False], self.taken[True]) if both else max(self.taken.values(), default=0)
        return max(0, self.rule.times - taken)

    def is_due(self, *, incoming: bool = False, free: bool = True) -> bool:
        """Count an occasion; return whether the rule acts, by its ``nth``, ``times`` and chance.

        ``free=False``: another rule has acted in its place, so the occasion counts for ``nth`` only.
        """
        rule = self.rule
        self.occasions[incoming] += 1
        count = self.occasions[incoming]
        if not free or count < rule.nth or (rule.times and self.taken[incoming] >= rule.times):
            return False
        self.taken[incoming] += 1
        return self.chance >= 1 or Random(f"chance {self.key} {count}").random() < self.chance

    def count(self, subject: Subject | None) -> None:
        """Count that the rule has acted."""
        self.acted += 1
        self.on_act(subject)

    def change(self, piece: Piece, steps: list[Step], *, incoming: bool) -> list[Step]:
        """Return the steps of the rule for a piece."""
        random = Random(f"octets {self.key} {self.occasions[incoming]}")
        return self.rule.change(piece, steps, random, incoming=incoming)


def entry_of(
    rule: Rule | Sometimes, key: str, scope: Scope = EVERYWHERE, on_act: Callable[[Subject | None], None] = ignore
) -> Entry:
    """Return a rule in use that has not acted so far."""
    inner, chance = (rule.rule, rule.chance) if isinstance(rule, Sometimes) else (rule, 1)
    return Entry(inner, chance, key, scope, on_act=on_act)


# A command is compared with the rules for its place that are for everybody or for one of its recipients, and with no
# others: parallel tests may have thousands of rules, each for a recipient of its own. A pattern of recipients is among
# the rules for everybody.


class _Decisions:
    """The rules that decide, by their place and by the recipient that they are for."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str | None], dict[Entry, None]] = {}

    def add(self, entry: Entry) -> None:
        """Add a rule after all others."""
        self._found.setdefault(self._key(entry), {})[entry] = None

    def remove(self, entry: Entry) -> None:
        """Remove a rule, if it is there."""
        key = self._key(entry)
        entries = self._found.get(key, {})
        entries.pop(entry, None)
        if not entries:
            self._found.pop(key, None)

    def _key(self, entry: Entry) -> tuple[str, str | None]:
        at: str = getattr(entry.rule, "at", ANYWHERE)
        return at, entry.scope.address

    def at(self, place: str, subject: Subject | None) -> list[Entry]:
        """Return the rules that may act, in their order."""
        recipients = () if subject is None else dict.fromkeys(path.lower() for path in subject.recipients)
        keys = [(at, key) for at in (place, ANYWHERE) for key in (None, *recipients)] if self._found else []
        lists = [entries for key in keys if (entries := self._found.get(key))]
        found = [entry for entries in lists for entry in entries]
        return found if len(lists) < 2 else sorted(found, key=lambda entry: entry.order)


class Script:
    """Rules in use. Streams and hooks of one script share it."""

    def __init__(self, entries: Iterable[Entry] = (), *, live: bool = False) -> None:
        #: Hooks act on the rules that decide; streams leave these out.
        self.hooked = live
        #: Rules are added and removed while sessions run. Otherwise they never change.
        self.live = live
        #: The rules in their order.
        self.entries: dict[Entry, None] = {}
        self._streams: dict[tuple[Role, bool], tuple[Entry, ...]] = {}
        self._decisions = _Decisions()
        self._last = 0
        for entry in entries:
            self.add(entry)

    def add(self, entry: Entry) -> None:
        """Add a rule after all others."""
        self._last += 1
        entry.order = self._last
        self.entries[entry] = None
        self._streams.clear()
        if decides(entry.rule):
            self._decisions.add(entry)

    def remove(self, entry: Entry) -> None:
        """Remove a rule, if it is there."""
        if entry in self.entries:
            del self.entries[entry]
            self._streams.clear()
            self._decisions.remove(entry)

    def for_stream(self, role: Role) -> tuple[Entry, ...]:
        """Return the rules that act on this side's octets, in the order in which they are applied."""
        found = self._streams.get((role, self.hooked))
        if found is None:
            entries = (each for each in self.entries if each.rule.by == role)
            kept = [each for each in entries if not (self.hooked and decides(each.rule))]
            found = self._streams[role, self.hooked] = tuple(sorted(kept, key=lambda each: each.rule.priority))
        return found

    def for_decision(self, at: str, subject: Subject | None = None) -> list[Entry]:
        """Return the rules that act now, when a session decides about this command.

        Of several that would answer it, the first one acts, and the others wait for the next occasion.
        """
        due: list[Entry] = []
        answered = False
        for each in self._decisions.at(at, subject):
            if not each.covers(subject):
                continue
            answers = isinstance(each.rule, Answer)
            if each.is_due(free=not (answers and answered)):
                answered = answered or answers
                each.count(subject)
                due.append(each)
        return due


def cancel_at_end(nursery: trio.Nursery, entry: Entry, session: Session) -> None:
    """Cancel a nursery when a rule is removed or the server of a session stops."""

    async def wait(event: trio.Event) -> None:
        await event.wait()
        nursery.cancel_scope.cancel()

    nursery.start_soon(wait, entry.removed)
    nursery.start_soon(wait, session.server._state.stop_called)
