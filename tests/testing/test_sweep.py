"""`cancel_everywhere` and `fail_everywhere` themselves: what they count, what they allow, and that they end."""

from __future__ import annotations

import re
import textwrap
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import check_half_closeable_stream, memory_stream_pair

from smtp_trio import Body, Hooks, MessageState, Server, Session
from smtp_trio.testing import Attempt, SweepError, cancel_everywhere, deterministic, fail_everywhere, memory_pair
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


# --- points and reports -----------------------------------------------------------------------------------------------


def test_every_step_is_a_point() -> None:
    seen: list[int] = []

    async def three(attempt: Attempt) -> None:
        for n in range(3):
            await trio.lowlevel.checkpoint()
            seen.append(n)

    report = cancel_everywhere(three)
    assert report.points == 3
    assert "".join(map(str, seen)) == "012001012"  # unharmed, three times cancelled, unharmed
    assert report.places == {"three": 3}
    assert str(report) == "3 points held; last messages: none\n     3 in three"


def test_every_operation_is_a_point() -> None:
    outcomes: list[str] = []

    async def two(attempt: Attempt) -> None:
        ours, theirs = memory_stream_pair()
        async with attempt.wrap(ours) as stream, theirs:
            await stream.send_all(b"a")
            await theirs.send_all(b"b")
            outcomes.append(f"{attempt.k} sent")
            assert await stream.receive_some() == b"b"
            outcomes.append(f"{attempt.k} received")

    assert fail_everywhere(two).places == {"two": 2}
    assert outcomes == ["0 sent", "0 received", "2 sent", "3 sent", "3 received"]
    assert cancel_everywhere(two).points > 2


def test_states_and_places() -> None:
    report = cancel_everywhere(one_message)
    assert report.states == {None, MessageState.ACKNOWLEDGED}
    assert sum(report.places.values()) == report.points > 15
    assert "receive" in report.places
    assert "ACKNOWLEDGED" in str(report)
    report = fail_everywhere(one_message)
    assert report.states == {None, MessageState.ACKNOWLEDGED, MessageState.UNACKNOWLEDGED}
    assert set(report.places) == {"receive", "send"}


def test_only_these_points() -> None:
    tried: list[tuple[int, bool]] = []
    report = cancel_everywhere(
        one_message, check=lambda attempt: tried.append((attempt.k, attempt.struck)), points=(3, 8)
    )
    assert tried == [(0, False), (3, True), (8, True)]
    assert report.points == 2


def test_what_an_attempt_has() -> None:
    def check(attempt: Attempt) -> None:
        assert len(attempt.clients) == 1 or attempt.k == 1
        assert {session.server for session in attempt.sessions} == set(attempt.servers)
        if not attempt.struck:
            assert attempt.struck_at == float("inf")
            assert [client.usable for client in attempt.clients] == [False]
            assert "C: BDAT 23 LAST" in str(attempt.transcript)
            assert "S: 250 2.0.0 Ok: queued as" in str(attempt.transcript)

    cancel_everywhere(one_message, check=lambda attempt: None)
    fail_everywhere(one_message, check=check)


def test_here() -> None:
    """Only a part of it is cancelled, and the rest of the scenario sees what came of it."""
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


def test_transcript_of_a_client_with_somebody_elses_server() -> None:
    async def scenario(attempt: Attempt) -> None:
        ours, theirs = memory_stream_pair()
        await theirs.send_all(b"220 else.test\r\n")
        client = await memory_client(ours)
        async with client:
            pass

    async def memory_client(stream: trio.abc.Stream) -> Any:
        from smtp_trio import Client

        return Client(stream, name="client.test", timeout=10)

    with pytest.raises(SweepError) as info:
        cancel_everywhere(scenario)
    assert info.value.k == 0
    assert info.value.transcript == "S: 220 else.test\nC: EHLO client.test\n"
    assert "the scenario fails by itself: the scenario raised TimedOutError: EHLO: no answer within 10 s" in str(
        info.value
    )


def test_nothing_to_strike() -> None:
    async def nothing(attempt: Attempt) -> None:
        pass

    with pytest.raises(ValueError, match="no point"):
        fail_everywhere(nothing)


def test_the_page_on_cancellation() -> None:
    page = (Path(__file__).parents[2] / "docs" / "cancellation.rst").read_text()
    first, second = [
        textwrap.dedent(block) for block in re.findall(r"python\n\n((?:   .*\n|\n)+)", page) if "attempt" in block
    ]
    names: dict[str, Any] = {}
    exec(first, names)
    names["test_store"]()
    exec(second, names)
    assert cancel_everywhere(names["scenario"]).points > 5


# --- what may be raised -----------------------------------------------------------------------------------------------


def test_scenario_that_fails_by_itself() -> None:
    async def wrong(attempt: Attempt) -> None:
        raise KeyError("mine")

    with pytest.raises(
        SweepError, match="not struck at all, the scenario fails by itself: the scenario raised KeyError"
    ) as info:
        cancel_everywhere(wrong)
    assert info.value.k == 0
    assert "points=" not in str(info.value)
    assert isinstance(info.value.__cause__, KeyError)


