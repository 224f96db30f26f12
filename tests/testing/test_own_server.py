"""Tests of an application's own server: servers and functions as `hooks`, and exceptions of hooks that fail the test."""

from __future__ import annotations

import smtplib
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import pytest
import trio
from helpers import MESSAGE, NAME, client_tls, server_tls

from smtp_trio import AllRecipientsRejectedError, Body, Hooks, Mail, Rcpt, Reply, ReplyError, Server, Session
from smtp_trio.testing import (
    Answer,
    Close,
    Faults,
    Greylist,
    Inbox,
    Tarpit,
    open_inbox_thread,
    open_memory_server,
    open_test_server,
)

ENDS = "me@client.test", ["you@mx.test"]


class Desk(Hooks):
    """An application: it accepts recipients of one domain."""

    def __init__(self, inbox: Inbox | None = None, domain: str = "mx.test") -> None:
        self.inbox, self.domain = inbox, domain

    async def rcpt(self, session: Session, rcpt: Rcpt) -> Reply | None:
        return None if rcpt.recipient.domain == self.domain else Reply(550, "Not here", "5.1.1")

    async def data(self, session: Session, body: Body) -> Reply | Sequence[Reply | None] | None:
        if self.inbox is not None:
            return await self.inbox.data(session, body)
        await body.discard()
        return None


class Fails(Hooks):
    """Hooks that raise an exception with the number of the call."""

    calls = 0

    async def mail(self, session: Session, mail: Mail) -> Reply | None:
        self.calls += 1
        raise KeyError(f"call {self.calls}")


# --- servers and functions ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opened", [open_memory_server, open_test_server])
async def test_server_of_the_application(opened: Any) -> None:
    own = Server(Desk(domain="desk.test"), name="mx.desk.test", size=5000)
    async with opened(own) as server:
        assert server.server is own
        async with server.client() as client:
            assert client.offered["SIZE"].limit == 5000
            await client.send("me@client.test", ["you@desk.test"], MESSAGE)
            with pytest.raises(AllRecipientsRejectedError, match="Not here"):
                await client.send(*ENDS, MESSAGE)
        with pytest.raises(TypeError, match="not an Inbox"):
            _ = server.inbox
    assert own.statistics().messages == 1
    with pytest.raises(trio.ClosedResourceError):
        await own.serve(0)


@pytest.mark.parametrize("opened", [open_memory_server, open_test_server])
@pytest.mark.parametrize(
    "make", [Desk, Greylist, lambda inbox: Server(Tarpit(Desk(inbox)), name="mx.test"), lambda inbox: inbox]
)
async def test_function_is_called_with_an_inbox(opened: Any, make: Callable[[Inbox], Hooks | Server]) -> None:
    made: list[Inbox] = []

    def hooks(inbox: Inbox) -> Hooks | Server:
        made.append(inbox)
        return make(inbox)

    async with opened(hooks) as server:
        assert made == [server.inbox]
        async with server.client() as client:
            if make is Greylist:
                with pytest.raises(AllRecipientsRejectedError, match="450"):
                    await client.send(*ENDS, MESSAGE)
            else:
                await client.send(*ENDS, MESSAGE)
                server.inbox.assert_delivered(to="you@mx.test")


async def test_several_servers_need_no_nursery(autojump_clock: object) -> None:
    inbox = Inbox()
    async with (
        open_memory_server(Server(Desk(inbox), name="mx.test")) as mx,
        open_memory_server(Server(inbox, name="submission.test")) as submission,
        mx.client() as one,
        submission.client() as two,
    ):
        with pytest.raises(AllRecipientsRejectedError):
            await one.send("me@client.test", ["her@elsewhere.test"], MESSAGE)
        await two.send("me@client.test", ["her@elsewhere.test"], MESSAGE)
    inbox.assert_delivered(to="her@elsewhere.test")


