"""Redis servers for tests."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from attrs import Factory, define
from ports import free_port

from .sessions import skip_without

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


DURABLE = {"appendonly": "yes", "appendfsync": "always"}
STARTED, STEP = 240.0, 0.01


@define
class RedisServer:
    """A Redis server that can be killed and started again with its files."""

    directory: Path
    settings: dict[str, str] = Factory(dict)
    port: int = Factory(free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The URL of a store on it."""
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, and wait until it has read its files."""
        if not shutil.which("redis-server"):
            skip_without("redis-server")
        self.directory.mkdir(parents=True, exist_ok=True)
        settings = {"port": str(self.port), "bind": "127.0.0.1", "save": "", "dir": str(self.directory), **DURABLE}
        arguments = [each for key, value in (settings | self.settings).items() for each in (f"--{key}", value)]
        with open(self.directory / "log", "ab") as log:
            self.process = subprocess.Popen(["redis-server", *arguments], stdout=log, stderr=log)
        deadline = time.monotonic() + STARTED
        while True:
            with suppress(OSError):
                if self.ask("PING") == "+PONG":
                    return
            assert self.process.poll() is None, (self.directory / "log").read_text()
            assert time.monotonic() < deadline, (self.directory / "log").read_text()
            time.sleep(STEP)

    def stop(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Stop it, by default at once."""
        process, self.process = self.process, None
        if process is not None:
            process.send_signal(number)
            process.wait(240)

    def ask(self, *words: object) -> str:
        """Return the first line of the reply to a command."""
        return self._ask(words)[0]

    def ask_text(self, *words: object) -> str:
        """Return the text of the reply to a command."""
        return self._ask(words)[1]

    def _ask(self, words: tuple[object, ...]) -> tuple[str, str]:
        with socket.create_connection(("127.0.0.1", self.port), STARTED) as sock, sock.makefile("rwb") as file:
            encoded = [str(word).encode() for word in words]
            file.write(b"*%d\r\n" % len(encoded) + b"".join(b"$%d\r\n%s\r\n" % (len(each), each) for each in encoded))
            file.flush()
            first = file.readline().decode().rstrip()
            return first, file.read(int(first[1:])).decode() if first.startswith("$") and first != "$-1" else ""

    def wait_for(self, state: str) -> None:
        """Wait until the reply to INFO has a line."""
        deadline = time.monotonic() + STARTED
        while state not in self.info():
            assert time.monotonic() < deadline, self.info()
            time.sleep(STEP)

    def info(self) -> list[str]:
        """Return the lines of the reply to INFO."""
        return self.ask_text("INFO").splitlines()


@contextmanager
def redis_server(directory: Path, **settings: str) -> Iterator[RedisServer]:
    """Run a server. A setting with a hyphen has an underscore here."""
    server = RedisServer(directory, {key.replace("_", "-"): value for key, value in settings.items()})
    server.start()
    try:
        yield server
    finally:
        server.stop()
