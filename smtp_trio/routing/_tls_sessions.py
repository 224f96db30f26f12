"""The results of sessions that TLS reports count (RFC 8460), by the policy that was applied."""

from __future__ import annotations

import enum
from collections.abc import Iterable

from attrs import frozen

from ._answers import TlsaRecord
from ._sts_policy import StsPolicy
from ._tls_results import TlsFailure


class TlsPolicyType(enum.Enum):
    """The kind of policy that was applied to a session (RFC 8460 4.4)."""

    TLSA = "tlsa"
    STS = "sts"
    NO_POLICY_FOUND = "no-policy-found"


@frozen(cache_hash=True)
class ReportedPolicy:
    """A policy as reports describe it (RFC 8460 4.4). Use `sts`, `tlsa` or `none` to make one.

    ``domain`` is the Policy Domain: the recipients' domain for MTA-STS, and the TLSA base domain for DANE (RFC 8460
    1.1). ``strings`` is the policy (RFC 8460 4.5), and ``mx`` are the patterns of an MTA-STS policy.
    """

    type: TlsPolicyType
    domain: str
    strings: tuple[str, ...] = ()
    mx: tuple[str, ...] = ()

    @classmethod
    def sts(cls, domain: str, policy: StsPolicy) -> ReportedPolicy:
        """Return the MTA-STS policy of a domain."""
        return cls(TlsPolicyType.STS, domain, policy.lines, policy.mx)

    @classmethod
    def tlsa(cls, base_domain: str, records: Iterable[TlsaRecord]) -> ReportedPolicy:
        """Return the TLSA records of an exchanger as a policy, in any order."""
        return cls(TlsPolicyType.TLSA, base_domain, tuple(sorted(map(str, records))))

    @classmethod
    def none(cls, domain: str) -> ReportedPolicy:
        """Return the policy of a domain that has none."""
        return cls(TlsPolicyType.NO_POLICY_FOUND, domain)


@frozen
class TlsSession:
    """The result of one connection to an exchanger, or of the attempt to make one, under one policy.

    It is a success if ``failures`` is empty. If several policies apply, such as DANE and MTA-STS, there is one
    result for each (RFC 8460 4). Failures that have nothing to do with TLS, such as a refused connection, are not
    counted (RFC 8460 4.3.4).
    """

    policy: ReportedPolicy
    failures: tuple[TlsFailure, ...] = ()
