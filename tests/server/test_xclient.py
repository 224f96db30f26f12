"""XCLIENT and XFORWARD of trusted peers: what the hooks, the limits and the log see."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from helpers import NAME, SECRET, Client, RecordingHooks, server_tls
from trio.testing import MockClock, memory_stream_pair

from smtp_trio import Command, Credentials, Hooks, Limits, Peer, Reply, Server, Session, standard
from smtp_trio.policies import ConnectionsPerPeer
from smtp_trio.protocol import ProxyHeader
from smtp_trio.protocol.extensions import Auth

PROXY = "10.0.0.1"


def make_server(hooks: Hooks | None = None, **options: Any) -> Server:
    networks: dict[str, Any] = {"xclient_from": ["10.0.0.0/8"], "xforward_from": ["10.0.0.0/8"]}
    return Server(hooks or RecordingHooks(), name=NAME, **{**networks, **options})


@asynccontextmanager
async def connected_from(server: Server, host: str = PROXY) -> AsyncGenerator[Client]:
    """Run a session over a stream in memory whose peer has this address."""
    client_end, server_end = memory_stream_pair()
    server_end.endpoints = Peer(host, 5000, "tcp"), Peer("10.0.0.2", 25, "tcp")  # type: ignore[attr-defined]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve_stream, server_end)
        client = Client(client_end)
        yield client
        await trio.aclose_forcefully(client.stream)


async def xclient(client: Client, attributes: str, start: str = f"220 {NAME} ESMTP") -> str:
    """Send XCLIENT. A positive reply is a greeting, without an enhanced status code, and so is 421 in place of it."""
    if start.startswith(("220", "421")):
        client.replies.clear()
    return await client.command(f"XCLIENT {attributes}", start)


def values(log: pytest.LogCaptureFixture, event: str) -> list[tuple[Any, ...]]:
    found = [record.__dict__ for record in log.records if getattr(record, "event", None) == event]
    return [tuple(each["fields"].values()) for each in found]


async def test_session_of_the_client(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "smtp_trio")
    hooks = RecordingHooks()
    async with connected_from(make_server(hooks)) as client:
        await client.hello()
        await xclient(
            client,
            "NAME=mail.example ADDR=192.0.2.9 PORT=4242 HELO=client.example PROTO=ESMTP LOGIN=fred DESTADDR=192.0.2.1 DESTPORT=25",
        )
        await client.command("EHLO proxy.test", "250-")
        (session, again) = hooks.sessions
        assert session is again
        assert session.peer == Peer("192.0.2.9", 4242, "tcp", "mail.example")
        assert session.local == Peer("192.0.2.1", 25, "tcp")
        assert session.connection_peer == Peer(PROXY, 5000, "tcp")
        assert session.hello is not None
        assert (session.hello.domain, session.user, session.xclient["PROTO"]) == ("client.example", "fred", "ESMTP")
        assert session.received().startswith(b"Received: from client.example (mail.example [192.0.2.9])\r\n")
        await client.deliver()
    assert values(caplog, "client_address") == [(session.id, "192.0.2.9:4242", "10.0.0.1:5000", "XCLIENT")]
    (accepted,) = values(caplog, "accepted")
    assert {"192.0.2.9:4242", "client.example", "fred"} <= {str(value) for value in accepted if isinstance(value, str)}


async def test_for_the_hooks_a_session_ends_and_another_one_begins() -> None:
    events: list[tuple[str, str]] = []

    class Recorder(Hooks):
        async def connect(self, session: Session) -> Reply | None:
            events.append(("connect", session.peer.host))
            return None

        async def disconnect(self, session: Session) -> None:
            events.append(("disconnect", session.peer.host))

    async with connected_from(make_server(Recorder())) as client:
        await client.hello()
        await xclient(client, "ADDR=192.0.2.9")
        await client.hello()
        await client.quit()
    assert events == [(name, host) for host in (PROXY, "192.0.2.9") for name in ("connect", "disconnect")]


async def test_connect_hook_sees_the_session_of_the_client() -> None:
    """The proxy has authenticated as "fred"; the client that it names has not, and is not the host in the proxy's EHLO."""
    seen: list[tuple[Any, ...]] = []
    ended: list[dict[str, Any]] = []

    class Recorder(RecordingHooks):
        async def connect(self, session: Session) -> Reply | None:
            await super().connect(session)
            user, hello, forwarded = session.user, session.hello, dict(session.xforward)
            seen.append((session.peer.host, user, hello, dict(session.xclient), forwarded))
            assert session.context == {}
            session.context["peer"] = session.peer
            return Reply(554, "You are listed") if session.peer.host == "192.0.2.9" else None

        async def auth(self, session: Session, credentials: Credentials) -> Reply | None:
            session.context["account"] = credentials.user
            return None

        async def disconnect(self, session: Session) -> None:
            ended.append(dict(session.context))

    async with connected_from(make_server(Recorder(), extensions=standard(Auth(cleartext=True)))) as client:
        await client.hello()
        await client.command(f"AUTH PLAIN {SECRET}", "235")
        await client.command("XFORWARD SOURCE=LOCAL", "250")
        await xclient(client, "NAME=a.test")
        await xclient(client, "ADDR=10.0.0.8 LOGIN=wilma")
        await xclient(client, "ADDR=192.0.2.9 HELO=b.test", "554 ")
    assert seen == [
        (PROXY, None, None, {}, {}),
        (PROXY, None, None, {"NAME": "a.test"}, {}),
        ("10.0.0.8", "wilma", None, {"NAME": "a.test", "ADDR": "10.0.0.8", "LOGIN": "wilma"}, {}),
        ("192.0.2.9", None, None, {"ADDR": "192.0.2.9", "HELO": "b.test"}, {}),
    ]
    assert [each.get("account") for each in ended] == ["fred", None, None, None]


