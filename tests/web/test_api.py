"""The JSON API over messages: list, search, read, mark and delete; and what it answers to wrong requests."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import httpx2
import pytest
import trio

from smtp_trio.stores import Maildir, Memory, NotSupportedError, SQLite, Store, Stored, StoreError, sqlite
from smtp_trio.web import _message, _security, app
from smtp_trio.web._message import ParsedMessage

from .helpers import client, connection, serving

pytestmark = pytest.mark.filterwarnings("error")


def message(subject: str, text: str = "Hello\n", **fields: str) -> bytes:
    found = EmailMessage()
    found["Subject"] = subject
    for name, value in fields.items():
        found[name.replace("_", "-")] = value
    found.set_content(text)
    return found.as_bytes()


async def add(store: Store[Any], subject: str, recipient: str = "bob@example.org", **fields: str) -> str:
    return await store.add(message(subject, **fields), "alice@example.org", [recipient])


@pytest.fixture(params=["memory", "sqlite", "maildir"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store[Any]]:
    kinds: dict[str, Callable[[], Store[Any]]] = {
        "memory": Memory,
        "sqlite": lambda: SQLite(tmp_path / "mail.db"),
        "maildir": lambda: Maildir(tmp_path / "mail"),
    }
    async with kinds[request.param]() as found:
        yield found


@pytest.fixture
async def http(store: Store[Any]) -> AsyncIterator[httpx2.AsyncClient]:
    async with client(app(None, store)) as found:
        yield found


def encoded(name: str) -> str:
    return "".join(f"%{octet:02x}" for octet in name.encode())


def subjects(response: httpx2.Response) -> list[str]:
    assert response.status_code == 200, response.text
    return [each["subject"] for each in response.json()["messages"]]


def error(response: httpx2.Response, status: int) -> str:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    text = response.json()["error"]
    assert isinstance(text, str)
    return text


# --- lists


async def test_list_is_read_in_pages(store: Store[Any], http: httpx2.AsyncClient) -> None:
    for number in range(7):
        await add(store, f"m{number}")
    pages: list[list[str]] = []
    before: dict[str, str] = {}
    for _ in range(4):
        response = await http.get("/api/messages", params={"limit": "3", **before})
        pages.append(subjects(response))
        if response.json()["next"] is None:
            break
        before = {"before_id": response.json()["next"]}
    assert pages == [["m6", "m5", "m4"], ["m3", "m2", "m1"], ["m0"]]


async def test_search_is_read_in_pages(store: Store[Any], http: httpx2.AsyncClient) -> None:
    for number in range(6):
        await add(store, f"{'even' if number % 2 == 0 else 'odd'} {number}")
    params = {"query": "subject:even", "limit": "2"}
    first = await http.get("/api/messages", params=params)
    assert subjects(first) == ["even 4", "even 2"]
    second = await http.get("/api/messages", params={**params, "before_id": first.json()["next"]})
    assert (subjects(second), second.json()["next"]) == (["even 0"], None)


async def test_search_tells_how_much_of_the_store_the_index_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "INDEX_STEPS", 0)
    async with SQLite(tmp_path / "mail.db") as store, client(app(None, store)) as http:
        for number in range(40):
            await add(store, f"m{number}")
        assert (await http.get("/api/messages?query=m7")).json()["indexed"] == 0
        assert (await http.get("/api/messages")).json()["indexed"] is None
        while await store._in_index(store._index.step):
            pass
        response = await http.get("/api/messages?query=m7")
        assert response.json()["indexed"] == 1
        assert subjects(response) == ["m7"]
        assert (await http.get("/api/statistics")).json()["store"]["indexed"] == 1
        assert "<dt>Search index</dt><dd>complete</dd>" in (await http.get("/status")).text


@pytest.mark.parametrize("kind", [Memory, Maildir])
async def test_store_without_an_index(kind: type[Any], tmp_path: Path) -> None:
    async with Memory() if kind is Memory else Maildir(tmp_path / "mail") as store, client(app(None, store)) as http:
        await add(store, "a")
        assert (await http.get("/api/messages?query=a")).json()["indexed"] is None
        assert (await http.get("/api/statistics")).json()["store"]["indexed"] is None
        assert "Search index" not in (await http.get("/status")).text


async def test_search_ends_when_its_client_has_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an index it reads every message."""
    monkeypatch.setattr(_security, "LEAVING_TIME", 0.0)
    reading, read = trio.Event(), []

    class Slow(Maildir):
        async def get(self, id: str) -> Stored:
            read.append(id)
            if len(read) == 3:
                reading.set()
            await trio.sleep(0.02)
            return await super().get(id)

    async with Slow(tmp_path / "mail") as store:
        for number in range(300):
            await add(store, f"m{number}")
        async with serving(None, store) as http:
            async with connection(http) as raw:
                await raw.stream.send_all(b"GET /api/messages?query=absent HTTP/1.1\r\nHost: localhost\r\n\r\n")
                with trio.fail_after(100):
                    await reading.wait()
            with trio.fail_after(100):
                count = 0
                while len(read) > count:
                    count = len(read)
                    await trio.sleep(0.5)
            assert count < 300
            assert (await http.get("/api/messages?limit=1")).status_code == 200


