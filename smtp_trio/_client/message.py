"""The content of a message: what a caller gives to send, converted to octets that the server accepts."""

from __future__ import annotations

import codecs
import contextlib
import copy
import email.message
import functools
import inspect
import os
import re
import stat
from collections.abc import AsyncGenerator, AsyncIterable
from typing import Final, TypeAlias

import trio
from attrs import define, field

from ..protocol import LocalProtocolError
from ..protocol.dot_stuffing import NewlineNormalizer, normalize_message, normalize_newlines
from ..protocol.header import PREFACE_MARKS, is_utf8, message_start
from .addresses import (
    BCC,
    SURROGATE,
    canonical_address,
    field_addresses,
    header_damage,
    repair_address_fields,
    reparse,
    smtp_policy,
)
from .threads import LARGE_OCTETS, run_for, run_in_thread

#: The kinds of message that can be sent. `email.message.EmailMessage` is an `email.message.Message`; an `os.PathLike`
#: names a file.
Message: TypeAlias = (
    bytes | bytearray | memoryview | email.message.Message | os.PathLike[str] | AsyncIterable[bytes]
)  # fmt: skip

#: The kinds of message that are octets.
OCTETS: Final = (bytes, bytearray, memoryview)
#: Octets of a file or an iterable that are enough to find a line before its header, which is not a part of the message.
PREFACE_OCTETS: Final = 1000
#: Octets of a message that are sent at a time. `ClientTimeouts.block` applies to each piece.
PIECE: Final = 1 << 16

NOT_8BIT: Final = (
    "the message contains octets above 127, and the server does not offer 8BITMIME (RFC 6152 3). Encode it as "
    "quoted-printable or base64, or give an EmailMessage, which is encoded as the server needs it"
)
NUL: Final = (
    "the message contains NUL, which may be sent only with body='BINARYMIME' (RFC 5322 2.2 and 3.5, RFC 3030 3); some "
    "servers take it for the end of a line. Encode it as base64"
)
NOT_UTF8: Final = (
    "the header of the message is not ASCII, and the server does not offer SMTPUTF8 (RFC 6531 3.5), or MAIL was sent "
    "without it. Names and subjects can be encoded words (RFC 2047) and domains can be A-labels (xn--); a local part can "
    "be neither. The fields of an EmailMessage are encoded as the server needs it"
)
UNDECLARED: Final = (
    "the header of the message is not ASCII, which was not known when MAIL was sent: give smtputf8=True for an iterable, "
    "or for a header of more than 64 KiB in a file (RFC 6531 3.4)"
)
NEITHER: Final = (
    "the header of the message is neither ASCII nor UTF-8 (RFC 6532 3.1). Give an EmailMessage that was parsed from it, "
    "whose fields are encoded (RFC 2047)"
)
#: The end of a header: an empty line, whatever its line ends (a BINARYMIME message is not normalized).
EMPTY_LINE: Final = re.compile(rb"\n\r?\n")
START_OF_BODY: Final = re.compile(rb"(?:\A|\n)\r?\n")


