"""``smtp-trio mail export``: messages as an mbox, as files, or as a Maildir."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing, suppress
from datetime import UTC
from typing import IO, Any, Self

from .._server.log_events import clean
from ..stores import Entry, Maildir, MessageNotFoundError, Query, Store, Stored
from .mail_output import Progress, count_text, print_error
from .options import UsageError, describe_error
from .store_option import open_store

# Nothing is overwritten, and an interrupted export leaves no file that looks complete: a file is written under another name in
# the same directory, flushed, and gets its name by link(2), which fails if the name exists, or by rename with ``--force``.

#: Octets of a message that are converted at a time.
CHUNK = 1 << 20
FROM_LINE = re.compile(rb"(?m)^(>*From )")
#: Characters of an id that are safe in the name of a file on any system.
UNSAFE = re.compile(r"[^A-Za-z0-9@+=,_-]|(?<![A-Za-z0-9])\.")
MAX_NAME = 200

Write = Callable[[Stored], Awaitable[None]]


async def export(store: Store[Any], options: argparse.Namespace) -> int:
    """Export messages. Return 1 if the store does not have one that is named."""
    if options.id and options.query.terms:
        raise UsageError("use either QUERY or --id")
    try:
        return await FORMATS[options.format](store, options)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UsageError(f"cannot write {error.filename or options.dest}: {describe_error(error)}") from None


async def export_mbox(store: Store[Any], options: argparse.Namespace) -> int:
    """Write one file in the format mboxrd."""
    if options.dest == "-":
        if getattr(sys.stdout, "name", None) == os.devnull:  # see `main.replace_closed_streams`
            raise UsageError("standard output is closed")
        return await copy(store, options, lambda stored: write_mbox(sys.stdout.buffer, stored, options))
    if not options.force:
        check_missing(options.dest)
    with NewFile(options.dest, force=options.force) as file:
        code = await copy(store, options, lambda stored: write_mbox(file.file, stored, options))
        if code == 0 or file.file.tell():  # no empty file if the store has none of the messages that are named
            file.complete()
    return code


async def write_mbox(file: IO[bytes], stored: Stored, options: argparse.Namespace) -> None:
    """Write a message to an mbox: after a From line, with LF and with ">" before lines that look like one."""
    file.write(from_line(stored))
    end = b""
    for chunk in chunks_of(stored, options):
        text = FROM_LINE.sub(rb">\1", chunk.replace(b"\r\n", b"\n"))
        file.write(text)
        end = text[-1:] or end
    file.write(b"\n" if end == b"\n" else b"\n\n")


def from_line(stored: Stored) -> bytes:
    """Return the line before a message in an mbox, with the sender and the time in UTC as asctime(3) writes it."""
    sender = "".join(char if char.isprintable() and not char.isspace() else "_" for char in stored.sender)
    received = stored.received.astimezone(UTC)
    date = (
        f"{DAYS[received.weekday()]} {MONTHS[received.month - 1]} {received.day:2} {received:%H:%M:%S} {received.year}"
    )
    return f"From {sender or 'MAILER-DAEMON'} {date}\n".encode("utf-8", "replace")


DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


async def export_eml(store: Store[Any], options: argparse.Namespace) -> int:
    """Write a file for each message into a directory, named after its id."""
    os.makedirs(options.dest, mode=0o700, exist_ok=True)
    names: set[str] = set()

    async def write(stored: Stored) -> None:
        with NewFile(os.path.join(options.dest, file_name(stored.id, names)), force=options.force) as file:
            for chunk in chunks_of(stored, options):
                file.file.write(chunk)
            file.complete()

    return await copy(store, options, write)


def file_name(id: str, used: set[str]) -> str:
    """Return a safe name for the file of a message, which no other message of this export has."""
    base = UNSAFE.sub("_", id)[:MAX_NAME] or "_"
    name, number = base, 1
    while name.lower() in used:  # some file systems ignore case
        number += 1
        name = f"{base}-{number}"
    used.add(name.lower())
    return f"{name}.eml"


async def export_maildir(store: Store[Any], options: argparse.Namespace) -> int:
    """Deliver messages into a Maildir, which keeps their envelopes."""
    maildir = Maildir(options.dest)
    if isinstance(store, Maildir) and is_same(store.path, maildir.path):
        raise UsageError(f"{options.dest} is the store itself")

    async def write(stored: Stored) -> None:
        await maildir.add(
            stored.message,
            stored.sender,
            stored.recipients,
            mail_params=stored.mail_params,
            rcpt_params=stored.rcpt_params,
            received=stored.received,
        )

    async with open_store(maildir):
        return await copy(store, options, write)


def is_same(path: str, other: str) -> bool:
    """Return whether two paths name the same directory."""
    return os.path.realpath(path) == os.path.realpath(other)


FORMATS: dict[str, Callable[[Store[Any], argparse.Namespace], Awaitable[int]]] = {
    "mbox": export_mbox,
    "eml": export_eml,
    "maildir": export_maildir,
}


async def copy(store: Store[Any], options: argparse.Namespace, write: Write) -> int:
    """Write the messages, one at a time, and return the exit code."""
    code = 0
    with Progress("exported") as progress:
        async with aclosing(ids_of(store, options)) as ids:
            async for message in ids:
                try:
                    stored = await store.get(message)
                except MessageNotFoundError:  # one that a query has found was removed meanwhile
                    if options.id:
                        print_error(f"no message {message} in {store.url}")
                        code = 1
                    continue
                try:
                    await write(stored)
                except ValueError as error:  # another program has stored an envelope that is not one of SMTP
                    print_error(f"cannot export {message}: {error}")
                    code = 1
                    continue
                progress.add(stored)
    if options.dest == "-":
        sys.stdout.buffer.flush()
    print(f"smtp-trio: exported {count_text(progress.done)} to {clean(options.dest)}", file=sys.stderr, flush=True)
    return code


async def ids_of(store: Store[Any], options: argparse.Namespace) -> AsyncGenerator[str]:
    """Iterate over the ids of the messages to export, from the oldest to the newest."""
    for message in options.id or ():
        yield message
    if not options.id:
        query: Query = options.query
        entries = store.search(query, reverse=False) if query.terms else store.entries()
        async with aclosing(entries):
            async for entry in entries:
                yield entry.id


def chunks_of(stored: Stored, options: argparse.Namespace) -> Iterator[bytes]:
    """Iterate over the octets of a message in chunks of whole lines, after the fields of ``--add-envelope``."""
    if options.add_envelope:
        yield envelope_fields(stored)
    start = 0
    while start < len(stored.message):
        end = start + CHUNK
        if end < len(stored.message):
            end = stored.message.find(b"\n", end) + 1 or len(stored.message)
        yield stored.message[start:end]
        start = end


def envelope_fields(entry: Entry) -> bytes:
    """Return the fields that keep the envelope with a message, as a Maildir has them."""
    lines = [f"Return-Path: <{entry.sender}>", *(f"Envelope-To: <{recipient}>" for recipient in entry.recipients)]
    return "".join(f"{line}\r\n" for line in lines).encode("utf-8", "replace")


def check_missing(path: str) -> None:
    """Raise UsageError if a file exists."""
    if os.path.lexists(path):
        raise UsageError(f"{path} exists; use --force to overwrite it")


class NewFile:
    """A file that gets its name when it is complete. Without that it is removed at the end of the block."""

    def __init__(self, path: str, *, force: bool) -> None:
        self.path: str = path
        self.force: bool = force
        self._temporary = os.path.join(os.path.dirname(path), f".smtp-trio-{os.urandom(8).hex()}.tmp")
        self.file: IO[bytes] = open(self._temporary, "xb", opener=private)  # noqa: SIM115 -- __exit__ closes it

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self.file.close()
        with suppress(FileNotFoundError):
            os.unlink(self._temporary)

    def complete(self) -> None:
        """Flush the file and give it its name. Raises UsageError if a file of this name exists, without ``force``."""
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        if self.force:
            os.replace(self._temporary, self.path)
            return
        try:
            os.link(self._temporary, self.path)
        except FileExistsError:
            check_missing(self.path)
        except OSError:  # a file system without links
            check_missing(self.path)
            os.rename(self._temporary, self.path)


def private(path: str, flags: int) -> int:
    """Open a file that only its owner can read: mail is private."""
    return os.open(path, flags, 0o600)
