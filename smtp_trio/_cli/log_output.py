"""Output of the log by the command line, as lines of text or as one JSON object on each line."""

from __future__ import annotations

import fcntl
import json
import logging
import sys
from datetime import datetime
from io import TextIOWrapper
from typing import Any, TextIO

from .._server.message_log import MessageRecord


class LogFormatter(logging.Formatter):
    """A formatter for the two kinds of records.

    A record of a message is written as `MessageRecord` formats it; any other one with its time and, from WARNING on,
    its level.
    """

    def __init__(self, *, as_json: bool) -> None:
        super().__init__()
        self.as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        message_record: MessageRecord | None = getattr(record, "message_record", None)
        if message_record is not None:
            return message_record.json() if self.as_json else str(message_record)
        time = datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="milliseconds")
        level, message = record.levelname.lower(), record.getMessage()
        # The messages of these two loggers contain the reason that the system gave. Any other exception is a bug, which
        # needs its traceback.
        if record.exc_info and record.name not in ("smtp_trio.stores", "trio.serve_listeners"):
            message += "\n" + self.formatException(record.exc_info)
        if self.as_json:
            return json.dumps({"time": time, "level": level, "message": message}, ensure_ascii=False)
        return f"{time} {level + ': ' if record.levelno >= logging.WARNING else ''}{message}"


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