async def test_page_that_is_full_exactly_is_the_last(store: Store[Any], http: httpx2.AsyncClient) -> None:
    await add(store, "a")
    await add(store, "b")
    response = await http.get("/api/messages?limit=2")
    assert (subjects(response), response.json()["next"]) == (["b", "a"], None)


async def test_list_after_a_message_that_was_removed_is_an_error(store: Store[Any], http: httpx2.AsyncClient) -> None:
    await add(store, "a")
    assert "before_id" in error(await http.get("/api/messages?before_id=gone"), 404)


async def test_entry_has_the_envelope(store: Store[Any], http: httpx2.AsyncClient) -> None:
    name = await add(store, "Grüße")
    [entry] = (await http.get("/api/messages")).json()["messages"]
    assert (entry["id"], entry["subject"], entry["sender"], entry["recipients"]) == (
        name, "Grüße", "alice@example.org", ["bob@example.org"],
    )  # fmt: skip
    assert (entry["read"], entry["tls"], entry["rcpt_params"]) == (False, None, [""])


# --- one message


async def test_message_is_returned_with_its_content(store: Store[Any], http: httpx2.AsyncClient) -> None:
    found = EmailMessage()
    found["Subject"] = "x"
    found.set_content("text\n")
    found.add_alternative("<p>html</p>\n", subtype="html")
    found.add_attachment(b"\0\1" * 50_000, maintype="application", subtype="zip", filename='ä"b/../c.zip')
    name = await store.add(found.as_bytes(), "", ["bob@example.org"])
    answer = (await http.get(f"/api/messages/{encoded(name)}")).json()
    assert (answer["text"], answer["html"], answer["truncated"]) == ("text\n", "<p>html</p>\n", [])
    assert ["Subject", "x"] in answer["header"]
    part = answer["parts"][2]
    assert (part["number"], part["role"], part["size"]) == (3, "attachment", 100_000)
    assert (part["filename"], part["safe_filename"]) == ('ä"b/../c.zip', "ä_b_.._c.zip")

    response = await http.get(f"/api/messages/{encoded(name)}/parts/3")
    assert response.content == b"\0\1" * 50_000
    assert response.headers["content-type"] == "application/zip"
    assert response.headers["content-disposition"] == (
        "attachment; filename=\"__b_.._c.zip\"; filename*=UTF-8''%C3%A4_b_.._c.zip"
    )


async def test_octets_of_a_message_are_unchanged_and_only_saved_by_browsers(
    store: Store[Any], http: httpx2.AsyncClient
) -> None:
    octets = b"Subject: \xff\r\nContent-Type: text/html\r\n\r\n<script>alert(1)</script>\0\r\n" + b"x" * 300_000
    name = await store.add(octets, "", ["bob@example.org"])
    response = await http.get(f"/api/messages/{encoded(name)}/raw")
    assert response.content == octets
    part = await http.get(f"/api/messages/{encoded(name)}/parts/1")
    assert part.headers["content-type"] == "text/html"
    for each in response, part:
        assert each.headers["x-content-type-options"] == "nosniff"
        assert each.headers["content-disposition"].startswith("attachment; ")
        assert "sandbox" in each.headers["content-security-policy"]
    head = await http.head(f"/api/messages/{encoded(name)}/raw")
    assert (head.content, head.headers["content-length"]) == (b"", str(len(octets)))


async def test_message_is_marked_as_read_and_unread(store: Store[Any], http: httpx2.AsyncClient) -> None:
    name = await add(store, "a")
    for read in True, False:
        assert (await http.put(f"/api/messages/{name}/read", json={"read": read})).json() == {"read": read}
        assert (await http.get(f"/api/messages/{name}")).json()["read"] is read
    for body in b"", b"[]", b'{"read": 1}', b'{"read": true, "x": 1}', b"\xff", b"[" * 100_000, b"{}":
        assert "body" in error(await http.put(f"/api/messages/{name}/read", content=body), 400)


async def test_body_that_is_too_large() -> None:
    async with Memory() as store, serving(None, store) as http:
        name = await add(store, "a")
        assert "octets" in error(await http.put(f"/api/messages/{name}/read", content=b" " * 2_000_000), 413)