# How a message is prepared
#
# A message in memory (bytes, an email message, a file of at most 64 KiB) becomes one bytes object with CRLF line ends;
# it can be sent in one write with its envelope. A larger file or an iterable stays where it is and is converted piece
# by piece while it is sent, so that memory does not grow with the message. Dot-stuffing is not done here: only DATA
# needs it, and the protocol does it.
#
# The server decides which content it accepts: octets above 127 need 8BITMIME, and a header outside ASCII needs
# SMTPUTF8 and must be UTF-8. Bytes, files and iterables are never re-encoded, because that would need an interpretation
# of their content; they are refused with an error that names the alternatives. An email message was parsed by the email
# package, so `_flatten` can encode what the server does not accept, and that only: a DKIM signature covers the rest.
#
# A byte order mark or an mbox line before the header is not a part of the message, and would damage the header of what
# is sent, so it is left out of messages of all kinds.
#
# When a source is inspected:
#
#   in memory          as a whole, before MAIL
#   a larger file      its first 64 KiB before MAIL, where nearly all headers end; all of it before MAIL if the server
#                      does not offer 8BITMIME, and while it is sent
#   an iterable, FIFO  while it is sent, because to read it earlier could block. Its pieces are checked before they are
#                      sent; after an error no part of the message is delivered, because its end was not sent
@define  # not frozen: nine attributes of a frozen class cost 9,000 instructions for each message, and these cost 3,000
class PreparedMessage:
    """A message that is ready to be sent.

    ``octets`` is the whole message with CRLF line ends, or None if it is not in memory. ``size`` is its number of
    octets for SIZE (RFC 1870 6, an estimate), or None if that is not known. ``eight_bit`` is True if it contains octets
    above 127, and None if that is not known before it is read. ``utf8_header`` is True if its header is known to be
    outside ASCII, so that it needs SMTPUTF8 (RFC 6531 3.2).
    """

    octets: bytes | None
    size: int | None
    eight_bit: bool | None
    utf8_header: bool
    _source: os.PathLike[str] | AsyncIterable[bytes] | None = field(default=None, repr=False)
    _allow_8bit: bool = field(default=True, repr=False)
    _allow_utf8: bool = field(default=False, repr=False)
    _binary: bool = field(default=False, repr=False)

    @property
    def repeatable(self) -> bool:
        """True if the message can be read more than once. An iterable may yield its pieces only once."""
        return self.octets is not None or isinstance(self._source, os.PathLike)

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """Yield the message in pieces of about 64 KiB at most, with CRLF line ends.

        Use it with `contextlib.aclosing`, which closes the file, or the caller's generator, at once.

        Raises TypeError for a piece that is not bytes, `LocalProtocolError` for octets above 127 if the server does not
        accept them, for a header that needs SMTPUTF8 and for NUL without BINARYMIME, and OSError if the file cannot be
        read. Exceptions of the caller's iterable pass through unchanged.
        """
        if self.octets is not None:
            for start in range(0, len(self.octets), PIECE):
                yield self.octets[start : start + PIECE]
            return
        lines, header = NewlineNormalizer(), HeaderCheck(None if self._allow_utf8 else UNDECLARED)
        async with contextlib.aclosing(self._read_message()) as source:
            async for data in source:
                if not self._allow_8bit and not data.isascii():
                    raise LocalProtocolError(NOT_8BIT)
                if b"\0" in data and not self._binary:
                    raise LocalProtocolError(NUL)
                piece = data if self._binary else lines.feed(data)
                if piece:
                    header.feed(piece)
                    yield piece
        header.end()
        if last := lines.end():
            yield last

    async def _read_message(self) -> AsyncGenerator[bytes, None]:
        """Yield the octets without a byte order mark or mbox line before the header."""
        start: bytes | None = b""  # what was read so far, while it may begin with one
        async with contextlib.aclosing(self._read()) as source:
            async for data in source:
                if start is None:
                    yield data
                    continue
                start += data
                if len(start) >= PREFACE_OCTETS or not _may_be_preface(start):
                    yield start[message_start(start) :]
                    start = None
        if start:
            yield start[message_start(start) :]

    async def _read(self) -> AsyncGenerator[bytes, None]:
        """Yield the octets as the file or the iterable has them."""
        if isinstance(self._source, os.PathLike):
            async with await trio.open_file(self._source, "rb") as file:
                while data := await file.read(PIECE):
                    yield data
            return
        assert self._source is not None
        async with contextlib.aclosing(read_iterable(self._source)) as pieces:
            async for data in pieces:
                yield data


async def read_iterable(source: AsyncIterable[bytes]) -> AsyncGenerator[bytes, None]:
    """Yield the octets of a caller's iterable in pieces of 64 KiB at most. Raises TypeError for one that is not bytes."""
    iterator = aiter(source)
    try:
        async for data in iterator:
            octets = _as_bytes(data)
            for start in range(0, len(octets), PIECE):
                yield octets[start : start + PIECE]
    finally:
        # A generator that was not exhausted is closed here, since its caller cannot go on with it. Other iterables
        # belong to the caller and may be used again.
        if inspect.isasyncgen(iterator):
            await iterator.aclose()


def _may_be_preface(start: bytes) -> bool:
    return start.startswith(PREFACE_MARKS) or any(mark.startswith(start) for mark in PREFACE_MARKS)


