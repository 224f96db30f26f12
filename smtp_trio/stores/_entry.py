"""A message in a store: `Entry` without its octets, `Stored` with them."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.errors import MessageError
from email.header import decode_header, make_header
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Self

from attrs import Factory, asdict, field, frozen

from .._server.trace_context import traceparent
from ._params import format_params

if TYPE_CHECKING:
    from .._server.session import Session
    from .._types import Envelope


#: The keyword under which ``mail_params`` has the trace context. It is not that of an extension, so MAIL with it is refused,
#: and `parse_stored_params` leaves it out.
TRACE = "TRACEPARENT"


@frozen(kw_only=True)
class Entry:
    """A stored message without its octets: the envelope, and what the server knew about its client."""

    id: str
    """The store's id of the message, which `Store.put` returns and `Store.get` takes."""
    received: datetime
    """The time at which the server received the message, with its UTC offset."""
    sender: str
    """The mailbox of MAIL, as the client sent it; "" for the null reverse-path."""
    recipients: tuple[str, ...]
    """The mailboxes of the accepted RCPT commands in their order, as the client sent them. In the place of an alias are its
    targets (`smtp_trio.recipients`)."""
    size: int = 0
    """The number of octets of the message."""
    mail_params: str = ""
    """The parameters of MAIL, such as ``SIZE=100 RET=HDRS``, or "" without parameters. See `parse_stored_params`."""
    rcpt_params: tuple[str, ...] = field(default=Factory(lambda self: ("",) * len(self.recipients), takes_self=True))
    """The parameters of the RCPT command of each recipient, in the order of ``recipients``."""
    peer: str | None = None
    """The address of the client, or the kind of its connection."""
    helo: str | None = None
    """The name that the client gave in EHLO, HELO or LHLO."""
    protocol: str | None = None
    """The protocol, such as "ESMTPS" (RFC 3848)."""
    tls: str | None = None
    """The version and cipher of TLS, or None without TLS."""
    auth: str | None = None
    """The user that the client logged in as, or None."""
    subject: str | None = None
    """The text of the field ``Subject:``, decoded (RFC 2047), or None without one. A long one is cut off."""
    date: datetime | None = None
    """The time in the field ``Date:``, or None if it is absent or invalid."""

    @classmethod
    def of(cls, session: Session, envelope: Envelope) -> Self:
        """Return the entry of a message that a session is about to receive. ``size``, ``subject`` and ``date`` are not set."""
        return cls(
            id=envelope.id,
            received=session.server.now(),
            sender=envelope.sender.raw,
            recipients=tuple(rcpt.recipient.raw for rcpt in envelope.rcpts),
            mail_params=with_trace(format_params(envelope.params)),
            rcpt_params=tuple(format_params(rcpt.params) for rcpt in envelope.rcpts),
            peer=session.peer.host or session.peer.kind,
            helo=session.hello.domain if session.hello else None,
            protocol=session.protocol_name,
            tls=f"{session.tls.version} {session.tls.cipher}" if session.tls else None,
            auth=session.user,
        )

    @property
    def traceparent(self) -> str | None:
        """The trace context in which the message was received, as the W3C defines it; None without tracing.

        It is kept as a parameter in ``mail_params``, which no client can send.
        """
        words = (word.partition("=") for word in self.mail_params.split(" "))
        return next((value for keyword, _, value in words if keyword == TRACE), None)

    @property
    def received_at(self) -> str:
        """The time of ``received`` as stores of rows keep it: ISO 8601 in UTC, with microseconds."""
        return self.received.astimezone(UTC).isoformat(timespec="microseconds")


@frozen(kw_only=True)
class Stored(Entry):
    """A stored message with its octets."""

    message: bytes
    """The octets that the client sent, without the fields that the store or the server added."""

    @classmethod
    def with_message(cls, entry: Entry, message: bytes) -> Stored:
        """Return an entry with its octets."""
        return cls(**asdict(entry, recurse=False), message=message)


def with_trace(params: str) -> str:
    """Return parameters with the current trace context, if there is one."""
    parent = traceparent.get()
    return params if parent is None else f"{params} {TRACE}={parent}".lstrip()


def json_fields(entry: Entry) -> dict[str, object]:
    """Return the fields of a message for JSON, without its octets."""
    fields = asdict(entry, recurse=False)
    fields.pop("message", None)
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in fields.items()}


# A field ends at the first line that does not begin with white space (RFC 5322 2.2.3). The header ends at an empty line, so
# it is found first: lines of the body that look like fields must not be read as fields.
HEADER_END = re.compile(rb"\n\r?\n")
FIELD = rb"(?im)^%s[ \t]*:(.*(?:\r?\n[ \t].*)*)"
SUBJECT, DATE = re.compile(FIELD % b"subject"), re.compile(FIELD % b"date")
#: Octets of a field that are decoded. The time that the library takes grows with the square of the number of encoded words,
#: and a message of a client must not delay the commit of the others.
FIELD_OCTETS = 2048
#: Octets at the beginning of a message in which `read_header` looks for the fields.
HEADER_OCTETS = 1 << 16


def read_header(start: bytes | bytearray) -> tuple[str | None, datetime | None]:
    """Return the subject and the date in the header of a message that begins with ``start``.

    Neither is an error when it is invalid: an undecodable subject is returned as it is, an invalid date as None.
    """
    if start.startswith((b"\n", b"\r\n")):  # the header is empty
        return None, None
    end = HEADER_END.search(start, 0, HEADER_OCTETS)
    header = bytes(start[: end.start() if end else HEADER_OCTETS])
    found, when = SUBJECT.search(header), DATE.search(header)
    return (decode_subject(found[1]) if found else None), (parse_date(when[1]) if when else None)


def decode_subject(value: bytes) -> str:
    """Return the text of a field: unfolded, UTF-8 (RFC 6532), and with its encoded words decoded (RFC 2047)."""
    text = value[:FIELD_OCTETS].decode("utf-8", "replace")
    if "\n" in text:
        text = re.sub(r"\r?\n(?=[ \t])", "", text)
    text = text.strip()
    if "=?" not in text:
        return text
    try:
        decoded = str(make_header(decode_header(text)))
    except (ValueError, LookupError, MessageError):  # an unknown charset, or octets that it does not have
        return text
    return decoded.encode("utf-8", "replace").decode()  # some charsets have code points that UTF-8 does not


def parse_date(value: bytes) -> datetime | None:
    """Return the time of a ``Date:`` field, in UTC if it has no offset; None if it is invalid (RFC 5322 3.3)."""
    try:
        when = parsedate_to_datetime(value[:FIELD_OCTETS].decode("ascii", "replace").strip())
        when.astimezone(UTC)  # can be before the year 1 or after 9999
    except (ValueError, OverflowError):
        return None
    return when if when.tzinfo else when.replace(tzinfo=UTC)


def parse_time(text: str) -> datetime:
    """Return a time that is stored as ISO 8601, in UTC if it has no offset. Raises ValueError."""
    when = datetime.fromisoformat(text)
    return when if when.tzinfo is not None else when.replace(tzinfo=UTC)
