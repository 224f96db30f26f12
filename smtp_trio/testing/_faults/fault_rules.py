"""`FaultRules`: a list of rules and policies that can be changed while servers run."""

from __future__ import annotations

from collections.abc import Iterator

from attrs import define, evolve, field

from ..._server.hooks import Hooks
from ..._server.log_events import FAULT_ACTED
from ...protocol.arguments import check_type
from .grammar import SERVER_KINDS
from .live import LiveDecisions, LiveScript, PolicyEntry
from .policy import Policy
from .rule import Rule, Sometimes
from .rules import decides
from .scope import Scope, Subject
from .script import Entry, entry_of
from .text import AnyRule, ScopedRule, read_rule

#: The maximum number of rules in a list, since each command is compared with all of them.
MAX_RULES = 10_000


@define(eq=False)
class ActiveRule:
    """A rule or policy in a `FaultRules` list. Its counts change while it is in use."""

    #: The number of the rule, which is never used again in the list.
    id: int
    #: The rule as text, with its scope.
    text: str
    _scoped: ScopedRule
    #: The seed of the random numbers.
    seed: int
    #: The number of times that the rule has acted.
    acted: int = 0
    _entry: Entry | PolicyEntry = field(init=False)

    @property
    def rule(self) -> AnyRule:
        """The rule or policy, without its scope."""
        return self._scoped.rule

    @property
    def kind(self) -> str:
        """The kind of the rule, such as "answer" or "greylist"."""
        return self._scoped.kind

    @property
    def recipient(self) -> str | None:
        """The recipient or pattern that the rule applies to; None for all."""
        return self._scoped.scope.recipient

    @property
    def client(self) -> str | None:
        """The client or network that the rule applies to; None for all."""
        return self._scoped.scope.client

    @property
    def remaining(self) -> int | None:
        """The number of times that the rule can still act; None without a limit."""
        return self._entry.remaining if isinstance(self._entry, Entry) else None

    @property
    def used_up(self) -> bool:
        """True if the rule has reached its limit."""
        return self.remaining == 0

    def __repr__(self) -> str:
        return f"<ActiveRule {self.id}: {self.text}, acted: {self.acted}>"


class FaultRules:
    """An ordered list of rules and policies, which can be changed while servers run.

    They act in the server ``Server(rules.hooks(hooks))``. A change takes effect with the next command of each session.
    Rules for one place act in the order of the list. If several would reply to a command, only the first one does,
    and the others wait for the next occasion. Each rule counts over all sessions. The same rules, seeds and commands
    give the same faults. An empty list adds no cost to a session.
    """

    def __init__(self) -> None:
        self._rules: dict[int, ActiveRule] = {}
        self._last_id = 0
        self._script = LiveScript()

    def hooks(self, hooks: Hooks | None = None) -> Hooks:
        """Return hooks around ``hooks`` with these rules.

        :raises TypeError: ``hooks`` is not an instance of `Hooks`.
        """
        check_type(hooks, "hooks", Hooks, optional=True)
        return LiveDecisions(Hooks() if hooks is None else hooks, self._script)

    def add(
        self,
        rule: str | AnyRule | ScopedRule,
        *,
        recipient: str | None = None,
        client: str | None = None,
        seed: int = 0,
    ) -> ActiveRule:
        """Add a rule at the end of the list, and return it with its counts.

        :param rule: the text of a rule, a rule, or a `Policy`.
        :param recipient: the recipient that the rule applies to, which replaces one in the text: an address,
            ``@example.org`` or a pattern such as ``bob+*@example.org``. Case is ignored.
        :param client: the client that the rule applies to: an address, a network, or its name in HELO or EHLO.
        :param seed: the seed of the random numbers.
        :raises TypeError: an argument has a wrong type.
        :raises ValueError: the text or an argument is invalid; the rule has no text form, is a fault of a client, or
            could never act in this scope; or the list is full.
        """
        check_type(rule, "rule", (str, Rule, Sometimes, Policy, ScopedRule))
        check_type(seed, "seed", int)
        scoped = read_rule(rule, SERVER_KINDS) if isinstance(rule, str) else rule
        if not isinstance(scoped, ScopedRule):
            scoped = ScopedRule(scoped)
        given = {"recipient": recipient, "client": client}
        scope = Scope(
            **{name: getattr(scoped.scope, name) if value is None else value for name, value in given.items()}
        )
        scoped = evolve(scoped, scope=scope)
        inner = scoped.rule.rule if isinstance(scoped.rule, Sometimes) else scoped.rule
        if isinstance(inner, Rule) and inner.by != "server":
            raise ValueError(f"{scoped.kind}: a rule by a client cannot act in a server")
        if len(self._rules) >= MAX_RULES:
            raise ValueError(f"a list can have at most {MAX_RULES} rules: remove some of them")
        active = ActiveRule(self._last_id + 1, str(scoped), scoped, seed)
        active._entry = self._make_entry(active, scoped)
        self._last_id = active.id
        self._rules[active.id] = active
        self._script.use(active._entry)
        return active

    def get(self, id: int) -> ActiveRule | None:
        """Return the rule with this id, or None."""
        return self._rules.get(id)

    def remove(self, id: int) -> bool:
        """Remove the rule with this id; return False if it does not exist. Sessions that wait because of it continue."""
        active = self._rules.pop(id, None)
        if active is None:
            return False
        self._script.drop(active._entry)
        if isinstance(active._entry, Entry):
            active._entry.removed.set()
        return True

    def clear(self) -> None:
        """Remove all rules."""
        for number in list(self._rules):
            self.remove(number)

    def __iter__(self) -> Iterator[ActiveRule]:
        """Iterate over the rules in their order, including those that are used up."""
        return iter(tuple(self._rules.values()))

    def __len__(self) -> int:
        return len(self._rules)

    def __bool__(self) -> bool:
        """Return True, also for an empty list."""
        return True

    def _make_entry(self, active: ActiveRule, scoped: ScopedRule) -> Entry | PolicyEntry:
        def act(subject: Subject | None) -> None:
            active.acted += 1
            session = None if subject is None else subject.session
            # A rule without a limit, such as `throttle`, would otherwise log a record for each reply.
            frequent = isinstance(active._entry, Entry) and active.remaining is None and not decides(active._entry.rule)
            if session is None or not (frequent and session.context.get(active)):
                FAULT_ACTED.log(
                    id=None if session is None else session.id,
                    peer=None if session is None else str(session.peer),
                    number=active.id,
                    times=active.acted,
                    rule=active.text,
                )
            if session is not None and frequent:
                session.context[active] = True
            if active.used_up:
                self._script.drop(active._entry)

        if isinstance(scoped.rule, Policy):
            return PolicyEntry(scoped.rule.make(), scoped.scope, act)
        return entry_of(scoped.rule, f"{active.seed} {active.text}", scoped.scope, act)
