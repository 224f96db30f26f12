"""`MemoryResolver`: answers from a dict."""

from __future__ import annotations

import math

import pytest
import trio
from trio.testing import MockClock

from smtp_trio.routing import Answer, LookupFailedError, MxRecord, TlsaRecord
from smtp_trio.testing import MemoryResolver


async def test_records_of_each_type() -> None:
    resolver = MemoryResolver(
        {
            "Example.org.": {"MX": [(10, "MX.example.org."), MxRecord(20, "b.example")], "TXT": ["a", "b"]},
            "mx.example.org": {"A": "192.0.2.1", "AAAA": ["2001:db8::1"]},
            "_25._tcp.mx.example.org": {"TLSA": ["3 1 1 00ff AB", TlsaRecord(2, 0, 1, b"")]},
            "alias.example": {"CNAME": "Example.org"},
        }
    )
    assert await resolver.query("example.ORG", "MX") == Answer(
        "example.org", "MX", (MxRecord(10, "mx.example.org"), MxRecord(20, "b.example"))
    )
    assert (await resolver.query("example.org.", "TXT")).records == ("a", "b")
    assert (await resolver.query("mx.example.org", "A")).records == ("192.0.2.1",)
    assert (await resolver.query("mx.example.org", "AAAA")).records == ("2001:db8::1",)
    assert (await resolver.query("_25._tcp.mx.example.org", "TLSA")).records == (
        TlsaRecord(3, 1, 1, b"\0\xff\xab"),
        TlsaRecord(2, 0, 1, b""),
    )
    assert await resolver.query("alias.example", "CNAME") == Answer("alias.example", "CNAME", ("Example.org",))
    answer = await resolver.query("alias.example", "TXT")
    assert (answer.name, answer.canonical_name, answer.records) == ("alias.example", "example.org", ("a", "b"))
    assert resolver.queries[:2] == [("example.org", "MX"), ("example.org", "TXT")]


async def test_names_that_exist() -> None:
    """A name above an existing one exists, without records of its own (RFC 8020)."""
    resolver = MemoryResolver({"_25._tcp.mx.example.org": {}, "alias.example": {"CNAME": "gone.example"}})
    for name in ("mx.example.org", "org", "_tcp.mx.example.org", "_25._tcp.mx.example.org"):
        assert (await resolver.query(name, "A")).exists
    for name in ("x.example.org", "ample.org", "alias.example"):
        assert not (await resolver.query(name, "A")).exists


async def test_answers_are_secure_if_all_names_are_signed() -> None:
    resolver = MemoryResolver(
        {
            "a.example.org": {"CNAME": "a.example.net"},
            "a.example.net": {"CNAME": "a.example.com"},
            "a.example.com": {"A": "192.0.2.1"},
        },
        secure=["Example.org", "example.com"],
    )
    assert not (await resolver.query("a.example.org", "A")).secure
    assert (await resolver.query("a.example.org", "CNAME")).secure
    assert not (await resolver.query("notexample.org", "A")).secure
    assert (await resolver.query("gone.example.org", "A")).secure
    resolver.secure.add("example.net")
    assert (await resolver.query("a.example.org", "A")).secure


async def test_failures_by_name_and_by_type() -> None:
    resolver = MemoryResolver(
        {"a.example": {"A": "192.0.2.1"}, "b.example": {"CNAME": "c.example"}},
        failures={("A.Example", "MX"): "SERVFAIL", "c.example.": OSError("no network")},
    )
    with pytest.raises(LookupFailedError, match=r"a\.example MX: SERVFAIL"):
        await resolver.query("a.example", "MX")
    assert (await resolver.query("a.example", "A")).records
    with pytest.raises(OSError, match="no network"):
        await resolver.query("b.example", "A")
    assert (await resolver.query("b.example", "CNAME")).records


async def test_delays(autojump_clock: MockClock) -> None:
    resolver = MemoryResolver({}, delays={"a.example": 3, ("a.example", "MX"): math.inf})
    await resolver.query("a.example", "A")
    assert trio.current_time() == 3
    with trio.move_on_after(100) as scope:
        await resolver.query("a.example", "MX")
    assert scope.cancelled_caught


async def test_loop_of_cname_records_fails() -> None:
    resolver = MemoryResolver({"a.example": {"CNAME": "b.example"}, "b.example": {"CNAME": "a.example"}})
    with pytest.raises(LookupFailedError, match="more than 8 CNAME records"):
        await resolver.query("a.example", "A")


async def test_query_is_a_checkpoint() -> None:
    with trio.testing.assert_checkpoints():
        await MemoryResolver({}).query("a.example", "A")


def test_secure_must_be_an_iterable_of_names() -> None:
    with pytest.raises(TypeError, match="secure"):
        MemoryResolver({}, secure="example.org")
