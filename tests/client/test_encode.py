"""Encoding of email messages for a server without SMTPUTF8 or 8BITMIME."""

from __future__ import annotations

import email
import email.policy
import quopri
import re
from email.header import Header, decode_header, make_header
from email.message import Message
from typing import Any

import pytest
from hypothesis import example, given, strategies as st

from smtp_trio import LocalProtocolError
from smtp_trio._client.encode import encode_content, encode_field
from smtp_trio._client.generator import encoded_words
from smtp_trio._client.message import prepare_message

POLICIES = [email.policy.default, email.policy.SMTPUTF8, email.policy.compat32]
policies = pytest.mark.parametrize("policy", POLICIES, ids=["default", "SMTPUTF8", "compat32"])


def parsed(text: bytes, policy: email.policy.Policy = email.policy.default) -> Any:
    return email.message_from_bytes(text, policy=policy)


def surrogates(octets: bytes) -> str:
    """Return octets as the email package represents those of a parsed field."""
    return octets.decode("ascii", "surrogateescape")


def read(name: str, value: str) -> Any:
    """Return the value of a field as a reader displays it."""
    return parsed(f"{name}: {value}\r\n\r\n".encode())[name]


# --- header fields --------------------------------------------------------------------------------------------------

words = st.sampled_from(
    ["a", "-", "caf\u00e9", "\u65e5\u672c\u8a9e", "\U0001f600", "=?utf-8?q?=C3=A4?=", "x" * 70, "\u00e9" * 50]
)


@given(st.lists(words, min_size=1, max_size=12))
@example(["=?utf-8?q?=C3=A4?=", "\u00e9", "=?utf-8?q?=C3=A4?=", "\u00e9"])
def test_words_outside_ascii_are_encoded(given: list[str]) -> None:
    text = " ".join(given)
    for value in (text, surrogates(text.encode())):
        encoded = encode_field("Subject", value)
        assert encoded.isascii()
        assert all(len(line) <= 78 for line in encoded.split("\r\n"))
        assert all(word in encoded for word in given if word.isascii())
        shown = text.replace("=?utf-8?q?=C3=A4?= =?utf-8?q?=C3=A4?=", "\u00e4\u00e4").replace(
            "=?utf-8?q?=C3=A4?=", "\u00e4"
        )
        if "\u00e4 \u00e4" not in shown:
            assert str(read("Subject", encoded)) == shown


SEPARATORS = "\v\f\x1c\x1d\x1e\x85\u2028\u2029"


@given(st.text(st.sampled_from(["\u00e9", "a", " ", "?", *SEPARATORS]), min_size=1, max_size=60))
@example("\u00e9" + "\u2028" * 40)
@example(" \u2029 ")
def test_characters_that_python_takes_for_line_ends_are_encoded(text: str) -> None:
    words = encoded_words(f"\u00e9{text}\u00e9")
    assert words.isascii()
    assert all(len(word) <= 75 for word in words.split(" "))
    assert str(read("Subject", words)) == f"\u00e9{text}\u00e9"


def test_separators_are_encoded_between_octets_that_are_not_utf8() -> None:
    assert (
        encoded_words(surrogates(b"a\xff\x1c\xfe"))
        == "=?unknown-8bit?q?a=FF?= =?unknown-8bit?q?=1C?= =?unknown-8bit?q?=FE?="
    )


@pytest.mark.parametrize("separator", SEPARATORS)
@policies
async def test_separators_in_fields(policy: email.policy.Policy, separator: str) -> None:
    name = f"caf\u00e9{separator}x"
    message = parsed(f'From: "{name}" <a@b.test>\nSubject: {name}\nComments: x ({name})\n\nx\n'.encode(), policy)
    prepared = await prepare_message(message, eight_bit=False, utf8=False)
    assert prepared.octets is not None
    # The parser of `email.policy.default` puts a space between two encoded words of a name.
    received = parsed(prepared.octets, email.policy.compat32)
    shown = [(field, str(make_header(decode_header(value)))) for field, value in received.items()]
    assert shown == [("From", f"{name} <a@b.test>"), ("Subject", name), ("Comments", f"x ({name})")]


@pytest.mark.parametrize(
    ("value", "pattern"),
    [
        ("from b\u00fccher.test (a.test [192.0.2.1])\r\n\tby c.test", r"from =\S+= \(a\.test \[192\.0\.2\.1\]\)\tby c\.test"),
        ("two  spaces \u00e9", r"two  spaces =\?utf-8\?b\?w6k=\?="),
        ("\u00e9  \u00e9\tx", r"=\S+=\tx"),
    ],
)  # fmt: skip
def test_other_words_are_left_as_they_are(value: str, pattern: str) -> None:
    assert re.fullmatch(pattern, encode_field("X-A", value).replace("\r\n", ""))


def test_text_that_is_not_utf8_keeps_its_octets() -> None:
    assert encode_field("Subject", surrogates(b"caf\xe9 x")) == "=?unknown-8bit?q?caf=E9?= x"


