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
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Self

import trio

from .._server.spool import check_path
from ..protocol.arguments import check_items
from ._consumer import DeadLetter, check_name
from ._disk import PART, Directory, check_free, check_writable, flush_octets, make_directory, write_all
from ._maildir_file import encode_envelope
from ._maildir_queue import MaildirQueue
from ._maildir_reader import BATCH, read_entries
from ._maildir_store import FileSpool, MaildirStore, Newline, apply, remove_old_files, split_url

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
    from datetime import datetime

    from ._consumer import Claim, Outcome
    from ._entry import Entry


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


#: Octets that are left free on the disk, so that consumers can record their claims, and handle what has filled it.
RESERVE = 1 << 18


def escape_host(host: str) -> str:
    """Return a host name in the form that a file name can contain: a colon would begin the flags of a mail reader."""
    return host.replace("/", r"\057").replace(":", r"\072")


HOST = escape_host(socket.gethostname())


class Maildir(MaildirStore["MaildirSpool"]):
    """A store that delivers every message into one Maildir.

    ``path`` is the Maildir; it is created if it does not exist. ``newline`` is the line end in its files: "crlf" as
    sent, or "lf" for programs that expect Unix files.
    """

    def __init__(self, path: str | os.PathLike[str], *, newline: Newline = "crlf") -> None:
        self.path: str = os.path.abspath(check_path(path, "path"))
        super().__init__(self.path, newline)
        self.tmp: str = os.path.join(self.path, "tmp")
        self.new: str = os.path.join(self.path, "new")
        self._directories: tuple[Directory, Directory] | None = None  # tmp and new
        self._queue = MaildirQueue(self.path, lambda: self.clock(), repr(self))
        self._commits = self._commits_seen = 0  # groups that were committed, and those that a consumer knows about
        self._wakeup: tuple[trio.lowlevel.TrioToken, trio.Event] | None = None  # what consumers wait for

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Return the store of ``maildir:PATH``, ``maildir:PATH?newline=lf`` or ``maildir:PATH?newline=crlf``."""
        path, newline = split_url(url)
        return cls(path, newline=newline)

    def __repr__(self) -> str:
        return f"Maildir({self.path!r})"

    def _maildirs(self) -> list[str]:
        return [self.path]

    async def _claim(self, group: str, name: str, *, lease: float, max_attempts: int) -> Claim | None:
        self._commits_seen = self._commits

        def work() -> Claim | None:
            self.directories()  # a store is opened when it is first used
            return self._queue.claim(group, name, lease=lease, max_attempts=max_attempts)

        return await self._in_thread(work, abandon_on_cancel=True)

    async def _settle(self, claim: Claim, outcome: Outcome) -> bool:
        return await self._in_thread(partial(self._queue.settle, claim, outcome), abandon_on_cancel=True)

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
        letters = await self._in_thread(partial(self._queue.dead, group))
        for begin in range(0, len(letters), BATCH):
            batch = letters[begin : begin + BATCH]
            states = {file.id: state for file, state in batch}
            for entry in await self._in_thread(partial(read_entries, [[file] for file, _ in batch])):
                state = states[entry.id]
                yield DeadLetter(
                    entry=entry, group=group, reason=state.reason, attempts=state.attempts, state=state.state
                )

    async def requeue(self, group: str, ids: Iterable[str]) -> int:
        """Deliver dead letters again, also while another process consumes: see `Store.requeue`."""
        check_name(group, "group")
        count = await self._in_thread(partial(self._queue.requeue, group, frozenset(check_items(ids, "ids", str))))
        self._wake_consumers()
        return count

    def _spool(self, entry: Entry, trace: Callable[[], bytes]) -> MaildirSpool:
        received = trace().removesuffix(b"\r\n\r\n").removesuffix(b"\r\n")  # see `Spool.separate`
        fields = encode_envelope(entry) + received + b"\r\n"
        return MaildirSpool(self, unique_name(entry.received), fields, lf=self.newline == "lf")

    def _commit(self, messages: Sequence[MaildirSpool]) -> dict[MaildirSpool, Exception]:
        errors: dict[MaildirSpool, Exception] = {}
        self.no_commit.clear()
        try:
            tmp, new = self.directories()
            check_free(self.path, RESERVE)
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
        remove_old_files(tmp)
        self._directories = directories
        return directories

    def _close(self) -> None:
        self._queue.release()
        self.remove_abandoned()
        self._directories = None


class MaildirSpool(FileSpool):
    """A message before it is in ``new/``: in memory, or in a file in ``tmp/``."""

    def __init__(self, maildir: Maildir, unique: str, fields: bytes, *, lf: bool) -> None:
        super().__init__(unique, fields, lf=lf)
        self.maildirs: Maildir = maildir  # type: ignore[assignment]
        self.unique = unique
        self.places: list[tuple[Directory, str]] = []
        """The files to remove when the message cannot be stored: the directory and the name of each."""
        self._fd: int | None = None
        self._durable = False

    @property
    def written(self) -> bool:
        """True if a file was created."""
        return self.places != []

    def write(self, data: bytearray) -> None:
        """Write octets to the file in ``tmp/``, and flush each part of them."""
        if self._fd is None:
            self.maildirs.remove_abandoned()
            self._create(self.maildirs.directories()[0])
        assert self._fd is not None
        with memoryview(data) as octets:
            for begin in range(0, len(octets), PART):
                self.maildirs.no_commit.wait()
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
