"""``smtp-trio mail list``, ``search`` and ``dead``."""

from __future__ import annotations

import argparse
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from ..stores import Entry, Store
from .mail_output import flush, write_entry


async def list_messages(store: Store[Any], options: argparse.Namespace) -> None:
    """List all messages, or dead letters."""
    if options.dead is not None:
        options.group = options.dead
        await list_dead_letters(store, options)
    else:
        await write_entries(store.entries(reverse=not options.oldest_first), options)


async def search(store: Store[Any], options: argparse.Namespace) -> None:
    """List the messages that fulfil a query."""
    await write_entries(store.search(options.query, reverse=not options.oldest_first), options)


async def list_dead_letters(store: Store[Any], options: argparse.Namespace) -> None:
    """List the messages that a group has given up, the oldest first."""
    left = options.limit
    async with aclosing(store.dead_letters(options.group)) as letters:
        async for letter in letters:
            write_entry(letter.entry, json=options.json, attempts=letter.attempts, reason=letter.reason)
            left = left and left - 1
            if left == 0:
                break
    flush()


async def write_entries(entries: AsyncGenerator[Entry], options: argparse.Namespace) -> None:
    """Write the lines of messages, up to ``--limit``."""
    left = options.limit
    async with aclosing(entries):
        async for entry in entries:
            write_entry(entry, json=options.json)
            left = left and left - 1
            if left == 0:
                break
    flush()
