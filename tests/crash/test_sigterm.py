"""SIGTERM while messages arrive: what got 250 is stored, nothing else is, and nothing is left of the rest."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from attrs import define

from .kill9 import partial_in, stored
from .load import Load

pytestmark = [pytest.mark.crash, pytest.mark.timeout(600)]

#: Seconds for a server to end. It cuts off what has not ended after 30 s.
TIMEOUT = 240


@define
class Serving:
    """A process of ``smtp-trio serve``."""

    process: subprocess.Popen[str]
    port: int
    log: Path

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def wait(self) -> None:
        """Wait for the end, which must be without an error."""
        assert self.process.wait(TIMEOUT) == 0
        assert "Traceback" not in self.log.read_text()


@contextmanager
def serving(spec: str, folder: Path) -> Iterator[Serving]:
    """Run ``smtp-trio serve`` with a store; yield when it listens."""
    log = folder / "log"
    command = [
        sys.executable,
        "-u",
        "-m",
        "smtp_trio",
        "serve",
        "--port",
        "0",
        "--accept",
        "intake.test",
        "--store",
        spec,
    ]
    with (
        log.open("w") as errors,
        subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        try:
            assert process.stdout is not None
            listening = re.search(r"listening on \S+:(\d+)", process.stdout.readline())
            assert listening is not None
            yield Serving(process, int(listening[1]), log)
        finally:
            process.kill()


@pytest.mark.parametrize("kind", ["maildir", "sqlite"])
def test_sigterm_while_messages_arrive(tmp_path: Path, kind: str) -> None:
    spec = f"{kind}:{tmp_path / 'store'}"
    load = Load(stopping=True)
    for number in range(3000):
        load.todo.put(number)
    with serving(spec, tmp_path) as server:
        load.on_accepted = lambda count: server.terminate() if count == 500 else None
        load.run(server.port, 20)
        server.wait()

    found = stored(spec)
    assert 500 <= len(load.accepted) < 3000
    assert load.accepted <= found.keys()
    assert found.keys() <= load.accepted | load.unknown
    assert not load.refused & found.keys()
    assert set(found.values()) == {1}
    assert partial_in(spec) == 0


@pytest.mark.parametrize("kind", ["maildir", "sqlite"])
def test_second_sigterm_cuts_off_messages(tmp_path: Path, kind: str) -> None:
    """A message that is partly on the disk is removed from it before the server ends."""
    spec = f"{kind}:{tmp_path / 'store'}"
    with serving(spec, tmp_path) as server, socket.create_connection(("127.0.0.1", server.port), TIMEOUT) as sock:
        replies = sock.makefile("rb")
        sock.sendall(b"HELO load.test\r\nMAIL FROM:<me@load.test>\r\nRCPT TO:<you@intake.test>\r\nDATA\r\n")
        assert [replies.readline()[:3] for _ in range(5)] == [b"220", b"250", b"250", b"250", b"354"]
        sock.sendall(b"Subject: 1\r\n" + (b"x" * 998 + b"\r\n") * 4000)
        while not partial_in(spec):
            os.sched_yield()
        server.terminate()
        server.terminate()
        assert replies.read(4) in (b"421 ", b"")
        server.wait()

    assert not stored(spec)
    assert partial_in(spec) == 0
