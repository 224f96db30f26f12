"""The order of system calls: each 250 for a message leaves after that message was flushed.

Run it as ``python -m crash.order maildir|sqlite FOLDER [MESSAGES [MUTANT]]``, from tests/.

A kill does not take the page cache away, a power cut does; so an intake is watched by strace. A 250 names its message
by an id, and so does the ``Received:`` in the Maildir's file, and the row in the database's log. What has to come
before it, each step ended before the next begins:

- Maildir: the file written, ``fsync(file)``, ``rename`` into new/, ``fsync(new/)``.
- SQLite: the row written to the log, ``fsync`` or ``fdatasync`` of the log.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import frozen

from .load import Load, intake

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

CALLS = "write,pwrite64,fsync,fdatasync,rename,renameat,renameat2,sendto,sendmsg"
CONNECTIONS = 10
ID = r"[0-9a-f]{20}-\d+"


@frozen
class Call:
    """A system call that succeeded, with the lines of the trace at which it began and ended."""

    name: str
    arguments: str
    began: int
    ended: int

    def path(self, descriptor: int = 0) -> str:
        """What a descriptor among its arguments means, which strace -y tells."""
        return str(re.findall(r"\d+<([^>]*)>", self.arguments)[descriptor])


def calls(trace: Iterable[str]) -> Iterator[Call]:
    """The calls of a trace in the order of their ends."""
    begun: dict[str, tuple[int, str]] = {}
    for number, line in enumerate(trace):
        pid, _, text = line.rstrip("\n").partition(" ")
        text, began = text.lstrip(), number
        if text.endswith("<unfinished ...>"):
            begun[pid] = number, text.removesuffix("<unfinished ...>")
            continue
        if resumed := re.match(r"<\.\.\. \w+ resumed>", text):
            began, head = begun.pop(pid)
            text = head + text[resumed.end() :]
        if (call := re.fullmatch(r"(\w+)\((.*)\)\s+= (?!-)\d+", text, re.DOTALL)) is not None:
            yield Call(call[1], call[2], began, number)


def replies(trace: Iterable[Call]) -> dict[str, Call]:
    """The 250 of each message, by its id."""
    found = {}
    for call in trace:
        if call.name in ("write", "sendto", "sendmsg") and call.path().startswith(("socket:", "TCP:")):
            for queued in re.findall(rf"250 2\.0\.0 [^\"]*? ({ID})\\r\\n", call.arguments):
                assert queued not in found, f"{queued} was acknowledged twice"
                found[queued] = call
    return found


def check_maildir(trace: list[Call]) -> int:
    """Fails if a 250 came too early; returns how many there were."""
    files: dict[str, str] = {}
    written: dict[str, Call] = {}
    flushed: dict[str, Call] = {}
    moved: dict[str, Call] = {}
    new: list[Call] = []
    for call in trace:
        if call.name == "write" and "/tmp/" in (path := call.path()):
            written[path] = call
            if identity := re.search(rf" id ({ID})", call.arguments):
                files.setdefault(identity[1], path)
        elif call.name == "fsync" and call.path().endswith("/new"):
            new.append(call)
        elif call.name == "fsync":
            flushed[call.path()] = call
        elif call.name.startswith("rename"):
            moved[os.path.join(call.path(), call.arguments.split('"')[1])] = call
    acknowledged = replies(trace)
    for queued, reply in acknowledged.items():
        path = files[queued]
        assert path in flushed, f"{queued}: its file was never flushed"
        assert written[path].ended < flushed[path].began, f"{queued}: written after its file was flushed"
        assert flushed[path].ended < moved[path].began, f"{queued}: moved before its file was flushed"
        after = [call for call in new if call.began > moved[path].ended]
        assert after, f"{queued}: the directory was never flushed after the move"
        assert after[0].ended < reply.began, f"{queued}: acknowledged before its directory was flushed"
    return len(acknowledged)


def check_sqlite(trace: list[Call]) -> int:
    """Fails if a 250 came too early; returns how many there were."""
    written: dict[str, Call] = {}
    flushed: list[Call] = []
    for call in trace:
        if call.name == "pwrite64" and call.path().endswith("-wal"):
            # In a row the id is followed by the time, in ISO 8601.
            for identity in re.findall(rf"({ID}?)20\d\d-\d\d-\d\dT", call.arguments):
                written.setdefault(identity, call)
        elif call.name in ("fsync", "fdatasync") and call.path().endswith("-wal"):
            flushed.append(call)
    acknowledged = replies(trace)
    for queued, reply in acknowledged.items():
        assert queued in written, f"{queued}: never written to the log"
        after = [call for call in flushed if call.began > written[queued].ended]
        assert after, f"{queued}: the log was never flushed after it"
        assert after[0].ended < reply.began, f"{queued}: acknowledged before the log was flushed"
    return len(acknowledged)


def run(kind: str, folder: Path, messages: int, mutant: str = "") -> int:
    """Watch an intake take so many messages. Fails if a 250 came too early; returns how many there were."""
    load = Load()
    for number in range(messages):
        load.todo.put(number)
    log = folder / "trace"
    # -y tells what descriptors mean; rows of the log come in pages of 4,096 octets, and an id may stand at the end of
    # one.
    strace = ("strace", "-f", "--seccomp-bpf", "-qq", "-y", "-s", "5000", "-e", f"trace={CALLS}", "-e", "signal=none")
    with intake(f"{kind}:{folder / 'store'}", mutant=mutant, wrapper=(*strace, "-o", str(log))) as (port, _):
        load.run(port, CONNECTIONS)
    with open(log, errors="replace") as lines:
        count = CHECKS[kind](list(calls(lines)))
    assert count == len(load.acknowledged) == messages, f"{count} replies in the trace, not {messages}"
    return count


CHECKS = {"maildir": check_maildir, "sqlite": check_sqlite}


def main(kind: str, folder: str, messages: str = "1000", mutant: str = "") -> None:
    print(f"{kind}: {run(kind, Path(folder), int(messages), mutant)} messages, each flushed before its 250")


if __name__ == "__main__":
    main(*sys.argv[1:])
