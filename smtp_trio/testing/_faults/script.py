"""The rules of one fault script, and how often each has acted."""

from __future__ import annotations

from collections import Counter
from random import Random

from .._wire_tracker import Piece, Role
from .rule import Rule, Sometimes, Step
from .rules import decides


class Script:
    """Rules with their counts. Streams and hooks of one script share it, so each occurrence counts once.

    A rule is identified by its index. Counts of octets that the side sends and of those that it receives are separate.
    """

    def __init__(self, rules: tuple[Rule | Sometimes, ...], seed: int) -> None:
        self.seed = seed
        #: Hooks act on the rules that decide; streams leave these out.
        self.hooked = False
        self._rules = [(each.rule, each.chance) if isinstance(each, Sometimes) else (each, 1) for each in rules]
        self._counts: Counter[tuple[int, bool]] = Counter()
        #: The indices of the rules that have changed something.
        self.acted: set[int] = set()

    def for_stream(self, role: Role) -> list[tuple[int, Rule]]:
        """Return the rules that act on this side's octets, in the order in which they are applied."""
        rules = [
            (index, rule)
            for index, (rule, _) in enumerate(self._rules)
            if rule.by == role and not (self.hooked and decides(rule))
        ]
        return sorted(rules, key=lambda each: each[1].priority)

    def for_decision(self, at: str) -> list[Rule]:
        """Return the rules that act now, when a session decides on this command."""
        piece = Piece(at, b"")
        due = [
            index
            for index, (rule, _) in enumerate(self._rules)
            if decides(rule) and rule.acts_on(piece, incoming=False) and self.is_due(index)
        ]
        self.acted.update(due)
        return [self._rules[index][0] for index in due]

    def is_due(self, index: int, *, incoming: bool = False) -> bool:
        """Count an occasion of a rule; return whether it acts, by its ``nth``, ``times`` and chance."""
        rule, chance = self._rules[index]
        self._counts[index, incoming] += 1
        count = self._counts[index, incoming]
        if count < rule.nth or (rule.times and count >= rule.nth + rule.times):
            return False
        return chance >= 1 or Random(f"chance {self.seed} {index} {count}").random() < chance

    def change(self, index: int, rule: Rule, piece: Piece, steps: list[Step], *, incoming: bool) -> list[Step]:
        """Return the steps of a rule for a piece."""
        random = Random(f"octets {self.seed} {index} {self._counts[index, incoming]}")
        changed = rule.change(piece, steps, random, incoming=incoming)
        if changed != steps:
            self.acted.add(index)
        return changed
