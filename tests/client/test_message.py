"""What a client is given to send: made ready, never changed; and who it goes to."""

from __future__ import annotations

import copy
import email
import email.header
import email.policy
import os
import pathlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from email.message import EmailMessage, Message
from typing import Any

import pytest
import trio
from hypothesis import given, strategies as st

from smtp_trio import LocalProtocolError
from smtp_trio._client.addresses import envelope, parse_mailbox, split_addresses
from smtp_trio._client.message import PIECE, PreparedMessage, prepare_message
from smtp_trio.protocol.dot_stuffing import normalize_message

# Those with a header and an empty line behind it: the email package gives one to those that have none.
WHOLE = {
    path.stem: normalize_message(path.read_bytes())
    for path in sorted((pathlib.Path(__file__).parents[1] / "mails").glob("*.eml"))
    if path.stem not in ("dot-first", "header-only")
}


async def read(ready: PreparedMessage) -> bytes:
    async with aclosing(ready.pieces()) as pieces:
        return b"".join([piece async for piece in pieces])


async def ready(message: Any, *, eight_bit: bool = True, utf8: bool = True, binary: bool = False) -> PreparedMessage:
    return await prepare_message(message, eight_bit=eight_bit, utf8=utf8, binary=binary)


async def octets(message: Any, **offered: bool) -> bytes:
    made = await ready(message, **offered)
    assert made.octets is not None
    assert (await read(made), made.size) == (made.octets, len(made.octets))
    return made.octets


def letter(**fields: str) -> EmailMessage:
    message = EmailMessage()
    for name, value in {"From": "a@b", "To": "c@d", **fields}.items():
        message[name.replace("_", "-")] = value
    message.set_content("Hello\n")
    return message


# --- bytes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
async def test_bytes_of_every_kind(kind: Callable[[bytes], object]) -> None:
    made = await ready(kind(b"A: b\n\nc\rd\r\n"))
    assert made == PreparedMessage(b"A: b\r\n\r\nc\r\nd\r\n", 14, eight_bit=False, utf8_header=False)
    assert made.repeatable
    assert [await read(made), await read(made)] == [b"A: b\r\n\r\nc\r\nd\r\n"] * 2


async def test_bytes_that_are_right_are_not_copied() -> None:
    text = b"A: b\r\n\r\nc\r\n" * 1000
    assert (await ready(text)).octets is text


async def test_binary_is_left_alone() -> None:
    text = b"A: b\r\n\r\n\r\0\n\xff\r"
    made = await ready(text, binary=True)
    assert (made.octets, made.eight_bit) == (text, True)


async def test_long_messages_come_in_pieces() -> None:
    text = b"A: b\r\n\r\n" + b"x" * 3 * PIECE + b"\r\n"
    async with aclosing((await ready(text)).pieces()) as pieces:
        sizes = [len(piece) async for piece in pieces]
    assert (max(sizes), sum(sizes), len(sizes)) == (PIECE, len(text), 4)
    assert await read(await ready(b"")) == b""


@pytest.mark.parametrize(
    ("text", "eight_bit", "utf8_header"),
    [
        (b"A: b\r\n\r\nc\r\n", False, False), (b"A: b\r\n\r\n\xe9\r\n", True, False), (b"A: \xc3\xa9\r\n\r\nc\r\n", True, True),
        (b"A: \xc3\xa9", True, True), (b"\r\n\xe9", True, False), (b"A: b\n\n\xe9\n\nc\n", True, False), (b"", False, False),
    ],
)  # fmt: skip
async def test_what_it_needs_of_the_server(text: bytes, eight_bit: bool, utf8_header: bool) -> None:
    made = await ready(text)
    assert (made.eight_bit, made.utf8_header) == (eight_bit, utf8_header)
    if eight_bit:
        with pytest.raises(
            LocalProtocolError,
            match=r"not ehlo_reply SMTPUTF8" if utf8_header else r"not ehlo_reply 8BITMIME.*RFC 6152",
        ):
            await ready(text, eight_bit=False, utf8=False)
    if utf8_header:  # UTF-9: refused before anything is sent (RFC 6531 3.5)
        with pytest.raises(LocalProtocolError, match=r"not ehlo_reply SMTPUTF8.*RFC 6531"):
            await ready(text, utf8=False)
    else:
        assert await ready(text, utf8=False) == made


