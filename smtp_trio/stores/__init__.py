"""Stores: hooks that keep every message, and answer 250 only when the message would survive a power cut.

``Maildir(path)`` keeps one file for each message, for programs that read mail; ``RecipientMaildirs(template)`` one for each
recipient. ``SQLite(path)`` keeps one row for each
message, for programs that query it. They keep the envelope with the message, and ``read`` returns the two together.
``Memory()`` keeps the newest messages in the memory of the process, for development and tests.

``open(url)`` returns the store of a URL, and ``store.consume(group)`` iterates over its messages for a program that handles
each at least once.

`_store.py` defines what a store is, `_entry.py` what it knows of a message, `_group.py` how messages share a flush of the
disk, `_spool.py` where a message is kept until it is committed, and `_consumer.py` how messages are handled later. Each
store has a module, which `_open.py` imports when it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._server.spool import check_path
from ..protocol.arguments import check_type
from ._consumer import Consumer, DeadLetter, Delivery, GroupCounts
from ._entry import Entry, Stored
from ._errors import (
    LeaseExpiredError,
    MessageNotFoundError,
    MessageRejectedError,
    MessageTooBigError,
    NotSupportedError,
    StoreError,
    StoreFullError,
)
from ._maildir_file import read_file
from ._open import open  # noqa: A004 -- like `gzip.open`, it is used with the name of its module
from ._params import parse_stored_params
from ._query import Query
from ._sqlite_reading import read_row
from ._store import Store
from .maildir import Maildir
from .memory import Memory
from .recipient_maildirs import RecipientMaildirs
from .sqlite import SQLite

if TYPE_CHECKING:
    import os

__all__ = [
    "Consumer",
    "DeadLetter",
    "Delivery",
    "Entry",
    "GroupCounts",
    "LeaseExpiredError",
    "Maildir",
    "Memory",
    "MessageNotFoundError",
    "MessageRejectedError",
    "MessageTooBigError",
    "NotSupportedError",
    "Query",
    "RecipientMaildirs",
    "SQLite",
    "Store",
    "StoreError",
    "StoreFullError",
    "Stored",
    "open",
    "parse_stored_params",
    "read",
]


def read(path: str | os.PathLike[str], uid: str | None = None) -> Stored:
    """Return a stored message and its envelope.

    ``path`` is a file in a Maildir; or, with ``uid``, an SQLite database, and ``uid`` the id of the message in it.

    Raises OSError or ``sqlite3.Error`` when it cannot be read, LookupError when the database has no message with this
    ``uid``, and ValueError when the file or database was not written by a store.
    """
    path = check_path(path, "path")
    check_type(uid, "uid", str, optional=True)
    return read_file(path) if uid is None else read_row(path, uid)
