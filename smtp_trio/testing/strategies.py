"""Fault scripts for Hypothesis, which finds one that breaks your code, and shrinks it to the rule that it takes.

    from smtp_trio.testing.strategies import fault_scripts

    @given(fault_scripts(by="client"))
    def test_no_torn_message(faults): ...

What is simple stands first everywhere, so it shrinks to no rules, few octets and short waits; and a script prints as the Python that
makes it. Needs ``pip install smtp_trio[testing]``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._faults import Faults
from ._hearsay import BODY, DOT, GREETING
from ._rule import Rule, Side, Sometimes
from ._rules import (
    Answer,
    Close,
    Delay,
    Drop,
    Early,
    Extra,
    Garbage,
    Hang,
    Ignore,
    Instead,
    Lie,
    Pace,
    Reset,
    Together,
    Trickle,
)

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

#: Where something can go wrong, what is most likely to matter first.
PLACES = (BODY, DOT, "MAIL", "RCPT", "DATA", "EHLO", GREETING, "BDAT", "RSET", "QUIT")
#: Refusals that every command may have, and those that are of one alone.
REFUSALS = [
    ("MAIL", 451),
    ("RCPT", 450),
    ("RCPT", 550),
    ("RCPT", 452),
    ("DATA", 451),
    ("DATA", 554),
    (DOT, 451),
    (DOT, 552),
]
REFUSALS += [(at, 421) for at in (GREETING, "EHLO", "MAIL", "RCPT", "DATA", DOT)]
KEYWORDS = ("PIPELINING", "CHUNKING", "SIZE", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES")
#: Said by a server that it should not say.
NONSENSE = (b"", b"250 ok\r\n", b"354 go on\r\n", b"250-half\r\n", b"299 what\r\n", b"hello\r\n")


def rules(by: Side | None = None) -> SearchStrategy[Rule]:
    """One rule, for one side or (None) for either. Raises ImportError when there is no Hypothesis."""
    st = _hypothesis()
    sides: tuple[Side, ...] = ("server", "client") if by is None else (by,)
    kinds: list[SearchStrategy[Rule]] = []
    for side in sides:
        places = st.sampled_from(PLACES)
        when: dict[str, Any] = {"nth": st.integers(1, 4), "by": st.just(side)}
        after = st.one_of(st.integers(0, 3), st.integers(0, 10_000))
        kinds += [st.builds(Close, places, after, **when), st.builds(Reset, places, after, **when)]
        if side == "server":
            kinds += [_answers(st), st.builds(Drop, st.sampled_from(KEYWORDS)), st.builds(Lie, st.just("SIZE"), after)]
            kinds += [st.builds(kind, places, st.sampled_from(NONSENSE), **when) for kind in (Instead, Extra)]
        else:
            kinds += [st.builds(kind, places, times=st.integers(0, 2)) for kind in (Ignore, Early)]
        kinds += [
            st.builds(Delay, places, st.integers(0, 1000), **when),
            st.builds(Hang, places, **when),
            st.builds(Garbage, places, st.integers(0, 32), **when),
            st.builds(Trickle, st.integers(1, 64), by=st.just(side)),
            st.builds(Together, st.integers(1, 4), by=st.just(side)),
            st.builds(Pace, st.integers(50, 5000), by=st.just(side)),
        ]
    made: SearchStrategy[Rule] = st.one_of(kinds)
    return made


def fault_scripts(by: Side | None = None, *, max_rules: int = 4, chance: bool = False) -> SearchStrategy[Faults]:
    """Scripts of up to so many rules, for one side or (None) for both. ``chance``: some rules act only sometimes, as a seed has it.

    Each is new: none of its rules has been played. Raises ImportError when there is no Hypothesis.
    """
    st = _hypothesis()
    rule: SearchStrategy[Rule | Sometimes] = rules(by)
    if chance:
        rule = st.one_of(rule, st.builds(Sometimes, rules(by), st.sampled_from((0.5, 0.1, 0.9))))
    seeds = st.integers(0, 255) if chance else st.just(0)
    made: SearchStrategy[Faults] = st.builds(
        lambda some, seed: Faults(*some, seed=seed), st.lists(rule, max_size=max_rules), seeds
    )
    return made


def _answers(st: Any) -> SearchStrategy[Rule]:  # noqa: ANN401  (the module is there only when somebody has Hypothesis)
    made: SearchStrategy[Rule] = st.builds(
        lambda what, nth, times: Answer(*what, nth=nth, times=times),
        st.sampled_from(REFUSALS),
        st.integers(1, 4),
        st.integers(1, 3),
    )
    return made


def _hypothesis() -> Any:  # noqa: ANN401
    try:
        from hypothesis import strategies
    except ImportError as exc:
        raise ImportError("fault strategies need Hypothesis: pip install smtp_trio[testing]") from exc
    return strategies
