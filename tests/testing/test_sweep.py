"""Tests of `cancel_everywhere` and `fail_everywhere`: their points, reports, options and limits."""

from __future__ import annotations

import re
import sys
import textwrap
from collections import Counter
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import trio
from trio.testing import check_half_closeable_stream, memory_stream_pair

from smtp_trio import Body, Hooks, MessageState, Server, Session
from smtp_trio.testing import (
    Attempt,
    Place,
    SweepError,
    SweepReport,
    bounded_stream_pair,
    cancel_everywhere,
    deterministic,
    fail_everywhere,
    memory_pair,
)
from smtp_trio.testing._sweeps.failing_stream import FailingStream


class Store(Hooks):
    async def data(self, session: Session, body: Body) -> None:
        await body.read()


def server(hooks: Hooks | None = None) -> Server:
    return Server(hooks or Store(), name="mx.test", **deterministic())


async def one_message(attempt: Attempt) -> None:
    async with trio.open_nursery() as nursery:
        async with await memory_pair(nursery, server()) as client:
            await client.send("me@client.test", ["you@mx.test"], b"Subject: one\r\n\r\nhello\r\n")


def functions(report: SweepReport) -> set[str]:
    return {place.function for place in report.places}


# --- points and reports -----------------------------------------------------------------------------------------------


def test_each_task_step_is_a_point() -> None:
    seen: list[int] = []

    async def three(attempt: Attempt) -> None:
        for n in range(3):
            await trio.lowlevel.checkpoint()
            seen.append(n)

    report = cancel_everywhere(three)
    assert report.points == 3
    assert "".join(map(str, seen)) == "012" + "" + "0" + "01"  # not interrupted, then cancelled at each of three steps
    first = three.__code__.co_firstlineno
    name = "test_each_task_step_is_a_point.<locals>.three"
    # The first step begins the task at the line of the function; from the next on it is at the checkpoint.
    assert report.places == {Place(__name__, name, first + 2): 3}
    assert str(report) == f"3 points passed; last messages: none\n     3 in {__name__}.{name}, line {first + 2}"


def test_each_stream_operation_is_a_point() -> None:
    outcomes: list[str] = []

    async def two(attempt: Attempt) -> None:
        client_end, server_end = memory_stream_pair()
        async with attempt.wrap(client_end) as stream, server_end:
            await stream.send_all(b"a")
            await server_end.send_all(b"b")
            outcomes.append(f"{attempt.k} sent")
            assert await stream.receive_some() == b"b"
            outcomes.append(f"{attempt.k} received")

    first = two.__code__.co_firstlineno
    name = "test_each_stream_operation_is_a_point.<locals>.two"
    assert fail_everywhere(two).places == {Place(__name__, name, first + 3): 2, Place(__name__, name, first + 6): 1}
    assert outcomes == ["0 sent", "0 received", "3 sent"]
    assert cancel_everywhere(two).points > 2


def test_send_fails_before_or_after_delivery() -> None:
    received: list[bytes] = []

    async def two(attempt: Attempt) -> None:
        client_end, server_end = bounded_stream_pair()
        async with attempt.wrap(client_end) as stream:
            try:
                await stream.send_all(b"a")
                await stream.send_all(b"b")
            finally:
                with trio.CancelScope(shield=True):
                    await stream.aclose()
                    received.append(b"".join([bytes(each) async for each in server_end]))

    assert fail_everywhere(two).points == 4
    assert received == [b"ab", b"", b"a", b"a", b"ab"]


def test_report_has_states_and_places() -> None:
    report = cancel_everywhere(one_message)
    assert report.states == {None, MessageState.ACKNOWLEDGED}
    assert sum(report.places.values()) == report.points > 15
    assert "Wire.receive" in functions(report)
    assert "SessionTask.run" not in functions(report)  # it waits in other functions only
    assert report.points > report.functions["SessionTask.run"] > 0
    assert report.functions["Wire.receive"] == sum(
        number for place, number in report.places.items() if place.function == "Wire.receive"
    )
    assert max(report.functions.values()) <= report.points
    assert "ACKNOWLEDGED" in str(report)
    report = fail_everywhere(one_message)
    assert report.states == {None, MessageState.ACKNOWLEDGED, MessageState.UNACKNOWLEDGED}
    assert functions(report) == {"Wire.receive", "Wire.send"}
    assert {place.module for place in report.places} == {"smtp_trio._wire"}
    assert all(place.line > 0 for place in report.places)


