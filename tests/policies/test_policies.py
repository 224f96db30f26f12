"""The policies, in virtual time: greylisting, rates, limits and delays, alone, together and on two ports."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from attrs import evolve
from trio.testing import MockClock, wait_all_tasks_blocked

from smtp_trio import (
    AllRecipientsRejectedError,
    Client,
    ConnectionLostError,
    Credentials,
    GreetingError,
    Hooks,
    PasswordCredentials,
    Peer,
    Reply,
    ReplyError,
    Server,
    Session,
    Timeouts,
    policies,
    testing,
)
from smtp_trio.policies import (
    ConnectionRate,
    ConnectionsPerPeer,
    Greylist,
    Layer,
    MessageRate,
    MessagesPerConnection,
    RecipientsPerMessage,
    Tarpit,
)
from smtp_trio.protocol import Rcpt, standard
from smtp_trio.protocol.extensions import Auth
from smtp_trio.testing import (
    Answer,
    Attempt,
    Delay,
    Faults,
    Inbox,
    bounded_stream_pair,
    cancel_everywhere,
    deterministic,
    memory_pair,
    open_memory_server,
)

ME, YOU = "me@client.test", "you@mx.test"
MESSAGE = b"Subject: hi\r\n\r\nhello\r\n"
HOST = Peer("192.0.2.1", 4000, "tcp")
OTHER = Peer("198.51.100.1", 4000, "tcp")


def host(address: str) -> Peer:
    return Peer(address, 4000, "tcp")


class RejectingInbox(Inbox):
    """Hooks of an application, which refuse one recipient."""

    async def rcpt(self, session: Session, rcpt: Rcpt) -> Reply | None:
        return Reply(550, "Who?", "5.1.1") if rcpt.recipient.local == "nobody" else None


class Accounts(Layer):
    """A layer that accepts any password."""

    async def auth(self, session: Session, credentials: Credentials) -> Reply | None:
        return None


def server(hooks: Hooks) -> Server:
    return Server(hooks, name="mx.test", extensions=standard(Auth(cleartext=True)), **deterministic())


@asynccontextmanager
async def calling(called: Server, peer: Peer = HOST, faults: Faults | None = None) -> AsyncGenerator[Client]:
    async with trio.open_nursery() as nursery:
        async with await memory_pair(nursery, called, peer=peer, faults=faults, allow_cleartext=True) as client:
            yield client


async def sent(called: Server, to: str = YOU, sender: str = ME, peer: Peer = HOST, user: str | None = None) -> int:
    """Send one message over a connection of its own; return the last reply code."""
    async with calling(called, peer) as client:
        if user is not None:
            await client.auth(PasswordCredentials(user, "secret"))
        try:
            return (await client.send(sender, [to], MESSAGE)).accepted[0].reply.code
        except AllRecipientsRejectedError as exc:
            return exc.reply.code


async def greeting(called: Server, peer: Peer = HOST) -> int:
    """Connect and disconnect; return the code of the greeting."""
    client_end, server_end = bounded_stream_pair()
    server_end.endpoints = evolve(peer), evolve(peer)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(called.serve_stream, server_end)
        code = int((await client_end.receive_some())[:3])
        await client_end.aclose()
    return code


async def test_greylisting(autojump_clock: MockClock) -> None:
    """A retry after five minutes is accepted, an earlier one is not; an accepted triple is remembered."""
    inbox = RejectingInbox()
    called = server(Greylist(inbox))
    assert await sent(called) == 450
    await trio.sleep(299)
    assert await sent(called) == 450
    await trio.sleep(1)
    assert await sent(called) == 250
    assert await sent(called) == 250
    # Each part of the triple counts.
    for other in ({"peer": OTHER}, {"sender": "it@client.test"}, {"to": "they@mx.test"}):
        assert await sent(called, **other) == 450
    # The hooks below decide on commands that the layer accepts.
    assert await sent(called, to="nobody@mx.test") == 450
    await trio.sleep(300)
    assert await sent(called, to="nobody@mx.test") == 550
    assert len(inbox) == 2


async def test_greylisting_entries_expire(autojump_clock: MockClock) -> None:
    called = server(Greylist(Inbox(), 60, forget=3600))
    assert await sent(called) == 450
    await trio.sleep(3600)
    assert await sent(called) == 450
    await trio.sleep(60)
    assert await sent(called) == 250


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("192.0.2.1", "192.0.2.77", True),
        ("192.0.2.1", "192.0.3.1", False),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
    ],
)
async def test_greylisting_of_a_sender_with_several_hosts(
    first: str, second: str, same: bool, autojump_clock: MockClock
) -> None:
    """A retry may come from another host of the same network, as with large providers (RFC 6647)."""
    called = server(Greylist(Inbox()))
    assert await sent(called, peer=host(first)) == 450
    await trio.sleep(300)
    assert await sent(called, peer=host(second)) == (250 if same else 450)


async def test_greylisting_does_not_delay_users(autojump_clock: MockClock) -> None:
    called = server(Greylist(Accounts(Inbox())))
    assert await sent(called, user="fred") == 250
    assert await sent(called) == 450


async def test_greylisting_remembers_after_the_last_use(autojump_clock: MockClock) -> None:
    """An accepted triple is accepted until ``remember`` seconds after its last use, also after ``forget`` seconds."""
    called = server(Greylist(Inbox(), 60, forget=600, remember=86400))
    assert await sent(called) == 450
    await trio.sleep(60)
    for _ in range(3):
        assert await sent(called) == 250
        await trio.sleep(86399)
    assert await sent(called) == 250
    await trio.sleep(86400)
    assert await sent(called) == 450


async def flood(called: Server, peers: Iterable[str], recipients: int) -> None:
    """Send RCPT to new recipients from each peer."""
    for peer in peers:
        async with calling(called, host(peer)) as client:
            with pytest.raises(AllRecipientsRejectedError):
                await client.send(
                    ME, [f"{peer.replace(':', '-')}-{number}@mx.test" for number in range(recipients)], b""
                )


@pytest.mark.parametrize(
    "attackers",
    [
        ["203.0.113.1"],
        [f"203.0.113.{number}" for number in range(20)],
        [f"2001:db8:{number}::1" for number in range(20)],
    ],
    ids=["one address", "an IPv4 network", "an IPv6 network"],
)
async def test_flood_of_greylisted_recipients(attackers: list[str], autojump_clock: MockClock) -> None:
    """The entries of other networks are not forgotten: neither those that wait nor those that were accepted."""
    greylist = Greylist(Inbox(), max_entries=60)
    called = server(greylist)
    assert await sent(called, to="known@mx.test") == 450
    await trio.sleep(300)
    assert await sent(called, to="known@mx.test") == 250
    assert await sent(called, to="new@mx.test") == 450
    await flood(called, attackers, 200 // len(attackers))
    assert len(greylist._waiting) == 60
    assert await sent(called, to="known@mx.test") == 250
    await trio.sleep(300)
    assert await sent(called, to="new@mx.test") == 250


async def test_flood_of_greylisted_recipients_from_many_networks(autojump_clock: MockClock) -> None:
    """It makes the server forget triples that wait, but none that were accepted, since those have cost a second attempt."""
    greylist = Greylist(Inbox(), max_entries=30)
    called = server(greylist)
    assert await sent(called) == 450
    await trio.sleep(300)
    assert await sent(called) == 250
    await flood(called, [f"10.0.{number}.1" for number in range(100)], 1)
    assert (len(greylist._waiting), len(greylist._passed)) == (30, 1)
    assert await sent(called) == 250


async def test_greylisting_of_simultaneous_attempts(autojump_clock: MockClock) -> None:
    """Attempts at the same time are one attempt."""
    called = server(Greylist(Inbox()))
    for expected in (450, 250):
        codes: list[int] = []

        async def attempt(codes: list[int]) -> None:
            codes.append(await sent(called))

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(attempt, codes)
        assert codes == [expected] * 20
        await trio.sleep(300)


async def test_messages_of_a_connection(autojump_clock: MockClock) -> None:
    inbox = Inbox()
    called = server(MessagesPerConnection(inbox, 3))
    async with calling(called) as client:
        for _ in range(3):
            await client.send(ME, [YOU], MESSAGE)
        with pytest.raises((ReplyError, ConnectionLostError), match="421"):
            await client.send(ME, [YOU], MESSAGE)
        assert not client.usable
    assert await sent(called) == 250
    assert len(inbox) == 4


async def test_recipients_of_a_message(autojump_clock: MockClock) -> None:
    """RFC 5321 4.5.3.1.10: a client sends the message again to the other recipients."""
    inbox = RejectingInbox()
    names = ["nobody@mx.test", *(f"r{number}@mx.test" for number in range(5))]
    async with calling(server(RecipientsPerMessage(inbox, 3))) as client:
        result = await client.send(ME, names, MESSAGE)
        assert [each.reply.code for each in result.rejected] == [550]
    assert [len(mail.recipients) for mail in inbox] == [3, 2]


async def test_connections_of_a_peer(autojump_clock: MockClock) -> None:
    called = server(ConnectionsPerPeer(Inbox(), 2))
    async with calling(called), calling(called):
        with pytest.raises(ExceptionGroup) as caught:
            async with calling(called):
                raise AssertionError("let in")
        assert caught.group_contains(GreetingError, match="421 .*Too many connections")
        async with calling(called, OTHER):
            pass
    async with calling(called):
        pass


async def test_connections_of_a_network(autojump_clock: MockClock) -> None:
    """The addresses of a /64 are one client. Nothing is remembered about clients that have disconnected."""
    layer = ConnectionsPerPeer(Inbox(), 2)
    called = server(layer)
    async with calling(called, host("2001:db8::1")), calling(called, host("2001:db8::2")):
        assert await greeting(called, host("2001:db8::3")) == 421
        assert await greeting(called, host("2001:db8:0:1::3")) == 220
    for number in range(100):
        assert await greeting(called, host(f"2001:db8:0:{number}::3")) == 220
    assert not layer._open


async def test_connections_of_a_client_whose_address_is_replaced(autojump_clock: MockClock) -> None:
    """A hook below may learn the client's address from a proxy. The connection was counted with the address before."""

    class Proxied(Inbox):
        async def connect(self, session: Session) -> Reply | None:
            session.peer = host("203.0.113.9")
            return await super().connect(session)

    layer = ConnectionsPerPeer(Proxied(), 1)
    called = server(layer)
    for _ in range(3):
        assert await greeting(called) == 220
    assert not layer._open


