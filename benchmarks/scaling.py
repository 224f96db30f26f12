"""A mail intake on several hosts that fail: ``python -m benchmarks.scaling [--engine NAME] [--short]``.

Each host is a network namespace on one bridge: a load balancer (HAProxy with PROXY v2), two intakes, an engine's primary and
its replica, two consumers and a client. While the client sends, an intake, a consumer and the engine's primary are killed
with SIGKILL; the replica is promoted, and the other host becomes its replica. In the end every message that was accepted must
have been handled by a consumer, with its octets.

It has to be run as root.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path

from attrs import Factory, define

from .case import UnavailableError
from .servers import PATH, ROOT, kill, last_lines, require_module, require_program

NETWORK = "10.77.0"
SUBNET = f"{NETWORK}.0/24"
#: The address of the primary. It moves to the host that is promoted, as it does with keepalived.
PRIMARY = f"{NETWORK}.100"
HOSTS = {"client": 1, "balancer": 2, "intake1": 11, "intake2": 12, "engine1": 21, "engine2": 22,
         "consumer1": 31, "consumer2": 32}  # fmt: skip
CONNECTIONS = 20
#: Seconds to wait for a program, and for the last messages, also on a machine that is busy.
START_TIMEOUT, DRAIN_TIMEOUT = 600.0, 600.0
POSTGRESQL = Path("/usr/lib/postgresql/15/bin")

HAPROXY = """\
defaults
    mode tcp
    timeout connect 2s
    timeout client 5m
    timeout server 5m
    timeout check 2s
    retries 3
    option redispatch
frontend smtp
    bind {balancer}:25
    default_backend intakes
backend intakes
    balance leastconn
    default-server check check-send-proxy inter 500ms fall 2 rise 1 send-proxy-v2 on-marked-down shutdown-sessions
    server intake1 {intake1}:2525
    server intake2 {intake2}:2525