def test_task_without_calls_outside_of_trio_has_an_unknown_place() -> None:
    async def sleeping(attempt: Attempt) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep, 1)

    report = cancel_everywhere(sleeping)
    assert report.places[Place("?", "?", 0)] == 2
    assert set(report.functions) == {sleeping.__qualname__}


def test_points_can_be_selected() -> None:
    tried: list[tuple[int, bool]] = []
    report = cancel_everywhere(
        one_message, check=lambda attempt: tried.append((attempt.k, attempt.interrupted)), points=(3, 8)
    )
    assert tried == [(0, False), (3, True), (8, True)]
    assert report.points == 2


def test_points_may_be_unsorted_and_beyond_the_last() -> None:
    assert cancel_everywhere(one_message, points=[5, 9999, 3]).points == 2
    last = cancel_everywhere(one_message).points
    assert cancel_everywhere(one_message, points=range(last, last + 1000)).points == 1


@pytest.mark.parametrize("points", [(999,), ()])
def test_points_that_the_scenario_does_not_have(points: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"points must be from 1 to \d+, got \["):
        cancel_everywhere(one_message, points=points)


@pytest.mark.parametrize("first", [0, -1])
def test_points_count_from_1(first: int) -> None:
    with pytest.raises(ValueError, match=f"points must be >= 1, got {first}"):
        cancel_everywhere(one_message, points=[3, first])


def test_attempt_shows_sessions_clients_and_transcript() -> None:
    def check(attempt: Attempt) -> None:
        assert len(attempt.clients) == 1 or attempt.k == 1
        assert {session.server for session in attempt.sessions} == set(attempt.servers)
        if not attempt.interrupted:
            assert attempt.interrupted_at == float("inf")
            assert [client.usable for client in attempt.clients] == [False]
            assert "C: BDAT 23 LAST" in str(attempt.transcript)
            assert "S: 250 2.0.0 Ok: queued as" in str(attempt.transcript)

    cancel_everywhere(one_message, check=lambda attempt: None)
    fail_everywhere(one_message, check=check)


def test_here_limits_the_interruption_to_a_block() -> None:
    """The scenario goes on after the block and sees the state that the interruption left."""
    usable: set[bool] = set()

    async def scenario(attempt: Attempt) -> None:
        async with trio.open_nursery() as nursery:
            async with await memory_pair(nursery, server()) as client:
                with attempt.here():
                    await client.send("me@client.test", ["you@mx.test"], b"Subject: one\r\n\r\nhello\r\n")
                usable.add(client.usable)
                if client.usable:
                    assert (await client.noop()).accepted
                attempt.context["done"] = True

    def check(attempt: Attempt) -> None:
        assert attempt.context == {"done": True}

    assert 5 < cancel_everywhere(scenario, check=check).points < cancel_everywhere(one_message).points
    assert usable == {True, False}


def test_transcript_of_a_client_without_an_observed_session() -> None:
    async def scenario(attempt: Attempt) -> None:
        client_end, server_end = memory_stream_pair()
        await server_end.send_all(b"220 else.test\r\n")
        client = await memory_client(client_end)
        async with client:
            pass

    async def memory_client(stream: trio.abc.Stream) -> Any:
        from smtp_trio import Client

        return Client(stream, name="client.test", timeout=10)

    with pytest.raises(SweepError) as info:
        cancel_everywhere(scenario)
    assert info.value.k == 0
    assert info.value.transcript == "S: 220 else.test\nC: EHLO client.test\n"
    reason = "the scenario raised TimedOutError: EHLO: no reply within 10 s"
    assert str(info.value).startswith(f"without an interruption: {reason}\n")


def test_scenario_without_points_is_an_error() -> None:
    async def nothing(attempt: Attempt) -> None:
        pass

    with pytest.raises(ValueError, match="no point"):
        fail_everywhere(nothing)


