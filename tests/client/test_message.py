"""The content of a message: conversion of bytes, files, iterables and email messages for sending."""

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
from email.utils import getaddresses
from typing import Any

import pytest
import trio

from smtp_trio import LocalProtocolError
from smtp_trio._client.message import PIECE, PreparedMessage, prepare_message
from smtp_trio.protocol.dot_stuffing import normalize_message

# Those with a header and an empty line after it, because the email package adds a missing one.
MAILS = {
    path.stem: normalize_message(path.read_bytes())
    for path in sorted((pathlib.Path(__file__).parents[1] / "mails").glob("*.eml"))
    if path.stem not in ("dot-first", "header-only")
}


async def read(prepare: PreparedMessage) -> bytes:
    async with aclosing(prepare.pieces()) as pieces:
        return b"".join([piece async for piece in pieces])


async def prepare(message: Any, *, eight_bit: bool = True, utf8: bool = True, binary: bool = False) -> PreparedMessage:
    return await prepare_message(message, eight_bit=eight_bit, utf8=utf8, binary=binary)


async def octets(message: Any, **offered: bool) -> bytes:
    prepared = await prepare(message, **offered)
    assert prepared.octets is not None
    assert (await read(prepared), prepared.size) == (prepared.octets, len(prepared.octets))
    return prepared.octets


def email_message(**fields: str) -> EmailMessage:
    message = EmailMessage()
    for name, value in {"From": "a@b", "To": "c@d", **fields}.items():
        message[name.replace("_", "-")] = value
    message.set_content("Hello\n")
    return message


# --- bytes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
async def test_bytes_like_objects(kind: Callable[[bytes], object]) -> None:
    prepared = await prepare(kind(b"A: b\n\nc\rd\r\n"))
    assert prepared == PreparedMessage(b"A: b\r\n\r\nc\r\nd\r\n", 14, eight_bit=False, utf8_header=False)
    assert prepared.repeatable
    assert [await read(prepared), await read(prepared)] == [b"A: b\r\n\r\nc\r\nd\r\n"] * 2


async def test_normalized_bytes_are_not_copied() -> None:
    text = b"A: b\r\n\r\nc\r\n" * 1000
    assert (await prepare(text)).octets is text


async def test_binary_is_not_normalized() -> None:
    text = b"A: b\r\n\r\n\r\0\n\xff\r"
    prepared = await prepare(text, binary=True)
    assert (prepared.octets, prepared.eight_bit) == (text, True)


@pytest.mark.parametrize(
    "text", [b"A: b\r\n\r\nx\0.\r\n", b"A: b\0\r\n\r\nx\r\n", b"\0", b"A: b\r\n\r\n\r\n\0.\r\n", b"A\0\n"]
)
async def test_nul_is_refused_without_binarymime(text: bytes, tmp_path: pathlib.Path) -> None:
    """RFC 5322 does not allow it, and followed by a dot it is the end of the data for some servers."""
    (tmp_path / "mail").write_bytes(text)
    binary = await prepare(text, binary=True)
    assert binary.octets == text
    assert await read(await prepare(tmp_path / "mail", binary=True)) == text
    assert await read(await prepare(Source(text), binary=True)) == text
    for make in (lambda: text, lambda: memoryview(text)):
        with pytest.raises(LocalProtocolError, match="NUL"):
            await prepare(make())
    for source in (tmp_path / "mail", Source(b"x\r\n", text), Source(text[:1], text[1:])):
        with pytest.raises(LocalProtocolError, match="NUL"):
            await read(await prepare(source))


@pytest.mark.parametrize("policy", [email.policy.default, email.policy.compat32], ids=["default", "compat32"])
async def test_nul_in_an_email_message_is_refused(policy: email.policy.Policy) -> None:
    for text in (b"A: b\r\n\r\nx\0.\r\n", b"A: b\0c\r\n\r\nx\r\n"):
        with pytest.raises(LocalProtocolError, match="NUL"):
            await prepare(parsed(text, policy))
    message = email_message()
    message.add_attachment(b"\0.", maintype="application", subtype="octet-stream")
    assert b"\0" not in await octets(message)


