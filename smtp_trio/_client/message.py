"""What a client is given to send, made ready to be sent; and the envelope that a message's own fields make."""

from __future__ import annotations

import contextlib
import copy
import email.message
import inspect
import io
import os
import re
import stat
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import trio
from attrs import evolve, field, frozen

from ..protocol import LocalProtocolError, Path
from ..protocol.dot_stuffing import NewlineNormalizer, normalize_message
from ..protocol.syntax import CONTROL, LOCAL_OCTETS, PATH_OCTETS, parse_path

if TYPE_CHECKING:
    from email.policy import Policy

#: What can be sent. `email.message.EmailMessage` is a `email.message.Message`; an `os.PathLike` names a file.
Message: TypeAlias = (
    bytes | bytearray | memoryview | email.message.Message | os.PathLike[str] | AsyncIterable[bytes]
)  # fmt: skip

PIECE: Final = 65536  # octets

NOT_8BIT: Final = (
    "the message has octets above 127, and the server has no 8BITMIME: it must not be sent like this (RFC 6152 3). "
    "Encode it as quoted-printable or base64, or give an EmailMessage, which is encoded as the server needs it"
)
NOT_UTF8: Final = (
    "the message's header is not ASCII, and the server has no SMTPUTF8: it must not be sent like this (RFC 6531 3.5). "
    "Names and subjects can be encoded words (RFC 2047), domains can be A-labels (xn--); a local part cannot be either"
)


@frozen
class Outgoing:
    """A message that is ready to be sent.

    ``octets`` is all of it, with CRLF at the end of every line, or None when it is not in memory. ``size`` is how many octets it
    has, for SIZE (RFC 1870 6: an estimate), or None when nobody knows. ``eight_bit`` tells whether there are octets above 127, and is
    None when that cannot be known before it is read. ``utf8_header``: its header is not ASCII, so it needs SMTPUTF8 (RFC 6531 3.2);
    nobody looks into a file or an iterable for it.
    """

    octets: bytes | None
    size: int | None
    eight_bit: bool | None
    utf8_header: bool
    _source: os.PathLike[str] | AsyncIterable[bytes] | None = field(default=None, repr=False)
    _takes_8bit: bool = field(default=True, repr=False)
    _binary: bool = field(default=False, repr=False)

    @property
    def repeatable(self) -> bool:
        """Whether it can be had a second time: an iterable may give its pieces only once."""
        return self.octets is not None or isinstance(self._source, os.PathLike)

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """The message, piece by piece, with CRLF at the end of every line. Pieces of a file or of memory have 64 KiB at most.

        To be used with `contextlib.aclosing`, which closes the file, or the generator that the caller gave, at once.

        Raises TypeError for a piece that is not bytes, `LocalProtocolError` for octets above 127 that the server does not take,
        OSError when the file cannot be read; what the caller's iterable raises passes unchanged.
        """
        if self.octets is not None:
            for at in range(0, len(self.octets), PIECE):
                yield self.octets[at : at + PIECE]
            return
        lines = NewlineNormalizer()
        async with contextlib.aclosing(self._read()) as source:
            async for data in source:
                if not self._takes_8bit and not data.isascii():
                    raise LocalProtocolError(NOT_8BIT)
                piece = data if self._binary else lines.feed(data)
                if piece:
                    yield piece
        if last := lines.end():
            yield last

    async def _read(self) -> AsyncGenerator[bytes, None]:
        """The octets as they are at their source."""
        if isinstance(self._source, os.PathLike):
            async with await trio.open_file(self._source, "rb") as file:
                while data := await file.read(PIECE):
                    yield data
            return
        assert self._source is not None
        iterator = aiter(self._source)
        try:
            async for data in iterator:
                yield _octets(data)
        finally:
            # A generator that is left in the middle is of no more use to anybody. Other iterables may be: they are the caller's.
            if inspect.isasyncgen(iterator):
                await iterator.aclose()


