"""`web.serve` in the nursery of a server."""

from __future__ import annotations

import smtplib
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest
import trio

from smtp_trio import Server, web
from smtp_trio.stores import SQLite


def send(port: int) -> None:
    with smtplib.SMTP("127.0.0.1", port, timeout=100) as client:
        client.sendmail("a@example.org", ["b@example.org"], b"Subject: x\r\n\r\nx\r\n")


async def test_start_returns_the_url(tmp_path: Path) -> None:
    store = SQLite(tmp_path / "mail.db")
    server = Server(store)
    async with store, trio.open_nursery() as nursery:
        url = await nursery.start(web.serve, server, store, 0)
        async with httpx2.AsyncClient(trust_env=False, timeout=100) as http:
            assert (await http.get(f"{url}/api/messages")).json()["messages"] == []
        nursery.cancel_scope.cancel()


async def test_mail_is_received_when_the_listener_of_http_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fails = trio.Event()

    async def failing(*arguments: Any) -> None:
        await fails.wait()
        raise RuntimeError("broken")

    monkeypatch.setattr("smtp_trio.web._serve.serve_http", failing)
    store = SQLite(tmp_path / "mail.db")
    server = Server(store)
    async with store, trio.open_nursery() as nursery:
        listener, *_ = await nursery.start(server.serve, 0, "127.0.0.1")
        async with trio.open_nursery() as http:
            await http.start(web.serve, server, store, 0)
            fails.set()
        assert [record.levelname for record in caplog.records] == ["ERROR"]
        assert "HTTP is not served any more" in caplog.messages[0]
        await trio.to_thread.run_sync(send, listener.socket.getsockname()[1])
        assert await store.count() == 1
        nursery.cancel_scope.cancel()


async def test_clients_that_use_up_all_connections_do_not_keep_mail_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smtp_trio.web._http.MAX_CONNECTIONS", 20)
    store = SQLite(tmp_path / "mail.db")
    server = Server(store)
    async with store, trio.open_nursery() as nursery, AsyncExitStack() as stack:
        listener, *_ = await nursery.start(server.serve, 0, "127.0.0.1")
        port = int((await nursery.start(web.serve, server, store, 0)).rpartition(":")[2])
        for beginning in (b"", b"GET / HTTP/1.1\r\nA: ", b"GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\n",
                          b"PUT /api/v1/messages HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n"):  # fmt: skip
            for _ in range(20):
                stream = await stack.enter_async_context(await trio.open_tcp_stream("127.0.0.1", port))
                with suppress(trio.BrokenResourceError):
                    await stream.send_all(beginning)
        await trio.to_thread.run_sync(send, listener.socket.getsockname()[1])
        assert await store.count() == 1
        nursery.cancel_scope.cancel()


async def test_an_address_in_use_is_an_error(tmp_path: Path) -> None:
    async with SQLite(tmp_path / "mail.db") as store, trio.open_nursery() as nursery:
        url = await nursery.start(web.serve, None, store, 0)
        with pytest.raises(OSError, match="in use"):
            await web.serve(None, store, int(url.rpartition(":")[2]))
        nursery.cancel_scope.cancel()