"""


def address(host: str) -> str:
    """Return the address of a host."""
    return f"{NETWORK}.{HOSTS[host]}"


# --- hosts ------------------------------------------------------------------------------------------------------------


def call(*command: str | Path, user: str | None = None, check: bool = True) -> str:
    """Run a command, and return what it prints."""
    done = subprocess.run(
        list(map(str, command)), user=user, capture_output=True, text=True, check=False,
        env={**os.environ, "PATH": PATH}, cwd="/",
    )  # fmt: skip
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}: {done.stderr or done.stdout}")
    return done.stdout


@define
class Network:
    """The hosts, and the programs that run on them."""

    directory: Path
    prefix: str = Factory(lambda: f"st{os.getpid()}")
    running: dict[str, subprocess.Popen[bytes]] = Factory(dict)

    def namespace(self, host: str) -> str:
        return f"{self.prefix}-{host}"

    def command(self, host: str, *command: str | Path) -> list[str]:
        """Return a command that is run on a host."""
        return ["ip", "netns", "exec", self.namespace(host), *map(str, command)]

    def call(self, host: str, *command: str | Path, user: str | None = None, check: bool = True) -> str:
        """Run a command on a host, and return what it prints."""
        if user is not None:
            command = ("setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", *command)
        return call(*self.command(host, *command), check=check)

    def start(self, name: str, host: str, *command: str | Path, user: str | None = None) -> None:
        """Start a program on a host. Its output is appended to a file of its name."""
        if user is not None:
            command = ("setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", *command)
        with (self.directory / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                self.command(host, *command), cwd=ROOT, stdout=log, stderr=log, env={**os.environ, "PATH": PATH}
            )

    def kill(self, name: str) -> None:
        """Kill a program, and the processes that it has started."""
        kill(self.running.pop(name))

    def log(self, name: str) -> str:
        return (self.directory / f"{name}.log").read_text(errors="replace")

    def ended(self) -> list[str]:
        """Return the programs that have ended, each with its last lines. Only the senders end by themselves, with code 0."""
        return [
            f"{name} has ended ({process.returncode}):\n{last_lines(self.log(name))}"
            for name, process in self.running.items()
            if process.poll() is not None and not (name == "client" and process.returncode == 0)
        ]

    def wait(self, condition: Callable[[], object], what: str, timeout: float = START_TIMEOUT) -> None:
        """Wait until a condition holds. Raises RuntimeError when a program has ended, or the time is over."""
        deadline = time.monotonic() + timeout
        while not condition():
            if ended := self.ended():
                raise RuntimeError("\n".join(ended))
            if time.monotonic() > deadline:
                raise RuntimeError(f"{what}: not within {timeout:g} s")
            time.sleep(0.05)

    def move_primary(self, host: str, *old: str) -> None:
        """Give the address of the primary to a host, and take it from the others."""
        for each in old:
            self.call(each, "ip", "address", "del", f"{PRIMARY}/24", "dev", "eth0", check=False)
        self.call(host, "ip", "address", "add", f"{PRIMARY}/24", "dev", "eth0")
        # What gratuitous ARP does. A host that has no entry, or that makes one again at once, is not an error.
        for each in HOSTS:
            self.call(each, "ip", "neighbour", "flush", "to", PRIMARY, check=False)


@contextmanager
def network(directory: Path) -> Iterator[Network]:
    """Create the hosts for the block; kill all of their programs at the end."""
    for program, package in (("ip", "iproute2"), ("setpriv", "util-linux"), ("haproxy", "haproxy")):
        require_program(program, package)
    if os.geteuid():
        raise UnavailableError("network namespaces with several hosts need root")
    net = Network(directory)
    bridge = net.namespace("bridge")
    with ExitStack() as stack:

        def add(name: str) -> None:
            call("ip", "netns", "add", name)
            stack.callback(call, "ip", "netns", "delete", name, check=False)

        add(bridge)
        call("ip", "-n", bridge, "link", "add", "br0", "type", "bridge")
        call("ip", "-n", bridge, "link", "set", "br0", "up")
        for host in HOSTS:
            space = net.namespace(host)
            add(space)
            call("ip", "-n", bridge, "link", "add", host, "type", "veth", "peer", "name", "eth0", "netns", space)
            call("ip", "-n", bridge, "link", "set", host, "master", "br0", "up")
            call("ip", "-n", space, "link", "set", "lo", "up")
            call("ip", "-n", space, "link", "set", "eth0", "up")
            call("ip", "-n", space, "address", "add", f"{address(host)}/24", "dev", "eth0")
        try:
            yield net
        finally:
            for name in [name for name, process in net.running.items() if process.poll() is None]:
                net.kill(name)


# --- engines ----------------------------------------------------------------------------------------------------------


@define
class Redis:
    """A primary and a replica. An acknowledged write is on the disks of both."""

    net: Network
    url: str = f"redis://{PRIMARY}:6379/0?replicas=1"

    def cli(self, host: str, *command: str, check: bool = True) -> str:
        return self.net.call("client", "redis-cli", "-h", address(host), *command, check=check)

    def start(self, host: str) -> None:
        """Start a server without data on a host."""
        require_program("redis-server", "redis-server")
        data = self.net.directory / host
        shutil.rmtree(data, ignore_errors=True)
        data.mkdir()
        self.net.start(
            host, host, "redis-server", "--bind", "0.0.0.0", "--port", "6379", "--protected-mode", "no", "--dir", data,
            "--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction", "--save", "",
            "--min-replicas-to-write", "1", "--repl-diskless-sync-delay", "0",
        )  # fmt: skip
        self.net.wait(lambda: "PONG" in self.cli(host, "ping", check=False), f"Redis on {host}")

    def replicate(self, host: str, primary: str) -> None:
        """Make the server on a host a replica, and wait until it has all data."""
        self.start(host)
        self.cli(host, "replicaof", address(primary), "6379")
        self.net.wait(lambda: "master_link_status:up" in self.cli(host, "info", "replication"), "the replica")

    def promote(self, host: str) -> None:
        """Make the replica on a host the primary."""
        self.cli(host, "replicaof", "no", "one")


@define
class PostgreSQL:
    """A primary and a standby. A commit returns when it is on the disks of both."""

    net: Network
    url: str = f"postgresql://postgres@{PRIMARY}/postgres"

    def data(self, host: str) -> Path:
        return self.net.directory / host

    def run(self, host: str) -> None:
        """Start the server with the data on a host."""
        options = ("-c", "listen_addresses=*", "-c", "unix_socket_directories=")
        self.net.start(host, host, POSTGRESQL / "postgres", "-D", self.data(host), *options, user="postgres")
        self.net.wait(
            lambda: "accepting" in self.net.call("client", POSTGRESQL / "pg_isready", "-h", address(host), check=False),
            f"PostgreSQL on {host}",
        )

    def start(self, host: str) -> None:
        """Start a server without data on a host."""
        if not POSTGRESQL.exists():
            raise UnavailableError("postgres is not installed (Debian: postgresql)")
        data = self.data(host)
        data.mkdir()
        shutil.chown(data, "postgres")
        self.net.call(
            host, POSTGRESQL / "initdb", "-D", data, "-U", "postgres", "--auth=trust", "--no-sync", user="postgres"
        )
        with (data / "pg_hba.conf").open("a") as file:
            file.write(f"host all all {SUBNET} trust\nhost replication all {SUBNET} trust\n")
        with (data / "postgresql.conf").open("a") as file:
            file.write("synchronous_standby_names = 'ANY 1 (*)'\nmax_wal_senders = 5\n")
        self.run(host)

    def replicate(self, host: str, primary: str) -> None:
        """Copy the primary to a host, and start it as a standby."""
        data = self.data(host)
        shutil.rmtree(data, ignore_errors=True)
        data.mkdir(mode=0o700)
        shutil.chown(data, "postgres")
        self.net.call(
            host, POSTGRESQL / "pg_basebackup", "-h", address(primary), "-U", "postgres", "-D", data, "-R", "-X",
            "stream", "-c", "fast", "--no-sync", user="postgres",
        )  # fmt: skip
        self.run(host)

    def promote(self, host: str) -> None:
        """Make the standby on a host the primary."""
        self.net.call(host, POSTGRESQL / "pg_ctl", "promote", "-t", "600", "-D", self.data(host), user="postgres")


ENGINES: dict[str, Callable[[Network], Redis | PostgreSQL]] = {"redis": Redis, "postgresql": PostgreSQL}
MODULES = {"redis": "coredis", "postgresql": "psycopg"}


# --- the run ----------------------------------------------------------------------------------------------------------


@define
class Run:
    """What is sent, accepted and handled."""

    net: Network
    engine: Redis | PostgreSQL
    messages: int
    primary: str = "engine1"
    replica: str = "engine2"

    def path(self, name: str) -> Path:
        return self.net.directory / f"{name}.messages"

    def lines(self, name: str) -> list[list[str]]:
        """Return the complete lines that a peer has written."""
        path = self.path(name)
        return [line.split() for line in path.read_text().split("\n")[:-1]] if path.exists() else []

    def intake(self, host: str) -> None:
        """Start an intake."""
        self.net.start(
            host, host, sys.executable, "-m", "smtp_trio", "serve", "--host", address(host), "--port", "2525",
            "--accept", "example.org", "--proxy-protocol", SUBNET, "--store", self.engine.url, "--wait",
            "--limit", "connections_per_minute=none",
        )  # fmt: skip

    def consumer(self, host: str) -> None:
        """Start a consumer."""
        program = ("-m", "benchmarks.scaling_peers", "consume", self.engine.url, host, self.path(host))
        self.net.start(host, host, sys.executable, *program)

    def start(self) -> None:
        """Start everything but the senders."""
        self.engine.start(self.primary)
        self.engine.replicate(self.replica, self.primary)
        self.net.move_primary(self.primary)
        for host in ("intake1", "intake2"):
            self.intake(host)
            self.net.wait(partial(self.listens, host), host)
        for host in ("consumer1", "consumer2"):
            self.consumer(host)
        config = self.net.directory / "haproxy.cfg"
        config.write_text(HAPROXY.format(**{host: address(host) for host in HOSTS}))
        self.net.start("haproxy", "balancer", "haproxy", "-db", "-f", config)

    def send(self) -> None:
        """Start the senders."""
        arguments = (address("balancer"), "25", str(self.messages), str(CONNECTIONS), self.path("client"))
        self.net.start("client", "client", sys.executable, "-m", "benchmarks.scaling_peers", "send", *arguments)

    def fail_over(self) -> None:
        """Kill the primary, promote the replica, and make the other host its replica."""
        self.net.kill(self.primary)
        self.engine.promote(self.replica)
        self.net.move_primary(self.replica, self.primary)
        self.primary, self.replica = self.replica, self.primary
        self.engine.replicate(self.replica, self.primary)

    def fail(self, kind: str) -> None:
        """Make something fail."""
        if kind == "the primary":
            self.fail_over()
        else:
            host = f"{kind}1"
            self.net.kill(host)
            getattr(self, kind)(host)

    def listens(self, host: str) -> bool:
        return "listening on" in self.net.log(host)

    def accepted(self, count: int) -> bool:
        return len(self.lines("client")) >= count

    def handled(self) -> list[list[str]]:
        return self.lines("consumer1") + self.lines("consumer2")

    def finish(self) -> list[str]:
        """Wait for the last messages, print the figures, and return what is wrong."""
        client = self.net.running["client"]
        self.net.wait(lambda: client.poll() is not None, "the last messages of the senders", 3600)
        accepted = {number for number, _ in self.lines("client")}
        problems = []
        deadline = time.monotonic() + DRAIN_TIMEOUT
        while (lost := accepted - {number for number, _ in self.handled()}) and time.monotonic() < deadline:
            time.sleep(0.2)
        if lost:
            problems.append(f"{len(lost)} of the accepted messages were not handled, such as {sorted(lost)[:3]}")
        problems += self.net.ended()
        times = sorted(float(when) for _, when in self.lines("client"))
        gaps = sorted((after - before for before, after in pairwise(times)), reverse=True)
        deliveries = Counter(tuple(line) for line in self.handled())
        copies = len(deliveries) - len({number for number, _ in deliveries})
        print(
            f"  {len(accepted)} messages accepted, {len(accepted) / (times[-1] - times[0]):.0f}/s; longest pauses "
            f"{', '.join(f'{gap:.1f}' for gap in gaps[:7])} s\n"
            f"  handled: {len(deliveries)} stored messages, {copies} of them sent again by the client after an unknown or "
            f"temporary reply; {sum(deliveries.values()) - len(deliveries)} delivered again after a failure\n"
            f"  failed attempts of the client: {self.net.log('client').strip() or 'none'}",
            flush=True,
        )
        return problems


def run(name: str, messages: int, kills: int) -> list[str]:
    """Run one engine, and return what is wrong."""
    require_module(MODULES[name])
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="smtp-trio-scaling-", dir="/var/tmp")))
        directory.chmod(0o755)
        net = stack.enter_context(network(directory))
        this = Run(net, ENGINES[name](net), messages)
        this.start()
        failures = ["intake", "consumer", "the primary"] * kills
        print(f"{name}: {messages} messages of 4 KiB over {CONNECTIONS} connections", flush=True)
        this.send()
        for number, kind in enumerate(failures, 1):
            goal = messages * number // (len(failures) + 1)
            net.wait(partial(this.accepted, goal), "the senders", 3600)
            began = time.monotonic()
            this.fail(kind)
            print(f"  {kind} killed after {goal} messages; replaced in {time.monotonic() - began:.1f} s", flush=True)
        return [f"{name}: {problem}" for problem in this.finish()]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the engines, and return the exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks.scaling", description="Kill the hosts of a mail intake.")
    parser.add_argument("--engine", choices=ENGINES, action="append", help="only with this engine")
    parser.add_argument("--messages", type=int, default=None, metavar="N", help="for each engine (default: 20,000)")
    parser.add_argument(
        "--short", action="store_true", help="1,000 messages, and each killed once instead of five times"
    )
    args = parser.parse_args(arguments)
    problems = []
    try:
        for name in args.engine or ENGINES:
            problems += run(name, args.messages or (1_000 if args.short else 20_000), 1 if args.short else 5)
    except UnavailableError as error:
        problems.append(str(error))
    print("\n".join(problems) or "every accepted message was handled")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
