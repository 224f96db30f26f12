"""Addresses: those that a caller gives, and the envelope that the header fields of an email message name."""

from __future__ import annotations

import email
import email.message
import functools
import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

from attrs import evolve

from ..protocol import Path
from ..protocol.arguments import check_items
from ..protocol.dot_stuffing import normalize_newlines
from ..protocol.header import message_start
from ..protocol.limits import LOCAL_PART_OCTETS, PATH_OCTETS
from ..protocol.syntax import CONTROL
from .address_list import split_addresses
from .threads import run_for

if TYPE_CHECKING:
    from email.policy import Policy

SURROGATE: Final = re.compile("[\ud800-\udfff]")
DOTS: Final = str.maketrans("\u3002\uff0e\uff61", "...")


#: The longest display name that is written as a quoted string, so that its line has at most 78 octets (RFC 5322 2.1.1).
PHRASE_LENGTH: Final = 60


def parse_mailbox(text: str, what: str, *, null: bool = False) -> Path:
    """Return the address ``text``, given with or without angle brackets, as a `Path`.

    A domain with U-labels is converted to A-labels (RFC 5890) if the local part is ASCII, so that it does not need
    SMTPUTF8. ``what`` names the argument in error messages. ``null`` allows "" and "<>", the null reverse-path (RFC
    5321 4.5.5).

    Raises TypeError if ``text`` is not a str. Raises ValueError for control characters (CR, LF and NUL above all), for
    text that is not an address or contains a display name, and for an address longer than RFC 5321 4.5.3.1 allows.
    """
    if not isinstance(text, str):
        raise TypeError(f"{what} must be a str, not {type(text).__name__}")
    path = _parse(text)
    if path is not None and path.is_ordinary and path.raw:
        return path
    # A line end in an address would let it add commands to the session, so this is checked before anything else.
    if CONTROL.search(text) or SURROGATE.search(text):
        raise ValueError(f"{what}: {text!a} contains a control character or a lone surrogate")
    if path is None or (path.is_null and not null):
        hint = "; give the address alone, without a display name" if "<" in text[1:] else ""
        raise ValueError(f"{what}: {text!a} is not an address{hint}")
    if not path.is_ascii:
        # The server may not know that the ideographic full stop and the like separate labels too (RFC 3490 3.1).
        written = f"{path.local}@{path.raw.rpartition('@')[2].translate(DOTS)}"
        path = evolve(path, raw=str(path) if path.local.isascii() else written)
    if path.is_too_long:
        raise ValueError(
            f"{what}: {text!a} is too long: at most {LOCAL_PART_OCTETS} octets before the @ and {PATH_OCTETS} in all "
            f"(RFC 5321 4.5.3.1)"
        )
    return path


@functools.lru_cache(maxsize=1024)
def _parse(text: str) -> Path | None:
    """Parse an address with or without brackets. A program uses the same few addresses again and again."""
    inner = text[1:-1] if text.startswith("<") and text.endswith(">") else text
    return Path.parse(f"<{inner}>")


# --- header fields --------------------------------------------------------------------------------------------------

# RFC 5322 3.6.2, 3.6.3 and 3.6.6
ORIGINATORS: Final = ("Sender", "From")
DESTINATIONS: Final = ("To", "Cc", "Bcc")

#: The second line of a message whose lines end in CR CR LF. The parser reads it as body.
CRCRLF_LINE: Final = re.compile(r"[^\r\n]+\r\r\n")
#: The beginning of a header field (RFC 5322 2.2).
FIELD: Final = re.compile(r"[!-9;-~]+[ \t]*:")
#: The fields that the client adds to a message without them, in lower case.
ADDED: Final = frozenset({"date", "message-id"})
#: The fields that are not sent, because they would disclose who gets a blind copy (RFC 5322 3.6.3, 3.6.6).
BCC: Final = re.compile(rb"^(?:resent-)?bcc[ \t]*:.*(?:\r\n|\Z)(?:[ \t].*(?:\r\n|\Z))*", re.IGNORECASE | re.MULTILINE)


