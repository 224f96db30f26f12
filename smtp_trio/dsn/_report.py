"""`build_report`: a report of the delivery of a message, as a message to its sender (RFC 3461 6, RFC 3464)."""

from __future__ import annotations

import binascii
import re
import secrets
from collections.abc import Collection, Iterable
from datetime import UTC, datetime
from email.message import Message
from email.policy import compat32
from email.utils import make_msgid
from typing import Any

from attrs import frozen

from ..protocol.arguments import check_items, check_number, check_type
from ..protocol.extensions.deliverby import BY
from ..protocol.extensions.eightbitmime import BODY
from ..protocol.extensions.smtputf8 import SMTPUTF8
from ..protocol.header import header_end
from ..protocol.params import NO_PARAMS, Param, Params
from ._explanation import explanation, subject
from ._fields import WORD, clean, date, status_fields
from ._original import Original, check_date
from ._returned import requires_tls, returned_part, transfer_encoding
from ._status import RecipientStatus, is_requested

#: The octets of the original that are returned at most.
MAX_RETURNED = 65536
#: The extensions that most servers offer.
OFFERS = frozenset({"8BITMIME", "SMTPUTF8"})
MESSAGE_ID = re.compile(rb"^Message-ID:(?:[ \t]|\r\n[ \t])*(<[!-;=?-~]{1,200}>)[ \t]*\r$", re.IGNORECASE | re.MULTILINE)
#: The same, of a report.
IDENTIFIER = re.compile(r"<[!-;=?-~]{1,500}>")
#: Lines end in CRLF, and a field is never folded: `fold` and `clean` have done what is necessary.
POLICY = compat32.clone(linesep="\r\n", max_line_length=None, cte_type="8bit")


@frozen
class Report:
    """A report, and the envelope with which it is sent.

    Send it with the null reverse-path, so that it is never the cause of another report (RFC 3461 6.1)::

        await client.send("", [report.recipient], report.message, mail_params=report.mail_params)

    ``statuses`` are those that the report has. ``mail_params`` are the parameters of MAIL that it needs.
    """

    recipient: str
    message: bytes
    mail_params: Params
    statuses: tuple[RecipientStatus, ...]