def _octets(data: object) -> bytes:
    if not isinstance(data, bytes | bytearray | memoryview):
        raise TypeError(f"a message's pieces must be bytes, not {type(data).__name__}")
    return bytes(data)  # which copies no bytes


async def outgoing(message: Message, *, eight_bit: bool, utf8: bool, binary: bool = False) -> Outgoing:
    """Make a message ready. ``eight_bit`` and ``utf8`` say whether the server has 8BITMIME and SMTPUTF8.

    ``binary`` leaves line ends as they are (BODY=BINARYMIME, RFC 3030 3). An email message is never changed; it is encoded as the
    server needs it, and sent without its Bcc and Resent-Bcc (RFC 5322 3.6.3).

    Raises TypeError for what is no message, `LocalProtocolError` when the server must not be sent it, OSError when its file is not
    there.
    """
    if isinstance(message, email.message.Message):
        return _in_memory(_flatten(message, eight_bit=eight_bit, utf8=utf8), eight_bit=eight_bit, utf8=utf8)
    if isinstance(message, bytes | bytearray | memoryview):
        octets = bytes(message)
        return _in_memory(octets if binary else normalize_message(octets), eight_bit=eight_bit, utf8=utf8)
    if isinstance(message, os.PathLike):
        status = await trio.Path(message).stat()
        size = status.st_size if stat.S_ISREG(status.st_mode) else None
        if size is not None or stat.S_ISDIR(status.st_mode):
            async with await trio.open_file(
                message, "rb"
            ):  # what cannot be read is better known before anything is said
                pass
    elif isinstance(message, AsyncIterable):
        size = None
    elif isinstance(message, str):
        raise TypeError("a message is not a str: encode it, or use email.message.EmailMessage")
    else:
        raise TypeError(
            f"a message is bytes, an email message, an os.PathLike or an async iterable of bytes, not {type(message).__name__}"
        )
    return Outgoing(None, size, None, False, message, eight_bit, binary)


def _in_memory(octets: bytes, *, eight_bit: bool, utf8: bool) -> Outgoing:
    is_8bit = not octets.isascii()
    utf8_header = is_8bit and not _header(octets).isascii()
    if utf8_header and not utf8:
        raise LocalProtocolError(NOT_UTF8)
    if is_8bit and not eight_bit:
        raise LocalProtocolError(NOT_8BIT)
    return Outgoing(octets, len(octets), is_8bit, utf8_header)


def _header(octets: bytes) -> bytes:
    """The header, up to the first empty line (RFC 5322 2.1)."""
    if octets.startswith(b"\r\n"):
        return b""
    end = octets.find(b"\r\n\r\n")
    return octets if end < 0 else octets[:end]


# --- email messages -------------------------------------------------------------------------------------------------

# RFC 5322 3.6.2, 3.6.3 and 3.6.6
ORIGINATORS: Final = ("Sender", "From")
DESTINATIONS: Final = ("To", "Cc", "Bcc")
#: The fields that hold addresses and are sent: those that encoded words are no help to.
ADDRESSES: Final = ("From", "Sender", "Reply-To", "To", "Cc", "Resent-From", "Resent-Sender", "Resent-To", "Resent-Cc")