async def test_a_str_is_no_message() -> None:
    with pytest.raises(TypeError, match=r"encode it, or use email\.message\.EmailMessage"):
        await ready("A: b\r\n\r\nc\r\n")
    with pytest.raises(TypeError, match="not list"):
        await ready([b"A: b\r\n"])


# --- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [pathlib.Path, trio.Path])
async def test_a_file(tmp_path: pathlib.Path, kind: Callable[[pathlib.Path], Any]) -> None:
    path = tmp_path / "a.eml"
    path.write_bytes(b"A: b\n\n" + b"x\n" * PIECE + b"\r")
    made = await ready(kind(path))
    assert (made.octets, made.size, made.eight_bit, made.utf8_header) == (None, 2 * PIECE + 7, None, False)
    assert made.repeatable
    assert [await read(made), await read(made)] == [b"A: b\r\n\r\n" + b"x\r\n" * PIECE + b"\r\n"] * 2
    assert await read(await ready(kind(path), binary=True)) == path.read_bytes()


async def test_a_file_with_octets_that_the_server_does_not_take(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a.eml"
    path.write_bytes(b"A: b\r\n\r\n\xe9\r\n")
    assert await read(await ready(path)) == path.read_bytes()
    with pytest.raises(LocalProtocolError, match="not ehlo_reply 8BITMIME"):
        await read(await ready(path, eight_bit=False))


async def test_a_file_that_is_none(tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError):
        await ready(tmp_path / "none.eml")
    path = tmp_path / "fifo"
    os.mkfifo(path)
    assert (await ready(path)).size is None


async def test_a_file_is_closed_whatever_happens(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a.eml"
    path.write_bytes(b"x\r\n" * PIECE)

    def open_here() -> list[str]:
        return [link for link in os.listdir("/proc/self/fd") if _target(link) == str(path)]

    made = await ready(path)
    with pytest.raises(KeyError):
        async with aclosing(made.pieces()) as pieces:
            async for _ in pieces:
                assert len(open_here()) == 1
                raise KeyError
    assert open_here() == []
    with trio.CancelScope() as scope:
        async with aclosing(made.pieces()) as pieces:
            async for _ in pieces:
                scope.cancel()
    assert scope.cancelled_caught
    assert open_here() == []


def _target(link: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{link}")
    except FileNotFoundError:  # that of the listing itself
        return ""


# --- async iterables ------------------------------------------------------------------------------------------------


class Source:
    """An async iterable of these; an exception among them is raised."""

    def __init__(self, *items: object) -> None:
        self.items = items
        self.closed = False

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._generate()

    async def _generate(self) -> AsyncGenerator[Any, None]:
        try:
            for item in self.items:
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            self.closed = True


async def test_an_iterable_is_mended_across_its_pieces() -> None:
    made = await ready(Source(b"A: b\r", bytearray(b"\n\r"), b"", memoryview(b"c\n."), b"\r"))
    assert (made.octets, made.size, made.eight_bit, made.repeatable) == (None, None, None, False)
    assert await read(made) == b"A: b\r\n\r\nc\r\n.\r\n"
    assert await read(await ready(Source(b"a\r", b"b\n"), binary=True)) == b"a\rb\n"


async def test_a_channel_is_an_iterable_and_stays_open() -> None:
    send, receive = trio.open_memory_channel[bytes](2)
    send.send_nowait(b"A: b\n")
    send.send_nowait(b"\nc\n")
    async with aclosing((await ready(receive)).pieces()) as pieces:
        assert await anext(pieces) == b"A: b\r\n"
    assert receive.receive_nowait() == b"\nc\n"


async def test_its_exceptions_pass_unchanged() -> None:
    error = KeyError("mine")
    source = Source(b"a", error)
    with pytest.raises(KeyError) as caught:
        await read(await ready(source))
    assert caught.value is error


async def test_a_generator_is_closed_when_it_is_left() -> None:
    source = Source(b"a", b"b")
    async with aclosing((await ready(source)).pieces()) as pieces:
        await anext(pieces)
        assert not source.closed
    assert source.closed


@pytest.mark.parametrize("item", ["text", None, 5, [b"a"]])
async def test_a_piece_that_is_not_bytes(item: object) -> None:
    source = Source(b"a", item)
    with pytest.raises(TypeError, match=f"must be bytes, not {type(item).__name__}"):
        await read(await ready(source))
    assert source.closed


async def test_a_piece_that_the_server_does_not_take() -> None:
    with pytest.raises(LocalProtocolError, match="not ehlo_reply 8BITMIME"):
        await read(await ready(Source(b"a", b"\xe9"), eight_bit=False))


# --- email messages -------------------------------------------------------------------------------------------------


def parsed(text: bytes, policy: email.policy.Policy = email.policy.default) -> Message:
    return email.message_from_bytes(text, policy=policy)


POLICIES = [email.policy.default, email.policy.SMTPUTF8, email.policy.compat32]


@pytest.mark.parametrize("policy", POLICIES, ids=["default", "SMTPUTF8", "compat32"])
@pytest.mark.parametrize("text", WHOLE.values(), ids=WHOLE)
async def test_what_was_parsed_is_sent_as_it_was(text: bytes, policy: email.policy.Policy) -> None:
    assert await octets(parsed(text, policy)) == text


SIGNED = (
    b"DKIM-Signature: v=1; a=rsa-sha256; d=example.org; s=s;\r\n\th=from : to;  bh=" + b"x" * 120 + b";\r\n b=" + b"y" * 90 + b"\r\n"
    b"From: =?utf-8?q?J=C3=B6rg?=   <a@b>  \r\nTo: c@d,\r\n\te@f\r\nSubject: " + b"word " * 40 + b"\r\n"
    b"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
    b"From the beginning\r\ncaf\xc3\xa9 " + b"z" * 1200 + b"\r\n.\r\n\r\n"
)  # fmt: skip


@pytest.mark.parametrize("policy", POLICIES, ids=["default", "SMTPUTF8", "compat32"])
async def test_a_signed_message_is_sent_as_it_was_but_for_bcc(policy: email.policy.Policy) -> None:
    message = parsed(b"Bcc: x@y,\r\n z@y\r\nResent-Bcc: x@y\r\n" + SIGNED, policy)
    before = copy.deepcopy(message).as_bytes()
    assert await octets(message) == SIGNED
    assert message.as_bytes() == before
    assert message["Bcc"] is not None


@pytest.mark.parametrize("policy", POLICIES, ids=["default", "SMTPUTF8", "compat32"])
async def test_eight_bits_are_encoded_when_they_must_be(policy: email.policy.Policy) -> None:
    made = await ready(parsed(SIGNED, policy), eight_bit=False)
    assert made.octets is not None
    assert (made.octets.isascii(), made.eight_bit) == (True, False)
    again = email.message_from_bytes(made.octets, policy=email.policy.default)
    assert again.get_content().split()[3] == "caf\u00e9"
    assert "z" * 1200 in again.get_content()


async def test_what_is_ascii_is_not_encoded_anew() -> None:
    text = SIGNED.replace(b"\xc3\xa9", b"e")
    assert await octets(parsed(text), eight_bit=False, utf8=False) == text


@pytest.mark.parametrize("kind", [b"text/plain", b"text/plain; charset=x-other", b"application/octet-stream"])
async def test_eight_bits_that_cannot_be_encoded(kind: bytes) -> None:
    """Nobody knows what they mean. They are refused, not guessed at."""
    message = parsed(b"From: a@b\r\nContent-Type: " + kind + b"\r\n\r\n\xe9\r\n")
    assert (await ready(message)).eight_bit
    with pytest.raises(LocalProtocolError, match="not ehlo_reply 8BITMIME"):
        await ready(message, eight_bit=False)


async def test_names_and_subjects_need_no_smtputf8() -> None:
    message = letter(From="J\u00f6rg \u00c9. <a@b>", Subject="caf\u00e9 " * 30 + "x")
    message.set_content("caf\u00e9\n", cte="8bit")
    made = await ready(message)
    assert (made.eight_bit, made.utf8_header) == (True, False)
    assert made.octets is not None
    again = email.message_from_bytes(made.octets, policy=email.policy.default)
    assert (again["From"].addresses[0].display_name, again["Subject"]) == (
        "J\u00f6rg \u00c9.",
        "caf\u00e9 " * 30 + "x",
    )
    assert max(map(len, made.octets.split(b"\r\n"))) <= 78
    assert (await octets(message, eight_bit=False, utf8=False)).isascii()


@pytest.mark.parametrize("field", ["From", "Sender", "Reply_To", "To", "Cc", "Resent_To"])
async def test_UTF_9_addresses_need_smtputf8(field: str) -> None:
    message = letter()
    del message[field.replace("_", "-")]
    message[field.replace("_", "-")] = "J <p\u00e9@b\u00fccher.test>"
    made = await ready(message)
    assert made.utf8_header
    assert made.octets is not None
    assert "p\u00e9@b\u00fccher.test".encode() in made.octets
    with pytest.raises(LocalProtocolError, match="not ehlo_reply SMTPUTF8"):
        await ready(message, utf8=False)


async def test_UTF_9_a_bcc_needs_nothing() -> None:
    assert (await octets(letter(Bcc="p\u00e9@b"), utf8=False)).isascii()


@pytest.mark.parametrize("policy", POLICIES, ids=["default", "SMTPUTF8", "compat32"])
async def test_raw_utf8_in_a_field(policy: email.policy.Policy) -> None:
    text = "From: a@b\r\nSubject: caf\u00e9\r\n\r\nx\r\n".encode()
    made = await ready(parsed(text, policy))
    assert (made.octets, made.utf8_header) == (text, True)
    assert (await octets(parsed(text, policy), utf8=False)).isascii()


@pytest.mark.parametrize("policy", POLICIES, ids=["default", "SMTPUTF8", "compat32"])
async def test_raw_utf8_in_a_field_of_a_part(policy: email.policy.Policy) -> None:
    text = (
        "From: a@b\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=x\r\n\r\n"
        "--x\r\nContent-Description: caf\u00e9\r\n\r\nx\r\n--x--\r\n"
    ).encode()
    assert await octets(parsed(text, policy)) == text


async def test_long_lists_of_an_old_message_are_folded() -> None:
    message = Message()
    message["From"], message["To"] = "a@b", ", ".join(f"recipient{n}@example.org" for n in range(200))
    message.set_payload("x\n")
    sent = await octets(message)
    assert max(map(len, sent.split(b"\r\n"))) <= 998
    assert len(envelope(parsed(sent), None, None)[1]) == 200


@pytest.mark.parametrize("nested", [False, True])
async def test_a_message_is_never_changed(nested: bool) -> None:
    message = letter(Bcc="x@y")
    message.add_attachment(b"\xff" * 100, maintype="application", subtype="octet-stream", filename="\u00e9")
    if nested:
        outer = letter(Bcc="x@y")
        outer.make_mixed()
        outer.attach(message)
        message = outer
    fields = [[(name, str(value)) for name, value in part.items()] for part in message.walk()]
    policies = [part.policy for part in message.walk()]
    sent = await octets(message, eight_bit=False, utf8=False)
    assert [[(name, str(value)) for name, value in part.items()] for part in message.walk()] == fields
    assert [part.policy for part in message.walk()] == policies
    # Only what is sent itself has no Bcc; a message within it is content.
    assert sent.count(b"Bcc") == nested
    assert sent.count(b"\n") == sent.count(b"\r\n")


async def test_text_that_was_never_encoded() -> None:
    message = email.message_from_string("From: a@b\n\ncaf\u00e9\n", policy=email.policy.default)
    with pytest.raises(ValueError, match="parse it from bytes"):
        await ready(message)


# --- the envelope ---------------------------------------------------------------------------------------------------


def both(fields: str) -> list[Message]:
    """A message with these fields, as the two kinds of messages have it."""
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
def test_CLI_13_the_envelope(fields: str, sender: str, recipients: list[str]) -> None:
    for message in both(fields):
        assert envelope(message, None, None) == (sender, recipients)


@pytest.mark.parametrize(
    ("to", "recipients"),
    [
        ("Friends: c@d, \"E\" <e@f>;", ["c@d", "e@f"]), ("x@y, Friends: c@d;, g@h", ["x@y", "c@d", "g@h"]),
        ("undisclosed-recipients:;, c@d", ["c@d"]), ("A: c@d; B: e@f;", ["c@d", "e@f"]), ("\"A: B\": c@d (;),;", ["c@d"]),
    ],
)  # fmt: skip
def test_CLI_13_groups(to: str, recipients: list[str]) -> None:
    for message in both(f"From: a@b\r\nTo: {to}"):
        assert envelope(message, None, None) == ("a@b", recipients)


def test_CLI_13_bcc_is_in_the_envelope_only() -> None:
    async def main() -> None:
        message = letter(Bcc="secret@d", Resent_Bcc="other@d")
        assert b"secret" not in (sent := await octets(message))
        assert b"other" not in sent

    trio.run(main)
    assert envelope(letter(Bcc="secret@d"), None, None) == ("a@b", ["c@d", "secret@d"])


RESENT = "Resent-Date: Mon, 1 Jan 2024 00:00:00 +0000\r\nResent-From: r@s, q@s\r\nResent-To: t@u\r\n"


@pytest.mark.parametrize(
    ("resent", "sender", "recipients"),
    [
        (RESENT, "r@s", ["t@u"]),
        (RESENT + "Resent-Sender: v@w\r\nResent-Cc: x@y\r\nResent-Bcc: z@y, t@u\r\n", "v@w", ["t@u", "x@y", "z@y"]),
        # RFC 5322 3.6.6 wants a date. Without it, it was resent all the same, and not to those of To.
        ("Resent-From: r@s\r\nResent-To: t@u\r\n", "r@s", ["t@u"]),
    ],
)
def test_CLI_13_resent(resent: str, sender: str, recipients: list[str]) -> None:
    for message in both(resent + "From: a@b\r\nSender: s@b\r\nTo: c@d\r\nBcc: e@f"):
        assert envelope(message, None, None) == (sender, recipients)
        assert envelope(message, "", None) == ("", recipients)


def test_CLI_13_resent_more_than_once() -> None:
    for message in both(RESENT + RESENT + "From: a@b\r\nTo: c@d"):
        assert envelope(message, "x@y", ["z@y"]) == ("x@y", ["z@y"])
        for sender, recipients in ((None, None), ("x@y", None), (None, ["z@y"])):
            with pytest.raises(ValueError, match="resent more than once"):
                envelope(message, sender, recipients)
    for message in both(RESENT + "Resent-From: x@y\r\nFrom: a@b"):
        with pytest.raises(ValueError, match="resent more than once"):
            envelope(message, None, None)


def test_CLI_13_resent_to_nobody() -> None:
    for message in both("Resent-From: r@s\r\nFrom: a@b\r\nTo: c@d"):
        with pytest.raises(ValueError, match="no address in Resent-To, Resent-Cc, Resent-Bcc"):
            envelope(message, None, None)


def test_CLI_13_the_null_sender_is_given_not_found() -> None:
    for message in both("From: a@b\r\nTo: c@d"):
        assert envelope(message, "", None) == ("", ["c@d"])
        assert envelope(message, None, iter(["x@y"])) == ("a@b", ["x@y"])
    for message in both("From: <>\r\nTo: c@d"):
        with pytest.raises(ValueError, match=r"address in From: '' is not an address"):
            envelope(message, None, None)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ("To: c@d", "no sender: there is no address in Sender or From"), ("From: a@b", "no address in To, Cc, Bcc"),
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
def test_CLI_13_an_envelope_that_cannot_be_had(fields: str, complaint: str) -> None:
    for message in both(fields):
        with pytest.raises(ValueError, match=complaint):
            envelope(message, None, None)


def test_CLI_13_octets_that_are_not_utf8() -> None:
    for policy in POLICIES:
        with pytest.raises(ValueError, match="address in To"):
            envelope(parsed(b"From: a@b\r\nTo: \xe9@d\r\n\r\n", policy), None, None)
        assert envelope(parsed(b"From: a@b\r\nTo: \xe9 <c@d>\r\n\r\n", policy), None, None) == ("a@b", ["c@d"])


def test_fields_that_a_program_set() -> None:
    people = [
        f"Recipient {n}, \u00e9 <recipient{n}@b\u00fccher.test>".replace(", \u00e9", " \u00e9") for n in range(30)
    ]
    message = letter(Cc=", ".join(people), Bcc="Team: p\u00e9@d, c@d;")
    expected = ["c@d", *(f"recipient{n}@xn--bcher-kva.test" for n in range(30)), "p\u00e9@d"]
    assert envelope(message, None, None) == ("a@b", expected)
    old = Message()
    old["From"], old["To"] = "J\u00f6rg <a@b>", "\u00c9mile <p\u00e9@d>"
    assert envelope(old, None, None) == ("a@b", ["p\u00e9@d"])
    old["Cc"] = email.header.Header("c@d, e@f")  # type: ignore[assignment]  # it is taken
    assert envelope(old, None, None)[1] == ["p\u00e9@d", "c@d", "e@f"]


@given(st.text(st.sampled_from('a@b,;:<>()[]"\\ \u00e9='), max_size=30))
def test_no_list_is_too_strange(text: str) -> None:
    """Two lists that can be read by themselves are read the same when they are one."""
    one = split_addresses(text)
    if one is not None:
        assert split_addresses(f"{text},{text}") == one * 2
        assert split_addresses(f"Group: {text};") in (one, None)


@pytest.mark.parametrize(
    "text", ["(" * 50000, '"' * 50001, "<" * 50000, "()" * 25000 + "(", "a " * 25000, '<"' * 25000, "(()" * 20000]
)
def test_a_hostile_list_costs_no_time(text: str) -> None:
    """The suite's own time limit is the test: what is tried again and again would take hours."""
    assert split_addresses(text) in (None, [text.strip()], [])


# --- addresses ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "raw", "domain"),
    [
        ("a@b", "a@b", "b"), ("<a@B>", "a@B", "b"), ('"a b"@c', '"a b"@c', "c"), ("a@[192.0.2.1]", "a@[192.0.2.1]", "[192.0.2.1]"),
        ("Postmaster", "Postmaster", None), ("p\u00e9@d", "p\u00e9@d", "d"), ("p\u00e9@\u00e9", "p\u00e9@\u00e9", "xn--9ca"),
        ("a@B\u00fccher.test", "a@xn--bcher-kva.test", "xn--bcher-kva.test"), ("<@x,@y:a@b>", "a@b", "b"),
        ("l" * 64 + "@" + ".".join(["d" * 62] * 3), "l" * 64 + "@" + ".".join(["d" * 62] * 3), ".".join(["d" * 62] * 3)),
    ],
)  # fmt: skip
def test_an_address(text: str, raw: str, domain: str | None) -> None:
    path = parse_mailbox(text, "sender")
    assert (path.raw, path.domain, path.bracketed) == (raw, domain, True)


@pytest.mark.parametrize("text", ["", "<>"])
def test_the_null_path_where_it_is_allowed(text: str) -> None:
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
def test_CLI_12_an_address_that_is_none(text: str, null: bool) -> None:
    with pytest.raises(ValueError, match=r"^recipient 7: "):
        parse_mailbox(text, "recipient 7", null=null)


@pytest.mark.parametrize("text", ["Fred <a@b>", '"F" <a@b>', "a@b <c@d>"])
def test_a_display_name_is_no_part_of_an_address(text: str) -> None:
    with pytest.raises(ValueError, match="without a display name"):
        parse_mailbox(text, "sender")
