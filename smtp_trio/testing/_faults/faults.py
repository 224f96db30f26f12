"""Fault scripts: rules for one side or both, which act on any stream and in the sessions of a server."""

from __future__ import annotations

from typing import get_args

import trio

from ..._server.hooks import Hooks
from ..._server.server import Server
from ...protocol.arguments import check_choice, check_type
from .._wire_tracker import Role
from .decisions import Decisions, has_decisions
from .faulty_stream import FaultyStream
from .rule import Rule, Sometimes
from .script import Script, entry_of


class Faults:
    """Rules that act together.

    Rules are values. A `Faults` object counts how often each has acted, over all of its sessions: a client that connects
    again does not get a fault with ``times=1`` a second time. So use a new object in each test, or `again`, which
    returns the same script with its counts at 0. The same rules, seed and octets give the same faults.

    A server of this package needs only ``Server(faults.hooks(hooks))``. The stream of a client is wrapped with
    ``wrap(stream, side="client")``. `memory_pair` does both. Rules for a client do not act after STARTTLS, because its
    octets are encrypted.
    """

    def __init__(self, *rules: Rule | Sometimes, seed: int = 0) -> None:
        for rule in rules:
            check_type(rule, "each rule", (Rule, Sometimes))
        check_type(seed, "seed", int)
        self.rules: tuple[Rule | Sometimes, ...] = rules
        self.seed: int = seed
        self._script = Script(entry_of(rule, f"{seed} {index}") for index, rule in enumerate(rules))
        self._servers: list[Server] = []

    def __repr__(self) -> str:
        """Return the Python expression that makes this script."""
        arguments = [repr(rule) for rule in self.rules]
        return f"Faults({', '.join([*arguments, f'seed={self.seed}'] if self.seed else arguments)})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Faults) and (self.rules, self.seed) == (other.rules, other.seed)

    def __hash__(self) -> int:
        return hash((self.rules, self.seed))

    @property
    def unused(self) -> tuple[Rule, ...]:
        """The rules that have not acted, except for those in `Sometimes`. Their place did not occur, not often enough, or
        was too short.
        """
        pairs = zip(self.rules, self._script.entries, strict=True)
        return tuple(rule for rule, entry in pairs if isinstance(rule, Rule) and not entry.acted)

    def again(self) -> Faults:
        """Return the same script with its counts at 0."""
        return Faults(*self.rules, seed=self.seed)

    def wrap(self, stream: trio.abc.Stream, *, side: Role) -> FaultyStream:
        """Return a stream around one end of a connection, with the faults of ``side`` ("client" or "server").

        Rules of a server that refuse or delay change its octets, unless `hooks` or `install` was called.
        """
        check_type(stream, "stream", trio.abc.Stream)
        check_choice(side, "side", get_args(Role))
        return FaultyStream(stream, side, self._script)

    def hooks(self, hooks: Hooks | None = None) -> Hooks:
        """Return hooks around ``hooks`` with the faults of a server. They also wrap the stream of each session."""
        check_type(hooks, "hooks", Hooks, optional=True)
        self._script.hooked = True
        return Decisions(Hooks() if hooks is None else hooks, self._script, every=True)

    def install(self, server: Server) -> None:
        """Make the rules that refuse or delay act in those sessions of ``server`` whose streams are wrapped."""
        check_type(server, "server", Server)
        self._script.hooked = True
        if server not in self._servers:
            self._servers.append(server)
            if has_decisions(server.hooks, self._script):  # made by `hooks`; otherwise each occasion would count twice
                return
            own = Hooks()
            for name, hook in server._state.hooks.items():
                setattr(own, name, hook)
            decisions = Decisions(own, self._script, every=False)
            server._state.install({**server._state.hooks, **decisions.installed()})
