"""The files of a Maildir: how the envelope is written into them, and how they are read."""

from __future__ import annotations

import errno
import os
import re
import stat
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from attrs import frozen

from ._entry import HEADER_END, HEADER_OCTETS, Entry, Stored, read_header

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: Where the field of the parameters is folded.
CRLF_SPACE = "\r\n "
#: Octets of a file that are read at a time until its header is complete, when only the entry is needed.
START_OCTETS = 1 << 14
#: The number of octets after which the fields of the envelope end. A thousand recipients with parameters have less.
MAX_FIELDS = 1 << 21


def encode_envelope(entry: Entry) -> bytes:
    """Return the fields that keep the envelope with its message."""
    lines = [f"Return-Path: <{entry.sender}>\r\n", encode_params(entry.mail_params)]
    for recipient, params in zip(entry.recipients, entry.rcpt_params, strict=True):
        lines += f"Envelope-To: <{recipient}>\r\n", encode_params(params)
    return "".join(lines).encode()


def encode_params(text: str) -> str:
    """Return the field that keeps the parameters of one command, or "" without parameters.

    Each parameter has a line of its own: together they can be longer than a line of a message (RFC 5322 2.1.1).
    """
    return f"X-Envelope-Parameters: {text.replace(' ', CRLF_SPACE)}\r\n" if text else ""


# The fields at the top, as `encode_envelope` and `Session.received` write them. The message begins after the date of
# the ``Received:``, which is its last part (RFC 5321 4.4), or after an empty line if its first line is not a field. Such
# a line could continue the last of the fields above it. An empty first line gets an empty line, too, so that the one that
# was added can always be removed again. The pattern must not read on after the date: files of earlier versions do not
# have the empty line.
#
# Other programs can deliver into the same Maildir, so a pattern must fail in linear time on any file: of two parts that
# follow each other, only one can match a given octet. ``.`` would match the CR of a line end.
LINE = rb"[^\r\n]*"
PARAMS = rb"(?:X-Envelope-Parameters: (?P<%s>" + LINE + rb"(?:\r?\n " + LINE + rb")*)\r?\n)?"
FOLD = re.compile(rb"\r?\n ")
FIELDS = re.compile(
    rb"Return-Path: <(?P<sender>.*)>\r?\n"
    + PARAMS % b"params"
    + rb"(?P<recipients>(?:Envelope-To: <.*>\r?\n"
    + PARAMS % b"last"
    + rb")+)"
    rb"Received: (?:.*\n[ \t])*?.*;\s+(?P<date>\w{3}, \d\d? \w{3} \d{4} \d\d:\d\d:\d\d [+-]\d{4})\r?\n(?:\r?\n)?"
)
RECIPIENT = re.compile(rb"Envelope-To: <(?P<address>.*)>\r?\n" + PARAMS % b"params")
FIRST_FIELD = b"Return-Path: <"

# Files of other programs. Delivery agents put the envelope into fields at the top, above the ``Received:`` of the last
# server: Postfix and Dovecot as Return-Path, X-Original-To and Delivered-To, Exim as Return-path, Envelope-to and
# Delivery-date. Fields of these names further down come from other hosts, and are not read.
FOREIGN_FIELD = re.compile(
    rb"(?i)(?:(?P<sender>return-path)|(?P<recipient>delivered-to|envelope-to)|x-original-to|delivery-date)[ \t]*:"
    rb"(?P<value>[^\r\n]*(?:\r?\n[ \t][^\r\n]*)*)\r?\n"
)
#: The beginning of a name: seconds, and in those of this store and of many programs microseconds and a number.
NAME_TIME = re.compile(r"(\d{1,11})(?:\.M(\d{1,6})P\d+(?:Q(\d+))?)?")


@frozen
class MaildirFile:
    """A file in ``new/`` or ``cur/`` of a Maildir."""

    directory: str
    """The path of ``new/`` or ``cur/``."""
    name: str
    """The name of the file, with the flags of a mail reader, if there are any."""
    id: str
    """The store's id of the message."""

    @property
    def path(self) -> str:
        """The path of the file."""
        return os.path.join(self.directory, self.name)


def unique_part(name: str) -> str:
    """Return the name of a file without the flags of a mail reader."""
    return name.partition(":")[0]


def age(name: str) -> tuple[int, int, int, str]:
    """Return a key that sorts the names of files from the oldest to the newest, by the times in them."""
    found = NAME_TIME.match(name)
    if found is None:
        return 0, 0, 0, name
    seconds, microseconds, number = found.groups()
    return int(seconds), int(microseconds or 0), int(number or 0), name


def time_of(name: str) -> datetime | None:
    """Return the time in the name of a file, or None if it has none."""
    seconds, microseconds, *_ = age(name)
    try:
        return datetime.fromtimestamp(seconds, UTC).replace(microsecond=microseconds) if seconds else None
    except (ValueError, OverflowError, OSError):
        return None


