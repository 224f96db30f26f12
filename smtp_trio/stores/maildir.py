"""Maildir: one file a message, safe when its 250 is said.

How a message is delivered so that no crash can lose it or leave half of it (`Maildir._commit` is this list):

1. It is written under a name of its own in ``tmp/``. O_EXCL: never over another's.
2. ``fsync(file)``: its octets are on the disk. The file is closed, and what close says is heard.
3. ``rename`` into ``new/``, in one step: a reader finds the whole message or none.
4. ``fsync(directory)``: its name is on the disk as well. Without this a power cut takes the whole file away.
5. Only now 250.

Whatever goes wrong, the message leaves both directories and the peer hears 451 or 452. A killed process leaves files
in ``tmp/``, no one's mail yet: those older than 36 hours go when the box is opened. What is in ``new/`` and ``cur/``
is the reader's and never touched. Steps 1 and 2 are taken message by message, 3 and 4 for a whole group.

A file begins with what the message itself does not tell: ``Return-Path: <sender>``, an ``Envelope-To: <recipient>``
for each accepted recipient in order (the Bcc are there and nowhere else), and the server's ``Received:``. Then come
the octets as they were sent. Fields of those names in the message are the sender's own words and stay where they are:
``read`` looks no further than our ``Received:``.
"""

from __future__ import annotations

import itertools
import os
import re
import socket
import time
from contextlib import ExitStack, suppress
from email.utils import parsedate_to_datetime
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeVar

from ._disk import check_writable, directory, make_directory
from ._spool import Spool
from ._store import Store, Stored

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from datetime import datetime

    from .._server.session import Session
    from .._types import Envelope

T = TypeVar("T")

STALE = 36 * 60 * 60
DELIVERIES = itertools.count(1)


def safe(host: str) -> str:
    """A host's name as part of a file's: ":" would begin a reader's flags."""
    return host.replace("/", r"\057").replace(":", r"\072")


HOST = safe(socket.gethostname())


class Maildir(Store["Letter"]):
    """Hooks that deliver every message into one Maildir, which is made if need be.

    ``newline="lf"`` writes Unix files, for readers that want them: every CRLF becomes LF.
    """

    def __init__(self, path: str | os.PathLike[str], *, newline: Literal["crlf", "lf"] = "crlf") -> None:
        if newline not in ("crlf", "lf"):
            raise ValueError(f"newline is 'crlf' or 'lf', not {newline!r}")
        super().__init__()
        self.path: str = os.path.abspath(path)
        self.newline = newline
        self.tmp: str = os.path.join(self.path, "tmp")
        self.new: str = os.path.join(self.path, "new")
        self._opened = False

    def __repr__(self) -> str:
        return f"Maildir({self.path!r})"

    def _spool(self, session: Session, envelope: Envelope) -> Letter:
        fields = encode_envelope(envelope) + session.received()
        return Letter(self, unique_name(session.server.now()), fields, unix=self.newline == "lf")

    def _commit(self, messages: Sequence[Letter]) -> dict[Letter, Exception]:
        refused: dict[Letter, Exception] = {}
        try:
            with ExitStack() as stack:
                # Held open throughout: whatever becomes of the paths, the directories that names move in are those
                # flushed.
                tmp = self.at_home(lambda: stack.enter_context(directory(self.tmp)))
                new = self.at_home(lambda: stack.enter_context(directory(self.new)))
                refused |= attempt(Letter.write, messages)
                refused |= attempt(partial(Letter.move, tmp=tmp, new=new), [m for m in messages if m not in refused])
                os.fsync(new)
                os.fsync(tmp)
        except Exception as error:
            refused = dict.fromkeys(messages, error)
        for letter in refused:
            letter.discard()
        return refused

    def at_home(self, act: Callable[[], T]) -> T:
        """Act in a box that is there: made on first use, and again when somebody has removed it."""
        if self._opened:
            with suppress(FileNotFoundError):
                return act()
        self._open()
        return act()

    def _open(self) -> None:
        for path in (self.path, self.tmp, self.new, os.path.join(self.path, "cur")):
            make_directory(path)
            check_writable(path)
        # By the clock that stamps files, which need not be the server's.
        stale = time.time() - STALE
        with os.scandir(self.tmp) as files:
            for file in files:
                with suppress(OSError):
                    if file.is_file(follow_symlinks=False) and file.stat(follow_symlinks=False).st_mtime < stale:
                        os.unlink(file)
        self._opened = True


