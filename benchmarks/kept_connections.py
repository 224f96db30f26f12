"""What a message costs: CPU of smtp_trio against the floor, 1 KiB messages over kept connections, side by side in one run.

    python benchmarks/kept_connections.py [--messages N] [--rounds N] [--sessions N]

The load comes from Postfix's ``smtp-source`` (Debian: ``postfix``), pinned to one core, the servers to another. The two servers
take turns, round by round, so that a noisy machine troubles both alike; what counts is the ratio. Linux only.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
TICK = 1_000_000 / os.sysconf("SC_CLK_TCK")  # microseconds


def free_port() -> int:
    """A port that nobody has now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def start(*options: str) -> tuple[subprocess.Popen[bytes], int]:
    """Start a server on the first core, and wait until it listens."""
    port = free_port()
    server = subprocess.Popen([sys.executable, str(HERE / "server.py"), *options, str(port)])
    os.sched_setaffinity(server.pid, {min(os.sched_getaffinity(0))})
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            time.sleep(0.05)
        else:
            return server, port
    raise SystemExit("the server does not listen")


def cpu(pid: int) -> float:
    """User and system time that a process has used, in microseconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK


def main() -> None:
    """Run the rounds, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--messages", type=int, default=10_000, help="in each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sessions", type=int, default=10, help="at once")
    args = parser.parse_args()
    source = shutil.which("smtp-source", path=os.environ["PATH"] + ":/usr/sbin")
    if source is None:
        raise SystemExit("smtp-source is not here: it comes with Postfix (Debian: apt-get install postfix)")
    servers = {"floor": start("floor"), "smtp_trio": start()}
    costs: dict[str, list[float]] = {name: [] for name in servers}
    load = ["taskset", "-c", str(max(os.sched_getaffinity(0))), source, "-d", "-l", "1024"]
    load += ["-s", str(args.sessions), "-m", str(args.messages), "-f", "a@example.org", "-t", "b@example.org"]
    try:
        for _ in range(args.rounds):
            for name, (server, port) in servers.items():
                before = cpu(server.pid)
                subprocess.run([*load, f"127.0.0.1:{port}"], check=True, timeout=300)
                costs[name].append((cpu(server.pid) - before) / args.messages)
    finally:
        for server, _ in servers.values():
            server.kill()
            server.wait()
    ratios = [ours / floor for floor, ours in zip(costs["floor"], costs["smtp_trio"], strict=True)]
    print(f"1 KiB messages, {args.sessions} kept connections, {args.rounds} rounds of {args.messages}")
    for name, values in costs.items():
        print(
            f"{name:10} {statistics.median(values):6.0f} us of CPU a message ({min(values):.0f} to {max(values):.0f})"
        )
    print(f"ratio      {statistics.median(ratios):6.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