def list_files(maildir: str, id_of: Callable[[str], str] = unique_part) -> Iterator[MaildirFile]:
    """Iterate over the files of a Maildir. Mail readers ignore names that begin with a dot, and so does this.

    A reader moves files from ``new/`` to ``cur/``. One that is moved meanwhile can be found twice, and is not missed.
    """
    for directory in (os.path.join(maildir, "new"), os.path.join(maildir, "cur")):
        try:
            names = os.listdir(directory)
        except FileNotFoundError:
            continue
        for name in names:
            if not name.startswith("."):
                yield MaildirFile(directory, name, id_of(name))


def find_file(maildir: str, id: str, id_of: Callable[[str], str] = unique_part) -> MaildirFile | None:
    """Return the file with this id in a Maildir, or None."""
    return next((file for file in list_files(maildir, id_of) if file.id == id), None)


def open_message(path: str) -> int:
    """Return a descriptor of a file. Raises FileNotFoundError if it is not a regular file, for example a link or a pipe."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise FileNotFoundError(errno.ENOENT, "not a regular file", path)
    return fd


def read_message(file: MaildirFile, *, own: bool = False) -> Stored:
    """Return the message in a file of any program; with ``own``, raise ValueError if no store wrote it. Raises OSError."""
    with open(open_message(file.path), "rb") as stream:
        data = stream.read()
        if own:
            own_envelope(data)
        return Stored.with_message(*parse_message(file, data, os.fstat(stream.fileno())))


def read_entry(file: MaildirFile) -> Entry:
    """Return the entry of a file of any program, of which only the beginning is read. Raises OSError."""
    with open(open_message(file.path), "rb") as stream:
        status = os.fstat(stream.fileno())
        data = stream.read(START_OCTETS)
        while len(data) < status.st_size and not has_header(data):
            if not (more := stream.read(len(data))):
                break
            data += more
    return parse_message(file, data, status)[0]


def has_header(data: bytes) -> bool:
    """Return whether the beginning of a file has the fields of the envelope and the header, as far as they are read."""
    if not data.startswith(FIRST_FIELD) or len(data) > MAX_FIELDS:
        begin = 0
    elif (fields := FIELDS.match(data)) is not None:
        begin = fields.end()
    else:
        # A file of another program that begins like one of a store: what can be the fields of a store ends there.
        return HEADER_END.search(data) is not None and len(data) > HEADER_OCTETS
    return len(data) - begin > HEADER_OCTETS or HEADER_END.search(data, begin) is not None


def parse_message(file: MaildirFile, data: bytes, status: os.stat_result) -> tuple[Entry, bytes]:
    """Return the entry of a file that begins with ``data``, and the octets of the message that are in ``data``."""
    try:
        envelope, begin = own_envelope(data)
    except ValueError:
        envelope, begin = foreign_envelope(file, data, status), 0
    message = data[begin:]
    subject, date = read_header(message)
    return Entry(id=file.id, size=status.st_size - begin, subject=subject, date=date, **envelope), message


def own_envelope(data: bytes) -> tuple[dict[str, Any], int]:
    """Return the envelope in the fields that a store wrote, as fields of an entry, and where the message begins.

    Raises ValueError if no store wrote a file that begins with ``data``.
    """
    fields = FIELDS.match(data)
    if fields is None:
        raise ValueError("not written by a Maildir store: it does not begin with the fields of the envelope")
    recipients = list(RECIPIENT.finditer(fields["recipients"]))
    return {
        "received": parsedate_to_datetime(fields["date"].decode()),
        "sender": fields["sender"].decode(),
        "recipients": tuple(recipient["address"].decode() for recipient in recipients),
        "mail_params": decode_params(fields["params"]),
        "rcpt_params": tuple(decode_params(recipient["params"]) for recipient in recipients),
    }, fields.end()


def foreign_envelope(file: MaildirFile, data: bytes, status: os.stat_result) -> dict[str, Any]:
    """Return what the file of another program has of the envelope, as fields of an entry.

    Its fields belong to the message, whose octets are those of the whole file.
    """
    sender, recipients, end = "", list[str](), 0
    while (found := FOREIGN_FIELD.match(data, end)) is not None:
        value = found["value"].decode("utf-8", "replace")
        if found["sender"]:
            sender = mailbox(value)
        elif found["recipient"]:
            recipients += filter(None, map(mailbox, value.split(",")))
        end = found.end()
    received = time_of(file.name) or datetime.fromtimestamp(status.st_mtime, UTC)
    return {"received": received, "sender": sender, "recipients": tuple(dict.fromkeys(recipients))}


def mailbox(value: str) -> str:
    """Return the mailbox in the value of a field, without its brackets."""
    return value.strip().removeprefix("<").removesuffix(">")


def read_file(path: str | os.PathLike[str]) -> Stored:
    """Return the message in a file that `Maildir` wrote, and its envelope. Raises ValueError for any other file."""
    path = os.fspath(path)
    with open(path, "rb") as stream:
        data = stream.read()
        status = os.fstat(stream.fileno())
    try:
        own_envelope(data)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    directory, name = os.path.split(path)
    return Stored.with_message(*parse_message(MaildirFile(directory, name, unique_part(name)), data, status))


def decode_params(text: bytes | None) -> str:
    """Return the parameters in a field of a file, or "" if the file does not have the field (None)."""
    return FOLD.sub(b" ", text).decode() if text else ""
