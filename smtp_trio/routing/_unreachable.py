"""Exchangers that are left out of a route, and what TLS reports count of them."""

from __future__ import annotations

from collections.abc import Iterable

from attrs import frozen

from ..protocol import Reply
from ._errors import RoutingError
from ._sts_policies import StsResult
from ._tls_sessions import TlsSession


@frozen
class Unreachable:
    """An exchanger that cannot be used, and ``error``, the reason.

    ``session`` is what a TLS report counts if the reason is a policy (RFC 8460 4.3.2), and None otherwise.
    """

    name: str
    preference: int
    error: RoutingError
    session: TlsSession | None = None


def route_sessions(sts: StsResult | None, unreachable: Iterable[Unreachable]) -> tuple[TlsSession, ...]:
    """Return what a TLS report counts of a route: failures of policies, before there is a connection (RFC 8460 4.3.2)."""
    policy = sts.session if sts is not None else None
    return tuple(each for each in (policy, *(each.session for each in unreachable)) if each is not None)


class NoExchangerError(RoutingError):
    """The domain does not exist, or none of its exchangers can be used (RFC 5321 5.1).

    The status of ``reply`` is the reason (RFC 3463):

    * 5.1.2: the domain does not exist.
    * 5.4.4: no exchanger has an address.
    * 5.4.6: the most preferred exchanger is the own host.
    * 4.4.3: a lookup for an exchanger failed.
    * 4.7.5: no exchanger can be authenticated, although the caller requires it.

    ``unreachable`` are the exchangers, each with its error. ``sts`` is the MTA-STS policy of the domain, as in `Route`.
    """

    def __init__(
        self, domain: str, reply: Reply, unreachable: tuple[Unreachable, ...] = (), sts: StsResult | None = None
    ) -> None:
        super().__init__(reply)
        self.domain: str = domain
        self.unreachable: tuple[Unreachable, ...] = unreachable
        self.sts: StsResult | None = sts

    @property
    def sessions(self) -> tuple[TlsSession, ...]:
        """The session that a TLS report counts (RFC 8460 4.3.2)."""
        return route_sessions(self.sts, self.unreachable)
