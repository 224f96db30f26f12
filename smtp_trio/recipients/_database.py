"""`RecipientDatabase`: recipients and aliases in a SQLite database."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import Final, TypeVar
from urllib.parse import quote

import trio

from .._server.threads import run_in_thread
from ..protocol.arguments import check_type
from ._addresses import fold, split_addresses
from ._source import Source, SourceError

T = TypeVar("T")

#: The lookups that run at a time.
MAX_CONCURRENT: Final = 2
#: Seconds that a lookup waits for another program that is writing.
BUSY_TIMEOUT: Final = 2.0
LOOK_UP: Final = "SELECT address, targets FROM recipients WHERE address IN ({})"
# The same expression as in the index that the documentation has, so that the index is used.
HAS_DOMAIN: Final = (
    "SELECT EXISTS (SELECT 1 FROM recipients WHERE lower(substr(address, instr(address, '@') + 1)) IN ({}))"
)

# Each lookup opens the database, which takes about a tenth of a millisecond. So the file can be replaced at any time,
# nothing has to be closed, and a lookup that is cancelled leaves no connection that another one would use. The
# connection is read-only: a missing file is an error, and not created.


class RecipientDatabase(Source):
    """Recipients and aliases in a table or view ``recipients`` of a SQLite database, which is opened read-only.

    The column ``address`` has the keys (see `Source`), and ``targets`` NULL, an empty text or addresses with commas
    between them. Changes have an effect at once.

    :param path: the database.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        check_type(path, "path", (str, os.PathLike))
        self.path: str = os.path.abspath(path)
        self._limiter = trio.CapacityLimiter(MAX_CONCURRENT)

    def __str__(self) -> str:
        return f"sqlite:{self.path}"

    def load(self) -> None:
        """Check that the database can be used. Blocks.

        :raises SourceError: it cannot be opened, or has no such table.
        """
        self._read(LOOK_UP, [""])

    async def look_up(self, keys: Sequence[str]) -> Mapping[str, Sequence[str]]:
        rows = await self._run(lambda: self._read(LOOK_UP, keys))
        found: dict[str, Sequence[str]] = {}
        for address, targets in rows:
            if not isinstance(address, str) or not isinstance(targets, str | None):
                raise SourceError(f"{self}: the columns address and targets must be text, got {(address, targets)!r}")
            found[fold(address)] = split_addresses(targets or "")
        return found

    async def has_domain(self, domains: Sequence[str]) -> bool:
        return bool((await self._run(lambda: self._read(HAS_DOMAIN, domains)))[0][0])

    async def _run(self, function: Callable[[], T]) -> T:
        return await run_in_thread(function, limiter=self._limiter, abandon_on_cancel=True)

    def _read(self, query: str, values: Sequence[str]) -> list[tuple[object, ...]]:
        uri = f"file:{quote(self.path)}?mode=ro"
        try:
            with closing(sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT, isolation_level=None)) as database:
                return database.execute(query.format(",".join("?" * len(values))), values).fetchall()
        except sqlite3.Error as error:
            raise SourceError(f"{self}: {error}") from error
