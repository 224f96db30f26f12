"""The option ``--store`` of the commands, and the store that it names."""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from .. import stores
from ..stores import Store, StoreError
from .options import UsageError, describe_error


def store_option(text: str) -> Store[Any]:
    """Return the store that a value of ``--store`` names."""
    try:
        return stores.open(text)
    except (ValueError, StoreError) as error:
        raise argparse.ArgumentTypeError(str(error)) from None


@asynccontextmanager
async def open_store(store: Store[Any]) -> AsyncIterator[None]:
    """Open a store, and close it at the end of the block. Raises UsageError if it cannot be opened."""
    try:
        await store.__aenter__()
    except StoreError as error:
        cause = error.__cause__ or error
        place = (isinstance(cause, OSError) and cause.filename) or getattr(store, "path", store.url)
        raise UsageError(f"cannot store mail in {place}: {describe_error(cause)}") from None
    try:
        yield
    finally:
        await store.__aexit__(None, None, None)
