"""`IdleProcess`: derives keys from passwords only when the processor has nothing else to do."""

from __future__ import annotations

import atexit
import json
import subprocess
import sys
import threading
from contextlib import suppress

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
# start one, or it was killed) the thread derives the key itself, at the usual priority.

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


class IdleProcess:
    """Derives one key at a time. Its functions block: call them in a thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

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
        with self._lock:
            with suppress(OSError):
                process = self._running()
                assert process.stdin is not None
                assert process.stdout is not None
                process.stdin.write(json.dumps({"password": password.hex(), **request}).encode() + b"\n")
                process.stdin.flush()
                answer = process.stdout.readline()
                if answer.endswith(b"\n"):
                    return bytes.fromhex(answer.decode())
            self._end()
        return b""

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            if getattr(sys, "frozen", False):  # it would be the program itself that is started
                raise OSError("no interpreter")
            command = [sys.executable, "-I", "-S", "-c", PROGRAM]
            pipe = subprocess.PIPE
            self._process = subprocess.Popen(  # noqa: S603 -- the command is constant
                command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, cwd="/"
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
        """End the process. It is started again when it is needed."""
        with self._lock:
            self._end()


#: The one of this program: there is never more than one such process.
IDLE = IdleProcess()
atexit.register(IDLE.close)


def use_idle_process() -> None:
    """Let the process derive the keys of the context that calls this, which in a thread of Trio is that of one call."""
    key_derivation.set(IDLE)
