"""The ``Received:`` field that a relay adds, and the detection of loops by those that a message has (RFC 5321 4.4, 6.3)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from .._server.received import begins_with_field, date_time, restrict_name
from ..protocol import Reply
from ..protocol.extensions.mt_priority import MT_PRIORITY
from ..protocol.header import header_end
from ..stores import parse_stored_params

if TYPE_CHECKING:
    from ..stores import Stored

#: A field of a header, unfolded or not.
RECEIVED = re.compile(rb"(?im)^received[ \t]*:(.*(?:\r?\n[ \t].*)*)")
#: The most octets of a header that are searched. A thousand fields fit.
MAX_HEADER = 1 << 17
#: How often a message may have passed this host. A mailing list may send a message back to the host that it came from.
MAX_OWN = 5


def received_field(stored: Stored, name: str) -> bytes:
    """Return the field for a stored message: what the server knew when it received it (RFC 5321 4.4).

    ``name`` is the name of this host. An empty line follows if the message begins with what could continue the field.
    """
    lines = [f"Received: by {name}"]
    if stored.helo is not None or stored.peer != stored.protocol:
        peer = stored.peer or "unknown"
        literal = peer.partition("%")[0]
        comment = f"[IPv6:{literal}]" if ":" in literal else f"[{literal}]" if "." in literal else literal
        lines = [f"Received: from {restrict_name(stored.helo or 'unknown')} ({restrict_name(comment)})", f"by {name}"]
    if stored.protocol not in (None, "local"):
        lines[-1] += f" with {restrict_name(stored.protocol or '')}"
    lines[-1] += f" id {restrict_name(stored.id)}"
    if len(stored.recipients) == 1 and stored.recipients[0].isprintable():
        lines.append(f"for <{stored.recipients[0]}>")
    if (priority := parse_stored_params(stored.mail_params).get(MT_PRIORITY)) is not None:  # RFC 6710 4.1 (2) and 7
        lines[-1] += f" PRIORITY {priority:d}"
    lines[-1] += ";"
    lines.append(date_time(stored.received))
    field = ("\r\n\t".join(lines) + "\r\n").encode()
    return field if begins_with_field(stored.message) else field + b"\r\n"


def find_loop(message: bytes, name: str, max_hops: int) -> Reply | None:
    """Return the refusal of a message that goes round in a circle, or None (RFC 5321 6.3, RFC 3463 X.4.6)."""
    header = message[: min(header_end(message), MAX_HEADER)]
    fields = RECEIVED.findall(header)
    if len(fields) > max_hops:
        return Reply(554, f"Too many hops: {len(fields)} Received fields", "5.4.6")
    own = re.compile(rb"(?i)\sby\s+" + re.escape(name.encode()) + rb"(?![A-Za-z0-9.-])")
    times = sum(own.search(b" " + field) is not None for field in fields)
    if times > MAX_OWN:
        return Reply(554, f"Mail loop: the message was here {times} times", "5.4.6")
    return None
