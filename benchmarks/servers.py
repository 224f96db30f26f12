"""The servers that are measured: how each is started, in a process of its own, and what it takes that it can be."""

from __future__ import annotations

import atexit
import functools
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from attrs import frozen

from .case import Ground, Missing, cores, pinned

HERE = Path(__file__).parent
ROOT = HERE.parent  # where `-m benchmarks` is found
HOST = "127.0.0.1"
PATH = os.environ.get("PATH", "") + ":/usr/sbin"  # where Debian has Postfix's programs


@frozen
class Process:
    """A server that listens."""

    pid: int
    port: int


def program(name: str, package: str) -> str:
    """A program's path."""
    path = shutil.which(name, path=PATH)
    if path is None:
        raise Missing(f"{name} is not installed (Debian: {package})")
    return path


def module(name: str) -> None:
    """It can be imported."""
    if importlib.util.find_spec(name) is None:
        raise Missing(f"{name} is not installed")


@functools.cache
def workshop() -> Path:
    """A folder for what is made once in a run."""
    folder = tempfile.TemporaryDirectory(prefix="smtp-trio-bench-")
    atexit.register(folder.cleanup)
    return Path(folder.name)


@functools.cache
def node_folder() -> Path:
    """Where a script finds nodemailer's smtp-server: npm fetches it, from its own cache if it can."""
    folder = workshop() / "node"
    command = [program("npm", "npm"), "install", "--no-audit", "--no-fund", "--prefer-offline", "--prefix", str(folder)]
    try:
        done = subprocess.run([*command, "smtp-server"], capture_output=True, check=False, timeout=60)
    except subprocess.TimeoutExpired:
        raise Missing("npm did not bring smtp-server within a minute") from None
    if done.returncode:
        raise Missing("npm could not install smtp-server")
    return folder


@functools.cache
def certificate() -> str:
    """A file with a certificate for the loopback and its key."""
    import trustme  # takes longer than all the rest, and the generator of a load does without

    issued = trustme.CA().issue_cert(HOST)
    file = workshop() / "certificate.pem"
    issued.private_key_and_cert_chain_pem.write_to_path(file)
    return str(file)


def ours(kind: str, *arguments: str) -> Callable[[Ground, int], list[str]]:
    """A server of `benchmarks.server`."""
    return lambda ground, port: [sys.executable, "-m", "benchmarks.server", kind, str(port), certificate(), *arguments]


def aiosmtpd(ground: Ground, port: int) -> list[str]:
    module("aiosmtpd")
    return [sys.executable, str(HERE / "rivals/aiosmtpd_server.py"), str(port), certificate()]


def aiosmtpd_uvloop(ground: Ground, port: int) -> list[str]:
    module("uvloop")
    return [*aiosmtpd(ground, port), "uvloop"]


def smtp_server(ground: Ground, port: int) -> list[str]:
    node = program("node", "nodejs")
    script = shutil.copy(HERE / "rivals/smtp_server.cjs", node_folder())
    return [node, str(script), str(port), certificate()]


def smtp_sink(ground: Ground, port: int) -> list[str]:
    user = ["-u", "nobody"] if os.geteuid() == 0 else []
    return [program("smtp-sink", "postfix"), *user, "-m", "20000", f"{HOST}:{port}", "1000"]


#: By the name that the tables have.
SERVERS: dict[str, Callable[[Ground, int], list[str]]] = {
    "smtp_trio": ours("smtp_trio"),
    "smtp_trio, newlines preserved": ours("preserve"),
    "floor": ours("floor"),
    "bare handshake": ours("handshake"),
    "aiosmtpd": aiosmtpd,
    "aiosmtpd on uvloop": aiosmtpd_uvloop,
    "smtp-server": smtp_server,
    "smtp-sink": smtp_sink,
}


def free_port() -> int:
    """A port that nobody has now."""
    with socket.create_server((HOST, 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def start(ground: Ground, make: Callable[[Ground, int], list[str]], *on: int) -> Process:
    """Start a server on these cores, or else on the first, and wait until it listens. It lives as long as the ground."""
    port = free_port()
    command = make(ground, port)
    log = ground.folder / f"log-{port}"
    with pinned(*on or cores()[:1]), log.open("wb") as file:
        process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=file)
    ground.stack.callback(process.wait)
    ground.stack.callback(process.kill)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection((HOST, port)).close()
        except ConnectionRefusedError:
            time.sleep(0.02)
        else:
            return Process(process.pid, port)
    raise RuntimeError(f"{command} does not listen: {log.read_text(errors='replace')[-2000:]}")


def running(ground: Ground, name: str) -> Process:
    """One of SERVERS, which many cases share."""
    if (name,) not in ground.processes:
        ground.processes[name,] = start(ground, SERVERS[name])
    return ground.processes[name,]
