"""Fault scripts: rules for one or both peers, played over any stream, and inside a server's session where it decides."""

from __future__ import annotations

from collections import Counter
from random import Random

import trio

from ..._server.hooks import Hooks
from ..._server.server import Server
from .decisions import Decisions, as_hooks, scripted
from .faulty_stream import FaultyStream
from .rule import Rule, Side, Sometimes, Step
from .rules import decides
from .wire_tracker import Piece


class Faults:
    """Rules that are played together.

    The rules are data; how often each has acted is kept here, over all the sessions that this plays in, so that a client which comes
    again finds a fault of ``times=1`` gone. The same rules, the same seed and the same octets give the same faults. `again` gives a
    script that has not been played yet.

    ``Server(faults.hooks(hooks))`` is all that a server of ours needs; a client's stream goes through ``wrap(stream,
    side="client")``. `memory_pair` does both. Behind STARTTLS, rules for a client's octets cannot know what those mean any more.
    """

    def __init__(self, *rules: Rule | Sometimes, seed: int = 0) -> None:
        self.rules: tuple[Rule | Sometimes, ...] = rules
        self.seed = seed
        self._plain = [(each.rule, each.chance) if isinstance(each, Sometimes) else (each, 1) for each in rules]
        self._counts: Counter[tuple[int, bool]] = Counter()
        self._hooked = False
        self._servers: list[Server] = []

    def __repr__(self) -> str:
        """Python that makes this script."""
        words = [repr(rule) for rule in self.rules]
        return f"Faults({', '.join([*words, f'seed={self.seed}'] if self.seed else words)})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Faults) and (self.rules, self.seed) == (other.rules, other.seed)

    def __hash__(self) -> int:
        return hash((self.rules, self.seed))

    def again(self) -> Faults:
        """The same script, from its beginning."""
        return Faults(*self.rules, seed=self.seed)

    def wrap(self, stream: trio.abc.Stream, *, side: Side) -> FaultyStream:
        """This side's end of a connection, over which it will have these faults.

        Where no hook of ours decides, as with another's server, the rules that refuse or delay are played on its octets.
        """
        return FaultyStream(stream, side, self)

    def hooks(self, hooks: Hooks | None = None) -> Hooks:
        """These hooks, but for what the rules for a server decide, refuse and delay. They see to its octets, too."""
        self._hooked = True
        return Decisions(Hooks() if hooks is None else hooks, self, every=True)

    def install(self, server: Server) -> None:
        """Let the rules decide in the sessions of this server whose streams were wrapped, and in no others."""
        self._hooked = True
        if server not in self._servers:
            self._servers.append(server)
            if scripted(server.hooks, self):  # `hooks` made them: a rule that is asked twice counts double
                return
            decisions = Decisions(as_hooks(server._state.hooks), self, every=False)
            server._state.install({**server._state.hooks, **decisions.installed()})

    # --- how they are played --------------------------------------------------------------------------------------------

    def on_octets(self, side: Side) -> list[tuple[int, Rule]]:
        """The rules that this side's stream plays."""
        rules = [
            (index, rule)
            for index, (rule, _) in enumerate(self._plain)
            if rule.by == side and not (self._hooked and decides(rule))
        ]
        return sorted(rules, key=lambda each: each[1].turn)

    def deciding(self, at: str) -> list[Rule]:
        """The rules that act now that a session decides on this command."""
        piece = Piece(at, b"")
        return [
            rule
            for index, (rule, _) in enumerate(self._plain)
            if decides(rule) and rule.acts_on(piece, heard=False) and self.is_due(index)
        ]

    def is_due(self, index: int, *, heard: bool = False) -> bool:
        """Whether a rule acts, now that it could: its ``nth``, its ``times``, and its chance."""
        rule, chance = self._plain[index]
        self._counts[index, heard] += 1
        count = self._counts[index, heard]
        if count < rule.nth or (rule.times and count >= rule.nth + rule.times):
            return False
        return chance >= 1 or Random(f"chance {self.seed} {index} {count}").random() < chance

    def change(self, index: int, rule: Rule, piece: Piece, steps: list[Step], *, heard: bool) -> list[Step]:
        """What a rule makes of a piece."""
        chance = Random(f"octets {self.seed} {index} {self._counts[index, heard]}")
        return rule.change(piece, steps, chance, heard=heard)
