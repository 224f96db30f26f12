"""``--limit NAME=VALUE``: the members of `Limits` on the command line."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from attrs import Attribute, evolve, fields

from ..protocol import Limits
from .options import UsageError
from .units import octets, seconds

#: The limits of ``smtp-trio serve`` that have another default than in the library. They allow for a public address.
#: 300 connections in a minute cost about 4 % of a processor with a TLS handshake each (8 ms), so a flood of them does not
#: matter, and a client that opens one for each message is not slowed down in practice. Postfix and Exim have no such limit
#: by default, as they start a process for each connection, whose number is limited.
DEFAULTS = Limits(sessions=512, per_peer=50, connections_per_minute=300)
BOOLS = {"yes": True, "true": True, "no": False, "false": False}
NO_LIMIT = "none"


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"must be a number, got {text!r}")
    return int(text)


def _bool(text: str) -> bool:
    if text.lower() not in BOOLS:
        raise argparse.ArgumentTypeError(f"must be yes or no, got {text!r}")
    return BOOLS[text.lower()]


#: How a value is read, by the unit of its field.
CONVERTERS: Mapping[str, Callable[[str], Any]] = {
    "octets": octets, "seconds": seconds(10**9), "number": _number, "bool": _bool,
}  # fmt: skip


def _unit(limit: Attribute[Any]) -> str:
    return "bool" if isinstance(limit.default, bool) else limit.metadata.get("unit", "number")


def limit_option(text: str) -> tuple[str, Any]:
    """Return the name and the value that a value of ``--limit`` sets."""
    name, equals, value = text.partition("=")
    name, value = name.strip().replace("-", "_").lower(), value.strip()
    limits = {each.name: each for each in fields(Limits)}
    if name not in limits:
        close = difflib.get_close_matches(name, limits, 1)
        hint = f"did you mean {close[0]}?" if close else f"the limits are {', '.join(limits)}"
        raise argparse.ArgumentTypeError(f"unknown limit {name!r}; {hint}")
    if not equals or not value:
        raise argparse.ArgumentTypeError(f"must be {name}=VALUE, got {text!r}")
    if value.lower() == NO_LIMIT and "None" in str(limits[name].type):
        return name, None
    try:
        return name, CONVERTERS[_unit(limits[name])](value)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{name} {error}") from None


def make_limits(settings: Iterable[tuple[str, Any]]) -> Limits:
    """Return the limits of a server, with the values of all ``--limit``; the last one of each name counts."""
    try:
        return evolve(DEFAULTS, **dict(settings))
    except ValueError as error:
        raise UsageError(f"--limit: {str(error).removeprefix('limits.')}") from None


def limit_help() -> str:
    """Return the limits and their defaults, for the help."""
    return ", ".join(f"{each.name}={_shown(getattr(DEFAULTS, each.name))}" for each in fields(Limits))


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return NO_LIMIT if value is None else str(value)