def _as_bytes(data: object) -> bytes:
    if not isinstance(data, OCTETS):
        raise TypeError(f"a message's pieces must be bytes, not {type(data).__name__}")
    return bytes(data)  # does not copy if it is bytes already


class HeaderCheck:
    """Checks that a header, which arrives in pieces, is ASCII or UTF-8.

    ``problem`` is the reason why it must be ASCII, or None if it may be UTF-8.
    """

    def __init__(self, problem: str | None) -> None:
        self.is_ascii: bool = True
        self._problem = problem
        self._tail = b"\n"  # the octets that may begin an empty line; the message may begin with one
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self.ended: bool = False

    def feed(self, piece: bytes) -> None:
        """Take the next piece of the message. Raise LocalProtocolError for an octet that the header must not have."""
        if self.ended:
            return
        data = self._tail + piece
        end = EMPTY_LINE.search(data)
        self.ended, self._tail = end is not None, data[-2:]
        header = piece if end is None else piece[: max(0, end.start() + 1 - (len(data) - len(piece)))]
        if self.is_ascii and header.isascii():
            return
        self.is_ascii = False
        if self._problem is not None:
            raise LocalProtocolError(self._problem)
        self._decode(header, final=self.ended)

    def end(self) -> None:
        """Raise LocalProtocolError if the message ends within a character of its header."""
        self._decode(b"", final=True)

    def _decode(self, header: bytes, *, final: bool) -> None:
        try:
            self._decoder.decode(header, final)
        except UnicodeDecodeError:
            raise LocalProtocolError(NEITHER) from None


async def prepare_message(
    message: Message, *, eight_bit: bool, utf8: bool, binary: bool = False, smtputf8: bool = False
) -> PreparedMessage:
    """Prepare a message for sending.

    ``eight_bit`` and ``utf8`` are True if the server offers 8BITMIME and SMTPUTF8. ``binary`` leaves line ends
    unchanged (BODY=BINARYMIME, RFC 3030 3). ``smtputf8`` is True if MAIL has the parameter SMTPUTF8 whatever the
    message is, so that the header of an iterable may be UTF-8. An email message object is not modified; it is encoded
    as the server needs it and sent without Bcc and Resent-Bcc (RFC 5322 3.6.3).

    Raises TypeError if ``message`` has a wrong type, ValueError for an email message that would be sent with a Bcc
    field, `LocalProtocolError` if the server must not be sent its content, and OSError if its file cannot be opened.
    """
    if isinstance(message, OCTETS):
        octets = bytes(message)  # a bytearray may be modified while a thread reads it
        if len(octets) <= LARGE_OCTETS:
            return _prepare_octets(octets, eight_bit, utf8, binary)
        return await run_in_thread(_prepare_octets, octets, eight_bit, utf8, binary)
    if isinstance(message, email.message.Message):
        return await run_for(message, functools.partial(_prepare_email, message, eight_bit=eight_bit, utf8=utf8))
    if isinstance(message, os.PathLike):
        return await _prepare_file(message, eight_bit=eight_bit, utf8=utf8, binary=binary, smtputf8=smtputf8)
    if isinstance(message, AsyncIterable):
        return PreparedMessage(None, None, None, False, message, eight_bit, smtputf8, binary)
    if isinstance(message, str):
        raise TypeError("a message must not be a str: encode it, or use email.message.EmailMessage")
    raise TypeError(
        f"a message must be bytes, an email message, an os.PathLike or an async iterable of bytes, "
        f"not {type(message).__name__}"
    )


async def _prepare_file(
    path: os.PathLike[str], *, eight_bit: bool, utf8: bool, binary: bool, smtputf8: bool
) -> PreparedMessage:
    status = await trio.Path(path).stat()
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        return PreparedMessage(None, None, None, False, path, eight_bit, smtputf8, binary)
    # It is opened now, so that an error is raised before MAIL is sent.
    async with await trio.open_file(path, "rb") as file:
        start = await file.read(PIECE + 1)
    if len(start) <= PIECE:
        return await prepare_message(start, eight_bit=eight_bit, utf8=utf8, binary=binary)
    skipped = message_start(start)
    start = start[skipped:]
    header = HeaderCheck(None if utf8 else NOT_UTF8)
    header.feed(start if binary else normalize_newlines(start.rstrip(b"\r")))
    allow_utf8 = smtputf8 or not header.is_ascii
    message = PreparedMessage(
        None, status.st_size - skipped, None, not header.is_ascii, path, eight_bit, allow_utf8, binary
    )
    if not eight_bit:
        # An octet above 127 that was found while the message is sent would cost the connection.
        async with contextlib.aclosing(message.pieces()) as pieces:
            async for _ in pieces:
                pass
    return message


