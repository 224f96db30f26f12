"""REQUIRETLS (RFC 8689): which exchangers get a message that must be sent over TLS only."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest

from smtp_trio import Server, standard
from smtp_trio.protocol import Params
from smtp_trio.protocol.extensions import RequireTls
from smtp_trio.protocol.extensions.requiretls import REQUIRETLS
from smtp_trio.routing import DomainsResult, send
from smtp_trio.testing import Inbox, memory_network

from .test_connect import ONE, SERVER, THREE, TWO, Published, certified, signed

MESSAGE = b"Subject: hi\r\n\r\nhello\r\n"
REQUIRED = Params({REQUIRETLS: True})


def server(inbox: Inbox, tls: ssl.SSLContext | None, *, offered: bool = True) -> Server:
    return Server(inbox, tls=tls, extensions=standard(*([RequireTls()] if offered else [])))


async def deliver(
    servers: dict[str, Server], params: Params = REQUIRED, **settings: Any
) -> tuple[DomainsResult, list[str]]:
    """Send a message to example.org; return the result, and the reply for it."""
    async with memory_network(servers):
        result = await send(
            MESSAGE, sender="me@example.net", recipients=["you@example.org"], mail_params=params, **settings
        )
    return result, [f"{each.reply.code} {each.reply.status}" for each in result.rejected]


@pytest.mark.parametrize("mode", ["enforce", "testing"])
async def test_exchanger_that_mta_sts_validates(mode: str) -> None:
    inbox = Inbox()
    result, _ = await deliver({ONE: server(inbox, certified("a.example"))}, **Published(mode, "*.example").settings())
    assert [outcome.recipient for outcome in result.accepted] == ["you@example.org"]
    assert inbox.mails[0].envelope.mail.params[REQUIRETLS]


async def test_exchanger_that_dane_validates(tmp_path: Path) -> None:
    inbox = Inbox()
    result, _ = await deliver(
        {ONE: server(inbox, SERVER.server_context(tmp_path))}, resolver=signed(str(SERVER.record(3)))
    )
    assert (len(result.accepted), len(inbox)) == (1, 1)


def all_servers(inbox: Inbox, tls: ssl.SSLContext, *, offered: bool = True) -> dict[str, Server]:
    """Return one server for each address of the exchangers of example.org."""
    return {address: server(inbox, tls, offered=offered) for address in (ONE, TWO, THREE)}


async def test_exchanger_that_nothing_validates_does_not_get_the_message() -> None:
    """RFC 8689 2: a certificate for a name that comes from the DNS without DNSSEC proves nothing."""
    inbox = Inbox()
    policy, context = Published("enforce", "*.example"), certified("a.example", "b.example")
    result, replies = await deliver(all_servers(inbox, context), resolver=policy.resolver)
    assert replies == ["550 5.7.10"]
    assert len(result.domains[0].attempts) == 3
    result, _ = await deliver(all_servers(inbox, context), Params(), resolver=policy.resolver)
    assert (len(result.accepted), len(inbox)) == (1, 1)


async def test_exchanger_without_a_valid_certificate_does_not_get_the_message() -> None:
    inbox = Inbox()
    policy = Published("testing", "*.example").settings()
    assert (await deliver(all_servers(inbox, certified("x.example")), **policy))[1] == ["550 5.7.10"]
    assert len(inbox) == 0


async def test_next_exchanger_gets_what_the_first_does_not_support() -> None:
    """RFC 8689 4.2.1."""
    first, second = Inbox(), Inbox()
    context = certified("a.example", "b.example")
    policy = Published("enforce", "*.example").settings()
    servers = all_servers(first, context, offered=False)
    result, _ = await deliver({**servers, THREE: server(second, context)}, **policy)
    assert (len(result.accepted), len(first), len(second)) == (1, 0, 1)
    assert (await deliver(all_servers(first, context, offered=False), **policy))[1] == ["550 5.7.30"]
