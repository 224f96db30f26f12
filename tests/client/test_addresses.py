"""Addresses: those that a caller gives, and the envelope from the header fields of an email message."""

from __future__ import annotations

import email
import email.header
import email.policy
import re
from email.headerregistry import Address, Group
from email.message import EmailMessage, Message
from typing import Any

import pytest
from hypothesis import given, strategies as st

from smtp_trio._client.address_list import split_addresses
from smtp_trio._client.addresses import envelope, parse_mailbox
from smtp_trio._client.message import prepare_message
from smtp_trio._client.missing_fields import add_missing_fields
from smtp_trio.protocol.header import header_end

POLICIES = [email.policy.default, email.policy.SMTPUTF8, email.policy.compat32]


def parsed(text: bytes, policy: email.policy.Policy = email.policy.default) -> Message:
    return email.message_from_bytes(text, policy=policy)


def email_message(**fields: str) -> EmailMessage:
    message = EmailMessage()
    for name, value in {"From": "a@b", "To": "c@d", **fields}.items():
        message[name.replace("_", "-")] = value
    message.set_content("Hello\n")
    return message


# --- header fields -----------------------------------------------------------------------------------------------------


def with_each_policy(fields: str) -> list[Message]:
    """Return a message with these fields, parsed with the default policy and with compat32."""
    text = fields.encode() + b"\r\n\r\nx\r\n"
    return [parsed(text), parsed(text, email.policy.compat32)]


@pytest.mark.parametrize(
    ("fields", "sender", "recipients"),
    [
        ("From: a@b\r\nTo: c@d", "a@b", ["c@d"]),
        ("From: a@b\r\nSender: s@b\r\nTo: c@d", "s@b", ["c@d"]),
        ("From: a@b, e@f\r\nTo: c@d", "a@b", ["c@d"]),
        ("From: <a@b>\r\nTo: c@d, e@f\r\nCc: C@d, c@d\r\nBcc: g@h, e@f", "a@b", ["c@d", "e@f", "C@d", "g@h"]),
        ("From: \"A, B\" <a@b>\r\nTo: =?utf-8?q?J=2C_K?= <c@d>,\r\n (c@x) Mr. D (d,) <e@f>", "a@b", ["c@d", "e@f"]),
        ("From: a@b\r\nTo: \"a b\"@c, \"x@y\" <g@[192.0.2.1]>, h@[IPv6:::1]", "a@b", ['"a b"@c', "g@[192.0.2.1]", "h@[IPv6:::1]"]),
        ("From: p\u00e9@b\r\nTo: a@b\u00fccher.test, p\u00e9@\u00fc", "p\u00e9@b", ["a@xn--bcher-kva.test", "p\u00e9@\u00fc"]),
        ("From: J\u00f6rg <a@b>\r\nTo: c@d,, e@f,", "a@b", ["c@d", "e@f"]),
        ("From: x@y <a@b>\r\nTo: 'c@d' <e@f>", "a@b", ["e@f"]),
        ("From: a@b\r\nTo: c@d\r\nTo: e@f", "a@b", ["c@d", "e@f"]),
        ("From: <@relay.test:a@b>\r\nTo: Postmaster", "a@b", ["Postmaster"]),
    ],
)  # fmt: skip
def test_envelope_from_header_fields(fields: str, sender: str, recipients: list[str]) -> None:
    for message in with_each_policy(fields):
        assert envelope(message, None, None) == (sender, recipients)


@pytest.mark.parametrize(
    ("to", "recipients"),
    [
        ("Friends: c@d, \"E\" <e@f>;", ["c@d", "e@f"]), ("x@y, Friends: c@d;, g@h", ["x@y", "c@d", "g@h"]),
        ("undisclosed-recipients:;, c@d", ["c@d"]), ("A: c@d; B: e@f;", ["c@d", "e@f"]), ("\"A: B\": c@d (;),;", ["c@d"]),
    ],
)  # fmt: skip
def test_groups_in_header_fields(to: str, recipients: list[str]) -> None:
    for message in with_each_policy(f"From: a@b\r\nTo: {to}"):
        assert envelope(message, None, None) == ("a@b", recipients)


