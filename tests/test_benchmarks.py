"""The benchmarks run, and what is said of their results is what they were."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from xml.etree import ElementTree

import pytest
import trio
import trio.testing

if not sys.platform.startswith("linux"):
    pytest.skip("the benchmarks read /proc", allow_module_level=True)

from benchmarks import chart, core, fairness, flood, load, relay, report, working
from benchmarks.__main__ import THEMES
from benchmarks.case import Case, Contender, Ground, Measure, Missing, Sample, Spread, run
from benchmarks.resources import memory
from benchmarks.servers import running


def saying(*costs: float) -> Contender:
    """A contender that costs this much, round by round, and does one unit of work in so many microseconds."""
    values = iter(costs)
    return lambda ground: lambda count: Sample(cost := next(values), 1e6 / cost)


def absent(ground: Ground) -> Measure:
    raise Missing("it is not installed")


def test_ratios_are_those_of_neighbours_in_a_round() -> None:
    case = Case(name="x", contenders={"ours": saying(1, 4), "theirs": saying(2, 2)}, amount=1, short=1, rounds=2)
    with ExitStack() as stack:
        outcome = run("theme", case, Ground(stack))

    assert outcome.figures["theirs"].ratio == Spread(1.25, 0.5, 2)
    assert outcome.figures["theirs"].cost == Spread(2, 2, 2)
    assert outcome.figures["ours"].ratio is None


def test_who_is_missing_is_named_with_the_reason() -> None:
    case = Case(name="x", contenders={"ours": saying(1), "theirs": absent}, amount=1, short=1, rounds=1)
    with ExitStack() as stack:
        outcome = run("theme", case, Ground(stack))

    assert outcome.figures["theirs"].missing == "it is not installed"
    assert "it is not installed" in report.text(outcome)
    assert "it is not installed" in report.tables({}, [outcome])


@pytest.mark.parametrize("case", core.CASES, ids=lambda case: case.name)
def test_the_protocol_alone_runs(case: Case) -> None:
    with ExitStack() as stack:
        figures = run("theme", case, Ground(stack, short=True)).figures

    first = next(iter(figures.values()))
    assert first.cost is not None
    assert first.cost.median > 0


LOADS = {
    "plain": load.Load(sessions=2),
    "pipelined": load.Load(sessions=2, recipients=50, pipelined=True),
    "starttls": load.Load(sessions=2, starttls=True),
    "lone": load.Load(sessions=2, lone=True, size=200_000),
}


def test_our_generator_sends_what_it_says() -> None:
    with ExitStack() as stack:
        ground = Ground(stack, short=True)
        for kind in ("smtp_trio", "floor"):
            server = running(ground, kind)
            for each in LOADS.values():
                assert load.send(server.port, 4, each) > 0
        shaker = running(ground, "bare handshake")
        assert load.send(shaker.port, 4, load.Load(handshake=True, lone=True)) > 0
        assert memory(shaker.pid) > 1000


def test_our_generator_does_not_take_no_for_an_answer() -> None:
    with ExitStack() as stack:
        server = running(Ground(stack), "smtp_trio")
        talk = load.Talk(server.port)
        talk.hear(b"220")
        with pytest.raises(RuntimeError, match="503"):
            talk.say(b"DATA\r\n", [b"354"])
        talk.close()


@pytest.mark.parametrize("kind", flood.KINDS)
def test_a_flood_does_not_end_before_the_polite_client_does(kind: str) -> None:
    with ExitStack() as stack:
        server = running(Ground(stack, short=True), "smtp_trio")
        assert fairness.polite(server, 2, connections=2, kind=kind).cost > 0


def test_workers_are_all_counted() -> None:
    with ExitStack() as stack:
        ground = Ground(stack, short=True)
        sample = working.workers(2, "busy", load.Load(sessions=4))(ground)(20)
        (process,) = ground.processes.values()
        assert len(working.family(process.pid)) == 3

    assert sample.cost > 1000, "each message takes a millisecond"
    assert sample.load


async def test_the_relay_takes_its_time(autojump_clock: trio.testing.MockClock) -> None:
    near, source = trio.testing.memory_stream_pair()
    target, far = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(relay.carry, source, target, 10)
        await near.send_all(b"one")
        await trio.sleep(1)
        await near.send_all(b"two")
        await near.send_eof()
        assert (await far.receive_some(), trio.current_time()) == (b"one", 10)
        assert (await far.receive_some(), trio.current_time()) == (b"two", 11)
        assert await far.receive_some() == b""


def test_tables_and_picture_are_made_of_the_results() -> None:
    where, outcomes = report.read()

    assert report.TABLES.read_text(encoding="utf-8") == report.tables(where, outcomes), "run report.render()"
    assert report.PICTURE.read_text(encoding="utf-8") == report.picture(outcomes), "run report.render()"


def test_the_results_are_of_all_cases() -> None:
    _, outcomes = report.read()

    assert [(outcome.theme, outcome.name, list(outcome.figures)) for outcome in outcomes] == [
        (theme, case.name, list(case.contenders)) for theme, cases in THEMES.items() for case in cases
    ]


def test_the_picture_is_well_formed_and_shows_every_case() -> None:
    text = "".join(ElementTree.fromstring(report.PICTURE.read_text(encoding="utf-8")).itertext())

    for name in report.SHOWN:
        assert name in text


def test_numbers_have_three_digits_that_count() -> None:
    assert [chart.number_of(value) for value in (0.1234, 9.87, 99.4, 99.6, 1234.5)] == [
        "0.123",
        "9.87",
        "99.4",
        "100",
        "1,234",
    ]
