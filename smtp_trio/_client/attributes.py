"""XCLIENT and XFORWARD: sending the attributes of the client for which this one connects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ..protocol import BadCommandError, NotOfferedError
from ..protocol.attributes import AttributeCommand
from ..protocol.extensions import Xclient, Xforward
from ..protocol.limits import COMMAND_LINE_OCTETS
from .exchange import Exchange


def make_attributes(kind: type[AttributeCommand], values: Mapping[str, str | int | None]) -> dict[str, str | None]:
    """Return keyword arguments as attributes of a command.

    Raises TypeError for an unknown name, or without any attribute, and ValueError for an invalid value.
    """
    if unknown := sorted(name for name in values if name.upper() not in kind.names):
        names = ", ".join(map(str.lower, kind.names))
        raise TypeError(f"unknown attribute {unknown[0]!r} of {kind.verb}, expected one of {names}")
    if not values:
        raise TypeError(f"{kind.verb} needs at least one attribute")
    attributes: dict[str, str | None] = {}
    for name, value in values.items():
        attribute = name.upper()
        text = None if value is None else str(value)
        line = kind({attribute: text}).encode()
        try:
            found = kind.decode(line.partition(" ")[2], {}).attributes
        except BadCommandError:
            found = {}
        if attribute not in found or (text is not None and found[attribute] is None):
            raise ValueError(f"invalid value for the attribute {attribute} of {kind.verb}: {name}={value!r}")
        attributes[attribute] = found[attribute]
    return attributes


def attribute_commands(
    exchange: Exchange, kind: type[AttributeCommand], attributes: Mapping[str, str | None]
) -> Iterator[AttributeCommand]:
    """Yield commands with these attributes, as many as the limit of a line requires.

    Raises NotOfferedError for an attribute that the server does not offer.
    """
    offered = exchange.protocol.offered.get(kind.verb)
    if not isinstance(offered, Xclient | Xforward):
        raise NotOfferedError(f"the server does not offer {kind.verb}")
    if missing := [name for name in attributes if name not in offered.attributes]:
        raise NotOfferedError(f"the server does not offer the attribute {missing[0]} of {kind.verb}")
    return _split(kind, attributes)


def _split(kind: type[AttributeCommand], attributes: Mapping[str, str | None]) -> Iterator[AttributeCommand]:
    command = kind({})
    # XCLIENT_README: "Once ADDR is sent, the client is usually no longer authorized to send XCLIENT commands."
    for name, value in sorted(attributes.items(), key=lambda item: item[0] == "ADDR"):
        longer = kind({**command.attributes, name: value})
        if command.attributes and len(longer.encode()) + len("\r\n") > COMMAND_LINE_OCTETS:
            yield command
            longer = kind({name: value})
        command = longer
    yield command
