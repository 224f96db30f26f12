"""The parameters of `Client.send`: each one arrives in the envelope of a server that offers its extension."""

from __future__ import annotations

from typing import Any

import pytest
from extension_params import CASES, COMMANDS, EVERY_EXTENSION, IDS, MIDNIGHT
from scripted import ME, MESSAGE, YOU

from smtp_trio import Client, Credentials, NotOfferedError, Session
from smtp_trio.protocol import Mail, Param, Params
from smtp_trio.protocol.extensions.dsn import ENVID
from smtp_trio.protocol.extensions.mtrk import MTRK
from smtp_trio.protocol.extensions.size import SIZE
from smtp_trio.testing import Inbox, MemoryServer, open_memory_server


class Logins(Inbox):
    """An inbox that accepts every password."""

    async def auth(self, session: Session, credentials: Credentials) -> None:
        return None


def server() -> Any:
    """Open a server in memory with TLS and all extensions."""
    return open_memory_server(Logins(), tls=True, extensions=EVERY_EXTENSION, now=lambda: MIDNIGHT)


async def sent(memory: MemoryServer, client: Client, **params: Any) -> dict[Param[Any], Any]:
    """Send a message with these parameters; return those in the envelope that arrives."""
    inbox = memory.inbox
    inbox.clear()
    result = await client.send(ME, [YOU], MESSAGE, **params)
    assert result.complete
    [mail] = inbox
    return {**mail.envelope.params, **mail.envelope.rcpts[0].params}


def needed(param: Param[Any]) -> dict[str, Any]:
    """Return the parameters that another one requires (RFC 3885 3.2)."""
    return {"envid": "a"} if param is MTRK else {}


def with_needed(param: Param[Any], value: object) -> dict[str, Any]:
    """Return keyword arguments for a parameter, and for those that it requires."""
    return {param.name: value, **needed(param)}


@pytest.mark.parametrize(("param", "value", "text"), CASES, ids=IDS)
async def test_each_parameter_arrives(param: Param[Any], value: object, text: str) -> None:
    async with server() as memory, memory.client(auth=("fred", "secret")) as client:
        await client.ehlo()  # FUTURERELEASE is offered after AUTH only
        found = await sent(memory, client, **with_needed(param, value))
    assert found[param] == value
    # The client itself adds the size.
    assert found.keys() == {param, SIZE} | ({ENVID} if param is MTRK else set())


@pytest.mark.parametrize(("param", "value", "text"), CASES, ids=IDS)
async def test_each_parameter_of_an_envelope_is_passed_on(param: Param[Any], value: Any, text: str) -> None:
    """As far as its RFC has it (`Param.passed_on`)."""
    params = Params({param: value})
    given = {"mail_params": params} if COMMANDS[param] is Mail else {"rcpt_params": {YOU: params}}
    async with server() as memory, memory.client(auth=("fred", "secret")) as client:
        await client.ehlo()
        found = await sent(memory, client, **given, **needed(param))
    assert (param in found and found[param] == value) == (param.relay(value) != "never")


async def test_error_about_an_unknown_parameter_names_those_of_mail_and_rcpt() -> None:
    async with server() as memory, memory.client() as client:
        with pytest.raises(TypeError, match=r"unknown parameter 'notfy', expected one of auth, .*, notify, orcpt, .*"):
            await client.send(ME, [YOU], MESSAGE, notfy=["NEVER"])
        assert client.usable


@pytest.mark.parametrize("param", COMMANDS, ids=repr)
async def test_parameter_that_is_not_offered_is_not_sent(param: Param[Any]) -> None:
    """Nothing of the message is sent, and the connection can be used."""
    value = CASES[[case[0] for case in CASES].index(param)][1]
    extensions = [
        extension for extension in EVERY_EXTENSION if not extension.params and extension.keyword != "BINARYMIME"
    ]
    extensions = [extension for extension in extensions if extension.keyword not in ("BURL", "ATRN")]
    async with open_memory_server(extensions=extensions) as memory, memory.client(tls="never") as client:
        with pytest.raises(NotOfferedError, match=param.keyword):
            await client.send(ME, [YOU], MESSAGE, **with_needed(param, value))
        assert not await sent(memory, client)
        transcript = memory.inbox.transcripts[0].octets("C")
    assert transcript.count(b"MAIL FROM:") == 1
