"""The base of both Maildir stores: reading messages, and writing large ones in one thread."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeVar

import trio

from .._server.threads import run_in_thread
from ..protocol.arguments import check_choice, check_items, check_type
from ._errors import MessageNotFoundError
from ._maildir_file import list_files, unique_part
from ._maildir_reader import BATCH, list_messages, read_entries, read_stored, remove_files
from ._query import Query, as_query
from ._spool import Spool
from ._store import Store

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable

    from ._disk import Directory
    from ._entry import Stored
    from ._maildir_file import MaildirFile
    from ._store import Selected

T = TypeVar("T")

#: Seconds after which a file in ``tmp/`` is removed, as the Maildir specification has it (cr.yp.to/proto/maildir.html).
MAX_TMP_AGE = 36 * 60 * 60
#: Large messages that are written to the disk at a time.
WRITERS = 1
#: What comes between the path and the line end in a URL. Any other "?" belongs to the path.
NEWLINE_OPTION = "?newline="

Newline = Literal["crlf", "lf"]


class FileSpool(Spool):
    """A message before it is stored: in memory, or in a file."""

    maildirs: MaildirStore[FileSpool]
    """The store."""

    def remove(self) -> None:
        """Close and remove all files of this message."""
        raise NotImplementedError

    async def in_thread(self, work: Callable[[], T], *, abandon_on_cancel: bool = False) -> T:
        """Call a function in a thread that may wait for the disk."""
        return await run_in_thread(work, limiter=self.maildirs.writers, abandon_on_cancel=abandon_on_cancel)

    def discard(self) -> bool:
        """Remove the files of this message, and of others whose session did not get a thread in time."""
        self.maildirs.remove_abandoned()
        return False

    async def discard_in_thread(self) -> None:
        """Note that the file has to be removed, and do so if the disk responds."""
        if self.written:
            self._buffer.clear()
            self.maildirs.abandoned.append(self)
            await super().discard_in_thread()


FileSpoolT = TypeVar("FileSpoolT", bound=FileSpool)


class MaildirStore(Store[FileSpoolT]):
    """A store of one Maildir or several."""

    def __init__(self, place: str, newline: Newline) -> None:
        check_choice(newline, "newline", ("crlf", "lf"))
        super().__init__()
        option = f"{NEWLINE_OPTION}{newline}" if newline != "crlf" or NEWLINE_OPTION in place else ""
        self.url: str = f"maildir:{place}{option}"
        self.newline: Newline = newline
        self.writers: trio.CapacityLimiter = trio.CapacityLimiter(WRITERS)
        """The thread that writes large messages. If the disk stalls, other threads than Trio's default ones wait."""
        self.no_commit: threading.Event = threading.Event()
        """Set as long as no messages are committed."""
        self.no_commit.set()
        self.abandoned: deque[FileSpool] = deque()
        """Messages that are not stored, and whose files have to be removed."""

    @staticmethod
    def id_of(name: str) -> str:
        """Return the store's id of a message for the name of a file."""
        return unique_part(name)

    def _maildirs(self) -> Iterable[str]:
        """Return the paths of the Maildirs. Called in a thread."""
        raise NotImplementedError

    async def _select(self, query: Query, *, reverse: bool, after: str | None, offset: int) -> AsyncGenerator[Selected]:
        # The messages in ``new/`` and ``cur/``, those of other programs included.
        messages = await self._in_thread(partial(self._list, reverse=reverse))
        if after is not None:
            position = next((n for n, files in enumerate(messages) if files[0].id == after), None)
            if position is None:
                raise MessageNotFoundError(f"{self!r}: no message {after!r}")
            offset += position + 1
        for begin in range(offset, len(messages), BATCH):
            for entry in await self._in_thread(partial(read_entries, messages[begin : begin + BATCH])):
                yield entry, False

    async def count(self, query: Query | str = "", *, limit: int | None = None) -> int:
        """Return the number of messages that fulfil a query, by default of all messages; ``limit`` if there are more."""
        if as_query(query).terms or limit is not None:
            return await super().count(query, limit=limit)
        return len(await self._in_thread(self._ids))

    async def present(self, ids: Iterable[str]) -> set[str]:
        """Return those of the ids whose messages are in the store."""
        return set(check_items(ids, "ids", str)) & await self._in_thread(self._ids)

    async def get(self, id: str) -> Stored:
        """Return a message. Raises `MessageNotFoundError` if the store does not have it."""
        check_type(id, "id", str)
        return await self._in_thread(partial(self._get, id))

    async def remove(self, ids: Iterable[str]) -> int:
        """Remove messages, and return how many of them the store had."""
        return await self._in_thread(partial(self._remove, frozenset(check_items(ids, "ids", str))))

    async def _in_thread(self, work: Callable[[], T], *, abandon_on_cancel: bool = False) -> T:
        """Call a function in a thread, and raise its errors as `StoreError`."""
        try:
            return await run_in_thread(work, abandon_on_cancel=abandon_on_cancel)
        except OSError as error:
            raise self._store_error(error) from error

    def _list(self, *, reverse: bool = False) -> list[list[MaildirFile]]:
        return list_messages(self._maildirs(), self.id_of, reverse=reverse)

    def _ids(self) -> set[str]:
        return {file.id for file in self._files()}

    def _files(self) -> Iterable[MaildirFile]:
        return (file for maildir in self._maildirs() for file in list_files(maildir, self.id_of))

    def _get(self, id: str) -> Stored:
        # A file that is moved meanwhile can be found in both directories.
        files = {os.path.dirname(file.directory): file for file in self._files() if file.id == id}
        if not files:
            raise MessageNotFoundError(f"{self!r}: no message {id!r}")
        return read_stored(list(files.values()), id)

    def _remove(self, ids: frozenset[str]) -> int:
        return len(remove_files([file for file in self._files() if file.id in ids])) if ids else 0

    def remove_abandoned(self) -> None:
        """Remove the files of messages that are not stored. Several threads may do this at the same time."""
        while True:
            try:
                message = self.abandoned.popleft()
            except IndexError:
                return
            message.remove()


def split_url(url: str) -> tuple[str, Newline]:
    """Return the path and the line end of ``maildir:PATH``, ``maildir:PATH?newline=lf`` or ``maildir:PATH?newline=crlf``."""
    rest = url.partition(":")[2]
    path, option, newline = rest.rpartition(NEWLINE_OPTION)
    if not option:
        path, newline = rest, "crlf"
    if not path:
        raise ValueError(f"must be maildir:PATH or maildir:PATH{NEWLINE_OPTION}lf, got {url!r}")
    return os.path.expanduser(path), newline  # type: ignore[return-value]  # it is checked by the store


def apply(
    step: Callable[[FileSpoolT], None], messages: Iterable[FileSpoolT], errors: dict[FileSpoolT, Exception]
) -> None:
    """Call ``step`` for each message that has no error, and add the errors: one that fails does not affect the others."""
    for message in messages:
        if message not in errors:
            try:
                step(message)
            except Exception as error:
                errors[message] = error


def remove_old_files(tmp: Directory) -> None:
    """Remove the files in ``tmp/`` that a process has left."""
    # Times of files come from the system's clock, so this must not use the server's.
    oldest = time.time() - MAX_TMP_AGE
    with os.scandir(tmp.fd) as files:
        for file in files:
            with suppress(OSError):
                if file.is_file(follow_symlinks=False) and file.stat(follow_symlinks=False).st_mtime < oldest:
                    os.unlink(file.name, dir_fd=tmp.fd)
