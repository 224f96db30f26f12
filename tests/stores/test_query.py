"""Queries: their syntax, and which messages fulfil them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from email.message import EmailMessage

import pytest
from attrs import evolve
from hypothesis import given, strategies as st

from smtp_trio.stores import Query, Stored
from smtp_trio.stores._content import parts_of
from smtp_trio.stores._query import Content, Term

NOON = datetime(2026, 11, 29, 12, tzinfo=UTC)
HEADER = b"From: Alice <alice@example.net>\r\nTo: Bob <bob@example.org>\r\nCc: list@example.org\r\nReply-To: desk@example.net\r\n"


def stored(message: bytes, *, subject: str | None = "hi", size: int | None = None, received: datetime = NOON) -> Stored:
    """Return a message from bounces@example.net to bob@example.org and hidden@example.org."""
    return Stored(
        id="1",
        received=received,
        sender="bounces@example.net",
        recipients=("bob@example.org", "Hidden@example.org"),
        size=len(message) if size is None else size,
        subject=subject,
        message=message,
    )


def matches(query: str, message: bytes = HEADER + b"\r\nHello\r\n", **details: object) -> bool:
    """Return whether a message fulfils a query, and check that the other stages of a search agree."""
    parsed, whole = Query.parse(query, tz=UTC), stored(message, **details)  # type: ignore[arg-type]
    result = parsed.matches(whole)
    for content in (None, Content(message.partition(b"\r\n\r\n")[0] + b"\r\n\r\n", complete=False)):
        assert parsed.decide(whole, content) in (None, result)
    return result


# --- syntax


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("", ()),
        (" \t", ()),
        ("hello", (Term("", "hello"),)),
        ("hello  World", (Term("", "hello"), Term("", "World"))),
        ('"hello world"', (Term("", "hello world"),)),
        ('hel"lo wor"ld', (Term("", "hello world"),)),
        ("-spam !ham", (Term("", "spam", negated=True), Term("", "ham", negated=True))),
        ('-"two words"', (Term("", "two words", negated=True),)),
        ("- !", (Term("", "-"), Term("", "!"))),
        ("--x", (Term("", "-x", negated=True),)),
        ("to:bob", (Term("to", "bob"),)),
        ("-TO:Bob", (Term("to", "Bob", negated=True),)),
        ('subject:"two words"', (Term("subject", "two words"),)),
        ('"to:bob"', (Term("", "to:bob"),)),
        ("https://example.org 10:30", (Term("", "https://example.org"), Term("", "10:30"))),
        (r'"a \" b \\ c \d"', (Term("", r'a " b \ c \d'),)),
        (r"a\b", (Term("", r"a\b"),)),
        ("larger:1.5k", (Term("larger", "1536"),)),
        ("smaller:10MB", (Term("smaller", str(10 << 20)),)),
        ("larger:10", (Term("larger", "10"),)),
        ("before:2026", (Term("before", "2026-01-01T00:00:00+00:00"),)),
        ("before:2026/3", (Term("before", "2026-03-01T00:00:00+00:00"),)),
        ("after:2026-11-29", (Term("after", "2026-11-29T00:00:00+00:00"),)),
        ("after:2026-11-29t18:30", (Term("after", "2026-11-29T18:30:00+00:00"),)),
        ('after:"2026-11-29 18:30:01+01:00"', (Term("after", "2026-11-29T18:30:01+01:00"),)),
        ("has:attachments -has:Inline", (Term("has", "attachment"), Term("has", "inline", negated=True))),
    ],
)
def test_parse(text: str, terms: tuple[Term, ...]) -> None:
    query = Query.parse(text, tz=UTC)
    assert query.terms == terms
    assert Query.parse(str(query)) == query


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('a "b c', """'"b c': the quotation mark at the end is missing"""),
        ("a to:", "'to:': the text to look for is missing"),
        ('-subject:" "', """'-subject:" "': the text to look for is missing"""),
        ('""', """'""': the text to look for is missing"""),
        ("x is:read", "'is:read': a store does not record what was read or tagged"),
        ("tag:x", "'tag:x': a store has no tags"),
        ("has:pdf", "'has:pdf': only has:attachment and has:inline are known"),
        ("larger:x", "'larger:x': must be a number of octets, or a size such as 500k or 10M"),
        ("before:yesterday", "'before:yesterday': must be a date such as 2026-11-29, or a time"),
        ("before:2026-02-30", "'before:2026-02-30': must be a date"),
        ("after:2026-11-29T25:00", "'after:2026-11-29T25:00': must be a date"),
        ("after:0001-01-01T00:00+03:00", "'after:0001-01-01T00:00+03:00': must be a date"),
        ("after:0000", "'after:0000': must be a date"),
    ],
)
def test_errors_name_the_part(text: str, error: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        Query.parse(text)
    assert str(caught.value).startswith(error)


def test_dates_are_local_by_default() -> None:
    (term,) = Query.parse("after:2026-11-29").terms
    assert datetime.fromisoformat(term.value) == datetime(2026, 11, 29).astimezone()
    (term,) = Query.parse("after:2026-11-29", tz=timezone(timedelta(hours=-3))).terms
    assert term.value == "2026-11-29T00:00:00-03:00"


WORDS = st.sampled_from(
    ["-", "!", '"', "\\", " ", "to:", "is:", "before:", "has:attachment", "larger:", "2026-01-02", "1k", "é"]
)


@given(st.lists(st.one_of(WORDS, st.text(max_size=4)), max_size=12).map("".join))
def test_any_text_is_a_query_or_an_error(text: str) -> None:
    try:
        query = Query.parse(text)
    except ValueError:
        return
    assert Query.parse(str(query)) == query
    assert query.matches(stored(HEADER + b"\r\n")) in (True, False)


# --- meaning


@pytest.mark.parametrize(
    "query",
    [
        "",
        "from:bounces",
        "from:ALICE",
        "from:alice@example.net",
        "to:Bob",
        "to:hidden@EXAMPLE.org",
        "cc:list",
        "bcc:hidden",
        "addressed:list",
        "addressed:desk",
        "reply-to:desk",
        "subject:HI",
        "-subject:other",
        "hello",
        '"Hello  world"',
        "hidden hello alice",
        "-goodbye",
        "before:2026-11-30 after:2026-11-29",
        "before:2026-11-29T12:00:01 after:2026-11-29T12:00",
        "larger:10 smaller:1k",
        "message-id:abc@",
        "-has:attachment -has:inline",
    ],
)
def test_message_fulfils(query: str) -> None:
    assert matches(query, HEADER + b"Message-ID: <abc@example.net>\r\n\r\nWell, hello\r\n  World.\r\n")


@pytest.mark.parametrize(
    "query",
    [
        "from:bob",
        "to:alice",
        "to:list",
        "cc:bob",
        "bcc:bob",
        "bcc:nobody",
        "addressed:nobody",
        "reply-to:alice",
        "subject:hello",
        "-hello",
        "hello goodbye",
        "helloworld",
        "before:2026-11-29T12:00",
        "after:2026-11-29T12:00:01",
        "larger:1k",
        "smaller:10",
        "message-id:abc",
        "has:attachment",
        "has:inline",
        "body-field",
    ],
)
def test_message_does_not_fulfil(query: str) -> None:
    assert not matches(query, HEADER + b"X-Other: body-field\r\n\r\nHello World\r\n")


def test_size_of_the_entry_counts() -> None:
    assert matches("-larger:10M", size=10 << 20)
    assert not matches("smaller:10M", size=10 << 20)


def test_subject_that_the_store_did_not_keep() -> None:
    assert matches("subject:early", b"Subject: =?utf-8?q?e=41rly?=\r\n\r\n", subject=None)


def test_fields_of_the_body_do_not_count() -> None:
    assert not matches("cc:eve", b"Subject: hi\r\n\r\nCc: eve@example.net\r\n")


def test_decoded_fields_and_text() -> None:
    message = EmailMessage()
    message["From"] = "Jürgen Größe <j@example.net>"
    message.set_content(
        "Überraschung für Zoë, und eine Zeile, die so lang ist, daß sie gefaltet werden muß, ja wirklich.\n"
    )
    message.add_alternative("<p>Nur in <b>HTML</b> &amp; mit Ent&shy;ity<script>var hidden=1;</script>", subtype="html")
    message.add_attachment("Angehängter Text".encode("utf-16"), maintype="text", subtype="plain", filename="Bücher.txt")
    message.add_attachment(b"\x00\x01", maintype="image", subtype="png", disposition="inline", cid="<x@y>")
    octets = message.as_bytes()
    for query in (
        "jÜrgen",
        "from:GRÖSSE",
        "überraschung",
        '"sie gefaltet werden muss, ja"',
        '"in html & mit"',
        "bücher.txt",
        "has:attachment",
        "has:inline",
    ):
        assert matches(query, octets), query
    assert not matches("hidden=1", octets)


def test_base64_text_of_several_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smtp_trio.stores._content.CHUNK", 100)
    monkeypatch.setattr("smtp_trio.stores._query.CHUNK", 100)
    message = EmailMessage()
    text = " ".join(f"wörd{n}" for n in range(200))
    message.set_content(text, cte="base64")
    assert matches('"' + " ".join(f"WÖRD{n}" for n in range(30, 70)) + '"', message.as_bytes())
    message.set_content(text, cte="quoted-printable")
    assert matches('"' + " ".join(f"WÖRD{n}" for n in range(30, 70)) + '"', message.as_bytes())
    assert not matches("wörd201", message.as_bytes())


@pytest.mark.parametrize(
    "message",
    [
        b"\r\nfound it",
        b"Content-Type: multipart/mixed; boundary=x\r\n\r\nfound it",
        b"Content-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\n\r\nfound it",
        b"Content-Type: multipart/mixed; boundary=x\n\n--x\nSubject: a\n\nother\n--x--\n--x\n\nnot\n--x--\nfound it"
        + b"--x\n",
        b"Content-Type: multipart/mixed\r\n\r\nfound it",
        b"Content-Type: message/rfc822\r\n\r\nSubject: other\r\n\r\nfound it",
        b"Content-Type: text/plain; charset=no-such\r\n\r\nfound it",
        b"Content-Type: text/plain; charset=punycode\r\n\r\nfound it",
        b"Content-Type: text/plain; charset=rot13\r\n\r\nfound it",
        b'Content-Type: text/plain; charset="a\x00b"\r\n\r\nfound it',
        b"Content-Type: text/plain; charset=utf-7\r\n\r\nfound it+",
        b"Content-Type: text/plain; charset*0*=%\r\n\r\nfound it",
        b"Content-Transfer-Encoding: base64\r\n\r\n\xff!Zm91bmQgaXQ\r\n\r\n",
        b"Content-Disposition: attachment; filename*=%%%'x\r\n\r\nfound it",
        b"Content-Type: text/html\r\n\r\nfound it <script> <!-- < < <",
    ],
)
def test_damaged_message_is_searched(message: bytes) -> None:
    is_after_the_end = message.endswith(b"found it--x\n")
    assert matches('"found it"', message) is not is_after_the_end


@pytest.mark.parametrize("message", [b"", b"\r\n", b"Content-Type: text/plain; charset=utf-16\r\n\r\nf", b"Subject"])
def test_message_without_text(message: bytes) -> None:
    assert not matches("found", message)


def test_reference_of_thousands_of_digits_is_a_character() -> None:
    message = b"Content-Type: text/html\r\n\r\nan &#" + b"1" * 5000 + b"; &amp;#65;"
    assert matches('"an \ufffd &#65;"', message)


def test_combining_characters_are_normalized_in_slices() -> None:
    """The time would grow with the square of their number: minutes for this message."""
    marks = "\u0301\u0323" * 200_000
    message = f"Content-Type: text/plain; charset=utf-8\r\n\r\n{marks} cafe\u0301 {marks}".encode()
    assert matches("caf\u00e9", message)
    assert not matches("cafes", message)


def test_parameters_are_cut() -> None:
    """`email` needs quadratic time for them: minutes for these parts."""
    part = b"--b\r\nContent-Type: text/plain" + b";" * 60_000 + b"\r\n\r\nneedle\r\n"
    message = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + part * 100 + b"--b--\r\n"
    parts = list(parts_of(message))
    assert len(parts) == 100
    assert parts[-1].header.get_content_type() == "text/plain"
    assert matches("needle", message)


def test_parts_are_bounded() -> None:
    """Neither a deep message nor one with many parts takes more than linear time, or recurses."""
    deep = b"".join(b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (n, n) for n in range(5000))
    assert len(list(parts_of(deep))) == 1
    nested = b"Content-Type: message/rfc822\r\n\r\n" * 5000
    assert len(list(parts_of(nested))) == 1
    wide = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + b"--b\r\n\r\n" * 50_000
    assert len(list(parts_of(wide))) <= 10_000


@given(
    st.lists(
        st.sampled_from([
            b"Content-Type: multipart/mixed; boundary=x", b"Content-Type: text/html; charset=utf-8", b"\r\n", b"\n", b"--x", b"--",
            b"Content-Transfer-Encoding: base64", b"Content-Type: message/rfc822", b"Zm91bmQ", b"=", b"Content-Disposition: inline",
            b"; filename*0*=utf-8''%41", b"; name=", b'"', b"<!--", b"</script", b"\xff",
        ]),
        max_size=30,
    ).map(b"".join)
)  # fmt: skip
def test_no_message_is_an_error(message: bytes) -> None:
    assert matches("found has:attachment has:inline from:x", message) in (True, False)


# --- terms with which tests that share a store find their own messages


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("rcpt:BOB@example.org", True),
        ("rcpt:hidden@example.org", True),
        ("rcpt:ob@example.org", False),
        ("rcpt:bob", False),
        ("-rcpt:bob@example.org", False),
        ("header:X-Test-Id=17", True),
        ("header:x-test-id=17", True),
        ("header:X-Test-Id=1", False),
        ("header:X-Test-Id=", False),
        ("header:X-Test-Id", True),
        ("header:X-Test", False),
        ("-header:X-Test", True),
        ('header:"X-Other=two words"', True),
        ("header:X-Empty=", True),
        ("header:X-Encoded=ö", True),
        ("header:X-Body=1", False),
    ],
)
def test_recipient_and_field_as_a_whole(query: str, expected: bool) -> None:
    fields = b"X-Test-Id: 17\r\nX-Other: Two\r\n words\r\nX-Empty:\r\nX-Encoded: =?utf-8?q?=C3=B6?=\r\n"
    assert matches(query, fields + b"\r\nX-Body: 1\r\n") is expected
    assert Query.parse(str(Query.parse(query))) == Query.parse(query)


@pytest.mark.parametrize(
    ("recipient", "found"),
    [
        ("bob+test-1@example.org", True),
        ("bob+TEST-1@example.org", True),
        ("bob+test-10@example.org", False),
        ("bob+a+test-1@example.org", False),
        ("bob@a+test-1", False),
        ("bob", False),
        ("", False),
    ],
)
def test_detail_of_a_recipient(recipient: str, found: bool) -> None:
    entry = evolve(stored(b""), recipients=("other@example.org", recipient))
    assert Query.parse("detail:test-1").matches(entry) is found


@pytest.mark.parametrize("query", ["header:", "header:=1", 'header:"a b=1"', "header:ä=1", "detail:", "rcpt:"])
def test_terms_without_a_valid_value_are_errors(query: str) -> None:
    with pytest.raises(ValueError, match=query.partition(":")[0]):
        Query.parse(query)
