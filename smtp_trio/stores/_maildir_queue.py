"""The messages of a Maildir as a queue for one consumer process. Everything here blocks: call it in a thread."""

from __future__ import annotations

import fcntl
import heapq
import json
import os
import threading
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Literal

from attrs import asdict, evolve, frozen

from .._server.log_events import NOT_CONSUMED
from ._consumer import Claim, describe
from ._disk import Directory, make_directory, write_all
from ._errors import NotSupportedError
from ._maildir_file import MaildirFile, age, list_files, read_message, unique_part
from ._maildir_reader import again, remove_files

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from ._consumer import Outcome

# How messages of a Maildir are consumed
# --------------------------------------
#
# What waits is in ``new/``. What is settled is in ``cur/``, with the flag S (seen), or F (flagged) for a dead letter. So mail
# readers see what has become of a message, and can decide it: one that a reader has moved into ``cur/``, or removed, counts as
# handled. The flags cannot record several groups, so a Maildir has one group.
#
# Everything else about a message, such as the attempts and the lease, is in a file with its id in the directory
# ``smtp-trio-queue/``. A message without a file has not been delivered yet. The files are JSON, and are replaced by rename
# after an fsync. The name of the directory does not begin with a dot: readers of Maildir++ would take it for a folder.
#
# One process at a time may consume, which a lock on a file of this directory makes sure. It keeps the names that it has seen
# in memory: a directory with many messages is not listed for each of them. The lists are hints; the files decide.
#
# Dead letters can be delivered again by any process (`requeue`), at any time. The process that consumes leaves them alone
# until then.
#
# Order of writes. A crash must not lose a message, nor deliver one again that was acknowledged:
#
# * done: rename into ``cur/``, fsync of ``cur/`` and ``new/``; then the state is removed. A state without a message in ``new/``
#   is removed by the next process that consumes.
# * dead: the state becomes "dead" and is flushed; then rename. The next process repeats the rename.
# * requeue: the state becomes "requeued" and is flushed; then rename. The next process repeats the rename.

#: The directory with the states, in the Maildir.
QUEUE = "smtp-trio-queue"
#: Files in it that are not states. Names of messages do not begin with a dot.
LOCK, GROUP, TEMPORARY = ".lock", ".group", ".tmp-"
#: Seconds after which a temporary file was left by a process that has ended.
MAX_TEMPORARY_AGE = 3600
EXPIRED = "the lease of its last attempt has expired"


@frozen(kw_only=True)
class State:
    """The state of a message that was delivered to a consumer."""

    kind: Literal["waiting", "dead", "requeued"] = "waiting"
    attempts: int = 0
    token: str = ""
    """That of the claim, or "" if no consumer has the message."""
    consumer: str = ""
    due: float = 0
    """The time at which it may be delivered: the end of the lease, or the time of a retry."""
    state: str = ""
    reason: str = ""