ADDRESSES = [
    ("J\u00f6rg \u00c4. <a@b>", [("J\u00f6rg \u00c4.", "a@b")]),
    ("J\u00f6rg<a@b>", [("J\u00f6rg", "a@b")]),
    ('"J\u00f6rg, \\"\u00c4\\"" <a@b>, "P, X" <c@d>', [('J\u00f6rg, "\u00c4"', "a@b"), ("P, X", "c@d")]),
    ("a@b (K\u00f6ln \\) x), Plain (x) <c@d>", [("", "a@b"), ("Plain", "c@d")]),
    ("K\u00f6ln: a@b, \u00c9 <c@d>;, e@f", [("", "a@b"), ("\u00c9", "c@d"), ("", "e@f")]),
    (
        "a@b\u00fccher.test, \u00c9 <c@b\u00fccher.test>",
        [("", "a@xn--bcher-kva.test"), ("\u00c9", "c@xn--bcher-kva.test")],
    ),
    (
        "a@\u4f8b\u3048\u3002\u30c6\u30b9\u30c8, <a@b\uff0ec\uff61d>",
        [("", "a@xn--r8jz45g.xn--zckzah"), ("", "a@b.c.d")],
    ),
    (", ".join(f"\u00c9 {n} <a{n}@b.test>" for n in range(50)), [(f"\u00c9 {n}", f"a{n}@b.test") for n in range(50)]),
]


@pytest.mark.parametrize(("value", "addresses"), ADDRESSES)
def test_names_and_domains_of_addresses_are_encoded(value: str, addresses: list[tuple[str, str]]) -> None:
    for text in (value, surrogates(value.encode())):
        encoded = encode_field("To", text)
        assert encoded.isascii()
        assert max(map(len, encoded.split("\r\n"))) <= 78
        found = read("To", encoded).addresses
        assert [(each.display_name, each.addr_spec) for each in found] == addresses
        assert not read("To", encoded).defects


def test_malformed_address_list_keeps_its_ascii_words() -> None:
    encoded = encode_field("To", "J\u00f6rg a@b <c@d>; \u00c9 e@f")
    assert encoded == "=?utf-8?b?SsO2cmc=?= a@b <c@d>; =?utf-8?b?w4k=?= e@f"


@pytest.mark.parametrize(
    ("value", "params"),
    [
        ('application/pdf; x=1; name="\u00e9 \\"q\\".pdf"', {"x": "1", "name": '\u00e9 "q".pdf'}),
        ('application/pdf;\r\n name=\u00fc;x="1;2"', {"name": "\u00fc", "x": "1;2"}),
        ('application/pdf; a="x; name=1"; name = "\u65e5"', {"a": "x; name=1", "name": "\u65e5"}),
    ],
)
def test_values_of_parameters_are_encoded(value: str, params: dict[str, str]) -> None:
    encoded = encode_field("Content-Type", surrogates(value.encode()))
    assert encoded.isascii()
    assert read("Content-Type", encoded).content_type == "application/pdf"
    assert dict(read("Content-Type", encoded).params) == params


@pytest.mark.parametrize("value", ["t\u00ebxt/plain", 'attachment; filename*0="\u00e9"; filename*1=x', "a; \u00e9"])
def test_malformed_parameters_become_ascii(value: str) -> None:
    assert encode_field("Content-Disposition", value).isascii()


@policies
async def test_fields_set_by_a_program_are_encoded(policy: email.policy.Policy) -> None:
    """They do not need SMTPUTF8, so they are encoded words for every server (RFC 6531 3.4)."""
    message: Any = Message(policy)
    message["From"], message["To"] = "J\u00f6rg <a@b>", "u@b\u00fccher.test"
    message["Subject"] = (
        "Gr\u00fc\u00dfe" if policy is not email.policy.compat32 else Header("Gr\u00fc\u00dfe", "utf-8")
    )
    message["X-A"] = "Gr\u00fc\u00dfe"
    message.set_payload("x\r\n")
    for utf8 in (True, False):
        prepared = await prepare_message(message, eight_bit=True, utf8=utf8)
        assert prepared.octets is not None
        assert (prepared.octets.isascii(), prepared.utf8_header) == (True, False)
        again = parsed(prepared.octets)
        assert (again["Subject"], again["X-A"]) == ("Gr\u00fc\u00dfe", "Gr\u00fc\u00dfe")
        assert [each.addr_spec for each in again["To"].addresses] == ["u@xn--bcher-kva.test"]
        assert again["From"].addresses[0].display_name == "J\u00f6rg"


