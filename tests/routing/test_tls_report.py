"""TLS reports (RFC 8460): the TXT record, counting, and the report."""

from __future__ import annotations

import datetime
import gzip
import json
from typing import Any

import pytest
from hypothesis import given, strategies as st

from smtp_trio.routing import (
    LookupFailedError,
    PolicyResults,
    ReportedPolicy,
    StsPolicy,
    TlsaRecord,
    TlsCounters,
    TlsFailure,
    TlsPolicyType,
    TlsReport,
    TlsResultType,
    TlsSession,
    find_report_uris,
    parse_report_record,
    parse_sts_policy,
)
from smtp_trio.testing import MemoryResolver

# --- the TXT record ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "uris"),
    [
        # The examples of RFC 8460 3.1.
        ("v=TLSRPTv1;rua=mailto:reports@example.com", ("mailto:reports@example.com",)),
        ("v=TLSRPTv1; rua=https://reporting.example.com/v1/tlsrpt", ("https://reporting.example.com/v1/tlsrpt",)),
        ("v=TLSRPTv1; rua=mailto:a@b.example, https://c.example/?d=e;", ("mailto:a@b.example", "https://c.example/?d=e")),
        ("v=TLSRPTv1;rua=mailto:a@b.example\t,\tmailto:a@b.example", ("mailto:a@b.example",)),
        ("v=TLSRPTv1; ext=1; rua=MAILTO:a@b.example;", ("MAILTO:a@b.example",)),
        ("v=TLSRPTv1; rua=mailto:a@b.example; rua=mailto:c@d.example", ("mailto:a@b.example",)),
        ("v=TLSRPTv1; rua=ftp://a.example,http://b.example,mailto:a@b.example", ("mailto:a@b.example",)),
        ("v=TLSRPTv1; rua=mailto:a@b.example!10m", ()),
        ("v=TLSRPTv1; rua=mailto:", ()),
        ("v=TLSRPTv1; rua=", ()),
        ("v=TLSRPTv1; rua=mailto:\u00e9@b.example", ()),
        ("v=TLSRPTv1; ext=1", ()),
        ("v=TLSRPTv2; rua=mailto:a@b.example", ()),
        ("v=tlsrptv1; rua=mailto:a@b.example", ()),
        ("rua=mailto:a@b.example; v=TLSRPTv1", ()),
        ("", ()),
    ],
)  # fmt: skip
def test_record(text: str, uris: tuple[str, ...]) -> None:
    assert parse_report_record([text]) == uris


def test_exactly_one_record_must_be_left() -> None:
    record = "v=TLSRPTv1; rua=mailto:a@b.example"
    assert parse_report_record(["v=spf1 -all", record]) == ("mailto:a@b.example",)
    assert parse_report_record([record, record]) == ()
    assert parse_report_record([]) == ()


async def test_uris_of_a_domain() -> None:
    resolver = MemoryResolver({"_smtp._tls.example.com": {"TXT": ["v=TLSRPTv1; rua=mailto:a@b.example"]}})
    assert await find_report_uris("Example.com.", resolver) == ("mailto:a@b.example",)
    assert await find_report_uris("other.example", resolver) == ()
    assert await find_report_uris("[192.0.2.1]", resolver) == ()
    assert await find_report_uris(".".join(["a" * 49] * 5), resolver) == ()
    with pytest.raises(ValueError, match="domain"):
        await find_report_uris("a b", resolver)
    resolver.failures["_smtp._tls.example.com"] = "SERVFAIL"
    with pytest.raises(LookupFailedError, match="SERVFAIL"):
        await find_report_uris("example.com", resolver)


# --- counting ---------------------------------------------------------------------------------------------------------

POLICY = ReportedPolicy.none("example.com")
EXPIRED = TlsFailure(TlsResultType.CERTIFICATE_EXPIRED, receiving_mx_hostname="mx.example.com")
NO_STARTTLS = TlsFailure(TlsResultType.STARTTLS_NOT_SUPPORTED)


