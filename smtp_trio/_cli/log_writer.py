"""`LogWriter`: a thread that writes the lines of the log, so that a reader that has stopped does not stop the server."""

from __future__ import annotations

import fcntl
import os
import select
import threading
import time
from collections.abc import Callable
from contextlib import suppress

# A write to a pipe or a terminal blocks when the reader has stopped, for as long as it likes. A descriptor of standard
# output cannot be made non-blocking, because other processes may have it, too. So a thread writes the lines, from a queue
# that holds a limited number of octets. A line that does not fit is dropped; when the thread can write again, it reports
# how many there were, after those that came before.
#
# The thread does not wake for each line: it waits LINGER seconds for others and writes all of them at once. So it costs a
# busy server nearly nothing, although threads exclude each other in Python.
#
# Several processes may write to the same stream. A pipe takes at most 4,096 octets in one piece (PIPE_BUF), and the line
# of a message to many recipients is longer, so a file lock keeps their lines apart. Standard output and standard error
# use different parts of that lock: one of them may be stuck. Within a process the locks of fcntl exclude no thread, but
# each stream has one thread.

#: The octets that may wait to be written.
QUEUE_SIZE = 1 << 20
#: Seconds to wait for further lines.
LINGER = 0.01


class LogWriter:
    """Writes lines to a file descriptor, in a thread."""

    def __init__(self, descriptor: int, *, report: Callable[[int], bytes], lock: tuple[int, int] | None = None) -> None:
        """Start the thread.

        :param report: returns the line about a number of lines that were dropped.
        :param lock: the descriptor of a file that all processes which write to this stream have open, and the octet in it
            that is the lock of this stream; None if there is only one process.
        """
        self._descriptor = descriptor
        self._report = report
        self._lock = lock
        self._lines: list[bytes] = []
        self._size = 0
        self._dropped = 0
        self._closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="smtp-trio log", daemon=True)
        self._thread.start()

    def write(self, line: bytes) -> None:
        """Write a line, or drop it if the queue is full. Never waits for the reader."""
        with self._changed:
            if self._size >= QUEUE_SIZE:
                self._dropped += 1
                return
            self._lines.append(line)
            self._size += len(line)
            if len(self._lines) == 1:
                self._changed.notify()

    def close(self, seconds: float) -> None:
        """Write what is in the queue, which may take this many seconds, and end the thread. Drop the rest."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(seconds)

    def _run(self) -> None:
        closing = False
        while not closing:
            with self._changed:
                self._changed.wait_for(lambda: self._lines or self._closing)
                closing = self._closing
            if not closing:
                time.sleep(LINGER)
            with self._changed:
                lines, dropped = self._lines, self._dropped
                self._lines, self._size, self._dropped = [], 0, 0
            if dropped:
                lines.append(self._report(dropped))
            with suppress(OSError):  # the log is not read any more, or the disk is full; mail is more important
                self._write(b"".join(lines))

    def _write(self, octets: bytes) -> None:
        if self._lock is not None:
            fcntl.lockf(self._lock[0], fcntl.LOCK_EX, 1, self._lock[1])
        try:
            rest = memoryview(octets)
            while rest:
                try:
                    rest = rest[os.write(self._descriptor, rest) :]
                except BlockingIOError:  # another process has made it non-blocking
                    select.select([], [self._descriptor], [])
        finally:
            if self._lock is not None:
                fcntl.lockf(self._lock[0], fcntl.LOCK_UN, 1, self._lock[1])
