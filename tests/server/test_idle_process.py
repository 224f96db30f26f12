"""Keys that are derived by a process of idle priority: the same ones, and also when there is no such process."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator

import pytest
import trio

from smtp_trio._server.fair_threads import FairThreads
from smtp_trio._server.idle_process import IDLE, IdleProcess
from smtp_trio.credentials._scrypt import ScryptHash
from smtp_trio.protocol.sasl import ScramSecret
from smtp_trio.protocol.sasl.key_derivation import HERE, key_derivation

PASSWORD = memoryview("pässword".encode())


@pytest.fixture
def idle() -> Iterator[IdleProcess]:
    process = IdleProcess()
    yield process
    process.close()


def keys(idle: IdleProcess) -> list[bytes]:
    return [
        idle.scrypt(PASSWORD, salt=b"salt", n=2, r=8, p=1, dklen=32),
        idle.pbkdf2_hmac("sha256", PASSWORD, b"salt", 2),
    ]


EXPECTED = [
    hashlib.scrypt(PASSWORD, salt=b"salt", n=2, r=8, p=1, dklen=32),
    hashlib.pbkdf2_hmac("sha256", PASSWORD, b"salt", 2),
]


def test_keys_are_the_same(idle: IdleProcess) -> None:
    assert keys(idle) == EXPECTED
    assert keys(idle) == EXPECTED


@pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="processes of this system have no idle priority")
def test_process_has_idle_priority_and_the_caller_keeps_its_own(idle: IdleProcess) -> None:
    usual = os.sched_getscheduler(0)
    keys(idle)
    assert idle._process is not None
    assert os.sched_getscheduler(idle._process.pid) == os.SCHED_IDLE
    assert os.sched_getscheduler(0) == usual


def test_process_that_was_killed_is_started_again(idle: IdleProcess) -> None:
    keys(idle)
    killed = idle._process
    assert killed is not None
    killed.kill()
    killed.wait()
    assert keys(idle) == EXPECTED
    assert idle._process not in {None, killed}


@pytest.mark.parametrize("program", ["/does/not/exist", "/bin/false", "/bin/cat", "", None])
def test_keys_are_derived_without_a_process(
    idle: IdleProcess, monkeypatch: pytest.MonkeyPatch, program: str | None
) -> None:
    monkeypatch.setattr(sys, "executable", program)
    assert keys(idle) == EXPECTED
    assert idle._process is None


@pytest.mark.parametrize("answer", ["", "print('x', flush=True)", "print('00', end='', flush=True)"])
def test_key_is_derived_again_if_the_answer_is_none(
    idle: IdleProcess, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    monkeypatch.setattr("smtp_trio._server.idle_process.PROGRAM", answer)
    assert keys(idle) == EXPECTED
    assert idle._process is None


def test_process_is_ended_if_a_request_is_given_up(idle: IdleProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the next request would get the answer to this one. Its password is in no variable of a traceback."""
    secret = memoryview(b"Tr0ub4dor")

    def give_up(process: subprocess.Popen[bytes], request: memoryview) -> bytes:
        assert process.stdin is not None
        process.stdin.write(request)
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr("smtp_trio._server.idle_process.exchange", give_up)
        with pytest.raises(MemoryError) as caught:
            idle.pbkdf2_hmac("sha256", secret, b"salt", 2)
    shown = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
    assert "password = <memory" in shown
    assert secret.hex() not in shown
    assert keys(idle) == EXPECTED


def stop_process(idle: IdleProcess) -> None:
    """Let the process answer no more, as one of idle priority on a busy processor."""
    keys(idle)
    assert idle._process is not None
    os.kill(idle._process.pid, signal.SIGSTOP)


async def wait_for_request(idle: IdleProcess) -> None:
    while not idle._lock.locked():
        await trio.lowlevel.checkpoint()


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="processes of this system cannot be stopped")
async def test_close_does_not_wait_for_a_process_that_does_not_answer(idle: IdleProcess) -> None:
    stop_process(idle)
    found: list[list[bytes]] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, lambda: found.append(keys(idle)))
        await wait_for_request(idle)
        idle.close()
    assert found == [EXPECTED]


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="processes of this system cannot be stopped")
async def test_cancelled_request_does_not_wait_for_a_process_that_does_not_answer(idle: IdleProcess) -> None:
    stop_process(idle)
    ended, threads = threading.Event(), FairThreads(1, idle=True)

    def compute() -> None:
        keys(idle)
        ended.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(threads.run, ("group", "client"), compute)
        await wait_for_request(idle)
        nursery.cancel_scope.cancel()
    assert not ended.is_set()
    idle.close()
    assert await trio.to_thread.run_sync(ended.wait, 240)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")
def test_fork_has_a_process_of_its_own() -> None:
    """With the pipes of its parent, a fork could get the keys of the other's passwords."""
    script = """
import os
from smtp_trio._server.idle_process import IDLE
def key():
    return IDLE.pbkdf2_hmac("sha256", memoryview(b"x"), b"salt", 1)
expected, parents = key(), IDLE._process
IDLE._lock.acquire()  # as a thread that waits for an answer
pid = os.fork()
if pid == 0:
    os._exit(not (key() == expected and IDLE._process is not parents and parents.stdin.closed))
IDLE._lock.release()
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
assert key() == expected and IDLE._process is parents
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=240)


def test_errors_are_those_of_hashlib(idle: IdleProcess) -> None:
    with pytest.raises(ValueError, match="n must be a power of 2"):
        idle.scrypt(PASSWORD, salt=b"salt", n=3, r=8, p=1)


def test_process_ends_with_the_program() -> None:
    script = """
from smtp_trio._server.idle_process import IDLE
IDLE.pbkdf2_hmac("sha256", memoryview(b"x"), b"salt", 1)
print(IDLE._process.pid)
"""
    run = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert run.stderr == ""
    with pytest.raises(ProcessLookupError):
        os.kill(int(run.stdout), 0)


async def test_computations_of_idle_threads_use_the_process() -> None:
    """Both kinds of hashes do."""
    asked = []

    class Recorder(IdleProcess):
        def _ask(self, password: memoryview, **request: str | int) -> bytes:
            asked.append("scrypt" if "n" in request else request["hash_name"])
            return b""

    def compute() -> list[bool]:
        assert key_derivation.get() is IDLE
        key_derivation.set(Recorder())
        return [
            ScryptHash.of(PASSWORD).matches(PASSWORD),
            ScramSecret.from_password("x", bytes(16)).matches(memoryview(b"x")),
        ]

    assert await FairThreads(1, idle=True).run(("group", "client"), compute) == [True, True]
    assert asked == 2 * ["scrypt"] + 2 * ["sha256"]
    assert key_derivation.get() is HERE
    assert await FairThreads(1).run(("group", "client"), key_derivation.get) is HERE