async def test_connect_hook_may_refuse_the_client(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "smtp_trio")

    class Blocklist(RecordingHooks):
        async def connect(self, session: Session) -> Reply | None:
            await super().connect(session)
            return Reply(554, "You are listed") if session.peer.host == "192.0.2.9" else Reply(220, "ready")

    async with connected_from(make_server(Blocklist())) as client:
        await client.expect(f"220 {NAME} ESMTP ready")
        await client.command("EHLO x", "250-")
        await xclient(client, "ADDR=10.0.0.8", f"220 {NAME} ESMTP ready")
        await xclient(client, "ADDR=192.0.2.9", "554 5.0.0 You are listed")
        await client.command("EHLO x", "503")
        await client.quit()
    assert [fields[1:] for fields in values(caplog, "connection_refused")] == [
        ("192.0.2.9", "554 5.0.0 You are listed")
    ]


async def test_message_hook_may_refuse_the_command() -> None:
    class NoXclient(RecordingHooks):
        async def message(self, session: Session, command: Command) -> Reply | None:
            return Reply(550, "no") if command.verb in ("XCLIENT", "XFORWARD") else None

    hooks = NoXclient()
    async with connected_from(make_server(hooks)) as client:
        await client.hello()
        await client.command("XFORWARD SOURCE=LOCAL", "550 ")
        await xclient(client, "ADDR=192.0.2.9", "550 5.7.1 no")
        (session,) = hooks.sessions
        assert (session.peer.host, session.xclient, dict(session.xforward)) == (PROXY, {}, {})


