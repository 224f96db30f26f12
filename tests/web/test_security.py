"""Who may do what: the rules that hold for all requests, before any handler."""

from __future__ import annotations

import base64
import logging
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import trio
import trio.testing
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from smtp_trio import web
from smtp_trio.credentials import UsersFile, set_password
from smtp_trio.stores import SQLite
from smtp_trio.web import _login, _security
from smtp_trio.web._security import Access, Guard

from .helpers import client, connection, serving
from .test_http import serving as serving_app

LIST = "/api/messages"


@asynccontextmanager
async def app_client(tmp_path: Path, **settings: Any) -> AsyncIterator[httpx2.AsyncClient]:
    """Return a client without any header of its own."""
    async with SQLite(tmp_path / "mail.db") as store:
        async with client(web.app(None, store, **settings), headers={}) as http:
            yield http


@asynccontextmanager
async def guarded(handler: Any, **settings: Any) -> AsyncIterator[httpx2.AsyncClient]:
    """Return a client of an ASGI application behind a guard."""
    async with client(Guard(handler, Access.of(None, None, ())), **settings) as http:
        yield http


async def ok(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("ok")(scope, receive, send)


# --- names of the server


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:8025", "localhost.", "mail.localhost", "127.0.0.1", "127.0.0.1:1", "[::1]:8025", "192.0.2.1",
     "mail.test", "MAIL.test:8025", "other.test:81"],
)  # fmt: skip
async def test_own_names_and_addresses_are_accepted(tmp_path: Path, host: str) -> None:
    async with app_client(tmp_path, names=["mail.test", "Other.test:81"]) as http:
        assert (await http.get(LIST, headers={"host": host})).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["attacker.test", "attacker.test:8025", "localhost.attacker.test", "127.0.0.1.attacker.test", "xlocalhost", "other.test",
     "mail.test.attacker.test", "1.1", "2130706433", "0x7f.1"],
)  # fmt: skip
async def test_a_site_with_a_name_of_its_own_cannot_be_this_server(tmp_path: Path, host: str) -> None:
    """DNS rebinding: the name of a site of an attacker gets the address of this server."""
    async with app_client(tmp_path, names=["mail.test", "other.test:81"]) as http:
        for path in (LIST, "/", "/livez", "/metrics", "/static/page.js", "/none"):
            response = await http.get(path, headers={"host": host})
            assert response.status_code == 403, path
            assert "--http-name" in response.json()["error"]


@pytest.mark.parametrize(
    "host", ["", "a b", "localhost:x", "localhost:123456", "user@localhost", "[::1", "localhost/", "ü"]
)
async def test_an_invalid_host_is_refused(tmp_path: Path, host: str) -> None:
    async with app_client(tmp_path) as http:
        assert (await http.get(LIST, headers={b"host": host.encode()})).status_code == 400


@pytest.mark.parametrize("names", [["a/b"], [""], ["a b"], ["http://mail.test"]])
def test_an_invalid_name_is_an_error(names: list[str]) -> None:
    with pytest.raises(ValueError, match="invalid host name"):
        Access.of(None, None, names)


# --- requests of other sites


@pytest.mark.parametrize(
    "kind", [None, "text/plain", "TEXT/plain; charset=utf-8", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded"]
)  # fmt: skip
async def test_what_a_form_can_send_changes_nothing(kind: str | None) -> None:
    headers = {} if kind is None else {"content-type": kind}
    async with guarded(ok, headers={}) as http:
        for path in ("/", "/api/anything", "/api/v1/messages"):
            response = await http.post(path, headers=headers, content=b'{"a": "b"}')
            assert response.status_code in (403, 415)
        allowed = await http.post("/", headers={**headers, "x-requested-with": "curl"})
        assert allowed.status_code == 200


@pytest.mark.parametrize("kind", ["application/json", "application/json; charset=utf-8", "message/rfc822"])
async def test_what_a_form_cannot_send_is_accepted(kind: str) -> None:
    async with guarded(ok, headers={}) as http:
        assert (await http.post("/", headers={"content-type": kind})).status_code == 200
        assert (await http.delete("/")).status_code == 200
        assert (await http.put("/", headers={"content-type": "application/x-www-form-urlencoded"})).status_code == 200


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "cors", "sec-fetch-dest": "empty"},
        {"sec-fetch-site": "same-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"},
        {"origin": "http://attacker.test"},
        {"origin": "http://localhost:9999"},  # another port of this host is another site
        {"origin": "null"},
    ],
)
async def test_requests_of_other_sites_are_refused(method: str, headers: dict[str, str]) -> None:
    async with guarded(ok) as http:
        response = await http.request(method, "/", headers={**headers, "content-type": "application/json"})
        assert response.status_code == 403
        assert "access-control-allow-origin" not in response.headers