def smtp_policy(message: email.message.Message, *, utf8: bool) -> Policy:
    """Return the message's policy with the settings that SMTP needs. ``utf8`` allows UTF-8 in the header (RFC 6532)."""
    from email.policy import EmailPolicy  # imported here because programs that send bytes do not need it

    policy = message.policy
    changes: dict[str, Any] = {"linesep": "\r\n", "cte_type": "8bit"}
    if isinstance(policy, EmailPolicy):
        # Parsed fields keep their folding, because a DKIM signature may cover them.
        changes |= {"utf8": utf8, "refold_source": "none"}
    else:
        changes |= {"max_line_length": 998}  # RFC 5322 2.1.1; compat32 cannot tell which fields were parsed
    return policy.clone(**changes)


def envelope(
    message: email.message.Message, sender: str | None, recipients: Iterable[str] | None
) -> tuple[str, list[str]]:
    """Return the sender and the recipients of a message: the given ones, or else those that its header fields name.

    The sender is the address in Sender, or else the first one in From. The recipients are the addresses in To, Cc and
    Bcc, each once. If the message was resent, the Resent- fields are used instead (RFC 5322 3.6.6).

    Raises ValueError, with the name of the field, if the fields contain no address or are malformed; with the line, if
    a line of the header is not a field; and if the message was resent more than once, because the fields do not tell
    which of them belong together.
    """
    if sender is not None and recipients is not None:
        return sender, list(recipients)
    message = reparse(message)
    if problem := header_damage(message)[0]:
        raise ValueError(problem)
    prefix = _prefix(message)
    if sender is None:
        fields = [prefix + name for name in ORIGINATORS]
        senders = _addresses(message, fields)
        if not senders:
            raise ValueError(f"the message has no sender: no address in {' or '.join(fields)}")
        sender = senders[0]
    if recipients is None:
        fields = [prefix + name for name in DESTINATIONS]
        recipients = dict.fromkeys(_addresses(message, fields))
        if not recipients:
            raise ValueError(f"the message has no recipients: no address in {', '.join(fields)}")
    return sender, list(recipients)


async def find_envelope(
    message: email.message.Message, sender: str | None, recipients: Iterable[str] | None
) -> tuple[str, Iterable[str]]:
    """Return `envelope` of these arguments, computed in a worker thread if the message is large."""
    if recipients is not None:
        # Here, because a generator of the caller must not run in another thread.
        recipients = list_recipients(recipients)
    if sender is not None and recipients is not None:
        return sender, recipients
    return await run_for(message, envelope, message, sender, recipients)


def list_recipients(recipients: Iterable[str]) -> list[str]:
    """Return the recipients of a call as a list. Raises TypeError for anything but an iterable of str, also for a str."""
    return list(check_items(recipients, "recipients", str))


def reparse(message: email.message.Message) -> email.message.Message:
    """Return the message, parsed anew if the parser of the email package has taken its header for text.

    It does so after a byte order mark or a quoted mbox line, which are not a part of the message, and if the lines end
    in CR CR LF, which it takes for two line ends and the client for one, as in messages of other kinds.
    """
    payload, fields = message._payload, list(message.raw_items())  # type: ignore[attr-defined]
    if not isinstance(payload, str):
        return message
    if not fields:
        octets = payload.encode("utf-8", "surrogateescape")
        start = message_start(octets)
        return email.message_from_bytes(octets[start:], policy=message.policy) if start else message
    if len(fields) == 1 and CRCRLF_LINE.match(payload):
        text = f"{fields[0][0]}: {fields[0][1]}\r\n{payload}"
        octets = normalize_newlines(text.encode("utf-8", "surrogateescape"))
        return email.message_from_bytes(octets, policy=message.policy)
    return message


