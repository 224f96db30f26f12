"""Keys that are derived by a process of idle priority: the same ones, and also when there is no such process."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

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


@pytest.mark.parametrize("program", ["/does/not/exist", "/bin/false"])
def test_keys_are_derived_without_a_process(idle: IdleProcess, monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    monkeypatch.setattr(sys, "executable", program)
    assert keys(idle) == EXPECTED
    assert idle._process is None


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