async def test_another_site_may_link_to_a_page_and_the_own_page_may_do_everything() -> None:
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    own = {"sec-fetch-site": "same-origin", "origin": "http://localhost:8025", "content-type": "application/json"}
    async with guarded(ok) as http:
        assert (await http.get("/", headers=link)).status_code == 200
        assert (await http.post("/", headers={**link, "content-type": "application/json"})).status_code == 403
        for method in ("POST", "PUT", "DELETE"):
            assert (await http.request(method, "/", headers=own)).status_code == 200
        old_browser = {"origin": "http://localhost:8025", "content-type": "application/json"}
        assert (await http.post("/", headers=old_browser)).status_code == 200


@pytest.mark.parametrize(
    ("destination", "path", "status"),
    [
        ("image", "/static/icon.svg", 200),
        ("image", "/api/v1/message/1/part/2", 200),
        ("image", "/api/wait", 403),  # a message could occupy all connections of a browser
        ("image", "/api/events", 403),
        ("image", "/view/latest.html", 403),
        ("script", "/static/page.js", 200),
        ("script", "/api/v1/message/1/part/2", 403),  # an attachment
        ("style", "/api/messages/1/parts/2", 403),
        ("serviceworker", "/api/messages/1/parts/2", 403),
        ("document", "/api/messages/1/parts/2", 200),
        ("iframe", "/messages/1/html", 200),
        ("empty", "/api/events", 200),
    ],
)
async def test_what_a_document_may_have_as_parts(destination: str, path: str, status: int) -> None:
    async with guarded(ok) as http:
        headers = {"sec-fetch-site": "same-origin", "sec-fetch-mode": "no-cors", "sec-fetch-dest": destination}
        assert (await http.get(path, headers=headers)).status_code == status


async def test_a_password_that_a_browser_adds_does_not_allow_what_a_form_can_send(tmp_path: Path) -> None:
    basic = "Basic " + base64.b64encode(b"x:secret").decode()
    async with app_client(tmp_path, token="secret") as http:
        assert (await http.post("/api/v1/send", headers={"authorization": basic})).status_code == 403
        bearer = await http.post("/api/v1/send", headers={"authorization": "Bearer secret"})
        assert bearer.status_code not in (401, 403, 415)


# --- every response


async def test_every_response_has_the_headers_that_protect_it(tmp_path: Path) -> None:
    from smtp_trio.web._app import operations

    paths = {operation.path for operation in operations()} | {"/", "/status", "/faults", "/none", "/static/none"}
    async with app_client(tmp_path) as http:
        for path in sorted(paths - {"/api/events", "/api/wait"}):
            for host in ("localhost", "attacker.test"):
                response = await http.head(path, headers={"host": host})
                for name in set(_security.HEADERS) - {"cache-control", "content-security-policy", "x-frame-options"}:
                    assert response.headers[name] == _security.HEADERS[name], path
                assert "default-src 'none'" in response.headers["content-security-policy"]
                assert "frame-ancestors" in response.headers["content-security-policy"]
                assert "'unsafe-inline'" not in response.headers["content-security-policy"].partition("style-src")[0]
                assert not [name for name in response.headers if name.startswith(("access-control", "set-cookie"))]


