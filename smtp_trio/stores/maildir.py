"""Maildir: one file for each message.

A file begins with the envelope, which the message itself does not contain: ``Return-Path: <sender>``, one
``Envelope-To: <recipient>`` for each accepted recipient in order (recipients of blind copies are nowhere else), and the
server's ``Received:``. The parameters of MAIL and RCPT follow the address to which they belong, in
``X-Envelope-Parameters:``, if there are any. The octets that the client sent follow unchanged. Fields of the same names
in the message are part of it: ``read`` takes the envelope only from the fields before the server's ``Received:``.
"""

from __future__ import annotations

import itertools
import os
import socket
import threading
import time
from collections import deque
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Literal, Self, TypeVar

import trio

from .._server.spool import check_path
from .._server.threads import run_in_thread
from ..protocol.arguments import check_choice, check_items, check_type
from ._consumer import DeadLetter, check_name
from ._disk import PART, Directory, check_writable, flush_octets, make_directory, write_all
from ._errors import MessageNotFoundError
from ._maildir_file import encode_envelope, find_file, list_files, unique_part
from ._maildir_queue import MaildirQueue
from ._maildir_reader import BATCH, list_messages, read_entries, read_stored, remove_files
from ._spool import Spool
from ._store import Store

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
    from datetime import datetime

    from ._consumer import Claim, Outcome
    from ._entry import Entry, Stored
    from ._maildir_file import MaildirFile

T = TypeVar("T")

#: Seconds after which a file in ``tmp/`` is removed, as the Maildir specification has it (cr.yp.to/proto/maildir.html).
MAX_TMP_AGE = 36 * 60 * 60
#: Large messages that are written to the disk at a time.
WRITERS = 1
DELIVERY_NUMBERS = itertools.count(1)

# How a message is delivered
# --------------------------
#
# A crash at any point must leave either the whole message in ``new/`` or nothing that a mail reader would see, and
# after a 250 it must leave the message. Hence this order, in which each step ends before the next one begins:
#
# 1. Write the message into a file in ``tmp/``, under a unique name. O_EXCL makes sure that no other file is
#    overwritten.
# 2. fsync the file: its octets are on the disk. Close it, and check the result: NFS reports failed writes there.
# 3. rename the file into ``new/``. The rename is atomic, so a reader finds the whole message or nothing.
# 4. fsync ``new/``: the name is on the disk. Without this, a power cut after step 3 would remove the file. Then fsync
#    ``tmp/``, so that the old name is gone as well.
# 5. Send 250.
#
# Steps 1 and 2 are taken for each message of a group, steps 3 and 4 for the group: `Maildir._commit`. Only a large
# message takes the first two while it is received, in a thread of its session, so that the others of its group do not
# wait until all its octets are on the disk. After an error in any step the message is removed from both directories,
# and the reply is 451 or 452. If the disk is so busy that its session would have to wait long for a thread, the next one
# that gets a thread removes it (``abandoned``).
#
# How a large message is written
#
# A disk writes in the order of the requests, more or less. When eight messages of 20 MiB were flushed at their end, a
# small one waited 250 ms for its own flush. So a large message is flushed part by part, each a quarter of a mebibyte, while
# it is received; by one thread, so that no more than this is before the flush of a small message; and not during a
# commit, which has three flushes. The thread writes one part between two commits, however often there is one.
#
# A process that is killed leaves files in ``tmp/``. They do not matter to readers, and are removed when a Maildir is
# opened and they are older than 36 hours. Files in ``new/`` and ``cur/`` belong to the reader and are never touched.
#
# The directories are held open, and all steps use names relative to their descriptors. If a directory was replaced
# between the rename and the fsync, the store would otherwise flush one without the message; and a commit needs no more
# descriptors than the one of a message. When the paths name other directories than before, these are opened instead.
#
# Symbolic links are not followed: neither one at the path of the Maildir or of its directories, nor one at the name of
# a file. Only directories above the Maildir may be links.


def escape_host(host: str) -> str:
    """Return a host name in the form that a file name can contain: a colon would begin the flags of a mail reader."""
    return host.replace("/", r"\057").replace(":", r"\072")


HOST = escape_host(socket.gethostname())
#: What comes between the path and the line end in a URL. Any other "?" belongs to the path.
NEWLINE_OPTION = "?newline="


