"""TLS reports (RFC 8460): counting results, the daily report, and where it is sent."""

from __future__ import annotations

import datetime
import gzip
import json
import re
import uuid
from collections import Counter
from collections.abc import Iterable
from typing import Any, Final

from attrs import Factory, define, field, frozen

from ..protocol.arguments import check_number, check_type
from ..protocol.hosts import MAX_NAME
from ._answers import Resolver
from ._lookups import check_domain
from ._tls_results import TlsFailure
from ._tls_sessions import ReportedPolicy, TlsSession
from ._txt_fields import parse_fields

VALUES: Final = {"rua": re.compile(r"[!-~ \t]+")}
#: A URI of a supported scheme. Commas, exclamation points and semicolons must be encoded in it.
URI: Final = re.compile(r"(?i:mailto|https):[^\0-\x20!,;\x7f]+", re.ASCII)
#: What a file name has of the id of a report (RFC 8460 5.1, unique-id).
NOT_ALPHANUMERIC: Final = re.compile(r"[^A-Za-z0-9]")


def parse_report_record(texts: Iterable[str]) -> tuple[str, ...]:
    """Return the URIs in the TXT record of ``_smtp._tls.<domain>``; an empty tuple if it is missing or invalid (RFC 8460 3).

    URIs with a scheme other than "mailto" and "https" are left out.

    :param texts: all TXT records of the name. There must be exactly one that begins with ``v=TLSRPTv1;``.
    """
    fields = parse_fields(texts, "v=TLSRPTv1", "rua", VALUES)
    uris = [] if fields is None else [uri.strip(" \t") for uri in fields["rua"].split(",")]
    return tuple(dict.fromkeys(uri for uri in uris if URI.fullmatch(uri)))


async def find_report_uris(domain: str, resolver: Resolver) -> tuple[str, ...]:
    """Return the URIs to which TLS reports for a domain are sent; an empty tuple if it does not want any (RFC 8460 3).

    Raises `LookupFailedError`, and ValueError if ``domain`` is invalid. An address literal has no URIs.
    """
    name = check_domain(domain, "domain")
    if not isinstance(name, str) or len(query := f"_smtp._tls.{name}") > MAX_NAME:
        return ()
    answer = await resolver.query(query, "TXT")
    return parse_report_record(record for record in answer.records if isinstance(record, str))


@frozen
class PolicyResults:
    """The results of sessions under one policy (RFC 8460 4.2).

    ``successes`` and ``failures`` are numbers of sessions. ``details`` are the different failures, each with its
    number. A session may have had several.
    """

    policy: ReportedPolicy
    successes: int
    failures: int
    details: tuple[tuple[TlsFailure, int], ...] = ()


@define
class _Counts:
    successes: int = 0
    failures: int = 0
    details: Counter[TlsFailure] = Factory(Counter)


# Counting is limited, because a domain chooses its policies, and its servers the texts in failures: each session could
# add an entry that is like no other. When the memory for entries is used up, a new kind of failure is counted without its
# details, and sessions under a new policy are not counted. Reports are statistics, which may be incomplete.
class TlsCounters:
    """Counts the results of sessions for TLS reports, by recipient domain and by policy (RFC 8460 4.2).

    :param max_memory: octets for the counters, estimated. Beyond it, what is new is not counted.
    :raises TypeError: ``max_memory`` is not an integer.
    :raises ValueError: ``max_memory`` is negative.
    """

    def __init__(self, *, max_memory: int = 32 * 2**20) -> None:
        check_number(max_memory, "max_memory", integer=True)
        self._free = self._max_memory = max_memory
        self._domains: dict[str, dict[ReportedPolicy, _Counts]] = {}

    def add(self, domain: str, session: TlsSession) -> None:
        """Count a session for the report to ``domain``, that of the recipients.

        The domain has A-labels and is in lower case, as in `Route`. It is not always the domain of the policy, which
        is that of the exchanger with DANE.
        """
        check_type(session, "session", TlsSession)
        policies = self._domains.get(domain, {})
        counts = policies.get(session.policy)
        if counts is None:
            if not self._take(_size(domain, *session.policy.strings, *session.policy.mx)):
                return
            counts = self._domains.setdefault(domain, policies)[session.policy] = _Counts()
        if not session.failures:
            counts.successes += 1
            return
        counts.failures += 1
        for failure in dict.fromkeys(session.failures):
            texts = (failure.reason_code, failure.receiving_mx_hostname, failure.receiving_mx_helo)
            if failure in counts.details or self._take(_size(*texts, failure.additional_information)):
                counts.details[failure] += 1
            else:
                counts.details[TlsFailure(failure.result_type)] += 1

    def take(self) -> dict[str, tuple[PolicyResults, ...]]:
        """Return the results by recipient domain, and begin anew. Call it at the end of each day, UTC (RFC 8460 4.1)."""
        taken, self._domains, self._free = self._domains, {}, self._max_memory
        return {
            domain: tuple(
                PolicyResults(policy, counts.successes, counts.failures, tuple(counts.details.items()))
                for policy, counts in policies.items()
            )
            for domain, policies in taken.items()
        }

    def _take(self, size: int) -> bool:
        """Return whether there is memory for an entry, and count it if there is."""
        if size > self._free:
            return False
        self._free -= size
        return True


