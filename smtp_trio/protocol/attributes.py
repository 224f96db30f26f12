"""Commands whose argument is a list of attributes, ``NAME=value``: XCLIENT and XFORWARD of Postfix."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from typing import ClassVar, Self

from attrs import field, frozen

from . import syntax
from .commands import Command
from .errors import BadCommandError
from .params import KnownParams
from .replies import Reply

#: The value of an attribute; None if it is not available.
Attribute = str | None
#: What is sent for a value that is not available, and for a name that is not available now; in Python the latter is a str.
UNAVAILABLE, TEMPORARY = "[UNAVAILABLE]", "[TEMPUNAVAIL]"
#: The longest value, in characters after decoding.
MAX_VALUE = 255

HOST_NAME = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*\.?")
PORT = re.compile(r"[0-9]{1,5}")
IPV6_PREFIX = "IPV6:"


# The values are written as xtext (RFC 3461 4). What is decoded from them becomes part of log records, of a ``Received``
# field and of the name of a user, so a control character is an error in each of them, and an invalid name, address or port
# is an error too.


def _host_name(text: str) -> str | None:
    return text if HOST_NAME.fullmatch(text) else None


def _address(text: str) -> str | None:
    """Return an IP address without the prefix that one of version 6 has here."""
    is_ipv6 = text[: len(IPV6_PREFIX)].upper() == IPV6_PREFIX
    try:
        address = ipaddress.ip_address(text[len(IPV6_PREFIX) :] if is_ipv6 else text)
    except ValueError:
        return None
    return str(address) if (address.version == 6) == is_ipv6 and "%" not in text else None


def _port(text: str) -> str | None:
    return str(int(text)) if PORT.fullmatch(text) and int(text) <= 65535 else None


def _text(text: str) -> str | None:
    return text or None


#: The function that parses the value of each attribute; `_text` does all others.
PARSERS: Mapping[str, Callable[[str], str | None]] = {
    "NAME": _host_name,
    "ADDR": _address,
    "PORT": _port,
    "DESTADDR": _address,
    "DESTPORT": _port,
}


@frozen(eq=False, repr=False)
class AttributeCommand(Command):
    """A command with attributes. ``attributes`` are their values, by their names in upper case.

    The value None is ``[UNAVAILABLE]``: the sender does not know it.
    """

    attributes: Mapping[str, Attribute] = field(hash=False)

    #: The names of the attributes.
    names: ClassVar[tuple[str, ...]] = ()
    #: The values that are allowed for some of them.
    choices: ClassVar[Mapping[str, frozenset[str]]] = {}

    def encode(self) -> str:
        """Return the command line without its CRLF."""
        return " ".join([self.verb, *(f"{name}={_encode(name, value)}" for name, value in self.attributes.items())])

    @classmethod
    def decode(cls, argument: str, known_params: KnownParams) -> Self:
        """Parse the argument. Raises `BadCommandError` (501 5.5.4) if it is not valid."""
        attributes: dict[str, Attribute] = {}
        for word in argument.split(" "):
            name, _, text = word.partition("=")
            name = name.upper()
            if name not in cls.names:
                raise _invalid(f"Unknown attribute of {cls.verb}: {name!a}" if word else f"Syntax: {cls.usage}")
            if name in attributes:
                raise _invalid(f"Duplicate attribute: {name}")
            attributes[name] = cls.parse_value(name, text)
        return cls(attributes)

    @classmethod
    def parse_value(cls, name: str, text: str) -> Attribute:
        """Return the value of an attribute that was sent as ``text``. Raises `BadCommandError` if it is not valid."""
        if text.upper() == UNAVAILABLE:
            return None
        if name == "NAME" and text.upper() == TEMPORARY:
            return TEMPORARY
        value = syntax.decode_xtext(text)
        if value is not None and (len(value) > MAX_VALUE or syntax.CONTROL.search(value)):
            value = None
        if value is not None and name in cls.choices:
            value = value.upper() if value.upper() in cls.choices[name] else None
        elif value is not None:
            value = PARSERS.get(name, _text)(value)
        if value is None:
            raise _invalid(f"Invalid value of {name}")
        return value


def _invalid(text: str) -> BadCommandError:
    return BadCommandError(Reply(501, text, "5.5.4"))


def _encode(name: str, value: Attribute) -> str:
    if value is None:
        return UNAVAILABLE
    return syntax.encode_xtext(f"{IPV6_PREFIX}{value}" if name in ("ADDR", "DESTADDR") and ":" in value else value)
