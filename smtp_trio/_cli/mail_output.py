"""The output of ``smtp-trio mail``: lines, JSON and the progress."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from typing import Self

from .._server.log_events import clean, to_json
from ..stores import Entry, Stored
from ..stores._entry import json_fields
from .options import UsageError, describe_error

#: The least time in seconds between two updates of the progress.
PROGRESS_INTERVAL = 0.1
SIZES = ("", "k", "M", "G", "T")


def write(text: str) -> None:
    """Write a line on standard output. Raises UsageError if it cannot be written."""
    checked(lambda: print(text))


def flush() -> None:
    """Write what is buffered of standard output. Raises UsageError if it cannot be written."""
    checked(sys.stdout.flush)


def checked(work: Callable[[], object]) -> None:
    """Call a function that writes to standard output. Raises UsageError if that is not possible."""
    try:
        work()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UsageError(f"standard output: {describe_error(error)}") from None


def write_json(fields: Mapping[str, object]) -> None:
    """Write a line of JSON."""
    write(to_json(fields))


def print_error(text: str) -> None:
    """Print an error that does not end the command."""
    print(f"smtp-trio: error: {clean(text)}", file=sys.stderr, flush=True)


def line_of(entry: Entry) -> str:
    """Return the line of a message in a list."""
    recipients = ", ".join(entry.recipients[:3]) + (
        f" and {len(entry.recipients) - 3} more" if entry.recipients[3:] else ""
    )
    parts = (
        entry.id,
        f"{entry.received.astimezone():%Y-%m-%d %H:%M:%S}",
        size_text(entry.size),
        f"{entry.sender or '<>'} -> {recipients}",
        entry.subject or "",
    )
    return clean("  ".join(parts)).rstrip()


def size_text(octets: int) -> str:
    """Return a number of octets with a unit, such as "1.5k"; as for options, 1k is 1,024."""
    value = float(octets)
    for unit in SIZES:
        if value < 1000 or unit == SIZES[-1]:
            break
        value /= 1024
    return f"{value:.{1 if unit and value < 10 else 0}f}{unit}"


def count_text(count: int) -> str:
    """Return a number of messages."""
    return "1 message" if count == 1 else f"{count} messages"


def write_entry(entry: Entry, *, json: bool, **more: object) -> None:
    """Write the line of a message, with more fields."""
    if json:
        write_json(json_fields(entry) | more)
    else:
        write("  ".join((line_of(entry), *(clean(f"{name}: {value}") for name, value in more.items()))))


class Progress:
    """A line on standard error with what was done, if that is a terminal. Use it in a ``with`` statement."""

    def __init__(self, label: str, total: int | None = None) -> None:
        self.label: str = label
        self.total: int | None = total
        self.done: int = 0
        self.octets: int = 0
        self._shown = False
        self._enabled = sys.stderr.isatty()
        self._next = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def add(self, stored: Stored | None = None, count: int = 1) -> None:
        """Count messages."""
        self.done += count
        self.octets += stored.size if stored is not None else 0
        now = time.monotonic()
        if not self._enabled or now < self._next:
            return
        self._next, self._shown = now + PROGRESS_INTERVAL, True
        part = f" of {self.total}, {100 * self.done // max(self.total, 1)} %" if self.total is not None else ""
        size = f", {size_text(self.octets)}" if self.octets else ""
        text = f"{self.label} {self.done}{part}{size}"
        sys.stderr.write("\r" + text[: shutil.get_terminal_size().columns - 1] + "\x1b[K")
        sys.stderr.flush()


def is_terminal() -> bool:
    """Return whether the user can be asked."""
    return sys.stdin.isatty() and os.isatty(sys.stderr.fileno())
