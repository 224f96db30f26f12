"""Stores: ready-made hooks that keep every message they are told to, and say so only when it would survive a power cut.

``Maildir(path)`` keeps a file a message, for programs that read mail; ``SQLite(path)`` a row a message, for programs
that query it. Both keep the envelope with the message, and ``read`` gives back the two. Read `_store.py` for what a
store is, `_group.py` for how messages share a flush of the disk, `_spool.py` for where a large one waits; then
`maildir.py` and `sqlite.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._store import MessageTooBigError, Store, Stored, StoreError, StoreFullError
from .maildir import Maildir, read_file
from .sqlite import SQLite, read_row

if TYPE_CHECKING:
    import os

__all__ = ["Maildir", "MessageTooBigError", "SQLite", "Store", "StoreError", "StoreFullError", "Stored", "read"]


def read(path: str | os.PathLike[str], uid: str | None = None) -> Stored:
    """Read back a message: a file of a Maildir, or with ``uid`` a row of an SQLite database.

    Raises OSError or ``sqlite3.Error`` when it cannot be read, ``LookupError`` for a ``uid`` that is not there, and
    ``ValueError`` for a file or database that is not a store's.
    """
    return read_file(path) if uid is None else read_row(path, uid)
