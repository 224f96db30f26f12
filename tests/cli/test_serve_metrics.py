"""``smtp-trio serve --http``: the metrics of one process, and the sums over workers."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import httpx2
import pytest
from processes import Program, serving
from prometheus_client.parser import text_string_to_metric_families

from .test_workers import delivering_pids

ME, YOU = "me@example.net", "you@example.org"
MESSAGE = b"Subject: hi\r\n\r\nhello\r\n"


async def scrape(program: Program) -> dict[str, float]:
    """Return the metrics without labels."""
    url = (await program.out.wait_for(r"serving HTTP on (\S+)\n"))[1]
    async with httpx2.AsyncClient(base_url=url, trust_env=False, timeout=100) as http:
        text = (await http.get("/metrics")).text
    families = text_string_to_metric_families(text)
    return {
        sample.name.removeprefix("smtp_trio_"): sample.value
        for family in families
        for sample in family.samples
        if not sample.labels
    }


async def scrape_complete(program: Program, sessions: int, *, workers: int) -> dict[str, float]:
    """Return the metrics when so many sessions have ended, and the workers and the store have responded in time."""
    found: dict[str, float] = {}
    for _ in range(1000):
        found = await scrape(program)
        answered = found["workers_responding"] == workers and "store_messages" in found
        if answered and found["session_seconds_count"] == sessions:
            return found
    raise AssertionError(found)


async def test_metrics_of_one_process(tmp_path: Path) -> None:
    async with serving("--http", "127.0.0.1:0", "--store", "sqlite:mail.db", cwd=tmp_path) as program:
        await program.send(ME, [YOU], MESSAGE)
        found = await scrape_complete(program, 1, workers=0)
        program.signal(signal.SIGTERM)
        assert await program.wait() == 0
    assert found["messages_total"] == found["store_messages"] == found["commit_seconds_count"] == 1
    assert found["workers"] == 0
    assert found["cpu_seconds_total"] > 0
    assert found["resident_memory_bytes"] > 1 << 20


async def test_a_scrape_each_second_costs_less_than_one_percent_of_a_core(tmp_path: Path) -> None:
    """In CPU time of the process. That of some scrapes is longer while other programs use the same core."""
    scrapes, costs = 20, []
    async with serving("--http", "127.0.0.1:0", "--store", "memory:", cwd=tmp_path) as program:
        await program.send(ME, [YOU], MESSAGE)
        url = (await program.out.wait_for(r"serving HTTP on (\S+)\n"))[1]
        async with httpx2.AsyncClient(base_url=url, trust_env=False, timeout=100) as http:
            for _ in range(5):
                before = await scrape(program)
                for _ in range(scrapes):
                    assert (await http.get("/metrics")).status_code == 200
                after = await scrape(program)
                costs.append((after["cpu_seconds_total"] - before["cpu_seconds_total"]) / scrapes)
    assert min(costs) < 0.01


async def send_to_all(program: Program, directory: Path, processes: set[int]) -> int:
    """Send messages until all these processes have accepted some; return the number of messages."""
    for sent in range(1, 1001):
        await program.send(ME, [YOU], MESSAGE)
        if sent >= 10 and processes <= delivering_pids(directory):
            return sent
    raise AssertionError("1000 connections did not reach the expected workers")


async def pids(program: Program, count: int) -> list[int]:
    """Return the ids of the worker processes that have been started."""
    return list(map(int, await program.out.wait_for_count(count, r"worker \d: process (\d+)\n")))


@pytest.mark.slow
async def test_metrics_are_the_sums_over_workers_and_do_not_decrease_when_one_is_replaced(tmp_path: Path) -> None:
    async with serving("--workers", "2", "--http", "127.0.0.1:0", cwd=tmp_path) as program:
        first, second = await pids(program, 2)
        accepted = await send_to_all(program, tmp_path, {first, second})
        before = await scrape_complete(program, accepted, workers=2)
        assert before["messages_total"] == accepted
        assert before["workers"] == 2
        assert before["store_messages"] == accepted

        os.kill(first, signal.SIGKILL)
        _, _, third = await pids(program, 3)
        assert third not in (first, second)
        accepted += await send_to_all(program, tmp_path, {second, third})
        after = await scrape_complete(program, accepted, workers=2)
        program.signal(signal.SIGTERM)
        assert await program.wait() == 0

    assert after["messages_total"] == accepted
    assert after["worker_restarts_total"] == 1
    counters = [name for name in before if name.endswith(("_total", "_count")) and not name.startswith("process_")]
    assert [name for name in counters if after[name] < before[name]] == []
    assert f"stopped; messages accepted: {accepted}, refused: 0; sessions: {accepted}\n" in program.out.text
