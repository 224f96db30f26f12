"""Steps of cases in which the client proves by CRAM-MD5 or SCRAM that it knows the password."""

from __future__ import annotations

import os
from base64 import b64decode, b64encode
from typing import Any, cast

import trio
from attrs import frozen

from .._client.threads import run_in_thread
from ..protocol import LocalProtocolError, RemoteProtocolError
from ..protocol.sasl import (
    MECHANISMS,
    ClientExchange,
    Computation,
    MechanismContext,
    PasswordCredentials,
    server_end_point,
)
from ._connection import CaseFailedError, Connection, ReceivedReply, show


@frozen
class ProvePassword:
    """Log in as the user of the run, up to the server's signature, which is checked. The client's last line is left out.

    With `deceived`, the client claims that the server did not offer channel binding, which must be refused (RFC
    5802 6).
    """

    mechanism: str
    deceived: bool = False

    async def perform(self, connection: Connection) -> None:
        binding = b"any" if self.deceived else _binding(connection) if self.mechanism.endswith("-PLUS") else b""
        context = MechanismContext(connection.host, os.urandom, channel_binding=binding)
        steps = MECHANISMS[self.mechanism].client(_credentials(connection), context)
        challenge = None
        try:
            for command in (f"AUTH {self.mechanism} ", ""):
                await self._send(connection, command, await _respond(steps, challenge) or b"")
                reply = await connection.read_reply("AUTH")
                challenge = _decode(reply)
                if self.deceived and challenge.startswith(b"e="):
                    await self._send(connection, "", b"")
                    reply = await connection.read_reply("AUTH")
                if self.deceived and reply.code[0] == "5":
                    return
                if reply.code != "334":
                    raise CaseFailedError(f"{connection.expected}, got {reply}")
                if challenge.startswith(b"e="):
                    raise CaseFailedError(f"the server refused the proof: {show(connection.mask(challenge))}")
            await _respond(steps, challenge)
        except (LocalProtocolError, RemoteProtocolError) as error:
            raise CaseFailedError(str(error)) from None
        if self.deceived:
            raise CaseFailedError("expected a refusal, got the signature of the server")

    async def _send(self, connection: Connection, command: str, response: bytes) -> None:
        await _send_response(connection, command, response)
        connection.expected = "expected 334 or 5xx" if self.deceived else "expected 334"


@frozen
class AnswerCram:
    """Answer the challenge of CRAM-MD5 (RFC 2195), which is the last reply, as the user of the run."""

    async def perform(self, connection: Connection) -> None:
        steps = MECHANISMS["CRAM-MD5"].client(_credentials(connection), MechanismContext(connection.host, os.urandom))
        await _respond(steps, None)
        response = await _respond(steps, _decode(connection.replies[-1]))
        await _send_response(connection, "", response or b"")


def _credentials(connection: Connection) -> PasswordCredentials:
    """Return those of the user of the run."""
    return PasswordCredentials(*(b64decode(connection.secrets[name]).decode() for name in ("user", "password")))


async def _send_response(connection: Connection, command: str, response: bytes) -> None:
    # A reader of a report with the proof could try passwords against it.
    connection.secrets = {**connection.secrets, "response": b64encode(response)}
    await connection.send(f"{command}{{response}}\r\n".encode())


def _binding(connection: Connection) -> bytes:
    if not isinstance(connection.stream, trio.SSLStream):
        return b""
    return server_end_point(cast("Any", connection.stream).getpeercert(binary_form=True) or b"")


def _decode(reply: ReceivedReply) -> bytes:
    """Return the challenge in a reply, b"" if it has another code."""
    try:
        return b64decode(reply.text, validate=True) if reply.code == "334" else b""
    except ValueError:
        raise CaseFailedError(f"expected a text in base64, got {reply}") from None


async def _respond(steps: ClientExchange, challenge: bytes | None) -> bytes | None:
    answer: Any = challenge
    while isinstance(step := steps.send(answer), Computation):
        answer = await run_in_thread(step.compute)
    return step