class MaildirQueue:
    """The queue of a Maildir. Its methods raise OSError, and may be called by several threads."""

    def __init__(self, path: str, clock: Callable[[], float], owner: str) -> None:
        self.path = path
        self.new = os.path.join(path, "new")
        self.cur = os.path.join(path, "cur")
        self.directory = os.path.join(path, QUEUE)
        self.clock = clock
        self.owner = owner
        """The store, for messages of errors."""
        self._mutex = threading.RLock()
        self._lock: int | None = None
        self.ready: deque[str] = deque()
        """Ids of messages that were found in ``new/`` and have not been looked at, from the oldest."""
        self._due: dict[str, float] = {}
        """The times at which messages that were looked at are due."""
        self._timers: list[tuple[float, str]] = []
        """A heap of the same. An item whose time is not that of ``_due`` is out of date."""
        self._foreign: set[str] = set()

    # --- the lock:

    def _acquire(self, group: str) -> None:
        """Become the process that consumes. Raises `NotSupportedError` if there is another one, or another group."""
        if self._lock is None:
            self._lock = self._take_lock()
            try:
                os.ftruncate(self._lock, 0)
                os.write(self._lock, f"{os.getpid()}\n".encode())
                self._recover()
            except BaseException:
                self.release()
                raise
        known = self._group()
        if known is None:
            self._replace(GROUP, group.encode())
        elif known != group:
            raise NotSupportedError(
                f"{self.owner}: its messages are consumed by the group {known!r}, and a Maildir supports one group; "
                f"remove {os.path.join(self.directory, GROUP)} to give what is left to another one"
            )

    def _take_lock(self) -> int:
        """Return the descriptor of the locked file."""
        make_directory(self.directory)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        lock = os.open(os.path.join(self.directory, LOCK), flags, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            other = os.read(lock, 20).decode("ascii", "replace").strip() or "unknown"
            os.close(lock)
            if not isinstance(error, BlockingIOError):
                raise
            raise NotSupportedError(
                f"{self.owner}: another consumer uses it (process {other}); a Maildir supports one at a time, "
                "an SQLite store several"
            ) from None
        return lock

    def release(self) -> None:
        """Let another process consume."""
        with self._mutex:
            if self._lock is not None:
                lock, self._lock = self._lock, None
                os.close(lock)
            self.ready.clear()
            self._due.clear()
            self._timers.clear()
            self._foreign.clear()

    def _group(self) -> str | None:
        try:
            with open(os.path.join(self.directory, GROUP), "rb") as file:
                return file.read().decode() or None
        except FileNotFoundError:
            return None

    def _recover(self) -> None:
        """Finish what a process that has ended has begun."""
        for name in os.listdir(self.directory):
            if name.startswith(TEMPORARY):
                path = os.path.join(self.directory, name)
                with suppress(FileNotFoundError):
                    if os.stat(path).st_mtime < time.time() - MAX_TEMPORARY_AGE:
                        os.unlink(path)
        files = {file.id: file for file in list_files(self.path)}
        for uid, state in self._states():
            file = files.get(uid)
            if file is None or (file.directory == self.cur and state.kind == "waiting"):
                self._forget(uid)
            elif file.directory == self.new and state.kind == "dead":
                self._move(uid, "F")
            elif file.directory == self.cur and state.kind == "requeued":
                self._move_back(file)

    # --- consuming:

    def claim(self, group: str, name: str, *, lease: float, max_attempts: int) -> Claim | None:
        """See `Store._claim`."""
        with self._mutex:
            self._acquire(group)
            now = self.clock()
            for uid in self._candidates(now):
                state = self._load(uid) or State()
                if state.kind == "dead":  # another process is delivering it again
                    continue
                if state.due > now:
                    self._set_timer(uid, state.due)
                    continue
                file = MaildirFile(self.new, uid, uid)
                if state.attempts >= max_attempts:
                    self._bury(uid, evolve(state, reason=EXPIRED if state.token else state.reason))
                    continue
                try:
                    stored = read_message(file, own=True)
                except FileNotFoundError:  # a mail reader has moved it
                    self._forget(uid)
                    continue
                except (OSError, ValueError) as error:
                    self._foreign.add(uid)
                    NOT_CONSUMED.log(path=file.path, error=describe(error))
                    continue
                token = os.urandom(8).hex()
                state = evolve(
                    state, kind="waiting", attempts=state.attempts + 1, token=token, consumer=name, due=now + lease
                )
                self._save(uid, state, durable=False)
                return Claim(stored=stored, group=group, token=token, attempt=state.attempts, state=state.state)
            return None

    def _candidates(self, now: float) -> Iterator[str]:
        """Iterate over the ids of messages that may be due, from the one that has waited longest.

        ``new/`` is listed when all names that are known were used, once.
        """
        listed = False
        while True:
            due = self.next_due()
            if not self.ready and not listed:
                listed = True
                self._list()
            if due is not None and due <= now and (not self.ready or due <= arrival(self.ready[0])):
                uid = heapq.heappop(self._timers)[1]
                del self._due[uid]
                yield uid
            elif self.ready:
                yield self.ready.popleft()
            else:
                return

    def next_due(self) -> float | None:
        """Return the time at which the first message is due that is known to wait, or None."""
        with self._mutex:
            while self._timers and self._due.get(self._timers[0][1]) != self._timers[0][0]:
                heapq.heappop(self._timers)
            return self._timers[0][0] if self._timers else None

    def _list(self) -> None:
        names = [name for name in os.listdir(self.new) if not name.startswith(".") and unique_part(name) == name]
        self._foreign.intersection_update(names)
        self.ready.extend(sorted((name for name in names if name not in self._due.keys() | self._foreign), key=age))

    def settle(self, claim: Claim, outcome: Outcome) -> bool:
        """See `Store._settle`."""
        uid = claim.stored.id
        with self._mutex:
            self._acquire(claim.group)
            state = self._load(uid)
            if state is None or state.token != claim.token:
                return False
            state = evolve(state, token="", state=outcome.state, reason=outcome.reason)
            if outcome.kind == "done":
                if outcome.remove:
                    remove_files([MaildirFile(self.new, uid, uid)])
                else:
                    self._move(uid, "S")
                self._forget(uid)
            elif outcome.kind == "dead":
                self._bury(uid, state)
            elif self._is_new(uid):
                # A delivery that was interrupted has waited longer than all others.
                due = self.clock() + outcome.after if not outcome.uncounted else 0
                state = evolve(state, attempts=state.attempts - outcome.uncounted, due=due)
                self._save(uid, state)
                self._set_timer(uid, due)
            else:
                self._forget(uid)
            return True

    def _bury(self, uid: str, state: State) -> None:
        """Make a message a dead letter. If it is not in the Maildir any more, forget it."""
        self._save(uid, evolve(state, kind="dead", token=""))
        self._due.pop(uid, None)
        self._move(uid, "F")

    # --- dead letters:

    def dead(self, group: str) -> list[tuple[MaildirFile, State]]:
        """Return the dead letters of a group, from the oldest."""
        if self._group() != group:
            return []
        dead = {uid: state for uid, state in self._states() if state.kind == "dead"}
        files = {file.id: file for file in list_files(self.path) if file.id in dead}
        return [(file, dead[file.id]) for file in sorted(files.values(), key=lambda file: age(file.name))]

    def requeue(self, group: str, ids: Collection[str]) -> int:
        """See `Store.requeue`. This may be called while another process consumes."""
        with self._mutex:
            found = [file for file, _ in self.dead(group) if file.id in ids]
            for file in found:
                self._save(file.id, State(kind="requeued"))
                self._move_back(file)
            return len(found)

    # --- files:

    def _is_new(self, uid: str) -> bool:
        return os.path.lexists(os.path.join(self.new, uid))

    def _move(self, uid: str, flag: str) -> None:
        """Move a message from ``new/`` to ``cur/``, durably, unless a mail reader has done so."""
        with suppress(FileNotFoundError):
            os.rename(os.path.join(self.new, uid), os.path.join(self.cur, f"{uid}:2,{flag}"))
        Directory(self.cur).sync()
        Directory(self.new).sync()

    def _move_back(self, file: MaildirFile) -> None:
        """Move a message to ``new/``, durably."""
        again(self._move_to_new, file)
        Directory(self.new).sync()
        Directory(self.cur).sync()

    def _move_to_new(self, file: MaildirFile) -> None:
        os.rename(file.path, os.path.join(self.new, file.id))

    def _set_timer(self, uid: str, due: float) -> None:
        self._due[uid] = due
        heapq.heappush(self._timers, (due, uid))

    def _forget(self, uid: str) -> None:
        """Remove the state of a message that is settled. It needs no flush: without its message in ``new/`` it has no effect."""
        self._due.pop(uid, None)
        with suppress(FileNotFoundError):
            os.unlink(os.path.join(self.directory, uid))

    def _states(self) -> Iterator[tuple[str, State]]:
        try:
            names = os.listdir(self.directory)
        except FileNotFoundError:
            return
        for name in names:
            if not name.startswith(".") and (state := self._load(name)) is not None:
                yield name, state

    def _load(self, uid: str) -> State | None:
        """Return the state of a message, or None without one. A file that is damaged counts as none."""
        try:
            with open(os.path.join(self.directory, uid), "rb") as file:
                return State(**json.loads(file.read()))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def _save(self, uid: str, state: State, *, durable: bool = True) -> None:
        """Write the state of a message. Without ``durable``, a power cut can leave the one before."""
        self._replace(uid, json.dumps(asdict(state), ensure_ascii=False).encode(), durable=durable)

    def _replace(self, name: str, data: bytes, *, durable: bool = True) -> None:
        path = os.path.join(self.directory, f"{TEMPORARY}{os.urandom(8).hex()}")
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            try:
                write_all(fd, data)
                os.fsync(fd)  # a rename can be on the disk before the octets of the file
            finally:
                os.close(fd)
            os.rename(path, os.path.join(self.directory, name))
        except BaseException:
            with suppress(OSError):
                os.unlink(path)
            raise
        if durable:
            Directory(self.directory).sync()


def arrival(uid: str) -> float:
    """Return the time in the name of a message."""
    seconds, microseconds, *_ = age(uid)
    return seconds + microseconds / 1e6