def _size(*texts: str | None) -> int:
    """Return about how many octets of memory an entry with these texts takes."""
    return 1000 + sum(120 + 2 * len(text) for text in texts if text is not None)


def _utc(value: datetime.datetime) -> datetime.datetime:
    if value.tzinfo is None:
        raise ValueError(f"a time of a report must have a time zone, got {value!r}")
    return value.astimezone(datetime.UTC)


@frozen(kw_only=True)
class TlsReport:
    """A report on the TLS connections to the exchangers of a domain (RFC 8460 4).

    ``domain`` is the recipients' domain, and ``results`` is what `TlsCounters.take` returned for it. ``organization``
    is the name of the sender's organization, and ``contact`` a mailbox of it. ``start`` and ``end`` have time zones;
    use `for_day` for the usual report. ``report_id`` is a unique id. Raises ValueError if the domain, the contact or a
    time is invalid.
    """

    domain: str
    results: tuple[PolicyResults, ...]
    organization: str
    contact: str
    start: datetime.datetime = field(converter=_utc)
    end: datetime.datetime = field(converter=_utc)
    report_id: str = Factory(lambda: uuid.uuid4().hex)

    def __attrs_post_init__(self) -> None:
        check_domain(self.domain, "domain")
        local, _, submitter = self.contact.rpartition("@")
        if not local or not self.contact.isprintable() or not isinstance(check_domain(submitter, "contact"), str):
            raise ValueError(f"contact must be a mailbox, got {self.contact!a}")
        if self.end < self.start:
            raise ValueError("end must not be before start")

    @classmethod
    def for_day(
        cls, day: datetime.date, *, domain: str, results: Iterable[PolicyResults], organization: str, contact: str
    ) -> TlsReport:
        """Return the report for a day from 00:00:00 to 23:59:59 UTC (RFC 8460 4.1)."""
        start = datetime.datetime(day.year, day.month, day.day, tzinfo=datetime.UTC)
        return cls(
            domain=domain,
            results=tuple(results),
            organization=organization,
            contact=contact,
            start=start,
            end=start + datetime.timedelta(days=1, seconds=-1),
        )

    @property
    def submitter(self) -> str:
        """The domain of the contact, which is the sender in the name of the file and in the message (RFC 8460 5.1, 5.3)."""
        name = check_domain(self.contact.rpartition("@")[2], "contact")
        assert isinstance(name, str)
        return name

    def file_name(self, *, compressed: bool = True) -> str:
        """Return the name of the report as a file, which ends with ``.json.gz`` or ``.json`` (RFC 8460 5.1)."""
        times = (str(int(time.timestamp())) for time in (self.start, self.end))
        unique = NOT_ALPHANUMERIC.sub("", self.report_id)
        parts = [self.submitter, self.domain, *times, *([unique] if unique else [])]
        return "!".join(parts) + (".json.gz" if compressed else ".json")

    def to_json(self) -> bytes:
        """Return the report as I-JSON (RFC 8460 4.4, RFC 7493)."""
        report = {
            "organization-name": self.organization,
            "date-range": {"start-datetime": _date_time(self.start), "end-datetime": _date_time(self.end)},
            "contact-info": self.contact,
            "report-id": self.report_id,
            "policies": [_policy_object(each) for each in self.results],
        }
        # A report in ASCII is valid I-JSON, whatever a reader takes for its character set. Surrogates, which I-JSON does
        # not allow, cannot be in what a failure or a policy has.
        return json.dumps(report, indent=1).encode("ascii")

    def to_gzip(self) -> bytes:
        """Return `to_json`, compressed (RFC 8460 5.2)."""
        return gzip.compress(self.to_json(), mtime=0)


def _date_time(time: datetime.datetime) -> str:
    """Return a time in UTC in the format of RFC 3339 5.6."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def _policy_object(results: PolicyResults) -> dict[str, Any]:
    policy: dict[str, Any] = {"policy-type": results.policy.type.value, "policy-domain": results.policy.domain}
    if results.policy.strings:
        policy["policy-string"] = [*results.policy.strings]
    if results.policy.mx:
        # An array, as the text of RFC 8460 4.4 has it; the example in its appendix B has a string.
        policy["mx-host"] = [*results.policy.mx]
    found: dict[str, Any] = {
        "policy": policy,
        "summary": {
            "total-successful-session-count": results.successes,
            "total-failure-session-count": results.failures,
        },
    }
    if results.details:
        found["failure-details"] = [_failure_object(failure, count) for failure, count in results.details]
    return found


def _failure_object(failure: TlsFailure, count: int) -> dict[str, Any]:
    values = {
        "result-type": failure.result_type.value,
        "sending-mta-ip": failure.sending_mta_ip,
        "receiving-mx-hostname": failure.receiving_mx_hostname,
        "receiving-mx-helo": failure.receiving_mx_helo,
        "receiving-ip": failure.receiving_ip,
        "failed-session-count": count,
        "additional-information": failure.additional_information,
        "failure-reason-code": failure.reason_code,
    }
    return {name: value for name, value in values.items() if value is not None}
