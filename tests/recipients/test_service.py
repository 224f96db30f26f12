"""`RecipientService`, with an HTTP server in a process of its own and with servers that misbehave."""

from __future__ import annotations

import os
import signal
import ssl
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import pytest
import trio
import trustme
from ports import free_port

from smtp_trio import Path as MailPath
from smtp_trio.recipients import Recipients, RecipientService, SourceError

pytest.importorskip("httpx2")

#: A program of the standard library that answers for the addresses of example.org, and prints its port and the requests.
PROGRAM = """
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

ALIASES = {"fred@example.org": [], "info@example.org": ["fred@example.org", "wilma@away.test"], "postmaster": []}

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        print(self.path, self.headers["Authorization"], flush=True)
        [address] = parse_qs(urlsplit(self.path).query)["address"]
        user = address.replace("+lists", "")
        answer = {"known": user in ALIASES}
        if ALIASES.get(user):
            answer["targets"] = ALIASES[user]
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass

server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""


async def resolved(source: RecipientService, address: str) -> list[str] | None:
    parsed = MailPath.parse(address)
    assert parsed is not None
    found = await Recipients(None, source).resolve(parsed)
    return None if found is None else [str(each) for each in found]


async def test_program_of_the_standard_library() -> None:
    """Its answers, the cache of those that are known, and errors while it does not run."""
    process = subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        port = int(process.stdout.readline())
        source = RecipientService(f"http://fred:secret@127.0.0.1:{port}/lookup?key=1")
        assert str(source) == f"http://127.0.0.1:{port}/lookup"
        assert await resolved(source, "Fred+lists@Example.org") == ["Fred+lists@example.org"]
        assert await resolved(source, "info@example.org") == ["fred@example.org", "wilma@away.test"]
        assert await resolved(source, "info@example.org") == ["fred@example.org", "wilma@away.test"]
        assert await resolved(source, "x@example.org") is None
        assert await resolved(source, "Postmaster") == ["Postmaster"]
        assert await resolved(source, "postmaster@example.org") is None
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        with pytest.raises(SourceError, match=f"^http://127.0.0.1:{port}/lookup: "):
            await resolved(source, "x@example.org")
        assert await source.look_up(["fred@example.org"]) == {"fred@example.org": ()}
        source.load()  # empties the cache
        with pytest.raises(SourceError):
            await source.look_up(["fred@example.org"])
        lines = process.stdout.read().splitlines()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    # The known ones once each; one that is elsewhere, and an unknown one, each time.
    known = ["fred%2Blists%40example.org", "info%40example.org", "fred%40example.org", "wilma%40away.test"]
    unknown = ["wilma%40away.test", "x%40example.org", "postmaster", "postmaster%40example.org"]
    assert lines == [f"/lookup?key=1&address={each} Basic ZnJlZDpzZWNyZXQ=" for each in known + unknown]


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


# --- servers that misbehave ---------------------------------------------------------------------------------------------


@asynccontextmanager
async def answering(handle: Callable[[trio.SocketStream], Any]) -> AsyncGenerator[str]:
    """Serve on a port; yield the URL."""

    async def handler(stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError):
            await handle(stream)

    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_tcp, handler, 0, host="127.0.0.1")
        listeners: list[trio.SocketListener] = await nursery.start(serve)
        yield f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}/"
        nursery.cancel_scope.cancel()


def response(body: bytes, status: str = "200 OK", *fields: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *fields, "", ""]
    return "\r\n".join(lines).encode() + body


@pytest.mark.parametrize(
    ("octets", "error"),
    [
        (response(b"", "404 Not Found"), "status 404"),
        (response(b'{"known": false}', "404 Not Found"), "status 404"),
        (response(b'{"known": true}', "500 Internal Server Error"), "status 500"),
        (response(b"", "302 Found", "Location: /other"), "status 302"),
        (response(b"", "204 No Content"), "status 204"),
        (response(b""), "the response must be a JSON object with known and targets, got b''"),
        (response(b"null"), "the response must be a JSON object"),
        (response(b"{}"), "the response must be a JSON object"),
        (response(b'{"known": 1}'), "the response must be a JSON object"),
        (response(b'{"known": true, "targets": "a@b.test"}'), "the response must be a JSON object"),
        (response(b'{"known": true, "targets": [1]}'), "the response must be a JSON object"),
        (response(b"[" * 60000), "the response must be a JSON object"),
        (
            response(b'{"known": true, "targets": ["' + b"x" * 70000 + b'"]}'),
            "the response is longer than 65536 octets",
        ),
        (response(b'{"known": true}\xff'), "the response must be a JSON object"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{", "closed"),
        (b"220 mx.test ESMTP\r\n", "disconnected"),
        (b"", "disconnected"),
    ],
    ids=range(17),
)
async def test_response_that_is_not_an_answer(octets: bytes, error: str) -> None:
    async def handle(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(octets)

    async with answering(handle) as url:
        with pytest.raises(SourceError, match=error):
            await RecipientService(url).look_up(["fred@example.org"])


async def test_requests_are_limited_in_number_and_time() -> None:
    """Two at a time; the others wait within their time. After a cancellation their connections are closed."""
    opened: list[trio.SocketStream] = []
    closed = 0
    arrived = trio.Event()

    async def handle(stream: trio.SocketStream) -> None:
        nonlocal closed
        opened.append(stream)
        await stream.receive_some()
        if len(opened) == 2:
            arrived.set()
        while await stream.receive_some():
            pass
        closed += 1

    async with answering(handle) as url:
        source = RecipientService(url, max_concurrent=2, timeout=60)
        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(source.look_up, [f"u{number}@example.org"])
            await arrived.wait()
            await trio.testing.wait_all_tasks_blocked()
            assert len(opened) == 2
            nursery.cancel_scope.cancel()
        with pytest.raises(SourceError, match=r"no answer within 0\.01 seconds$"):
            await RecipientService(url, timeout=0.01).look_up(["a@example.org"])
        while closed < len(opened):
            await trio.lowlevel.checkpoint()
    assert source._limiter.borrowed_tokens == 0


async def test_certificate_is_verified(authority: trustme.CA) -> None:
    """By the context that was given, or by the authorities of the system, which do not know that of the test."""
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(server_context)
    client_context = ssl.create_default_context()
    authority.configure_trust(client_context)

    async def handle(stream: trio.SocketStream) -> None:
        tls = trio.SSLStream(stream, server_context, server_side=True)
        with suppress(trio.BrokenResourceError):
            await tls.receive_some()
            await tls.send_all(response(b'{"known": true}'))

    async with answering(handle) as url:
        url = url.replace("http://127.0.0.1", "https://localhost")
        for _ in range(2):
            source = RecipientService(url, ssl_context=client_context, cache=0)
            assert await source.look_up(["fred@example.org"]) == {"fred@example.org": ()}
        source = RecipientService(url)
        for _ in range(2):
            with pytest.raises(SourceError, match="certificate verify failed"):
                await source.look_up(["fred@example.org"])


async def test_port_that_is_closed() -> None:
    port = free_port()
    with pytest.raises(SourceError, match=f"^http://127.0.0.1:{port}/: "):
        await RecipientService(f"http://127.0.0.1:{port}/").look_up(["a@example.org"])


@pytest.mark.parametrize(
    ("url", "options", "error", "text"),
    [
        (b"http://x/", {}, TypeError, "url must be str"),
        ("ftp://x/", {}, ValueError, "url must be http://HOST/PATH or https://HOST/PATH"),
        ("http://", {}, ValueError, "url must be http"),
        ("http://[x/", {}, ValueError, "url must be http"),
        ("http://x/#y", {}, ValueError, "url must be http"),
        ("http://x:y/", {}, ValueError, "url must be http"),
        ("http://x/", {"timeout": -1}, ValueError, "timeout must be >= 0"),
        ("http://x/", {"max_concurrent": 0}, ValueError, "max_concurrent must be >= 1"),
        ("http://x/", {"cache": "1"}, TypeError, "cache must be a number"),
        ("http://x/", {"max_entries": 0}, ValueError, "max_entries must be >= 1"),
        ("http://x/", {"ssl_context": True}, TypeError, "ssl_context must be SSLContext or None"),
    ],
    ids=range(11),
)
def test_arguments(url: Any, options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        RecipientService(url, **options)
    assert text in str(caught.value)


def test_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httpx2", None)
    with pytest.raises(ModuleNotFoundError, match=r"needs httpx2: install smtp-trio\[http\]$"):
        RecipientService("http://x/")
