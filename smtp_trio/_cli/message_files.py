"""What ``smtp-trio send`` is to send: files, directories, Maildirs and standard input, each message with its envelope."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from email import policy
from email.parser import BytesHeaderParser
from itertools import takewhile
from pathlib import Path

from attrs import field, frozen

from .._client.message import envelope
from ..protocol.dot_stuffing import normalize_newlines
from .options import UsageError, describe_error

STDIN = "-"

#: RFC 5322 2.2: a message begins with a field, or it is none.
FIELD = re.compile(rb"[!-9;-~]+[ \t]*:")
#: RFC 5322 3.6.3: who got a blind copy is nobody else's business.
BCC = re.compile(rb"^(?:resent-)?bcc[ \t]*:.*\r\n(?:[ \t].*\r\n)*", re.IGNORECASE | re.MULTILINE)


@frozen
class Letter:
    """A message that is there, and its envelope. ``name`` is where it is, for people."""

    name: str
    sender: str
    recipients: Sequence[str]
    _octets: bytes | None = field(default=None, repr=False)

    def read(self) -> bytes:
        """The message with CRLF at the end of each line, and without its Bcc. Raises OSError when it is not there any more."""
        octets = normalize_newlines(Path(self.name).read_bytes() if self._octets is None else self._octets)
        end = octets.find(b"\r\n\r\n") + 2
        return BCC.sub(b"", octets[:end]) + octets[end:]


def letters(operands: Iterable[str], sender: str | None, recipients: Sequence[str] | None) -> list[Letter]:
    """All messages that the operands name, in their order. Only their headers are read.

    Raises UsageError for what is not there, cannot be read, or is no message; and where neither the caller nor the message says who
    sends it to whom.
    """
    found = []
    for name in (name for operand in operands for name in files(operand)):
        octets = sys.stdin.buffer.read() if name == STDIN else None
        try:
            header = read_header(name) if octets is None else octets
        except OSError as error:
            raise UsageError(f"cannot read {name}: {describe_error(error)}") from None
        if not FIELD.match(header):
            raise UsageError(f"{name} is no message: it does not begin with a field, such as From: or Subject:")
        message = BytesHeaderParser(policy=policy.SMTP).parsebytes(normalize_newlines(header))
        try:
            found.append(Letter(name, *envelope(message, sender, recipients), octets))
        except ValueError as error:
            raise UsageError(f"{name}: {error}; say it with --from and --to") from None
    return found


def files(operand: str) -> Iterator[str]:
    """The files of a Maildir or of a directory, without hidden ones and directories in it; all else as it is."""
    if operand == STDIN or not os.path.isdir(operand):
        yield operand
        return
    boxes = [os.path.join(operand, name) for name in ("new", "cur")]
    for folder in boxes if all(map(os.path.isdir, boxes)) else [operand]:
        try:
            names = sorted(os.listdir(folder))
        except OSError as error:
            raise UsageError(f"cannot read {folder}: {describe_error(error)}") from None
        for path in (os.path.join(folder, name) for name in names if not name.startswith(".")):
            if not os.path.isdir(path):
                yield path


def read_header(path: str) -> bytes:
    with open(path, "rb") as file:
        return b"".join(takewhile(lambda line: line not in (b"\n", b"\r\n"), file))
