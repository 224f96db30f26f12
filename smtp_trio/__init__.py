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

from typing import TYPE_CHECKING

from .protocol.lazy import lazy_names

if TYPE_CHECKING:
    from ._client.client import Client as Client, ClientSettings as ClientSettings
    from ._client.connect import ConnectSettings as ConnectSettings, connect as connect, send as send
    from ._client.handshake import TlsMode as TlsMode
    from ._client.message import Message as Message
    from ._client.pool import Pool as Pool, PoolStatistics as PoolStatistics
    from ._client.results import (
        Accepted as Accepted,
        AllRecipientsRejectedError as AllRecipientsRejectedError,
        ConnectionLostError as ConnectionLostError,
        DeliveryRecord as DeliveryRecord,
        DeliveryUnknownError as DeliveryUnknownError,
        GreetingError as GreetingError,
        Outcome as Outcome,
        Rejected as Rejected,
        Result as Result,
        TimedOutError as TimedOutError,
        TlsHandshakeError as TlsHandshakeError,
        Unknown as Unknown,
    )
    from ._client.timeouts import ClientTimeouts as ClientTimeouts
    from ._client.transaction import Progress as Progress
    from ._server.body import Body as Body
    from ._server.hooks import Hooks as Hooks
    from ._server.listeners import open_listeners as open_listeners
    from ._server.server import Server as Server
    from ._server.session import Session as Session
    from ._server.tls_files import TlsFiles as TlsFiles
    from ._server.unix_listener import open_unix_listener as open_unix_listener
    from ._timeouts import Timeouts as Timeouts
    from ._types import (
        Drained as Drained,
        Envelope as Envelope,
        MessageState as MessageState,
        Peer as Peer,
        Statistics as Statistics,
        TlsInfo as TlsInfo,
    )
    from .protocol import (
        BodyError as BodyError,
        Command as Command,
        Expn as Expn,
        Hello as Hello,
        Help as Help,
        Limits as Limits,
        LocalProtocolError as LocalProtocolError,
        Mail as Mail,
        NotOfferedError as NotOfferedError,
        Path as Path,
        ProtocolError as ProtocolError,
        ProxyHeader as ProxyHeader,
        ProxyTls as ProxyTls,
        Rcpt as Rcpt,
        RemoteProtocolError as RemoteProtocolError,
        Reply as Reply,
        ReplyError as ReplyError,
        SMTPError as SMTPError,
        Vrfy as Vrfy,
        standard as standard,
    )
    from .protocol.sasl import (
        AnonymousCredentials as AnonymousCredentials,
        BearerToken as BearerToken,
        Credentials as Credentials,
        ExternalCredentials as ExternalCredentials,
        PasswordCredentials as PasswordCredentials,
        ScramSecret as ScramSecret,
    )
    from .routing._connect import connect_domain as connect_domain

__version__ = "0.1.0"

# The public names, by module; see `lazy_names`. So ``smtp_trio.protocol`` works without Trio, and a program loads only the half,
# server or client, that it needs.
_MODULES = {
    "_client.client": "Client ClientSettings",
    "_client.connect": "ConnectSettings connect send",
    "_client.handshake": "TlsMode",
    "_client.message": "Message",
    "_client.pool": "Pool PoolStatistics",
    "_client.results": (
        "Accepted AllRecipientsRejectedError ConnectionLostError DeliveryRecord DeliveryUnknownError GreetingError Outcome "
        "Rejected Result TimedOutError TlsHandshakeError Unknown"
    ),
    "_client.timeouts": "ClientTimeouts",
    "_client.transaction": "Progress",
    "_server.body": "Body",
    "_server.hooks": "Hooks",
    "_server.listeners": "open_listeners",
    "_server.server": "Server",
    "_server.session": "Session",
    "_server.tls_files": "TlsFiles",
    "_server.unix_listener": "open_unix_listener",
    "_timeouts": "Timeouts",
    "_types": "Drained Envelope MessageState Peer Statistics TlsInfo",
    "protocol": (
        "BodyError Command Expn Hello Help Limits LocalProtocolError Mail NotOfferedError Path ProtocolError "
        "ProxyHeader ProxyTls Rcpt RemoteProtocolError Reply ReplyError SMTPError Vrfy standard"
    ),
    "protocol.sasl": "AnonymousCredentials BearerToken Credentials ExternalCredentials PasswordCredentials ScramSecret",
    "routing._connect": "connect_domain",
}

__all__ = [name for names in _MODULES.values() for name in names.split()]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(__name__, _MODULES)