# How the message is made
#
# The `email` package writes the header of the report, and encodes the text. The parts are joined here, because the octets of
# the original have to be returned as they are: the generator of the package would replace line ends, and cannot write UTF-8
# into the parts of type message. The fields of the original are never parsed with the package, since
# its sender chooses them; only Message-ID is looked for.
#
# The boundary is random, so that the original cannot contain it.
def build_report(
    original: Original,
    statuses: Iterable[RecipientStatus],
    *,
    reporting_mta: str,
    from_address: str | None = None,
    now: datetime | None = None,
    max_returned: int = MAX_RETURNED,
    offers: Collection[str] = OFFERS,
    message_id: str | None = None,
) -> Report | None:
    """Return a report about some recipients of a message; None if its sender must not get one.

    It has the recipients for which the sender wants to know the action, by NOTIFY (RFC 3461 5.2). The result is None
    without such a recipient, and for a message with the null reverse-path (RFC 3461 5.2, RFC 5321 6.1).

    The time that it takes is proportional to the number of statuses and to the octets that are returned. For hundreds of
    statuses or a large ``max_returned`` call it in a thread, so that other tasks do not wait.

    :param original: the message.
    :param statuses: what happened for each recipient.
    :param reporting_mta: the name of this server.
    :param from_address: the author of the report; by default ``MAILER-DAEMON`` at ``reporting_mta``.
    :param now: the date of the report; by default the current time.
    :param max_returned: the greatest number of octets of the original to return. Of a larger message the header is returned.
    :param offers: the extensions of the server to which the report will be sent (``client.offered``), which decide how the
        original can be returned. By default, 8BITMIME and SMTPUTF8.
    :param message_id: the identifier in its field Message-ID, with the angle brackets; by default a new one. A program that
        may have to send a report again uses the same one.
    """
    check_type(original, "original", Original)
    statuses = check_items(statuses, "statuses", RecipientStatus)
    check_type(reporting_mta, "reporting_mta", str)
    check_type(from_address, "from_address", str, optional=True)
    check_date(now, "now")
    check_number(max_returned, "max_returned", integer=True)
    offers = frozenset(check_items(offers, "offers", str))
    check_type(message_id, "message_id", str, optional=True)
    if message_id is not None and not IDENTIFIER.fullmatch(message_id):
        raise ValueError(f"message_id must be an identifier in angle brackets, got {message_id!r}")
    reported = tuple(
        each
        for each in statuses
        if is_requested(
            each.action, original.rcpt_params.get(each.recipient, NO_PARAMS), by=original.mail_params.get(BY)
        )
    )
    to = clean(original.sender, utf8=True)
    if to in ("", "<>") or not reported:
        return None
    root = Message(POLICY)
    author = clean(from_address or f"MAILER-DAEMON@{reporting_mta}", utf8=True)
    root["From"] = raw(f"Mail Delivery System <{author if fits(author) else 'MAILER-DAEMON'}>")
    root["To"] = raw(f"<{to}>" if fits(to) else "undisclosed-recipients:;")
    root["Subject"] = subject(reported)
    root["Date"] = date(now or datetime.now(UTC))
    root["Message-ID"] = message_id or make_msgid(domain=clean(reporting_mta, utf8=False).replace(" ", "")[:255])
    if found := MESSAGE_ID.search(original.message[: header_end(original.message)]):
        root["In-Reply-To"] = root["References"] = found[1].decode()  # RFC 3834 3.1.5
    root["Auto-Submitted"] = "auto-replied"  # RFC 3834 5
    boundary = secrets.token_hex(16)
    parts = [
        _text_part(original, reported, reporting_mta),
        _status_part(original, reported, reporting_mta, offers),
        _original_part(original, reported, max_returned, offers),
    ]
    encoding = max(map(transfer_encoding, parts), key=("7bit", "8bit", "binary").index)
    fields = (
        "MIME-Version: 1.0\r\n"
        f'Content-Type: multipart/report; report-type=delivery-status; boundary="{boundary}"\r\n'
        f"Content-Transfer-Encoding: {encoding}\r\n\r\n"
    )
    header = root.as_bytes().removesuffix(b"\r\n") + fields.encode()
    delimiter = f"--{boundary}".encode()
    message = header + b"".join(delimiter + b"\r\n" + part + b"\r\n" for part in parts) + delimiter + b"--\r\n"
    return Report(original.sender, message, _mail_params(original, to, encoding), reported)


def fits(address: str) -> bool:
    """Return whether an address can be in one line: a field is not folded within an address."""
    return len(address.encode()) <= WORD


def raw(value: str) -> str:
    """Return a value of a header field so that the `email` package writes it as UTF-8, not as an encoded word."""
    return value.encode().decode("ascii", "surrogateescape")


def _mail_params(original: Original, to: str, encoding: str) -> Params:
    values: dict[Param[Any], Any] = {}
    if encoding == "binary":
        values[BODY] = "BINARYMIME"
    if not to.isascii():
        values[SMTPUTF8] = True
    if requires_tls(original):  # RFC 8689 5: the report is as confidential as the message
        values |= {param: value for param, value in original.mail_params.items() if param.keyword == "REQUIRETLS"}
    return Params(values) if values else NO_PARAMS


def _part(content_type: str, encoding: str, content: bytes) -> bytes:
    return f"Content-Type: {content_type}\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n".encode() + content


def _text_part(original: Original, statuses: tuple[RecipientStatus, ...], reporting_mta: str) -> bytes:
    text = explanation(original, statuses, reporting_mta).replace("\n", "\r\n").encode()
    if text.isascii():
        return _part('text/plain; charset="us-ascii"', "7bit", text)
    return _part('text/plain; charset="utf-8"', "quoted-printable", binascii.b2a_qp(text))


def _status_part(
    original: Original, statuses: tuple[RecipientStatus, ...], reporting_mta: str, offers: Collection[str]
) -> bytes:
    utf8 = set(offers) >= OFFERS
    fields = status_fields(original, statuses, reporting_mta, utf8=utf8)
    if fields.isascii():
        return _part("message/delivery-status", "7bit", fields.encode())
    return _part("message/global-delivery-status", "8bit", fields.encode())


def _original_part(
    original: Original, statuses: tuple[RecipientStatus, ...], max_returned: int, offers: Collection[str]
) -> bytes:
    failed = any(each.action == "failed" for each in statuses)
    part = returned_part(original, failed=failed, limit=max_returned, offers=offers)
    return _part(part.content_type, part.encoding, part.octets)