async def test_connection_rate(autojump_clock: MockClock) -> None:
    """The window slides, and connections that are refused do not count."""
    called = server(ConnectionRate(Inbox(), 3, 60))
    codes = []
    for _ in range(10):
        codes.append(await greeting(called))
        await trio.sleep(10)
    assert codes == [220, 220, 220, 421, 421, 421, 220, 220, 220, 421]
    assert await greeting(called, OTHER) == 220
    codes = [await greeting(called, host(f"2001:db8::{number}")) for number in range(5)]
    assert codes == [220, 220, 220, 421, 421]


async def test_flood_of_connections_from_a_large_network(autojump_clock: MockClock) -> None:
    """It does not reset the count of a client in another network, and each of its own clients has a limit."""
    layer = ConnectionRate(Inbox(), 2, 3600, max_entries=50)
    called = server(layer)
    assert [await greeting(called) for _ in range(3)] == [220, 220, 421]
    for number in range(200):
        assert await greeting(called, host(f"2001:db8:{number}::1")) == 220
    assert len(layer._rate._times) == 50
    assert await greeting(called) == 421
    await trio.sleep(3600)
    assert await greeting(called) == 220


async def test_message_rate_of_simultaneous_clients(autojump_clock: MockClock) -> None:
    called = server(MessageRate(Inbox(), 7))
    codes: list[int] = []

    async def attempt() -> None:
        codes.append(await sent(called))

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(attempt)
    assert sorted(codes) == [250] * 7 + [421] * 13


