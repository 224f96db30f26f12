"""``smtp-trio mail remove`` and ``retry``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from ..stores import Entry, MessageNotFoundError, Query, Store
from .mail_output import Progress, count_text, flush, is_terminal, print_error, write, write_entry, write_json
from .options import UsageError

#: Messages that are removed or delivered again by one call of the store.
BATCH = 200


async def remove(store: Store[Any], options: argparse.Namespace) -> int:
    """Remove messages. Return 1 if the store does not have one that is named."""
    by_query = options.query is not None or options.older is not None
    if bool(options.ids) == by_query:
        raise UsageError("name the messages either by their ids, or by --older or --query")
    if options.query is not None and not options.query.terms:
        raise UsageError("--query is empty, and would remove all messages")
    ids = list(dict.fromkeys(options.ids))
    if options.dry_run:
        return await list_removable(store, options, ids)
    if by_query:
        with Progress("found") as progress:
            async with aclosing(select(store, options)) as entries:
                async for entry in entries:
                    ids.append(entry.id)
                    progress.add()
    if ids and not options.yes and not confirmed(f"Remove {count_text(len(ids))} from {store.url}?"):
        print_error("nothing was removed")
        return 1
    removed = await in_batches(store.remove, "removed", ids)
    if options.json:
        write_json({"removed": removed})
    else:
        write(f"removed {count_text(removed)}")
    flush()
    if removed < len(ids) and not by_query:
        print_error(f"{len(ids) - removed} of {len(ids)} were not in {store.url}")
        return 1
    return 0


async def in_batches(work: Callable[[list[str]], Awaitable[int]], title: str, ids: list[str]) -> int:
    """Call a function of the store with all ids, some at a time; return the sum of its results."""
    count = 0
    with Progress(title, len(ids)) as progress:
        for start in range(0, len(ids), BATCH):
            batch = ids[start : start + BATCH]
            count += await work(batch)
            progress.add(count=len(batch))
    return count


async def list_removable(store: Store[Any], options: argparse.Namespace, ids: list[str]) -> int:
    """List the messages that would be removed."""
    count = 0
    for message in ids:
        try:
            write_entry(await store.get(message), json=options.json)
            count += 1
        except MessageNotFoundError:
            print_error(f"no message {message} in {store.url}")
    if not ids:
        async with aclosing(select(store, options)) as entries:
            async for entry in entries:
                write_entry(entry, json=options.json)
                count += 1
    if not options.json:
        write(f"would remove {count_text(count)}")
    flush()
    return int(count < len(ids))


async def select(store: Store[Any], options: argparse.Namespace) -> AsyncGenerator[Entry]:
    """Iterate over the messages that fulfil ``--query`` and are older than ``--older``."""
    query = options.query or Query()
    if options.older is not None:
        try:
            latest = datetime.now(UTC) - timedelta(seconds=options.older)
        except OverflowError:  # before the year 1
            return
        query = Query((*Query.parse(f"before:{latest.isoformat()}").terms, *query.terms))
    async with aclosing(store.search(query, reverse=False)) as entries:
        async for entry in entries:
            yield entry


def confirmed(question: str) -> bool:
    """Ask the user. Raises UsageError without a terminal."""
    if not is_terminal():
        raise UsageError(f"{question} Standard input is not a terminal; use --yes")
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


async def retry(store: Store[Any], options: argparse.Namespace) -> int:
    """Deliver dead letters again. Return 1 if a message that is named is not a dead letter of the group."""
    if bool(options.ids) == options.all:
        raise UsageError("name the messages by their ids, or use --all")
    ids = list(dict.fromkeys(options.ids))
    if options.all:
        async with aclosing(store.dead_letters(options.group)) as letters:
            ids = [letter.entry.id async for letter in letters]
    count = await in_batches(partial(store.requeue, options.group), "requeued", ids)
    if options.json:
        write_json({"requeued": count})
    else:
        write(f"requeued {count_text(count)}")
    flush()
    if count < len(ids) and not options.all:
        print_error(f"{len(ids) - count} of {len(ids)} are not dead letters of group {options.group}")
        return 1
    return 0