async def test_a_handler_may_set_its_own_policy() -> None:
    own = Response("x", headers={"content-security-policy": "sandbox", "x-frame-options": "SAMEORIGIN"})
    async with guarded(own) as http:
        headers = (await http.get("/")).headers
        assert (headers["content-security-policy"], headers["x-frame-options"]) == ("sandbox", "SAMEORIGIN")
        assert headers["x-content-type-options"] == "nosniff"


# --- tokens and passwords


async def test_a_token_is_required_everywhere_except_for_health(tmp_path: Path) -> None:
    async with app_client(tmp_path, token="secret") as http:
        for path in (
            LIST,
            "/",
            "/metrics",
            "/static/page.js",
            "/api/events",
            "/api/wait",
            "/none",
            "/api/openapi.json",
            "//livez",
            "/%6civez",
        ):
            response = await http.get(path)
            assert response.status_code == 401, path
            assert response.headers["www-authenticate"].startswith("Basic realm=")
        assert (await http.get("/livez")).status_code == 200


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (b"Bearer secret", 200), (b"bearer  secret ", 200), (b"Basic " + base64.b64encode(b":secret"), 200),
        (b"basic " + base64.b64encode(b"any:secret"), 200),
        (b"Bearer secre", 401), (b"Bearer secrets", 401), (b"Bearer", 401), (b"Bearer s\xc3\xa9cret", 401), (b"secret", 401),
        (b"Basic secret", 401), (b"Basic " + base64.b64encode(b"secret"), 401), (b"Basic " + base64.b64encode(b"secret:"), 401),
        (b"Basic " + base64.b64encode(b"\xff:\xff"), 401), (b"Digest secret", 401), (b"", 401),
    ],
)  # fmt: skip
async def test_only_the_token_gives_access(tmp_path: Path, authorization: bytes, status: int) -> None:
    async with app_client(tmp_path, token="secret") as http:
        assert (await http.get(LIST, headers={b"authorization": authorization})).status_code == status


async def test_a_token_in_the_url_or_a_cookie_gives_no_access(tmp_path: Path) -> None:
    async with app_client(tmp_path, token="secret") as http:
        assert (await http.get(f"{LIST}?token=secret", headers={"cookie": "token=secret"})).status_code == 401


def test_secrets_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, ...]] = []

    def compare(*values: bytes) -> bool:
        compared.append(values)
        return values[0] == values[1]

    monkeypatch.setattr("hmac.compare_digest", compare)
    for guess in ("", "x", "secret", "secret" * 1000):
        assert _login.same(guess, "secret") is (guess == "secret")
    assert {len(value) for values in compared for value in values} == {32}


@pytest.mark.parametrize("token", ["", " ", "ü", "a\nb"])
def test_a_token_that_no_request_can_have_is_an_error(token: str) -> None:
    with pytest.raises(ValueError, match="token"):
        Access.of(token, None, ())


@pytest.fixture
def users(tmp_path: Path) -> UsersFile:
    set_password(tmp_path / "users", "wilma", "right")
    found = UsersFile(tmp_path / "users", interval=None)
    found.load()
    return found