LONG = "victim@evil.test, " + "x " * 40
OBJECTS: list[Any] = [
    Address(LONG, "to", "d.test"),
    Address("victim@evil.test, x", "to", "d.test"),
    Address("J\u00f6rg, " + LONG, "to", "d.test"),
    Address("a" * 90 + ", v@evil.test", "to", "d.test"),
    Address('a "b" <v@evil.test> ' + "x " * 40, "to", "d.test"),
    Address("x; y: z " * 12, "to", "d.test"),
    Address("back\\slash\\" * 8 + ",", "to", "d.test"),
    Address("", "a b, c@d", "d.test"),
    Address("victim@evil.test " + "x " * 40, "to", "d.test"),
    Address("x " * 30 + "victim@evil.test", "to", "d.test"),
    Address("victim@evil.test" + "x" * 70, "to", "d.test"),
    Address("[x] " * 25, "to", "d.test"),
    Group("victim@evil.test" + "x" * 70, (Address("v@evil.test " * 8, "to", "d.test"),)),
    Address("n" * 80, "a" * 60, "e" * 60 + ".test"),
    Group("G, x@evil.test " * 8, (Address("q", "to", "d.test"), Address("r, v@evil.test " * 8, "cc", "d.test"))),
    [Address(f"x, y@evil.test, {n} " * 5, f"to{n}", "d.test") for n in range(5)],
    f'"{LONG}" <to@d.test>',
    "=?utf-8?q?victim=40evil.test=2C_x?= <to@d.test>",
    "=?utf-8?b?dmljdGltQGV2aWwudGVzdCwgeA==?= <to@d.test>, =?utf-8?q?G=3B=2C?= : cc@d.test;",
    f"to@d.test, (v@evil.test, {LONG}) cc@d.test",
    "Mr. X <to@d.test>,, Postmaster, <@relay.test:cc@d.test>",
]


@pytest.mark.parametrize("policy", [email.policy.default, email.policy.SMTPUTF8], ids=["default", "SMTPUTF8"])
@pytest.mark.parametrize("value", OBJECTS)
async def test_addresses_are_those_of_the_object(value: Any, policy: email.policy.Policy) -> None:
    """The generator of the email package makes other addresses of some names when it folds or decodes them."""
    message = EmailMessage(policy)
    message["To"], message["Reply-To"], message["From"], message["Subject"] = value, value, "a@b", "hi"
    message.set_content("x")
    expected = [address.addr_spec for address in message["To"].addresses]
    assert envelope(message, None, None) == ("a@b", expected)
    for utf8 in (False, True):
        prepared = await prepare_message(message, eight_bit=True, utf8=utf8)
        assert prepared.octets is not None
        sent: Any = parsed(prepared.octets)
        assert sent.keys() == message.keys()
        for name in ("To", "Reply-To"):
            assert split_addresses(str(sent.get(name)).replace("\r\n", "")) is not None
            assert [address.addr_spec for address in sent[name].addresses] == expected
        assert envelope(sent, None, None) == ("a@b", expected)
        assert max(map(len, prepared.octets.split(b"\r\n"))) <= 998


async def test_fields_are_written_anew_if_the_generator_cannot_fold_them() -> None:
    message = EmailMessage(email.policy.default.clone(max_line_length=20))
    message["To"] = Group("<victim@evil.test>", (Address("", "to", "d.test"),))
    prepared = await prepare_message(message, eight_bit=True, utf8=True)
    assert prepared.octets == b'To: "<victim@evil.test>": to@d.test;\r\n\r\n'


@pytest.mark.parametrize(
    ("text", "addresses"),
    [
        ('"a@b" <c@d>, a.b <c@d>, (a@b) x <c@d>, "a\\"@b" x <c@d>', ["c@d"] * 4),
        ('a@b, "a b"@c, a@[1.2.3.4]', ["a@b", '"a b"@c', "a@[1.2.3.4]"]),
        ('g: a@b, "x@y" <c@d>;', ["a@b", "c@d"]),
        ("a@b <c@d>", None),
        ('"a@b"@c <c@d>', None),
        ("[x] <c@d>", None),
        ("x\\y <c@d>", None),
        ("g@h: a@b;", None),
    ],
)
def test_strict_address_list(text: str, addresses: list[str] | None) -> None:
    """Other parsers read an @ in a name as an address."""
    assert split_addresses(text, strict=True) == addresses
    assert split_addresses(text) is not None


