"""Supervisors learn whether a server accepts mail."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import trio
import trio.testing

from smtp_trio import Server, web
from smtp_trio.stores import Entry, SQLite, StoreError

from .helpers import client, serving


def health(*arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "smtp_trio", "health", *arguments],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    return done.returncode, done.stdout.strip() + done.stderr.strip()


async def run_health(*arguments: str) -> tuple[int, str]:
    return await trio.to_thread.run_sync(lambda: health(*arguments))


async def test_a_server_is_ready_while_it_listens(tmp_path: Path) -> None:
    async with SQLite(tmp_path / "mail.db") as store:
        server = Server(store)
        async with client(web.app(server, store, token="secret")) as http:
            assert (await http.get("/livez")).status_code == 200
            response = await http.get("/readyz")
            assert (response.status_code, response.json()["problems"]) == (503, ["the server does not listen"])
            async with trio.open_nursery() as nursery:
                await nursery.start(server.serve, 0)
                assert (await http.get("/readyz")).json() == {"status": "ok"}
                await server.stop(0)
                assert (await http.get("/readyz")).json()["problems"] == ["the server is stopping"]
            assert (await http.get("/livez")).status_code == 200


async def test_a_server_is_ready_only_with_its_store(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, inline_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = "works"
    looks = 0

    class Unreliable(SQLite):
        async def entries(self, **options: object) -> AsyncGenerator[Entry]:
            nonlocal looks
            looks += 1
            if state == "hangs":
                await trio.sleep_forever()
            if state == "fails":
                raise StoreError("no")
            return
            yield

    async with Unreliable(tmp_path / "mail.db") as store, client(web.app(None, store)) as http:
        for now, status in (("works", 200), ("fails", 503), ("hangs", 503), ("works", 200)):
            state = now
            await trio.sleep(5)
            assert (await http.get("/readyz")).status_code == status
        before = looks
        for _ in range(100):
            await http.get("/readyz")
        assert looks == before
        state = "hangs"
        await trio.sleep(5)
        async with trio.open_nursery() as nursery:  # others are answered while one hangs
            nursery.start_soon(http.get, "/readyz")
            await trio.testing.wait_all_tasks_blocked()
            assert (await http.get("/readyz")).status_code == 200
            await trio.sleep(1.999)
            assert (await http.get("/readyz")).status_code == 200
            await trio.sleep(0.01)
            assert (await http.get("/readyz")).status_code == 503


async def test_workers_say_why_they_are_not_ready(tmp_path: Path) -> None:
    async with SQLite(tmp_path / "mail.db") as store:
        async with client(web.app(None, store, problem=lambda: "no worker runs")) as http:
            assert (await http.get("/readyz")).json()["problems"] == ["no worker runs"]


async def test_health_command_tells_a_working_server_from_others(tmp_path: Path) -> None:
    async with SQLite(tmp_path / "mail.db") as store, trio.open_nursery() as nursery:
        server = Server(store)
        listener, *_ = await nursery.start(server.serve, 0, "127.0.0.1")
        smtp = f"smtp://127.0.0.1:{listener.socket.getsockname()[1]}"
        async with serving(server, store) as http:
            url = str(http.base_url)
            assert await run_health(url) == (0, "ok")
            assert await run_health(url + "/livez", "-q") == (0, "")
            assert (await run_health(smtp))[0] == 0
            await server.stop(0)
            assert await run_health(url) == (1, "the server is stopping")
        code, answer = await run_health(smtp, "--timeout", "2")
        assert (code, answer.startswith(f"no answer from {smtp}: ")) == (1, True)
        nursery.cancel_scope.cancel()


def test_health_command_does_not_wait_for_ever() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        for url in (f"http://127.0.0.1:{port}", f"smtp://127.0.0.1:{port}"):
            code, answer = health(url, "--timeout", "0.2")
            assert (code, answer.startswith("no answer")) == (1, True)


@pytest.mark.parametrize("url", ["ftp://x", "127.0.0.1", "http://", "http://x:99999"])
def test_health_command_refuses_other_urls(url: str) -> None:
    assert health(url)[0] == 2
