"""The timeouts of a client (RFC 5321 4.5.3.2)."""

from __future__ import annotations

from attrs import field, fields, frozen

from .._timeouts import check_timeout, seconds_or_infinity
from ..protocol.arguments import check_number
from ..protocol.values import Value


@frozen(kw_only=True, eq=False, repr=False)
class ClientTimeouts(Value):
    """The timeouts of a client, in seconds; 0 means no limit.

    Raises TypeError for what is not a number, and ValueError for a negative one.

    The defaults are those of RFC 5321 4.5.3.2, and of Postfix where the RFC has none. Except for ``connect``, ``tls``
    and ``block``, each is the time from sending a command to receiving its whole reply.

    :param connect: opening the connection.
    :param greeting: the server's greeting.
    :param hello: EHLO, HELO and LHLO.
    :param starttls: STARTTLS.
    :param tls: the TLS handshake.
    :param auth: AUTH and each of its responses.
    :param mail: MAIL.
    :param rcpt: RCPT.
    :param data: DATA, up to the 354 reply.
    :param block: how long the server may take to accept one piece of the message; also BDAT without LAST.
    :param end: the end of the message or BDAT LAST; also the replies that are outstanding when BDAT LAST was sent, if
        their own limit is shorter.
    :param rset: RSET.
    :param quit: QUIT. A missing reply is ignored.
    :param other: all other commands.
    """

    connect: float = field(default=30, converter=seconds_or_infinity)
    greeting: float = field(default=300, converter=seconds_or_infinity)
    hello: float = field(default=300, converter=seconds_or_infinity)
    starttls: float = field(default=300, converter=seconds_or_infinity)
    tls: float = field(default=300, converter=seconds_or_infinity)
    auth: float = field(default=300, converter=seconds_or_infinity)
    mail: float = field(default=300, converter=seconds_or_infinity)
    rcpt: float = field(default=300, converter=seconds_or_infinity)
    data: float = field(default=120, converter=seconds_or_infinity)
    block: float = field(default=180, converter=seconds_or_infinity)
    end: float = field(default=600, converter=seconds_or_infinity)
    rset: float = field(default=20, converter=seconds_or_infinity)
    quit: float = field(default=5, converter=seconds_or_infinity)
    other: float = field(default=300, converter=seconds_or_infinity)

    @classmethod
    def all(cls, seconds: float) -> ClientTimeouts:
        """Return timeouts of ``seconds`` each, except that ``quit`` is never more than 5 s; 0 means no limit."""
        check_number(seconds, "seconds", note=" (0: no limit)")
        return cls(**{each.name: seconds for each in fields(cls) if each.name != "quit"}, quit=min(5, seconds or 5))


#: The defaults. To check them for each connection cost 60,000 instructions.
DEFAULT = ClientTimeouts()


def client_timeouts(timeout: float | ClientTimeouts | None) -> ClientTimeouts:
    """Return the timeouts for a client's ``timeout`` argument: seconds for all of them, or None for the defaults.

    Raises TypeError and ValueError for any other value.
    """
    if isinstance(timeout, ClientTimeouts):
        return timeout
    return DEFAULT if timeout is None else ClientTimeouts.all(check_timeout(timeout, ClientTimeouts))
