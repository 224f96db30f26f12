"""Reports as Python's `email` reads them."""

from __future__ import annotations

import email
import email.policy
from email.message import EmailMessage, Message
from typing import Any

from smtp_trio.dsn import Action, Original, RecipientStatus, Report, build_report
from smtp_trio.protocol import Params
from smtp_trio.protocol.extensions.dsn import NOTIFY

ME, YOU = "me@client.test", "you@mx.test"
MESSAGE = b"From: me@client.test\r\nSubject: hi\r\nMessage-ID: <1@client.test>\r\n\r\nhello\r\n"


def original(message: bytes = MESSAGE, sender: str = ME, mail: Params | None = None, **rcpts: Any) -> Original:
    """Return a message for `YOU`; ``rcpts`` are other arguments of `Original`."""
    return Original(sender=sender, message=message, mail_params=mail or Params(), **rcpts)


def notify(*values: str) -> Params:
    return Params({NOTIFY: frozenset(values)})


def failed(recipient: str = YOU, **values: Any) -> RecipientStatus:
    return RecipientStatus(recipient, "failed", "5.1.1", **values)


def status(action: Action, recipient: str = YOU) -> RecipientStatus:
    return RecipientStatus(recipient, action, {"failed": "5.0.0", "delayed": "4.0.0"}.get(action, "2.0.0"))


def build(about: Original, *statuses: RecipientStatus, **options: Any) -> Report:
    """Build a report that must not be None."""
    report = build_report(about, statuses, **{"reporting_mta": "mx.test", **options})
    assert report is not None
    return report


def parse(report: Report) -> EmailMessage:
    """Parse a report, and check what holds for every one."""
    octets = report.message
    lines = octets.split(b"\r\n")
    assert max(map(len, lines)) <= 998  # RFC 5322 2.1.1
    parsed = email.message_from_bytes(octets, policy=email.policy.default)
    assert isinstance(parsed, EmailMessage)
    for part in (parsed, *parsed.iter_parts()):  # not those of the original, which is what it is
        assert part.defects == []
    assert parsed.get_content_type() == "multipart/report"
    assert parsed.get_param("report-type") == "delivery-status"
    assert parsed["Auto-Submitted"] == "auto-replied"
    assert len(parsed.get_payload()) == 3
    return parsed


def types(report: Report) -> list[str]:
    return [part.get_content_type() for part in parts(report)]


def parts(report: Report) -> list[Message]:
    return list(parse(report).iter_parts())


def fields(report: Report) -> list[list[tuple[str, str]]]:
    """Return the fields of the message, and those of each recipient."""
    part = parts(report)[1]
    if part.get_content_type() == "message/delivery-status":
        return [group.items() for group in part.get_payload()]  # type: ignore[union-attr]
    start = report.message.index(b"message/global-delivery-status")
    content = report.message[report.message.index(b"\r\n\r\n", start) + 4 :].partition(b"\r\n\r\n--")[0]
    groups = [email.message_from_bytes(group, policy=email.policy.default) for group in content.split(b"\r\n\r\n")]
    return [[(name, str(value)) for name, value in group.items()] for group in groups]