def _flatten(message: email.message.Message, *, eight_bit: bool, utf8: bool) -> bytes:
    """The message as octets, as it was parsed if it was; encoded anew only if the server could not take it otherwise."""
    message = copy.deepcopy(message)  # flattening makes boundaries where there are none, in parts of parts too
    del message["Bcc"], message["Resent-Bcc"]
    foreign = any(
        not address.isascii() for name in ADDRESSES for text in _values(message, name) for address in _split(text) or ()
    )
    if foreign and not utf8:
        raise LocalProtocolError(NOT_UTF8)
    # Fields that were parsed with octets above 127 in them stay as they are only in a message that may be UTF-8.
    raw = any(type(value) is str and not value.isascii() for part in message.walk() for _, value in part.raw_items())
    try:
        octets = _generate(message, _policy(message, "8bit", utf8=foreign or (raw and utf8)))
    except UnicodeEncodeError as error:
        raise ValueError(
            f"the message holds text without an encoding; parse it from bytes, not from a str: {error}"
        ) from None
    if (eight_bit or octets.isascii()) and (utf8 or _header(octets).isascii()):
        return octets
    try:
        # Fields that hold raw octets become encoded words here.
        return _generate(message, _policy(message, "7bit", utf8=foreign))
    except (UnicodeError, LookupError):
        return octets  # nobody knows what these octets mean, so nobody can encode them


def _policy(message: email.message.Message, cte_type: str, *, utf8: bool) -> Policy:
    """The message's own policy as SMTP needs it. Fields that were parsed keep their folds: they may be signed."""
    from email.policy import EmailPolicy  # here, as the generator below: who sends octets needs none of this

    policy = message.policy
    changes: dict[str, Any] = {"linesep": "\r\n", "cte_type": cte_type}
    if isinstance(policy, EmailPolicy):
        changes |= {"utf8": utf8, "refold_source": "none"}
    else:
        changes |= {"max_line_length": 998}  # RFC 5322 2.1.1; this policy cannot tell what was parsed
    return policy.clone(**changes)


def _generate(message: email.message.Message, policy: Policy) -> bytes:
    from email.generator import BytesGenerator

    file = io.BytesIO()
    BytesGenerator(file, mangle_from_=False, policy=policy).flatten(message)
    return normalize_message(file.getvalue())


# --- envelopes ------------------------------------------------------------------------------------------------------

#: The parts of an address list (RFC 5322 3.4): white space and comments, <…>, separators, what is quoted, [...], and words. No two
#: of them begin with the same character, so no text makes it try again. Comments in comments in comments are not read.
TOKEN: Final = re.compile(
    r"""(?P<space>\s+|\((?:[^()\\]|\\.|\((?:[^()\\]|\\.)*\))*\)) | (?P<angle><(?:"(?:[^"\\]|\\.)*"|[^">])*>)
      | (?P<separator>[,;:]) | "(?:[^"\\]|\\.)*" | \[[^\[\]]*\] | [^\s"()<>\[\],;:]+""",
    re.VERBOSE | re.DOTALL,
)
SURROGATE: Final = re.compile("[\ud800-\udfff]")


def envelope(
    message: email.message.Message, sender: str | None, recipients: Iterable[str] | None
) -> tuple[str, list[str]]:
    """The sender and the recipients of a message: those that are given, else those of its fields.

    The sender is that of Sender, else the first one of From; the recipients are those of To, Cc and Bcc, each once. When the
    message was resent, it is the Resent- fields that count (RFC 5322 3.6.6).

    Raises ValueError, with the field's name, when there is none of them, or one that is malformed; and when the message was resent
    several times, since the fields do not tell which belong together.
    """
    if sender is not None and recipients is not None:
        return sender, list(recipients)
    prefix = _prefix(message)
    if sender is None:
        fields = [prefix + name for name in ORIGINATORS]
        senders = _addresses(message, fields)
        if not senders:
            raise ValueError(f"the message has no sender: there is no address in {' or '.join(fields)}")
        sender = senders[0]
    if recipients is None:
        fields = [prefix + name for name in DESTINATIONS]
        recipients = dict.fromkeys(_addresses(message, fields))
        if not recipients:
            raise ValueError(f"the message has no recipients: there is no address in {', '.join(fields)}")
    return sender, list(recipients)


