"""The limits of the protocol, and `Limits`: those that a server can configure."""

from __future__ import annotations

from attrs import Attribute, field, frozen

#: RFC 5321 4.5.3.1.4: the longest command line in octets, including its CRLF, without extensions.
COMMAND_LINE_OCTETS = 512
#: RFC 5321 4.5.3.1.5: the longest reply line in octets, including the reply code and its CRLF.
REPLY_LINE_OCTETS = 512
#: RFC 5321 4.5.3.1.1 and 4.5.3.1.3: the longest local part and the longest path.
LOCAL_PART_OCTETS, PATH_OCTETS = 64, 256


def _at_least(_: object, attribute: Attribute[int], value: int) -> None:
    least, reason = MINIMUM[attribute.name]
    if value < least:
        raise ValueError(f"limits.{attribute.name} must be >= {least}, got {value} ({reason})")


MINIMUM = {
    "errors": (2, "RFC 5321 3.8: a server must not close the connection because of one bad command"),
    "recipients": (100, "RFC 5321 4.5.3.1.8"),
}


@frozen(kw_only=True)
class Limits:
    """Limits on the resources that one client can use.

    ``sessions`` and ``per_peer`` limit the open connections, in all and per client address; None means no limit.
    ``recipients`` limits the recipients of a message (RFC 5321 4.5.3.1.8).

    ``errors`` limits the errors of a session: commands that the core refuses with 5yz. A session that reaches the limit
    gets 421 and is closed. ``junk`` is the number of commands without an effect on the delivery of mail (NOOP, RSET,
    VRFY, EXPN, HELP) that are not errors: each further one is answered, but counts as an error. Both numbers are
    counted since the last accepted message. ``auth_failures`` limits the failed AUTH commands of a session.

    ``received`` limits the ``Received`` fields of a message, to detect loops (RFC 5321 6.3). ``line`` is the longest
    command line in octets. ``strict_lengths`` refuses paths that are longer than RFC 5321 4.5.3.1.1 to 4.5.3.1.3 allow.
    """

    sessions: int | None = None
    per_peer: int | None = None
    recipients: int = field(default=1000, validator=_at_least)
    errors: int = field(default=20, validator=_at_least)
    junk: int = 100
    auth_failures: int = 3
    received: int = 100
    line: int = 2048
    strict_lengths: bool = False