@policies
async def test_one_field_that_is_not_utf8(policy: email.policy.Policy) -> None:
    text = "From: p\u00e9@b\r\nSubject: caf\u00e9\r\n".encode() + b"X-A: caf\xe9\r\n\r\nx\r\n"
    message = parsed(text, policy)
    prepared = await prepare_message(message, eight_bit=True, utf8=True)
    assert prepared.octets == text.replace(b"caf\xe9\r", b"=?unknown-8bit?q?caf=E9?=\r")
    assert prepared.utf8_header  # because of the address
    del message["From"]
    prepared = await prepare_message(message, eight_bit=True, utf8=True)
    assert not prepared.utf8_header


# --- content --------------------------------------------------------------------------------------------------------


def encoded_content(text: bytes, policy: email.policy.Policy = email.policy.default) -> Any:
    message = parsed(text, policy)
    encode_content(message)
    assert message.as_bytes().isascii()
    return message


MIXED = (
    'MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary="q"\r\nContent-Transfer-Encoding: 8bit\r\n\r\n'
    "pr\u00e9amble\r\n--q\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n\u00e9\r\n"
    "--q\r\nContent-Type: image/png\r\nContent-Transfer-Encoding: binary\r\n\r\n\u00ff\u00fe\r\n"
    "--q\r\nContent-Type: message/rfc822\r\nContent-Transfer-Encoding: 8bit\r\n\r\nSubject: in\r\n\r\n\u00e8\r\n"
    "--q\r\n\r\nplain\r\n--q--\r\n\u00e9pilogue\r\n"
).encode("latin-1")  # fmt: skip


@policies
async def test_all_parts_are_encoded(policy: email.policy.Policy) -> None:
    message = encoded_content(MIXED, policy)
    encodings = [str(part.get("Content-Transfer-Encoding")) for part in message.walk()]
    assert encodings == ["7bit", "quoted-printable", "base64", "7bit", "quoted-printable", "None"]
    contents = [part.get_payload(decode=True) for part in message.walk() if not part.is_multipart()]
    assert [content.strip() for content in contents] == [b"\xe9", b"\xff\xfe", b"\xe8", b"plain"]
    sent = await prepare_message(parsed(MIXED, policy), eight_bit=False, utf8=False)
    assert (sent.eight_bit, sent.octets) == (False, message.as_bytes(policy=message.policy.clone(linesep="\r\n")))


@policies
def test_octets_outside_of_the_declared_encoding(policy: email.policy.Policy) -> None:
    head = b"MIME-Version: 1.0\r\nContent-Type: text/plain\r\nContent-Transfer-Encoding: "
    message = encoded_content(head + b"quoted-printable\r\n\r\n=41\xe9=\r\nb\r\n", policy)
    assert quopri.decodestring(message.get_payload()) == b"A\xe9b\r\n"
    message = encoded_content(head + b"base64 (x)\r\n\r\nQU\xe9FB\r\n", policy)
    assert message.get_payload() == "QUFB\r\n"
    message = encoded_content(head + b"x-odd\r\n\r\n=\xe9\r\n", policy)
    assert message["Content-Transfer-Encoding"] == "quoted-printable"
    assert message.get_payload(decode=True) == b"=\xe9\n"


@policies
async def test_multipart_message_without_its_boundary(policy: email.policy.Policy) -> None:
    text = b"MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=q\r\n\r\n--x\r\n\r\n\xe9\r\n--x--\r\n"
    assert (await prepare_message(parsed(text, policy), eight_bit=True, utf8=True)).octets == text
    sent = await prepare_message(parsed(text, policy), eight_bit=False, utf8=True)
    assert sent.octets is not None
    assert parsed(sent.octets).get_payload() == "--x\r\n\r\n=E9\r\n--x--\r\n"


@policies
async def test_multipart_type_with_octets_above_127(policy: email.policy.Policy) -> None:
    text = b"Content-Type: multipart/m\xe9xed; boundary=q\r\n\r\n--q\r\n\r\nx\r\n--q--\r\n"
    sent = await prepare_message(parsed(text, policy), eight_bit=False, utf8=False)
    assert sent.octets is not None
    assert sent.octets.endswith(b"; boundary=q\r\n\r\n--q\r\n\r\nx\r\n--q--\r\n")


async def test_ascii_content_is_not_changed() -> None:
    text = MIXED.decode("latin-1").encode("ascii", "replace")
    assert (await prepare_message(parsed(text), eight_bit=False, utf8=False)).octets == text


async def test_header_outside_ascii_needs_8bitmime() -> None:
    """RFC 6531 3.1 (8): a server with SMTPUTF8 must offer 8BITMIME. One that does not gets the message in ASCII."""
    text = "Subject: \u00e9\r\n\r\nx\r\n".encode()
    sent = await prepare_message(parsed(text), eight_bit=False, utf8=True)
    assert sent.octets == b"Subject: =?utf-8?b?w6k=?=\r\n\r\nx\r\n"
    with pytest.raises(LocalProtocolError, match="8BITMIME"):
        await prepare_message(parsed("From: \u00e9@a\r\n\r\nx\r\n".encode()), eight_bit=False, utf8=True)
