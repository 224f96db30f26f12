"""The messages that ``smtp-trio send`` sends, from files, directories, Maildirs and standard input."""

from __future__ import annotations

import codecs
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from email import policy
from email.parser import BytesHeaderParser
from itertools import takewhile
from pathlib import Path

from attrs import field, frozen

from .._client.addresses import BCC, envelope
from ..protocol.dot_stuffing import normalize_newlines
from ..protocol.header import header_end, message_start
from .options import UsageError, describe_error

STDIN = "-"

#: The beginning of a header field, and so of a message (RFC 5322 2.2).
FIELD = re.compile(rb"[!-9;-~]+[ \t]*:")


@frozen
class MessageFile:
    """A message to send and its envelope. ``name`` is the path of its file, or ``-`` for standard input.

    ``note`` names what the file has before the header, which is not sent. It is "" in most cases.
    """

    name: str
    sender: str
    recipients: Sequence[str]
    note: str = ""
    _octets: bytes | None = field(default=None, repr=False)

    def read(self) -> bytes:
        """Return the message with CRLF line ends and without Bcc fields, and without what precedes its header.

        Raises OSError when the file cannot be read any more.
        """
        octets = normalize_newlines(Path(self.name).read_bytes() if self._octets is None else self._octets)
        octets = octets[message_start(octets) :]
        end = header_end(octets)
        return BCC.sub(b"", octets[:end]) + octets[end:]


def find_messages(
    operands: Iterable[str],
    sender: str | None,
    recipients: Sequence[str] | None,
    on_skip: Callable[[str], None],
) -> list[MessageFile]:
    """Return the messages that the operands name, in this order. Only their headers are read.

    ``sender`` and ``recipients`` of None are taken from the header of each message. Raises UsageError for a file that
    cannot be read or is not a message, and for a message whose header is damaged or has no sender or no recipients when
    they are needed. If it is a file in a directory, it is skipped instead, and ``on_skip`` is called with the error.
    """
    found = []
    for operand in operands:
        for name in expand(operand):
            try:
                found.append(find_message(name, sender, recipients))
            except UsageError as error:
                if name == operand:
                    raise
                on_skip(str(error))
    return found


def find_message(name: str, sender: str | None, recipients: Sequence[str] | None) -> MessageFile:
    """Return the message in a file, or that of standard input; see `find_messages`."""
    octets = sys.stdin.buffer.read() if name == STDIN else None
    try:
        header = read_header(name) if octets is None else octets
    except OSError as error:
        raise UsageError(f"cannot read {name}: {describe_error(error)}") from None
    header = normalize_newlines(header)
    start = message_start(header)
    preface, header = header[:start], header[start:]
    if not FIELD.match(header):
        raise UsageError(f"{name} is not a message: it does not begin with a header field such as From: or Subject:")
    message = BytesHeaderParser(policy=policy.SMTP).parsebytes(header[: header_end(header)])
    try:
        return MessageFile(name, *envelope(message, sender, recipients), preface_note(preface), octets)
    except ValueError as error:
        raise UsageError(f"{name}: {error}; use --from and --to") from None


def preface_note(preface: bytes) -> str:
    """Return a warning that names the octets before the header of a message, or "" without any."""
    line = preface.removeprefix(codecs.BOM_UTF8).decode(errors="replace").strip()
    parts = ["the byte order mark"] if preface.startswith(codecs.BOM_UTF8) else []
    parts += [f"the line {line!r}"] if line else []
    return f"{' and '.join(parts)} before the header is not sent" if parts else ""


def expand(operand: str) -> Iterator[str]:
    """Iterate over the files in a Maildir or a directory.

    Hidden files, subdirectories, and what is not a file (a pipe or socket, whose reading could wait for ever) are left
    out. Any other operand is returned as it is.
    """
    if operand == STDIN or not os.path.isdir(operand):
        yield operand
        return
    maildir = [os.path.join(operand, name) for name in ("new", "cur")]
    for directory in maildir if all(map(os.path.isdir, maildir)) else [operand]:
        try:
            names = sorted(os.listdir(directory))
        except OSError as error:
            raise UsageError(f"cannot read {directory}: {describe_error(error)}") from None
        for path in (os.path.join(directory, name) for name in names if not name.startswith(".")):
            if os.path.isfile(path) or not os.path.exists(path):  # a dangling link is reported
                yield path


def read_header(path: str) -> bytes:
    """Return the lines of a file before the first empty one."""
    with open(path, "rb") as file:
        return b"".join(takewhile(lambda line: line not in (b"\n", b"\r\n"), file))
