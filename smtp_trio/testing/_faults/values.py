r"""The kinds of values in the text of rules, with functions that read and write them.

A token is a word, or a text in double quotes, in which ``\"``, ``\\``, ``\r``, ``\n``, ``\t`` and ``\x00`` to ``\xff``
have their usual meaning, and so do ``\u0000`` and ``\U00000000`` in texts that are not octets.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from decimal import Decimal
from difflib import get_close_matches
from typing import Any

from attrs import frozen

from ...protocol.amounts import OCTETS as OCTET_UNITS, SECONDS, parse_amount
from ...protocol.extensions import STANDARD
from ...protocol.extensions.lmtp import Lhlo
from ...protocol.grammar import Grammar
from .._wire_tracker import BODY, DOT, GREETING
from .rule import ANYWHERE, MAX_NUMBER, MAX_SECONDS

#: A token: a text in quotes, or a word.
TOKEN = re.compile(r'\s*(?:"((?:[^"\\]|\\.)*)"(?=\s|$)|([^\s"]+)(?=\s|$))')
ESCAPE = re.compile(r'\\(?:([\\"rnt])|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.?))', re.DOTALL)
#: An unquoted parameter of an extension that is a number.
WHOLE = re.compile("0|-?[1-9][0-9]*", re.ASCII)
LETTERS = {"\\": "\\", '"': '"', "r": "\r", "n": "\n", "t": "\t"}
WRITTEN = {char: f"\\{letter}" for letter, char in LETTERS.items()}

#: The places of rules by their names in the text.
PLACES: dict[str, str] = {
    GREETING: GREETING,
    **{verb: verb for verb in sorted({*Grammar(STANDARD).verbs, Lhlo.verb})},
    "DOT": DOT,
    BODY: BODY,
    "anywhere": ANYWHERE,
}
PLACE_NAMES = {place: name for name, place in PLACES.items()}
BY_LOWER_CASE = {name.lower(): place for name, place in PLACES.items()} | {DOT: DOT, ANYWHERE: ANYWHERE}


@frozen
class Token:
    """A token. ``raw`` is the text, without the quotes of a ``quoted`` one."""

    raw: str
    quoted: bool

    @property
    def lower(self) -> str:
        """The word in lower case; "" for a quoted token, which is never a word of the grammar."""
        return "" if self.quoted else self.raw.lower()

    def __str__(self) -> str:
        return f'"{self.raw}"' if self.quoted else repr(self.raw)


@frozen
class Kind:
    """A kind of value. ``read`` returns the value of a token, or raises ValueError; ``write`` returns its text."""

    name: str
    read: Callable[[Token], Any]
    write: Callable[[Any], str]
    description: str
    #: Whether values must be quoted, so that a misspelt word is not read as one.
    quoted: bool = False


def tokenize(text: str) -> list[Token]:
    """Return the tokens of a text. Raises ValueError if they are malformed."""
    tokens: list[Token] = []
    at = 0
    text = text.rstrip()
    while at < len(text):
        match = TOKEN.match(text, at)
        if match is None:
            rest = text[at:].lstrip()
            raise ValueError(
                f"the quotes at {shorten(rest)!r} are not balanced: quote a text at both ends, and a word at neither"
            )
        tokens.append(Token(match[2], quoted=False) if match[1] is None else Token(match[1], quoted=True))
        at = match.end()
    return tokens


def shorten(text: str) -> str:
    """Return the beginning of a text, for an error message."""
    return text if len(text) <= 60 else f"{text[:60]}…"


def suggestion(word: str, known: Iterable[str], otherwise: str) -> str:
    """Return the end of an error message about an unknown word: a similar known word, or ``otherwise``."""
    names = {name.lower(): name for name in known}
    close = get_close_matches(word.lower()[:60], names, 1)
    return f"did you mean {names[close[0]]!r}?" if close else otherwise


# --- texts ----------------------------------------------------------------------------------------------------------


def read_text(token: Token) -> str:
    """Return a text in quotes."""
    if not token.quoted:
        raise ValueError("must be a text in quotes")
    return unescape(token)


def unescape(token: Token) -> str:
    """Return the text of a token with its escapes replaced."""
    if not token.quoted:
        return token.raw

    def replace(match: re.Match[str]) -> str:
        letter, *codes, _ = match.groups()
        if letter:
            return LETTERS[letter]
        code = next(filter(None, codes), None)
        if code is None or int(code, 16) > 0x10FFFF:
            raise ValueError(f'{match[0]!r} in {token} is not an escape, which are \\\\ \\" \\r \\n \\t \\x00 \\u0000')
        return chr(int(code, 16))

    return ESCAPE.sub(replace, token.raw)


def escape(text: str) -> str:
    """Return a text in quotes."""
    return '"' + "".join(WRITTEN.get(char) or _visible(char) for char in text) + '"'


def _visible(char: str) -> str:
    if char.isprintable():
        return char
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def read_octets(token: Token) -> bytes:
    """Read octets: ``\\xff`` is one octet, and other characters are encoded in UTF-8."""
    if not token.quoted:
        raise ValueError(f'must be octets in quotes, such as "250 Ok\\r\\n", got {token}')
    octets = b""
    at = 0
    for match in ESCAPE.finditer(token.raw):
        letter, octet, *others = match.groups()
        octets += token.raw[at : match.start()].encode("utf-8", "surrogatepass")
        at = match.end()
        if any(each is not None for each in others):
            raise ValueError(
                f'{match[0]!r} in {token} is not an escape for octets, which are \\\\ \\" \\r \\n \\t \\x00 to \\xff'
            )
        octets += LETTERS[letter].encode() if letter else bytes.fromhex(octet)
    return octets + token.raw[at:].encode("utf-8", "surrogatepass")


def write_octets(octets: bytes) -> str:
    """Return octets in quotes."""
    chars = ((chr(octet), octet) for octet in octets)
    return '"' + "".join(
        WRITTEN.get(char) or (char if 0x20 <= octet < 0x7F else f"\\x{octet:02x}") for char, octet in chars
    ) + '"'  # fmt: skip


def write_word(text: str) -> str:
    """Write a text, in quotes unless it is one word."""
    return text if re.fullmatch(r'[^\s"]+', text) and text.isprintable() else escape(text)


# --- places and words -----------------------------------------------------------------------------------------------


def read_place(token: Token) -> str:
    """Read a place. A quoted place can be unknown, such as the verb of another extension."""
    if token.quoted:
        return unescape(token)
    place = BY_LOWER_CASE.get(token.lower)
    if place is None:
        raise ValueError(f"is not a place: {suggestion(token.raw, PLACES, 'the places are ' + ', '.join(PLACES))}")
    return place


def write_place(place: str) -> str:
    """Return the name of a place."""
    return PLACE_NAMES.get(place) or escape(place)


def read_code(token: Token) -> int:
    """Return a reply code."""
    if token.quoted or not re.fullmatch("[2-5][0-9][0-9]", token.raw, re.ASCII):
        raise ValueError("must be a reply code of three digits, such as 450")
    return int(token.raw)


def read_value(token: Token) -> str | int:
    """Read the parameter of an extension: an int if it is unquoted and a number, otherwise a str."""
    return int(token.raw) if not token.quoted and WHOLE.fullmatch(token.raw) else unescape(token)


def write_value(value: str | int) -> str:
    """Write the parameter of an extension. A str of digits is quoted."""
    if not isinstance(value, str):
        return str(int(value))
    return escape(value) if WHOLE.fullmatch(value) else write_word(value)


# --- numbers --------------------------------------------------------------------------------------------------------


def _amount(units: dict[str, Decimal], maximum: int, expected: str) -> Callable[[Token], Decimal]:
    def read(token: Token) -> Decimal:
        value = None if token.quoted else parse_amount(token.raw, units, maximum)
        if value is None:
            raise ValueError(f"must be {expected}")
        return value

    return read


_read_seconds = _amount(dict(SECONDS), MAX_SECONDS, f"a time from 0 to {MAX_SECONDS} seconds, such as 500ms, 30s or 5m")
_read_size = _amount(dict(OCTET_UNITS), MAX_NUMBER, f"a number from 0 to {MAX_NUMBER}, or a size such as 4k or 1M")
_read_chance = _amount({"": Decimal(1)}, 1, "a probability from 0 to 1")


def _read_number(read: Callable[[Token], Decimal]) -> Callable[[Token], int]:
    def read_number(token: Token) -> int:
        value = read(token)
        if value != int(value):
            raise ValueError("must be a whole number")
        return int(value)

    return read_number


def write_number(value: float) -> str:
    """Write a number, without an exponent if possible, and a float with as many digits as it needs."""
    return str(int(value)) if value == int(value) else repr(float(value))


def write_seconds(value: float) -> str:
    """Write a time in the unit in which it is a whole number, or in seconds. Raises ValueError if it is too long."""
    if value > MAX_SECONDS:
        raise ValueError(f"times in the text of a rule must be at most {MAX_SECONDS} seconds, got {value}")
    for unit in ("h", "m", "s", "ms"):
        factor = SECONDS[unit]
        count = Decimal(repr(value)) / factor
        if count and count == int(count) and float(int(count) * factor) == value:
            return f"{int(count)}{unit}"
    return f"{write_number(value)}s"


PLACE = Kind(
    "PLACE", read_place, write_place, "a verb, CONNECT for the greeting, DOT for the end of the message, body, anywhere"
)
CODE = Kind("CODE", read_code, str, "a reply code")
TEXT = Kind('"TEXT"', read_text, escape, "a text in quotes", quoted=True)
STATUS = Kind("X.Y.Z", unescape, write_word, "an enhanced status code")
KEYWORD = Kind("KEYWORD", unescape, write_word, "the keyword of an extension")
VALUE = Kind("VALUE", read_value, write_value, "the parameter of an extension")
OCTETS = Kind('"OCTETS"', read_octets, write_octets, "octets in quotes", quoted=True)
TIME = Kind(
    "TIME", lambda token: float(_read_seconds(token)), write_seconds, "seconds, or a time such as 500ms, 30s, 5m, 1h"
)
SIZE = Kind("N", _read_number(_read_size), write_number, "a number, or a size such as 4k or 1M")
NUMBER = Kind("N", _read_number(_read_size), write_number, "a number")
RATE = Kind("RATE", lambda token: float(_read_size(token)), write_number, "octets a second, such as 300 or 4k")
CHANCE = Kind("CHANCE", lambda token: float(_read_chance(token)), write_number, "a probability from 0 to 1")

#: The kinds of values that the documentation lists.
KINDS = (PLACE, CODE, STATUS, TIME, SIZE, RATE, TEXT, OCTETS, KEYWORD, VALUE, CHANCE)
