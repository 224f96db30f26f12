"""How the command line prints the log: lines for people, or a JSON object a line."""

from __future__ import annotations

import json
import logging
import sys
from datetime import datetime
from io import TextIOWrapper

from ._note import Note


class Lines(logging.Formatter):
    """A line for each record: a `Note` as it is, the rest with time and, when it is a warning or worse, level."""

    def __init__(self, *, as_json: bool) -> None:
        super().__init__()
        self.as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        note: Note | None = getattr(record, "note", None)
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


def set_up_log(level: int, *, as_json: bool) -> None:
    """What is news goes to standard output, warnings and errors to standard error."""
    logging.raiseExceptions = False  # when nobody reads the log any more, mail is taken all the same
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    news, trouble = logging.StreamHandler(sys.stdout), logging.StreamHandler(sys.stderr)
    news.addFilter(lambda record: record.levelno < logging.WARNING)
    trouble.setLevel(logging.WARNING)
    for handler in (news, trouble):
        handler.setFormatter(Lines(as_json=as_json))
        for name in ("smtp_trio", "trio"):
            logging.getLogger(name).addHandler(handler)
    logging.getLogger("smtp_trio").setLevel(level)
