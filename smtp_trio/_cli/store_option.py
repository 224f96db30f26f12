"""The option ``--store`` of the commands, and the store that it names."""

from __future__ import annotations

import argparse
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio

from .. import stores
from .._server.log_events import WAITING_FOR_STORE
from ..stores import Store, StoreError
from ..stores._errors import UnusableStoreError
from .options import UsageError, describe_error


def store_option(text: str) -> Store[Any]:
    """Return the store that a value of ``--store`` names."""
    try:
        return stores.open(text)
    except (ValueError, StoreError) as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def existing_store_option(text: str) -> Store[Any]:
    """Return the store that a value of ``--store`` names, which is an error later if it does not exist."""
    store = store_option(text)
    store.create = False
    return store


def relayed_store_option(text: str) -> Store[Any]:
    """Return the store that a value of ``--store`` names, which is an error later if it is a path that does not exist.

    An engine may have no messages yet when a relay is started. Mail in memory cannot come from another process.
    """
    store = store_option(text)
    store.create = store.shared and not hasattr(store, "path")
    return store


@asynccontextmanager
async def open_store(
    store: Store[Any], *, purpose: str = "store", wait: Callable[[], AsyncIterator[int]] | None = None
) -> AsyncIterator[bool]:
    """Open a store to store or read mail, and close it at the end of the block. Raises UsageError if it cannot be opened.

    With ``wait`` from ``--wait``, which returns the signals of the program, try again until the store can be opened, or there
    is an error for which it is useless to wait. Yields False, without opening the store, if a signal to stop comes first.
    """
    # The store is opened by the task that closes it, outside of the scope that ends the wait. It may have failed again between
    # the two, such as a primary that is replaced just then.
    while wait is None or await wait_for_store(store, wait()):
        try:
            await store.__aenter__()
        except StoreError as error:
            if wait is not None and not isinstance(error, UnusableStoreError):
                await trio.sleep(1)
                continue
            cause = error.__cause__
            place = (isinstance(cause, OSError) and cause.filename) or getattr(store, "path", store.url)
            reason = describe_error(cause) if isinstance(cause, OSError) else str(error).removeprefix(f"{store!r}: ")
            raise UsageError(f"cannot {purpose} mail in {place}: {reason}") from None
        try:
            yield True
        finally:
            await store.__aexit__(None, None, None)
        return
    yield False


async def wait_for_store(store: Store[Any], signals: AsyncIterator[int]) -> bool:
    """Try to open a store once a second, until that was possible, or there is an error for which it is useless to wait.

    Return False if a signal to stop comes first. The store is closed again.
    """
    logged = stopped = False
    async with trio.open_nursery() as nursery:

        async def stop_on_signal() -> None:
            nonlocal stopped
            async for number in signals:
                if number != signal.SIGHUP:
                    stopped = True  # also if the store was opened meanwhile: nothing else receives this signal
                    nursery.cancel_scope.cancel()

        nursery.start_soon(stop_on_signal)
        while True:
            try:
                async with store:
                    break
            except UnusableStoreError:
                break  # the caller, which opens the store, reports it
            except StoreError as error:
                if not logged:
                    WAITING_FOR_STORE.log(error=str(error))
                logged = True
                await trio.sleep(1)
        nursery.cancel_scope.cancel()
    return not stopped