def test_sessions_are_counted_by_domain_and_policy() -> None:
    """RFC 8460 4: a session with several failures is one failed session."""
    counters = TlsCounters()
    sts = ReportedPolicy.sts("example.com", parse_sts_policy("version: STSv1\nmode: none\nmax_age: 1"))
    for _ in range(3):
        counters.add("example.com", TlsSession(POLICY))
    counters.add("example.com", TlsSession(POLICY, (EXPIRED, NO_STARTTLS, EXPIRED)))
    counters.add("example.com", TlsSession(POLICY, (EXPIRED,)))
    counters.add("example.com", TlsSession(sts))
    counters.add("other.example", TlsSession(POLICY, (NO_STARTTLS,)))
    assert counters.take() == {
        "example.com": (
            PolicyResults(POLICY, 3, 2, ((EXPIRED, 2), (NO_STARTTLS, 1))),
            PolicyResults(sts, 1, 0),
        ),
        "other.example": (PolicyResults(POLICY, 0, 1, ((NO_STARTTLS, 1),)),),
    }
    assert counters.take() == {}


def test_equal_policies_are_counted_together() -> None:
    records = [TlsaRecord(3, 1, 1, bytes([number]) * 32) for number in range(3)]
    counters = TlsCounters()
    for order in (records, records[::-1]):
        counters.add("example.com", TlsSession(ReportedPolicy.tlsa("mx.example.com", order)))
    [results] = counters.take()["example.com"]
    assert results.successes == 2


def test_memory_of_counters_is_limited() -> None:
    """Details and policies that are new are not counted, but those that are known are."""
    counters = TlsCounters(max_memory=20_000)
    for number in range(1000):
        failure = TlsFailure(TlsResultType.VALIDATION_FAILURE, f"error {number}", receiving_ip="192.0.2.1")
        counters.add("example.com", TlsSession(POLICY, (failure,)))
        counters.add(f"d{number}.example", TlsSession(POLICY))
        counters.add("example.com", TlsSession(POLICY))
    taken = counters.take()
    assert len(taken) < 20
    [results] = taken["example.com"]
    assert (results.successes, results.failures) == (1000, 1000)
    assert sum(count for _, count in results.details) == 1000
    assert len(results.details) < 20
    assert results.details[-1][0] == TlsFailure(TlsResultType.VALIDATION_FAILURE)
    # After the day the memory is free again.
    counters.add("late.example", TlsSession(POLICY))
    assert list(counters.take()) == ["late.example"]


@pytest.mark.parametrize("max_memory", [-1, 1.5])
def test_invalid_memory(max_memory: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="max_memory"):
        TlsCounters(max_memory=max_memory)


def test_only_sessions_are_counted() -> None:
    with pytest.raises(TypeError, match="session"):
        TlsCounters().add("example.com", POLICY)  # type: ignore[arg-type]


# --- the report -------------------------------------------------------------------------------------------------------


def report(*results: PolicyResults, **changes: Any) -> TlsReport:
    arguments: dict[str, Any] = {
        "domain": "company-y.example",
        "organization": "Company-X",
        "contact": "sts-reporting@company-x.example",
        "start": datetime.datetime(2016, 4, 1, tzinfo=datetime.UTC),
        "end": datetime.datetime(2016, 4, 1, 23, 59, 59, tzinfo=datetime.UTC),
        "report_id": "5065427c-23d3-47ca-b6e0-946ea0e8c4be",
    }
    return TlsReport(results=results, **{**arguments, **changes})


