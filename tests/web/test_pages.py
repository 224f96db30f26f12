"""The page: what it shows of messages, and how it is bounded. What only a browser can tell is in `browser/`."""

from __future__ import annotations

import gc
import sys
from email.message import EmailMessage
from urllib.parse import quote

import pytest
import trio
from starlette.applications import Starlette
from starlette.routing import Mount

from smtp_trio import web
from smtp_trio.stores import Entry, Memory, Query
from smtp_trio.testing import FaultRules, open_memory_server, open_test_server
from smtp_trio.web import _pages
from smtp_trio.web._pages import MAX_TEXT, PRESETS
from smtp_trio.web._templates import visible

from .helpers import client, serving


def mail(html: str | None = None, **fields: str) -> EmailMessage:
    message = EmailMessage()
    for name, value in ({"Subject": "Invoice", "From": "shop@example.com"} | fields).items():
        message[name] = value
    message.set_content("two notebooks")
    if html is not None:
        message.add_alternative(html, subtype="html")
    return message


async def add(store: Memory, message: EmailMessage | bytes) -> str:
    octets = message if isinstance(message, bytes) else message.as_bytes()
    return await store.add(octets, "shop@example.com", ["ada@example.org", "grace@example.org"])


def page_of(store_id: str, end: str = "") -> str:
    return f"/messages/{quote(store_id, safe='')}{end}"


async def test_list_shows_the_newest_messages_first() -> None:
    async with Memory() as store, client(web.app(None, store)) as http:
        for number in range(60):
            await add(store, mail(Subject=f"mail {number} of many"))
        text = (await http.get("/")).text
        assert text.index("mail 59 of") < text.index("mail 10 of")
        assert "mail 9 of" not in text
        assert 'href="/?start=50"' in text
        older = (await http.get("/?start=50")).text
    assert "mail 9 of" in older
    assert "mail 10 of" not in older


async def test_list_shows_what_a_query_finds() -> None:
    async with Memory() as store, client(web.app(None, store)) as http:
        await add(store, mail(Subject="Invoice of May"))
        await add(store, mail(Subject="Welcome"))
        text = (await http.get("/", params={"q": "subject:may"})).text
    assert "Invoice of May" in text
    assert "Welcome" not in text


