"""The message that ``smtp-trio send`` composes from ``--subject``, ``--body`` and ``--attach``, without a file."""

from __future__ import annotations

import mimetypes
import os
import sys
from collections.abc import Sequence
from email import policy
from email.message import EmailMessage
from email.utils import format_datetime, localtime, make_msgid
from pathlib import Path

from .._server.log_events import clean
from ..protocol.header import is_utf8
from ..protocol.syntax import CONTROL
from .message_files import STDIN, MessageFile
from .options import UsageError, describe_error

#: The column for the file in the report.
NAME = "new message"
SUBJECT = "Test message"
BODY = "This is a test message.\n"
UNKNOWN_TYPE = "application/octet-stream"


def compose(
    sender: str | None,
    recipients: Sequence[str] | None,
    *,
    subject: str | None,
    body: str | None,
    attachments: Sequence[str],
) -> MessageFile:
    """Return a new message with this envelope. Its From and To are those of the envelope.

    A subject or body of None has a default; a body of ``-`` is read from standard input. Raises UsageError without an
    envelope, for a file that cannot be read, and for what is not text.
    """
    if not sender or not recipients:
        raise UsageError("a new message requires --from and --to, with an address in each")
    message = EmailMessage(policy=policy.SMTP)
    subject = SUBJECT if subject is None else check_text("--subject", subject)
    if CONTROL.search(subject):
        raise UsageError("--subject contains a control character")
    message["Subject"] = subject
    text = BODY if body is None else read_body() if body == STDIN else check_text("--body", body)
    # NUL may only be sent encoded (RFC 5322 3.5).
    message.set_content(text, cte="base64" if "\0" in text else None)
    for path in attachments:
        attach(message, path)
    return MessageFile(NAME, sender, recipients, octets=header(sender, recipients) + bytes(message))


def header(sender: str, recipients: Sequence[str]) -> bytes:
    """Return the header fields that depend on the envelope, and the date.

    The addresses are those that MAIL and RCPT contain, each on a line of its own. The email package could fold or encode
    them.
    """
    domain = sender.rpartition("@")[2]
    fields = {
        "From": f"<{sender}>",
        "To": ",\r\n ".join(f"<{recipient}>" for recipient in recipients),
        "Date": format_datetime(localtime()),
        "Message-ID": make_msgid(domain=domain if domain.isascii() else "localhost"),
    }
    return "".join(f"{name}: {value}\r\n" for name, value in fields.items()).encode()


def attach(message: EmailMessage, path: str) -> None:
    """Add a file to a message. Its type is guessed from its name."""
    try:
        octets = Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {describe_error(error)}") from None
    kind, compression = mimetypes.guess_type(path)
    # A message or multipart in base64 is not allowed (RFC 2045 6.4), and must be transferred unchanged.
    if kind is None or compression is not None or kind.startswith(("message/", "multipart/")):
        kind = UNKNOWN_TYPE
    maintype, _, subtype = kind.partition("/")
    params = {"charset": "utf-8"} if maintype == "text" and is_utf8(octets) else {}
    name = clean(os.fsencode(os.path.basename(path)).decode(errors="replace"))
    message.add_attachment(octets, maintype=maintype, subtype=subtype, filename=name, params=params)


def read_body() -> str:
    """Return the text of standard input."""
    octets = sys.stdin.buffer.read()
    if not is_utf8(octets):
        raise UsageError("standard input is not text in UTF-8")
    return octets.decode()


def check_text(option: str, text: str) -> str:
    """Return the value of an option. Raises UsageError if it is not text: its octets are read as surrogates then."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{option} is not text in UTF-8") from None
    return text
