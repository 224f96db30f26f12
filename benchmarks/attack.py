"""How long an honest client has to wait while others attack the server: ``python -m benchmarks.attack [--short] [--only WORD]``.

The attackers have one address, a new one for each attack, and the honest client others, in a network namespace that this
program makes for itself. The server runs on one core with its default limits. The clients run on another, where the
attackers use the time that the honest client leaves (SCHED_IDLE), so that the figures show what happens in the server
rather than that there are too few cores.

Each delivery waits for a flush of the disk, which on a shared machine sometimes takes 30 to 100 ms, with and without an
attack. A few of these in a row of the table are its p99, so measure on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import fcntl
import itertools
import os
import random
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from attrs import frozen

from .attackers import KINDS
from .case import Environment, UnavailableError, cores, pinned
from .resources import cpu_seconds, raise_descriptor_limit
from .servers import ROOT, certificate, kill, last_lines, require_module

#: Set in the process that runs in the namespace.
INSIDE = "SMTP_TRIO_ATTACK_NAMESPACE"
SERVER, PORT = "10.9.0.1", 2525
#: The honest client's addresses: so many that each stays within the limits of new connections.
HONEST = [f"10.9.2.{number}" for number in range(1, 255)]
ALL = "all together"
#: Attacks at the same time, in the order in which they begin: the first ones have the sessions that one address may have.
#: The messages need more of the event loop and of the store than anything else that a session sends.
COMBINED = {
    "large messages, slowloris and flood": [
        "large messages, 8 connections", "2,000 slowloris sessions", "connection flood",
    ],
    ALL: list(KINDS),
}  # fmt: skip
MESSAGE = b"Subject: x\r\n\r\n" + 16 * (b"0123456789abcdef" * 4 + b"\r\n") + b".\r\n"
#: Seconds between two deliveries of the honest client.
PAUSE = 0.02
#: Seconds after which a delivery has failed.
MAX_TIME = 10.0
#: The p99 under an attack must be less than so many times that without one, which is measured for so many times as long.
BOUND, QUIET = 3, 2
#: Seconds of an attack before the measurement begins.
WARM_UP = 1.0


# --- the network namespace --------------------------------------------------------------------------------------------


def enter_namespace() -> None:
    """Run this program again in a network namespace of its own, unless it runs in one."""
    if INSIDE in os.environ:
        return
    unshare = shutil.which("unshare")
    if unshare is None:
        raise UnavailableError("unshare is not installed (Debian: util-linux)")
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    command = [unshare, *user, "--net"]
    if subprocess.run([*command, "true"], capture_output=True, check=False).returncode:
        raise UnavailableError("network namespaces are not available")
    os.environ[INSIDE] = "1"
    os.execv(unshare, [*command, sys.executable, "-m", "benchmarks.attack", *sys.argv[1:]])


def set_up_network() -> None:
    """Give the loopback interface the addresses 10.9.0.0/16: all addresses of such a network are local ones.

    A client may use the port of a connection again a second after it has closed it. Otherwise a port is in TIME-WAIT for a
    minute, a flood of connections soon has used all of them, and the kernel looks for a free one most of the time.
    """
    Path("/proc/sys/net/ipv4/tcp_tw_reuse").write_text("1")
    set_address, set_mask, get_flags, set_flags, up = 0x8916, 0x891C, 0x8913, 0x8914, 1
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:

        def call(request: int, name: bytes, value: bytes) -> bytes:
            return fcntl.ioctl(sock, request, struct.pack("16s24s", name, value))

        def address(text: str) -> bytes:
            return struct.pack("=HH4s", socket.AF_INET, 0, socket.inet_aton(text))

        flags = struct.unpack_from("=16sh", call(get_flags, b"lo", b""))[1]
        call(set_flags, b"lo", struct.pack("=h", flags | up))
        call(set_address, b"lo:1", address(SERVER))
        call(set_mask, b"lo:1", address("255.255.0.0"))


def connections() -> int:
    """Return the number of connections that were accepted in this namespace."""
    names, values = (
        line.split() for line in Path("/proc/net/snmp").read_text().splitlines() if line.startswith("Tcp:")
    )
    return int(values[names.index("PassiveOpens")])


# --- the servers ------------------------------------------------------------------------------------------------------


def own_server(store: str, directory: Path) -> list[str]:
    """Return the command of ``smtp-trio serve`` with this store."""
    accounts = directory / "accounts"
    hashed = subprocess.run(
        [sys.executable, "-m", "smtp_trio", "hash-password", "fred"], input=b"right\n", capture_output=True, check=True
    )
    accounts.write_bytes(hashed.stdout)
    accounts.chmod(0o600)
    options = [
        "--host", SERVER, "--port", str(PORT), "--accept", "example.org", "--store", f"{store}:{directory / 'store'}",
        "--tls-cert", certificate(), "--auth-file", str(accounts), "--auth-optional",
    ]  # fmt: skip
    return [sys.executable, "-m", "smtp_trio", "serve", *options]


def rival(store: str, directory: Path) -> list[str]:
    """Return the command of an aiosmtpd server."""
    require_module("aiosmtpd")
    program = ROOT / "benchmarks/rivals/aiosmtpd_maildir.py"
    return [sys.executable, str(program), SERVER, str(PORT), certificate(), str(directory / "store")]


SERVERS = {"smtp_trio, Maildir": (own_server, "maildir"), "smtp_trio, SQLite": (own_server, "sqlite"),
           "aiosmtpd, Maildir": (rival, "maildir")}  # fmt: skip


@contextmanager
def running(name: str, core: int, directory: Path) -> Iterator[int]:
    """Run a server on this core during the block; yield its process id."""
    make, store = SERVERS[name]
    command = make(store, directory)
    log = directory / "log"
    with pinned(core), log.open("wb") as file:
        process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=file)
    try:
        deadline = time.monotonic() + 600
        while True:
            try:
                socket.create_connection((SERVER, PORT)).close()
                break
            except ConnectionRefusedError:
                if process.poll() is not None or time.monotonic() > deadline:
                    last = last_lines(log.read_text(errors="replace"))
                    raise RuntimeError(f"{command} does not listen:\n{last}") from None
                time.sleep(0.02)
        yield process.pid
    finally:
        kill(process)


@contextmanager
def attacked(kinds: list[str], source: str) -> Iterator[None]:
    """Attack the server from this address during the block."""
    with ExitStack() as stack:
        for kind in kinds:
            for number in range(len(KINDS[kind])):
                command = [sys.executable, "-m", "benchmarks.attackers", kind, str(number), SERVER, str(PORT), source]
                process = subprocess.Popen(command, cwd=ROOT)
                stack.callback(process.wait)
                stack.callback(process.kill)
            time.sleep(WARM_UP / len(kinds))
        time.sleep(WARM_UP / 2)
        yield


# --- the honest client ------------------------------------------------------------------------------------------------


def deliver(source: str) -> bool:
    """Deliver a message on a new connection; return whether it was accepted."""
    with socket.socket() as sock:
        sock.settimeout(MAX_TIME)
        sock.bind((source, 0))
        sock.connect((SERVER, PORT))
        received = b""
        for command, code in (
            (b"", b"220"),
            (b"EHLO honest.example.org\r\n", b"250"),
            (b"MAIL FROM:<a@example.net>\r\n", b"250"),
            (b"RCPT TO:<b@example.org>\r\n", b"250"),
            (b"DATA\r\n", b"354"),
            (MESSAGE, b"250"),
        ):
            sock.sendall(command)
            received = b""
            while not (received.endswith(b"\r\n") and received.splitlines()[-1][3:4] == b" "):
                more = sock.recv(65536)
                if not more:
                    return False
                received += more
            if not received.startswith(code):
                return False
        sock.sendall(b"QUIT\r\n")
        return True


@frozen
class Waits:
    """The times of the honest client's deliveries, in milliseconds, and the number of those that failed."""

    times: list[float]
    failed: int
    cpu: float
    """The part of a core that the server used."""
    rate: float
    """The connections of all clients in a second."""

    def quantile(self, part: float) -> float:
        """Return a quantile of the times."""
        return sorted(self.times)[min(int(len(self.times) * part), len(self.times) - 1)] if self.times else float("inf")


