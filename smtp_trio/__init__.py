"""SMTP for Trio: a server to embed as a mail intake, a client, and the protocol under both.

import trio
import smtp_trio
from smtp_trio import Reply

class Intake(smtp_trio.Hooks):
    async def rcpt(self, session, rcpt):
        if rcpt.recipient.domain not in ("example.org", None):      # None: <Postmaster>
            return Reply(550, "No such user here", "5.1.1")

    async def data(self, session, body):
        async for chunk in body:          # the first pull sends the 354; not pulling is back-pressure
            ...

async def main():
    server = smtp_trio.Server(Intake(), name="mx.example.org")
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve, 2525)                  # returns when it is listening
        async with smtp_trio.connect("localhost", 2525) as client:
            await client.send("me@example.net", ["you@example.org"], b"Subject: hi\\r\\n\\r\\nhello\\r\\n")
        await server.stop()                                      # drains, then serve returns

trio.run(main)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._client.client import Client
    from ._client.connect import connect, send
    from ._client.exchange import ClientTimeouts
    from ._client.pool import Pool, PoolStatistics
    from ._client.results import (
        Accepted,
        ConnectionLost,
        ConnectRejected,
        DeliveryUnknown,
        HandshakeFailed,
        NobodyAccepted,
        Outcome,
        Rejected,
        Result,
        TimedOut,
        Unknown,
    )
    from ._server.body import Body
    from ._server.hooks import Hooks
    from ._server.listeners import open_listeners
    from ._server.server import Server
    from ._server.session import Session
    from ._types import Drained, Envelope, MessageState, Peer, Statistics, Timeouts, TlsInfo
    from .protocol import (
        BodyError,
        Limits,
        LocalProtocolError,
        NotOffered,
        Path,
        ProtocolError,
        Refused,
        RemoteProtocolError,
        Reply,
        SMTPError,
        standard,
    )
    from .protocol.sasl import Credentials, Password, ScramSecret, Token

__version__ = "0.1.0"

__all__ = [
    "Accepted",
    "Body",
    "BodyError",
    "Client",
    "ClientTimeouts",
    "ConnectRejected",
    "ConnectionLost",
    "Credentials",
    "DeliveryUnknown",
    "Drained",
    "Envelope",
    "HandshakeFailed",
    "Hooks",
    "Limits",
    "LocalProtocolError",
    "MessageState",
    "NobodyAccepted",
    "NotOffered",
    "Outcome",
    "Password",
    "Path",
    "Peer",
    "Pool",
    "PoolStatistics",
    "ProtocolError",
    "Refused",
    "Rejected",
    "RemoteProtocolError",
    "Reply",
    "Result",
    "SMTPError",
    "ScramSecret",
    "Server",
    "Session",
    "Statistics",
    "TimedOut",
    "Timeouts",
    "TlsInfo",
    "Token",
    "Unknown",
    "connect",
    "open_listeners",
    "send",
    "standard",
]


#: Where the names live. They are fetched when first asked for, so that ``smtp_trio.protocol`` can be used where there is no Trio.
_HOMES = {
    "_server.body": ("Body",),
    "_client.client": ("Client",),
    "_client.exchange": ("ClientTimeouts",),
    "_client.connect": (
        "connect",
        "send",
    ),
    "_server.hooks": ("Hooks",),
    "_server.listeners": ("open_listeners",),
    "_client.pool": ("Pool", "PoolStatistics"),
    "_client.results": (
        "Accepted",
        "ConnectRejected",
        "ConnectionLost",
        "DeliveryUnknown",
        "HandshakeFailed",
        "NobodyAccepted",
        "Outcome",
        "Rejected",
        "Result",
        "TimedOut",
        "Unknown",
    ),
    "_server.server": ("Server",),
    "_server.session": ("Session",),
    "_types": (
        "Drained",
        "Envelope",
        "MessageState",
        "Peer",
        "Statistics",
        "Timeouts",
        "TlsInfo",
    ),
    "protocol": (
        "BodyError",
        "Limits",
        "LocalProtocolError",
        "NotOffered",
        "Path",
        "ProtocolError",
        "Refused",
        "RemoteProtocolError",
        "Reply",
        "SMTPError",
        "standard",
    ),
    "protocol.sasl": (
        "Credentials",
        "Password",
        "ScramSecret",
        "Token",
    ),
}


def __getattr__(name: str) -> object:
    for home, names in _HOMES.items():
        if name in names:
            value = getattr(import_module(f"smtp_trio.{home}"), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module 'smtp_trio' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