async def test_users_have_access_with_their_passwords(
    tmp_path: Path, users: UsersFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []
    verify = users.verify

    def recorded(user: str, password: str) -> bool:
        threads.append(threading.current_thread())
        return verify(user, password)

    monkeypatch.setattr(users, "verify", recorded)
    async with app_client(tmp_path, users=users) as http:
        for auth, status in (("wilma", "right"), 200), (("wilma", "wrong"), 401), (("fred", "right"), 401):
            assert (await http.get(LIST, auth=auth)).status_code == status
        assert threading.main_thread() not in threads
        count = len(threads)
        for _ in range(20):  # each request of a page has the password, and a hash takes a tenth of a second
            assert (await http.get(LIST, auth=("wilma", "right"))).status_code == 200
        assert len(threads) == count


async def test_guesses_are_limited_and_do_not_lock_out_who_is_logged_in(
    tmp_path: Path, users: UsersFile, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "smtp_trio.web")
    hashes = 0

    def verify(user: str, password: str) -> bool:
        nonlocal hashes
        hashes += 1
        return password == "right"

    monkeypatch.setattr(users, "verify", verify)
    async with app_client(tmp_path, users=users, token="secret") as http:
        assert (await http.get(LIST, auth=("wilma", "right"))).status_code == 200
        statuses = [(await http.get(LIST, auth=("wilma", f"guess {number}"))).status_code for number in range(30)]
        assert statuses == [401] * _login.MAX_FAILURES + [429] * (30 - _login.MAX_FAILURES)
        assert hashes == 1 + _login.MAX_FAILURES
        assert (await http.get(LIST, auth=("wilma", "right"))).status_code == 200
        assert (await http.get(LIST, headers={"authorization": "Bearer secret"})).status_code == 200
    assert len(caplog.messages) == _login.MAX_FAILURES
    assert not any("guess" in text for text in caplog.messages)


async def test_passwords_that_wait_to_be_checked_are_limited(
    tmp_path: Path, users: UsersFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    monkeypatch.setattr(users, "verify", lambda user, password: go_on.wait(100))
    statuses = []
    async with app_client(tmp_path, users=users) as http, trio.open_nursery() as nursery:

        async def ask(number: int) -> None:
            statuses.append((await http.get(LIST, auth=("wilma", str(number)))).status_code)
            if len(statuses) == 4:
                go_on.set()

        for number in range(_login.MAX_CHECKED + 4):
            nursery.start_soon(ask, number)
    assert sorted(statuses) == [200] * _login.MAX_CHECKED + [503] * 4


async def test_other_hosts_cannot_reach_an_open_listener(tmp_path: Path, users: UsersFile) -> None:
    async with SQLite(tmp_path / "mail.db") as store:
        for host in ("0.0.0.0", "::"):
            with pytest.raises(ValueError, match="not a loopback address"):
                await web.serve(None, store, 0, host)
        for access in {"token": "secret"}, {"users": users}:
            async with serving(None, store, host="0.0.0.0", **access) as http:
                assert (await http.get(LIST)).status_code == 401


async def test_url_of_all_addresses_is_one_that_clients_can_connect_to(tmp_path: Path) -> None:
    async with SQLite(tmp_path / "mail.db") as store:
        for host, shown in ("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("::1", "::1"):
            async with serving(None, store, host=host, token="secret") as http:
                assert http.base_url.host == shown


# --- sizes and times


async def test_a_body_that_is_too_large_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_security, "MAX_BODY", 1000)

    async def reads(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass
        await ok(scope, receive, send)

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def endless() -> dict[str, object]:  # without a Content-Length
        return {"type": "http.request", "body": b"x" * 100, "more_body": True}

    scope = {"type": "http", "method": "PUT", "path": "/", "raw_path": b"/", "query_string": b"", "headers": []}
    await Guard(reads, Access())(scope, endless, send)
    assert sent[0]["status"] == 413
    async with guarded(reads) as http:
        assert (await http.post("/", content=b"x" * 1000)).status_code == 200
        assert (await http.post("/", content=b"x" * 1001)).status_code == 413
        assert (await http.post("/", headers={"content-length": "9" * 5000})).status_code == 413


async def test_a_url_that_is_too_long_is_refused() -> None:
    async with guarded(ok) as http:
        assert (await http.get("/" + "x" * 8000)).status_code == 200
        for path in ("/" + "x" * 8192, "/?" + "x" * 8192):
            assert (await http.get(path)).status_code == 414


async def test_a_slow_body_is_given_up(autojump_clock: trio.testing.MockClock) -> None:
    received = 0

    async def drop(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal received
        while (message := await receive()).get("more_body"):
            received += len(message["body"])

    async def trickle() -> dict[str, object]:
        await trio.sleep(5)
        return {"type": "http.request", "body": b"x", "more_body": True}

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "PUT", "path": "/", "raw_path": b"/", "query_string": b"", "headers": []}
    before = trio.current_time()
    await Guard(drop, Access())(scope, trickle, send)
    assert sent[0]["status"] == 408
    assert trio.current_time() - before == _security.BODY_TIMEOUT
    assert received <= 6


async def test_few_requests_are_worked_on_at_a_time() -> None:
    running, most = 0, 0
    go_on = trio.Event()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal running, most
        running += scope["path"] == "/"
        most = max(most, running)
        await go_on.wait()
        running -= scope["path"] == "/"
        await ok(scope, receive, send)

    async with guarded(slow) as http, trio.open_nursery() as nursery:
        for _ in range(30):
            nursery.start_soon(http.get, "/")
        await trio.testing.wait_all_tasks_blocked()
        assert most == _security.MAX_WORKING
        for path in ("/api/wait", "//api/wait", "/livez"):  # these do not wait for the others
            nursery.start_soon(http.get, path)
        await trio.testing.wait_all_tasks_blocked()
        go_on.set()
    assert most == _security.MAX_WORKING


async def test_clients_that_send_slowly_do_not_hold_up_others(
    monkeypatch: pytest.MonkeyPatch, mock_clock: trio.testing.MockClock
) -> None:
    monkeypatch.setattr(_security, "SMALL_BODY", 10)

    async def read(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass
        await ok(scope, receive, send)

    async with serving_app(Guard(read, Access())) as http, AsyncExitStack() as stack:
        slow = []
        for _ in range(_security.MAX_BODIES + 1):
            raw = await stack.enter_async_context(connection(http))
            await raw.stream.send_all(
                b"PUT /api/messages HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n" + b"x" * 500
            )
            slow.append(raw)
        # The clock stands still: these do not wait until the others are given up.
        assert (await http.get("/api/messages")).status_code == 200
        assert (await http.put("/api/messages", content=b"small")).status_code == 200
        await trio.testing.wait_all_tasks_blocked(0.05)
        mock_clock.jump(_security.BODY_TIMEOUT)
        for raw in slow:  # each is given up in its time, also the one that waits for its turn
            assert b" 408 " in await raw.read_until(b"\r\n")
        assert (await http.put("/api/messages", content=b"x" * 100)).status_code == 200


async def test_a_client_that_reads_slowly_does_not_hold_up_others() -> None:
    go_on = trio.Event()

    async def send_slowly(message: Any) -> None:
        if message["type"] == "http.response.body":
            await go_on.wait()

    async def receive() -> dict[str, object]:
        await trio.sleep_forever()

    guard = Guard(ok, Access())
    scope = {"type": "http", "method": "GET", "path": "/", "raw_path": b"/", "query_string": b"", "headers": []}
    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(guard, scope, receive, send_slowly)
        await trio.testing.wait_all_tasks_blocked()
        async with client(guard) as http:
            assert (await http.get("/")).status_code == 200
        go_on.set()


async def test_a_client_that_leaves_does_not_wait_any_longer() -> None:
    go_on = trio.Event()
    served = []

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        served.append(scope["path"])
        await go_on.wait()
        assert await receive() == {"type": "http.request", "body": b"", "more_body": False}
        await ok(scope, receive, send)

    async with serving_app(Guard(slow, Access())) as http, AsyncExitStack() as stack:
        staying = [await stack.enter_async_context(connection(http)) for _ in range(_security.MAX_WORKING + 1)]
        for raw in staying[:-1]:
            await raw.stream.send_all(b"GET /first HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await trio.testing.wait_all_tasks_blocked(0.05)
        for _ in range(20):
            async with connection(http) as left:
                await left.stream.send_all(b"GET /left HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await staying[-1].stream.send_all(b"GET /last HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await trio.testing.wait_all_tasks_blocked(0.05)
        go_on.set()
        for raw in staying:
            assert b" 200 " in await raw.read_until(b"\r\n\r\nok")
    assert served == ["/first"] * _security.MAX_WORKING + ["/last"]


async def test_a_client_that_leaves_after_its_body_does_not_wait_any_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_security, "MAX_WORKING", 1)
    reading, go_on, left = trio.Event(), trio.Event(), trio.Event()

    async def read(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "GET":
            await go_on.wait()
            await ok(scope, receive, send)
            return
        reading.set()
        try:
            await Request(scope, receive).body()
        except ClientDisconnect:
            left.set()
            raise

    async with serving_app(Guard(read, Access())) as http, trio.open_nursery() as nursery:
        async with connection(http) as raw:
            await raw.stream.send_all(b"PUT / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n")
            await reading.wait()
            nursery.start_soon(http.get, "/")
            await trio.testing.wait_all_tasks_blocked(0.05)
            await raw.stream.send_all(b"ab")
        with trio.fail_after(100):
            await left.wait()
        go_on.set()


async def test_a_request_whose_client_has_left_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search of a large store does not go on. A request that changes something is completed."""
    monkeypatch.setattr(_security, "LEAVING_TIME", 0.1)
    started, cancelled, go_on, completed = trio.Event(), trio.Event(), trio.Event(), trio.Event()

    async def search(scope: Scope, receive: Receive, send: Send) -> None:
        started.set()
        try:
            await go_on.wait()
        except trio.Cancelled:
            cancelled.set()
            raise
        completed.set()
        await ok(scope, receive, send)

    async with serving_app(Guard(search, Access())) as http:
        async with connection(http) as raw:
            await raw.stream.send_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await started.wait()
        with trio.fail_after(100):
            await cancelled.wait()
        started, cancelled = trio.Event(), trio.Event()
        async with connection(http) as raw:
            await raw.stream.send_all(b"DELETE / HTTP/1.1\r\nHost: localhost\r\nX-Requested-With: x\r\n\r\n")
            await started.wait()
        await trio.sleep(0.3)
        go_on.set()
        with trio.fail_after(100):
            await completed.wait()
        assert not cancelled.is_set()


async def test_a_client_that_has_ended_its_input_gets_its_response() -> None:
    async with serving_app(Guard(ok, Access())) as http, connection(http) as raw:
        await raw.stream.send_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await raw.stream.send_eof()
        assert b" 200 " in await raw.read_until(b"\r\n\r\nok")


async def test_clients_take_turns() -> None:
    served = []
    turns = trio.Semaphore(0)

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        served.append(scope["client"][0])
        await turns.acquire()
        await ok(scope, receive, send)

    async def receive() -> dict[str, object]:
        await trio.sleep_forever()
        raise AssertionError("unreachable")

    async def send(message: Any) -> None:
        pass

    guard = Guard(slow, Access())
    scope = {"type": "http", "method": "GET", "path": "/", "raw_path": b"/", "query_string": b"", "headers": []}
    many, other = "192.0.2.1", "198.51.100.1"
    async with trio.open_nursery() as nursery:
        for host in [many] * 20 + [other]:
            nursery.start_soon(guard, {**scope, "client": (host, 1)}, receive, send)
            await trio.testing.wait_all_tasks_blocked()
        for _ in range(21):
            turns.release()
            await trio.testing.wait_all_tasks_blocked()
    assert len(served) == 21
    assert served.index(other) <= _security.MAX_WORKING + 1


# --- faults


async def test_a_fault_of_a_handler_is_one_record_and_a_500(caplog: pytest.LogCaptureFixture) -> None:
    async def fails(scope: Scope, receive: Receive, send: Send) -> None:
        raise ZeroDivisionError("private details")

    async with guarded(fails) as http:
        response = await http.get("/some/path?secret=1")
        assert response.status_code == 500
        assert "private" not in response.text
        assert response.headers["x-content-type-options"] == "nosniff"
    assert caplog.messages == ['HTTP "GET /some/path" failed: "ZeroDivisionError(\'private details\')"']
    assert caplog.records[0].exc_info is not None


async def test_websockets_are_refused() -> None:
    sent: list[Any] = []

    async def receive() -> dict[str, str]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await Guard(ok, Access())({"type": "websocket", "path": "/", "headers": []}, receive, send)
    assert [message["type"] for message in sent] == ["websocket.close"]


async def test_a_rebound_name_is_refused_on_a_real_connection(tmp_path: Path) -> None:
    async with SQLite(tmp_path / "mail.db") as store, serving(None, store) as http, connection(http) as raw:
        await raw.stream.send_all(b"GET /api/messages HTTP/1.1\r\nHost: attacker.test:8025\r\n\r\n")
        assert b" 403 " in await raw.read_until(b"\r\n\r\n")