async def test_search_that_takes_too_long_ends_with_what_it_has_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page tells that, and how much of the store the search index has."""
    monkeypatch.setattr(_pages, "SEARCH_TIME", 0.2)
    monkeypatch.setattr(_pages, "SLOW", 0.1)

    class Slow(Memory):
        async def indexed(self) -> float:
            return 0.457

        async def _fulfils(self, query: Query, entry: Entry) -> bool:
            if entry.subject == "Slow":
                await trio.sleep_forever()
            return await super()._fulfils(query, entry)

    async with Slow() as store, client(web.app(None, store)) as http:
        await add(store, mail(Subject="Old"))
        await add(store, mail(Subject="Slow"))
        await add(store, mail(Subject="New"))
        text = (await http.get("/", params={"q": "notebooks"})).text
        assert "New" in text
        assert ">Old<" not in text
        assert "The search ended after 0.2 seconds" in text
        assert "The search index has 45 % of them" in text
        assert "1+" in text
        assert "The search" not in (await http.get("/")).text


async def test_slow_search_tells_that_the_index_is_not_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_pages, "SLOW", -1.0)
    for share, shown in ((0.25, True), (1.0, False), (None, False)):

        class Indexing(Memory):
            async def indexed(self, share: float | None = share) -> float | None:
                return share

        async with Indexing() as store, client(web.app(None, store)) as http:
            await add(store, mail())
            text = (await http.get("/", params={"q": "notebooks"})).text
        assert ("The search index has 25 % of the messages" in text) == shown
        assert "Invoice" in text


async def test_list_explains_an_invalid_query() -> None:
    async with Memory() as store, client(web.app(None, store)) as http:
        response = await http.get("/", params={"q": "larger:<b>"})
    assert response.status_code == 200
    assert "larger:&lt;b&gt;" in response.text


async def test_message_is_unread_until_it_is_shown() -> None:
    async with Memory() as store, client(web.app(None, store)) as http:
        name = await add(store, mail())
        assert "1 unread" in (await http.get("/")).text
        assert "Invoice" in (await http.get(page_of(name))).text
        assert "unread" not in (await http.get("/")).text


@pytest.mark.parametrize(
    ("view", "expected"),
    [
        ("html", "<iframe"),
        ("text", "two notebooks"),
        ("headers", '<td dir="auto">shop@example.com</td>'),
        ("parts", "text/html"),
        ("raw", "Content-Type: multipart/alternative"),
        ("unknown", "<iframe"),
    ],
)
async def test_views_of_a_message(view: str, expected: str) -> None:
    async with Memory() as store, client(web.app(None, store)) as http:
        name = await add(store, mail("<p>two notebooks</p>"))
        text = (await http.get(page_of(name), params={"view": view})).text
    assert expected in text
    assert "&lt;grace@example.org&gt;" in text


async def test_message_that_the_store_does_not_have() -> None:
    async with Memory() as store, client(web.app(None, store)) as http:
        for path in (
            "/messages/x",
            "/messages/x/html",
            "/messages/x/raw",
            "/messages/x/parts/1",
            "/messages/..%2F..%2Fetc",
        ):
            assert (await http.get(path)).status_code == 404


@pytest.mark.parametrize("path", ["/none", "/status/none", "/messages", "/messages/x/y", "/status/"])
async def test_unknown_path_is_an_error_with_a_link_to_the_inbox(path: str) -> None:
    async with Memory() as store, client(web.app(None, store)) as http:
        response = await http.get(path)
        assert (await http.get("/api/none")).json()["error"].startswith("unknown path")
    assert response.status_code == 404
    assert response.headers["content-type"].startswith("text/html")
    assert '<a href="/">Inbox</a>' in response.text


async def test_html_has_a_policy_of_its_own() -> None:
    async with Memory() as store, client(web.app(None, store)) as http:
        name = await add(
            store, mail('<p onclick="x()">hello<script>x()</script></p><img src="https://example.com/pixel">')
        )
        response = await http.get(page_of(name, "/html"))
        policy = response.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "img-src data:;" in policy
        assert "sandbox" in policy
        assert "allow-same-origin" not in policy
        assert "allow-scripts" not in policy
        assert "<p>hello</p>" in response.text
        assert "pixel" not in response.text
        assert "script" not in response.text
        shown = await http.get(page_of(name, "/html?remote"))
    assert "https://example.com/pixel" in shown.text
    assert "img-src data: http: https:;" in shown.headers["content-security-policy"]


async def test_subject_cannot_change_the_direction_of_the_page() -> None:
    async with Memory() as store, client(web.app(None, store)) as http:
        name = await add(store, b"Subject: =?utf-8?q?pay_=E2=80=AEexe=2Epdf=07=1B[31m?=\r\n\r\nx\r\n")
        for path in ("/", page_of(name)):
            text = (await http.get(path)).text
            assert "pay [U+202E]exe.pdf[U+0007][U+001B][31m" in text
            assert "\u202e" not in text


async def test_session_of_a_message_is_beside_it() -> None:
    recorder = web.Recorder()
    async with Memory() as store, client(web.app(None, store, recorder=recorder)) as http:
        async with open_memory_server(recorder.hooks(store)) as server, server.client() as smtp:
            await smtp.send("shop@example.com", ["ada@example.org"], b"Subject: x\r\n\r\nx\r\n")
        (entry,) = [entry async for entry in store]
        session = recorder.sessions()[0]
        beside = (await http.get(page_of(entry.id))).text
        status = (await http.get("/status")).text
        whole = (await http.get(f"/sessions/{session.id}")).text
    assert '<span class="reply">250 2.1.5' in beside
    assert "EHLO" in beside
    assert f"/sessions/{session.id}" in status
    assert "MAIL FROM" in whole
    assert page_of(entry.id) in whole


async def test_mail_is_accepted_when_the_page_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **values: object) -> str:
        raise ZeroDivisionError

    monkeypatch.setattr("smtp_trio.web._pages.render", fail)
    async with Memory() as store, open_test_server(store) as server, serving(server.server, store) as http:
        assert (await http.get("/")).status_code == 500
        async with server.client() as smtp:
            await smtp.send("shop@example.com", ["ada@example.org"], b"Subject: x\r\n\r\nx\r\n")
        assert await store.count() == 1
        assert (await http.get("/")).status_code == 500


async def test_session_that_is_not_kept() -> None:
    async with Memory() as store, client(web.app(None, store, recorder=web.Recorder())) as http:
        assert (await http.get("/sessions/x")).status_code == 404


async def test_status_and_faults_are_shown_without_a_server() -> None:
    async with Memory() as store, client(web.app(None, store)) as http:
        status, faults = [(await http.get(path)).text for path in ("/status", "/faults")]
    assert "No message in the last hour" in status
    assert "memory:" in status
    assert "Faults cannot be set" in faults


async def test_page_below_a_path() -> None:
    async with Memory() as store:
        app = Starlette(routes=[Mount("/mail", web.app(None, store))])
        async with client(app) as http:
            name = await add(store, mail())
            text = (await http.get("/mail/")).text
            assert f'href="/mail{page_of(name)}"' in text
            assert (await http.get("/mail" + page_of(name))).status_code == 200
            assert (await http.get("/mail/static/page.js")).headers["cache-control"] == "no-cache"


async def test_views_can_only_be_read() -> None:
    async with Memory() as store, client(web.app(None, store)) as http:
        for path in ("/", "/status", "/faults"):
            response = await http.delete(path)
            assert response.status_code == 405
            assert response.headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize("text", PRESETS)
def test_preset_is_a_fault_of_servers(text: str) -> None:
    assert FaultRules().add(text).kind == text.split()[0]


def test_hidden_characters_are_replaced_without_a_call_for_each() -> None:
    """That would take twice as long, and a text may consist of nothing else."""
    text, calls = "\x01\u202e" * (MAX_TEXT // 2), 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    gc.disable()  # it calls functions of Hypothesis
    sys.setprofile(count)
    try:
        shown = visible(text)
    finally:
        sys.setprofile(None)
        gc.enable()
    assert shown == "[U+0001][U+202E]" * (MAX_TEXT // 2)
    assert calls < 20
