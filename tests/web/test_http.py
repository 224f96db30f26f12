"""The HTTP server on real sockets: its protocol, and its limits for clients that are slow, or many, or hostile."""

from __future__ import annotations

import logging
import resource
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx2
import pytest
import trio
from starlette.requests import Request
from starlette.types import Receive, Scope, Send
from trio.testing import MockClock, wait_all_tasks_blocked

from smtp_trio._server.listeners import open_listeners
from smtp_trio.web import _http
from smtp_trio.web._http import serve_http
from smtp_trio.web._security import Access, Guard

from .helpers import RawConnection, connection

App = Any


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the path and the body of a request."""
    body = b""
    while (message := await receive())["type"] == "http.request":
        body += message["body"]
        if not message["more_body"]:
            break
    content = scope["path"].encode() + b" " + body
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(content))]})
    await send({"type": "http.response.body", "body": content})


def sends(*parts: bytes, headers: tuple[tuple[bytes, bytes], ...] = ()) -> App:
    """Return an application that does not read a request, and sends these parts."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": list(headers)})
        for part in parts:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    return app


@asynccontextmanager
async def serving(app: App) -> AsyncIterator[httpx2.AsyncClient]:
    listeners = await open_listeners(0, "127.0.0.1")
    with listeners[0].socket as listening:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_http, app, listeners)
            url = f"http://127.0.0.1:{listening.getsockname()[1]}"
            async with httpx2.AsyncClient(base_url=url, trust_env=False, timeout=100) as http:
                yield http
            nursery.cancel_scope.cancel()


async def closed(raw: RawConnection) -> bytes:
    """Return what is received until the connection is closed."""
    try:
        return await raw.read_until(b"no such octets")
    except trio.BrokenResourceError:
        return bytes(raw.received)


async def answer(raw: RawConnection, octets: bytes) -> bytes:
    """Send octets, and return the first line of the response."""
    await raw.stream.send_all(octets)
    return (await raw.read_until(b"\r\n")).strip()


# --- the protocol


