"""Hosts and domains that accept no mail: 521, 556 and 550 5.7.27 (RFC 7504, RFC 7505)."""

from __future__ import annotations

import pytest
import trio
from trio.testing import memory_stream_pair

from smtp_trio import Client, GreetingError, Hooks, Mail, Rcpt, Reply, ReplyError, Server, Session
from smtp_trio.protocol.replies import DOMAIN_ACCEPTS_NO_MAIL, HOST_ACCEPTS_NO_MAIL, SENDER_ACCEPTS_NO_MAIL


class NoMail(Hooks):
    async def connect(self, session: Session) -> Reply:
        return HOST_ACCEPTS_NO_MAIL


class Relay(Hooks):
    async def mail(self, session: Session, mail: Mail) -> Reply | None:
        return SENDER_ACCEPTS_NO_MAIL if mail.sender.domain == "null.test" else None

    async def rcpt(self, session: Session, rcpt: Rcpt) -> Reply | None:
        return DOMAIN_ACCEPTS_NO_MAIL if rcpt.recipient.domain == "null.test" else None


async def test_host_without_mail_closes_the_connection() -> None:
    """RFC 7504 3. A greeting has no enhanced status code (RFC 2034 3)."""
    near, far = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Server(NoMail()).serve_stream, far)
        assert await near.receive_some() == b"521 Host does not accept mail\r\n"
        assert await near.receive_some() == b""


async def test_client_does_not_try_again() -> None:
    near, far = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Server(NoMail()).serve_stream, far)
        with pytest.raises(GreetingError, match="521") as caught:
            async with Client(near):
                raise AssertionError
    assert not caught.value.temporary


async def test_domain_without_mail() -> None:
    near, far = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Server(Relay()).serve_stream, far)
        async with Client(near) as client:
            with pytest.raises(ReplyError, match=r"550 5\.7\.27"):
                await client.mail("me@null.test")
            await client.mail("me@client.test")
            with pytest.raises(ReplyError, match=r"556 5\.1\.10") as caught:
                await client.rcpt("you@null.test")
    assert not caught.value.temporary
