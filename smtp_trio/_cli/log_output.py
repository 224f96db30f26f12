"""Output of the log by the command line, as lines of text or as one JSON object on each line."""

from __future__ import annotations

import fcntl
import logging
import sys
from datetime import datetime
from io import TextIOWrapper
from typing import Any, TextIO

from .._server.log_events import EVENTS, MAX_TRACEBACK, as_json, cut, escape

#: The event of records that are not of this package.
OTHER = "other"


class LogFormatter(logging.Formatter):
    """A formatter for the records of the package (see `smtp_trio._server.log_events`), and for those of other loggers.

    A line of text begins with the time and, from WARNING on, the level. The traceback of an error follows in lines that
    are indented, since its text may come from a client and must not look like further records.
    """

    def __init__(self, *, as_json: bool) -> None:
        super().__init__()
        self.as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="milliseconds")
        level = record.levelname.lower()
        event: str = getattr(record, "event", OTHER)
        traceback = None
        if record.exc_info and (event == OTHER or EVENTS[event].traceback):
            traceback = cut(self.formatException(record.exc_info), MAX_TRACEBACK)
        if self.as_json:
            fields = getattr(record, "fields", None)
            if fields is None:
                fields = {"logger": record.name, "message": record.getMessage()}
            return as_json(time, level, event, fields, traceback)
        message = record.getMessage() if event != OTHER else escape(record.getMessage())
        prefix = f"{level}: " if record.levelno >= logging.WARNING else ""
        lines = [] if traceback is None else [f"    {escape(line)}" for line in traceback.split("\n")]
        return "\n".join([f"{time} {prefix}{message}", *lines])


class LockedStreamHandler(logging.StreamHandler[Any]):
    """A handler for a stream that several processes write to: a file lock keeps their lines apart.

    The lock is needed because a pipe takes at most 4,096 octets in one piece (PIPE_BUF), and the line of a message to
    many recipients is longer.
    """

    def __init__(self, stream: TextIO, file_lock: int) -> None:
        super().__init__(stream)
        self.file_lock = file_lock

    def emit(self, record: logging.LogRecord) -> None:
        fcntl.lockf(self.file_lock, fcntl.LOCK_EX)
        try:
            super().emit(record)
        finally:
            fcntl.lockf(self.file_lock, fcntl.LOCK_UN)


def set_up_log(level: int, *, as_json: bool, file_lock: int | None = None) -> None:
    """Write records below WARNING to standard output, and the others to standard error.

    ``level`` is the least level that is written. ``file_lock`` is the descriptor of a file that all processes which
    write to these streams have open, when there are several.
    """
    logging.raiseExceptions = False  # the server goes on when the reader of its output has ended
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    output, errors = (
        logging.StreamHandler(stream) if file_lock is None else LockedStreamHandler(stream, file_lock)
        for stream in (sys.stdout, sys.stderr)
    )
    errors.lock = output.lock  # the file lock excludes other processes only: threads of this one share it
    output.addFilter(lambda record: record.levelno < logging.WARNING)
    errors.setLevel(logging.WARNING)
    for handler in (output, errors):
        handler.setFormatter(LogFormatter(as_json=as_json))
        for name in ("smtp_trio", "trio"):
            logging.getLogger(name).addHandler(handler)
    logging.getLogger("smtp_trio").setLevel(level)
