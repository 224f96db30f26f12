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
    from ._body import Body
    from ._client import Client
    from ._conversation import ClientTimeouts
    from ._dialing import connect, send
    from ._hooks import Hooks
    from ._listen import open_listeners
    from ._pool import Pool, PoolStatistics
    from ._results import (
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
    from ._server import Server
    from ._session import Session
    from ._values import Drained, Envelope, MessageState, Peer, Statistics, Timeouts, TlsInfo
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
    "_body": ("Body",),
    "_client": ("Client",),
    "_conversation": ("ClientTimeouts",),
    "_dialing": (
        "connect",
        "send",
    ),
    "_hooks": ("Hooks",),
    "_listen": ("open_listeners",),
    "_pool": ("Pool", "PoolStatistics"),
    "_results": (
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
    "_server": ("Server",),
    "_session": ("Session",),
    "_values": (
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