HOSTILE_IDS = [
    "../../etc/passwd", "a/b", ".", "..", "%", "%2F", "\0", "a\0b", "x" * 256, "ä", "\x7f", "'; DROP", "*", " ", "?", "#",
]  # fmt: skip


async def test_ids_that_the_store_does_not_have(store: Store[Any], http: httpx2.AsyncClient) -> None:
    await add(store, "a")
    for name in HOSTILE_IDS:
        for path in "", "/raw", "/parts/1":
            response = await http.get(f"/api/messages/{encoded(name)}{path}")
            assert "id" in error(response, 404)


async def test_id_that_is_not_utf_8(store: Store[Any], http: httpx2.AsyncClient) -> None:
    error(await http.get("/api/messages/%ff%fe"), 404)


async def test_id_with_a_slash_and_percent_signs_is_found() -> None:
    name = "a/../b%2Fc?d#e ä"

    class Named(Memory):
        async def get(self, id: str):  # type: ignore[no-untyped-def]  # noqa: ANN202
            return await super().get(known if id == name else id)

    async with Named() as store, client(app(None, store)) as http:
        known = await add(store, "found")
        assert (await http.get(f"/api/messages/{encoded(name)}")).json()["subject"] == "found"
        async with serving(None, store) as real:
            assert (await real.get(f"/api/messages/{encoded(name)}")).json()["subject"] == "found"


@pytest.mark.parametrize(
    ("number", "status"),
    [("2", 404), ("1000", 404), ("1001", 400), ("0", 400), ("-1", 400), ("x", 400), ("9" * 15, 400), ("9" * 99, 400)],
)
async def test_parts_that_a_message_does_not_have(
    store: Store[Any], http: httpx2.AsyncClient, number: str, status: int
) -> None:
    name = await add(store, "a")
    assert error(await http.get(f"/api/messages/{name}/parts/{number}"), status).startswith("number: ")


# --- delete


async def test_message_is_deleted_once(store: Store[Any], http: httpx2.AsyncClient) -> None:
    name = await add(store, "a")
    response = await http.delete(f"/api/messages/{encoded(name)}")
    assert (response.status_code, response.content) == (204, b"")
    error(await http.delete(f"/api/messages/{encoded(name)}"), 404)


async def test_messages_are_deleted_by_a_query(store: Store[Any], http: httpx2.AsyncClient) -> None:
    for number in range(4):
        await add(store, f"m{number}", f"bob+{number % 2}@example.org")
    assert (await http.delete("/api/messages?query=detail:1")).json() == {"removed": 2}
    assert subjects(await http.get("/api/messages")) == ["m2", "m0"]


async def test_all_messages_are_deleted_only_on_request(store: Store[Any], http: httpx2.AsyncClient) -> None:
    await add(store, "a")
    for params in "", "?query=", "?query=%20", "?all=false", "?query=a&all=true", "?all=1":
        assert "all" in error(await http.delete(f"/api/messages{params}"), 400)
    assert subjects(await http.get("/api/messages")) == ["a"]
    assert (await http.delete("/api/messages?all=true")).json() == {"removed": 1}


async def test_messages_can_be_deleted_while_others_list_them(store: Store[Any], http: httpx2.AsyncClient) -> None:
    for number in range(60):
        await add(store, f"m{number}")
    statuses = set()

    async def read() -> None:
        before: dict[str, str] = {}
        for _ in range(5):
            response = await http.get("/api/messages", params={"limit": "20", **before})
            statuses.add(response.status_code)
            for each in response.json().get("messages", []):
                statuses.add((await http.get(f"/api/messages/{encoded(each['id'])}")).status_code)
            before = {"before_id": response.json()["next"]} if response.json().get("next") else {}

    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(read)
        for query in "m1", "m2", "m3":
            assert (await http.delete(f"/api/messages?query=subject:{query}")).status_code == 200
        assert (await http.delete("/api/messages?all=true")).status_code == 200
    assert statuses <= {200, 404}
    assert subjects(await http.get("/api/messages")) == []


