"""Tests of the fault strategies: Hypothesis finds a script that breaks an incorrect hook, and shrinks it to one rule."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Collection
from random import Random
from typing import Any, TypeVar

import hypothesis
import pytest
import trio
from hypothesis import Phase, given, settings
from hypothesis.strategies import SearchStrategy
from trio.testing import MockClock

import smtp_trio.testing
from smtp_trio import Body, BodyError, ClientTimeouts, Hooks, Reply, Server, Session, SMTPError
from smtp_trio.testing import (
    Answer,
    Close,
    Coalesce,
    Delay,
    Early,
    Faults,
    Garbage,
    Hang,
    Ignore,
    Reset,
    Rule,
    Sometimes,
    Throttle,
    Trickle,
    memory_pair,
)
from smtp_trio.testing.strategies import MAX_SEGMENTS, fault_scripts, rules

ME, YOU = "me@client.test", "you@mx.test"
MESSAGE = b"Subject: hi\r\n\r\nhello\r\n"
T = TypeVar("T")


def find(strategy: SearchStrategy[T], condition: Callable[[T], bool]) -> T:
    """Return the smallest example that meets the condition, and the same one in each run.

    Of 100 examples, the default, it may be that none meets it. The phase "explain" uses a tracer, which is slow.
    """
    many = settings(max_examples=2000, phases=[Phase.generate, Phase.shrink])
    return hypothesis.find(strategy, condition, settings=many, random=Random(7))


class Store(Hooks):
    """Correct hooks that keep and count messages."""

    def __init__(self) -> None:
        self.kept: list[bytes] = []
        self.count = 0
        self.errors: list[Exception] = []

    async def data(self, session: Session, body: Body) -> Reply | None:
        self.kept.append(await body.read())
        self.count += 1
        return None

    async def error(self, server: Server, error: Exception) -> None:
        self.errors.append(error)


class KeepsPartialMessages(Store):
    """Incorrect hooks that keep an incomplete message."""

    async def data(self, session: Session, body: Body) -> Reply | None:
        octets = b""
        try:
            async for piece in body:
                octets += piece
        except BodyError:
            pass
        self.kept.append(octets)
        self.count += 1
        return None


class CountsTooEarly(Store):
    """Incorrect hooks that count a message before its end."""

    async def data(self, session: Session, body: Body) -> Reply | None:
        self.count += 1
        self.kept.append(await body.read())
        return None


class DropsSlowMessages(Store):
    """Incorrect hooks that discard a message that takes five seconds, but accept it."""

    async def data(self, session: Session, body: Body) -> Reply | None:
        began = trio.current_time()
        octets = await body.read()
        if trio.current_time() - began < 5:
            self.kept.append(octets)
        self.count += 1
        return None


def session(store: Store, faults: Faults) -> None:
    """Send one message from a client to a server, in a run of its own."""

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            no_timeout = ClientTimeouts.all(0)
            client = await memory_pair(nursery, store, faults=faults, timeout=no_timeout)
            try:
                with trio.move_on_after(10_000):
                    async with client:
                        await client.send(ME, [YOU], MESSAGE)
            except SMTPError:
                pass
            finally:
                await client.aclose()

    trio.run(main, clock=MockClock(autojump_threshold=0))


def breaks(store: type[Store], faults: Faults) -> bool:
    """Return whether this store has kept an incomplete message, or has counted one that it has not kept."""
    made = store()
    session(made, faults.again())
    return any(octets != MESSAGE for octets in made.kept) or made.count != len(made.kept)


@pytest.mark.parametrize(
    ("store", "scripts"),
    [
        (KeepsPartialMessages, ["Faults(Close('body', by='client'))"]),
        (CountsTooEarly, ["Faults(Close('body', by='client'))"]),
        (
            DropsSlowMessages,
            ["Faults(Delay('body', 5, by='client'))", "Faults(Throttle(1, by='client', max_segments=100))"],
        ),
    ],
)
def test_incorrect_hook_is_detected(store: type[Store], scripts: list[str]) -> None:
    """The script is minimal: one rule, with the smallest numbers."""
    found = find(fault_scripts(by="client", max_rules=3), lambda faults: breaks(store, faults))
    assert len(found.rules) == 1
    assert repr(found) in scripts
    # The output can be pasted into a test.
    assert breaks(store, eval(repr(found), dict(vars(smtp_trio.testing))))
    assert not breaks(Store, found)


@settings(max_examples=150)
@given(fault_scripts(chance=True))
@pytest.mark.slow
def test_correct_hook_passes(faults: Faults) -> None:
    """With any faults at either end, the server keeps only complete messages, and no hook fails."""
    store = Store()
    session(store, faults)
    assert store.errors == []
    # A client that ignores replies may send other octets as a message, but never a part of its message.
    assert all(octets in (MESSAGE, b"") or by_garbage(faults) for octets in store.kept)


def by_garbage(faults: Faults) -> bool:
    """Return whether the client sent something else as its message."""
    return any(name in repr(faults) for name in ("Garbage", "Replace", "Extra"))


@settings(max_examples=300)
@given(fault_scripts(chance=True))
def test_repr_of_a_script_is_python(faults: Faults) -> None:
    assert eval(repr(faults), dict(vars(smtp_trio.testing))) == faults


@pytest.mark.slow
def test_shrinks_to_no_rules() -> None:
    smallest: Any = find(fault_scripts(), lambda faults: True)
    assert smallest == Faults()
    assert find(rules(), lambda rule: True) == Close("body")
    only_server = find(fault_scripts(by="server"), lambda faults: len(faults.rules) > 1)
    assert only_server == Faults(Close("body"), Close("body"))


@pytest.mark.parametrize("by", [None, "client", "server"])
@pytest.mark.parametrize("exclude", [[Trickle, Hang], {Close, Early, Answer}, (Throttle,)])
def test_excluded_kinds_are_not_generated(by: Any, exclude: Collection[type[Rule]]) -> None:
    kinds: set[type[Rule]] = set()

    @settings(max_examples=300)
    @given(rules(by, exclude=exclude), fault_scripts(by, exclude=exclude, chance=True))
    def generate(rule: Rule, faults: Faults) -> None:
        kinds.add(type(rule))
        kinds.update(type(each.rule if isinstance(each, Sometimes) else each) for each in faults.rules)

    generate()
    assert not kinds & set(exclude)
    assert Delay in kinds


def test_all_kinds_excluded() -> None:
    both = [Close, Reset, Delay, Hang, Garbage, Coalesce, Trickle, Throttle]
    assert type(find(rules("client", exclude=[*both, Early]), lambda rule: True)) is Ignore
    with pytest.raises(ValueError, match="all kinds of rules are excluded"):
        fault_scripts("client", exclude=[*both, Early, Ignore])


@pytest.mark.parametrize("rule", [Trickle(1, max_segments=MAX_SEGMENTS), Throttle(1, max_segments=MAX_SEGMENTS)])
def test_generated_segments_have_a_limit(rule: Rule) -> None:
    """With a limit of 100 a message of a megabyte takes some thousand steps, and not some million."""
    smallest = find(rules(rule.by, exclude=[Coalesce]), lambda each: type(each) is type(rule))
    assert smallest == rule


def test_hypothesis_is_imported_on_demand() -> None:
    """Neither the package nor this module requires it; without it the error names the package to install."""
    program = """
import sys
sys.modules["hypothesis"] = None
import smtp_trio.testing, smtp_trio.testing.strategies as strategies
assert not {"pytest", "trustme"} & set(sys.modules), sys.modules
try:
    strategies.rules()
except ImportError as exc:
    assert "pip install smtp-trio[testing]" in str(exc)
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=240)
