"""Routing: the exchangers of a domain by its MX records (RFC 5321 5), and the TLS that each of them requires.

A `Resolver` answers lookups with an `Answer`. `route` makes a `Route` of the answers: a list of `Exchanger`, each with
its addresses and with the policy for its TLS:

* `Opportunistic`: TLS if offered, nothing is authenticated;
* `Dane`: TLS is mandatory, and the server is authenticated by its TLSA records if one of them is usable (RFC 7672);
* `MtaSts`: TLS is mandatory, with a certificate for the name of the exchanger, or is being tested so (RFC 8461).

`connect_domain` connects to the first exchanger of a route that opens a session, and records each `Attempt`. `send` does so
for each domain of a message's recipients.
"""

from __future__ import annotations

from ._answers import Answer, MxRecord, RecordType, Resolver, TlsaRecord
from ._attempts import Attempt, DomainUnreachableError
from ._connect import DomainConnection, DomainSettings, connect_domain
from ._dane import dane_context, verify_dane
from ._dns import DnsResolver
from ._errors import LookupFailedError, NullMxError, RoutingError
from ._pool import DomainPool
from ._route import DaneMode, route
from ._routes import Dane, Exchanger, MtaSts, Opportunistic, Route, TlsPolicy
from ._send import DomainResult, DomainsResult, SendSettings, send
from ._sts_fetch import HttpsPolicyFetcher
from ._sts_policies import StsPolicies, StsResult
from ._sts_policy import PolicyFetchError, StsMode, StsPolicy, parse_sts_policy, parse_sts_record
from ._tls_report import PolicyResults, TlsCounters, TlsReport, find_report_uris, parse_report_record
from ._tls_results import TlsFailure, TlsResultType
from ._tls_sessions import ReportedPolicy, TlsPolicyType, TlsSession
from ._unreachable import NoExchangerError, Unreachable

__all__ = [
    "Answer",
    "Attempt",
    "Dane",
    "DaneMode",
    "DnsResolver",
    "DomainConnection",
    "DomainPool",
    "DomainResult",
    "DomainSettings",
    "DomainUnreachableError",
    "DomainsResult",
    "Exchanger",
    "HttpsPolicyFetcher",
    "LookupFailedError",
    "MtaSts",
    "MxRecord",
    "NoExchangerError",
    "NullMxError",
    "Opportunistic",
    "PolicyFetchError",
    "PolicyResults",
    "RecordType",
    "ReportedPolicy",
    "Resolver",
    "Route",
    "RoutingError",
    "SendSettings",
    "StsMode",
    "StsPolicies",
    "StsPolicy",
    "StsResult",
    "TlsCounters",
    "TlsFailure",
    "TlsPolicy",
    "TlsPolicyType",
    "TlsReport",
    "TlsResultType",
    "TlsSession",
    "TlsaRecord",
    "Unreachable",
    "connect_domain",
    "dane_context",
    "find_report_uris",
    "parse_report_record",
    "parse_sts_policy",
    "parse_sts_record",
    "route",
    "send",
    "verify_dane",
]