def test_documented_sweeps_pass() -> None:
    page = (Path(__file__).parents[2] / "docs" / "cancellation.rst").read_text()
    first, second, third, fourth = [
        textwrap.dedent(block) for block in re.findall(r"python\n\n((?:   .*\n|\n)+)", page) if "attempt" in block
    ]
    names: dict[str, Any] = {}
    exec(first, names)
    names["test_store"]()
    exec(second, names)
    names["test_database"]()
    exec(third, names)
    assert cancel_everywhere(names["scenario"]).points > 5
    exec(fourth, names)
    names["test_store"]()


# --- exceptions -----------------------------------------------------------------------------------------------


def test_scenario_that_fails_without_an_interruption() -> None:
    async def wrong(attempt: Attempt) -> None:
        raise KeyError("mine")

    with pytest.raises(SweepError, match="without an interruption: the scenario raised KeyError") as info:
        cancel_everywhere(wrong)
    assert info.value.k == 0
    assert "points=" not in str(info.value)
    assert isinstance(info.value.__cause__, KeyError)


def test_allowed_exceptions() -> None:
    async def raises_two_exceptions(attempt: Attempt) -> None:
        try:
            await trio.sleep(1)
        except trio.Cancelled:
            raise ExceptionGroup("two", [KeyError("mine"), ValueError("too")]) from None

    with pytest.raises(SweepError, match="the scenario raised ExceptionGroup: two"):
        cancel_everywhere(raises_two_exceptions)
    with pytest.raises(SweepError, match="the scenario raised ValueError: too") as info:
        cancel_everywhere(raises_two_exceptions, allow=(KeyError,))
    assert isinstance(info.value.__cause__, ExceptionGroup)
    assert cancel_everywhere(raises_two_exceptions, allow=(KeyError, ValueError)).points == 1


def test_keyboard_interrupt_is_raised() -> None:
    async def interrupted(attempt: Attempt) -> None:
        raise KeyboardInterrupt

    with pytest.raises((KeyboardInterrupt, BaseExceptionGroup)):
        cancel_everywhere(interrupted)


# --- runs that do not end ----------------------------------------------------------------------------------------------------------


async def deadlock(attempt: Attempt) -> None:
    await trio.sleep_forever()


async def sleep_loop(attempt: Attempt) -> None:
    while True:  # noqa: ASYNC110
        await trio.sleep(1)


async def checkpoint_loop(attempt: Attempt) -> None:
    while True:
        await trio.lowlevel.checkpoint()


async def swallow_cancelled(attempt: Attempt) -> None:
    while True:
        with suppress(trio.Cancelled):
            await trio.lowlevel.checkpoint()


async def swallow_all(attempt: Attempt) -> None:
    async def child() -> None:
        while True:
            with suppress(BaseException):
                await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(child)
        nursery.start_soon(swallow_cancelled, attempt)
        with trio.CancelScope():
            await child()


async def shielded(attempt: Attempt) -> None:
    with trio.CancelScope(shield=True):
        await trio.sleep_forever()


@pytest.mark.parametrize(
    ("scenario", "reason"),
    [
        (deadlock, "the scenario did not end within 1e+06 s of virtual time"),
        (sleep_loop, "the scenario did not end within 1000 task steps"),
        (checkpoint_loop, "the scenario did not end within 1000 task steps"),
        (
            swallow_cancelled,
            "the scenario did not end within 1000 task steps, nor after it was cancelled at that limit",
        ),
        (swallow_all, "the scenario did not end within 1000 task steps, nor after it was cancelled at that limit"),
        (shielded, "the scenario did not end within 1e+06 s of virtual time, nor after it was cancelled at that limit"),
    ],
)
def test_scenario_that_does_not_end(scenario: Any, reason: str) -> None:
    with pytest.raises(SweepError) as info:
        cancel_everywhere(scenario, max_steps=1000)
    assert info.value.reasons == (reason,)
    assert f"in {scenario.__name__}\n    await " in info.value.stack


@pytest.mark.parametrize("check", [deadlock, sleep_loop, swallow_cancelled, shielded])
def test_check_that_does_not_end(check: Any) -> None:
    with pytest.raises(SweepError, match="the check did not end within "):
        cancel_everywhere(one_message, check=check, max_steps=1000)


def test_cancelled_run_must_end_within_grace() -> None:
    async def slow(attempt: Attempt) -> None:
        try:
            await trio.sleep(1)
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(100)

    with pytest.raises(SweepError, match="the scenario did not end within 60 s after it was cancelled") as info:
        cancel_everywhere(slow)
    assert info.value.k == 1
    assert cancel_everywhere(slow, grace=101).points == 2


