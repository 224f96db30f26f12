"""``smtp-trio mail``: list, show, search, export and remove the messages of a store, and deliver dead letters again."""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable
from typing import Any

import trio

from ..stores import Query, Store, StoreError
from ..stores._consumer import check_name
from .mail_export import FORMATS, export
from .mail_list import list_dead_letters, list_messages, search
from .mail_remove import remove, retry
from .mail_show import show
from .mail_stats import stats
from .options import Parser, UsageError, number_between
from .store_option import existing_store_option, open_store
from .units import seconds

#: A command: it gets the store, opened, and the options, and returns the exit code.
Command = Callable[[Store[Any], argparse.Namespace], Awaitable[int | None]]

#: Seconds of the largest age of ``--older``: a hundred years.
MAX_AGE = 100 * 366 * 86400


def add_mail(parser: Parser) -> None:
    """Add the commands of ``smtp-trio mail`` and their options."""
    parser.description = (
        "Work with the messages in a store, also while a server or a consumer uses it. "
        "A store that does not exist is an error."
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, run: Command, description: str, *, json: bool = True) -> argparse.ArgumentParser:
        found = commands.add_parser(
            name, help=description, description=f"{description.capitalize()}.", allow_abbrev=False
        )
        found.add_argument("--store", type=existing_store_option, required=True, metavar="URL",
            help="the store, as for serve --store")  # fmt: skip
        if json:
            found.add_argument("--json", action="store_true", help="print JSON, one object in each line")
        found.set_defaults(run=run_command, command=run)
        return found

    listing = command("list", list_messages, "list messages, the newest first")
    add_listing_options(listing)
    listing.add_argument("--dead", type=group_option, metavar="GROUP",
        help="list the messages that this group of consumers has given up, as the command dead does")  # fmt: skip

    searching = command("search", search, "list the messages that fulfil a query, the newest first")
    searching.add_argument("query", metavar="QUERY", nargs="+",
        help="such as from:alice, subject:\"invoice 17\", after:2026-11-01, larger:1M, has:attachment, or words of the text. "
        "! before a part excludes messages")  # fmt: skip
    add_listing_options(searching)

    showing = command("show", show, "show the header and the text of a message")
    showing.add_argument("id", metavar="ID", help="the id of the message")
    form = showing.add_mutually_exclusive_group()
    form.add_argument("--raw", action="store_true", help="write the octets of the message, unchanged")
    form.add_argument("--envelope", action="store_true", help="also show the envelope and what is known of the client")

    exporting = command("export", export, "write messages to a file or directory, the oldest first", json=False)
    exporting.add_argument("--format", choices=FORMATS, required=True,
        help="mbox: one file; eml: a directory with a file for each message; maildir: a Maildir, with the envelopes")  # fmt: skip
    exporting.add_argument("dest", metavar="DEST", help="the file or directory, or - for an mbox on standard output")
    exporting.add_argument("query", metavar="QUERY", nargs="*", help="which messages (default: all); see search")
    exporting.add_argument("--id", action="append", metavar="ID", help="export this message. Repeatable")
    exporting.add_argument("--add-envelope", action="store_true",
        help="begin each message with Return-Path and Envelope-To fields. They show recipients of blind copies. "
        "For mbox and eml; a Maildir always has them")  # fmt: skip
    exporting.add_argument("--force", action="store_true", help="overwrite files that exist")

    removing = command("remove", remove, "remove messages")
    removing.add_argument("ids", metavar="ID", nargs="*", help="the ids of the messages")
    removing.add_argument("--older", type=seconds(MAX_AGE), metavar="AGE",
        help="remove messages that were received longer ago, such as 30d or 12h")  # fmt: skip
    removing.add_argument("--query", metavar="QUERY", help="remove the messages that fulfil this query; see search")
    removing.add_argument("--dry-run", action="store_true", help="list the messages, and do not remove them")
    removing.add_argument("--yes", action="store_true", help="do not ask for confirmation")

    counting = command("stats", stats, "count the messages, their octets and their domains")
    counting.add_argument("--top", type=number_between(int, 10**6), default=10, metavar="N",
        help="how many domains to list (default: 10)")  # fmt: skip
    counting.add_argument("--group", type=group_option, action="append", metavar="GROUP",
        help="also count the dead letters of this group. Repeatable")  # fmt: skip

    dead = command("dead", list_dead_letters, "list the messages that consumers have given up, with the reasons")
    add_group_option(dead)
    dead.add_argument("--limit", type=number_between(int, 10**9, 1), metavar="N", help="list at most this many")

    retrying = command("retry", retry, "deliver dead letters to consumers again")
    retrying.add_argument("ids", metavar="ID", nargs="*", help="the ids of the messages")
    retrying.add_argument("--all", action="store_true", help="deliver all dead letters of the group again")
    add_group_option(retrying)


def add_listing_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--limit", type=number_between(int, 10**9, 1), metavar="N", help="list at most this many")
    parser.add_argument("--oldest-first", action="store_true", help="begin with the oldest message")


def add_group_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--group", type=group_option, default="default", metavar="GROUP",
        help="the group of consumers (default: default)")  # fmt: skip


def group_option(text: str) -> str:
    """Return the name of a group of consumers."""
    try:
        check_name(text, "it")
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("it ")) from None
    return text


def run_command(options: argparse.Namespace) -> int:
    """Open the store, run the command, and return its exit code."""
    query = getattr(options, "query", None)
    if query is not None:
        try:
            options.query = Query.parse(query if isinstance(query, str) else " ".join(query))
        except ValueError as error:
            raise UsageError(f"the query is invalid: {error}") from None
    return trio.run(run_with_store, options)


async def run_with_store(options: argparse.Namespace) -> int:
    """Run the command with its store opened. Raises UsageError if the store fails."""
    if type(options.store)._select is Store._select:
        raise UsageError(f"--store {options.store.url}: such a store passes messages on, and cannot be read")
    async with open_store(options.store, purpose="read"):
        try:
            return await options.command(options.store, options) or 0
        except StoreError as error:
            raise UsageError(str(error)) from None