async def test_message_rate_of_users(autojump_clock: MockClock) -> None:
    """A user has one limit from all addresses, and is not affected by others at the same address."""
    called = server(MessageRate(Accounts(Inbox()), 2))
    assert [await sent(called, user="fred") for _ in range(2)] == [250, 250]
    assert await sent(called, user="fred", peer=OTHER) == 421
    assert await sent(called, user="wilma") == 250
    assert [await sent(called) for _ in range(3)] == [250, 250, 421]


async def test_disconnect_follows_connect_below_a_refusing_layer(autojump_clock: MockClock) -> None:
    """If a layer refuses a connection, neither connect nor disconnect is called below it."""
    calls: list[str] = []

    class Listening(Inbox):
        async def connect(self, session: Session) -> Reply | None:
            calls.append("connect")
            return await super().connect(session)

        async def disconnect(self, session: Session) -> None:
            calls.append("disconnect")
            await super().disconnect(session)

    called = server(Faults(Answer("CONNECT", 421)).hooks(ConnectionsPerPeer(Listening(), 1)))
    with pytest.raises(ExceptionGroup):
        async with calling(called):
            raise AssertionError("let in")
    assert calls == []
    async with calling(called):
        with pytest.raises(ExceptionGroup) as caught:
            async with calling(called):
                raise AssertionError("let in")
        assert caught.group_contains(GreetingError, match="421 .*Too many connections")
    assert calls == ["connect", "disconnect"]


