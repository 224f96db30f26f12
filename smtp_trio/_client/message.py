"""The content of a message: what a caller gives to send, converted to octets that the server accepts."""

from __future__ import annotations

import contextlib
import copy
import email.message
import functools
import inspect
import os
import stat
from collections.abc import AsyncGenerator, AsyncIterable
from typing import Final, TypeAlias

import trio
from attrs import field, frozen

from ..protocol import LocalProtocolError
from ..protocol.dot_stuffing import NewlineNormalizer, normalize_message, normalize_newlines
from ..protocol.header import header_end
from .addresses import BCC, field_addresses, header_damage, repair_address_fields, smtp_policy
from .threads import run_for

#: The kinds of message that can be sent. `email.message.EmailMessage` is an `email.message.Message`; an `os.PathLike`
#: names a file.
Message: TypeAlias = (
    bytes | bytearray | memoryview | email.message.Message | os.PathLike[str] | AsyncIterable[bytes]
)  # fmt: skip

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
    "the header of the message is not ASCII, and the server does not offer SMTPUTF8 (RFC 6531 3.5). Names and subjects "
    "can be encoded words (RFC 2047) and domains can be A-labels (xn--); a local part can be neither"
)


# How a message is prepared
#
# A message in memory (bytes, an email message) becomes one bytes object with CRLF line ends; it can be sent in one
# write with its envelope. A file or an iterable stays where it is and is converted piece by piece while it is sent, so
# that memory does not grow with the message. Dot-stuffing is not done here: only DATA needs it, and the protocol does
# it.
#
# The server decides which content it accepts: octets above 127 need 8BITMIME, and a header outside ASCII needs
# SMTPUTF8. Bytes, files and iterables are never re-encoded, because that would need an interpretation of their content;
# they are refused with an error that names the alternatives. An email message was parsed by the email package, so
# `_flatten` can generate it twice: first with its fields as they were parsed, so that a DKIM signature stays valid; and
# if the server cannot accept that, with 7-bit encodings.
@frozen
class PreparedMessage:
    """A message that is ready to be sent.

    ``octets`` is the whole message with CRLF line ends, or None if it is not in memory. ``size`` is its number of
    octets for SIZE (RFC 1870 6, an estimate), or None if that is not known. ``eight_bit`` is True if it contains octets
    above 127, and None if that is not known before it is read. ``utf8_header`` is True if its header is not ASCII, so
    that it needs SMTPUTF8 (RFC 6531 3.2); files and iterables are not searched for that.
    """

    octets: bytes | None
    size: int | None
    eight_bit: bool | None
    utf8_header: bool
    _source: os.PathLike[str] | AsyncIterable[bytes] | None = field(default=None, repr=False)
    _allow_8bit: bool = field(default=True, repr=False)
    _binary: bool = field(default=False, repr=False)

    @property
    def repeatable(self) -> bool:
        """True if the message can be read more than once. An iterable may yield its pieces only once."""
        return self.octets is not None or isinstance(self._source, os.PathLike)

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """Yield the message in pieces, with CRLF line ends. Pieces from a file or from memory have at most 64 KiB.

        Use it with `contextlib.aclosing`, which closes the file, or the caller's generator, at once.

        Raises TypeError for a piece that is not bytes, `LocalProtocolError` for octets above 127 if the server does not
        accept them and for NUL without BINARYMIME, and OSError if the file cannot be read. Exceptions of the caller's
        iterable pass through unchanged.
        """
        if self.octets is not None:
            for start in range(0, len(self.octets), PIECE):
                yield self.octets[start : start + PIECE]
            return
        lines = NewlineNormalizer()
        async with contextlib.aclosing(self._read()) as source:
            async for data in source:
                if not self._allow_8bit and not data.isascii():
                    raise LocalProtocolError(NOT_8BIT)
                if b"\0" in data and not self._binary:
                    raise LocalProtocolError(NUL)
                piece = data if self._binary else lines.feed(data)
                if piece:
                    yield piece
        if last := lines.end():
            yield last

    async def _read(self) -> AsyncGenerator[bytes, None]:
        """Yield the octets as the file or the iterable has them."""
        if isinstance(self._source, os.PathLike):
            async with await trio.open_file(self._source, "rb") as file:
                while data := await file.read(PIECE):
                    yield data
            return
        assert self._source is not None
        iterator = aiter(self._source)
        try:
            async for data in iterator:
                yield _as_bytes(data)
        finally:
            # A generator that was not exhausted is closed here, since its caller cannot go on with it. Other iterables
            # belong to the caller and may be used again.
            if inspect.isasyncgen(iterator):
                await iterator.aclose()


def _as_bytes(data: object) -> bytes:
    if not isinstance(data, bytes | bytearray | memoryview):
        raise TypeError(f"a message's pieces must be bytes, not {type(data).__name__}")
    return bytes(data)  # does not copy if it is bytes already


