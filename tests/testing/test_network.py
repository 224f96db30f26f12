"""Tests of `memory_network`: `connect`, `send` and `Pool` by host name, in memory."""

from __future__ import annotations

from email.message import EmailMessage
from typing import Any

import pytest
import trio
from helpers import MESSAGE, NAME, client_tls, server_tls

from smtp_trio import (
    AllRecipientsRejectedError,
    Body,
    ConnectionLostError,
    Hooks,
    Mail,
    Pool,
    Reply,
    ReplyError,
    Server,
    Session,
    connect,
    send,
)
from smtp_trio.testing import (
    Answer,
    Attempt,
    Close,
    Faults,
    Greylist,
    Inbox,
    Omit,
    cancel_everywhere,
    memory_network,
)

ENDS = "me@client.test", ["you@mx.test"]


async def test_connect_send_and_pool(autojump_clock: object) -> None:
    inbox = Inbox()
    async with memory_network({"mx.example.org": inbox}) as servers:
        async with connect("mx.example.org") as client:
            assert client.host == "mx.example.org"
            await client.send(*ENDS, MESSAGE)
        await send(MESSAGE, "mx.example.org", 587, sender=ENDS[0], recipients=ENDS[1])
        async with Pool("mx.example.org", 2525, size=2) as pool:
            async with trio.open_nursery() as nursery:
                for _ in range(4):
                    nursery.start_soon(pool.send, *ENDS, MESSAGE)
            assert pool.statistics().open == 2
            await trio.sleep(20)
            await pool.send(*ENDS, MESSAGE)
    inbox.assert_delivered(7)
    server = servers["mx.example.org"].server
    assert server.name == "mx.example.org"
    assert server.statistics().sessions_total == 4


async def test_email_message(autojump_clock: object) -> None:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "me@client.test", "you@mx.test", "News"
    async with memory_network({"mx.test": Inbox()}) as servers:
        await send(message, "mx.test")
        [mail] = servers["mx.test"].inbox.assert_delivered(subject="News")
        async with servers["mx.test"].client() as client:
            await client.noop()
    assert mail.sender == "me@client.test"


@pytest.mark.parametrize(
    "host",
    [
        "MX.Example.ORG",
        "mx.example.org.",
        "192.0.2.1",
        "::1",
        "0:0:0:0:0:0:0:1",
        "bücher.example",
        "xn--bcher-kva.example",
        "xn--bcher-kva.example.",
    ],
)
async def test_names_and_addresses(autojump_clock: object, host: str) -> None:
    servers: Any = {"mx.example.org": Inbox(), "192.0.2.1": Inbox(), "::1": Inbox(), "bücher.example": Inbox()}
    async with memory_network(servers), connect(host) as client:
        await client.send(*ENDS, MESSAGE)
    assert sum(map(len, servers.values())) == 1


async def test_absolute_names_and_long_addresses_of_servers(autojump_clock: object) -> None:
    servers = {"MX.example.org.": Inbox(), "2001:DB8:0::1": Inbox()}
    async with memory_network(servers) as made:
        assert list(made) == list(servers)
        assert made["MX.example.org."].server.name == "mx.example.org"
        for host in ("mx.example.org", "2001:db8::1"):
            async with connect(host) as client:
                await client.send(*ENDS, MESSAGE)
    assert [len(inbox) for inbox in servers.values()] == [1, 1]


async def test_ports_have_policies_of_their_own(autojump_clock: object) -> None:
    class Submission(Inbox):
        async def mail(self, session: Session, mail: Mail) -> Reply | None:
            return Reply(530, "Authentication required", "5.7.0")

    mx, submission = Inbox(), Server(Submission(), name="desk.test", tls=server_tls())
    async with memory_network({("desk.test", 25): mx, ("desk.test", 587): submission, ("desk.test", 465): submission}):
        async with connect("desk.test") as client:
            await client.send(*ENDS, MESSAGE)
        async with connect("desk.test", 587) as client:
            with pytest.raises(ReplyError, match="530"):
                await client.mail("me@client.test")
        with pytest.raises(ConnectionLostError, match=r"cannot connect to desk\.test port 2525: Connection refused"):
            await send(MESSAGE, "desk.test", 2525, sender=ENDS[0], recipients=ENDS[1])
    assert submission.statistics().sessions_total == 2  # with opportunistic TLS: the certificate is checked first


@pytest.mark.parametrize("port", [25, 465])
async def test_tls(port: int) -> None:
    inbox = Inbox()
    async with memory_network({NAME: Server(inbox, name=NAME, tls=server_tls())}):
        mode: Any = "implicit" if port == 465 else "required"
        async with connect(NAME, port, tls=mode, ssl_context=client_tls()) as client:
            assert client.tls is not None
            assert client.tls.verified
            await client.send(*ENDS, MESSAGE)
    assert inbox[0].tls is not None


async def test_other_hosts_cannot_be_connected_to(autojump_clock: object) -> None:
    async with memory_network({"mx.example.org": Inbox()}):
        with pytest.raises(ConnectionLostError, match=r"connect to example\.org port 25: not a host of memory_network"):
            async with connect("example.org"):
                pytest.fail("connected")