async def test_long_message_is_yielded_in_pieces() -> None:
    text = b"A: b\r\n\r\n" + b"x" * 3 * PIECE + b"\r\n"
    async with aclosing((await prepare(text)).pieces()) as pieces:
        sizes = [len(piece) async for piece in pieces]
    assert (max(sizes), sum(sizes), len(sizes)) == (PIECE, len(text), 4)
    assert await read(await prepare(b"")) == b""


@pytest.mark.parametrize(
    ("text", "eight_bit", "utf8_header"),
    [
        (b"A: b\r\n\r\nc\r\n", False, False), (b"A: b\r\n\r\n\xe9\r\n", True, False), (b"A: \xc3\xa9\r\n\r\nc\r\n", True, True),
        (b"A: \xc3\xa9", True, True), (b"\r\n\xe9", True, False), (b"A: b\n\n\xe9\n\nc\n", True, False), (b"", False, False),
    ],
)  # fmt: skip
async def test_8bit_content_needs_extensions(text: bytes, eight_bit: bool, utf8_header: bool) -> None:
    prepared = await prepare(text)
    assert (prepared.eight_bit, prepared.utf8_header) == (eight_bit, utf8_header)
    if eight_bit:
        with pytest.raises(
            LocalProtocolError,
            match=r"not offer SMTPUTF8" if utf8_header else r"not offer 8BITMIME.*RFC 6152",
        ):
            await prepare(text, eight_bit=False, utf8=False)
    if utf8_header:  # refused before anything is sent (RFC 6531 3.5)
        with pytest.raises(LocalProtocolError, match=r"not offer SMTPUTF8.*RFC 6531"):
            await prepare(text, utf8=False)
    else:
        assert await prepare(text, utf8=False) == prepared


BOM = b"\xef\xbb\xbf"
PREFACES = [BOM, b"From a@b Sat Nov 28 07:00:00 2026\n", b">From a@b\r\n", BOM + b"From a@b\n"]


@pytest.mark.parametrize("preface", PREFACES)
async def test_what_precedes_the_header_is_not_sent(preface: bytes, tmp_path: pathlib.Path) -> None:
    """A byte order mark or an mbox line is not a part of the message."""
    path = tmp_path / "mail"
    for size in (1, PIECE):
        text = b"From: a@b\r\nTo: c@d\r\n\r\nFrom x\r\n" + b"y: z\r\n" * size
        path.write_bytes(preface + text)
        prepared = await prepare(path, utf8=False)
        assert (await read(prepared), prepared.size) == (text, len(text))
        assert await octets(preface + text, utf8=False) == text
        assert await octets(preface + text, utf8=False, binary=True) == text
        for policy in POLICIES:
            assert await octets(parsed(preface + text, policy), utf8=False) == text
    for cut in range(len(preface) + 12):
        source = Source((preface + text)[:cut], (preface + text)[cut:])
        assert await read(await prepare(source, eight_bit=True, utf8=False)) == text
    assert await read(await prepare(Source(*[bytes([octet]) for octet in preface + text[:99]]))) == text[:99] + b"\r\n"


@pytest.mark.parametrize(
    "text", [b"From here on\r\nno header\r\n", b"From : a@b\r\nA: b\r\n", b"From", b"", b">", b"From x" * 999 + b"\r\n"]
)
async def test_text_that_begins_like_an_mbox_line_is_sent(text: bytes, tmp_path: pathlib.Path) -> None:
    (tmp_path / "mail").write_bytes(text)
    for message in (
        text,
        tmp_path / "mail",
        Source(text),
        Source(text[:3], text[3:]),
        Source(*[bytes([octet]) for octet in text]),
    ):
        assert await read(await prepare(message)) == normalize_message(text)


async def test_wrong_type() -> None:
    with pytest.raises(TypeError, match=r"encode it, or use email\.message\.EmailMessage"):
        await prepare("A: b\r\n\r\nc\r\n")
    with pytest.raises(TypeError, match="not list"):
        await prepare([b"A: b\r\n"])


# --- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [pathlib.Path, trio.Path])
async def test_file(tmp_path: pathlib.Path, kind: Callable[[pathlib.Path], Any]) -> None:
    path = tmp_path / "a.eml"
    path.write_bytes(b"A: b\n\n" + b"x\n" * PIECE + b"\r")
    prepared = await prepare(kind(path))
    assert (prepared.octets, prepared.size, prepared.eight_bit, prepared.utf8_header) == (
        None,
        2 * PIECE + 7,
        None,
        False,
    )
    assert prepared.repeatable
    assert [await read(prepared), await read(prepared)] == [b"A: b\r\n\r\n" + b"x\r\n" * PIECE + b"\r\n"] * 2
    assert await read(await prepare(kind(path), binary=True)) == path.read_bytes()


