"""Hypothesis finds a fault script that breaks a wrong hook, and shrinks it to the one rule that it takes."""

from __future__ import annotations

import subprocess
import sys
from random import Random
from typing import Any

import hypothesis
import pytest
import trio
from hypothesis import HealthCheck, Phase, given, settings
from trio.testing import MockClock

import smtp_trio.testing
from smtp_trio import Body, BodyError, ClientTimeouts, Hooks, Reply, Server, Session, SMTPError
from smtp_trio.testing import Close, Faults, memory_pair
from smtp_trio.testing.strategies import fault_scripts, rules

ME, YOU = "me@client.test", "you@mx.test"
MESSAGE = b"Subject: hi\r\n\r\nhello\r\n"
MANY = settings(
    max_examples=2000, database=None, deadline=None, phases=[Phase.generate, Phase.shrink]
)  # to explain takes a tracer, which is slow


class Store(Hooks):
    """Keeps messages, and counts them, as one should."""

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


class TakesTheTorn(Store):
    """Wrong: what came of a message that was torn off is taken for a message."""

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


class CountsTooSoon(Store):
    """Wrong: a message counts before it has ended."""

    async def data(self, session: Session, body: Body) -> Reply | None:
        self.count += 1
        self.kept.append(await body.read())
        return None


class Impatient(Store):
    """Wrong: a message that takes five seconds is lost, and the client is told that it was taken."""

    async def data(self, session: Session, body: Body) -> Reply | None:
        began = trio.current_time()
        octets = await body.read()
        if trio.current_time() - began < 5:
            self.kept.append(octets)
        self.count += 1
        return None


def session(store: Store, faults: Faults) -> None:
    """One message from a real client to a real server, in a run of its own."""

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            patience = ClientTimeouts.all(0)
            client = await memory_pair(nursery, store, faults=faults, timeout=patience)
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
    """Whether this store has kept what is no message, or counts what it has not kept."""
    made = store()
    session(made, faults.again())
    return any(octets != MESSAGE for octets in made.kept) or made.count != len(made.kept)


@pytest.mark.parametrize(
    ("store", "scripts"),
    [
        (TakesTheTorn, ["Faults(Close('body', by='client'))"]),
        (CountsTooSoon, ["Faults(Close('body', by='client'))"]),
        (Impatient, ["Faults(Delay('body', 5, by='client'))", "Faults(Throttle(1, by='client'))"]),
    ],
)
def test_a_wrong_hook_is_found_out(store: type[Store], scripts: list[str]) -> None:
    """… and the script is as small as it can be: one rule, at its first chance, with the smallest number."""
    found = hypothesis.find(
        fault_scripts(by="client", max_rules=3), lambda faults: breaks(store, faults), settings=MANY, random=Random(7)
    )
    assert len(found.rules) == 1
    assert repr(found) in scripts
    # What it prints is a test.
    assert breaks(store, eval(repr(found), dict(vars(smtp_trio.testing))))
    assert not breaks(Store, found)


@settings(max_examples=150, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
@given(fault_scripts(chance=True))
@pytest.mark.slow
def test_a_right_hook_is_not(faults: Faults) -> None:
    """Whatever goes wrong at either end, the server keeps whole messages, and no hook fails."""
    store = Store()
    session(store, faults)
    assert store.errors == []
    # A client that goes on as if it were believed may say other things behind a message, and never a part of it.
    assert all(octets in (MESSAGE, b"") or by_garbage(faults) for octets in store.kept)


def by_garbage(faults: Faults) -> bool:
    """The client said something else than its message."""
    return any(name in repr(faults) for name in ("Garbage", "Replace", "Extra"))


@settings(max_examples=300, deadline=None, database=None)
@given(fault_scripts(chance=True))
def test_scripts_are_python(faults: Faults) -> None:
    assert eval(repr(faults), dict(vars(smtp_trio.testing))) == faults


@pytest.mark.slow
def test_shrinks_to_nothing() -> None:
    smallest: Any = hypothesis.find(fault_scripts(), lambda faults: True, settings=settings(database=None))
    assert smallest == Faults()
    assert hypothesis.find(rules(), lambda rule: True, settings=settings(database=None)) == Close("body")
    only_server = hypothesis.find(
        fault_scripts(by="server"), lambda faults: len(faults.rules) > 1, settings=settings(database=None)
    )
    assert only_server == Faults(Close("body"), Close("body"))


def test_hypothesis_is_imported_when_it_is_wanted() -> None:
    """Neither the harness nor this module needs it; and who has none is told what to install."""
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
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
