"""Attempts to open a session with an exchanger, and what their failures amount to."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

import trio
from attrs import frozen

from .._client.results import ConnectionLostError, GreetingError, TimedOutError, TlsHandshakeError
from .._types import TlsInfo
from ..protocol import Connect, Hello, NotOfferedError, Reply, ReplyError, SMTPError
from ..protocol.extensions.starttls import StartTlsCommand
from ._errors import RoutingError
from ._lookups import parse_address
from ._routes import Dane, Exchanger, MtaSts
from ._sts_policies import StsResult
from ._tls_results import MAX_TEXT, TlsFailure, TlsResultType
from ._tls_sessions import ReportedPolicy, TlsSession
from ._unreachable import Unreachable, route_sessions


@frozen
class Attempt:
    """An attempt to open a session at one address of an exchanger.

    ``error`` is the reason why it failed, and None for the one that succeeded. ``tls`` describes the TLS connection of
    the latter, and is None without TLS. ``session`` is what a TLS report counts (RFC 8460 4.3); it is None if the
    attempt ended before TLS was due.
    """

    exchanger: Exchanger
    address: str
    error: SMTPError | None = None
    tls: TlsInfo | None = None
    session: TlsSession | None = None

    @property
    def reply(self) -> Reply | None:
        """The reply that the failure amounts to, as in a bounce; None for the attempt that succeeded."""
        if self.error is None:
            return None
        code, status = _classify(self.error, tls_required=requires_tls(self.exchanger))
        where = self.address if self.exchanger.name.startswith("[") else f"{self.exchanger.name} [{self.address}]"
        return Reply(code, f"{where}: {self.error}"[:MAX_TEXT], status)


def requires_tls(exchanger: Exchanger) -> bool:
    """Return whether nothing may be sent to an exchanger in clear text."""
    return isinstance(exchanger.tls, Dane) or (isinstance(exchanger.tls, MtaSts) and exchanger.tls.enforce)


# What a failure means for the domain (RFC 5321 4.2.1, 5.1)
#
# Each failure leads to the next address or exchanger. If none is left, the message is delayed or returned:
#
# * A greeting with 4yz, or a reply of that kind to EHLO: the host accepts no mail now. A connection that cannot be
#   opened, is lost or takes too long is the same, since RFC 5321 4.5.4.1 treats it as something to try again.
# * A greeting with 5yz: this host accepts no mail (RFC 5321 3.1, RFC 7504 3). The others of the domain may, so it is
#   permanent for the domain only if it is so for all of them.
# * TLS that a policy requires and that fails: always temporary (RFC 7672 2.2, RFC 8461 5). The refusal of EHLO or STARTTLS
#   is one of these then, since TLS has not authenticated the host that has sent it. The greeting is not: it
#   is received before TLS from every host, also from one that does not accept mail.
#
# The status is one of RFC 3463: X.3.2, the system accepts no mail; X.4.1, no answer from host; X.4.2, bad connection;
# X.5.0, a protocol error; X.7.4, TLS is not supported; X.7.5, a failure of cryptography.
def _classify(error: SMTPError, *, tls_required: bool) -> tuple[int, str]:
    """Return the code of the reply, and its status."""
    if isinstance(error, TlsHandshakeError):
        return 451, "4.7.5"
    if isinstance(error, NotOfferedError) or (is_before_tls(error) and tls_required):
        return 451, "4.7.4"
    if isinstance(error, ReplyError):
        reply = error.reply
        code = 451 if reply.code == 421 else reply.code  # RFC 5321 4.2.2: 421 would close another connection
        return code, reply.status or f"{code // 100}.{'3.2' if isinstance(error, GreetingError) else '5.0'}"
    if isinstance(error, ConnectionLostError | TimedOutError):
        return 451, "4.4.1" if isinstance(error.command, Connect) else "4.4.2"
    return 451, "4.5.0"


def is_sts_failure(attempt: Attempt) -> bool:
    """Return whether an attempt has failed because of an MTA-STS policy."""
    failed = attempt.error is not None and attempt.session is not None
    return failed and isinstance(attempt.exchanger.tls, MtaSts)


def is_before_tls(error: SMTPError) -> bool:
    """Return whether a server has refused EHLO or STARTTLS."""
    return isinstance(error, ReplyError) and isinstance(error.command, Hello | StartTlsCommand)


def tls_failure(error: SMTPError) -> TlsFailure | None:
    """Return why TLS did not comply with the policy of an exchanger; None if ``error`` has another reason."""
    if isinstance(error, NotOfferedError) or is_before_tls(error):
        return TlsFailure(TlsResultType.STARTTLS_NOT_SUPPORTED, str(error))
    return TlsFailure.from_error(error)


def tls_session(domain: str, exchanger: Exchanger, failure: TlsFailure | None) -> TlsSession:
    """Return the result of TLS with an exchanger for a report."""
    tls = exchanger.tls
    if isinstance(tls, Dane):
        policy = ReportedPolicy.tlsa(tls.names[0], tls.records)
    elif isinstance(tls, MtaSts):
        policy = ReportedPolicy.sts(domain, tls.policy)
    else:
        policy = ReportedPolicy.none(domain)
    return TlsSession(policy, () if failure is None else (failure,))


def local_address(stream: trio.abc.Stream) -> str | None:
    """Return the IP address of the own end of a connection; None if it is not known."""
    if isinstance(stream, trio.SocketStream):
        with suppress(OSError):  # the connection was lost already
            address = parse_address(stream.socket.getsockname()[0].partition("%")[0])
            return None if address is None else str(address)
    return None


def attempt_sessions(attempts: Iterable[Attempt]) -> tuple[TlsSession, ...]:
    """Return what a TLS report counts of attempts."""
    return tuple(each.session for each in attempts if each.session is not None)


class DomainUnreachableError(RoutingError):
    """None of the exchangers of a domain opened a session, or none is left in which the message could be sent.

    ``attempts`` are all attempts, in order, and ``unreachable`` are the exchangers that could not be tried. ``reply``
    is that of the first one with a temporary error; if all errors are permanent, that of the first one (RFC 5321 5.1).
    ``late`` is the reason why other exchangers were not tried, if the time was over; the error is temporary
    then. ``sts`` is the MTA-STS policy of the domain, as in `Route`.
    """

    def __init__(
        self,
        domain: str,
        attempts: tuple[Attempt, ...],
        unreachable: tuple[Unreachable, ...] = (),
        late: str | None = None,
        sts: StsResult | None = None,
    ) -> None:
        replies = [each.reply for each in attempts if each.reply] + [each.error.reply for each in unreachable]
        if late is not None:
            replies.append(Reply(451, late, "4.4.1"))
        super().__init__(min(replies, key=lambda reply: not reply.temporary))
        self.domain: str = domain
        self.attempts: tuple[Attempt, ...] = attempts
        self.unreachable: tuple[Unreachable, ...] = unreachable
        self.late: str | None = late
        self.sts: StsResult | None = sts

    @property
    def sessions(self) -> tuple[TlsSession, ...]:
        """The sessions that a TLS report counts: those of the attempts, and of exchangers that could not be tried (RFC 8460 4.3)."""
        return *route_sessions(self.sts, self.unreachable), *attempt_sessions(self.attempts)
