"""Messages whose delivery is unknown: the connection was lost after their last octet and before the reply (RFC 1047)."""

from __future__ import annotations

from collections.abc import Iterable

from ..protocol import RemoteProtocolError
from ..protocol.commands import END_OF_DATA
from .results import ConnectionLostError, DeliveryUnknownError, PartialResult, TimedOutError


def raise_if_in_doubt(
    exc: ConnectionLostError | TimedOutError | RemoteProtocolError, messages: Iterable[PartialResult]
) -> None:
    """Raise `DeliveryUnknownError` if a message was sent whole and its reply is still to come (RFC 1047)."""
    for partial in messages:
        if partial.in_doubt:
            raise delivery_unknown(exc, partial) from exc


def delivery_unknown(
    exc: ConnectionLostError | TimedOutError | RemoteProtocolError, partial: PartialResult
) -> DeliveryUnknownError:
    """Return the exception for a message that may have been accepted although ``exc`` was raised."""
    command = END_OF_DATA if isinstance(exc, RemoteProtocolError) else exc.command
    return DeliveryUnknownError(command, str(exc), partial.result())
