"""The fields of message/delivery-status (RFC 3464 2) and of message/global-delivery-status (RFC 6533 4.1)."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable
from datetime import datetime
from email.utils import format_datetime

from ..protocol.extensions.dsn import ENVID, ORCPT, encode_utf8_address
from ..protocol.params import NO_PARAMS
from ._original import Original
from ._status import RecipientStatus

#: Characters that a line of a report must not contain: controls, and those that a program may take for a line break.
CONTROLS = re.compile(r"[\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")
#: The characters of a line, and of a word in it. A character has up to four octets, and a line up to 998 (RFC 5322 2.1.1).
LINE, WORD = 200, 160
#: The most characters of a diagnostic: a server chooses its reply, and may send many lines.
DIAGNOSTIC = 1000

# Where the values come from
#
# The addresses were chosen by the sender, ENVID and ORCPT too, and the diagnostic by a server that may be hostile. A line
# break in one of them could add a field, or end the header of a part. So every value passes through
# `clean`, whatever has checked it before. Then it is folded, because a reply can be longer than a line of a message.


def clean(value: str, *, utf8: bool) -> str:
    """Return a value that cannot end its line: each run of controls is a space. Without ``utf8`` it is ASCII."""
    text = CONTROLS.sub(" ", value).strip(" ")
    return text if utf8 else text.encode("ascii", "replace").decode()


def fold(name: str, value: str) -> str:
    """Return a field with its CRLF, in lines of at most 998 octets."""
    lines = textwrap.wrap(
        value, LINE, break_long_words=True, break_on_hyphens=False, drop_whitespace=False, replace_whitespace=False
    )
    return f"{name}: " + "\r\n ".join(lines) + "\r\n"


def address(value: str, *, utf8: bool) -> str:
    """Return an address with its type (RFC 3464 2.3.2, RFC 6533 3)."""
    text = clean(value, utf8=True)
    if text.isascii():
        return f"rfc822; {text}"
    return f"utf-8; {text if utf8 else encode_utf8_address(text)}"


def typed_address(orcpt: str, *, utf8: bool) -> str:
    """Return a decoded ORCPT, which has its type (RFC 3461 6.3 (d))."""
    kind, _, text = clean(orcpt, utf8=True).partition(";")
    return f"{kind}; {text if utf8 or text.isascii() else encode_utf8_address(text)}"


def mta_name(name: str) -> str:
    """Return the name of a server with its type. A name that is not a domain has another type (RFC 3461 6.3 (b))."""
    kind = "dns" if "." in name.strip(".") or name.startswith("[") else "x-local-hostname"
    return f"{kind}; {clean(name, utf8=False)}"


def date(moment: datetime) -> str:
    """Return a date with a numeric zone (RFC 3464 2.2.5)."""
    return format_datetime(moment)


def status_fields(original: Original, statuses: Iterable[RecipientStatus], reporting_mta: str, *, utf8: bool) -> str:
    """Return the content of the part: the fields of the message, and a group of fields for each recipient."""
    groups = [_message_fields(original, reporting_mta)]
    groups += (_recipient_fields(original, status, utf8=utf8) for status in statuses)
    return "\r\n".join("".join(fold(name, value) for name, value in group if value) for group in groups)


def _message_fields(original: Original, reporting_mta: str) -> list[tuple[str, str]]:
    return [
        ("Original-Envelope-Id", clean(original.mail_params.get(ENVID, ""), utf8=False)),
        ("Reporting-MTA", mta_name(reporting_mta)),
        ("Arrival-Date", date(original.arrived) if original.arrived else ""),
    ]


def _recipient_fields(original: Original, status: RecipientStatus, *, utf8: bool) -> list[tuple[str, str]]:
    orcpt = original.rcpt_params.get(status.recipient, NO_PARAMS).get(ORCPT)
    diagnostic = clean(status.diagnostic or "", utf8=utf8)[:DIAGNOSTIC]
    # RFC 3464 2.3.6: the type "smtp" is for replies of SMTP. A text of another origin has a type of its own.
    kind = "smtp" if diagnostic[:3].isdigit() else "x-smtp-trio"
    return [
        ("Original-Recipient", typed_address(orcpt, utf8=utf8) if orcpt else ""),
        ("Final-Recipient", address(status.final_recipient or status.recipient, utf8=utf8)),
        ("Action", status.action),
        ("Status", status.status),
        ("Remote-MTA", mta_name(status.remote_mta) if status.remote_mta else ""),
        ("Diagnostic-Code", f"{kind}; {diagnostic}" if diagnostic else ""),
        ("Last-Attempt-Date", date(status.last_attempt) if status.last_attempt else ""),
        ("Will-Retry-Until", date(status.will_retry_until) if status.will_retry_until else ""),
    ]
