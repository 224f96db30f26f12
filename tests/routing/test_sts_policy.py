"""MTA-STS: the TXT record and the policy (RFC 8461 3.1, 3.2), and which hosts a policy allows (4.1)."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from smtp_trio.routing import StsPolicy, parse_sts_policy, parse_sts_record

# --- the TXT record ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "id"),
    [
        ("v=STSv1; id=20160831085700Z;", "20160831085700Z"),
        ("v=STSv1;id=a", "a"),
        ("v=STSv1;id=a;", "a"),
        ("v=STSv1 ;\tid=a ; ", "a"),
        ("v=STSv1; ext=x.y:z; id=1", "1"),
        ("v=STSv1; id=1; ext=1; ext=2", "1"),
        # RFC 8461 3.2: of a repeated field, the first one counts.
        ("v=STSv1; id=1; id=2", "1"),
        ("v=STSv1; id=1; id=not/alphanumeric", "1"),
        ("v=STSv1; id=" + "x" * 32, "x" * 32),
        ("v=STSv1; " + "n" * 32 + "=1; id=1", "1"),
    ],
)
def test_valid_record(text: str, id: str) -> None:
    assert parse_sts_record([text]) == id


@pytest.mark.parametrize(
    "text",
    [
        "",
        "v=STSv1",
        "v=STSv1;",
        "v=STSv1; ext=1",
        "v=STSv1; id=",
        "v=STSv1; id=a-b",
        "v=STSv1; id=\u00e9",
        "v=STSv1; id=a b",
        "v=STSv1; id=a\n",
        "v=STSv1; id=1 ",
        "v=STSv1; id=" + "x" * 33,
        "v=STSv1; ID=1",
        "v=STSv1; id =1",
        "v=STSv1; id= 1",
        "v=STSv1;; id=1",
        "v=STSv1; id=1;;",
        "v=STSv1; id=1; ext",
        "v=STSv1; id=1; ext=",
        "v=STSv1; id=1; ext=a=b",
        "v=STSv1; id=1; -ext=a",
        "v=STSv1; id=1; " + "n" * 33 + "=1",
        "v=stsv1; id=1",
        "V=STSv1; id=1",
        "v=STSv2; id=1",
        "v=STSv10; id=1",
        " v=STSv1; id=1",
        "id=1; v=STSv1;",
        "v=TLSRPTv1; id=1",
    ],
)
def test_invalid_record(text: str) -> None:
    assert parse_sts_record([text]) is None


def test_records_that_do_not_begin_with_the_version_are_discarded() -> None:
    assert parse_sts_record(["v=spf1 -all", "v=STSv1; id=1;", "v=STSv2; id=2;", "v=STSv1"]) == "1"


@pytest.mark.parametrize("texts", [[], ["v=STSv1; id=1", "v=STSv1; id=1"], ["v=STSv1; id=1", "v=STSv1; broken"]])
def test_exactly_one_record_must_be_left(texts: list[str]) -> None:
    assert parse_sts_record(texts) is None


def test_white_space_takes_linear_time() -> None:
    assert parse_sts_record(["v=STSv1;" + " \t" * 32000 + "x"]) is None
    assert parse_sts_record(["v=STSv1" + " " * 65000 + ";id=1"]) == "1"


# --- the policy -------------------------------------------------------------------------------------------------------

EXAMPLE = """\
version: STSv1
mode: enforce
mx: mail.example.com
mx: *.example.net
mx: backupmx.example.com
max_age: 604800
"""


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("last", [True, False])
def test_example_of_the_rfc(end: str, last: bool) -> None:
    """RFC 8461 3.2: the last line may lack its end."""
    text = EXAMPLE.replace("\n", end)
    policy = parse_sts_policy((text if last else text.removesuffix(end)).encode())
    assert policy == StsPolicy("enforce", 604800, ("mail.example.com", "*.example.net", "backupmx.example.com"))
    assert policy.lines == tuple(EXAMPLE.splitlines())


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("version:STSv1\nmode:testing\nmx:a\nmax_age:0", StsPolicy("testing", 0, ("a",))),
        ("max_age:\t \t5\nmx:  A.Example \nmode: enforce\t\nversion: STSv1", StsPolicy("enforce", 5, ("a.example",))),
        ("version: STSv1\r\nmode: none\nmax_age: 1\r\n", StsPolicy("none", 1)),
        ("version: STSv1\nmode: none\nmx: a.example\nmax_age: 1", StsPolicy("none", 1, ("a.example",))),
        # Only the first of a repeated field counts, whatever the others are.
        (
            "version: STSv1\nversion: 2\nmode: none\nmode: enforce\nmode: x\nmax_age: 1\nmax_age: z",
            StsPolicy("none", 1),
        ),
        # Unknown fields, and keys in another case, which are unknown.
        ("version: STSv1\nmode: none\nmax_age: 1\nfuture_1.x-y: \u00e9 a\tb\nMode: ?\nempty:", StsPolicy("none", 1)),
        ("\n\nversion: STSv1\n\r\nmode: none\n \nmax_age: 1\n\n", StsPolicy("none", 1)),
        # The maximum of max_age (RFC 8461 3.2).
        ("version: STSv1\nmode: none\nmax_age: 31557600", StsPolicy("none", 31557600)),
        ("version: STSv1\nmode: none\nmax_age: 31557601", StsPolicy("none", 31557600)),
        ("version: STSv1\nmode: none\nmax_age: 9999999999", StsPolicy("none", 31557600)),
        ("version: STSv1\nmode: none\nmax_age: 0000000009", StsPolicy("none", 9)),
        ("version: STSv1\nmode: testing\nmx: a\nmx: A\nmx: b\nmax_age: 1", StsPolicy("testing", 1, ("a", "b"))),
    ],
)
def test_valid_policy(text: str, policy: StsPolicy) -> None:
    assert parse_sts_policy(text) == policy
    assert parse_sts_policy(text.encode()) == policy


VALID = {"version": "STSv1", "mode": "enforce", "mx": "mx.example.com", "max_age": "60"}


def policy_text(**fields: str | None) -> str:
    return "".join(f"{key}: {value}\n" for key, value in {**VALID, **fields}.items() if value is not None)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"version": None}, "no version"),
        ({"version": "STSv2"}, "unknown version: 'STSv2'"),
        ({"version": "stsv1"}, "unknown version"),
        ({"mode": None}, "no mode"),
        ({"mode": "Enforce"}, "unknown mode: 'Enforce'"),
        ({"mode": ""}, "unknown mode: ''"),
        ({"max_age": None}, "no max_age"),
        ({"max_age": "-1"}, "invalid max_age: '-1'"),
        ({"max_age": "1.5"}, "invalid max_age"),
        ({"max_age": "1_000"}, "invalid max_age"),
        ({"max_age": "\u0661"}, "invalid max_age"),
        ({"max_age": "10000000000"}, "invalid max_age"),
        ({"mx": None}, "no mx"),
        ({"mx": None, "mode": "testing"}, "no mx"),
        ({"mx": ""}, "invalid mx: ''"),
        ({"mx": "*"}, "invalid mx: '\\*'"),
        ({"mx": "*."}, "invalid mx"),
        ({"mx": "*.*.example.com"}, "invalid mx"),
        ({"mx": "m*.example.com"}, "invalid mx"),
        ({"mx": "mail.*.example.com"}, "invalid mx"),
        ({"mx": "mail.example.com."}, "invalid mx"),
        ({"mx": ".example.com"}, "invalid mx"),
        ({"mx": "-a.example.com"}, "invalid mx"),
        ({"mx": "a..example.com"}, "invalid mx"),
        ({"mx": "a.example.com, b.example.com"}, "invalid mx"),
        ({"mx": "[192.0.2.1]"}, "invalid mx"),
        ({"mx": "b\u00fccher.example"}, "invalid mx: 'b\\\\xfccher.example'"),
        ({"mx": "a" * 64 + ".example"}, "invalid mx"),
        ({"mx": ".".join(["a" * 60] * 5)}, "invalid mx"),
        ({"mode": None, " mode": "enforce"}, "not a field"),
        ({"mode": None, "mode ": "enforce"}, "not a field"),
        ({"ext": "a\x00b"}, "not a field"),
        ({"ext": "a\rb"}, "not a field"),
        ({"": "a"}, "not a field"),
        ({"n" * 33: "a"}, "not a field"),
        ({"\ufeffversion": "a"}, "not a field"),
        ({"ext": "x" * 65536}, "longer than 65536 octets"),
    ],
)
def test_invalid_policy(fields: dict[str, str | None], reason: str) -> None:
    with pytest.raises(ValueError, match=f"^{reason}"):
        parse_sts_policy(policy_text(**fields))


@pytest.mark.parametrize("text", ["", "\n", "<html>", EXAMPLE + "nonsense\n", EXAMPLE.replace("\n", "\r")])
def test_text_that_is_no_policy(text: str) -> None:
    with pytest.raises(ValueError, match=r"no version|not a field"):
        parse_sts_policy(text)


def test_policy_must_be_utf8() -> None:
    with pytest.raises(ValueError, match=r"^not UTF-8$"):
        parse_sts_policy(EXAMPLE.encode() + b"ext: \xff\n")


@given(st.binary(max_size=200) | st.text(max_size=200))
def test_any_text_is_a_policy_or_a_value_error(data: bytes | str) -> None:
    try:
        policy = parse_sts_policy(data)
    except ValueError:
        return
    assert policy.mode in {"enforce", "testing", "none"}


# --- hosts ------------------------------------------------------------------------------------------------------------

POLICY = StsPolicy("enforce", 1, ("mail.example.com", "*.example.net"))


@pytest.mark.parametrize(
    "host", ["mail.example.com", "MAIL.Example.com", "mail.example.com.", "mx.example.net", "X.EXAMPLE.NET"]
)
def test_host_that_a_pattern_matches(host: str) -> None:
    assert POLICY.allows(host)


@pytest.mark.parametrize(
    "host",
    [
        "", ".", "example.com", "a.mail.example.com", "mail.example.com.evil.example", "mail.example.co",
        # RFC 8461 4.1: the wildcard is exactly one label.
        "example.net", "a.b.example.net", ".example.net", "*.example.net", "aexample.net", "net",
    ],
)  # fmt: skip
def test_host_that_no_pattern_matches(host: str) -> None:
    assert not POLICY.allows(host)