def test_example_of_the_rfc() -> None:
    """RFC 8460 appendix B, except that "mx-host" is an array, as section 4.4 has it."""
    policy = parse_sts_policy("version: STSv1\r\nmode: testing\r\nmx: *.mail.company-y.example\r\nmax_age: 86400\r\n")
    counters = TlsCounters()
    applied = ReportedPolicy.sts("company-y.example", policy)
    expired = TlsFailure(
        TlsResultType.CERTIFICATE_EXPIRED,
        sending_mta_ip="2001:db8:abcd:0012::1",
        receiving_mx_hostname="mx1.mail.company-y.example",
    )
    unsupported = TlsFailure(
        TlsResultType.STARTTLS_NOT_SUPPORTED,
        sending_mta_ip="2001:db8:abcd:0013::1",
        receiving_mx_hostname="mx2.mail.company-y.example",
        receiving_ip="203.0.113.56",
        additional_information="https://reports.company-x.example/report_info?id=5065427c-23d3#StarttlsNotSupported",
    )
    other = TlsFailure(
        TlsResultType.VALIDATION_FAILURE,
        "X509_V_ERR_PROXY_PATH_LENGTH_EXCEEDED",
        sending_mta_ip="198.51.100.62",
        receiving_ip="203.0.113.58",
        receiving_mx_hostname="mx-backup.mail.company-y.example",
    )
    for failures, count in [((), 5326), ((expired,), 100), ((unsupported,), 200), ((other,), 3)]:
        for _ in range(count):
            counters.add("company-y.example", TlsSession(applied, failures))
    made = report(*counters.take()["company-y.example"])
    assert json.loads(made.to_json()) == {
        "organization-name": "Company-X",
        "date-range": {"start-datetime": "2016-04-01T00:00:00Z", "end-datetime": "2016-04-01T23:59:59Z"},
        "contact-info": "sts-reporting@company-x.example",
        "report-id": "5065427c-23d3-47ca-b6e0-946ea0e8c4be",
        "policies": [
            {
                "policy": {
                    "policy-type": "sts",
                    "policy-string": [
                        "version: STSv1",
                        "mode: testing",
                        "mx: *.mail.company-y.example",
                        "max_age: 86400",
                    ],
                    "policy-domain": "company-y.example",
                    "mx-host": ["*.mail.company-y.example"],
                },
                "summary": {"total-successful-session-count": 5326, "total-failure-session-count": 303},
                "failure-details": [
                    {
                        "result-type": "certificate-expired",
                        "sending-mta-ip": "2001:db8:abcd:0012::1",
                        "receiving-mx-hostname": "mx1.mail.company-y.example",
                        "failed-session-count": 100,
                    },
                    {
                        "result-type": "starttls-not-supported",
                        "sending-mta-ip": "2001:db8:abcd:0013::1",
                        "receiving-mx-hostname": "mx2.mail.company-y.example",
                        "receiving-ip": "203.0.113.56",
                        "failed-session-count": 200,
                        "additional-information": unsupported.additional_information,
                    },
                    {
                        "result-type": "validation-failure",
                        "sending-mta-ip": "198.51.100.62",
                        "receiving-ip": "203.0.113.58",
                        "receiving-mx-hostname": "mx-backup.mail.company-y.example",
                        "failed-session-count": 3,
                        "failure-reason-code": "X509_V_ERR_PROXY_PATH_LENGTH_EXCEEDED",
                    },
                ],
            }
        ],
    }


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (
            ReportedPolicy.none("example.com"),
            {"policy-type": "no-policy-found", "policy-domain": "example.com"},
        ),
        (
            ReportedPolicy.tlsa("mx.example.com", [TlsaRecord(3, 1, 1, b"\x0f" * 32), TlsaRecord(2, 0, 1, b"\x01" * 32)]),
            {
                "policy-type": "tlsa",
                "policy-domain": "mx.example.com",
                "policy-string": ["2 0 1 " + "01" * 32, "3 1 1 " + "0f" * 32],
            },
        ),
        (
            ReportedPolicy.sts("example.com", StsPolicy("none", 1)),
            {"policy-type": "sts", "policy-domain": "example.com"},
        ),
    ],
)  # fmt: skip
def test_policy_of_a_report(policy: ReportedPolicy, expected: dict[str, object]) -> None:
    made = json.loads(report(PolicyResults(policy, 1, 0)).to_json())
    assert made["policies"] == [
        {
            "policy": expected,
            "summary": {"total-successful-session-count": 1, "total-failure-session-count": 0},
        }
    ]