def header_damage(message: email.message.Message) -> tuple[str, str]:
    """Return what is wrong with the lines of a header, or "", and the lines that were read as body because of it.

    The parser of the email package ends the header at a line that is not a field, and takes the following lines for the
    body, or it drops that line. In both cases fields may be missing from the message object. If the message begins with
    an empty line, all fields are missing.
    """
    from email import errors  # imported here because programs that send bytes do not need it

    # A message that is sent may have got Date and Message-ID already.
    unread = _first_block(message) if ADDED.issuperset(map(str.lower, message.keys())) else ""
    for defect in message.defects:
        if isinstance(defect, errors.MissingHeaderBodySeparatorDefect):
            unread = unread or _first_block(message)
            return f"the header is damaged: {unread.partition(chr(10))[0]!a} is not a header field", unread
        if isinstance(defect, errors.FirstHeaderLineIsContinuationDefect | errors.MisplacedEnvelopeHeaderDefect):
            line = str(defect.args[0]).rstrip("\r\n")
            return f"the header is damaged: {line!a} is not a header field", unread
        if isinstance(defect, errors.InvalidHeaderDefect):
            return "the header is damaged: a line that begins with a colon is not a header field", unread
    if FIELD.match(unread):
        return "the message has no header, perhaps because it begins with an empty line", unread
    return "", ""


def _first_block(message: email.message.Message) -> str:
    """Return the lines up to an empty one of the text after the header, as it was parsed."""
    return _first_text(message).replace("\r\n", "\n").replace("\r", "\n").lstrip("\n").partition("\n\n")[0]


def _first_text(message: email.message.Message) -> str:
    """Return the text after the header, as it was parsed."""
    payload = message.get_payload()
    if isinstance(payload, str):
        return payload
    if message.preamble is None and isinstance(payload, list) and payload:
        first = payload[0]
        return _first_text(first) if isinstance(first, email.message.Message) and not first.keys() else ""  # message/*
    return message.preamble or ""


def _prefix(message: email.message.Message) -> str:
    """Return "Resent-" if the message was resent, and "" otherwise."""
    if any(len(message.get_all(name, [])) > 1 for name in ("Resent-Date", "Resent-From")):
        raise ValueError("the message was resent more than once (Resent-Date, Resent-From): give sender and recipients")
    names = ("Date", *ORIGINATORS, *DESTINATIONS)
    return "Resent-" if any(f"Resent-{name}" in message for name in names) else ""


def _addresses(message: email.message.Message, names: Iterable[str]) -> list[str]:
    """Return the addresses in the fields of these names, in order."""
    found = []
    for name in names:
        for addresses, text in field_addresses(message, name):
            if addresses is None:
                raise ValueError(f"{name} is malformed: {text!a}")
            found += [parse_mailbox(address, f"address in {name}").raw for address in addresses]
    return found


# Addresses of a field and of its text
#
# The fields of a message are of two kinds. The values of parsed fields are text, which is sent as it is, so their
# addresses are read from that text. The values of other fields are objects of the email package, which have the
# addresses and generate the text when the message is sent. That text cannot be trusted: when the generator folds a long
# display name or decodes an encoded word, it may omit the quotation marks, and a comma in the name then ends an address
# (``victim@example.net, x`` becomes two of them). Hence the envelope is taken from the objects, and each text that the
# generator makes is read back. If it has other addresses than the object, the field is written by `_address_list`.
#
# An object that was made from malformed text has addresses that are guesses. They count only if the text has the same.


def field_addresses(message: email.message.Message, name: str) -> Iterator[tuple[list[str] | None, str]]:
    """Yield the addresses of each field called ``name``, None if it is malformed, and its text on one line."""
    policy = smtp_policy(message, utf8=True).clone(max_line_length=0)
    for key, value in message.raw_items():
        if key.lower() == name.lower():
            text = _text(policy, key, value)
            yield _value_addresses(value, text), text


def _text(policy: Policy, name: str, value: object) -> str:
    """Return the text of a field on one line, as ``policy`` generates it."""
    # A plain str was parsed, and has octets above 127 as surrogates. Other values can encode themselves.
    if type(value) is str:
        octets = value.encode("utf-8", "surrogateescape")
    else:
        from .generator import field_octets  # imported here because programs that send bytes do not need it

        octets = field_octets(policy, name, value).partition(b":")[2]
    return octets.decode("utf-8", "surrogateescape").replace("\r", "").replace("\n", "").strip()


