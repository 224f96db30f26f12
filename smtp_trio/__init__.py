"""SMTP for Trio: a server to embed as a mail intake, and the protocol under it.

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
        ...
        await server.stop()                                      # drains, then serve returns

trio.run(main)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._body import Body
    from ._hooks import Hooks
    from ._server import Server
    from ._session import Session
    from ._values import Drained, Envelope, MessageState, Peer, Statistics, Timeouts, TlsInfo
    from .protocol import (
        BodyError,
        Limits,
        LocalProtocolError,
        Path,
        ProtocolError,
        RemoteProtocolError,
        Reply,
        SMTPError,
        standard,
    )
    from .protocol.extensions.auth import Credentials

__version__ = "0.1.0"

__all__ = [
    "Body",
    "BodyError",
    "Credentials",
    "Drained",
    "Envelope",
    "Hooks",
    "Limits",
    "LocalProtocolError",
    "MessageState",
    "Path",
    "Peer",
    "ProtocolError",
    "RemoteProtocolError",
    "Reply",
    "SMTPError",
    "Server",
    "Session",
    "Statistics",
    "Timeouts",
    "TlsInfo",
    "standard",
]


#: Where the names live. They are fetched when first asked for, so that ``smtp_trio.protocol`` can be used where there is no Trio.
_HOMES = {
    "_body": ("Body",),
    "_hooks": ("Hooks",),
    "_server": ("Server",),
    "_session": ("Session",),
    "_values": ("Drained", "Envelope", "MessageState", "Peer", "Statistics", "Timeouts", "TlsInfo"),
    "protocol.extensions.auth": ("Credentials",),
    "protocol": (
        "BodyError",
        "Limits",
        "LocalProtocolError",
        "Path",
        "ProtocolError",
        "RemoteProtocolError",
        "Reply",
        "SMTPError",
        "standard",
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
