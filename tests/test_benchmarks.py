"""The parts of the benchmarks work, and the tables in docs/ match the results."""

from __future__ import annotations

import shutil
import sys
from contextlib import ExitStack
from xml.etree import ElementTree

import pytest
import trio
import trio.testing

if not sys.platform.startswith("linux"):
    pytest.skip("the benchmarks read /proc", allow_module_level=True)

from benchmarks import chart, core, fairness, flood, instructions, load, polling, pythons, relay, report, working
from benchmarks.__main__ import THEMES
from benchmarks.case import Case, Contender, Environment, Measure, Sample, Spread, UnavailableError, run
from benchmarks.resources import memory
from benchmarks.servers import shared_server


def costing(*costs: float) -> Contender:
    """Return a contender with these costs in microseconds, one for each round."""
    values = iter(costs)
    return lambda env: lambda count: Sample(cost := next(values), 1e6 / cost)


def unavailable(env: Environment) -> Measure:
    raise UnavailableError("not installed")


def test_ratios_are_computed_in_each_round() -> None:
    case = Case(name="x", contenders={"first": costing(1, 4), "second": costing(2, 2)}, amount=1, short=1, rounds=2)
    with ExitStack() as stack:
        outcome = run("theme", case, Environment(stack))

    assert outcome.figures["second"].ratio == Spread(1.25, 0.5, 2)
    assert outcome.figures["second"].cost == Spread(2, 2, 2)
    assert outcome.figures["first"].ratio is None


def test_contender_is_compared_with_the_one_that_is_named() -> None:
    """A server under one version of Python is compared with smtp_trio under the same version."""
    contenders = {"one": costing(6), "its floor": costing(3), "two": costing(8), "other floor": costing(2)}
    compared = {"its floor": "one", "other floor": "two"}
    case = Case(name="x", contenders=contenders, compared=compared, amount=1, short=1, rounds=1)
    with ExitStack() as stack:
        outcome = run("theme", case, Environment(stack))

    ratios = {name: found.ratio and found.ratio.median for name, found in outcome.figures.items()}
    assert ratios == {"one": None, "its floor": 2, "two": None, "other floor": 4}
    assert "ratio: smtp_trio's cost divided by this" in report.tables({}, [outcome])


def test_number_of_rounds_can_be_chosen() -> None:
    """It does not change cases with one round, whose work is too long to be repeated, or is always the same."""
    many = Case(name="x", contenders={"first": costing(1, 2, 3)}, amount=1, short=1, rounds=2)
    single = Case(name="y", contenders={"first": costing(1, 2, 3)}, amount=1, short=1, rounds=1)
    with ExitStack() as stack:
        env = Environment(stack, rounds=3)
        assert run("theme", many, env).figures["first"].cost == Spread(2, 1, 3)
        assert run("theme", single, env).figures["first"].cost == Spread(1, 1, 1)


def test_other_version_of_python_that_is_not_installed() -> None:
    assert pythons.interpreter(f"{sys.version_info.major}.{sys.version_info.minor}") == sys.executable
    with pytest.raises(UnavailableError, match=r"Python 2\.0 is not installed"):
        pythons.interpreter("2.0")


def test_without_valgrind_instructions_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.servers.PATH", "")
    for case in instructions.CASES:
        with ExitStack() as stack:
            figures = run("theme", case, Environment(stack, short=True)).figures
        assert {found.missing.partition(" (")[0] for found in figures.values()} <= {
            "valgrind is not installed",
            *("aiosmtpd is not installed", "aiosmtplib is not installed"),
        }


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed")
def test_instructions_are_counted() -> None:
    """The counts do not depend on what else runs on the machine."""
    one, other = (instructions.instructions_of(["-c", "sum(range(100000))"]) for _ in range(2))
    assert one > instructions.instructions_of(["-c", ""]) + 100000
    assert abs(one - other) < one / 20


def test_reason_of_an_unavailable_contender_is_shown() -> None:
    case = Case(name="x", contenders={"first": costing(1), "second": unavailable}, amount=1, short=1, rounds=1)
    with ExitStack() as stack:
        outcome = run("theme", case, Environment(stack))

    assert outcome.figures["second"].missing == "not installed"
    assert "not installed" in report.format_outcome(outcome)
    assert "not installed" in report.tables({}, [outcome])