@pytest.mark.parametrize(
    ("commands", "peer"),
    [
        (["ADDR=IPV6:2001:db8::1"], Peer("2001:db8::1", None, "tcp")),
        (["ADDR=IPV6:::ffff:192.0.2.9"], Peer("192.0.2.9", None, "tcp")),
        (["NAME=a.test"], Peer(PROXY, 5000, "tcp", "a.test")),
        (["NAME=a.test", "PORT=1", "ADDR=192.0.2.9"], Peer("192.0.2.9", 1, "tcp", "a.test")),
        (["PORT=1 NAME=a.test", "NAME=[UNAVAILABLE]", "ADDR=192.0.2.9"], Peer("192.0.2.9", 1, "tcp")),
        (["ADDR=10.0.0.9 PORT=1 NAME=a.test", "ADDR=192.0.2.8"], Peer("192.0.2.8", None, "tcp")),
        (["ADDR=10.0.0.9 PORT=1", "NAME=a.test"], Peer("10.0.0.9", 1, "tcp", "a.test")),
        (["NAME=[TEMPUNAVAIL] ADDR=192.0.2.9 PORT=[UNAVAILABLE]"], Peer("192.0.2.9", None, "tcp")),
        (["ADDR=[UNAVAILABLE] PORT=1 NAME=[UNAVAILABLE]"], Peer("", None, "unknown")),
        (["HELO=a.test"], Peer(PROXY, 5000, "tcp")),
    ],
)
async def test_peer(commands: list[str], peer: Peer) -> None:
    hooks = RecordingHooks()
    async with connected_from(make_server(hooks)) as client:
        await client.hello()
        for attributes in commands:
            await xclient(client, attributes)
        session = hooks.sessions[0]
        assert session.peer == peer
        assert session.local == Peer("10.0.0.2", 25, "tcp")
        if peer.kind == "unknown":
            await client.command("EHLO proxy.test", "250-")
            assert b"from proxy.test (unknown)" in session.received()


@pytest.mark.parametrize("host", ["192.0.2.7", "11.0.0.1"])
async def test_other_peers_are_refused(host: str) -> None:
    hooks = RecordingHooks()
    async with connected_from(make_server(hooks), host) as client:
        assert "XCLIENT" not in await client.hello()
        await client.command("XCLIENT ADDR=10.0.0.1", "550 5.7.0 ")
        await client.command("XFORWARD ADDR=10.0.0.1", "550 5.7.0 ")
        assert hooks.sessions[0].peer.host == host


async def test_networks_of_the_two_are_separate() -> None:
    async with connected_from(make_server(xforward_from=["192.0.2.0/24"])) as client:
        reply = await client.hello()
        assert ("XCLIENT" in reply, "XFORWARD" in reply) == (True, False)
    async with connected_from(make_server(xforward_from=["192.0.2.0/24"]), "192.0.2.1") as client:
        reply = await client.hello()
        assert ("XCLIENT" in reply, "XFORWARD" in reply) == (False, True)
    assert make_server(xforward_from=()).extensions[-1].keyword == "XCLIENT"


@pytest.mark.parametrize(
    ("attributes", "offered"),
    [
        ("ADDR=192.0.2.9", []),
        ("ADDR=[UNAVAILABLE]", []),
        ("ADDR=172.16.0.1 LOGIN=fred", ["XFORWARD"]),
        ("ADDR=10.0.0.9", ["XCLIENT", "XFORWARD"]),
        ("ADDR=IPV6:::ffff:10.0.0.9", ["XCLIENT", "XFORWARD"]),
        ("NAME=a.test LOGIN=fred", ["XCLIENT", "XFORWARD"]),
    ],
)
async def test_address_of_the_client_decides_whether_it_is_trusted(attributes: str, offered: list[str]) -> None:
    """A proxy may pass on what the client sends. Postfix does the same with XCLIENT."""
    hooks = RecordingHooks()
    async with connected_from(make_server(hooks, xforward_from=["10.0.0.0/8", "172.16.0.1"])) as client:
        await client.hello()
        await xclient(client, attributes)
        reply = await client.command("EHLO x", "250-")
        assert [keyword for keyword in ("XCLIENT", "XFORWARD") if keyword in reply] == offered
        session = hooks.sessions[-1]
        before = session.peer, session.user
        if "XCLIENT" not in offered:
            await client.command("XCLIENT ADDR=10.0.0.1 LOGIN=root", "550 5.7.0 ")
        if "XFORWARD" not in offered:
            await client.command("XFORWARD ADDR=10.0.0.1", "550 5.7.0 ")
        assert (session.peer, session.user) == before