@pytest.mark.parametrize("implicit", [False, True])
async def test_server_with_tls(*, implicit: bool) -> None:
    own = Server(Desk(domain=NAME), name=NAME, tls=server_tls())
    async with open_memory_server(own, implicit_tls=implicit) as server:
        async with server.client(ssl_context=client_tls()) as client:
            assert client.tls is not None
            assert client.tls.verified
            await client.send("me@client.test", [f"you@{NAME}"], MESSAGE)


async def test_faults_with_a_server_of_the_application(autojump_clock: object) -> None:
    async with open_memory_server(Server(Desk(), name="mx.test"), faults=Faults(Answer("RCPT", 450))) as server:
        async with server.client() as client:
            with pytest.raises(AllRecipientsRejectedError, match="450"):
                await client.send(*ENDS, MESSAGE)


@pytest.mark.parametrize("settings", [{"size": 1}, {"tls": True, "name": "mx.test"}, {"strict": False}])
async def test_settings_with_a_server(settings: Any) -> None:
    with pytest.raises(TypeError, match=f"a Server has settings of its own: {', '.join(settings)} cannot be set"):
        async with open_memory_server(Server(), **settings):
            pytest.fail("it was started")


async def test_invalid_hooks() -> None:
    wrong: Any
    for wrong in (5, lambda inbox: None if inbox is None else 5, Inbox):
        with pytest.raises(TypeError):
            async with open_memory_server(wrong):
                pytest.fail("it was started")


@pytest.mark.parametrize(
    "hooks",
    [Inbox(), Greylist(Inbox(), 0), Desk, lambda inbox: Server(Desk(inbox), name="mx.test"), lambda inbox: inbox],
)
def test_thread_takes_the_same_hooks(hooks: Any) -> None:
    with open_inbox_thread(hooks) as thread:
        with smtplib.SMTP(thread.host, thread.port, timeout=100) as client:
            client.sendmail("me@client.test", ["you@mx.test"], MESSAGE)
        thread.assert_delivered(to="you@mx.test")


def test_thread_without_an_inbox() -> None:
    own = Server(Desk(), name="mx.test")
    with open_inbox_thread(own) as thread:
        with smtplib.SMTP(thread.host, thread.port, timeout=100) as client:
            client.sendmail("me@client.test", ["you@mx.test"], MESSAGE)
        with pytest.raises(TypeError, match="not an Inbox"):
            thread.wait_for()
        with pytest.raises(TypeError, match="not an Inbox"):
            thread.assert_empty()
    assert own.statistics().messages == 1


# --- exceptions of hooks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opened", [open_memory_server, open_test_server])
@pytest.mark.parametrize("make", [Fails, lambda: Server(Fails(), name="mx.test"), lambda: lambda _: Fails()])
async def test_exception_of_a_hook_is_raised_at_the_end(opened: Any, make: Callable[[], Any]) -> None:
    reached = False
    with pytest.raises(KeyError, match="call 1") as raised:
        async with opened(make()) as server, server.client() as client:
            for _ in range(2):
                with pytest.raises(ReplyError, match="451"):
                    await client.mail("me@client.test")
            reached = True
    assert reached
    notes = "".join(raised.value.__notes__)
    assert "raise_hook_errors=False" in notes
    assert "KeyError: 'call 2'" in notes


async def test_exception_of_the_block_has_notes_of_those_of_hooks(autojump_clock: object) -> None:
    with pytest.raises(ReplyError, match="451") as raised:
        async with open_memory_server(Fails()) as server, server.client() as client:
            await client.mail("me@client.test")
    [note] = raised.value.__notes__
    assert "A hook of the test's server raised:" in note
    assert 'raise KeyError(f"call {self.calls}")' in note


@pytest.mark.parametrize("opened", [open_memory_server, open_test_server])
async def test_exceptions_of_hooks_can_be_ignored(opened: Any) -> None:
    async with opened(Fails(), raise_hook_errors=False) as server, server.client() as client:
        with pytest.raises(ReplyError, match="451"):
            await client.mail("me@client.test")
    assert server.server.statistics().errors == 1


