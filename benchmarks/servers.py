"""The measured servers: the commands that start them, and their requirements."""

from __future__ import annotations

import atexit
import functools
import importlib.util
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from attrs import frozen

from .case import Environment, UnavailableError, cores, pinned

HERE = Path(__file__).parent
ROOT = HERE.parent  # the working directory for `-m benchmarks`
HOST = "127.0.0.1"
#: The ports of servers.
PORTS = range(10_000, 20_000)
PATH = os.environ.get("PATH", "") + ":/usr/sbin"  # Debian has Postfix's programs there


@frozen
class Process:
    """A running server."""

    pid: int
    port: int


def require_program(name: str, package: str) -> str:
    """Return the path of a program. Raises UnavailableError when it is not installed."""
    path = shutil.which(name, path=PATH)
    if path is None:
        raise UnavailableError(f"{name} is not installed (Debian: {package})")
    return path


def require_module(name: str) -> None:
    """Raise UnavailableError unless this module can be imported."""
    if importlib.util.find_spec(name) is None:
        raise UnavailableError(f"{name} is not installed")


@functools.cache
def run_directory() -> Path:
    """Return a temporary directory that exists until the end of the run."""
    directory = tempfile.TemporaryDirectory(prefix="smtp-trio-bench-")
    atexit.register(directory.cleanup)
    return Path(directory.name)


@functools.cache
def node_directory() -> Path:
    """Return a directory where npm has installed nodemailer's smtp-server, from its cache if it can."""
    directory = run_directory() / "node"
    command = [
        require_program("npm", "npm"),
        "install",
        "--no-audit",
        "--no-fund",
        "--prefer-offline",
        "--prefix",
        str(directory),
    ]
    try:
        done = subprocess.run([*command, "smtp-server"], capture_output=True, check=False, timeout=60)
    except subprocess.TimeoutExpired:
        raise UnavailableError("npm did not install smtp-server within a minute") from None
    if done.returncode:
        raise UnavailableError("npm could not install smtp-server")
    return directory


@functools.cache
def certificate() -> str:
    """Return the path of a file with a certificate for the loopback address and its key."""
    import trustme  # imported here: it takes long, and the load generator does not need it

    issued = trustme.CA().issue_cert(HOST)
    file = run_directory() / "certificate.pem"
    issued.private_key_and_cert_chain_pem.write_to_path(file)
    return str(file)


def own_server(kind: str, *arguments: str) -> Callable[[Environment, int], list[str]]:
    """Return the command of a server in `benchmarks.server`."""
    return lambda env, port: [sys.executable, "-m", "benchmarks.server", kind, str(port), certificate(), *arguments]


def aiosmtpd(env: Environment, port: int) -> list[str]:
    require_module("aiosmtpd")
    return [sys.executable, str(HERE / "rivals/aiosmtpd_server.py"), str(port), certificate()]


def aiosmtpd_uvloop(env: Environment, port: int) -> list[str]:
    require_module("uvloop")
    return [*aiosmtpd(env, port), "uvloop"]


def smtp_server(env: Environment, port: int) -> list[str]:
    node = require_program("node", "nodejs")
    script = shutil.copy(HERE / "rivals/smtp_server.cjs", node_directory())
    return [node, str(script), str(port), certificate()]


def smtp_sink(env: Environment, port: int) -> list[str]:
    user = ["-u", "nobody"] if os.geteuid() == 0 else []
    return [require_program("smtp-sink", "postfix"), *user, "-m", "20000", f"{HOST}:{port}", "1000"]


#: The servers by their names in the tables.
SERVERS: dict[str, Callable[[Environment, int], list[str]]] = {
    "smtp_trio": own_server("smtp_trio"),
    "smtp_trio, newlines preserved": own_server("preserve"),
    "floor": own_server("floor"),
    "bare handshake": own_server("handshake"),
    "aiosmtpd": aiosmtpd,
    "aiosmtpd on uvloop": aiosmtpd_uvloop,
    "smtp-server": smtp_server,
    "smtp-sink": smtp_sink,
}


def free_port() -> int:
    """Return a port that is free, and that nothing else gets before the server listens there.

    It is below the range from which Linux chooses ports itself, and not among those that the tests use. Where it chooses, the
    port may be taken at any moment, even by the connection with which `start` finds out whether the server listens.
    """
    for port in random.sample(PORTS, len(PORTS)):
        with suppress(OSError), socket.socket() as probe:
            probe.bind((HOST, port))
            return port
    raise RuntimeError("no port is free")


def last_lines(text: str) -> str:
    """Return the end of a log, where an error is: so little that it can be read in an excerpt of another log."""
    return "\n".join(line[:500] for line in text.splitlines()[-6:])


def is_running(pid: int) -> bool:
    """Return whether a process exists and has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def children(pid: int) -> list[int]:
    """Return the ids of the processes that a process has started."""
    pids: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # the thread has ended meanwhile
            pids += map(int, (task / "children").read_text().split())
    return pids


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a program and the processes that it has started, as a power cut would, and wait until all have ended.

    They would notice the end of the program only a moment later, and meanwhile write to a directory that is removed.
    """
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGSTOP)  # so that it starts no other process after its children were listed
    started: list[int] = []
    with suppress(FileNotFoundError):  # it has ended by itself
        started = children(process.pid)
    process.kill()
    process.wait()
    for pid in started:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    while any(map(is_running, started)):
        time.sleep(0.01)


def start(env: Environment, make: Callable[[Environment, int], list[str]], *on: int) -> Process:
    """Start a server on these cores (default: the core for servers), and wait until it listens.

    It is killed with the environment.
    """
    port = free_port()
    command = make(env, port)
    log = env.directory / f"log-{port}"
    with pinned(*on or cores()[:1]), log.open("wb") as file:
        process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=file)
    env.stack.callback(kill, process)
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection((HOST, port)).close()
        except ConnectionRefusedError:
            time.sleep(0.02)
        else:
            return Process(process.pid, port)
    raise RuntimeError(f"{command} does not listen:\n{last_lines(log.read_text(errors='replace'))}")


def shared_server(env: Environment, name: str) -> Process:
    """Return one of SERVERS, which all cases share."""
    if (name,) not in env.processes:
        env.processes[name,] = start(env, SERVERS[name])
    return env.processes[name,]