async def test_stopped_server_refuses_connections(autojump_clock: object) -> None:
    own = Server(Inbox(), name="mx.test")
    async with memory_network({"mx.test": own, "other.test": Inbox()}):
        async with connect("mx.test"):
            await own.stop(0)
        with pytest.raises(ConnectionLostError, match="Connection refused"):
            async with connect("mx.test"):
                pytest.fail("connected")
        async with connect("other.test") as client:
            await client.noop()


async def test_network_ends_with_the_block() -> None:
    async with memory_network({"127.0.0.1": Inbox()}):
        async with memory_network({"127.0.0.2": Inbox()}):
            with pytest.raises(ConnectionLostError, match="not a host"):
                async with connect("127.0.0.1"):
                    pytest.fail("connected")
        async with connect("127.0.0.1", 1):
            pass
    with pytest.raises(ConnectionLostError, match="refused"):
        async with connect("127.0.0.1", 1):
            pytest.fail("connected")


async def test_server_sees_the_local_address(autojump_clock: object) -> None:
    inbox = Inbox()
    async with memory_network({"mx.test": inbox}):
        async with connect("mx.test", local_address="192.0.2.7") as client:
            await client.send(*ENDS, MESSAGE)
        async with connect("mx.test") as client:
            await client.send(*ENDS, MESSAGE)
        with pytest.raises(ConnectionLostError, match="Cannot assign requested address"):
            async with connect("mx.test", local_address="localhost"):
                pytest.fail("connected")
    assert [mail.peer.host for mail in inbox] == ["192.0.2.7", ""]


async def test_hook_that_forwards(autojump_clock: object) -> None:
    class Relay(Hooks):
        async def data(self, session: Session, body: Body) -> Reply | None:
            octets = await body.read()
            await send(octets, "mx.next.test", sender=ENDS[0], recipients=ENDS[1])
            return None

    inbox = Inbox()
    async with memory_network({"relay.test": Relay(), "mx.next.test": inbox}), connect("relay.test") as client:
        await client.send(*ENDS, MESSAGE)
    inbox.assert_delivered()


async def test_functions_and_shared_hooks(autojump_clock: object) -> None:
    shared = Inbox()
    addresses: Any = {"a.test": shared, "b.test": shared, "c.test": Greylist}
    async with memory_network(addresses) as servers:
        for host in ("a.test", "b.test"):
            async with connect(host) as client:
                await client.send(*ENDS, MESSAGE)
        async with connect("c.test") as client:
            with pytest.raises(AllRecipientsRejectedError, match="450"):
                await client.send(*ENDS, MESSAGE)
        servers["c.test"].inbox.assert_empty()
    assert servers["a.test"].server is servers["b.test"].server
    assert [servers[host].server.name for host in addresses] == ["a.test", "a.test", "c.test"]
    shared.assert_delivered(2)


async def test_faults(autojump_clock: object) -> None:
    inbox = Inbox()
    faults = Faults(Answer("MAIL", 451), Omit("PIPELINING"), Omit("CHUNKING"), Close("body", 5, by="client"))
    async with memory_network({"mx.test": inbox}, faults=faults):
        for match in ("451", "closed"):
            with pytest.raises(Exception, match=match):
                await send(MESSAGE, "mx.test", sender=ENDS[0], recipients=ENDS[1])
        await send(MESSAGE, "mx.test", sender=ENDS[0], recipients=ENDS[1])
    inbox.assert_delivered()


@pytest.mark.parametrize("ignored", [False, True])
async def test_exceptions_of_hooks(autojump_clock: object, ignored: bool) -> None:
    class Fails(Hooks):
        async def mail(self, session: Session, mail: Mail) -> Reply | None:
            raise ZeroDivisionError("in the hook")

    async def scenario() -> None:
        async with memory_network({"ok.test": Inbox(), "mx.test": Fails()}, raise_hook_errors=not ignored):
            async with connect("mx.test") as client:
                with pytest.raises(ReplyError, match="451"):
                    await client.mail("me@client.test")

    if ignored:
        await scenario()
    else:
        with pytest.raises(ZeroDivisionError, match="in the hook"):
            await scenario()


async def test_exception_of_the_block_is_not_grouped(autojump_clock: object) -> None:
    with pytest.raises(AssertionError, match="mine"):
        async with memory_network({"mx.test": Inbox(), "other.test": Inbox()}), connect("mx.test"):
            raise AssertionError("mine")


@pytest.mark.parametrize("servers", [{}, {"no host": Inbox()}, {5: Inbox()}, {("mx.test", 0): Inbox()}, {"mx.test": 5}])
async def test_invalid_servers(servers: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        async with memory_network(servers):
            pytest.fail("it was started")


def test_sweep_over_a_pool() -> None:
    async def scenario(attempt: Attempt) -> None:
        attempt.context["inbox"] = inbox = Inbox()
        async with memory_network({"mx.test": inbox}), Pool("mx.test") as pool:
            for _ in range(2):
                await pool.send(*ENDS, MESSAGE)

    def check(attempt: Attempt) -> None:
        accepted = sum(bool(result.accepted) for client in attempt.clients for result in client.last_results)
        assert accepted <= len(attempt.context.get("inbox", ())) <= 2
        assert attempt.interrupted or accepted

    assert cancel_everywhere(scenario, check=check, points=range(1, 10_000, 2)).points > 20
