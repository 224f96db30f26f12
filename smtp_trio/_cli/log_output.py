"""Output of the log by the command line, as lines of text or as one JSON object on each line."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TextIO

from .._server.log_events import EVENTS, LINES_DROPPED, MAX_TRACEBACK, Entry, as_json, cut, escape
from .log_writer import LogWriter

#: The event of records that are not of this package.
OTHER = "other"
#: Seconds that writing the last lines may take at the end, for each stream.
FLUSH_TIMEOUT = 2.0


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


class WriterHandler(logging.Handler):
    """A handler that passes lines to a `LogWriter`."""

    def __init__(self, stream: TextIO, writer: LogWriter) -> None:
        super().__init__()
        self.encoding = stream.encoding
        self.writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.writer.write(f"{self.format(record)}\n".encode(self.encoding, "backslashreplace"))
        except Exception:
            self.handleError(record)


def dropped_record(count: int) -> logging.LogRecord:
    """Return the record about a number of lines that a `LogWriter` has dropped."""
    event, fields = LINES_DROPPED, {"count": count}
    level = {"levelno": event.level, "levelname": logging.getLevelName(event.level)}
    return logging.makeLogRecord({"msg": Entry(event.text, fields), "event": event.name, "fields": fields, **level})


@contextmanager
def open_log(level: int, *, as_json: bool, file_lock: int | None = None) -> Iterator[None]:
    """Write records below WARNING to standard output, and the others to standard error, during the block.

    ``level`` is the least level that is written. ``file_lock`` is the descriptor of a file that all processes which
    write to these streams have open, when there are several.
    """
    formatter = LogFormatter(as_json=as_json)
    writers: list[LogWriter] = []

    def open_handler(stream: TextIO, number: int) -> logging.Handler:
        try:
            descriptor = stream.fileno()
            stream.flush()
        except OSError:  # not a file, but an object that a test has put in its place; or the disk is full
            return logging.StreamHandler(stream)

        def report(count: int) -> bytes:
            return f"{formatter.format(dropped_record(count))}\n".encode(stream.encoding, "backslashreplace")

        # If both streams are the same pipe or terminal, one thread keeps the order of their lines.
        if not (writers and os.path.sameopenfile(descriptor, sys.stdout.fileno())):
            lock = None if file_lock is None else (file_lock, number)
            writers.append(LogWriter(descriptor, report=report, lock=lock))
        return WriterHandler(stream, writers[-1])

    output, errors = (open_handler(stream, number) for number, stream in enumerate((sys.stdout, sys.stderr)))
    output.addFilter(lambda record: record.levelno < logging.WARNING)
    errors.setLevel(logging.WARNING)
    loggers = [logging.getLogger(name) for name in ("smtp_trio", "trio")]
    for handler in (output, errors):
        handler.setFormatter(formatter)
        for logger in loggers:
            logger.addHandler(handler)
    logging.getLogger("smtp_trio").setLevel(level)
    try:
        yield
    finally:
        for logger in loggers:
            for handler in (output, errors):
                logger.removeHandler(handler)
        for writer in writers:
            writer.close(FLUSH_TIMEOUT)
