"""Hypothesis strategies for fault scripts::

    from smtp_trio.testing.strategies import fault_scripts

    @given(fault_scripts(by="client"))
    def test_no_torn_message(faults): ...

Simple values come first in all lists, so examples shrink to few rules, few octets and short times. A script's repr is
the Python expression that makes it. Requires ``pip install smtp-trio[testing]``; Hypothesis is imported when a strategy
is requested.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from attrs import frozen

from ..protocol.arguments import check_choice, check_items, check_number, check_type
from ._faults.faults import Faults
from ._faults.rule import Rule, Sometimes
from ._faults.rules import (
    Advertise,
    Answer,
    Close,
    Coalesce,
    Delay,
    Early,
    Extra,
    Garbage,
    Hang,
    Ignore,
    Omit,
    Replace,
    Reset,
    Throttle,
    Trickle,
)
from ._wire_tracker import BODY, DOT, GREETING, Role

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

__all__ = ["fault_scripts", "rules"]

T = TypeVar("T")

#: Places of faults, the most important ones first.
PLACES = (BODY, DOT, "MAIL", "RCPT", "DATA", "EHLO", GREETING, "BDAT", "RSET", "QUIT")
#: Numbers of octets or seconds. There are few of them, so that each is tried.
NUMBERS = (0, 1, 2, 3, 5, 10, 20, 30, 60, 100, 120, 180, 300, 600, 1000, 4096, 10_000)
#: ``nth`` and ``times`` of a rule.
TIMES = ((1, 1), (1, 2), (2, 1), (3, 1), (4, 1), (1, 0), (2, 0))
CHANCES = (0.5, 0.1, 0.9)
#: The most segments into which a generated rule divides a command, a reply or a part of a message. With long messages
#: and segments of one octet, one example would take minutes.
MAX_SEGMENTS = 100
#: Refusals that each command may have, and additional ones of some commands.
REFUSALS = (451, 421)
MORE_REFUSALS: dict[str, tuple[int, ...]] = {
    "MAIL": (452, 550),
    "RCPT": (450, 452, 550),
    "DATA": (554,),
    DOT: (452, 552, 554),
    "BDAT": (452, 554),
}
KEYWORDS = ("PIPELINING", "CHUNKING", "SIZE", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES")
#: Invalid or unsolicited replies.
INVALID_REPLIES = (b"", b"250 ok\r\n", b"354 go on\r\n", b"250-half\r\n", b"299 what\r\n", b"hello\r\n")


@frozen
class Chosen:
    """The values that Hypothesis has chosen for a rule.

    They are the same for all kinds of rules, so Hypothesis can replace one kind by another.
    """

    by: Role
    at: str
    number: int
    nth: int
    times: int

    @property
    def when(self) -> dict[str, Any]:
        """The keyword arguments that all rules have."""
        return {"nth": self.nth, "times": self.times, "by": self.by}

    @property
    def cut(self) -> int:
        """The octets before the end of the connection. At the end of a client's message, which has 3 octets after DATA
        and 1 after BDAT, at most all of them: the message may be stored then.
        """
        return self.number % 4 if self.at == DOT and self.by == "client" else self.number

    @property
    def reply(self) -> str:
        """The place of a reply."""
        return DOT if self.at == BODY else self.at

    def one_of(self, values: Sequence[T]) -> T:
        """Return the value that the number selects."""
        return values[self.number % len(values)]

    def refusal(self) -> int:
        """Return a refusal code that the reply may have."""
        return self.one_of((*REFUSALS, *MORE_REFUSALS.get(self.reply, ())))


Kind = Callable[[Chosen], Rule]

#: Rules for either side, the simplest first, and rules for one side only.
BOTH: dict[type[Rule], Kind] = {
    Close: lambda it: Close(it.at, it.cut, **it.when),
    Reset: lambda it: Reset(it.at, it.cut, **it.when),
    Delay: lambda it: Delay(it.at, it.number, **it.when),
    Hang: lambda it: Hang(it.at, **it.when),
    Garbage: lambda it: Garbage(it.reply, it.number % 33, **it.when),
    Coalesce: lambda it: Coalesce(1 + it.number % 4, by=it.by),
    Trickle: lambda it: Trickle(1 + it.number % 100, max_segments=MAX_SEGMENTS, by=it.by),
    Throttle: lambda it: Throttle(1 + it.number, max_segments=MAX_SEGMENTS, by=it.by),
}
ONE: dict[Role, dict[type[Rule], Kind]] = {
    "server": {
        Answer: lambda it: Answer(it.reply, it.refusal(), nth=it.nth, times=it.times),
        Omit: lambda it: Omit(it.one_of(KEYWORDS)),
        Advertise: lambda it: Advertise("SIZE", it.number),
        Replace: lambda it: Replace(it.reply, it.one_of(INVALID_REPLIES), **it.when),
        Extra: lambda it: Extra(it.reply, it.one_of(INVALID_REPLIES), **it.when),
    },
    "client": {
        Ignore: lambda it: Ignore(it.reply, nth=it.nth, times=it.times),
        Early: lambda it: Early(it.reply, nth=it.nth, times=it.times),
    },
}


def rules(by: Role | None = None, *, exclude: Collection[type[Rule]] = ()) -> SearchStrategy[Rule]:
    """Return a strategy for rules of one side, or with None of either.

    ``exclude`` are kinds of rules that are not generated, such as ``[Hang, Throttle]``. Raises ImportError without
    Hypothesis, and ValueError if all kinds are excluded.
    """
    made: SearchStrategy[Rule] = _choices(_hypothesis(), by, exclude, ()).map(lambda chosen: chosen[0])
    return made


def fault_scripts(
    by: Role | None = None, *, max_rules: int = 4, chance: bool = False, exclude: Collection[type[Rule]] = ()
) -> SearchStrategy[Faults]:
    """Return a strategy for scripts of up to ``max_rules`` rules, for one side, or with None for both.

    ``chance``: some rules are wrapped in `Sometimes`. ``exclude`` are kinds of rules that are not generated. Each
    script is new, with its counts at 0. `Trickle` and `Throttle` divide no part of a message into more than 100
    segments, so that an example with a long message does not take minutes. Raises ImportError without Hypothesis, and
    ValueError if all kinds are excluded.
    """
    check_number(max_rules, "max_rules", integer=True)
    check_type(chance, "chance", bool)
    st = _hypothesis()
    choices = _choices(st, by, exclude, CHANCES if chance else ())
    seeds = st.integers(0, 255) if chance else st.just(0)
    made: SearchStrategy[Faults] = st.builds(_script, st.lists(choices, max_size=max_rules), seeds)
    return made


def _script(choices: list[tuple[Rule, float]], seed: int) -> Faults:
    return Faults(*(rule if chance == 1 else Sometimes(rule, chance) for rule, chance in choices), seed=seed)


def _choices(
    st: Any,  # noqa: ANN401
    by: Role | None,
    exclude: Collection[type[Rule]],
    chances: tuple[float, ...],
) -> SearchStrategy[tuple[Rule, float]]:
    """Return a strategy for rules with their chances.

    Each needs four choices only, which helps Hypothesis to shrink.
    """
    check_choice(by, "by", get_args(Role), optional=True)
    exclude = check_items(exclude, "exclude", type)
    sides: tuple[Role, ...] = ("server", "client") if by is None else (by,)
    kinds = [(side, make) for side in sides for kind, make in {**BOTH, **ONE[side]}.items() if kind not in exclude]
    if not kinds:
        raise ValueError("all kinds of rules are excluded")
    made: SearchStrategy[tuple[Rule, float]] = st.builds(
        lambda kind, at, number, when: (kind[1](Chosen(kind[0], at, number, *when[:2])), when[2]),
        st.sampled_from(kinds),
        st.sampled_from(PLACES),
        st.sampled_from(NUMBERS),
        st.sampled_from([(*times, chance) for chance in (1, *chances) for times in TIMES]),
    )
    return made


def _hypothesis() -> Any:  # noqa: ANN401  (Hypothesis is optional)
    try:
        from hypothesis import strategies
    except ImportError as exc:
        raise ImportError("fault strategies need Hypothesis: pip install smtp-trio[testing]") from exc
    return strategies
