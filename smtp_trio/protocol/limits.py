"""The limits of the protocol, and `Limits`: those that a server can configure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import Attribute, field, frozen

from .arguments import check_number, check_type
from .values import Value

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


# ``metadata`` gives the command line the unit that a value may have. A field without it is a number.
OCTETS = {"unit": "octets"}
SECONDS = {"unit": "seconds"}


@frozen(kw_only=True, eq=False, repr=False)
class Limits(Value):
    """Limits on what one client, and all clients together, can use.

    0 means no limit, and so does None where the type allows it, unless the description differs. A server counts
    how often each limit takes effect: ``server.statistics().limits_reached``. The section on limits in the documentation
    compares the defaults with those of other servers. ``data_rate``, ``message_time`` and ``session_time`` do not apply
    to a server without a timeout (``timeout=0``).

    :param sessions: open connections. Above three quarters of them the server waits for clients no longer than
        `Timeouts.stress`. None means no limit; 0, no connections.
    :param per_peer: open connections of a client address. An IPv6 client is counted by its /64. None means no limit; 0,
        no connections.
    :param connections_per_minute: new connections of a client address in each minute. None means no limit.
        Beyond it, the sessions that the client has are slowed down, too, for the rest of the minute.
    :param count_local: whether clients on this host, which use a loopback address or a unix socket, are counted by
        address as others are. Otherwise they are counted in ``sessions`` only.
    :param messages: messages in a session, accepted or not. A further MAIL gets 421.
    :param recipients: recipients of a message (RFC 5321 4.5.3.1.8). A further RCPT gets 452.
    :param envelope: octets of the MAIL and the accepted RCPT lines of a message. A further RCPT gets 452.
    :param memory: octets that all sessions of a server hold. When they are used up, messages get 452 and new sessions
        421. None means no limit.
    :param errors: errors of a session since its last accepted message. An error is a command that the core refuses with
        5yz, and each event that exceeds ``work``. The last one gets 421, which ends the session. After more than half of
        them, the session waits a second after each error.
    :param work: the work that a client may cause without sending a message, since the last accepted message: 10 for each
        command that a message does not need (NOOP, RSET, EHLO, HELO, VRFY, EXPN, HELP, AUTH) and for each refusal by a
        hook, 2 for the refusal of a RCPT, 1 for each RCPT beyond ``recipients`` and for each chunk of fewer than 512
        octets that is not the last one. Each such event beyond the limit is answered, and counts as an error.
    :param auth_failures: AUTH commands of a session that do not succeed, for whatever reason; the last one gets 421.
    :param auth_failures_per_peer: those of a client address within ``auth_window`` seconds, over all its sessions, except
        temporary ones (454). When it is reached, AUTH gets 421 until there was no failure for a whole window. None means
        no limit.
    :param auth_window: the seconds for ``auth_failures_per_peer``.
    :param auth_delay: the reply to a failure comes this many seconds after the client's line at the earliest, and the
        fourth to seventh failure of an address are each delayed twice as long as the one before; 0 means no delay.
    :param received: ``Received`` fields of a message, to detect loops (RFC 5321 6.3).
    :param header: octets of the header section of a message; without an empty line, of the whole message.
    :param data_rate: octets per second that a client has to send in a message, on average. It may wait for
        `Timeouts.block` seconds in all, and for one more with each ``data_rate`` octets, but not for more than that at a
        time. Only the time in which the server waits for the client, or for what a BURL of it refers to, is counted.
    :param message_time: seconds of such waits in one message, from DATA to its end.
    :param session_time: seconds after which a session ends. A message that is being received is finished before.
    :param line: the longest command line in octets.
    :param strict_lengths: refuse paths that are longer than RFC 5321 4.5.3.1.1 to 4.5.3.1.3 allow.
    """

    sessions: int | None = field(default=None, validator=_number(optional=True))
    per_peer: int | None = field(default=None, validator=_number(optional=True))
    connections_per_minute: int | None = field(default=None, validator=_number(optional=True))
    count_local: bool = field(default=False, validator=_bool)
    messages: int = field(default=0, validator=_number())
    recipients: int = field(default=1000, validator=_number(100, "RFC 5321 4.5.3.1.8"))
    envelope: int = field(
        default=262144,
        validator=_number(100 * COMMAND_LINE_OCTETS, "RFC 5321 4.5.3.1.4, 4.5.3.1.8: 100 recipients of 512 octets"),
        metadata=OCTETS,
    )
    memory: int | None = field(default=268435456, validator=_number(1048576, optional=True), metadata=OCTETS)
    errors: int = field(
        default=20,
        validator=_number(2, "RFC 5321 3.8: a server must not close the connection because of one bad command"),
    )
    work: int = field(default=1000, validator=_number())
    auth_failures: int = field(default=3, validator=_number())
    auth_failures_per_peer: int | None = field(default=20, validator=_number(1, optional=True))
    auth_window: float = field(default=600, validator=_number(integer=False), metadata=SECONDS)
    auth_delay: float = field(default=1, validator=_number(integer=False), metadata=SECONDS)
    received: int = field(default=100, validator=_number())
    header: int = field(default=0, validator=_number(), metadata=OCTETS)
    data_rate: int = field(default=500, validator=_number(), metadata=OCTETS)
    message_time: float = field(default=14400, validator=_number(integer=False), metadata=SECONDS)
    session_time: float = field(default=86400, validator=_number(integer=False), metadata=SECONDS)
    line: int = field(default=2048, validator=_number(), metadata=OCTETS)
    strict_lengths: bool = field(default=False, validator=_bool)