def test_what_is_allowed() -> None:
    async def odd(attempt: Attempt) -> None:
        try:
            await trio.sleep(1)
        except trio.Cancelled:
            raise ExceptionGroup("two", [KeyError("mine"), ValueError("too")]) from None

    with pytest.raises(SweepError, match="the scenario raised ExceptionGroup: two"):
        cancel_everywhere(odd)
    with pytest.raises(SweepError, match="the scenario raised ValueError: too") as info:
        cancel_everywhere(odd, allow=(KeyError,))
    assert isinstance(info.value.__cause__, ExceptionGroup)
    assert cancel_everywhere(odd, allow=(KeyError, ValueError)).points == 1


def test_interrupts_pass() -> None:
    async def interrupted(attempt: Attempt) -> None:
        raise KeyboardInterrupt

    with pytest.raises((KeyboardInterrupt, BaseExceptionGroup)):
        cancel_everywhere(interrupted)


# --- the end ----------------------------------------------------------------------------------------------------------


async def deadlock(attempt: Attempt) -> None:
    await trio.sleep_forever()


async def clockwork(attempt: Attempt) -> None:
    while True:  # noqa: ASYNC110
        await trio.sleep(1)


async def treadmill(attempt: Attempt) -> None:
    while True:
        await trio.lowlevel.checkpoint()


async def stubborn(attempt: Attempt) -> None:
    while True:
        with suppress(trio.Cancelled):
            await trio.lowlevel.checkpoint()


async def deaf(attempt: Attempt) -> None:
    async def child() -> None:
        while True:
            with suppress(BaseException):
                await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(child)
        nursery.start_soon(stubborn, attempt)
        with trio.CancelScope():
            await child()


async def dungeon(attempt: Attempt) -> None:
    with trio.CancelScope(shield=True):
        await trio.sleep_forever()


@pytest.mark.parametrize(
    ("scenario", "reason"),
    [
        (deadlock, "it has not ended after 1e+06 s of virtual time"),
        (clockwork, "it has not ended after 1000 steps of its tasks"),
        (treadmill, "it has not ended after 1000 steps of its tasks"),
        (stubborn, "the scenario has not ended, nor when it was cancelled"),
        (dungeon, "it has not ended after 1e+06 s of virtual time"),
    ],
)
def test_scenario_without_an_end(scenario: Any, reason: str) -> None:
    with pytest.raises(SweepError) as info:
        cancel_everywhere(scenario, steps=1000)
    assert info.value.reasons == (reason,)
    assert f"in {scenario.__name__}\n    await trio." in info.value.stack


@pytest.mark.parametrize("check", [clockwork, stubborn])
def test_check_without_an_end(check: Any) -> None:
    with pytest.raises(SweepError, match="has not ended"):
        cancel_everywhere(one_message, check=check, steps=1000)


def test_end_that_takes_its_time() -> None:
    async def slow(attempt: Attempt) -> None:
        try:
            await trio.sleep(1)
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(100)

    with pytest.raises(SweepError, match="it has not ended 60 s after it was cancelled") as info:
        cancel_everywhere(slow)
    assert info.value.k == 1
    assert cancel_everywhere(slow, patience=101).points == 2


# --- the same again ---------------------------------------------------------------------------------------------------


def crowd(order: list[int]) -> Any:
    async def scenario(attempt: Attempt) -> None:
        async def one(n: int) -> None:
            for _ in range(3):
                await trio.lowlevel.checkpoint()
                order.append(n)

        async with trio.open_nursery() as nursery:
            for n in range(5):
                nursery.start_soon(one, n)

    return scenario


def test_one_order_for_one_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trio._core._run, "_ALLOW_DETERMINISTIC_SCHEDULING", False)
    orders: list[list[int]] = []
    for seed in (0, 0, 1):
        orders.append([])
        report = cancel_everywhere(crowd(orders[-1]), seed=seed)
        assert report.points > 15
    assert orders[0] == orders[1] != orders[2]
    assert trio._core._run._ALLOW_DETERMINISTIC_SCHEDULING is False


# --- the stream that is cut -------------------------------------------------------------------------------------------


async def test_stream_that_is_not_cut() -> None:
    async def pair() -> tuple[FailingStream, FailingStream]:
        from smtp_trio.testing import bounded_stream_pair

        ours, theirs = bounded_stream_pair()
        return FailingStream(ours, lambda: False), FailingStream(theirs, lambda: False)

    await check_half_closeable_stream(pair, None)


async def test_stream_that_is_cut() -> None:
    ours, theirs = memory_stream_pair()
    cut = [False, True, False]
    stream = FailingStream(ours, lambda: cut.pop(0))
    await stream.send_all(b"x")
    for _ in range(2):
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
    with pytest.raises(trio.BrokenResourceError):
        await stream.wait_send_all_might_not_block()
    assert cut == [False]
    assert await theirs.receive_some() == b"x"
    assert await theirs.receive_some() == b""
    await stream.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await stream.send_all(b"y")


async def test_stream_that_cannot_be_half_closed() -> None:
    class Whole(trio.abc.Stream):
        async def send_all(self, data: bytes | bytearray | memoryview) -> None: ...
        async def wait_send_all_might_not_block(self) -> None: ...
        async def receive_some(self, max_bytes: int | None = None) -> bytes:
            return b""

        async def aclose(self) -> None: ...

    with pytest.raises(TypeError):
        await FailingStream(Whole(), lambda: False).send_eof()
