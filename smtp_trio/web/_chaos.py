"""`Chaos`: the triggers of Mailpit, implemented as fault rules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from attrs import frozen

if TYPE_CHECKING:
    from ..testing import FaultRules

#: The command and the default reply code of each trigger.
TRIGGERS: Mapping[str, tuple[str, int]] = {
    "Sender": ("MAIL", 451),
    "Recipient": ("RCPT", 451),
    "Authentication": ("AUTH", 535),
}


@frozen
class Trigger:
    """A trigger: the percentage of commands that are refused, and the reply code."""

    code: int
    probability: int


class Chaos:
    """The fault rules that implement the triggers."""

    def __init__(self) -> None:
        self._rules: dict[str, tuple[int, Trigger]] = {}
        self.seed: int = 0

    def triggers(self, rules: FaultRules) -> dict[str, Trigger]:
        """Return all triggers. The probability is 0 if the rule was removed in another way."""
        found = {name: Trigger(code, 0) for name, (_, code) in TRIGGERS.items()}
        return found | {name: trigger for name, (rule, trigger) in self._rules.items() if rules.get(rule) is not None}

    def change(self, rules: FaultRules, triggers: Mapping[str, Trigger], seed: int) -> None:
        """Replace all triggers. Raises ValueError, and changes nothing, if a code is invalid for the command."""
        added: dict[str, tuple[int, Trigger]] = {}
        try:
            for name, trigger in triggers.items():
                if trigger.probability:
                    text = f"sometimes {trigger.probability / 100:g} answer {TRIGGERS[name][0]} {trigger.code} always"
                    added[name] = rules.add(text, seed=seed).id, trigger
        except ValueError:
            for rule, _ in added.values():
                rules.remove(rule)
            raise
        for rule, _ in self._rules.values():
            rules.remove(rule)
        self._rules, self.seed = added, seed