def attempt(step: Callable[[Letter], None], letters: Iterable[Letter]) -> dict[Letter, Exception]:
    """Take a step for each letter; returns those that stumbled, so that one bad letter does not hold up the others."""
    stumbled: dict[Letter, Exception] = {}
    for letter in letters:
        try:
            step(letter)
        except Exception as error:
            stumbled[letter] = error
    return stumbled


class Letter(Spool):
    """A message on its way into a box: in memory, or already in ``tmp/``."""

    def __init__(self, box: Maildir, unique: str, fields: bytes, *, unix: bool) -> None:
        super().__init__(unique, fields, unix=unix)
        self.box = box
        self.unique = unique
        self.paths: list[str] = []
        """The files that are ours to remove."""

    def create(self) -> int:
        path = os.path.join(self.box.tmp, self.unique)
        fd = self.box.at_home(lambda: os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        self.paths.append(path)
        return fd

    def write(self) -> None:
        """All of it is on the disk, under its name in ``tmp/``."""
        self.flush(last=True)
        assert self.fd is not None
        os.fsync(self.fd)
        self.close()
        self.name: str = f"{self.unique},S={self.size}"

    def move(self, *, tmp: int, new: int) -> None:
        """From ``tmp/`` into ``new/``, where readers look."""
        os.rename(self.unique, self.name, src_dir_fd=tmp, dst_dir_fd=new)
        self.paths.append(os.path.join(self.box.new, self.name))

    def discard(self) -> None:
        super().discard()
        for path in self.paths:
            with suppress(OSError):
                os.unlink(path)


def unique_name(now: datetime) -> str:
    """A name that no other delivery has, on this host or another, now or after a restart (cr.yp.to/proto/maildir)."""
    return f"{int(now.timestamp())}.M{now.microsecond}P{os.getpid()}Q{next(DELIVERIES)}.{HOST}"


def encode_envelope(envelope: Envelope) -> bytes:
    """The fields that keep an envelope with its message."""
    lines = [f"Return-Path: <{envelope.sender.raw}>\r\n"]
    lines += [f"Envelope-To: <{recipient.raw}>\r\n" for recipient in envelope.recipients]
    return "".join(lines).encode()


# The fields at the top, as `encode_envelope` and `Session.received` write them. A ``Received:`` ends with its date
# (RFC 5321 4.4), and that is where the message begins, even one that begins with white space and so seems to go on
# with the field.
FIELDS = re.compile(
    rb"Return-Path: <(?P<sender>.*)>\r?\n"
    rb"(?P<recipients>(?:Envelope-To: <.*>\r?\n)+)"
    rb"Received: (?:.*\n[ \t])*?.*;\s+(?P<date>\w{3}, \d\d? \w{3} \d{4} \d\d:\d\d:\d\d [+-]\d{4})\r?\n"
)
RECIPIENT = re.compile(rb"Envelope-To: <(.*)>")


def read_file(path: str | os.PathLike[str]) -> Stored:
    """The message in a file that ``Maildir`` wrote, and its envelope."""
    with open(path, "rb") as file:
        data = file.read()
    fields = FIELDS.match(data)
    if fields is None:
        raise ValueError(f"{os.fspath(path)}: does not begin with the fields that a Maildir store writes")
    return Stored(
        sender=fields["sender"].decode(),
        recipients=tuple(recipient.decode() for recipient in RECIPIENT.findall(fields["recipients"])),
        message=data[fields.end() :],
        received=parsedate_to_datetime(fields["date"].decode()),
    )
