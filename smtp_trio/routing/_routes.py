"""Routes: the exchangers of a domain, in the order in which they are tried, and the TLS that each requires."""

from __future__ import annotations

from attrs import frozen

from ._answers import TlsaRecord
from ._errors import Unreachable


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


#: What an exchanger requires of the connection.
TlsPolicy = Opportunistic | Dane


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
    """

    domain: str
    canonical_name: str
    secure: bool
    exchangers: tuple[Exchanger, ...]
    unreachable: tuple[Unreachable, ...] = ()
