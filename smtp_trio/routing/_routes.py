"""Routes: the exchangers of a domain, in the order in which they are tried, and the TLS that each requires."""

from __future__ import annotations

from attrs import frozen

from ._answers import TlsaRecord
from ._sts_policies import StsResult
from ._sts_policy import StsPolicy
from ._tls_sessions import TlsSession
from ._unreachable import Unreachable, route_sessions


@frozen
class Opportunistic:
    """TLS if the server offers it, without authentication, and cleartext otherwise (RFC 7435, RFC 7672 2.2)."""


@frozen
class Dane:
    """TLS is mandatory, because the exchanger has a secure TLSA RRset (RFC 7672 2.2).

    ``records`` is the whole RRset. If one of them is `TlsaRecord.usable`, the server must be authenticated
    (`dane_context`). ``names`` are the reference identifiers for usage DANE-TA(2) (RFC 7672 3.2.2); the first one is
    the TLSA base domain, which is sent as the server name (SNI, RFC 7672 8.1). ``secure_route`` is False if the MX
    records are not secure: then the server is authenticated as the exchanger, but not as one of the domain (RFC 7672
    2.2.1).
    """

    records: tuple[TlsaRecord, ...]
    names: tuple[str, ...]
    secure_route: bool = True

    @property
    def usable(self) -> tuple[TlsaRecord, ...]:
        """The records that authenticate a server. Without any, TLS is mandatory and authentication is not required."""
        return tuple(record for record in self.records if record.usable)


@frozen
class MtaSts:
    """The domain has an MTA-STS policy, and the exchanger has no secure TLSA RRset (RFC 8461 4, 5).

    If `enforce` is True, TLS is mandatory, and the certificate must be valid for the name of the exchanger. Otherwise
    the mode is "testing": a failure is reported (`TlsSession`), and mail is sent as with `Opportunistic`. ``allowed``
    is False if the policy does not name the exchanger, which is a failure too. A route has such an exchanger in the mode
    "testing" only.
    """

    policy: StsPolicy
    allowed: bool = True

    @property
    def enforce(self) -> bool:
        """True if the mode of the policy is "enforce"."""
        return self.policy.mode == "enforce"


#: What an exchanger requires of the connection.
TlsPolicy = Opportunistic | Dane | MtaSts


@frozen
class Exchanger:
    """A host to which mail for a domain may be sent.

    ``name`` is the name in the MX record, ``addresses`` are its IP addresses in the order in which they are tried,
    and ``tls`` is what the connection must satisfy.
    """

    name: str
    preference: int
    addresses: tuple[str, ...]
    tls: TlsPolicy


@frozen
class Route:
    """The way of mail for a domain: to the first of the ``exchangers`` that accepts a session.

    ``canonical_name`` is the domain after its CNAME records. ``secure`` is True if the answer with the MX records, or
    without any, was validated by DNSSEC. ``unreachable`` are the exchangers that were left out because of an error.
    ``sts`` is the MTA-STS policy of the domain, with the reason why a newer one was not found; it is None if policies are
    not used.
    """

    domain: str
    canonical_name: str
    secure: bool
    exchangers: tuple[Exchanger, ...]
    unreachable: tuple[Unreachable, ...] = ()
    sts: StsResult | None = None

    @property
    def sessions(self) -> tuple[TlsSession, ...]:
        """The sessions that a TLS report counts before there is a connection: failures of policies (RFC 8460 4.3.2)."""
        return route_sessions(self.sts, self.unreachable)
