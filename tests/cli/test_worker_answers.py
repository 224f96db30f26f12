"""What the parent of workers knows about one that answers late, or not at all."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import pytest
import trio
from attrs import evolve
from trio.testing import MockClock

from smtp_trio._cli.workers import ANSWER_TIME, ASK, READY, Worker, Workers
from smtp_trio._server.snapshot import empty_snapshot
from smtp_trio._types import Statistics


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The parent's end of the connection of a worker, and the worker's."""
    parent, worker = socket.socketpair()
    parent.setblocking(False)
    worker.setblocking(False)
    with parent, worker:
        yield parent, worker


def line(messages: int) -> bytes:
    """Return what a worker sends that has accepted this number of messages, and has a session open."""
    snapshot = evolve(empty_snapshot(), statistics=Statistics(messages=messages, sessions_open=1))
    return json.dumps(snapshot.to_json()).encode() + b"\n"


async def test_a_worker_that_does_not_answer_counts_with_its_last_answer(
    ends: tuple[socket.socket, socket.socket], autojump_clock: MockClock
) -> None:
    parent, end = ends
    worker = Worker(1, 0, parent, observed=True)
    workers = Workers([], 0, 0, observed=True)
    workers._running.add(worker)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.read)
        end.send(READY + b"\n" + line(3))
        await trio.testing.wait_all_tasks_blocked()
        assert end.recv(10) == bytes([ASK])  # because it is observed
        assert worker.state.responds

        for _ in range(2):
            began = trio.current_time()
            snapshot = await workers.measure()
            assert trio.current_time() - began == pytest.approx(ANSWER_TIME)
            assert snapshot.statistics.messages == 3
            assert [state.responds for state in snapshot.workers] == [False]
        assert end.recv(10) == bytes([ASK])  # it was not asked twice

        answer = line(5)
        end.send(answer[:10])  # an answer may arrive in pieces
        await trio.testing.wait_all_tasks_blocked()
        end.send(answer[10:])
        await trio.testing.wait_all_tasks_blocked()
        assert worker.state.responds
        assert worker.state.messages == 5
        end.close()  # `read` returns


async def test_a_worker_that_does_not_serve_yet_is_not_asked(ends: tuple[socket.socket, socket.socket]) -> None:
    parent, end = ends
    workers = Workers([], 0, 0, observed=True)
    workers._running.add(Worker(1, 2, parent, observed=True))
    snapshot = await workers.measure()
    assert snapshot.statistics == Statistics()
    (state,) = snapshot.workers
    assert (state.responds, state.restarts, state.pid) == (False, 2, None)
    with pytest.raises(BlockingIOError):
        end.recv(10)