def _prefix(message: email.message.Message) -> str:
    """ "Resent-" if the message was resent."""
    if any(len(message.get_all(name, [])) > 1 for name in ("Resent-Date", "Resent-From")):
        raise ValueError("the message was resent more than once (Resent-Date, Resent-From): give sender and recipients")
    names = ("Date", *ORIGINATORS, *DESTINATIONS)
    return "Resent-" if any(f"Resent-{name}" in message for name in names) else ""


def _addresses(message: email.message.Message, names: Iterable[str]) -> list[str]:
    """The addresses in these fields, in order."""
    found = []
    for name in names:
        for text in _values(message, name):
            addresses = _split(text)
            if addresses is None:
                raise ValueError(f"{name} is malformed: {text!a}")
            found += [mailbox(address, f"address in {name}").raw for address in addresses]
    return found


def _values(message: email.message.Message, name: str) -> Iterator[str]:
    """The fields of that name, as they will be sent, on one line."""
    policy = _policy(message, "8bit", utf8=True)
    for key, value in message.raw_items():
        if key.lower() == name.lower():
            # A plain str was parsed, with octets that are not ASCII in it as surrogates. All else knows how it is written.
            octets = (
                value.encode("utf-8", "surrogateescape")
                if type(value) is str
                else policy.fold_binary(key, value).partition(b":")[2]
            )
            yield octets.decode("utf-8", "surrogateescape").replace("\r", "").replace("\n", "").strip()


def _split(text: str) -> list[str] | None:
    """The addresses in an address list, without names, comments and groups (RFC 5322 3.4). None when it is none.

    The email package has a parser for these too, but it guesses: of ``a@b <c@d>`` it makes a@b. Mail must not go to a guess.
    """
    found: list[str] = []
    words: list[str] = []
    angles: list[str] = []
    group, at = False, 0
    text += ","
    while at < len(text):
        match = TOKEN.match(text, at)
        if match is None:
            return None
        at, token, kind = match.end(), match[0], match.lastgroup
        if kind != "separator":
            words.append(" " if kind == "space" else token)
            if kind == "angle":
                angles.append(token[1:-1].strip())
            continue
        entry = "".join(words).strip()
        if angles and (len(angles) > 1 or token == ":" or not entry.endswith(">")):
            return None
        if token != "," and group == (token == ":"):
            return None  # a group in a group, or the end of none
        if entry and token != ":":
            found.append(angles[0] if angles else entry)
        group = token == ":" or (group and token == ",")
        words, angles = [], []
    return None if group else found


def mailbox(text: str, what: str, *, null: bool = False) -> Path:
    """The address that a caller gave, with brackets or without. ``what`` is what it is, for the message of the ValueError.

    A domain with U-labels is given A-labels (RFC 5890) where the local part is ASCII, so that SMTPUTF8 is not needed for it.
    ``null`` allows "" and "<>", the null reverse-path (RFC 5321 4.5.5).

    Raises TypeError for what is no str. Raises ValueError: for control characters, CR, LF and NUL first of all; for what is no
    address, or has a display name; for what is longer than RFC 5321 4.5.3.1 allows.
    """
    if not isinstance(text, str):
        raise TypeError(f"{what} must be a str, not {type(text).__name__}")
    inner = text[1:-1] if text.startswith("<") and text.endswith(">") else text
    path = parse_path(f"<{inner}>")
    if path is not None and path.is_ordinary and not path.is_null:
        return path
    if CONTROL.search(text) or SURROGATE.search(text):
        raise ValueError(f"{what}: {text!a} holds a control character, or half a character")
    if path is None or (path.is_null and not null):
        hint = "; give the address alone, without a display name" if "<" in text[1:] else ""
        raise ValueError(f"{what}: {text!a} is not an address{hint}")
    if not path.is_ascii and path.local.isascii():
        path = evolve(path, raw=str(path))
    if path.is_too_long:
        raise ValueError(
            f"{what}: {text!a} is too long: {LOCAL_OCTETS} octets before the @, {PATH_OCTETS} in all (RFC 5321 4.5.3.1)"
        )
    return path