async def test_inbox_below_a_layer(autojump_clock: MockClock) -> None:
    inbox = Inbox()
    async with open_memory_server(Greylist(ConnectionsPerPeer(MessageRate(inbox)))) as called:
        assert called.inbox is inbox


async def test_each_mail_counts(autojump_clock: MockClock) -> None:
    for hooks in (MessagesPerConnection(Inbox(), 2), MessageRate(Inbox(), 2)):
        async with calling(server(hooks)) as client:
            for _ in range(2):
                await client.mail(ME)
                await client.rset()
            with pytest.raises((ReplyError, ConnectionLostError), match="421"):
                await client.mail(ME)


async def test_message_rate(autojump_clock: MockClock) -> None:
    """The window slides: an hour after the first message another one is accepted."""
    called = server(MessageRate(Inbox(), 3, 3600))
    for _ in range(3):
        assert await sent(called) == 250
        await trio.sleep(600)
    assert await sent(called) == 421
    assert await sent(called, peer=OTHER) == 250
    await trio.sleep(1800)
    assert await sent(called) == 250
    assert await sent(called) == 421


async def test_tarpit(autojump_clock: MockClock) -> None:
    """Each error delays later replies more, up to a minute, without use of the hook timeout."""
    waited: list[float] = []
    async with calling(server(Tarpit(RejectingInbox(), 20, limit=50))) as client:
        await client.mail(ME)
        for _ in range(5):
            began = trio.current_time()
            with pytest.raises(ReplyError):
                await client.rcpt("nobody@mx.test")
            waited.append(trio.current_time() - began)
    assert waited == [0, 20, 40, 50, 50]
    async with calling(server(Tarpit(RejectingInbox(), 400, limit=1000))) as client:
        client._exchange.timeouts = type(client._exchange.timeouts).all(0)
        for _ in range(2):
            await client.mail(ME)
            with pytest.raises(ReplyError):
                await client.rcpt("nobody@mx.test")
            await client.rset()
        began = trio.current_time()
        await client.noop()
        assert trio.current_time() - began == 800


async def test_tarpit_for_invalid_commands(autojump_clock: MockClock) -> None:
    """Delays may exceed the timeouts for hooks and commands. An unsolicited 421 is not delayed."""
    waited: list[float] = []
    client_end, server_end = bounded_stream_pair()
    async with trio.open_nursery() as nursery:
        called = Server(Tarpit(Inbox(), 400, limit=1000), name="mx.test", timeout=Timeouts(command=300, hook=100))
        nursery.start_soon(called.serve_stream, server_end)
        await client_end.receive_some()
        for line in (b"FOO bar", b"RCPT TO:<you@mx.test>", b"FOO bar", b"FOO bar", b"NOOP"):
            began = trio.current_time()
            await client_end.send_all(line + b"\r\n")
            assert (await client_end.receive_some()).startswith(b"250 " if line == b"NOOP" else b"5")
            waited.append(trio.current_time() - began)
        began = trio.current_time()
        assert (await client_end.receive_some()).startswith(b"421 4.4.2")
        assert trio.current_time() - began == 300
    assert waited == [0, 400, 800, 1000, 1000]


