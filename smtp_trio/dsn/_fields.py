"""The fields of message/delivery-status (RFC 3464 2) and of message/global-delivery-status (RFC 6533 4.1)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime, timedelta
from email.utils import format_datetime

from ..protocol.extensions.deliverby import BY
from ..protocol.extensions.dsn import ENVID, ORCPT, encode_utf8_address
from ..protocol.extensions.futurerelease import HOLDFOR, HOLDUNTIL
from ..protocol.params import NO_PARAMS
from ._original import Original
from ._status import RecipientStatus

#: Characters that a line of a report must not contain: controls, and those that a program may take for a line break.
CONTROLS = re.compile(r"[\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")
#: The characters of a value that a report has. A path has 256 octets (RFC 5321 4.5.3.1.3), and ENVID and ORCPT up to 500; a
#: server chooses its reply, and may send many lines.
MOST = 1000
#: The octets of a word that are in one line. With LONG_SPACE, they are fewer than 998 (RFC 5322 2.1.1).
WORD = 900
#: More spaces in a row than an address or a text has. A folded line must not consist of spaces (RFC 5322 3.2.2).
LONG_SPACE = re.compile(" {65,}")
#: In place of an address that consists of spaces and controls: an empty local part.
EMPTY = '""'
#: The beginning of a reply of SMTP.
REPLY = re.compile("[2-5][0-9]{2}(?![^ ])")

# Where the values come from
#
# The addresses were chosen by the sender, ENVID and ORCPT too, and the diagnostic by a server that may be hostile. A line
# break in one of them could add a field, or end the header of a part. So every value passes through
# `clean`, whatever has checked it before. Then it is folded, because a reply can be longer than a line of a message.
#
# A report of a thousand recipients with long diagnostics must not take seconds, so values are cut before anything else, and
# divided into lines by one search for each line.
#
# A value is folded where it has a space, which belongs to the value: unfolding gives the same value again (RFC 5322 2.2.3).
# Only a word that is longer than a line gets a space.


def clean(value: str, *, utf8: bool) -> str:
    """Return a value that cannot end its line: each run of controls is a space. Without ``utf8`` it is ASCII.

    Of a long value it is the beginning.
    """
    text = LONG_SPACE.sub(" " * 64, CONTROLS.sub(" ", value[: 8 * MOST])).strip(" ")[:MOST].rstrip(" ")
    return text if utf8 else text.encode("ascii", "replace").decode()


def in_lines(most: int, word: int) -> re.Pattern[str]:
    """Return a pattern for a line: up to ``most`` characters that end before a space, or up to ``word`` of a long word."""
    return re.compile(rf" *[^ ](?:.{{0,{most - 2}}}[^ ])?(?= |\Z)| *[^ ]{{1,{word}}}")


#: Fields that are not folded unless they have to: many programs do not unfold an address.
ADDRESSES = ("Original-Recipient", "Final-Recipient")
#: The lines of a field; a character has up to four octets.
ASCII_LINE, UTF8_LINE = in_lines(200, WORD), in_lines(200, WORD // 4)


def fold(name: str, value: str) -> str:
    """Return a field with its CRLF, in lines of at most 998 octets."""
    if name in ADDRESSES and len(value.encode()) <= WORD:
        return f"{name}: {value}\r\n"
    lines = (ASCII_LINE if value.isascii() else UTF8_LINE).findall(f" {value}")
    return f"{name}:" + "\r\n".join(line if line.startswith(" ") else f" {line}" for line in lines) + "\r\n"


def address(value: str, *, utf8: bool) -> str:
    """Return an address with its type (RFC 3464 2.3.2, RFC 6533 3)."""
    text = clean(value, utf8=True)
    if text.isascii():
        return f"rfc822; {text or EMPTY}"
    return f"utf-8; {text if utf8 else encode_utf8_address(text)}"


def typed_address(orcpt: str, *, utf8: bool) -> str:
    """Return a decoded ORCPT, which has its type (RFC 3461 6.3 (d))."""
    kind, _, text = clean(orcpt, utf8=True).partition(";")
    kind, text = clean(kind, utf8=False), text.strip(" ") or EMPTY
    if text.isascii():
        return f"{kind}; {text}"
    # RFC 6533 3: an address of type rfc822 is ASCII. Postfix sends others too.
    kind = "utf-8" if kind.lower() == "rfc822" else kind
    return f"{kind}; {text if utf8 else encode_utf8_address(text)}"


def mta_name(name: str) -> str:
    """Return the name of a server with its type. A name that is not a domain has another type (RFC 3461 6.3 (b))."""
    name = clean(name, utf8=False)
    kind = "dns" if "." in name.strip(".") or name.startswith("[") else "x-local-hostname"
    return f"{kind}; {name}"


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
        ("Deliver-By-Date", _deliver_by(original)),
        ("Future-Release-Request", _future_release(original)),
    ]


def _deliver_by(original: Original) -> str:
    """Return the time by which a message was to be delivered (RFC 2852 5), or "" if it is not known."""
    by = original.mail_params.get(BY)
    return date(original.arrived + timedelta(seconds=by.seconds)) if by is not None and original.arrived else ""


def _future_release(original: Original) -> str:
    """Return the time until which a message was to be held (RFC 4865 5.1.2), or "" if it was not."""
    for kind, param in (("for", HOLDFOR), ("until", HOLDUNTIL)):
        value = original.mail_params.get(param)
        if value is not None:
            return f"{kind};{param.format(value)}"
    return ""


def _recipient_fields(original: Original, status: RecipientStatus, *, utf8: bool) -> list[tuple[str, str]]:
    orcpt = original.rcpt_params.get(status.recipient, NO_PARAMS).get(ORCPT)
    diagnostic = clean(status.diagnostic or "", utf8=utf8)
    # RFC 3464 2.3.6: the type "smtp" is for replies of SMTP. A text of another origin has a type of its own.
    kind = "smtp" if REPLY.match(diagnostic) else "x-smtp-trio"
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