IDN: list[tuple[Any, str, list[str]]] = [
    (Address("B\u00fc", "u", "b\u00fccher.test"), "B\u00fc", ["u@xn--bcher-kva.test"]),
    (Address("", "u", "\u4f8b\u3048\u3002\u30c6\u30b9\u30c8"), "", ["u@xn--r8jz45g.xn--zckzah"]),
    ("Plain <u@b\uff0ec\uff61test>, x@y", "Plain", ["u@b.c.test", "x@y"]),
    (Group("G\u00e9", (Address("", "u", "\u00fc.test"), Address("a, b", "v", "d.test"))), "", ["u@xn--tda.test", "v@d.test"]),
]  # fmt: skip


@pytest.mark.parametrize("policy", POLICIES, ids=["default", "SMTPUTF8", "compat32"])
@pytest.mark.parametrize(("value", "name", "expected"), IDN)
async def test_domains_in_header_fields_are_a_labels(
    value: Any, name: str, expected: list[str], policy: email.policy.Policy
) -> None:
    """As in the envelope, so that the message does not need SMTPUTF8."""
    message: Any = Message(policy) if policy is email.policy.compat32 else EmailMessage(policy)
    message["From"] = "a@b"
    for field in ("To", "Reply-To", "Cc"):
        message[field] = str(value) if policy is email.policy.compat32 else value
    message.set_payload("x\r\n")
    assert envelope(message, None, None) == ("a@b", expected)
    for utf8 in (False, True):
        prepared = await prepare_message(message, eight_bit=True, utf8=utf8)
        assert prepared.octets is not None
        assert not prepared.utf8_header
        sent: Any = parsed(prepared.octets)
        for field in set(message.keys()) - {"From"}:
            assert [address.addr_spec for address in sent[field].addresses] == expected
            assert (sent[field].addresses[0].display_name or "") == name


@pytest.mark.parametrize("value", ["a@b c@d", "x@y <a@b>", "a b@c", "a@b; c@d", f'"{LONG}" <to@d>, x y'])
async def test_malformed_text_names_no_envelope(value: str) -> None:
    message = EmailMessage()
    message["To"], message["From"] = value, "a@b"
    with pytest.raises(ValueError, match="To is malformed"):
        envelope(message, None, None)
    assert (await prepare_message(message, eight_bit=True, utf8=True)).octets


async def test_address_that_cannot_be_written() -> None:
    message = EmailMessage()
    message["To"], message["From"] = Address("n", "a", "b>, <victim@evil.test"), "a@b"
    with pytest.raises(ValueError, match="address in To"):
        envelope(message, None, None)
    with pytest.raises(ValueError, match="To cannot be written"):
        await prepare_message(message, eight_bit=True, utf8=True)


@pytest.mark.parametrize("preface", ["\ufeff", "From x y\n", ">From x\n", "\ufeffFrom x\n"])
def test_envelope_after_a_byte_order_mark_or_an_mbox_line(preface: str) -> None:
    for message in with_each_policy(f"{preface}From: a@b\r\nTo: c@d\r\nBcc: e@f"):
        assert envelope(message, None, None) == ("a@b", ["c@d", "e@f"])
    message = email.message_from_string(f"{preface}From: a@b\nTo: c@d\n\n\u00e9\u00e9\n")
    assert envelope(message, None, None) == ("a@b", ["c@d"])


@pytest.mark.parametrize(
    "text",
    ["From: a@b\nTo: c@d\nBcc: e@f\nX: \u00e9\n\nx\n\ny: z\n", "Received: x\n by y\nFrom: a@b\nTo: c@d\nBcc: e@f\n\n"],
)
async def test_lines_that_end_in_cr_cr_lf(text: str) -> None:
    """The parser takes the second CR for a line end, so that the header has one field."""
    for policy in POLICIES:
        message = parsed(text.replace("\n", "\r\r\n").encode(), policy)
        assert envelope(message, None, None) == ("a@b", ["c@d", "e@f"])
        prepared = await prepare_message(message, eight_bit=True, utf8=True)
        assert prepared.octets == text.replace("Bcc: e@f\n", "").replace("\n", "\r\n").encode()


