"""The order of system calls: each 250 for a message is sent after the message was flushed.

Run it in tests/ as ``python -m crash.order maildir|sqlite DIRECTORY [MESSAGES [MUTANT]]``.

Unlike a power cut, SIGKILL does not lose the page cache, so this traces a server with strace. The id of a message is in
its 250, in the ``Received:`` of the Maildir's file, and in the row in the database's log. These calls have to come
before the 250, each ended before the next one begins:

- Maildir: the file written, ``fsync(file)``, ``rename`` into new/, ``fsync(new/)``.
- SQLite: the row written to the log, ``fsync`` or ``fdatasync`` of the log.
"""

from __future__ import annotations

import os
import re
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import frozen

from .load import Load, running_server

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

CALLS = "write,pwrite64,fsync,fdatasync,rename,renameat,renameat2,sendto,sendmsg"
CONNECTIONS = 10
ID = r"[0-9a-f]{20}-\d+"


@frozen
class Call:
    """A successful system call, with the numbers of the trace's lines where it began and ended."""

    name: str
    arguments: str
    began: int
    ended: int

    def path(self, descriptor: int = 0) -> str:
        """Return the path of a descriptor among the arguments, which strace -y adds."""
        return str(re.findall(r"\d+<([^>]*)>", self.arguments)[descriptor])


def calls(trace: Iterable[str]) -> Iterator[Call]:
    """Iterate over the calls of a trace in the order of their ends."""
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
    """Return the call that sent the 250 of each message, by the id of the message."""
    found = {}
    for call in trace:
        if call.name in ("write", "sendto", "sendmsg") and call.path().startswith(("socket:", "TCP:")):
            for queued in re.findall(rf"250 2\.0\.0 [^\"]*? ({ID})\\r\\n", call.arguments):
                assert queued not in found, f"{queued}: two replies"
                found[queued] = call
    return found


def check_maildir(trace: list[Call]) -> int:
    """Check that no 250 was sent too early, and return their number."""
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
    sent = replies(trace)
    for queued, reply in sent.items():
        path = files[queued]
        assert path in flushed, f"{queued}: its file was never flushed"
        assert written[path].ended < flushed[path].began, f"{queued}: written after its file was flushed"
        assert flushed[path].ended < moved[path].began, f"{queued}: moved before its file was flushed"
        after = [call for call in new if call.began > moved[path].ended]
        assert after, f"{queued}: the directory was never flushed after the move"
        assert after[0].ended < reply.began, f"{queued}: replied before its directory was flushed"
    return len(sent)


def check_sqlite(trace: list[Call]) -> int:
    """Check that no 250 was sent too early, and return their number."""
    written: dict[str, Call] = {}
    flushed: list[Call] = []
    for call in trace:
        if call.name == "pwrite64" and call.path().endswith("-wal"):
            # In a row the id is followed by the time, in ISO 8601.
            for identity in re.findall(rf"({ID}?)20\d\d-\d\d-\d\dT", call.arguments):
                written.setdefault(identity, call)
        elif call.name in ("fsync", "fdatasync") and call.path().endswith("-wal"):
            flushed.append(call)
    sent = replies(trace)
    for queued, reply in sent.items():
        assert queued in written, f"{queued}: never written to the log"
        after = [call for call in flushed if call.began > written[queued].ended]
        assert after, f"{queued}: the log was never flushed after it"
        assert after[0].ended < reply.began, f"{queued}: replied before the log was flushed"
    return len(sent)


def run(kind: str, directory: Path, messages: int, mutant: str = "") -> int:
    """Trace a server while it receives messages. Check that no 250 was sent too early, and return their number."""
    load = Load()
    for number in range(messages):
        load.todo.put(number)
    log = directory / "trace"
    # -y adds the paths of descriptors. 5,000 octets of each argument, because the log is written in pages of 4,096
    # octets and an id may be at the end of one.
    strace = ("strace", "-f", "--seccomp-bpf", "-qq", "-y", "-s", "5000", "-e", f"trace={CALLS}", "-e", "signal=none")
    with running_server(f"{kind}:{directory / 'store'}", mutant=mutant, wrapper=(*strace, "-o", str(log))) as (port, _):
        load.run(port, CONNECTIONS)
        # The client can read the last reply before the server's call has ended, and the kill would then leave this call
        # unfinished in the trace. A greeting is sent only after it.
        with socket.create_connection(("127.0.0.1", port)) as sock:
            assert sock.recv(3) == b"220"
    with open(log, errors="replace") as lines:
        count = CHECKS[kind](list(calls(lines)))
    assert count == len(load.accepted) == messages, f"expected {messages} replies in the trace, got {count}"
    return count


CHECKS = {"maildir": check_maildir, "sqlite": check_sqlite}


def main(kind: str, directory: str, messages: str = "1000", mutant: str = "") -> None:
    print(f"{kind}: {run(kind, Path(directory), int(messages), mutant)} messages, each flushed before its 250")


if __name__ == "__main__":
    main(*sys.argv[1:])