async def test_tarpit_does_not_delay_a_stop(autojump_clock: MockClock) -> None:
    """When the server stops, the replies that are delayed are sent at once, those after them too, and then the 421."""
    called = Server(Tarpit(Inbox(), 400, limit=1000), name="mx.test")
    client_end, server_end = bounded_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(called.serve_stream, server_end)
        await client_end.receive_some()
        await client_end.send_all(b"FOO\r\n")
        assert (await client_end.receive_some()).startswith(b"500 ")
        await client_end.send_all(b"BAR\r\nNOOP\r\nBAZ\r\n")
        await trio.sleep(10)
        began = trio.current_time()
        await called.stop()
        assert trio.current_time() == began
        received = b""
        while octets := await client_end.receive_some():
            received += octets
        assert [line[:3] for line in received.splitlines()] == [b"500", b"250", b"500", b"421"]


def test_policies_that_are_used_in_another_run() -> None:
    """Each `trio.run` has a clock of its own: what an earlier one has remembered for a later time counts no more."""
    layers = Greylist(MessageRate(ConnectionRate(Inbox(), 1), 1), 0)

    async def one_message(start: float) -> int:
        await trio.sleep(start)
        return await sent(server(layers))

    for start in (1e6, 5e5, 10.0):
        assert trio.run(one_message, start, clock=MockClock(autojump_threshold=0)) == 250


async def test_tarpit_delays_a_limited_number_of_sessions(autojump_clock: MockClock) -> None:
    """Others get their replies at once; one that ended, or was cancelled, makes place for the next."""
    called = server(Tarpit(RejectingInbox(), 60, max_sessions=2))
    waited: list[float] = []

    async def harvest() -> None:
        async with calling(called) as client:
            await client.mail(ME)
            began = trio.current_time()
            for _ in range(2):
                with pytest.raises(ReplyError):
                    await client.rcpt("nobody@mx.test")
            waited.append(trio.current_time() - began)

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(harvest)
    assert sorted(waited) == [0, 0, 0, 60, 60]
    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(harvest)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    waited.clear()
    await harvest()
    assert waited == [60]


async def test_two_ports_with_different_policies(autojump_clock: MockClock) -> None:
    """Each port has layers around the same hooks; a layer that both have is shared."""
    inbox = Inbox()
    shared = MessageRate(Accounts(inbox), 3)
    called = server(inbox)
    codes: list[int] = []
    async with trio.open_nursery() as nursery:
        for hooks in (Greylist(shared), shared, Greylist(shared), shared, shared, shared):
            async with await memory_pair(nursery, called, hooks=hooks, peer=HOST) as client:
                try:
                    codes.append((await client.send(ME, [YOU], MESSAGE)).accepted[0].reply.code)
                except AllRecipientsRejectedError as exc:
                    codes.append(exc.reply.code)
    assert codes == [450, 250, 450, 421, 421, 421]
    assert called.statistics().messages == len(inbox) == 1


async def test_ports_of_a_memory_server(autojump_clock: MockClock) -> None:
    """A test chooses the port, by its hooks, for each client. Faults act on it, too."""
    inbox = Inbox()
    called = server(inbox)
    greylist = Greylist(inbox)
    async with open_memory_server(called) as memory_server:
        async with memory_server.client(hooks=greylist) as client:
            with pytest.raises(AllRecipientsRejectedError, match=r"450 4\.7\.1 Greylisted"):
                await client.send(ME, [YOU], MESSAGE)
        faults = Faults(Answer("MAIL", 451))
        async with memory_server.client(hooks=greylist, faults=faults) as client:
            with pytest.raises(ReplyError, match="451"):
                await client.mail(ME)
            await client.mail(ME)
        async with memory_server.client() as client:
            await client.send(ME, [YOU], MESSAGE)
        assert called.statistics().sessions_total == 3
    assert len(inbox) == 1