DAMAGED = [
    ("From: a@b\r\nTo: c@d\r\nhello there\r\nCc: e@f\r\nBcc: g@h\r\n\r\nx\r\n", "'hello there' is not a header field", True),
    ("From: a@b\nTo: c@d\nBcc : g@h\n\nx\n", "'Bcc : g@h' is not", True),
    ("From: a@b\rTo: c@d\rBcc: e@f\rhello\r", "'hello' is not", False),
    ("From: a@b\nTo: c@d\nhello\n\nBcc: e@f\n", "'hello' is not", False),
    (" From: x@y\nFrom: a@b\nTo: c@d\n\nx\n", "' From: x@y' is not", False),
    ("From: a@b\nTo: c@d\n: e@f\nCc: g@h\n\nx\n", "begins with a colon", False),
    ("From: a@b\nTo: c@d\nFrom x y\nCc: g@h\n\nx\n", "'From x y' is not", False),
    ("From: a@b\nTo: c@d\nContent-Type: message/rfc822\n(x)\nresent-bcc:e@f\n\nx\n", "'(x)' is not", True),
    ("From: a@b\nTo: c@d\nContent-Type: multipart/mixed; boundary=b\n?\nBCC: e@f\n\n--b\n\nx\n--b--\n", "'?' is not", True),
    ("From: a@b\nTo: c@d\nX-\u00e9: d\nbcc: e@f\n\nx\n", "is not a header field", True),
    ("\nFrom: a@b\nTo: c@d\nBcc: e@f\n\nx\n", "begins with an empty line", True),
    ("\r\n\r\nSubject: x\r\nresent-bcc: e@f\r\n\r\nx\r\n", "begins with an empty line", True),
    (" \t\n\nFrom: a@b\nBcc: e@f\n\nx\n", "' \\t' is not", True),
    ("\nFrom: a@b\nTo: c@d\n\nBcc: e@f\n", "begins with an empty line", False),
]  # fmt: skip


@pytest.mark.parametrize(("text", "problem", "leaks"), DAMAGED)
async def test_damaged_header_names_no_envelope(text: str, problem: str, leaks: bool) -> None:
    """A line that is not a field, or is empty, ends the header for the parser, or it is dropped."""
    for policy in POLICIES:
        message = parsed(text.encode(), policy)
        for sender, recipients in [(None, None), ("a@b", None), (None, ["c@d"])]:
            with pytest.raises(ValueError, match=re.escape(problem)):
                envelope(message, sender, recipients)
        assert envelope(message, "a@b", ["c@d"]) == ("a@b", ["c@d"])
        if leaks:
            for sent in (message, add_missing_fields(message, "a@b")):
                with pytest.raises(ValueError, match=re.escape(problem)):
                    await prepare_message(sent, eight_bit=True, utf8=True)
        else:
            prepared = await prepare_message(message, eight_bit=True, utf8=True)
            assert prepared.octets is not None
            assert b"Bcc" not in prepared.octets[: header_end(prepared.octets)]


@pytest.mark.parametrize(
    "text", ["\nhello\n\nBcc: a@b\n", "\nNote: hello\n", "\n\nhello\nBcc: a@b\n", "\n", "Date: x\n\nhello, Bcc: a@b\n"]
)
async def test_text_without_fields_is_sent(text: str) -> None:
    for policy in POLICIES:
        prepared = await prepare_message(parsed(text.encode(), policy), eight_bit=True, utf8=True)
        assert prepared.octets == text.replace("\n", "\r\n").encode()


@pytest.mark.parametrize(
    "text",
    [
        "From a@b Mon\nFrom: a@b\nTo: c@d\n\nx",
        "From: a@b\nTo: c@d",
        "From: a@b\r\nTo: c@d\r\n\r\nx: y\r\r\n",
        "From: a@b\nTo:\n c@d\n\t\n\nx",
    ],
)
def test_undamaged_header(text: str) -> None:
    for policy in POLICIES:
        assert envelope(parsed(text.encode(), policy), None, None) == ("a@b", ["c@d"])


def test_bcc_is_part_of_the_envelope() -> None:
    assert envelope(email_message(Bcc="secret@d"), None, None) == ("a@b", ["c@d", "secret@d"])


RESENT = "Resent-Date: Mon, 1 Jan 2024 00:00:00 +0000\r\nResent-From: r@s, q@s\r\nResent-To: t@u\r\n"