@pytest.mark.parametrize("name", ["start", "stop", "error", "disconnect"])
async def test_hooks_of_the_server_count(autojump_clock: object, name: str) -> None:
    async def fails(*args: object) -> NoReturn:
        raise ValueError(name)

    own = Server(Fails() if name == "error" else Desk(), name="mx.test")
    own.on(**{name: fails})
    with pytest.raises(KeyError if name == "error" else ValueError) as raised:
        async with open_memory_server(own) as server, server.client() as client:
            if name == "error":
                with pytest.raises(ReplyError, match="451"):
                    await client.mail("me@client.test")
    assert name != "error" or "ValueError: error" in "".join(raised.value.__notes__)


async def test_reported_and_handled_exceptions_count_too(autojump_clock: object) -> None:
    class Reports(Fails):
        async def error(self, server: Server, error: Exception) -> None:
            reported.append(error)

    reported: list[Exception] = []
    with pytest.raises(KeyError):
        async with open_memory_server(Reports()) as server, server.client() as client:
            with pytest.raises(ReplyError, match="451"):
                await client.mail("me@client.test")
    assert len(reported) == 1


async def test_late_hook_counts(autojump_clock: object) -> None:
    class Slow(Hooks):
        async def mail(self, session: Session, mail: Mail) -> Reply | None:
            await trio.sleep(1000)
            return None

    with pytest.raises(trio.TooSlowError, match="the mail hook took more than"):
        async with open_memory_server(Slow()) as server, server.client(timeout=2000) as client:
            with pytest.raises(ReplyError, match="451"):
                await client.mail("me@client.test")


class NeverStarts(Hooks):
    async def start(self, server: Server) -> None:
        await trio.sleep(1)
        raise KeyError("start")


@pytest.mark.parametrize("tasks", [1, 3])
async def test_failed_start_is_raised_instead_of_the_cancellations_of_tasks_in_the_block(
    autojump_clock: object, tasks: int
) -> None:
    with pytest.raises(KeyError, match="start"):
        async with open_memory_server(NeverStarts()) as server, trio.open_nursery() as nursery:
            for _ in range(tasks):
                nursery.start_soon(server.client().__aenter__)


async def test_exceptions_of_tasks_in_the_block_without_their_cancellations(autojump_clock: object) -> None:
    """The nursery of the block raises a group, as elsewhere; its other tasks were cancelled with the server's."""

    async def fail() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise AssertionError("of the test")

    with pytest.raises(ExceptionGroup) as raised:
        async with open_memory_server(NeverStarts()) as server, trio.open_nursery() as nursery:
            nursery.start_soon(fail)
            nursery.start_soon(server.client().__aenter__)
    assert [str(each) for each in raised.value.exceptions] == ["of the test"]


async def test_cancellation_of_tasks_in_the_block(autojump_clock: object) -> None:
    with trio.move_on_after(5) as scope:
        async with open_memory_server() as server, trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(server.inbox.wait_for)
    assert scope.cancelled_caught
    assert trio.current_time() == 5


async def test_lost_connections_do_not_count(autojump_clock: object) -> None:
    """What a client causes is not an exception of a hook, although it is raised there."""
    async with open_memory_server(faults=Faults(Close("body", 9, by="client"))) as server:
        with pytest.raises(Exception, match="closed"):
            async with server.client() as client:
                await client.send(*ENDS, MESSAGE)
    server.inbox.assert_empty()


def test_thread_raises_exceptions_of_hooks() -> None:
    def send(thread: Any) -> None:
        with smtplib.SMTP(thread.host, thread.port, timeout=100) as client:
            client.ehlo()
            assert client.mail("me@client.test")[0] == 451

    with pytest.raises(KeyError, match="call 1"), open_inbox_thread(lambda inbox: Fails()) as thread:
        send(thread)
    with open_inbox_thread(Fails(), raise_hook_errors=False) as thread:
        send(thread)
    with pytest.raises(AssertionError, match="of the block"), open_inbox_thread(Fails()) as thread:
        send(thread)
        raise AssertionError("of the block")