async def prepare_message(message: Message, *, eight_bit: bool, utf8: bool, binary: bool = False) -> PreparedMessage:
    """Prepare a message for sending.

    ``eight_bit`` and ``utf8`` are True if the server offers 8BITMIME and SMTPUTF8. ``binary`` leaves line ends
    unchanged (BODY=BINARYMIME, RFC 3030 3). An email message object is not modified; it is encoded as the server needs
    it and sent without Bcc and Resent-Bcc (RFC 5322 3.6.3).

    Raises TypeError if ``message`` has a wrong type, ValueError for an email message that would be sent with a Bcc field,
    `LocalProtocolError` if the server must not be sent its content, and OSError if its file cannot be opened.
    """
    if isinstance(message, email.message.Message):
        octets = await run_for(message, functools.partial(_flatten, message, eight_bit=eight_bit, utf8=utf8))
        return _in_memory(octets, eight_bit=eight_bit, utf8=utf8)
    if isinstance(message, bytes | bytearray | memoryview):
        octets = bytes(message)  # a bytearray may be modified while a thread reads it
        octets = octets if binary else await run_for(octets, normalize_message, octets)
        return _in_memory(octets, eight_bit=eight_bit, utf8=utf8, binary=binary)
    if isinstance(message, os.PathLike):
        status = await trio.Path(message).stat()
        size = status.st_size if stat.S_ISREG(status.st_mode) else None
        if size is not None or stat.S_ISDIR(status.st_mode):
            # Open the file once now, so that an error is raised before MAIL is sent.
            async with await trio.open_file(message, "rb"):
                pass
    elif isinstance(message, AsyncIterable):
        size = None
    elif isinstance(message, str):
        raise TypeError("a message must not be a str: encode it, or use email.message.EmailMessage")
    else:
        raise TypeError(
            f"a message must be bytes, an email message, an os.PathLike or an async iterable of bytes, "
            f"not {type(message).__name__}"
        )
    return PreparedMessage(None, size, None, False, message, eight_bit, binary)


def _in_memory(octets: bytes, *, eight_bit: bool, utf8: bool, binary: bool = False) -> PreparedMessage:
    """Return ``octets`` as a prepared message. Raise LocalProtocolError for octets the server does not accept."""
    if not binary and b"\0" in octets:
        raise LocalProtocolError(NUL)
    is_8bit = not octets.isascii()
    utf8_header = is_8bit and not octets[: header_end(octets)].isascii()
    if utf8_header and not utf8:
        raise LocalProtocolError(NOT_UTF8)
    if is_8bit and not eight_bit:
        raise LocalProtocolError(NOT_8BIT)
    return PreparedMessage(octets, len(octets), is_8bit, utf8_header)


# --- email messages -------------------------------------------------------------------------------------------------

#: The fields with addresses that are sent. Encoded words cannot replace a non-ASCII address in them (RFC 2047 5).
ADDRESS_FIELDS: Final = (
    "From", "Sender", "Reply-To", "To", "Cc", "Resent-From", "Resent-Sender", "Resent-To", "Resent-Cc"
)  # fmt: skip


def _flatten(message: email.message.Message, *, eight_bit: bool, utf8: bool) -> bytes:
    """Return the message as octets, encoded anew only if the server could not accept it as it was parsed."""
    problem, unread = header_damage(message)
    if BCC.search(normalize_newlines(unread.encode(errors="replace"))):
        raise ValueError(f"a Bcc field would be sent as a part of the body: {problem}")
    from .generator import generate  # imported here because programs that send bytes do not need it

    message = copy.deepcopy(message)  # flattening adds missing boundaries, in nested parts too
    del message["Bcc"], message["Resent-Bcc"]
    needs_utf8 = any(
        not address.isascii()
        for name in ADDRESS_FIELDS
        for addresses, _ in field_addresses(message, name)
        for address in addresses or ()
    )
    if needs_utf8 and not utf8:
        raise LocalProtocolError(NOT_UTF8)
    # Fields that were parsed with octets above 127 stay as they are only in a message that may be UTF-8.
    raw = any(type(value) is str and not value.isascii() for part in message.walk() for _, value in part.raw_items())
    for as_utf8 in {needs_utf8, needs_utf8 or (raw and utf8)}:
        repair_address_fields(message, ADDRESS_FIELDS, utf8=as_utf8)
    try:
        octets = generate(message, smtp_policy(message, "8bit", utf8=needs_utf8 or (raw and utf8)))
    except UnicodeEncodeError as error:
        raise ValueError(
            f"the message contains text without an encoding; parse it from bytes, not from a str: {error}"
        ) from None
    if (eight_bit or octets.isascii()) and (utf8 or octets[: header_end(octets)].isascii()):
        return octets
    try:
        # Fields with raw octets are encoded here (RFC 2047).
        return generate(message, smtp_policy(message, "7bit", utf8=needs_utf8))
    except (UnicodeError, LookupError):
        return octets  # their character set is not known, so they cannot be encoded; `_in_memory` raises