@pytest.mark.parametrize(
    ("resent", "sender", "recipients"),
    [
        (RESENT, "r@s", ["t@u"]),
        (RESENT + "Resent-Sender: v@w\r\nResent-Cc: x@y\r\nResent-Bcc: z@y, t@u\r\n", "v@w", ["t@u", "x@y", "z@y"]),
        # RFC 5322 3.6.6 requires Resent-Date, but without it the message was resent too.
        ("Resent-From: r@s\r\nResent-To: t@u\r\n", "r@s", ["t@u"]),
    ],
)
def test_resent_fields(resent: str, sender: str, recipients: list[str]) -> None:
    for message in with_each_policy(resent + "From: a@b\r\nSender: s@b\r\nTo: c@d\r\nBcc: e@f"):
        assert envelope(message, None, None) == (sender, recipients)
        assert envelope(message, "", None) == ("", recipients)


def test_resent_more_than_once() -> None:
    for message in with_each_policy(RESENT + RESENT + "From: a@b\r\nTo: c@d"):
        assert envelope(message, "x@y", ["z@y"]) == ("x@y", ["z@y"])
        for sender, recipients in ((None, None), ("x@y", None), (None, ["z@y"])):
            with pytest.raises(ValueError, match="resent more than once"):
                envelope(message, sender, recipients)
    for message in with_each_policy(RESENT + "Resent-From: x@y\r\nFrom: a@b"):
        with pytest.raises(ValueError, match="resent more than once"):
            envelope(message, None, None)


def test_resent_without_recipients() -> None:
    for message in with_each_policy("Resent-From: r@s\r\nFrom: a@b\r\nTo: c@d"):
        with pytest.raises(ValueError, match="no address in Resent-To, Resent-Cc, Resent-Bcc"):
            envelope(message, None, None)


def test_given_sender_and_recipients() -> None:
    for message in with_each_policy("From: a@b\r\nTo: c@d"):
        assert envelope(message, "", None) == ("", ["c@d"])
        assert envelope(message, None, iter(["x@y"])) == ("a@b", ["x@y"])
    for message in with_each_policy("From: <>\r\nTo: c@d"):
        with pytest.raises(ValueError, match=r"address in From: '' is not an address"):
            envelope(message, None, None)


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ("To: c@d", "no sender: no address in Sender or From"), ("From: a@b", "no address in To, Cc, Bcc"),
        ("From:\r\nTo: c@d", "no sender"), ("From: a@b\r\nTo: undisclosed-recipients:;", "no recipients"),
        ("From: a@b\r\nTo: c@d e@f", "address in To"), ("From: a@b\r\nTo: Fred c@d", "address in To"),
        ("From: a@b\r\nCc: c@d; e@f", "Cc is malformed"), ("From: a@b\r\nTo: <c@d", "To is malformed"),
        ("From: a@b\r\nTo: c@d\r\nBcc: c@d>", "Bcc is malformed"), ("From: a@b\r\nTo: <c@d> <e@f>", "To is malformed"),
        ("From: a@b\r\nTo: <c@d> e", "To is malformed"), ("From: a@b\r\nTo: A: B: c@d;;", "To is malformed"),
        ("From: a@b\r\nTo: A: c@d", "To is malformed"), ("From: a@b\r\nTo: \"c@d", "To is malformed"),
        ("From: a@b\r\nTo: <c@d>: e@f;", "To is malformed"), ("From: a@b\r\nTo: c@", "address in To"),
        ("From: @b\r\nTo: c@d", "address in From"), ("Sender: x\r\nFrom: a@b\r\nTo: c@d", "address in Sender"),
        ("From: a@b\r\nTo: " + "l" * 65 + "@d", "address in To.*too long"), ("From: a@b\r\nTo: c\x01@d", "address in To"),
    ],
)  # fmt: skip
def test_invalid_header_fields(fields: str, error: str) -> None:
    for message in with_each_policy(fields):
        with pytest.raises(ValueError, match=error):
            envelope(message, None, None)


def test_header_fields_that_are_not_utf8() -> None:
    for policy in POLICIES:
        with pytest.raises(ValueError, match="address in To"):
            envelope(parsed(b"From: a@b\r\nTo: \xe9@d\r\n\r\n", policy), None, None)
        assert envelope(parsed(b"From: a@b\r\nTo: \xe9 <c@d>\r\n\r\n", policy), None, None) == ("a@b", ["c@d"])