def test_cancellation_leaves_no_counts() -> None:
    """At whatever point a session is cancelled, its connection is not counted any more, and its delay has ended."""

    async def scenario(attempt: Attempt) -> None:
        tarpit = Tarpit(RejectingInbox(), 5)
        connections = ConnectionsPerPeer(tarpit, 2)
        try:
            async with calling(server(ConnectionRate(connections))) as client:
                await client.mail(ME)
                for _ in range(2):
                    with pytest.raises(ReplyError):
                        await client.rcpt("nobody@mx.test")
        finally:
            assert not connections._open
            assert tarpit._delayed == 0

    assert cancel_everywhere(scenario).points > 10


async def test_layers_compose(autojump_clock: MockClock) -> None:
    """They compose with each other, with other hooks, and with fault rules."""
    inbox = RejectingInbox()
    layers = Greylist(MessagesPerConnection(RecipientsPerMessage(Tarpit(inbox, 1), 2), 1), 60)
    called = server(layers)
    names = [f"r{number}@mx.test" for number in range(3)]
    async with calling(called) as client:
        with pytest.raises(AllRecipientsRejectedError, match="450"):
            await client.send(ME, names, MESSAGE)
    await trio.sleep(60)
    faults = Faults(Answer("RCPT", 451), Delay("DATA", 30))
    async with calling(called, faults=faults) as client:
        result = await client.send(ME, names, MESSAGE)
        assert [each.reply.code for each in result.rejected] == [451]
        with pytest.raises((ReplyError, ConnectionLostError), match="421"):
            await client.send(ME, names, MESSAGE)
    assert [mail.recipients for mail in inbox] == [tuple(names[1:])]


async def test_layer_adds_no_hooks() -> None:
    """A hook that a layer does not override is that of the hooks below."""

    class Mine(Layer):
        async def mail(self, session: Session, mail: Any) -> Reply | None:
            return await self.under.mail(session, mail)

    assert set(server(Mine())._state.hooks) == {"mail"}
    assert set(server(Mine(RejectingInbox()))._state.hooks) == {"mail"} | set(server(RejectingInbox())._state.hooks)


@pytest.mark.parametrize("layer", [Layer, Greylist, Tarpit, MessageRate, ConnectionsPerPeer])
@pytest.mark.parametrize("hooks", [300, Greylist, {"data": print}], ids=["number", "class", "dict"])
def test_layer_around_something_else(layer: Callable[[Any], Layer], hooks: object) -> None:
    with pytest.raises(TypeError, match=r"hooks must be an instance of smtp_trio\.Hooks, got "):
        layer(hooks)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Greylist(seconds=-1), "seconds must be >= 0, got -1"),
        (lambda: Greylist(forget=float("nan")), "forget must be >= 0, got nan"),
        (lambda: Greylist(remember=-0.5), "remember must be >= 0, got -0.5"),
        (lambda: Greylist(max_entries=0), "max_entries must be >= 1, got 0"),
        (lambda: MessageRate(limit=0), "limit must be >= 1, got 0"),
        (lambda: MessageRate(max_entries=0), "max_entries must be >= 1, got 0"),
        (lambda: ConnectionRate(seconds=-60), "seconds must be >= 0, got -60"),
        (lambda: ConnectionsPerPeer(limit=0), "limit must be >= 1, got 0"),
        (lambda: MessagesPerConnection(limit=-1), "limit must be >= 1, got -1"),
        (lambda: RecipientsPerMessage(limit=0), "limit must be >= 1, got 0"),
        (lambda: Tarpit(seconds=-5), "seconds must be >= 0, got -5"),
        (lambda: Tarpit(limit=-1), "limit must be >= 0, got -1"),
        (lambda: Tarpit(max_sessions=-1), "max_sessions must be >= 0, got -1"),
    ],
)
def test_invalid_numbers(make: Callable[[], Layer], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        make()


@pytest.mark.parametrize("layer", [MessageRate, ConnectionRate, ConnectionsPerPeer, MessagesPerConnection])
@pytest.mark.parametrize("limit", ["20", 2.5, True, None])
def test_limit_of_a_wrong_type(layer: Callable[..., Layer], limit: object) -> None:
    with pytest.raises(TypeError, match=f"limit must be an integer, got {limit!r}"):
        layer(limit=limit)


def test_policies_can_be_imported_from_testing() -> None:
    for name in policies.__all__:
        assert getattr(testing, name) is getattr(policies, name)