async def test_command_that_arrives_with_the_one_of_the_proxy() -> None:
    hooks = RecordingHooks()
    async with connected_from(make_server(hooks)) as client:
        await client.hello()
        client.replies.clear()
        await client.send(b"XCLIENT ADDR=192.0.2.9\r\nXCLIENT ADDR=10.0.0.1 LOGIN=root\r\n")
        await client.expect("220 ", "550 5.7.0 ")
        assert (hooks.sessions[-1].peer.host, hooks.sessions[-1].user) == ("192.0.2.9", None)


async def test_client_has_nothing_of_the_one_before() -> None:
    """The first client is a proxy that is trusted, too, and names another one."""
    hooks = RecordingHooks()
    async with connected_from(make_server(hooks)) as client:
        await client.hello()
        await xclient(client, "NAME=a.test ADDR=10.0.0.9 PORT=1 HELO=a.test LOGIN=fred DESTADDR=192.0.2.1 DESTPORT=26")
        await client.hello()
        await xclient(client, "ADDR=192.0.2.9")
        await client.hello()
        session = hooks.sessions[-1]
        assert (session.peer, session.local) == (Peer("192.0.2.9", None, "tcp"), Peer("10.0.0.2", 25, "tcp"))
        assert session.hello is not None
        assert (session.hello.domain, session.user, dict(session.xclient)) == (
            "client.test",
            None,
            {"ADDR": "192.0.2.9"},
        )


async def test_failed_logins_of_a_session_are_those_of_one_client(autojump_clock: MockClock) -> None:
    class Accounts(RecordingHooks):
        async def auth(self, session: Session, credentials: Any) -> Reply:
            return Reply(535, "no")

    server = make_server(Accounts(), tls=server_tls(), limits=Limits(auth_failures=2))
    async with connected_from(server) as client:
        await client.hello()
        await client.starttls()
        for host in ("10.0.0.9", "10.0.0.8"):
            await client.command("EHLO x", "250-")
            await client.command("AUTH PLAIN AGEAYg==", "535 ")
            await xclient(client, f"ADDR={host}")
        await client.command("EHLO x", "250-")
        await client.command("AUTH PLAIN AGEAYg==", "535 ")
        await client.command("AUTH PLAIN AGEAYg==", "421 ")


async def test_proxy_behind_a_balancer() -> None:
    """The address of the PROXY header decides, as in Postfix."""
    for host, offered in [(PROXY, True), ("192.0.2.9", False)]:
        async with connected_from(make_server(proxy_from=["192.0.2.7"]), "192.0.2.7") as client:
            await client.send(ProxyHeader((host, 1), ("10.0.0.2", 25)).encode())
            assert ("XCLIENT" in await client.hello()) is offered


async def test_login_of_the_client_is_enough_where_auth_is_required() -> None:
    class Accounts(RecordingHooks):
        async def auth(self, session: Session, credentials: Any) -> None: ...

    server = make_server(Accounts(), extensions=standard(Auth(required=True)), tls=server_tls())
    async with connected_from(server) as client:
        await client.hello()
        await client.command("MAIL FROM:<a@b.test>", "530 5.7.0 ")
        await xclient(client, "LOGIN=fred")
        await client.command("EHLO x", "250-")
        await client.deliver()


async def test_starttls_after_xclient_keeps_the_address() -> None:
    hooks = RecordingHooks()
    async with connected_from(make_server(hooks, tls=server_tls())) as client:
        await client.hello()
        await xclient(client, "ADDR=192.0.2.9 LOGIN=fred")
        await client.command("EHLO x", "250-")
        await client.starttls()
        await client.command("EHLO x", "250-")
        session = hooks.sessions[0]
        assert (session.peer.host, session.user) == ("192.0.2.9", None)


# --- limits -------------------------------------------------------------------------------------------------------


