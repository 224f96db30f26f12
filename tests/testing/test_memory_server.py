"""Tests of `open_memory_server`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import NoReturn

import pytest
import trio
from helpers import MESSAGE

from smtp_trio import AllRecipientsRejectedError, Hooks, Mail, Path, Peer, Rcpt, ReplyError, Server, TimedOutError
from smtp_trio.testing import (
    Answer,
    Faults,
    Greylist,
    Hang,
    Inbox,
    Layer,
    Transcript,
    cancel_everywhere,
    open_memory_server,
)

ENDS = "me@client.test", ["you@mx.test"]


async def test_several_clients(autojump_clock: object) -> None:
    async with open_memory_server(timeout=60) as server:
        transcript = Transcript()
        async with server.client() as one, server.client(transcript=transcript, name="two.test") as two:
            await one.send(*ENDS, MESSAGE)
            await two.send(*ENDS, MESSAGE)
            await trio.sleep(61)
            with pytest.raises(ReplyError, match="421"):
                await one.noop()
        async with server.client(peer=Peer("192.0.2.1", 50000, "tcp")) as three:
            await three.send(*ENDS, MESSAGE)
    assert isinstance(server.server, Server)
    assert b"EHLO two.test\r\n" in transcript.octets("C")
    assert [mail.peer.host for mail in server.inbox][2:] == ["192.0.2.1"]


@pytest.mark.parametrize("implicit", [False, True])
async def test_tls(autojump_clock: object, *, implicit: bool) -> None:
    async with open_memory_server(tls=True, implicit_tls=implicit) as server:
        async with server.client() as client:
            assert client.tls is not None
            await client.send(*ENDS, MESSAGE)
        assert ("C: STARTTLS" in str(server.inbox[0].transcript)) is not implicit


async def test_faults_of_the_server_and_of_one_client(autojump_clock: object) -> None:
    async with open_memory_server(faults=Faults(Answer("RCPT", 450))) as server:
        async with server.client(faults=Faults(Answer("RCPT", 550))) as client:
            with pytest.raises(AllRecipientsRejectedError, match="550"):
                await client.send(*ENDS, MESSAGE)
        async with server.client() as client:
            with pytest.raises(AllRecipientsRejectedError, match="450"):
                await client.send(*ENDS, MESSAGE)
            await client.send(*ENDS, MESSAGE)
    assert len(server.inbox) == 1


async def test_open_sessions_end_with_the_block(autojump_clock: object) -> None:
    async with AsyncExitStack() as clients:
        async with open_memory_server(faults=Faults(Hang("RSET"))) as server:
            client = await clients.enter_async_context(server.client(timeout=10))
            with pytest.raises(TimedOutError):
                await client.rset()
            await clients.enter_async_context(server.client())
        assert trio.current_time() == pytest.approx(10)


async def test_inbox_below_layers(autojump_clock: object) -> None:
    inbox = Inbox()
    async with open_memory_server(Greylist(Faults().hooks(inbox))) as server:
        assert server.inbox is inbox
    async with open_memory_server(Greylist(Hooks())) as server:
        with pytest.raises(TypeError, match="are not an Inbox: <"):
            _ = server.inbox


async def test_exception_of_the_block_is_not_grouped(autojump_clock: object) -> None:
    with pytest.raises(KeyError):
        async with open_memory_server() as server:
            async with server.client():
                raise KeyError


async def test_exception_in_a_cancelled_block_is_not_lost(autojump_clock: object) -> None:
    with pytest.raises(AssertionError, match="too late"):
        with trio.move_on_after(1):
            async with open_memory_server():
                try:
                    await trio.sleep_forever()
                except trio.Cancelled:
                    raise AssertionError("too late") from None


@pytest.mark.parametrize("leave", [pytest.fail, pytest.skip, sys.exit])
async def test_base_exception_of_the_block_is_not_grouped(
    autojump_clock: object, leave: Callable[[str], NoReturn]
) -> None:
    with pytest.raises((pytest.fail.Exception, pytest.skip.Exception, SystemExit), match="for good"):
        async with open_memory_server():
            leave("for good")


async def test_script_in_hooks_and_client_counts_once(autojump_clock: object) -> None:
    faults = Faults(Answer("RCPT", 450, nth=2))
    async with open_memory_server(Layer(faults.hooks(Inbox())), faults=faults) as server:
        async with server.client() as client:
            await client.mail("me@client.test")
            await client.rcpt("one@mx.test")
            with pytest.raises(ReplyError, match="450"):
                await client.rcpt("two@mx.test")


async def test_strict_server_accepts_what_the_client_sends(autojump_clock: object) -> None:
    async with open_memory_server(strict=True) as server:
        async with server.client() as client:
            await client.send("me@client.test", ["you@mx.test", "Postmaster"], MESSAGE)
            await client.send("", ['"a  b"@mx.test', "a@[192.0.2.1]", "a@b\u00fccher.test"], MESSAGE, smtputf8=True)
            with pytest.raises(ReplyError, match="501 Not a domain or an address literal"):
                await client.ehlo("my_host.test")
    assert [len(mail.recipients) for mail in server.inbox] == [2, 3]


async def test_lenient_server_adds_domains(autojump_clock: object) -> None:
    modes: list[tuple[bool | str, str]] = [(True, "mx.test"), ("example.org", "example.org")]
    for lenient, domain in modes:
        async with open_memory_server(lenient=lenient) as server, server.client() as client:
            await client.command(Mail(Path("scanner", "scanner", None)))
            await client.command(Rcpt(Path("office", "office", None)))
            await client.data(MESSAGE)
        assert (server.inbox[0].sender, server.inbox[0].recipients) == (f"scanner@{domain}", (f"office@{domain}",))


def test_can_be_cancelled_at_each_step() -> None:
    async def scenario(attempt: object) -> None:
        async with open_memory_server() as server:
            async with server.client() as client:
                await client.send(*ENDS, MESSAGE)

    assert cancel_everywhere(scenario).points > 20