def test_fields_set_by_a_program() -> None:
    people = [
        f"Recipient {n}, \u00e9 <recipient{n}@b\u00fccher.test>".replace(", \u00e9", " \u00e9") for n in range(30)
    ]
    message = email_message(Cc=", ".join(people), Bcc="Team: p\u00e9@d, c@d;")
    expected = ["c@d", *(f"recipient{n}@xn--bcher-kva.test" for n in range(30)), "p\u00e9@d"]
    assert envelope(message, None, None) == ("a@b", expected)
    old = Message()
    old["From"], old["To"] = "J\u00f6rg <a@b>", "\u00c9mile <p\u00e9@d>"
    assert envelope(old, None, None) == ("a@b", ["p\u00e9@d"])
    old["Cc"] = email.header.Header("c@d, e@f")  # type: ignore[assignment]  # compat32 accepts it
    assert envelope(old, None, None)[1] == ["p\u00e9@d", "c@d", "e@f"]


@given(st.text(st.sampled_from('a@b,;:<>()[]"\\ \u00e9='), max_size=30))
def test_lists_can_be_joined(text: str) -> None:
    """A list joined with itself, or put into a group, has the same addresses."""
    one = split_addresses(text)
    if one is not None:
        assert split_addresses(f"{text},{text}") == one * 2
        assert split_addresses(f"Group: {text};") in (one, None)


@pytest.mark.parametrize(
    "text", ["(" * 50000, '"' * 50001, "<" * 50000, "()" * 25000 + "(", "a " * 25000, '<"' * 25000, "(()" * 20000]
)
def test_long_malformed_list_takes_linear_time(text: str) -> None:
    """The time limit of the test suite would be exceeded otherwise."""
    assert split_addresses(text) in (None, [text.strip()], [])


# --- addresses ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "raw", "domain"),
    [
        ("a@b", "a@b", "b"), ("<a@B>", "a@B", "b"), ('"a b"@c', '"a b"@c', "c"), ("a@[192.0.2.1]", "a@[192.0.2.1]", "[192.0.2.1]"),
        ("Postmaster", "Postmaster", None), ("p\u00e9@d", "p\u00e9@d", "d"), ("p\u00e9@\u00e9", "p\u00e9@\u00e9", "xn--9ca"),
        ("a@B\u00fccher.test", "a@xn--bcher-kva.test", "xn--bcher-kva.test"), ("<@x,@y:a@b>", "a@b", "b"),
        ('"p\u00e9"@\u00e9\u3002x', "p\u00e9@\u00e9.x", "xn--9ca.x"), ('"a\u3002\u00e9 b"@c', '"a\u3002\u00e9 b"@c', "c"),
        ("l" * 64 + "@" + ".".join(["d" * 62] * 3), "l" * 64 + "@" + ".".join(["d" * 62] * 3), ".".join(["d" * 62] * 3)),
    ],
)  # fmt: skip
def test_valid_address(text: str, raw: str, domain: str | None) -> None:
    path = parse_mailbox(text, "sender")
    assert (path.raw, path.domain, path.bracketed) == (raw, domain, True)


@pytest.mark.parametrize("text", ["", "<>"])
def test_null_path(text: str) -> None:
    assert parse_mailbox(text, "sender", null=True).is_null
    with pytest.raises(ValueError, match=r"recipient: .* is not an address"):
        parse_mailbox(text, "recipient")


@pytest.mark.parametrize("null", [False, True])
@pytest.mark.parametrize(
    "text",
    [
        "a@b\r\nRSET", "a@b\n", "a\r@b", "a\0@b", "a@b\x7f", "a\x85@b", "a\u2028@b", "a\ud800@b", " a@b", "a@b ", "a b@c",
        "a@b> SIZE=1", "<a@b", "a@b>", "<<a@b>>", "a", "@b", "a@", "a@b.", "a@@b", "a@b,c@d", "a@[1.2.3]", "a@[IPv6:fe80::1%1]",
        "l" * 65 + "@d", "\u00e9" * 33 + "@d", "a@" + "d" * 253, "< >",
    ],
)  # fmt: skip
def test_invalid_address(text: str, null: bool) -> None:
    with pytest.raises(ValueError, match=r"^recipient 7: "):
        parse_mailbox(text, "recipient 7", null=null)


@pytest.mark.parametrize("text", ["Fred <a@b>", '"F" <a@b>', "a@b <c@d>"])
def test_address_with_a_display_name(text: str) -> None:
    with pytest.raises(ValueError, match="without a display name"):
        parse_mailbox(text, "sender")