async def test_proxy_itself_is_not_limited(autojump_clock: MockClock) -> None:
    server = make_server(limits=Limits(per_peer=1, connections_per_minute=1))
    async with connected_from(server) as first, connected_from(server) as second:
        for client in (first, second):
            await client.hello()
            await xclient(client, "NAME=a.test PORT=1")
            await xclient(client, "ADDR=10.0.0.9")


async def test_clients_are_limited(caplog: pytest.LogCaptureFixture, autojump_clock: MockClock) -> None:
    caplog.set_level(logging.INFO, "smtp_trio")
    hooks = RecordingHooks()
    server = make_server(hooks, limits=Limits(per_peer=1))
    async with connected_from(server) as first:
        await first.hello()
        await xclient(first, "ADDR=192.0.2.9")
        async with connected_from(server, "192.0.2.9") as direct:
            await direct.expect("421 ")
        async with connected_from(server) as second:
            await second.hello()
            await xclient(second, "ADDR=192.0.2.9", f"421 {NAME} Too many connections")
            await second.expect_end()
        async with connected_from(server) as third:
            await third.hello()
            await xclient(third, "ADDR=192.0.2.8")
    assert hooks.sessions.count(hooks.sessions[0]) == 2
    assert len(hooks.ended) == len(hooks.sessions)
    assert server.statistics().limits_reached["per_peer"] == 2
    async with connected_from(server, "192.0.2.8") as direct:
        await direct.hello()


async def test_sessions_of_a_client_share_turns(autojump_clock: MockClock) -> None:
    server = make_server()
    async with connected_from(server) as first, connected_from(server) as second:
        for client in (first, second):
            await client.hello()
            await xclient(client, "NAME=a.test")
            await xclient(client, "ADDR=192.0.2.9")
        one, other = server._sessions
        assert one.turns is other.turns is not None
        await second.hello()
        await first.quit()
        await second.quit()
    assert server._admission._open == {}


async def test_policies_count_the_client() -> None:
    server = make_server(ConnectionsPerPeer(RecordingHooks(), 1))
    async with connected_from(server) as first:
        await first.hello()
        await xclient(first, "ADDR=192.0.2.9")
        async with connected_from(server) as second:
            await second.hello()
            await xclient(second, "ADDR=192.0.2.9", "421")
        async with connected_from(server) as third:
            await third.hello()
            await xclient(third, "ADDR=192.0.2.8")


# --- XFORWARD -----------------------------------------------------------------------------------------------------


async def test_origin_of_a_message(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "smtp_trio")
    origins: list[dict[str, str | None]] = []

    class Recorder(RecordingHooks):
        async def data(self, session: Session, body: Any) -> Reply | None:
            origins.append(dict(session.xforward))
            return await super().data(session, body)

    hooks = Recorder()
    async with connected_from(make_server(hooks)) as client:
        await client.hello()
        await client.command("XFORWARD NAME=a.test ADDR=192.0.2.9 PORT=1", "250 2.0.0 Ok")
        await client.command("XFORWARD PROTO=SMTP HELO=a+20b IDENT=4F SOURCE=REMOTE", "250 2.0.0 Ok")
        await client.deliver()
        await client.deliver()
        (session,) = hooks.sessions
        assert session.peer.host == PROXY
    assert origins == [
        {
            "NAME": "a.test",
            "ADDR": "192.0.2.9",
            "PORT": "1",
            "PROTO": "SMTP",
            "HELO": "a b",
            "IDENT": "4F",
            "SOURCE": "REMOTE",
        },
        {},
    ]
    assert values(caplog, "forwarded") == [
        (session.id, "10.0.0.1:5000", "a.test", "192.0.2.9", "1", None, None, None, None),
        (session.id, "10.0.0.1:5000", None, None, None, "SMTP", "a b", "4F", "REMOTE"),
    ]
    assert 'helo="a b" ident=4F' in caplog.text


async def test_invalid_networks() -> None:
    for name in ("xclient_from", "xforward_from"):
        arguments: dict[str, Any] = {name: ["x"]}
        with pytest.raises(ValueError, match=f"^{name}: 'x' does not appear to be"):
            Server(**arguments)