async def test_requests_of_one_connection_are_answered_in_order() -> None:
    async with serving(echo) as http, connection(http) as raw:
        await raw.stream.send_all(
            b"GET /1 HTTP/1.1\r\nHost: x\r\n\r\n"
            b"POST /2 HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"
            b"PUT /3 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nxy\r\n1\r\nz\r\n0\r\n\r\n"
            b"GET /4 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )
        received = await closed(raw)
        assert [part.partition(b"\r\n\r\n")[2] for part in received.split(b"HTTP/1.1 200 OK\r\n")[1:]] == [
            b"/1 ", b"/2 abc", b"/3 xyz", b"/4 "
        ]  # fmt: skip
        assert received.lower().count(b"connection: close") == 1
        assert received.count(b"date: ") == 4


async def test_a_head_request_has_no_body() -> None:
    async with serving(sends(b"content", headers=((b"content-length", b"7"),))) as http, connection(http) as raw:
        await raw.stream.send_all(
            b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )
        first, second = (await closed(raw)).split(b"HTTP/1.1 200 OK\r\n")[1:]
        assert first.endswith(b"\r\n\r\n")
        assert b"content-length: 7" in first
        assert second.endswith(b"content")


async def test_a_body_of_unknown_length_is_chunked_or_ends_the_connection() -> None:
    async with serving(sends(b"ab", b"c")) as http:
        async with connection(http) as raw:
            assert b"transfer-encoding: chunked" in (await raw.request(b"GET /")).lower()
            assert await raw.read_until(b"0\r\n\r\n") == b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"
        async with connection(http) as raw:
            await raw.stream.send_all(b"GET / HTTP/1.0\r\n\r\n")
            assert (await closed(raw)).endswith(b"\r\n\r\nabc")


async def test_a_client_that_waits_is_told_to_send_its_body() -> None:
    async with serving(echo) as http, connection(http) as raw:
        await raw.stream.send_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        assert await raw.read_until(b"\r\n\r\n") == b"HTTP/1.1 100 \r\n\r\n"
        await raw.stream.send_all(b"ab")
        assert b"200 OK" in await raw.read_until(b"/ ab")


async def test_a_client_may_end_its_input_and_still_get_a_response() -> None:
    async with serving(echo) as http, connection(http) as raw:
        await raw.stream.send_all(b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n")
        await raw.stream.send_eof()
        assert (await closed(raw)).endswith(b"/x ")


async def test_a_request_that_is_not_read_gets_its_response_nevertheless() -> None:
    """To close a connection with unread octets would reset it, and the client might lose the response."""
    async with serving(sends(b"no")) as http, connection(http) as raw:
        await raw.stream.send_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 500000\r\n\r\n")
        assert b"connection: close" in await raw.read_until(b"\r\n\r\n")
        await raw.stream.send_all(b"x" * 500_000)
        assert b"no" in await closed(raw)


@pytest.mark.parametrize(
    ("request_octets", "status"),
    [
        (b"\r\n\r\n\r\nnonsense\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),  # no Host
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nBad Name: x\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: \x00\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", b"501"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n", b"400"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"505"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"400"),  # TLS
        (b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n", b"431"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 4000, b"431"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 4000 + b"\r\n", b"431"),  # a whole one, in one piece
        (b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", b"431"),
    ],
)  # fmt: skip
async def test_an_invalid_request_ends_the_connection(request_octets: bytes, status: bytes) -> None:
    async with serving(echo) as http, connection(http) as raw:
        line = await answer(raw, request_octets)
        assert line.split()[1] == status
        assert b"connection: close" in (await raw.read_until(b"\r\n\r\n")).lower()
        await raw.stream.send_eof()
        await closed(raw)
        assert (await http.get("/next")).text == "/next "


async def test_a_target_in_absolute_form() -> None:
    """Its host replaces the Host header (RFC 9112 3.2.2)."""

    async def host(scope: Scope, receive: Receive, send: Send) -> None:
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        await sends(b" ".join([*hosts, scope["path"].encode(), scope["query_string"]]))(scope, receive, send)

    async with serving(host) as http:
        for target, expected in (
            (b"http://a.example:80/b?c=http://d/", b"a.example:80 /b c=http://d/"),
            (b"HTTP://a.example", b"a.example / "),
            (b"http://a.example?c", b"a.example / c"),
            (b"/http://a.example/", b"localhost /http://a.example/ "),
        ):
            async with connection(http) as raw:
                await raw.stream.send_all(
                    b"GET " + target + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
                )
                assert expected in (await closed(raw)).split(b"\r\n"), target


@pytest.mark.parametrize(
    "body",
    [
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}GET / HTTP/1.1\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n-2\r\n{}\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nBad Name: x\r\n\r\n",
        b"Content-Length: 3\r\n\r\n{}",  # and the end of the input
    ],
)
async def test_a_malformed_body_gets_a_response(body: bytes) -> None:
    async def read(scope: Scope, receive: Receive, send: Send) -> None:
        await sends(await Request(scope, receive).body())(scope, receive, send)

    async with serving(Guard(read, Access())) as http, connection(http) as raw:
        await raw.stream.send_all(b"PUT / HTTP/1.1\r\nHost: localhost\r\n" + body)
        await raw.stream.send_eof()
        head = await raw.read_until(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 ")
        assert b"connection: close" in head.lower()
        await closed(raw)
        assert (await http.put("/next", content=b"next", headers={"Host": "localhost"})).text == "next"


async def test_upgrades_are_not_offered() -> None:
    async with serving(echo) as http:
        for upgrade in (b"websocket", b"h2c"):
            async with connection(http) as raw:
                head = await raw.request(
                    b"GET /", b"Connection: Upgrade", b"Upgrade: " + upgrade, b"HTTP2-Settings: AAMAAABk"
                )
                assert head.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("value", [b"a\r\nx: y", b"a\nb", b"a\x00"])
async def test_a_response_header_cannot_be_split(value: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(sends(b"", headers=((b"x-name", value),))) as http, connection(http) as raw:
        await raw.stream.send_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert await closed(raw) == b""
    assert caplog.messages[0].startswith("HTTP connection failed")


# --- faults of the application


async def test_a_fault_ends_its_own_connection_only(caplog: pytest.LogCaptureFixture) -> None:
    async def fails(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/fail":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"begin", "more_body": True})
            raise ZeroDivisionError
        await echo(scope, receive, send)

    async with serving(fails) as http, connection(http) as raw:
        await raw.request(b"GET /fail")
        assert b"0\r\n\r\n" not in await closed(raw)  # the client sees that the response is not complete
        assert (await http.get("/next")).status_code == 200
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


async def test_an_application_learns_that_its_client_has_left() -> None:
    left = trio.Event()

    async def waits(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        left.set()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"nobody reads this"})

    async with serving(waits) as http:
        async with connection(http) as raw:
            await raw.stream.send_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        with trio.fail_after(100):
            await left.wait()


# --- slow clients


@pytest.mark.parametrize("beginning", [b"", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: x\r\nA: "])
async def test_a_client_that_sends_no_request_is_closed(beginning: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_http, "IDLE_TIMEOUT", 0.2)
    monkeypatch.setattr(_http, "HEAD_TIMEOUT", 0.2)
    async with serving(echo) as http, connection(http) as raw:
        await raw.stream.send_all(beginning or b"GET /first HTTP/1.1\r\nHost: x\r\n\r\n")
        with trio.fail_after(100):
            await closed(raw)


async def test_octets_now_and_then_do_not_prolong_the_time_for_a_head(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_http, "HEAD_TIMEOUT", 0.3)
    async with serving(echo) as http, connection(http) as raw:
        with trio.fail_after(100), pytest.raises((trio.BrokenResourceError, trio.ClosedResourceError)):
            for _ in range(1000):
                await raw.stream.send_all(b"G")
                await trio.sleep(0.02)


async def test_a_client_that_does_not_read_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_http, "SEND_TIMEOUT", 0.3)
    ended = trio.Event()
    content = bytes(20_000_000)

    async def large(scope: Scope, receive: Receive, send: Send) -> None:
        await sends(content)(scope, receive, send)
        ended.set()

    async with serving(large) as http, connection(http) as raw:
        await raw.stream.send_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        with trio.fail_after(100):
            await ended.wait()


async def test_responses_that_wait_for_clients_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_http, "MAX_WAITING", 50_000_000)
    content = bytes(20_000_000)
    async with serving(sends(content)) as http, AsyncExitStack() as stack:
        statuses = []
        for _ in range(4):
            raw = await stack.enter_async_context(connection(http))
            statuses.append((await answer(raw, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")).split()[1])
        assert statuses == [b"200", b"200", b"503", b"503"]


async def test_cancelling_the_server_does_not_wait_for_clients(mock_clock: MockClock) -> None:
    """The clock stands still, so it would wait for ever."""
    async with AsyncExitStack() as stack:
        async with serving(sends(bytes(20_000_000))) as http:
            get, post = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n"
            for octets in (b"", b"GET / HT", get, post):
                raw = await stack.enter_async_context(connection(http))
                await raw.stream.send_all(octets)
            await wait_all_tasks_blocked(0.05)


# --- many clients


async def test_a_new_client_takes_the_place_of_one_that_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_http, "MAX_CONNECTIONS", 3)
    async with serving(echo) as http, AsyncExitStack() as stack:
        idle = [await stack.enter_async_context(connection(http)) for _ in range(3)]
        for raw in idle:
            assert b"200" in await answer(raw, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await http.get("/")).status_code == 200
        with trio.fail_after(100):
            await closed(idle[0])
        await idle[2].read_until(b"/ ")
        assert b"200" in await answer(idle[2], b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")


async def test_a_new_client_is_closed_if_all_others_are_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_http, "MAX_CONNECTIONS", 2)
    async with serving(sends(bytes(20_000_000))) as http, AsyncExitStack() as stack:
        for _ in range(2):
            raw = await stack.enter_async_context(connection(http))
            await raw.request(b"GET /")
        third = await stack.enter_async_context(connection(http))
        with trio.fail_after(100):
            assert await closed(third) == b""


async def test_connections_of_another_host_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_http, "MAX_PER_PEER", 2)
    monkeypatch.setattr(_http, "network", lambda host: "192.0.2.1")
    async with serving(echo) as http, AsyncExitStack() as stack:
        for _ in range(2):
            raw = await stack.enter_async_context(connection(http))
            assert b"200" in await answer(raw, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        async with connection(http) as third:
            assert await closed(third) == b""
        await raw.stream.aclose()
        with trio.fail_after(100):
            while True:  # until the server has noticed it
                async with connection(http) as again:
                    await again.stream.send_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                    if b"200" in await again.read_until(b"\r\n"):
                        break


async def test_a_client_that_resets_its_connection_does_no_harm(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(echo) as http:
        for octets in (b"", b"GET /", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"):
            async with connection(http) as raw:
                await raw.stream.send_all(octets)
                raw.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        assert (await http.get("/")).status_code == 200
    assert not caplog.records


def test_connections_leave_descriptors_for_mail(monkeypatch: pytest.MonkeyPatch) -> None:
    for descriptors, connections in ((1_000_000, 512), (1024, 256), (40, 10), (2, 1), (resource.RLIM_INFINITY, 512)):
        monkeypatch.setattr(resource, "getrlimit", lambda kind, number=descriptors: (number, number))
        assert _http.max_connections() == connections
