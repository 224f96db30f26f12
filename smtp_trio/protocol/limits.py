"""The limits of the protocol, and `Limits`: those that a server can configure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import Attribute, field, frozen

from .arguments import check_number, check_type

#: RFC 5321 4.5.3.1.4: the longest command line in octets, including its CRLF, without extensions.
COMMAND_LINE_OCTETS = 512
#: RFC 5321 4.5.3.1.5: the longest reply line in octets, including the reply code and its CRLF.
REPLY_LINE_OCTETS = 512
#: RFC 5321 4.5.3.1.1 and 4.5.3.1.3: the longest local part and the longest path.
LOCAL_PART_OCTETS, PATH_OCTETS = 64, 256


def _number(
    minimum: int = 0, reason: str = "", *, integer: bool = True, optional: bool = False
) -> Callable[[object, Any, object], None]:
    """Return an attrs validator for a number. ``reason`` is why ``minimum`` is not 0."""

    def check(_: object, attribute: Attribute[Any], value: object) -> None:
        note = f" ({reason})" if reason else ""
        check_number(value, f"limits.{attribute.name}", minimum, integer=integer, optional=optional, note=note)

    return check


def _bool(_: object, attribute: Attribute[bool], value: object) -> None:
    check_type(value, f"limits.{attribute.name}", bool)


@frozen(kw_only=True)
class Limits:
    """Limits on the resources that one client can use.

    ``sessions`` and ``per_peer`` limit the open connections, in all and per client address; None means no limit.
    ``connections_per_minute`` limits the new connections of a client address in each minute. An IPv6 client is counted
    by its /64. Clients on this host, which use a loopback address or a unix socket, are counted in ``sessions`` only,
    unless ``count_local`` is true.
    ``recipients`` limits the recipients of a message (RFC 5321 4.5.3.1.8), and ``envelope`` the octets of its MAIL and
    accepted RCPT lines. ``memory`` limits the octets that all sessions of a server hold; None means no limit.

    ``errors`` limits the errors of a session: commands that the core refuses with 5yz. A session that reaches the limit
    gets 421 and is closed. ``junk`` is the number of commands without an effect on the delivery of mail (NOOP, RSET,
    VRFY, EXPN, HELP) that are not errors: each further one is answered, but counts as an error. Both numbers are
    counted since the last accepted message.

    ``auth_failures`` limits the AUTH commands of a session that do not succeed, for whatever reason; the last one gets
    421. ``auth_failures_per_peer`` limits those of a client address within ``auth_window`` seconds, over all its
    sessions, except temporary ones (454); None means no limit. When it is reached, AUTH gets 421 until there was no
    failure for a whole window. Clients on this host are counted only if ``count_local`` is true. The reply to a failure
    comes ``auth_delay`` seconds after the client's line at the earliest, and the fourth to seventh failure of an address
    are each delayed twice as long as the one before; 0 means no delay.

    ``received`` limits the ``Received`` fields of a message, to detect loops (RFC 5321 6.3). ``line`` is the longest
    command line in octets. ``strict_lengths`` refuses paths that are longer than RFC 5321 4.5.3.1.1 to 4.5.3.1.3 allow.
    """

    sessions: int | None = field(default=None, validator=_number(optional=True))
    per_peer: int | None = field(default=None, validator=_number(optional=True))
    connections_per_minute: int | None = field(default=None, validator=_number(optional=True))
    count_local: bool = field(default=False, validator=_bool)
    recipients: int = field(default=1000, validator=_number(100, "RFC 5321 4.5.3.1.8"))
    envelope: int = field(
        default=262144,
        validator=_number(100 * COMMAND_LINE_OCTETS, "RFC 5321 4.5.3.1.4, 4.5.3.1.8: 100 recipients of 512 octets"),
    )
    memory: int | None = field(default=268435456, validator=_number(1048576, optional=True))
    errors: int = field(
        default=20,
        validator=_number(2, "RFC 5321 3.8: a server must not close the connection because of one bad command"),
    )
    junk: int = field(default=100, validator=_number())
    auth_failures: int = field(default=3, validator=_number())
    auth_failures_per_peer: int | None = field(default=20, validator=_number(1, optional=True))
    auth_window: float = field(default=600, validator=_number(integer=False))
    auth_delay: float = field(default=1, validator=_number(integer=False))
    received: int = field(default=100, validator=_number())
    line: int = field(default=2048, validator=_number())
    strict_lengths: bool = field(default=False, validator=_bool)