class Maildir(Store["MaildirSpool"]):
    """A store that delivers every message into one Maildir.

    ``path`` is the Maildir; it is created if it does not exist. ``newline`` is the line end in its files: "crlf" as
    sent, or "lf" for programs that expect Unix files.
    """

    def __init__(self, path: str | os.PathLike[str], *, newline: Literal["crlf", "lf"] = "crlf") -> None:
        check_choice(newline, "newline", ("crlf", "lf"))
        super().__init__()
        self.path: str = os.path.abspath(check_path(path, "path"))
        option = f"{NEWLINE_OPTION}{newline}" if newline != "crlf" or NEWLINE_OPTION in self.path else ""
        self.url = f"maildir:{self.path}{option}"
        self.newline: Literal["crlf", "lf"] = newline
        self.tmp: str = os.path.join(self.path, "tmp")
        self.new: str = os.path.join(self.path, "new")
        self._directories: tuple[Directory, Directory] | None = None  # tmp and new
        self.writers: trio.CapacityLimiter = trio.CapacityLimiter(WRITERS)
        """The thread that writes large messages. If the disk stalls, other threads than Trio's default ones wait."""
        self.no_commit: threading.Event = threading.Event()
        """Set as long as no messages are committed."""
        self.no_commit.set()
        self.abandoned: deque[MaildirSpool] = deque()
        """Messages that are not stored, and whose files have to be removed."""
        self._queue = MaildirQueue(self.path, lambda: self.clock(), repr(self))
        self._commits = self._commits_seen = 0  # groups that were committed, and those that a consumer knows about
        self._wakeup: tuple[trio.lowlevel.TrioToken, trio.Event] | None = None  # what consumers wait for

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Return the store of ``maildir:PATH``, ``maildir:PATH?newline=lf`` or ``maildir:PATH?newline=crlf``."""
        rest = url.partition(":")[2]
        path, option, newline = rest.rpartition(NEWLINE_OPTION)
        if not option:
            path, newline = rest, "crlf"
        if not path:
            raise ValueError(f"must be maildir:PATH or maildir:PATH{NEWLINE_OPTION}lf, got {url!r}")
        return cls(os.path.expanduser(path), newline=newline)  # type: ignore[arg-type]  # it is checked there

    def __repr__(self) -> str:
        return f"Maildir({self.path!r})"

    async def entries(self, *, reverse: bool = False) -> AsyncGenerator[Entry]:
        """Iterate over the messages in ``new/`` and ``cur/``, those of other programs included: see `Store.entries`."""
        messages = await self._reading(partial(self._list, reverse=reverse))
        for begin in range(0, len(messages), BATCH):
            for entry in await self._reading(partial(read_entries, messages[begin : begin + BATCH])):
                yield entry

    async def get(self, id: str) -> Stored:
        """Return a message. Raises `MessageNotFoundError` if the store does not have it."""
        check_type(id, "id", str)
        return await self._reading(partial(self._get, id))

    async def remove(self, ids: Iterable[str]) -> int:
        """Remove messages, and return how many of them the store had."""
        return await self._reading(partial(self._remove, frozenset(check_items(ids, "ids", str))))

    async def _claim(self, group: str, name: str, *, lease: float, max_attempts: int) -> Claim | None:
        self._commits_seen = self._commits

        def work() -> Claim | None:
            self.directories()  # a store is opened when it is first used
            return self._queue.claim(group, name, lease=lease, max_attempts=max_attempts)

        return await self._reading(work, abandon_on_cancel=True)

    async def _settle(self, claim: Claim, outcome: Outcome) -> bool:
        return await self._reading(partial(self._queue.settle, claim, outcome), abandon_on_cancel=True)

    async def _wait_for_message(self, group: str, longest: float) -> None:
        """Wait for a commit of this process, or the time of a message; another process is noticed after ``longest``."""
        due = self._queue.next_due()
        if due is not None:
            longest = min(longest, max(due - self.clock(), 0))
        if self._wakeup is None:
            self._wakeup = trio.lowlevel.current_trio_token(), trio.Event()
        if self._commits == self._commits_seen and not self._queue.ready:
            with trio.move_on_after(longest):
                await self._wakeup[1].wait()
        else:
            await trio.lowlevel.checkpoint()

    def _wake_consumers(self) -> None:
        """Have consumers look for messages. Called in a thread."""
        self._commits += 1
        wakeup, self._wakeup = self._wakeup, None
        if wakeup is not None:
            with suppress(trio.RunFinishedError):
                wakeup[0].run_sync_soon(wakeup[1].set)

    async def dead_letters(self, group: str = "default") -> AsyncGenerator[DeadLetter]:
        """Iterate over the messages that the group has given up: see `Store.dead_letters`."""
        check_name(group, "group")
        letters = await self._reading(partial(self._queue.dead, group))
        for begin in range(0, len(letters), BATCH):
            batch = letters[begin : begin + BATCH]
            states = {file.id: state for file, state in batch}
            for entry in await self._reading(partial(read_entries, [[file] for file, _ in batch])):
                state = states[entry.id]
                yield DeadLetter(
                    entry=entry, group=group, reason=state.reason, attempts=state.attempts, state=state.state
                )

    async def requeue(self, group: str, ids: Iterable[str]) -> int:
        """Deliver dead letters again, also while another process consumes: see `Store.requeue`."""
        check_name(group, "group")
        count = await self._reading(partial(self._queue.requeue, group, frozenset(check_items(ids, "ids", str))))
        self._wake_consumers()
        return count

    async def _reading(self, work: Callable[[], T], *, abandon_on_cancel: bool = False) -> T:
        """Call a function in a thread, and raise its errors as `StoreError`."""
        try:
            return await run_in_thread(work, abandon_on_cancel=abandon_on_cancel)
        except OSError as error:
            raise self._store_error(error) from error

    def _list(self, *, reverse: bool = False) -> list[list[MaildirFile]]:
        return list_messages([self.path], unique_part, reverse=reverse)

    def _get(self, id: str) -> Stored:
        file = find_file(self.path, id)
        if file is None:
            raise MessageNotFoundError(f"{self!r}: no message {id!r}")
        return read_stored([file], id)

    def _remove(self, ids: frozenset[str]) -> int:
        return len(remove_files(file for file in list_files(self.path) if file.id in ids))

    def _spool(self, entry: Entry, trace: Callable[[], bytes]) -> MaildirSpool:
        received = trace().removesuffix(b"\r\n\r\n").removesuffix(b"\r\n")  # see `Spool.separate`
        fields = encode_envelope(entry) + received + b"\r\n"
        return MaildirSpool(self, unique_name(entry.received), fields, lf=self.newline == "lf")

    def _commit(self, messages: Sequence[MaildirSpool]) -> dict[MaildirSpool, Exception]:
        errors: dict[MaildirSpool, Exception] = {}
        self.no_commit.clear()
        try:
            tmp, new = self.directories()
            apply(partial(MaildirSpool.finish, directory=tmp), messages, errors)
            apply(partial(MaildirSpool.move, tmp=tmp, new=new), messages, errors)
            new.sync()
            tmp.sync()
        except Exception as error:
            errors |= dict.fromkeys(messages, error)
        finally:
            self.no_commit.set()
        self._wake_consumers()
        for message in messages:
            if message in errors:
                message.remove()
            else:
                message.places = []  # they hold the directories open
        if self.abandoned:
            self.remove_abandoned()
        return errors

    def remove_abandoned(self) -> None:
        """Remove the files of messages that are not stored. Several threads may do this at the same time."""
        while True:
            try:
                message = self.abandoned.popleft()
            except IndexError:
                return
            message.remove()

    def directories(self) -> tuple[Directory, Directory]:
        """Return ``tmp/`` and ``new/``; open the Maildir first when it is not open, or not at its path any more."""
        found = self._directories
        if found is not None and found[0].is_current() and found[1].is_current():
            return found
        return self._open_directories()

    def _open(self) -> None:
        self._open_directories()

    def _open_directories(self) -> tuple[Directory, Directory]:
        """Create what is missing, remove old files in ``tmp/``, and open the directories.

        Threads that write large messages may do this at the same time.
        """
        if not self.create:
            self._directories = Directory(self.tmp), Directory(self.new)
            return self._directories
        for path in (self.path, self.tmp, self.new, os.path.join(self.path, "cur")):
            make_directory(path)
            check_writable(path)
        directories = tmp, _ = Directory(self.tmp), Directory(self.new)
        # Times of files come from the system's clock, so this must not use the server's.
        oldest = time.time() - MAX_TMP_AGE
        with os.scandir(tmp.fd) as files:
            for file in files:
                with suppress(OSError):
                    if file.is_file(follow_symlinks=False) and file.stat(follow_symlinks=False).st_mtime < oldest:
                        os.unlink(file.name, dir_fd=tmp.fd)
        self._directories = directories
        return directories

    def _close(self) -> None:
        self._queue.release()
        self.remove_abandoned()
        self._directories = None


def apply(
    step: Callable[[MaildirSpool], None], messages: Iterable[MaildirSpool], errors: dict[MaildirSpool, Exception]
) -> None:
    """Call ``step`` for each message that has no error, and add the errors: one that fails does not affect the others."""
    for message in messages:
        if message not in errors:
            try:
                step(message)
            except Exception as error:
                errors[message] = error


class MaildirSpool(Spool):
    """A message before it is in ``new/``: in memory, or in a file in ``tmp/``."""

    def __init__(self, maildir: Maildir, unique: str, fields: bytes, *, lf: bool) -> None:
        super().__init__(unique, fields, lf=lf)
        self.maildir = maildir
        self.unique = unique
        self.places: list[tuple[Directory, str]] = []
        """The files to remove when the message cannot be stored: the directory and the name of each."""
        self._fd: int | None = None
        self._durable = False

    @property
    def written(self) -> bool:
        """True if a file was created."""
        return self.places != []

    async def in_thread(self, work: Callable[[], T], *, abandon_on_cancel: bool = False) -> T:
        """Call a function in a thread that may wait for the disk."""
        return await run_in_thread(work, limiter=self.maildir.writers, abandon_on_cancel=abandon_on_cancel)

    def write(self, data: bytearray) -> None:
        """Write octets to the file in ``tmp/``, and flush each part of them."""
        if self._fd is None:
            self.maildir.remove_abandoned()
            self._create(self.maildir.directories()[0])
        assert self._fd is not None
        with memoryview(data) as octets:
            for begin in range(0, len(octets), PART):
                self.maildir.no_commit.wait()
                write_all(self._fd, octets[begin : begin + PART])
                flush_octets(self._fd)

    def _create(self, directory: Directory) -> int:
        """Create the file in ``tmp/``, and return its descriptor."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        self._fd = fd = os.open(self.unique, flags, 0o600, dir_fd=directory.fd)
        self.places.append((directory, self.unique))
        return fd

    def finish(self, directory: Directory | None = None) -> None:
        """Make the octets durable in ``tmp/``, and set the final name.

        ``directory`` is ``tmp/``; it is not needed if the file was created.
        """
        if self._durable:
            return
        if self._fd is None and directory is not None:
            fd = self._create(directory)
            data = self.take()
            write_all(fd, data)
            self.size: int = len(data)
        else:
            self.flush(last=True)
        assert self._fd is not None
        os.fsync(self._fd)
        self._close()
        self.name: str = f"{self.unique},S={self.size}"
        self._durable = True

    def _close(self) -> None:
        """Close the file, if it is open. Raises OSError: some file systems report a failed write only now."""
        if self._fd is not None:
            fd, self._fd = self._fd, None
            os.close(fd)

    def move(self, *, tmp: Directory, new: Directory) -> None:
        """Move the file from ``tmp/`` into ``new/``."""
        os.rename(self.unique, self.name, src_dir_fd=tmp.fd, dst_dir_fd=new.fd)
        self.places.append((new, self.name))

    def discard(self) -> bool:
        """Remove the files of this message, and of others whose session did not get a thread in time."""
        self.maildir.remove_abandoned()
        return False

    async def discard_in_thread(self) -> None:
        """Note that the file has to be removed, and do so if the disk responds."""
        if self.written:
            self._buffer.clear()
            self.maildir.abandoned.append(self)
            await super().discard_in_thread()

    def remove(self) -> None:
        """Close the file, and remove it from both directories."""
        with suppress(OSError):
            self._close()
        for directory, name in self.places:
            with suppress(OSError):
                os.unlink(name, dir_fd=directory.fd)
        self.places = []


def unique_name(now: datetime) -> str:
    """Return a name that no other delivery uses, on any host and also after a restart (cr.yp.to/proto/maildir.html)."""
    return f"{int(now.timestamp())}.M{now.microsecond}P{os.getpid()}Q{next(DELIVERY_NUMBERS)}.{HOST}"