def measure(server: int, seconds: float) -> Waits:
    """Deliver messages for so many seconds, one at a time."""
    times: list[float] = []
    failed = 0
    cpu, opened, began = cpu_seconds(server), connections(), time.monotonic()
    for source in itertools.cycle(random.sample(HONEST, len(HONEST))):
        before = time.monotonic()
        if before > began + seconds:
            break
        try:
            accepted = deliver(source)
        except OSError:
            accepted = False
        after = time.monotonic()
        if accepted:
            times.append(1000 * (after - before))
        else:
            failed += 1
        time.sleep(PAUSE)
    took = time.monotonic() - began
    return Waits(times, failed, (cpu_seconds(server) - cpu) / took, (connections() - opened) / took)


def main() -> None:
    """Print a table of the attacks on each server."""
    parser = argparse.ArgumentParser(prog="benchmarks.attack", description="Measure servers that are attacked.")
    parser.add_argument("--short", action="store_true", help="less than a minute, and without other servers")
    parser.add_argument("--only", default="", metavar="WORD", help="only servers and attacks with this word")
    args = parser.parse_args()
    try:
        enter_namespace()
    except UnavailableError as error:
        print(f"skipped: {error}")
        return
    set_up_network()
    raise_descriptor_limit()
    attacks: Mapping[str, list[str]] = {**{kind: [kind] for kind in KINDS}, **COMBINED}
    core, client_core = cores()
    print(f"server on core {core}, clients on core {client_core}; milliseconds for a delivery by an honest client")
    missed = []
    os.sched_setaffinity(0, {client_core})
    for name in SERVERS:
        own = "smtp_trio" in name
        if args.short and not own:
            continue
        seconds = 1 if args.short else 10
        if not any(args.only.lower() in f"{name} {attack}".lower() for attack in attacks):
            continue
        with ExitStack() as stack:
            env = Environment(stack)
            try:
                server = stack.enter_context(running(name, core, env.directory))
            except UnavailableError as error:
                print(f"{name}: {error}")
                continue
            measure(server, 0.5)
            quiet = measure(server, QUIET * seconds)
            print_row(name, "quiet", quiet, quiet)
            for number, (attack, kinds) in enumerate(attacks.items(), 1):
                if args.only.lower() not in f"{name} {attack}".lower():
                    continue
                with attacked(kinds, f"10.9.1.{number}"):
                    waits = measure(server, seconds)
                print_row(name, attack, waits, quiet)
                if own and (waits.failed or waits.quantile(0.99) >= BOUND * quiet.quantile(0.99)):
                    missed.append(f"{name}, {attack}")
    print(f"p99 of smtp_trio is below {BOUND} times that without an attack", end="")
    print(f", except for {'; '.join(missed)}" if missed else "")


def print_row(name: str, attack: str, waits: Waits, quiet: Waits) -> None:
    """Print one line of the table."""
    p50, p99 = waits.quantile(0.5), waits.quantile(0.99)
    print(
        f"{name:19} {attack:37} p50 {p50:8.1f}  p99 {p99:8.1f}  {p99 / quiet.quantile(0.99):6.1f} x quiet  "
        f"{len(waits.times):4} accepted {waits.failed:3} failed  server {100 * waits.cpu:3.0f} % of a core  "
        f"{waits.rate:5.0f} connections/s",
        flush=True,
    )


if __name__ == "__main__":
    main()
