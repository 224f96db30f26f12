"""`IdleProcess`: derives keys from passwords only when the processor has nothing else to do."""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import PurePath

from ..protocol.sasl.key_derivation import HERE, key_derivation

# Why a process
# -------------
#
# A thread of idle priority needs the lock of the interpreter before and after it computes. While it holds this lock, or is
# the next to get it, the event loop waits for the thread, and the thread waits until the other programs on the processor
# have nothing to do: the event loop stood still for 150 to 1100 ms at more than half of the hashes when another program
# kept the processor busy. In a process of its own, whatever has idle priority holds nothing that the server needs. The
# thread that waits for it has the usual priority, and waits without the lock.
#
# The process runs a few lines that import nothing of this package, reads requests until its input ends, and so ends with
# the server. A password is sent through a pipe, and never in an argument. Without such a process (the system forbids to
# start one, it was killed, or the program is not an interpreter) the thread derives the key itself, at the usual priority.
#
# A process that does not get the processor answers late, so nothing may wait for it in order to end: `FairThreads` abandons
# a cancelled request, and `IdleProcess.close` kills the process first.
#
# A key that is read must be that of the request: with the key of an earlier request, a client could log in with the password
# of another user. So the process is ended whenever a request is given up between its writing and its answer, and a fork of
# this program starts its own.

PROGRAM = """
import hashlib, json, os, signal, sys
if hasattr(os, "SCHED_IDLE"):
    try:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    except OSError:
        pass
signal.signal(signal.SIGINT, signal.SIG_IGN)
for line in sys.stdin:
    request = json.loads(line)
    secret, salt = bytes.fromhex(request.pop("password")), bytes.fromhex(request.pop("salt"))
    if "n" in request:
        key = hashlib.scrypt(secret, salt=salt, **request)
    else:
        key = hashlib.pbkdf2_hmac(request["hash_name"], secret, salt, request["iterations"])
    print(key.hex(), flush=True)
"""

#: How the names of programs begin that take the options of an interpreter.
INTERPRETERS = ("python", "pypy")
#: Octets to read at a time; more than a key has.
SIZE = 4096


class IdleProcess:
    """Derives one key at a time. Its functions block: call them in a thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._inherited: list[subprocess.Popen[bytes]] = []  # kept: their end is not noted here

    def scrypt(
        self, password: memoryview, *, salt: bytes, n: int, r: int, p: int, maxmem: int = 0, dklen: int = 64
    ) -> bytes:
        """Return a key (RFC 7914)."""
        key = self._ask(password, salt=salt.hex(), n=n, r=r, p=p, maxmem=maxmem, dklen=dklen)
        return key or HERE.scrypt(password, salt=salt, n=n, r=r, p=p, maxmem=maxmem, dklen=dklen)

    def pbkdf2_hmac(self, hash_name: str, password: memoryview, salt: bytes, iterations: int) -> bytes:
        """Return a key (RFC 8018 5.2)."""
        key = self._ask(password, salt=salt.hex(), hash_name=hash_name, iterations=iterations)
        return key or HERE.pbkdf2_hmac(hash_name, password, salt, iterations)

    def _ask(self, password: memoryview, **request: str | int) -> bytes:
        """Let the process derive a key; return b"" if it does not."""
        key = b""
        with self._lock:
            try:
                key = exchange(self._running(), encode({"password": password, **request}))
            except (OSError, ValueError):
                pass
            finally:
                if not key:
                    self._end()
        return key

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            # In a frozen or embedded interpreter, this would be the program itself.
            if not PurePath(sys.executable or "").name.lower().startswith(INTERPRETERS):
                raise OSError("no interpreter")
            command = [sys.executable, "-I", "-S", "-c", PROGRAM]
            pipe = subprocess.PIPE
            self._process = subprocess.Popen(  # noqa: S603 -- the command is constant
                command, bufsize=0, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, cwd="/"
            )
        return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            # While the processor is busy, a process of idle priority may take long to end.
            with suppress(OSError, subprocess.TimeoutExpired):
                process.communicate(timeout=1)

    def close(self) -> None:
        """End the process, also while a thread waits for it. It is started again when it is needed."""
        while not self._lock.acquire(timeout=0.05):
            process = self._process
            if process is not None:
                process.kill()
        try:
            self._end()
        finally:
            self._lock.release()

    def forget(self) -> None:
        """Leave the process to the parent of this one, after a fork. Its lock may be held by a thread that does not exist here."""
        self._lock = threading.Lock()
        process, self._process = self._process, None
        if process is not None:
            self._inherited.append(process)
            for pipe in filter(None, (process.stdin, process.stdout)):
                pipe.close()


def encode(request: dict[str, memoryview | str | int]) -> memoryview:
    """Return the line of a request. It is a memoryview, so that no traceback with the variables of all frames has it."""
    return memoryview(json.dumps(request, default=memoryview.hex).encode() + b"\n")


def exchange(process: subprocess.Popen[bytes], request: memoryview) -> bytes:
    """Send a request to the process and return its answer. Raises ValueError if that is not complete."""
    assert process.stdin is not None
    assert process.stdout is not None
    while request:
        request = request[process.stdin.write(request) :]
    answer = b""
    while not answer.endswith(b"\n"):
        if not (more := process.stdout.read(SIZE)):
            raise ValueError("the process has ended")
        answer += more
    return bytes.fromhex(answer.decode())


#: The one of this program: there is never more than one such process.
IDLE = IdleProcess()
atexit.register(IDLE.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=IDLE.forget)


def use_idle_process() -> None:
    """Let the process derive the keys of the context that calls this, which in a thread of Trio is that of one call."""
    key_derivation.set(IDLE)