def _value_addresses(value: object, text: str) -> list[str] | None:
    """Return the addresses of a field whose text is ``text``, or None if it is malformed."""
    groups = getattr(value, "groups", None)
    if groups is None:
        return split_addresses(text)
    from email.errors import InvalidHeaderDefect

    found = [address.addr_spec for group in groups for address in group.addresses]
    malformed = any(isinstance(defect, InvalidHeaderDefect) for defect in getattr(value, "defects", ()))
    return None if malformed and not _same(found, text) else found


def _same(addresses: list[str], text: str, *, strict: bool = False) -> bool:
    """Return whether an address list consists of these addresses; if ``strict``, for other parsers too."""
    found = split_addresses(text, strict=strict)
    return found is not None and [*map(canonical_address, found)] == [*map(canonical_address, addresses)]


def canonical_address(address: str) -> str:
    """Return an address with a domain in A-labels if its local part is ASCII, and a malformed one as it is."""
    try:
        return parse_mailbox(address, "address").raw
    except ValueError:
        return address


def has_u_labels(addresses: Iterable[str]) -> bool:
    """Return whether one of these addresses has a domain that can be written with A-labels."""
    return any(not address.isascii() and canonical_address(address) != address for address in addresses)


def repair_address_fields(message: email.message.Message, names: Iterable[str], *, utf8: bool) -> None:
    """Write the fields called ``names`` anew that would be sent with other addresses than they have, or with U-labels.

    A domain with U-labels is written with A-labels if the local part is ASCII, as in the envelope.
    Raises ValueError, with the name of the field, if a field cannot be written.
    """
    policy = smtp_policy(message, utf8=utf8)
    lower = {name.lower() for name in names}
    fields, changed = list(message.raw_items()), False
    for at, (name, value) in enumerate(fields):
        if name.lower() in lower and hasattr(value, "groups"):
            try:
                text: str | None = _text(policy, name, value)
            except ValueError:  # the generator has folded it at a place where the field ends
                text = None
            addresses = _value_addresses(value, _text(policy.clone(max_line_length=0), name, value))
            if addresses is not None and (
                text is None or has_u_labels(addresses) or not _same(addresses, text, strict=True)
            ):
                written = _address_list(value.groups)
                if not _same(addresses, written.replace("\r\n", "")):
                    raise ValueError(f"{name} cannot be written as an address list: {str(value)!a}")
                fields[at], changed = (name, written), True
    if changed:
        set_fields(message, fields)


def set_fields(message: email.message.Message, fields: Iterable[tuple[str, Any]]) -> None:
    """Replace the header fields of a message; the values are stored as they are."""
    for name in message.keys():  # noqa: SIM118
        del message[name]
    for name, value in fields:
        message.set_raw(name, value)


def _address_list(groups: Iterable[Any]) -> str:
    """Return groups of the email package as an address list (RFC 5322 3.4), one address on a line."""
    entries = []
    for group in groups:
        members = [
            f"{_phrase(address.display_name)} <{addr_spec}>" if address.display_name else addr_spec
            for address in group.addresses
            for addr_spec in [canonical_address(address.addr_spec)]
        ]
        listed = ",\r\n ".join(members)
        entries.append(listed if group.display_name is None else f"{_phrase(group.display_name)}: {listed};")
    return ",\r\n ".join(entries)


def _phrase(name: str) -> str:
    """Return a display name as a quoted string if it is short and ASCII, and as encoded words (RFC 2047 5) otherwise."""
    from .generator import encoded_words  # imported here because programs that send bytes do not need it

    if name.isascii() and name.isprintable() and len(name) <= PHRASE_LENGTH:
        return '"' + re.sub(r'(["\\])', r"\\\1", name) + '"'
    return encoded_words(name.encode(errors="replace").decode()).replace(" ", "\r\n ")
