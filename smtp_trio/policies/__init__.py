"""Policies against abuse, as layers around the hooks of an application: greylisting, rates, limits and a tarpit."""

from __future__ import annotations

from ._greylist import Greylist
from ._layer import Layer
from ._limits import ConnectionsPerPeer, MessagesPerConnection, RecipientsPerMessage
from ._rates import ConnectionRate, MessageRate
from ._tarpit import Tarpit

__all__ = [
    "ConnectionRate",
    "ConnectionsPerPeer",
    "Greylist",
    "Layer",
    "MessageRate",
    "MessagesPerConnection",
    "RecipientsPerMessage",
    "Tarpit",
]
