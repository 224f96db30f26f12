"""Tests of fault rules as text: what is read, what is written, and errors."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from smtp_trio.policies import Layer
from smtp_trio.testing import (
    Advertise,
    Answer,
    Close,
    Delay,
    Extra,
    FaultRules,
    Garbage,
    Greylist,
    Hang,
    MessageRate,
    Omit,
    Policy,
    Replace,
    Reset,
    Rule,
    Scope,
    ScopedRule,
    Sometimes,
    Throttle,
    Trickle,
    format_rule,
    parse_rule,
)
from smtp_trio.testing._faults.grammar import GRAMMAR, Row
from smtp_trio.testing._faults.text import format_scope, place_of
from smtp_trio.testing.strategies import rules

READ: dict[str, Any] = {
    "answer RCPT 450": Answer("RCPT", 450),
    "Answer rcpt 450 ONCE": Answer("RCPT", 450),
    'answer RCPT 450 "Try later" status 4.2.0 twice': Answer("RCPT", 450, "Try later", "4.2.0", times=2),
    'answer DOT 451 status 4.3.0 "Two\\r\\nlines" always': Answer(".", 451, "Two\r\nlines", "4.3.0", times=0),
    "answer RCPT 450 nth 3 5 times": Answer("RCPT", 450, nth=3, times=5),
    'answer "RCPT" 450': Answer("RCPT", 450),
    "delay DATA 5s": Delay("DATA", 5),
    "delay DATA 5": Delay("DATA", 5),
    "delay at EHLO 1.5m": Delay("EHLO", 90),
    "hang": Hang("*"),
    "hang at DOT": Hang("."),
    "hang .": Hang("."),
    "close at body after 4k": Close("body", 4096),
    "close body after 4096 octets": Close("body", 4096),
    "reset": Reset("*"),
    "reset at MAIL by client": Reset("MAIL", by="client"),
    "trickle": Trickle(),
    "trickle 1 octet every 10ms": Trickle(1, 0.01),
    "trickle every 10ms 2 octets at EHLO 3 times": Trickle(2, 0.01, "EHLO", times=3),
    "throttle 300": Throttle(300),
    "throttle 1k max 10 segments": Throttle(1024, max_segments=10),
    'replace MAIL "\\xff\\x00\\r\\n"': Replace("MAIL", b"\xff\0\r\n"),
    'extra MAIL "ü\\"\\\\"': Extra("MAIL", 'ü"\\'.encode()),
    "garbage EHLO": Garbage("EHLO"),
    "omit chunking": Omit("CHUNKING"),
    "advertise SIZE 10": Advertise("SIZE", 10),
    'advertise SIZE "10"': Advertise("SIZE", "10"),
    "advertise X": Advertise("X"),
    "sometimes 0.3 answer MAIL 451": Sometimes(Answer("MAIL", 451), 0.3),
    "sometimes hang": Sometimes(Hang("*")),
    "greylist": Policy(Greylist),
    "greylist 60s": Policy(Greylist, seconds=60),
    "message-rate 10 per 1m": Policy(MessageRate, limit=10, seconds=60),
}


@pytest.mark.parametrize("text", READ)
def test_text_is_read(text: str) -> None:
    assert parse_rule(text) == ScopedRule(READ[text])


def test_scope_is_read() -> None:
    rule = parse_rule("answer RCPT 450 for Bob+1@Example.org from 192.0.2.0/24 once")
    assert rule.scope == Scope("Bob+1@Example.org", "192.0.2.0/24")
    assert str(rule) == "answer RCPT 450 once for Bob+1@Example.org from 192.0.2.0/24"
    quoted = parse_rule('hang at RCPT for "\\"b b\\"@example.org"')
    assert quoted.scope.recipient == '"b b"@example.org'
    assert parse_rule(str(quoted)) == quoted


ERRORS = {
    "": "begins with its kind: answer, delay",
    "ansewr RCPT 450": "'ansewr' is not a kind of rule: did you mean 'answer'",
    "xyzzy": "'xyzzy' is not a kind of rule: the kinds are answer, delay",
    '"answer" RCPT 450': '"answer" is not a kind of rule',
    "answer": r'answer needs PLACE: answer PLACE CODE \["TEXT"\]',
    "answer RCPT": "answer needs CODE",
    "answer RCTP 450": "'RCTP' is not a place: did you mean 'RCPT'",
    "answer xyzzy 450": "'xyzzy' is not a place: the places are CONNECT, ",
    "answer RCPT 45": "the CODE of 'answer' must be a reply code of three digits, such as 450, got '45'",
    "answer RCPT ٤٥٠": "must be a reply code of three digits",
    "answer RCPT 250": "250 cannot refuse",
    "answer RCPT 450 onec": "'onec' is not expected here, after '450': did you mean 'once'",
    "answer RCPT 450 xyzzy": "'xyzzy' is not expected here, after '450': expected status, nth, once",
    "answer RCPT 450 once twice": "the number of times is given twice",
    "answer RCPT 450 once 3 times": "the number of times is given twice",
    "answer RCPT 450 nth 2 nth 3": "'nth' is given twice",
    "answer RCPT 450 status 4.2.0 status 4.2.0": "'status' is given twice",
    "answer RCPT 450 status": "'status' needs a value",
    "answer RCPT 450 status 5.2.0": "does not match reply code 450",
    "answer RCPT 450 nth": "'nth' needs a value",
    "answer RCPT 450 nth 0": "nth must be >= 1",
    "answer RCPT 450 1.5 times": "the number of times must be a whole number, got '1.5'",
    'answer RCPT 450 "a': "the quotes at '\"a' are not balanced",
    'answer RCPT 450 a"b"': "are not balanced",
    'answer RCPT 450 "\\q"': r"'\\\\q' in .* is not an escape",
    "answer RCPT 450 by client": "'client' cannot follow 'by': answer is a fault of a server",
    "delay DATA": "delay needs TIME",
    "delay DATA soon": "the TIME of 'delay' must be a time from 0 to 1000000000 seconds",
    "close at body after 4x": "'after' must be a number from 0",
    "reset by me": 'by must be "client" or "server"',
    "sometimes": "begins with its kind",
    "sometimes 2 hang": "'sometimes' must be a probability from 0 to 1, got '2'",
    "sometimes greylist": "'sometimes' cannot be used with greylist",
    'replace MAIL "\\u00ff"': "is not an escape for octets",
    "replace MAIL hello": "the \"OCTETS\" of 'replace' must be octets in quotes",
    "greylist 60s once": "'once' is not expected here, after '60s'",
    "tarpit 1s 2s": "'2s' is not expected here, after '1s'",
    "hang at DOT once 2s": "'2s' is not expected here, after 'once'",
    'answer RCPT 450 "a b" 2s': "'2s' is not expected here, after \"a b\"",
    "answer RCPT 450 3 times 2s": "'2s' is not expected here, after 'times'",
    "answer MAIL 451 for bob@example.org": "MAIL comes before the recipients",
    "message-rate 1 for bob@example.org": "MAIL comes before the recipients",
    "omit SIZE for bob@example.org": "EHLO comes before the recipients",
    "hang at CONNECT from client.example": "no name at CONNECT",
    "answer RCPT 450 for": "'for' needs a value",
    "answer RCPT 450 for bob": "recipient must be an address, @DOMAIN or a pattern",
    "answer RCPT 450 for a@b for c@d": "'for' is given twice",
    "answer RCPT 450 from 1.2.3.4.5": "client must be an IP address, a network",
    "answer RCPT 450 from 192.0.2.1/24": "client must be",
    # Hostile numbers and texts.
    "delay DATA nan": "must be a time",
    "delay DATA inf": "must be a time",
    "delay DATA -1s": "must be a time",
    "delay DATA 1e400s": "must be a time",
    "throttle 1e400": "must be a number",
    "throttle 0": "rate must be > 0",
    f"trickle {'9' * 4000}": "must be a number",
    "answer RCPT 450 9999999999999999999 times": "must be a number",
    "garbage MAIL 1G": "octets must be <= ",
    "hang " * 1000: "at most 4096 characters",
    "hang\nat DOT": r"one line of printable characters, got '\\n'",
    'answer RCPT 450 "a\r\n250 ok"': "one line of printable characters",
    'advertise "SIZE\\r\\n250"': "keyword must be",
    'advertise SIZE "1\\r\\n250 X"': "value must be",
    'omit "A\\x00"': "keyword must be",
}


@pytest.mark.parametrize("text", ERRORS)
def test_error_names_the_word(text: str) -> None:
    with pytest.raises(ValueError, match=ERRORS[text]) as caught:
        parse_rule(text)
    assert len(str(caught.value)) < 5000


def test_text_must_be_a_str() -> None:
    wrong: Any = b"hang"
    with pytest.raises(TypeError, match="text must be str"):
        parse_rule(wrong)


@pytest.mark.parametrize("row", GRAMMAR, ids=lambda row: str(row.word))
def test_example_is_of_its_kind(row: Row) -> None:
    rule = parse_rule(row.example)
    assert rule.kind == row.word
    assert parse_rule(str(rule)) == rule


def test_each_class_has_a_text_form() -> None:
    """A new rule or policy needs a row in the table."""
    described = {row.cls for row in GRAMMAR}
    for base in (Rule, Layer):
        public = {each for each in all_subclasses(base) if not each.__name__.startswith("_")}
        package = "smtp_trio.testing._faults.rules" if base is Rule else "smtp_trio.policies"
        assert {each for each in public if each.__module__.startswith(package)} <= described


def all_subclasses(cls: type[Any]) -> set[type[Any]]:
    """Return the classes below a class."""
    direct = set(cls.__subclasses__())
    return direct.union(*map(all_subclasses, direct))


TEXTS = st.text(max_size=20)
PATTERNS = st.sampled_from([None, "bob@example.org", "*+x@*", "@example.org", '"a \\" b"@example.org', "Ü@exämple.org"])
CLIENTS = st.sampled_from([None, "192.0.2.0/24", "2001:db8::/32", "unix", "client.example", "[192.0.2.1]"])


@st.composite
def any_rule(draw: st.DrawFn) -> Any:
    """Generate a rule of any kind, with any text and numbers."""
    numbers, times = st.integers(0, 10**18), st.floats(0, 10**9)
    rule = draw(
        st.one_of(
            rules(),
            st.builds(Answer, st.just("RCPT"), st.just(450), TEXTS, st.sampled_from([None, "", "4.2.0"])),
            st.builds(Replace, st.sampled_from(["MAIL", "XÜ", "a", "*", "."]), st.binary(max_size=20)),
            st.builds(Delay, st.just("MAIL"), times, nth=st.integers(1, 10**18), times=numbers),
            st.builds(Trickle, st.integers(1, 10**18), times, max_segments=numbers, times=numbers),
            st.builds(Throttle, st.floats(0, 10**18, exclude_min=True), times=numbers),
            st.builds(
                Advertise,
                st.just("X"),
                st.one_of(st.integers(), st.sampled_from(["", "10", "-1", "01", "a b", '"', "\\", "ü"])),
            ),
            st.builds(Sometimes, rules(), st.floats(0, 1)),
            st.builds(Policy, st.just(Greylist), seconds=times, remember=times),
        )
    )
    return rule


@settings(max_examples=100)
@given(any_rule(), PATTERNS, CLIENTS)
def test_reading_is_the_inverse_of_writing(rule: Any, recipient: str | None, client: str | None) -> None:
    text = format_rule(rule)
    assert parse_rule(text).rule == rule
    scope = Scope(recipient, client)
    if place_error(rule, scope) is None:
        scoped = ScopedRule(rule, scope)
        assert parse_rule(str(scoped)) == scoped
    else:
        with pytest.raises(ValueError, match=r"comes before the recipients|no name at CONNECT"):
            parse_rule(text + format_scope(scope))


def place_error(rule: Any, scope: Scope) -> str | None:
    """Return why a rule cannot act in a scope, or None."""
    try:
        scope.check_place(place_of(rule) or "*")
    except ValueError as error:
        return str(error)
    return None


#: Words of rules, in any order.
WORDS = (
    "answer",
    "RCPT",
    "450",
    "once",
    "for",
    "@example.org",
    "hang",
    "at",
    "DOT",
    "nth",
    "3",
    "sometimes",
    "greylist",
)


@settings(max_examples=100)
@given(st.lists(st.sampled_from([*WORDS, '"', "\\", "1e9", "x"])))
def test_any_text_is_read_or_refused(words: list[str]) -> None:
    try:
        rule = parse_rule(" ".join(words))
    except ValueError:
        return
    assert parse_rule(str(rule)) == rule


def test_rule_of_another_class_has_no_text() -> None:
    class Mine(Rule):
        pass

    with pytest.raises(ValueError, match="Mine has no text form"):
        format_rule(Mine())


@pytest.mark.parametrize("rule", [Delay("MAIL", math.inf), Trickle(1, 1e300), Policy(Greylist, seconds=math.inf)])
def test_time_without_end_has_no_text(rule: Any) -> None:
    for write in (format_rule, FaultRules().add):
        with pytest.raises(ValueError, match="must be at most 1000000000 seconds, got"):
            write(rule)
