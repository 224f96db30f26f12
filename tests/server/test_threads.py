"""Functions in worker threads: results, errors, and what an error keeps."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import wait_all_threads_completed

from smtp_trio._server.threads import run_in_thread


@pytest.fixture(autouse=True)
def no_garbage_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


class Argument:
    """An object that can be referred to weakly."""


def fail(argument: object) -> None:
    raise LookupError("no such file")


async def test_result() -> None:
    assert await run_in_thread(lambda: 3) == 3


async def test_error_with_its_traceback() -> None:
    with pytest.raises(LookupError, match="no such file") as raised:
        await run_in_thread(partial(fail, None))
    assert raised.traceback[-1].name == "fail"


async def test_error_does_not_keep_the_argument() -> None:
    """`trio.to_thread.run_sync` keeps it until the garbage collector runs: see threads.py."""

    async def reference(run: Any) -> weakref.ref[Argument]:
        argument = Argument()
        with pytest.raises(LookupError):
            await run(partial(fail, argument))
        return weakref.ref(argument)

    ours, trios = await reference(run_in_thread), await reference(trio.to_thread.run_sync)
    await wait_all_threads_completed()
    assert ours() is None
    assert trios() is not None, "Trio does not need run_in_thread any more"