def test_result_types_and_policy_types_are_those_of_the_rfc() -> None:
    """RFC 8460 4.3 and 4.4."""
    assert {each.value for each in TlsResultType} == {
        "starttls-not-supported", "certificate-host-mismatch", "certificate-expired", "certificate-not-trusted",
        "validation-failure", "tlsa-invalid", "dnssec-invalid", "dane-required", "sts-policy-fetch-error",
        "sts-policy-invalid", "sts-webpki-invalid",
    }  # fmt: skip
    assert {each.value for each in TlsPolicyType} == {"tlsa", "sts", "no-policy-found"}


def test_report_for_a_day() -> None:
    made = TlsReport.for_day(
        datetime.date(2024, 2, 29), domain="example.net", results=[], organization="X", contact="tls@mail.x.example"
    )
    dates = json.loads(made.to_json())["date-range"]
    assert dates == {"start-datetime": "2024-02-29T00:00:00Z", "end-datetime": "2024-02-29T23:59:59Z"}
    assert made.report_id.isalnum()
    assert made.file_name() == f"mail.x.example!example.net!1709164800!1709251199!{made.report_id}.json.gz"


def test_file_name_of_the_rfc() -> None:
    """RFC 8460 5.1."""
    made = report(
        domain="example.net",
        contact="reports@mail.sndr.example.com",
        start=datetime.datetime.fromtimestamp(1470013207, datetime.UTC),
        end=datetime.datetime.fromtimestamp(1470186007, datetime.UTC),
        report_id="<001>",
    )
    assert made.file_name() == "mail.sndr.example.com!example.net!1470013207!1470186007!001.json.gz"
    assert made.file_name(compressed=False) == "mail.sndr.example.com!example.net!1470013207!1470186007!001.json"


def test_file_name_without_an_id_and_with_an_internationalized_sender() -> None:
    made = report(contact="a@b\u00fccher.example", report_id="--")
    assert made.file_name() == "xn--bcher-kva.example!company-y.example!1459468800!1459555199.json.gz"


def test_times_of_other_zones_are_converted() -> None:
    zone = datetime.timezone(datetime.timedelta(hours=-7))
    made = report(start=datetime.datetime(2016, 3, 31, 17, tzinfo=zone))
    assert json.loads(made.to_json())["date-range"]["start-datetime"] == "2016-04-01T00:00:00Z"


def test_compressed_report() -> None:
    made = report(PolicyResults(POLICY, 1, 2))
    assert gzip.decompress(made.to_gzip()) == made.to_json()
    assert made.to_gzip() == made.to_gzip()


@pytest.mark.parametrize(
    "changes",
    [
        {"domain": ""},
        {"domain": "a!b"},
        {"contact": "example.com"},
        {"contact": "@example.com"},
        {"contact": "a@"},
        {"contact": "a@[192.0.2.1]"},
        {"contact": "a\n@example.com"},
        {"start": datetime.datetime(2016, 4, 1)},
        {"start": datetime.datetime(2016, 4, 3, tzinfo=datetime.UTC)},
    ],
)
def test_invalid_report(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"domain|contact|time|end"):
        report(**changes)


@given(st.text(st.characters()) | st.text(st.characters(categories=["Cs", "Cc"])))
def test_texts_of_servers_are_valid_json(text: str) -> None:
    """RFC 7493 2.1: I-JSON has no surrogates."""
    failure = TlsFailure(TlsResultType.VALIDATION_FAILURE, text, receiving_mx_helo=text, receiving_mx_hostname=text)
    made = report(PolicyResults(POLICY, 0, 1, ((failure, 1),))).to_json()
    assert made.isascii()
    [details] = json.loads(made)["policies"][0]["failure-details"]
    for name in ("failure-reason-code", "receiving-mx-helo", "receiving-mx-hostname"):
        assert details[name].encode() == text[:500].encode("utf-8", "replace")


def test_long_text_is_cut() -> None:
    assert len(TlsFailure(TlsResultType.VALIDATION_FAILURE, "x" * 10**6).reason_code or "") == 500
