"""``smtp-trio serve --http`` in a process of its own."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx2
import pytest
import trio
from attrs import frozen
from ports import free_port
from processes import HOST, Program, run, serving

from smtp_trio._cli.http_listener import prepare_http
from smtp_trio._cli.main import make_parser
from smtp_trio._cli.options import UsageError
from smtp_trio.credentials import set_password

slow = pytest.mark.slow
ME, YOU, MESSAGE = "me@example.net", "you@example.org", b"Subject: hi\r\n\r\nhello\r\n"


@frozen
class Served:
    """A running server, and a client of its HTTP listener."""

    program: Program
    http: httpx2.AsyncClient


@asynccontextmanager
async def http_serving(*options: str, cwd: Path, store: str = "sqlite:mail.db") -> AsyncIterator[Served]:
    http = () if "--http" in options else ("--http", "0")
    async with serving("--store", store, *http, *options, cwd=cwd) as program:
        url = (await program.out.wait_for(r"serving HTTP on (\S+)\n"))[1]
        async with httpx2.AsyncClient(base_url=url, trust_env=False, timeout=100) as client:
            yield Served(program, client)


async def stop(program: Program) -> None:
    """Stop a program, which must not wait for HTTP clients: some of them wait for five minutes."""
    program.signal(signal.SIGTERM)
    with trio.fail_after(100):
        assert await program.wait() == 0


@pytest.mark.parametrize(
    ("workers", "store"),
    [
        ("1", "sqlite:mail.db"),
        pytest.param("2", "sqlite:mail.db", marks=slow),
        pytest.param("2", "maildir:Maildir", marks=slow),
    ],
)
async def test_mail_is_shown_over_http(tmp_path: Path, workers: str, store: str) -> None:
    async with http_serving("--workers", workers, cwd=tmp_path, store=store) as served:
        await served.program.send(ME, [YOU], MESSAGE)
        (message,) = (await served.http.get("/api/messages")).json()["messages"]
        assert (message["sender"], message["subject"]) == (ME, "hi")
        assert (await served.http.get("/readyz")).json() == {"status": "ok"}
        await stop(served.program)


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=slow)])
async def test_http_clients_do_not_delay_the_end(tmp_path: Path, workers: str) -> None:
    async with http_serving("--workers", workers, cwd=tmp_path) as served, AsyncExitStack() as stack:
        url = served.http.base_url
        for request in (b"", b"GET / HT", b"GET /api/events HTTP/1.1\r\nHost: x.localhost\r\n\r\n",
                        b"GET /api/wait?timeout=300 HTTP/1.1\r\nHost: localhost\r\n\r\n"):  # fmt: skip
            stream = await stack.enter_async_context(await trio.open_tcp_stream(url.host, url.port or 0))
            await stream.send_all(request)
            if b"events" in request:
                assert b" 200 " in await stream.receive_some()
        await stop(served.program)
        assert served.program.err.text == ""


@slow
async def test_messages_of_workers_are_reported_as_they_arrive(tmp_path: Path) -> None:
    async with http_serving("--workers", "2", cwd=tmp_path) as served:
        url = served.http.base_url
        async with await trio.open_tcp_stream(url.host, url.port or 0) as stream:
            await stream.send_all(b"GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            received = b""
            while b"event: ready" not in received:
                received += await stream.receive_some()
            await served.program.send(ME, [YOU], MESSAGE)
            while b"event: message" not in received:
                received += await stream.receive_some()


async def test_readiness_ends_when_the_server_is_to_stop(tmp_path: Path) -> None:
    async with http_serving(cwd=tmp_path) as served:
        async with await trio.open_tcp_stream(HOST, served.program.port) as session:  # a message in progress
            await session.receive_some()
            await session.send_all(b"EHLO me.test\r\nMAIL FROM:<>\r\nRCPT TO:<a@b.test>\r\nDATA\r\n")
            received = b""
            while b"354 " not in received:
                received += await session.receive_some()
            served.program.signal(signal.SIGTERM)
            await served.program.out.wait_for("stopping")
            for _ in range(1000):
                if (response := await served.http.get("/readyz")).status_code == 503:
                    break
            assert response.json()["problems"] == ["the server is stopping"]
            assert (await served.http.get("/livez")).status_code == 200
            await session.send_all(b"x\r\n.\r\n")
            assert await served.program.wait() == 0


@slow
async def test_sighup_reads_the_users_again(tmp_path: Path) -> None:
    set_password(tmp_path / "users", "wilma", "right")
    async with http_serving("--http-auth-file", "users", cwd=tmp_path) as served:
        assert (await served.http.get("/api/messages", auth=("wilma", "right"))).status_code == 200
        assert (await served.http.get("/api/messages", auth=("fred", "other"))).status_code == 401
        set_password(tmp_path / "users", "fred", "other")
        served.program.signal(signal.SIGHUP)
        await served.program.out.wait_for("reloading")
        for _ in range(1000):
            if (await served.http.get("/api/messages", auth=("fred", "other"))).status_code == 200:
                break
        else:
            pytest.fail("the file was not read")


@pytest.mark.parametrize(
    ("options", "environment"),
    [
        (["--http-token-file", "token"], {}),
        pytest.param(["--http-token", "secret"], {}, marks=slow),
        pytest.param([], {"SMTP_TRIO_HTTP_TOKEN": "secret"}, marks=slow),
    ],
)
async def test_a_token_opens_an_address_that_others_can_reach(
    tmp_path: Path, options: Sequence[str], environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text("secret\n")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    async with http_serving("--http", "*:0", *options, cwd=tmp_path) as served:
        port = served.http.base_url.port
        await served.program.out.wait_for(rf"HTTP is open to other hosts on 0\.0\.0\.0:{port}\n")
        assert (await served.http.get("/api/messages")).status_code == 401
        headers = {"authorization": "Bearer secret"}
        assert (await served.http.get("/api/messages", headers=headers)).status_code == 200


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--http", "0.0.0.0:0"], "not a loopback address.*--http-token-file"),
        (["--http", "[::]:0"], "not a loopback address"),
        (["--http", "*:0"], "not a loopback address"),
        (["--http", "x"], "must be a number"),
        (["--http", "localhost:"], "must be a number"),
        (["--http", "::1:8025"], "must be PORT"),
        (["--http", "no such host:0"], "invalid host name"),
        (["--http", "192.0.2.1:0", "--http-token", "x"], "this machine does not have that address"),
        (["--http", "0", "--http-token", ""], "^--http-token: must be visible"),
        (["--http", "0", "--http-token-file", os.devnull], "^the first line of --http-token-file: must be visible"),
        (["--http", "0", "--http-token", "x", "--http-token-file", "x"], "cannot be combined"),
        (["--http", "0", "--http-token-file", "missing"], "No such file"),
        (["--http", "0", "--http-auth-file", "missing"], "No such file"),
        (["--http", "0", "--http-name", "http://x"], "^--http-name: invalid host name"),
        (["--http", "0", "--http-transcripts", "5", "--workers", "2"], "cannot be combined with --workers"),
        (["--http-token", "x"], "requires --http"),
        (["--http-transcripts", "5"], "requires --http"),
    ],
)
async def test_options_that_cannot_be_used_are_errors(options: list[str], error: str) -> None:
    with pytest.raises(UsageError, match=error):
        listener = prepare_http(make_parser(["serve"]).parse_args(["serve", "--port", "0", *options]))
        assert listener is not None
        await listener.open()


async def test_an_empty_variable_for_the_token_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMTP_TRIO_HTTP_TOKEN", "")
    with pytest.raises(UsageError, match=r"^SMTP_TRIO_HTTP_TOKEN: must be visible"):
        prepare_http(make_parser(["serve"]).parse_args(["serve", "--port", "0", "--http", "0"]))


async def test_an_address_that_everybody_could_use_is_exit_code_2(tmp_path: Path) -> None:
    code, out, err = await run("-m", "smtp_trio", "serve", "--port", "0", "--http", "*:0", cwd=tmp_path)
    assert (code, out, len(err.splitlines())) == (2, "", 1)


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=slow)])
async def test_a_port_in_use_is_exit_code_2(tmp_path: Path, workers: str) -> None:
    with socket.create_server((HOST, 0)) as taken:
        port = str(taken.getsockname()[1])
        code, _, err = await run(
            "-m", "smtp_trio", "serve", "--port", "0", "--workers", workers, "--http", port, cwd=tmp_path
        )
    assert code == 2
    assert f"--http: cannot listen on {HOST}, port {port}" in err


async def test_a_missing_extra_is_named(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['starlette'] = None; sys.argv[1:] = ['serve', '--port', '0', '--http', '0'];"
        "from smtp_trio._cli.main import main; sys.exit(main())"
    )
    code, _, err = await run("-c", program, cwd=tmp_path)
    assert code == 2
    assert "--http needs starlette" in err
    assert "python -m pip install 'smtp-trio[web]'" in err


async def test_nothing_of_it_is_loaded_without_the_option(tmp_path: Path) -> None:
    program = (
        "import sys; from smtp_trio._cli import serve; import smtp_trio;"
        "print([name for name in sys.modules if name.partition('.')[0] in ('starlette', 'h11', 'jinja2', 'nh3')"
        " or name.startswith('smtp_trio.web')])"
    )
    assert await run("-c", program, cwd=tmp_path) == (0, "[]\n", "")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change its user")
async def test_the_port_is_open_before_privileges_are_dropped(tmp_path: Path) -> None:
    os.chmod(tmp_path, 0o777)
    port = free_port(range(1000, 1024))  # the system chooses none that only root may use
    async with http_serving("--http", str(port), "--user", "nobody", cwd=tmp_path, store="memory:") as served:
        assert (await served.http.get("/livez")).status_code == 200


async def test_transcripts_are_shown(tmp_path: Path) -> None:
    async with http_serving("--http-transcripts", "10", cwd=tmp_path) as served:
        await served.program.send(ME, [YOU], MESSAGE)
        (session,) = (await served.http.get("/api/sessions")).json()["sessions"]
        assert session["messages"][0]["recipients"][0]["recipient"] == f"<{YOU}>"
        shown = (await served.http.get(f"/api/messages/{session['messages'][0]['id']}/session")).json()
        assert "Subject: hi" in [line["text"] for line in shown["transcript"]]