def _prepare_email(message: email.message.Message, *, eight_bit: bool, utf8: bool) -> PreparedMessage:
    return _in_memory(_flatten(message, eight_bit=eight_bit, utf8=utf8), eight_bit=eight_bit, utf8=utf8)


def _prepare_octets(octets: bytes, eight_bit: bool, utf8: bool, binary: bool) -> PreparedMessage:
    octets = octets[message_start(octets) :]
    octets = octets if binary else normalize_message(octets)
    return _in_memory(octets, eight_bit=eight_bit, utf8=utf8, binary=binary)


def _in_memory(octets: bytes, *, eight_bit: bool, utf8: bool, binary: bool = False) -> PreparedMessage:
    """Return ``octets`` as a prepared message. Raise LocalProtocolError for octets the server does not accept."""
    if not binary and b"\0" in octets:
        raise LocalProtocolError(NUL)
    if octets.isascii():
        return PreparedMessage(octets, len(octets), False, False)
    end = START_OF_BODY.search(octets)
    header = octets if end is None else octets[: end.start()]
    utf8_header = not header.isascii()
    if utf8_header and not (utf8 and is_utf8(header)):
        raise LocalProtocolError(NEITHER if utf8 else NOT_UTF8)
    if not eight_bit:
        raise LocalProtocolError(NOT_8BIT)
    return PreparedMessage(octets, len(octets), True, utf8_header)


# --- email messages -------------------------------------------------------------------------------------------------

#: The fields with addresses that are sent. Encoded words cannot replace a non-ASCII address in them (RFC 2047 5).
ADDRESS_FIELDS: Final = (
    "From", "Sender", "Reply-To", "To", "Cc", "Resent-From", "Resent-Sender", "Resent-To", "Resent-Cc"
)  # fmt: skip


def _flatten(message: email.message.Message, *, eight_bit: bool, utf8: bool) -> bytes:
    """Return the message as octets: as they were parsed, except for those that the server does not accept."""
    message = reparse(message)
    problem, unread = header_damage(message)
    if BCC.search(normalize_newlines(unread.encode(errors="replace"))):
        raise ValueError(f"a Bcc field would be sent as a part of the body: {problem}")
    from .encode import encode_content, encode_header  # imported here because programs that send bytes do not need them
    from .generator import generate

    message = copy.deepcopy(message)  # it is encoded, and flattening adds missing boundaries
    del message["Bcc"], message["Resent-Bcc"]
    needs_utf8 = any(
        not (address.isascii() or canonical_address(address).isascii())
        for name in ADDRESS_FIELDS
        for addresses, _ in field_addresses(message, name)
        for address in addresses or ()
    )
    if needs_utf8 and not utf8:
        raise LocalProtocolError(NOT_UTF8)
    # Fields that were parsed with octets above 127 stay as they are if the message may be UTF-8 and they are.
    texts = [
        value for part in message.walk() for _, value in part.raw_items() if type(value) is str and not value.isascii()
    ]
    raw = [text.encode("utf-8", "surrogateescape") for text in texts if SURROGATE.search(text)]
    as_utf8 = needs_utf8 or (utf8 and eight_bit and raw != [] and all(map(is_utf8, raw)))
    repair_address_fields(message, ADDRESS_FIELDS, utf8=as_utf8)
    if texts:
        encode_header(message, utf8=as_utf8)
    try:
        if not eight_bit:
            encode_content(message)
        return generate(message, smtp_policy(message, utf8=as_utf8))
    except UnicodeEncodeError as error:
        raise ValueError(
            f"the message contains text without an encoding; parse it from bytes, not from a str: {error}"
        ) from None