# --- the order of tasks ---------------------------------------------------------------------------------------------------


def five_tasks(order: list[int]) -> Any:
    async def scenario(attempt: Attempt) -> None:
        async def one(n: int) -> None:
            for _ in range(3):
                await trio.lowlevel.checkpoint()
                order.append(n)

        async with trio.open_nursery() as nursery:
            for n in range(5):
                nursery.start_soon(one, n)

    return scenario


def test_seed_decides_the_order_of_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trio._core._run, "_ALLOW_DETERMINISTIC_SCHEDULING", False)
    orders: list[list[int]] = []
    for seed in (0, 0, 1):
        orders.append([])
        report = cancel_everywhere(five_tasks(orders[-1]), seed=seed)
        assert report.points > 15
    assert orders[0] == orders[1] != orders[2]
    assert trio._core._run._ALLOW_DETERMINISTIC_SCHEDULING is False


def test_without_the_private_names_of_the_scheduler_each_task_is_cancelled_at_each_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "trio._core._run", ModuleType("trio._core._run"))
    cancelled: Counter[str] = Counter()

    async def scenario(attempt: Attempt) -> None:
        async def one(n: int) -> None:
            step = 0
            try:
                while step < 3:
                    await trio.lowlevel.checkpoint()
                    step += 1
            except trio.Cancelled:
                cancelled[f"{n}{step}"] += 1
                raise

        async with trio.open_nursery() as nursery:
            for n in range(3):
                nursery.start_soon(one, n)

    # Three steps of each task, its first one (which starts it) included, and two of the task that opens the nursery.
    assert 10 <= cancel_everywhere(scenario).points <= 15
    assert set(cancelled) == {f"{n}{step}" for n in range(3) for step in range(3)}


def test_point_that_is_never_reached_is_left_out() -> None:
    runs: list[int] = []

    async def scenario(attempt: Attempt) -> None:
        runs.append(attempt.k)
        for _ in range(2 if attempt.k else 3):
            await trio.lowlevel.checkpoint()

    assert cancel_everywhere(scenario).points == 2
    assert runs == [0, 1, 2, 3, 3, 3]


def test_points_that_only_later_runs_have_are_tried() -> None:
    async def scenario(attempt: Attempt) -> None:
        if attempt.k:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.lowlevel.checkpoint)  # two points: its start, and the step after the checkpoint
        for _ in range(2):
            await trio.lowlevel.checkpoint()

    assert cancel_everywhere(scenario).points == 4


def test_number_of_points_at_most_doubles() -> None:
    async def scenario(attempt: Attempt) -> None:
        for n in range(1 + 10 * attempt.k):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.lowlevel.checkpoint, name=f"run {attempt.k}, task {n}")

    assert cancel_everywhere(scenario).points <= 2 * 3


# --- the stream -------------------------------------------------------------------------------------------


async def test_stream_before_the_cut() -> None:
    async def pair() -> tuple[FailingStream, FailingStream]:
        from smtp_trio.testing import bounded_stream_pair

        client_end, server_end = bounded_stream_pair()
        return FailingStream(client_end, lambda: False), FailingStream(server_end, lambda: False)

    await check_half_closeable_stream(pair, None)


async def test_stream_after_the_cut() -> None:
    client_end, server_end = memory_stream_pair()
    cut = [False, False, True, False]
    stream = FailingStream(client_end, lambda: cut.pop(0))
    await stream.send_all(b"x")
    for _ in range(2):
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
    with pytest.raises(trio.BrokenResourceError):
        await stream.wait_send_all_might_not_block()
    assert cut == [False]
    assert await server_end.receive_some() == b"x"
    assert await server_end.receive_some() == b""
    await stream.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await stream.send_all(b"y")


async def test_send_eof_needs_a_half_closeable_stream() -> None:
    class Whole(trio.abc.Stream):
        async def send_all(self, data: bytes | bytearray | memoryview) -> None: ...
        async def wait_send_all_might_not_block(self) -> None: ...
        async def receive_some(self, max_bytes: int | None = None) -> bytes:
            return b""

        async def aclose(self) -> None: ...

    with pytest.raises(TypeError):
        await FailingStream(Whole(), lambda: False).send_eof()
