"""How the command line prints the log: lines for people, or a JSON object a line."""

from __future__ import annotations

import fcntl
import json
import logging
import sys
from datetime import datetime
from io import TextIOWrapper
from typing import Any, TextIO

from .._server.message_log import MessageRecord


class Lines(logging.Formatter):
    """A line for each record: a `MessageRecord` as it is, the rest with time and, when it is a warning or worse, level."""

    def __init__(self, *, as_json: bool) -> None:
        super().__init__()
        self.as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        note: MessageRecord | None = getattr(record, "note", None)
        if note is not None:
            return note.json() if self.as_json else str(note)
        time = datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="milliseconds")
        level, message = record.levelname.lower(), record.getMessage()
        # These tell in their message what the disk or the system said. Any other exception is a bug, so show where it is.
        if record.exc_info and record.name not in ("smtp_trio.stores", "trio.serve_listeners"):
            message += "\n" + self.formatException(record.exc_info)
        if self.as_json:
            return json.dumps({"time": time, "level": level, "message": message}, ensure_ascii=False)
        return f"{time} {level + ': ' if record.levelno >= logging.WARNING else ''}{message}"


class Turns(logging.StreamHandler[Any]):
    """Several processes write to the same streams: each waits for its turn, so that lines come out whole.

    A pipe takes 4,096 octets in one piece at the most, and a message to many makes a longer line.
    """

    def __init__(self, stream: TextIO, lock: int) -> None:
        super().__init__(stream)
        self.turn = lock

    def emit(self, record: logging.LogRecord) -> None:
        fcntl.lockf(self.turn, fcntl.LOCK_EX)
        try:
            super().emit(record)
        finally:
            fcntl.lockf(self.turn, fcntl.LOCK_UN)


def set_up_log(level: int, *, as_json: bool, lock: int | None = None) -> None:
    """What is news goes to standard output, warnings and errors to standard error.

    ``lock`` is a file that all processes have open which write there, when there are several.
    """
    logging.raiseExceptions = False  # when nobody reads the log any more, mail is taken all the same
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    news, trouble = (
        logging.StreamHandler(stream) if lock is None else Turns(stream, lock) for stream in (sys.stdout, sys.stderr)
    )
    trouble.lock = news.lock  # the file's lock is one of processes, not of threads
    news.addFilter(lambda record: record.levelno < logging.WARNING)
    trouble.setLevel(logging.WARNING)
    for handler in (news, trouble):
        handler.setFormatter(Lines(as_json=as_json))
        for name in ("smtp_trio", "trio"):
            logging.getLogger(name).addHandler(handler)
    logging.getLogger("smtp_trio").setLevel(level)