async def test_file_with_8bit_content(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a.eml"
    path.write_bytes(b"A: b\r\n\r\n\xe9\r\n")
    assert await read(await prepare(path)) == path.read_bytes()
    with pytest.raises(LocalProtocolError, match="not offer 8BITMIME"):
        await read(await prepare(path, eight_bit=False))


async def test_missing_file_and_fifo(tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError):
        await prepare(tmp_path / "none.eml")
    path = tmp_path / "fifo"
    os.mkfifo(path)
    assert (await prepare(path)).size is None


async def test_file_is_closed_after_an_exception_and_a_cancellation(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a.eml"
    path.write_bytes(b"x\r\n" * PIECE)

    def open_here() -> list[str]:
        return [link for link in os.listdir("/proc/self/fd") if _target(link) == str(path)]

    prepared = await prepare(path)
    with pytest.raises(KeyError):
        async with aclosing(prepared.pieces()) as pieces:
            async for _ in pieces:
                assert len(open_here()) == 1
                raise KeyError
    assert open_here() == []
    with trio.CancelScope() as scope:
        async with aclosing(prepared.pieces()) as pieces:
            async for _ in pieces:
                scope.cancel()
    assert scope.cancelled_caught
    assert open_here() == []


def _target(link: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{link}")
    except FileNotFoundError:  # the descriptor of the listing itself
        return ""


# --- async iterables ------------------------------------------------------------------------------------------------


class Source:
    """An async iterable of ``items``; an exception among them is raised."""

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


async def test_line_ends_are_normalized_across_pieces() -> None:
    prepared = await prepare(Source(b"A: b\r", bytearray(b"\n\r"), b"", memoryview(b"c\n."), b"\r"))
    assert (prepared.octets, prepared.size, prepared.eight_bit, prepared.repeatable) == (None, None, None, False)
    assert await read(prepared) == b"A: b\r\n\r\nc\r\n.\r\n"
    assert await read(await prepare(Source(b"a\r", b"b\n"), binary=True)) == b"a\rb\n"


@pytest.mark.parametrize("count", [0, 1, PIECE, PIECE + 1, 5 * PIECE])
async def test_long_pieces_of_an_iterable_are_divided(count: int) -> None:
    """A timeout holds for each piece, and other tasks run between them."""
    text = (b"A: b\n\n" + b"x" * count)[:count]
    async with aclosing((await prepare(Source(text))).pieces()) as pieces:
        found = [piece async for piece in pieces]
    assert b"".join(found) == normalize_message(text)
    assert all(len(piece) <= PIECE + 2 for piece in found)


async def test_memory_channel_stays_open() -> None:
    send, receive = trio.open_memory_channel[bytes](2)
    send.send_nowait(b"A: b\n")
    send.send_nowait(b"\nc\n")
    async with aclosing((await prepare(receive)).pieces()) as pieces:
        assert await anext(pieces) == b"A: b\r\n"
    assert receive.receive_nowait() == b"\nc\n"


async def test_exceptions_of_an_iterable_pass_unchanged() -> None:
    error = KeyError("mine")
    source = Source(b"a", error)
    with pytest.raises(KeyError) as caught:
        await read(await prepare(source))
    assert caught.value is error


async def test_generator_is_closed_early() -> None:
    source = Source(b"a", b"b")
    async with aclosing((await prepare(source)).pieces()) as pieces:
        await anext(pieces)
        assert not source.closed
    assert source.closed


@pytest.mark.parametrize("item", ["text", None, 5, [b"a"]])
async def test_piece_of_wrong_type(item: object) -> None:
    source = Source(b"a", item)
    with pytest.raises(TypeError, match=f"must be bytes, not {type(item).__name__}"):
        await read(await prepare(source))
    assert source.closed


async def test_piece_with_8bit_content() -> None:
    with pytest.raises(LocalProtocolError, match="not offer 8BITMIME"):
        await read(await prepare(Source(b"a", b"\xe9"), eight_bit=False))


# --- email messages -------------------------------------------------------------------------------------------------


def parsed(text: bytes, policy: email.policy.Policy = email.policy.default) -> Message:
    return email.message_from_bytes(text, policy=policy)


POLICIES = [email.policy.default, email.policy.SMTPUTF8, email.policy.compat32]


@pytest.mark.parametrize("policy", POLICIES, ids=["default", "SMTPUTF8", "compat32"])
@pytest.mark.parametrize("text", MAILS.values(), ids=MAILS)
async def test_parsed_message_is_sent_unchanged(text: bytes, policy: email.policy.Policy) -> None:
    assert await octets(parsed(text, policy)) == text


SIGNED = (
    b"DKIM-Signature: v=1; a=rsa-sha256; d=example.org; s=s;\r\n\th=from : to;  bh=" + b"x" * 120 + b";\r\n b=" + b"y" * 90 + b"\r\n"
    b"From: =?utf-8?q?J=C3=B6rg?=   <a@b>  \r\nTo: c@d,\r\n\te@f\r\nSubject: " + b"word " * 40 + b"\r\n"
    b"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
    b"From the beginning\r\ncaf\xc3\xa9 " + b"z" * 1200 + b"\r\n.\r\n\r\n"
)  # fmt: skip


@pytest.mark.parametrize("policy", POLICIES, ids=["default", "SMTPUTF8", "compat32"])
async def test_signed_message_is_sent_unchanged_without_bcc(policy: email.policy.Policy) -> None:
    message = parsed(b"Bcc: x@y,\r\n z@y\r\nResent-Bcc: x@y\r\n" + SIGNED, policy)
    before = copy.deepcopy(message).as_bytes()
    assert await octets(message) == SIGNED
    assert message.as_bytes() == before
    assert message["Bcc"] is not None


@pytest.mark.parametrize("policy", POLICIES, ids=["default", "SMTPUTF8", "compat32"])
async def test_8bit_content_is_encoded_without_8bitmime(policy: email.policy.Policy) -> None:
    prepared = await prepare(parsed(SIGNED, policy), eight_bit=False)
    assert prepared.octets is not None
    assert (prepared.octets.isascii(), prepared.eight_bit) == (True, False)
    again = email.message_from_bytes(prepared.octets, policy=email.policy.default)
    assert again.get_content().split()[3] == "caf\u00e9"
    assert "z" * 1200 in again.get_content()


async def test_ascii_message_is_not_encoded_again() -> None:
    text = SIGNED.replace(b"\xc3\xa9", b"e")
    assert await octets(parsed(text), eight_bit=False, utf8=False) == text


@pytest.mark.parametrize("policy", POLICIES, ids=["default", "SMTPUTF8", "compat32"])
@pytest.mark.parametrize(
    "kind",
    ["text/plain", "text/plain; charset=x-other", "text/html; charset=us-ascii", "application/octet-stream", "x"],
)
@pytest.mark.parametrize("content", [b"\xe9\r\n", "caf\u00e9 \r\n.\r\n=41\r\n".encode() + b"z" * 1200 + b"\r\n"])
async def test_8bit_content_of_unknown_charset_is_encoded(
    content: bytes, kind: str, policy: email.policy.Policy
) -> None:
    """The encoded octets are those of the message, so that the character set need not be known."""
    for fields in (f"Content-Type: {kind}\r\n", f"Content-Type: {kind}\r\nContent-Transfer-Encoding: 8bit\r\n", ""):
        message = parsed(b"From: a@b\r\n" + fields.encode() + b"\r\n" + content, policy)
        assert (await prepare(message)).eight_bit
        sent = parsed(await octets(message, eight_bit=False, utf8=False))
        assert str(sent["Content-Type"]).replace('"', "") == str(message["Content-Type"]).replace('"', "")
        assert sent["MIME-Version"] == "1.0"
        assert sent["Content-Transfer-Encoding"] == ("base64" if kind[:5] == "appli" and fields else "quoted-printable")
        decoded = sent.get_payload(decode=True)
        assert isinstance(decoded, bytes)
        assert normalize_message(decoded) == content


RAW = [
    ("Subject", "caf\u00e9 x", "caf\u00e9 x"),
    ("From", "J\u00f6rg \u00c4. <a@b>", '"J\u00f6rg \u00c4." <a@b>'),
    ("To", '"J\u00f6rg, \u00c4" <a@b>,\r\n "Plain, X" <c@d>, e@f', '"J\u00f6rg, \u00c4" <a@b>, "Plain, X" <c@d>, e@f'),
    ("Cc", "K\u00f6ln: a@b, \u00c9 <c@d>;", "K\u00f6ln: a@b, \u00c9 <c@d>;"),
    ("Reply-To", "a@b (K\u00f6ln)", "a@b"),
    ("X-Note", "\u65e5\u672c " * 40, "\u65e5\u672c " * 40),
]


@pytest.mark.parametrize("policy", POLICIES, ids=["default", "SMTPUTF8", "compat32"])
@pytest.mark.parametrize(("name", "value", "read"), RAW)
async def test_raw_utf8_fields_are_encoded_as_utf8(
    name: str, value: str, read: str, policy: email.policy.Policy
) -> None:
    text = f"Date: x\r\n{name}: {value}\r\nX-Y: z\r\n\r\nx\r\n".encode()
    assert await octets(parsed(text, policy)) == text
    sent = await octets(parsed(text, policy), utf8=False)
    assert sent.isascii()
    assert b"unknown-8bit" not in sent
    assert max(map(len, sent.split(b"\r\n"))) <= 120
    again: Any = parsed(sent)
    assert again.keys() == ["Date", name, "X-Y"]
    assert str(again[name]).strip() == read.strip()


@pytest.mark.parametrize("policy", POLICIES, ids=["default", "SMTPUTF8", "compat32"])
async def test_raw_parameters_are_encoded(policy: email.policy.Policy) -> None:
    text = (
        'MIME-Version: 1.0\r\nContent-Type: application/pdf; x=1; name="\u00e9 \\"q\\".pdf"\r\n'
        "Content-Disposition: attachment;\r\n filename=\u00fc;size=3\r\nContent-Transfer-Encoding: base64\r\n\r\nAAAA\r\n"
    ).encode()
    sent = await octets(parsed(text, policy), utf8=False)
    again: Any = parsed(sent)
    assert again.get_content_type() == "application/pdf"
    assert again["Content-Type"].params == {"x": "1", "name": '\u00e9 "q".pdf'}
    assert again["Content-Disposition"].params == {"filename": "\u00fc", "size": "3"}


@pytest.mark.parametrize("policy", POLICIES, ids=["default", "SMTPUTF8", "compat32"])
async def test_latin1_header_is_not_declared_as_utf8(policy: email.policy.Policy, tmp_path: pathlib.Path) -> None:
    text = "From: J\u00f6rg <a@b>\r\nSubject: caf\u00e9\r\n\r\nx\r\n".encode("latin-1")
    prepared = await prepare(parsed(text, policy))
    assert prepared.octets is not None
    assert (prepared.octets.isascii(), prepared.utf8_header) == (True, False)
    assert prepared.octets.startswith(b"From: =?unknown-8bit?q?J=F6rg?= <a@b>\r\n")
    (tmp_path / "mail").write_bytes(text)
    for message in (text, tmp_path / "mail"):
        with pytest.raises(LocalProtocolError, match="neither ASCII nor UTF-8"):
            await prepare(message)


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(
    "filler", ["", "x" * PIECE, "x\n" * PIECE, "x" * 998 + "\n"], ids=["small", "long", "lines", "short"]
)
async def test_header_of_a_file_is_inspected(tmp_path: pathlib.Path, filler: str, line_end: str) -> None:
    path = tmp_path / "mail"
    for text, needed in [
        ("A: \u00e9\n\nx\n", True), ("A: b\n\n\u00e9\n", False), ("A: \u00e9", True), ("\n\u00e9\n", False),
        ("A: b\nB: \u00e9", True), ("A: b\n \u00e9\n\n\n", True),
    ]:  # fmt: skip
        path.write_text((text + filler).replace("\n", line_end), encoding="utf-8", newline="")
        prepared = await prepare(path)
        assert prepared.utf8_header is needed
        assert await read(prepared) == normalize_message((text + filler).encode())
        with pytest.raises(LocalProtocolError, match="SMTPUTF8" if needed else "8BITMIME"):
            await prepare(path, eight_bit=False, utf8=False)
        if needed:
            with pytest.raises(LocalProtocolError, match="not offer SMTPUTF8"):
                await prepare(path, utf8=False)
        else:
            assert not (await prepare(path, utf8=False)).utf8_header


async def test_body_of_a_file_is_inspected(tmp_path: pathlib.Path) -> None:
    """A small file as bytes are; the body of a larger one only if the server does not offer 8BITMIME."""
    path = tmp_path / "mail"
    for size in (10, PIECE + 10, 3 * PIECE):
        path.write_bytes(b"A: b\n\n" + b"x\n" * size)
        assert (await prepare(path)).eight_bit is (False if size == 10 else None)
        await prepare(path, eight_bit=False, utf8=False)
        path.write_bytes(b"A: b\n\n" + b"x\n" * size + b"\xe9\n")
        assert (await prepare(path)).eight_bit is (True if size == 10 else None)
        with pytest.raises(LocalProtocolError, match="not offer 8BITMIME"):
            await prepare(path, eight_bit=False, utf8=False)
    path.write_bytes(b"A: b\n\n" + b"x\n" * PIECE + b"\0")
    with pytest.raises(LocalProtocolError, match="NUL"):
        await prepare(path, eight_bit=False, utf8=False)


async def test_header_after_the_first_piece_of_a_file(tmp_path: pathlib.Path) -> None:
    """Whether it needs SMTPUTF8 is not known before MAIL is sent."""
    path = tmp_path / "mail"
    path.write_bytes(b"A: b\r\n" * PIECE + "B: \u00e9\r\n\r\n\u00e9\r\n".encode())
    prepared = await prepare(path)
    assert not prepared.utf8_header
    with pytest.raises(LocalProtocolError, match="smtputf8=True"):
        await read(prepared)
    assert await read(await prepare_message(path, eight_bit=True, utf8=True, smtputf8=True)) == path.read_bytes()


HEADER = "A: b\r\nB: \u00e9 \u65e5\r\n\r\nc \u00e9\r\n".encode()


@pytest.mark.parametrize("binary", [False, True])
async def test_header_of_an_iterable_is_inspected_while_it_is_sent(binary: bool) -> None:
    ascii_header = HEADER.replace(HEADER[9:15], b"x")
    latin = HEADER.replace(b"\xc3\xa9 ", b"\xe9 ")
    for cut in range(len(HEADER)):
        prepared = await prepare(Source(HEADER[:cut], HEADER[cut:]), binary=binary)
        assert not prepared.utf8_header
        with pytest.raises(LocalProtocolError, match="smtputf8=True"):
            await read(prepared)
        for text in (HEADER, ascii_header, latin):
            source = Source(text[:cut], text[cut:])
            declared = await prepare_message(source, eight_bit=True, utf8=True, binary=binary, smtputf8=True)
            if text is latin:
                with pytest.raises(LocalProtocolError, match="neither ASCII nor UTF-8"):
                    await read(declared)
            else:
                assert await read(declared) == text
        assert await read(await prepare(Source(ascii_header[:cut], ascii_header[cut:]), binary=binary)) == ascii_header
    with pytest.raises(LocalProtocolError, match="neither"):
        await read(await prepare_message(Source(b"A: \xc3"), eight_bit=True, utf8=True, smtputf8=True, binary=binary))


async def test_header_of_a_binary_message_may_end_in_lf() -> None:
    assert not (await prepare(b"A: b\n\n\xe9", binary=True)).utf8_header
    assert not (await prepare(b"\n\xe9", binary=True)).utf8_header
    with pytest.raises(LocalProtocolError, match="neither"):
        await prepare(b"A: b\n\xe9", binary=True)


async def test_names_and_subjects_are_encoded_words() -> None:
    message = email_message(From="J\u00f6rg \u00c9. <a@b>", Subject="caf\u00e9 " * 30 + "x")
    message.set_content("caf\u00e9\n", cte="8bit")
    prepared = await prepare(message)
    assert (prepared.eight_bit, prepared.utf8_header) == (True, False)
    assert prepared.octets is not None
    again = email.message_from_bytes(prepared.octets, policy=email.policy.default)
    assert (again["From"].addresses[0].display_name, again["Subject"]) == (
        "J\u00f6rg \u00c9.",
        "caf\u00e9 " * 30 + "x",
    )
    assert max(map(len, prepared.octets.split(b"\r\n"))) <= 78
    assert (await octets(message, eight_bit=False, utf8=False)).isascii()


@pytest.mark.parametrize("field", ["From", "Sender", "Reply_To", "To", "Cc", "Resent_To"])
async def test_non_ascii_addresses_need_smtputf8(field: str) -> None:
    message = email_message()
    del message[field.replace("_", "-")]
    message[field.replace("_", "-")] = "J <p\u00e9@b\u00fccher.test>"
    prepared = await prepare(message)
    assert prepared.utf8_header
    assert prepared.octets is not None
    assert "p\u00e9@b\u00fccher.test".encode() in prepared.octets
    with pytest.raises(LocalProtocolError, match="not offer SMTPUTF8"):
        await prepare(message, utf8=False)


async def test_non_ascii_bcc_does_not_need_smtputf8() -> None:
    assert (await octets(email_message(Bcc="p\u00e9@b"), utf8=False)).isascii()


@pytest.mark.parametrize("policy", POLICIES, ids=["default", "SMTPUTF8", "compat32"])
async def test_raw_utf8_in_a_field(policy: email.policy.Policy) -> None:
    text = "From: a@b\r\nSubject: caf\u00e9\r\n\r\nx\r\n".encode()
    prepared = await prepare(parsed(text, policy))
    assert (prepared.octets, prepared.utf8_header) == (text, True)
    assert (await octets(parsed(text, policy), utf8=False)).isascii()


@pytest.mark.parametrize("policy", POLICIES, ids=["default", "SMTPUTF8", "compat32"])
async def test_raw_utf8_in_a_field_of_a_part(policy: email.policy.Policy) -> None:
    text = (
        "From: a@b\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=x\r\n\r\n"
        "--x\r\nContent-Description: caf\u00e9\r\n\r\nx\r\n--x--\r\n"
    ).encode()
    assert await octets(parsed(text, policy)) == text


SEPARATORS = ["\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029", "\x7f"]


@pytest.mark.parametrize("policy", POLICIES, ids=["default", "SMTPUTF8", "compat32"])
@pytest.mark.parametrize("separator", SEPARATORS)
async def test_field_with_a_separator_is_sent_as_it_was_parsed(separator: str, policy: email.policy.Policy) -> None:
    """`str.splitlines` takes VT, FF, FS, GS and RS for line ends, and the email package splits fields by it."""
    part = f"X-A: b{separator}Bcc: v@x\r\nX-B: c{separator}\r\n {separator}{separator}d\r\n"
    nested = f"From: a@b\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=q\r\n\r\n--q\r\n{part}\r\nx\r\n--q--\r\n"
    for text in (f"From: a@b\r\n{part}\r\nx\r\n", nested):
        assert await octets(parsed(text.encode(), policy)) == text.encode()
        sent = await octets(parsed(text.encode(), policy), eight_bit=False, utf8=False)
        for one, other in zip(parsed(sent).walk(), parsed(text.encode()).walk(), strict=True):
            assert one.keys() == other.keys()


LINE_ENDS = ["\nBcc: v@x", "\r\nBcc: v@x", "\rBcc: v@x", "\n\nBcc: v@x", "\n x\nBcc: v@x", "\nx"]


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("value", LINE_ENDS)
async def test_field_with_a_line_end_is_refused(value: str, nested: bool) -> None:
    """compat32 accepts such a value, and `set_raw` does with every policy."""
    for policy in POLICIES:
        message = part = parsed(b"From: a@b\r\nTo: c@d\r\n\r\nx\r\n", policy)
        if nested:
            message = Message()
            message["Content-Type"] = "message/rfc822"
            message.set_payload([part])
        part.set_raw("Subject", "hi" + value)
        with pytest.raises(ValueError, match="Subject contains a line end"):
            await prepare(message)


async def test_header_object_with_a_line_end_is_refused() -> None:
    message: Any = Message()
    message["Subject"] = email.header.Header("hi\nBcc: v@x")
    with pytest.raises(ValueError, match="Subject contains a line end"):
        await prepare(message)


@pytest.mark.parametrize("parts", [[], [parsed(b"Subject: x\r\n\r\nx\r\n")]], ids=["no part", "one part"])
@pytest.mark.parametrize("nested", [False, True])
async def test_parts_without_a_content_type_are_refused(parts: list[Any], nested: bool) -> None:
    """The email package raises HeaderParseError, which is not a ValueError."""
    message: Any = Message()
    message["Subject"] = "x"
    message.set_payload(parts)
    if nested:
        part, message = message, Message()
        message["Content-Type"] = "multipart/mixed"
        message.attach(part)
    with pytest.raises(ValueError, match="a message with parts needs a Content-Type"):
        await prepare(message)


async def test_field_that_cannot_be_encoded_is_named() -> None:
    message = EmailMessage()
    message["Message-ID"] = "<\u00e9@x>"
    message.set_content("x")
    with pytest.raises(ValueError, match=r"Message-ID must be ASCII: '<\\xe9@x>'"):
        await prepare(message)


@pytest.mark.parametrize("name", ["X\nBcc", "X\r\nBcc", "X: y\r\nBcc", "X Y", "", "X\vY", "X\u00e9", "X\r"])
async def test_invalid_name_of_a_field_is_refused(name: str) -> None:
    for policy in POLICIES:
        message = parsed(b"From: a@b\r\nTo: c@d\r\n\r\nx\r\n", policy)
        message[name] = "v@x"
        with pytest.raises(ValueError, match="invalid name of a header field"):
            await prepare(message)


async def test_long_lists_of_a_compat32_message_are_folded() -> None:
    message = Message()
    message["From"], message["To"] = "a@b", ", ".join(f"recipient{n}@example.org" for n in range(200))
    message.set_payload("x\n")
    sent = await octets(message)
    assert max(map(len, sent.split(b"\r\n"))) <= 998
    assert len(getaddresses([parsed(sent)["To"]])) == 200


@pytest.mark.parametrize(
    ("value", "longest"),
    [
        ("word " * 300, 998),
        ("word  " * 300 + "x", 997),
        ("a\r\n " + "b  " * 400 + "\r\n\tc", 998),
        ("x" * 1200 + " y", len("Subject: ") + 1200),
        ("y " + "x" * 1200, 1201),
        ("x" + " " * 1200, len("Subject: x") + 1200),
    ],
)
async def test_long_lines_of_a_compat32_field_are_folded(value: str, longest: int) -> None:
    """The generator of the email package makes a new field of some of them. Words, and spaces at the end, stay whole."""
    text = f"From: a@b\r\nSubject: {value}\r\nX-A: b\r\n\r\nx\r\n".encode()
    sent = await octets(parsed(text, email.policy.compat32))
    assert max(map(len, sent.split(b"\r\n"))) == longest
    assert parsed(sent).keys() == ["From", "Subject", "X-A"]
    assert sent.replace(b"\r\n", b"") == text.replace(b"\r\n", b"")


async def test_bcc_is_not_sent() -> None:
    sent = await octets(email_message(Bcc="secret@d", Resent_Bcc="other@d"))
    assert b"To: c@d\r\n" in sent
    assert b"secret" not in sent
    assert b"other" not in sent


@pytest.mark.parametrize("nested", [False, True])
async def test_message_object_is_not_modified(nested: bool) -> None:
    message = email_message(Bcc="x@y")
    message.add_attachment(b"\xff" * 100, maintype="application", subtype="octet-stream", filename="\u00e9")
    if nested:
        outer = email_message(Bcc="x@y")
        outer.make_mixed()
        outer.attach(message)
        message = outer
    fields = [[(name, str(value)) for name, value in part.items()] for part in message.walk()]
    policies = [part.policy for part in message.walk()]
    sent = await octets(message, eight_bit=False, utf8=False)
    assert [[(name, str(value)) for name, value in part.items()] for part in message.walk()] == fields
    assert [part.policy for part in message.walk()] == policies
    # Bcc is removed from the message itself only; an attached message is content.
    assert sent.count(b"Bcc") == nested
    assert sent.count(b"\n") == sent.count(b"\r\n")


async def test_message_parsed_from_str_raises() -> None:
    message = email.message_from_string("From: a@b\n\ncaf\u00e9\n", policy=email.policy.default)
    with pytest.raises(ValueError, match="parse it from bytes"):
        await prepare(message)
