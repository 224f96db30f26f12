"""Knot and unbound: signed zones, and a resolver that validates them."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import dns.exception
import dns.flags
import dns.message
import dns.query
import dns.rdatatype
import dns.resolver
from attrs import frozen
from ports import free_port

from .programs import PATH
from .servers import POLL, START_TIMEOUT

ADDRESS = "127.0.0.1"
ZONE = """\
$ORIGIN {name}.
$TTL 60
@ SOA ns hostmaster 1 3600 600 86400 60
@ NS ns
ns A {address}
{records}
"""
KNOT = """\
server:
    listen: {address}@{port}
    rundir: "{directory}"
log:
  - target: stderr
    any: info
database:
    storage: "{directory}"
policy:
  - id: policy
    algorithm: ecdsap256sha256
template:
  - id: default
    storage: "{directory}"
    zonefile-load: difference
    zonefile-sync: -1
zone:
"""
UNBOUND = """\
server:
  interface: {address}@{port}
  do-daemonize: no
  chroot: ""
  username: ""
  directory: "{directory}"
  pidfile: "{directory}/unbound.pid"
  use-syslog: no
  do-not-query-localhost: no
  module-config: "validator iterator"
  local-zone: "test." nodefault
  ede: yes
remote-control:
  control-enable: no
"""
STUB = """\
stub-zone:
  name: "{name}"
  stub-addr: {address}@{port}
"""


@frozen
class Zone:
    """A zone: its records, in the format of RFC 1035 5, and whether it is signed.

    A bogus zone is signed by another key than that of which the resolver knows.
    """

    records: str
    kind: Literal["signed", "unsigned", "bogus"] = "signed"


@contextmanager
def validating_resolver(
    directory: Path,
    zones: Mapping[str, Zone],
    *,
    authority: tuple[str, int] | None = None,
    resolver: tuple[str, int] | None = None,
) -> Iterator[tuple[str, int]]:
    """Serve zones with Knot, and run unbound, which asks it and validates its answers. Yield the address of unbound.

    ``authority`` and ``resolver`` are where they listen; by default on free loopback ports. Raises RuntimeError, with the
    logs, if one of them does not start.
    """
    authority = authority or (ADDRESS, free_port())
    resolver = resolver or (ADDRESS, free_port())
    address, port = authority
    knot = KNOT.format(address=address, port=port, directory=directory)
    for name, zone in zones.items():
        (directory / f"{name}.zone").write_text(ZONE.format(name=name, records=zone.records, address=address))
        signing = "" if zone.kind == "unsigned" else "    dnssec-signing: on\n    dnssec-policy: policy\n"
        knot += f"  - domain: {name}\n{signing}"
    (directory / "knot.conf").write_text(knot)
    processes = [run(directory, "knotd", "-c", "knot.conf")]
    try:
        anchors = ""
        for name, zone in zones.items():
            kind: dns.rdatatype.RdataType = dns.rdatatype.SOA if zone.kind == "unsigned" else dns.rdatatype.DNSKEY
            answer = wait_for(directory, processes, name, kind, authority)
            if zone.kind == "unsigned":
                anchors += f'  domain-insecure: "{name}"\n'
            elif zone.kind == "bogus":
                anchors += f'  trust-anchor: "{name}. IN DS 1 13 2 {"00" * 32}"\n'
            else:
                keys = [str(key) for rrset in answer.answer for key in rrset if str(key).startswith("257 ")]
                anchors += "".join(f'  trust-anchor: "{name}. IN DNSKEY {key}"\n' for key in keys)
        unbound = UNBOUND.format(address=resolver[0], port=resolver[1], directory=directory)
        unbound = unbound.replace("remote-control:", f"{anchors}remote-control:")
        unbound += "".join(STUB.format(name=name, address=address, port=port) for name in zones)
        (directory / "unbound.conf").write_text(unbound)
        processes.append(run(directory, "unbound", "-d", "-c", "unbound.conf"))
        good = next(name for name, zone in zones.items() if zone.kind != "bogus")
        wait_for(directory, processes, good, dns.rdatatype.SOA, resolver)
        yield resolver
    finally:
        for process in processes:
            process.kill()
            process.wait()


def run(directory: Path, *command: str) -> subprocess.Popen[bytes]:
    """Start a program in the directory, with its output in a file."""
    with (directory / f"{command[0]}.log").open("wb") as log:
        return subprocess.Popen(command, cwd=directory, env={"PATH": PATH}, stdout=log, stderr=subprocess.STDOUT)


def wait_for(
    directory: Path,
    processes: list[subprocess.Popen[bytes]],
    name: str,
    kind: dns.rdatatype.RdataType,
    server: tuple[str, int],
) -> dns.message.Message:
    """Wait until the server that was started last has records of a name, and return its response."""
    deadline = time.monotonic() + START_TIMEOUT
    while processes[-1].poll() is None and time.monotonic() < deadline:
        try:
            response = dns.query.tcp(dns.message.make_query(name, kind), server[0], port=server[1], timeout=5)
        except (OSError, EOFError, dns.exception.DNSException):
            time.sleep(POLL)
            continue
        if response.answer:
            return response
        time.sleep(POLL)
    logs = "\n".join(path.read_text(errors="replace") for path in directory.glob("*.log"))
    raise RuntimeError(f"no answer for {name} {kind.name}:\n{logs}")