# --- wrong requests


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("limit=0", "limit: must be from 1 to 500, got 0"),
        ("limit=501", "limit: must be from 1 to 500, got 501"),
        ("limit=", "limit: must be an integer, got ''"),
        ("limit=1e3", "limit: must be an integer, got '1e3'"),
        ("limit=" + "9" * 3000, "limit: must be an integer"),
        ("limit=٣", "limit: must be an integer"),
        ("limit=1&limit=2", "limit: must be given once"),
        ("limt=1", "limt: unknown parameter; the parameters are before_id, limit, query"),
        ("before_id=", "before_id: must not be empty"),
        ("query=subject:", "query: 'subject:': the text to look for is missing"),
        ("query=is:read", "query: 'is:read': a store does not record what was read or tagged"),
        ('query="a', "query: '\"a': the quotation mark at the end is missing"),
        ("query=" + "a" * 600, "query: must have at most 512 characters, got 600"),
        ("query=" + "a+" * 100, "query: must have at most 32 parts, got 100"),
        ("id=1", "id: unknown parameter"),
        ("%00=1", "\0: unknown parameter"),
        ("%ff=1", "\ufffd: unknown parameter"),
    ],
)
async def test_wrong_parameter_is_named(query: str, names: str) -> None:
    async with Memory() as store, client(app(None, store)) as http:
        assert error(await http.get(f"/api/messages?{query}"), 400).startswith(names)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/api/messages", "DELETE, GET, HEAD"),
        ("PUT", "/api/messages/1", "DELETE, GET, HEAD"),
        ("GET", "/api/messages/1/read", "PUT"),
        ("OPTIONS", "/api/openapi.json", "GET, HEAD"),
        ("BREW", "/api/wait", "GET, HEAD"),
    ],
)
async def test_method_that_a_path_does_not_have(method: str, path: str, allowed: str) -> None:
    async with Memory() as store, client(app(None, store)) as http:
        response = await http.request(method, path, headers={"content-type": "application/json"})
        assert allowed in error(response, 405)
        assert response.headers["allow"] == allowed


@pytest.mark.parametrize(
    "path", ["/api/", "/api/message", "/api/messages/", "/api/messages/1/", "/api/messages/1/parts", "/api/%2e%2e"]
)
async def test_unknown_path(path: str) -> None:
    async with Memory() as store, client(app(None, store)) as http:
        assert "/api/openapi.json" in error(await http.get(path), 404)


async def test_application_can_be_mounted_below_a_path() -> None:
    from starlette.applications import Starlette
    from starlette.routing import Mount

    async with Memory() as store, client(Starlette(routes=[Mount("/mail ü", app(None, store))])) as http:
        name = await add(store, "a")
        assert (await http.get(f"/mail%20%C3%BC/api/messages/{name}")).json()["subject"] == "a"


@pytest.mark.parametrize(("kind", "status"), [(NotSupportedError, 501), (StoreError, 503)])
async def test_store_that_cannot_be_read_is_an_error_with_its_reason(kind: type[StoreError], status: int) -> None:
    class Broken(Memory):
        async def get(self, id: str) -> Stored:
            raise kind("the reason")

    async with Broken() as store, client(app(None, store)) as http:
        await add(store, "a")
        assert error(await http.get("/api/messages/1"), status) == "the reason"
        assert error(await http.get("/api/messages?query=nothing"), status) == "the reason"


# --- large and hostile messages


def tree(depth: int) -> bytes:
    start = b"".join(b"Content-Type: multipart/mixed; boundary=B%d\r\n\r\n--B%d\r\n" % (n, n) for n in range(depth))
    return start + b"\r\nleaf\r\n"


@pytest.mark.parametrize(
    "octets",
    [
        b"Content-Type: multipart/mixed; boundary=B\r\n\r\n" + b"--B\r\nContent-Disposition: attachment\r\n\r\nx\r\n" * 10_000,
        tree(2000),
        b"Subject: " + b"=?utf-8?q?x?= " * 5000 + b"\r\n\r\n",
        b"Content-Type: text/html; charset=utf-7\r\n\r\n" + b"+AAA-<" * 500_000,
        b"\xff\xfe\0" * 100_000,
    ],
    ids=["10,000 parts", "deep tree", "encoded words", "large", "not UTF-8"],
)  # fmt: skip
async def test_hostile_message_is_read_in_a_thread(octets: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = set()

    class Recording(ParsedMessage):
        @classmethod
        def of(cls, stored: Stored) -> ParsedMessage:  # type: ignore[override]
            threads.add(threading.get_ident())
            return ParsedMessage.of(stored)

    monkeypatch.setattr(_message, "ParsedMessage", Recording)
    async with Memory() as store, client(app(None, store)) as http:
        name = await store.add(octets, "", ["bob@example.org"])
        response = await http.get(f"/api/messages/{name}")
        assert response.status_code == 200
        assert 1 <= len(response.json()["parts"]) <= 1000
        assert (await http.get(f"/api/messages/{name}/parts/1")).status_code == 200
        assert subjects(await http.get("/api/messages?query=nothing")) == []
    assert threads
    assert threading.get_ident() not in threads
