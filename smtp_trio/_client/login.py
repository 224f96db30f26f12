"""AUTH, from the client's side: the exchange of RFC 4954 4, whatever the mechanism."""

from __future__ import annotations

import base64
import binascii
import os
from contextlib import suppress

from ..protocol import NotOfferedError, RemoteProtocolError, Reply
from ..protocol.client import LINE
from ..protocol.extensions.auth import Auth, AuthCommand, AuthResponse
from ..protocol.sasl import MECHANISMS, BearerToken, PasswordCredentials, choose_mechanism
from .exchange import Exchange, accepted


async def log_in(
    talk: Exchange, credentials: PasswordCredentials | BearerToken, *, secure: bool, allow_cleartext: bool
) -> Reply:
    """Prove who we are, by the best mechanism that both sides know. ``secure``: under TLS.

    Raises `ReplyError` when the server does not believe it, `NotOfferedError` and LocalProtocolError when there is no way to say it, and
    RemoteProtocolError when the server does not keep to the mechanism, or does not prove what it should.
    """
    offered = talk.protocol.offered.get("AUTH")
    if not isinstance(offered, Auth):
        raise NotOfferedError("the server does not offer AUTH" + ("" if secure else ", or not without TLS"))
    mechanism = choose_mechanism(
        MECHANISMS.values(), offered.mechanisms, credentials, secure=secure, allow_cleartext=allow_cleartext
    )
    exchange = mechanism.client(credentials, os.urandom)
    response = next(exchange)
    command = AuthCommand(mechanism.name, response)
    if (
        len(talk.protocol.encode_command(command)) > LINE
    ):  # RFC 4954 4: longer than other commands, it must wait to be asked
        command = AuthCommand(mechanism.name)
    else:
        response = None
    reply = await talk.ask(command)
    while reply.intermediate:
        try:
            challenge = base64.b64decode(reply.text.encode(), validate=True)
            line = exchange.send(challenge) if response is None else response
        except (binascii.Error, RemoteProtocolError) as exc:
            await talk.ask(AuthResponse("*"))  # RFC 4954 4: so a client gives up
            raise RemoteProtocolError(f"AUTH {mechanism.name}: {exc}") from exc
        response = None
        reply = await talk.ask(AuthResponse(base64.b64encode(line or b"").decode()))
    accepted(AuthCommand(mechanism.name), reply)
    with suppress(StopIteration):
        try:
            exchange.send(None)
        except RemoteProtocolError:  # nothing proves that this yes is the right server's
            talk.wire.broken = True
            raise
    return reply
