"""The ``Received:`` field that a server puts on top of a message it takes (RFC 5321 4.4)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from .session import Session

#: What a client, or the DNS of its network, may say of it and still not break the field: characters of a domain or a literal.
UNSAFE = re.compile(r"[^A-Za-z0-9.:_\[\]-]")


def with_type(session: Session) -> str:
    """The protocol by the names of RFC 3848 and RFC 6531 4.3: ESMTPSA is ESMTP with TLS and AUTH."""
    if session.hello is None or not session.hello.extended:
        return "SMTP"
    envelope = session.envelope
    base = "UTF8SMTP" if envelope is not None and envelope.smtputf8 else "ESMTP"
    return base + "S" * (session.tls is not None) + "A" * (session.user is not None)


def _safe(name: str) -> str:
    return UNSAFE.sub("?", name)[:255]


def date_time(now: datetime) -> str:
    """A date and time as mail has them (RFC 5322 3.3). ``email.utils`` would do it, and bring most of ``email`` with it."""
    weekday, month = now.ctime().split()[:2]  # in English, whatever the locale
    return f"{weekday}, {now:%d} {month} {now:%Y %H:%M:%S %z}"


def received(session: Session) -> bytes:
    """``Received: from … by … with … id … for …; date``, folded, with its CRLF. It names nobody in ``for`` but a sole recipient.

    (RFC 5321 7.2: more than one would show blind copies.) The TLS in use is not told.
    """
    peer, envelope = session.peer, session.envelope
    hello = session.hello.domain if session.hello is not None else "unknown"
    host = peer.host.partition("%")[0]  # a zone means nothing elsewhere, and is no part of a literal (RFC 5321 4.1.3)
    literal = f"IPv6:{host}" if ":" in host else host
    comment = f"{_safe(peer.name or 'unknown')} [{literal}]" if peer.kind == "tcp" else peer.kind
    lines = [
        f"Received: from {_safe(hello)} ({comment})",
        f"by {session.server.name} with {session.protocol_name}",
    ]
    if envelope is not None:
        lines[1] += f" id {envelope.id}"
        if len(envelope.rcpts) == 1:
            lines.append(f"for <{envelope.rcpts[0].recipient.raw}>")
    lines[-1] += ";"
    lines.append(date_time(session.server.now()))
    return ("\r\n\t".join(lines) + "\r\n").encode()
