"""The rules of a fault script with their counts."""

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
    """Do nothing: the default of `Entry.on_act`."""


@define(eq=False)
class Entry:
    """A rule with its counts. The streams and hooks of a script share it, so each occurrence counts once.

    Sent and received octets are counted separately.
    """

    rule: Rule
    chance: float
    #: The seed of the random numbers of the rule, together with its counts.
    key: str
    scope: Scope = EVERYWHERE
    #: The occasions so far, and those on which no other rule acted in place of this one.
    occasions: Counter[bool] = field(factory=Counter)
    taken: Counter[bool] = field(factory=Counter)
    #: A function that is called each time the rule has acted.
    on_act: Callable[[Subject | None], None] = ignore
    #: The number of times that the rule has acted.
    acted: int = 0
    #: The position of the rule in its script.
    order: int = 0
    #: An event that is set when the rule is removed. It ends the waits that the rule has caused.
    removed: trio.Event = field(factory=trio.Event)

    def covers(self, subject: Subject | None) -> bool:
        """Return whether the subject is in the scope of the rule. A rule without a scope applies to all."""
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
        """Count an occasion, and return whether the rule acts, given its ``nth``, ``times`` and chance.

        With ``free=False`` another rule has acted in its place, so the occasion counts only for ``nth``.
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
    """Return an entry for a rule, with its counts at 0."""
    inner, chance = (rule.rule, rule.chance) if isinstance(rule, Sometimes) else (rule, 1)
    return Entry(inner, chance, key, scope, on_act=on_act)


# Parallel tests may have thousands of rules, each for a different recipient. So a command is compared only with those rules
# for its place that apply to all recipients or to one of its own. Rules with a pattern are among those for all recipients.


class _Decisions:
    """The rules that act through hooks, by place and recipient."""

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
    """The rules of a script, which its streams and hooks share."""

    def __init__(self, entries: Iterable[Entry] = (), *, live: bool = False) -> None:
        #: Whether hooks carry out the rules that refuse or delay, so that streams skip them.
        self.hooked = live
        #: Whether rules can be added and removed while sessions run.
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
        """Return the rules that act on the current command of a session.

        If several would reply to it, only the first one acts, and the others wait for the next occasion.
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