@pytest.mark.parametrize("case", core.CASES, ids=lambda case: case.name)
def test_benchmark_of_the_core_runs(case: Case) -> None:
    with ExitStack() as stack:
        figures = run("theme", case, Environment(stack, short=True)).figures

    first = next(iter(figures.values()))
    assert first.cost is not None
    assert first.cost.median > 0


LOADS = {
    "plain": load.Load(sessions=2),
    "pipelined": load.Load(sessions=2, recipients=50, pipelined=True),
    "starttls": load.Load(sessions=2, starttls=True),
    "reconnect": load.Load(sessions=2, reconnect=True, size=200_000),
}


@pytest.mark.slow
def test_load_generator() -> None:
    with ExitStack() as stack:
        env = Environment(stack, short=True)
        for kind in ("smtp_trio", "floor"):
            server = shared_server(env, kind)
            for each in LOADS.values():
                assert load.send(server.port, 4, each) > 0
            for reconnect in (False, True):
                assert polling.send(server.port, 5, 2, 1024, reconnect=reconnect) > 0
        handshake_server = shared_server(env, "bare handshake")
        assert load.send(handshake_server.port, 4, load.Load(handshake=True, reconnect=True)) > 0
        assert memory(handshake_server.pid) > 1000


@pytest.mark.slow
def test_load_generator_fails_on_an_unexpected_reply() -> None:
    with ExitStack() as stack:
        server = shared_server(Environment(stack), "smtp_trio")
        connection = load.Connection(server.port)
        connection.read_reply(b"220")
        with pytest.raises(RuntimeError, match="503"):
            connection.exchange(b"DATA\r\n", [b"354"])
        connection.close()


@pytest.mark.parametrize("kind", flood.KINDS)
@pytest.mark.slow
def test_fairness_under_a_flood(kind: str) -> None:
    with ExitStack() as stack:
        server = shared_server(Environment(stack, short=True), "smtp_trio")
        assert fairness.measure_client(server, 2, connections=2, kind=kind).cost > 0


@pytest.mark.slow
def test_cpu_of_all_workers_is_measured() -> None:
    with ExitStack() as stack:
        env = Environment(stack, short=True)
        sample = working.workers(2, lambda env: f"busy:{env.directory}", load.Load(sessions=4))(env)(20)
        (process,) = env.processes.values()
        assert len(working.process_tree(process.pid)) == 3

    assert sample.cost > 1000, "each message takes 1 ms"
    assert sample.load


async def test_relay_adds_latency(autojump_clock: trio.testing.MockClock) -> None:
    client, source = trio.testing.memory_stream_pair()
    target, server = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(relay.forward, source, target, 10)
        await client.send_all(b"one")
        await trio.sleep(1)
        await client.send_all(b"two")
        await client.send_eof()
        assert (await server.receive_some(), trio.current_time()) == (b"one", 10)
        assert (await server.receive_some(), trio.current_time()) == (b"two", 11)
        assert await server.receive_some() == b""


def test_tables_and_chart_match_the_results() -> None:
    where, outcomes = report.read()

    assert report.TABLES.read_text(encoding="utf-8") == report.tables(where, outcomes), "run report.render()"
    assert report.PICTURE.read_text(encoding="utf-8") == report.picture(outcomes), "run report.render()"


def test_results_have_all_cases() -> None:
    _, outcomes = report.read()

    assert [(outcome.theme, outcome.name, list(outcome.figures)) for outcome in outcomes] == [
        (theme, case.name, list(case.contenders)) for theme, cases in THEMES.items() for case in cases
    ]


def test_chart_is_well_formed_and_has_every_case() -> None:
    text = "".join(ElementTree.fromstring(report.PICTURE.read_text(encoding="utf-8")).itertext())

    for name in report.SHOWN:
        assert name in text


def test_numbers_have_three_significant_digits() -> None:
    assert [chart.format_number(value) for value in (0.1234, 9.87, 99.4, 99.6, 1234.5)] == [
        "0.123",
        "9.87",
        "99.4",
        "100",
        "1,234",
    ]
