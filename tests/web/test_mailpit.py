"""Mailpit's API v1: list, search, read, mark and delete messages, and what it answers to invalid requests."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from typing import Any

import httpx2
import pytest
import trio
from attrs import define, evolve

from smtp_trio import Statistics
from smtp_trio._server.snapshot import Snapshot, empty_snapshot
from smtp_trio.stores import Store
from smtp_trio.stores.memory import Memory
from smtp_trio.web import _mailpit_mailbox, app

from .helpers import client, serving


@define
class Mailbox:
    """A store, and a client of the listener that shows it."""

    store: Store[Any]
    http: httpx2.AsyncClient

    async def add(self, message: bytes, *recipients: str, sender: str = "ada@example.org") -> str:
        return await self.store.add(message, sender, recipients or ("bo@example.org",))

    async def get(self, path: str, **parameters: object) -> Any:
        response = await self.http.get(path, params={name: str(value) for name, value in parameters.items()})
        assert response.status_code == 200, response.text
        return response.json()

    async def send(self, method: str, path: str, body: object = None, **parameters: str) -> httpx2.Response:
        content = {"json": body} if body is not None else {}
        return await self.http.request(method, path, params=parameters, **content)  # type: ignore[arg-type]

    async def received(self) -> datetime:
        """Return the time at which the only message was stored."""
        (entry,) = [entry async for entry in self.store.entries()]
        return entry.received

    async def subjects(self, query: str = "") -> list[str]:
        found = await (self.get("/api/v1/search", query=query) if query else self.get("/api/v1/messages"))
        assert found["count"] == len(found["messages"])
        return [message["Subject"] for message in found["messages"]]


@pytest.fixture
async def mailbox() -> AsyncIterator[Mailbox]:
    async with Memory() as store, client(app(None, store)) as http:
        yield Mailbox(store, http)


def simple(subject: str, *fields: str) -> bytes:
    return "\r\n".join((f"Subject: {subject}", "From: Ada <ada@example.org>", *fields, "", "hello", "")).encode()


def typical() -> bytes:
    message = EmailMessage()
    message["From"] = '"Ädä, L." <ada@example.org>'
    message["To"] = "Bo <bo@example.org>, <eve@example.org>"
    message["Cc"] = "cc@example.org"
    message["Reply-To"] = "answers@example.org"
    message["Subject"] = "Grüße"
    message["Message-ID"] = "<1@example.org>"
    message["Date"] = "Mon, 16 Mar 2026 08:00:00 +0100"
    message["List-Unsubscribe"] = "<https://example.org/u>, <mailto:u@example.org>"
    message.set_content("Hello\n\n  Bo\n")
    message.add_alternative('<p>Hello <img src="cid:logo"></p>\n', subtype="html")
    message.get_payload()[1].add_related(b"\x89PNG", "image", "png", cid="<logo>")  # type: ignore[index, union-attr]
    message.add_attachment(b"%PDF", maintype="application", subtype="pdf", filename="bill é.pdf")
    return message.as_bytes().replace(b"\n", b"\r\n")


ADA = {"Name": "Ädä, L.", "Address": "ada@example.org"}


async def test_summary_of_a_message(mailbox: Mailbox) -> None:
    name = await mailbox.add(typical(), "bo@example.org", "Eve@Example.ORG", "hidden@example.org")
    assert await mailbox.get("/api/v1/messages") == {
        "total": 1,
        "unread": 1,
        "count": 1,
        "messages_count": 1,
        "messages_unread": 1,
        "start": 0,
        "tags": [],
        "messages": [
            {
                "ID": name,
                "MessageID": "1@example.org",
                "Read": False,
                "From": ADA,
                "To": [{"Name": "Bo", "Address": "bo@example.org"}, {"Name": "", "Address": "eve@example.org"}],
                "Cc": [{"Name": "", "Address": "cc@example.org"}],
                "Bcc": [{"Name": "", "Address": "hidden@example.org"}],
                "ReplyTo": [{"Name": "", "Address": "answers@example.org"}],
                "Subject": "Grüße",
                "Username": "",
                "Tags": [],
                "Size": len(typical()),
                "Created": (await mailbox.received()).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                "Attachments": 1,
                "Snippet": "Hello Bo",
            }
        ],
    }


async def test_whole_message(mailbox: Mailbox) -> None:
    name = await mailbox.add(typical())
    message = await mailbox.get(f"/api/v1/message/{name}")
    assert message["From"] == ADA
    assert message["Read"] is True
    assert message["ReturnPath"] == "ada@example.org"
    assert message["Date"] == "2026-03-16T07:00:00.000Z"
    assert message["Text"] == "Hello\n\n  Bo\n"
    assert message["HTML"] == '<p>Hello <img src="cid:logo"></p>\n'
    assert message["ListUnsubscribe"]["Links"] == ["https://example.org/u", "mailto:u@example.org"]
    (image,), (bill,) = message["Inline"], message["Attachments"]
    assert (image["ContentID"], image["ContentType"], image["Size"]) == ("logo", "image/png", 4)
    assert (bill["FileName"], bill["ContentType"], bill["Size"]) == ("bill é.pdf", "application/pdf", 4)
    assert bill["Checksums"]["MD5"] == "bfa4b10a76324b166cfdad5e02a63730"
    response = await mailbox.http.get(f"/api/v1/message/{name}/part/{bill['PartID']}")
    assert (response.content, response.headers["Content-Type"]) == (b"%PDF", "application/pdf")


async def test_message_without_fields(mailbox: Mailbox) -> None:
    """Clients read these members without a check."""
    await mailbox.add(b"\r\nhello\r\n")
    message = await mailbox.get("/api/v1/message/latest")
    assert message["From"] == {"Name": "", "Address": ""}
    assert (message["To"], message["Cc"], message["ReplyTo"], message["Subject"], message["MessageID"]) == (
        [],
        [],
        [],
        "",
        "",
    )
    assert message["Bcc"] == [{"Name": "", "Address": "bo@example.org"}]
    received = await mailbox.received()
    assert abs(datetime.fromisoformat(message["Date"]) - received) < timedelta(seconds=1)


async def test_header_has_names_in_the_usual_case_and_values_as_they_are(mailbox: Mailbox) -> None:
    await mailbox.add(
        b"MESSAGE-ID: <1>\r\nx-2fa-code: a\r\n b\r\nX-2FA-Code: c\r\nSubject: =?utf-8?q?=C3=A9?=\r\n\r\nX: y\r\n"
    )
    assert await mailbox.get("/api/v1/message/latest/headers") == {
        "Message-Id": ["<1>"],
        "X-2fa-Code": ["a b", "c"],
        "Subject": ["=?utf-8?q?=C3=A9?="],
    }


async def test_raw_message(mailbox: Mailbox) -> None:
    octets = simple("x") + bytes(range(256))
    name = await mailbox.add(octets)
    response = await mailbox.http.get("/api/v1/message/latest/raw")
    assert response.content == octets
    assert response.headers["Content-Type"].startswith("text/plain")
    response = await mailbox.http.get(f"/api/v1/message/{name}/raw?dl=1")
    assert response.headers["Content-Disposition"].startswith("attachment")


async def test_browser_saves_parts(mailbox: Mailbox) -> None:
    await mailbox.add(b"Content-Type: text/html\r\nContent-Disposition: attachment; filename=a.html\r\n\r\n<script>")
    for path, kind in ("part/1", "text/html"), ("raw", "text/plain; charset=utf-8"):
        headers = (await mailbox.http.get(f"/api/v1/message/latest/{path}")).headers
        assert headers["Content-Type"] == kind
        assert headers["Content-Disposition"].startswith("attachment;")
        assert "sandbox" in headers["Content-Security-Policy"]


@pytest.mark.parametrize("part", ["0", "2", "-1", "x", "1.1", "٣", "9" * 100])
async def test_part_that_does_not_exist(part: str, mailbox: Mailbox) -> None:
    await mailbox.add(simple("x"))
    assert (await mailbox.http.get(f"/api/v1/message/latest/part/{part}")).status_code == 404


async def test_views(mailbox: Mailbox) -> None:
    name = await mailbox.add(typical())
    response = await mailbox.http.get("/view/latest.html")
    assert response.text == f'<p>Hello <img src="/api/v1/message/{name}/part/3"></p>\n'
    assert response.headers["Content-Security-Policy"].startswith("sandbox allow-same-origin; default-src 'none'")
    assert (await mailbox.http.get(f"/api/v1/message/{name}/part/3")).content == b"\x89PNG"
    assert (await mailbox.http.get(f"/view/{name}.txt")).text == "Hello\n\n  Bo\n"
    response = await mailbox.http.get("/view/latest")
    assert (response.status_code, response.headers["Location"]) == (302, f"/messages/{name}")
    await mailbox.add(simple("no HTML"))
    assert (await mailbox.http.get("/view/latest.html")).status_code == 404


async def test_view_has_no_links_to_which_a_browser_connects(mailbox: Mailbox) -> None:
    html = b"<link rel=preconnect href='http://192.0.2.1'><LINK\nrel=dns-prefetch href='//attacker.test'>"
    await mailbox.add(b"Content-Type: text/html\r\n\r\n" + html)
    response = await mailbox.http.get("/view/latest.html")
    assert "<link" not in response.text.lower()
    assert response.headers["X-DNS-Prefetch-Control"] == "off"
    assert (await mailbox.get("/api/v1/message/latest"))["HTML"] == html.decode()


async def test_path_that_begins_with_two_slashes(mailbox: Mailbox) -> None:
    """cypress-mailpit requests //view/…"""
    await mailbox.add(typical())
    for path in "//view/latest.html", "///api/v1/messages":
        response = await mailbox.http.get(f"http://localhost:8025{path}")
        assert (response.status_code, response.request.url.path) == (200, path)


async def test_pages(mailbox: Mailbox) -> None:
    for number in range(5):
        await mailbox.add(simple(str(number)))
    page = await mailbox.get("/api/v1/messages", start=1, limit=2)
    assert [message["Subject"] for message in page["messages"]] == ["3", "2"]
    assert (page["total"], page["count"], page["messages_count"], page["start"]) == (5, 2, 5, 1)
    page = await mailbox.get("/api/v1/search", query="-subject:3", start=1, limit=2)
    assert [message["Subject"] for message in page["messages"]] == ["2", "1"]
    assert (page["total"], page["count"], page["messages_count"], page["start"]) == (5, 2, 4, 1)
    for start, limit, expected in (9, 1, 0), (0, 0, 0), (3, 999999999, 2):
        assert (await mailbox.get("/api/v1/messages", start=start, limit=limit))["count"] == expected
    for value in "x", "-1", "", "1.0", "9" * 99, "٣":
        for name in "start", "limit":
            assert (await mailbox.send("GET", "/api/v1/messages", **{name: value})).status_code == 400, value


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("to:eve", ["b"]),
        ("to:EVE@example.org subject:b", ["b"]),
        ('"hello"', ["b", "a"]),
        ("-to:eve", ["a"]),
        ("!to:eve", ["a"]),
        ("is:read", ["a"]),
        ("IS:Unread", ["b"]),
        ("-is:read", ["b"]),
        ("is:read is:unread", []),
        ("is:read to:eve", []),
        ("tag:x", []),
        ("is:tagged", []),
        ("-tag:x", ["b", "a"]),
        ("!is:tagged to:eve", ["b"]),
        ('"is:read"', []),  # a phrase
        ("after:2000-01-01", ["b", "a"]),
        ("before:2000", []),
    ],
)  # fmt: skip
async def test_search(query: str, expected: list[str], mailbox: Mailbox) -> None:
    name = await mailbox.add(simple("a"))
    await mailbox.add(simple("b"), "eve@example.org")
    await mailbox.get(f"/api/v1/message/{name}")
    assert await mailbox.subjects(query) == expected


async def test_time_zone_of_a_search(mailbox: Mailbox) -> None:
    await mailbox.store.add(simple("a"), "", ["bo@example.org"], received=datetime(2026, 3, 16, 22, 30, tzinfo=UTC))
    for zone, count in ("UTC", 0), ("Europe/Vienna", 0), ("Pacific/Auckland", 1):
        found = await mailbox.get("/api/v1/search", query="after:2026-03-17", tz=zone)
        assert found["messages_count"] == count, zone
    for zone in ("Nowhere", "../../etc/passwd", "Europe", "x\0", "é"):
        assert (await mailbox.send("GET", "/api/v1/search", query="x", tz=zone)).status_code == 400


@pytest.mark.parametrize("query", ["", "   ", "to:", "larger:x", "before:yesterday", '"', "has:wings", "is:unknown"])
@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_invalid_search_changes_nothing(method: str, query: str, mailbox: Mailbox) -> None:
    await mailbox.add(simple("a"))
    response = await mailbox.send(method, "/api/v1/search", query=query)
    assert response.status_code == 400
    assert response.json()["error"]
    assert await mailbox.subjects() == ["a"]


async def test_read_marks(mailbox: Mailbox) -> None:
    ids = [await mailbox.add(simple(name)) for name in "abc"]

    async def unread() -> list[str]:
        found = await mailbox.get("/api/v1/search", query="is:unread")
        assert found["unread"] == found["messages_unread"] == found["messages_count"]
        return [message["Subject"] for message in found["messages"]]

    for body, expected in (
        ({"IDs": [ids[0]], "Read": True}, ["c", "b"]),
        ({"Search": "subject:b", "Read": True}, ["c"]),
        ({"Search": "subject:a"}, ["c", "a"]),
        ({"IDs": [], "Read": True}, []),
        ({}, ["c", "b", "a"]),
        ({"ids": ids[1:], "read": True}, ["a"]),  # Mailpit ignores the case
        ({"IDs": ["unknown"], "Read": True}, ["a"]),
    ):  # fmt: skip
        response = await mailbox.send("PUT", "/api/v1/messages", body)
        assert (response.status_code, response.text) == (200, "ok")
        assert await unread() == expected
    await mailbox.http.get("/view/latest.txt?query=subject:a")
    assert await unread() == []
    await mailbox.send("DELETE", "/api/v1/messages", {"IDs": [ids[0]]})
    assert (await mailbox.get("/api/v1/info"))["Unread"] == 0


@pytest.mark.parametrize("few", [0, 50])
async def test_counts_of_a_search(mailbox: Mailbox, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """They do not depend on whether the results are compared with the marks, or the other way round."""
    monkeypatch.setattr(_mailpit_mailbox, "FEW_MARKS", few)
    ids = [await mailbox.add(simple(f"{'even' if number % 2 == 0 else 'odd'} {number}")) for number in range(9)]
    await mailbox.send("PUT", "/api/v1/messages", {"IDs": ids[:3], "Read": True})
    for query, count, unread in (
        ("subject:even", 5, 3),
        ("-subject:even", 4, 3),
        ("hello", 9, 6),
        ("is:read even", 2, 0),
        ("absent", 0, 0),
    ):
        found = await mailbox.get("/api/v1/search", query=query, limit=1)
        assert (found["messages_count"], found["messages_unread"], found["count"]) == (count, unread, min(count, 1))
    await mailbox.store.remove([ids[0]])
    found = await mailbox.get("/api/v1/search", query="subject:even")
    assert (found["messages_count"], found["messages_unread"]) == (4, 3)


async def test_marks_of_unknown_messages_are_not_kept() -> None:
    async with Memory() as store:
        application = app(None, store)
        async with client(application) as http:
            await http.put("/api/v1/messages", json={"IDs": ["x" * 10_000, "unknown"], "Read": True})
        assert not list(application.context.read)


async def test_marks_of_messages_that_the_store_has_dropped_are_forgotten() -> None:
    async with Memory(messages=2) as store, client(app(None, store)) as http:
        mailbox = Mailbox(store, http)
        for name in "abcd":
            await mailbox.add(simple(name))
            await mailbox.get("/api/v1/message/latest")
        await mailbox.add(simple("e"))
        found = await mailbox.get("/api/v1/messages")
        assert (found["total"], found["unread"]) == (2, 1)


async def test_delete(mailbox: Mailbox) -> None:
    ids = [await mailbox.add(simple(name)) for name in "abcdef"]
    for body, expected in (
        ({"IDs": [ids[0], ids[0], "unknown"]}, ["f", "e", "d", "c", "b"]),
        ({"IDs": [ids[0]]}, ["f", "e", "d", "c", "b"]),
        ({"IDs": ids[1:3]}, ["f", "e", "d"]),
    ):
        assert (await mailbox.send("DELETE", "/api/v1/messages", body)).text == "ok"
        assert await mailbox.subjects() == expected
    assert (await mailbox.send("DELETE", "/api/v1/search", query="subject:e")).text == "ok"
    assert await mailbox.subjects() == ["f", "d"]
    assert (await mailbox.send("DELETE", "/api/v1/messages")).text == "ok"
    assert await mailbox.subjects() == []


async def test_form(mailbox: Mailbox) -> None:
    """The client mailpit-api-client sends forms. Mailpit deletes all messages then."""
    ids = [await mailbox.add(simple(name)) for name in "abc"]
    await mailbox.http.put("/api/v1/messages", data={"ids": ids[:2], "Read": True})
    assert await mailbox.subjects("is:read") == ["b", "a"]
    await mailbox.http.request("DELETE", "/api/v1/messages", data={"ids": ids[:2]})
    assert await mailbox.subjects() == ["c"]
    await mailbox.http.request("DELETE", "/api/v1/messages", data={"ids": []})
    assert await mailbox.subjects() == []


INVALID = [
    b"{", b"[]", b"null", b'"x"', b"1", b"\xff", b"{}{}", b"[" * 100_000, b'{"IDs": "x"}', b'{"IDs": [1]}', b'{"IDs": [null]}',
    b'{"IDs": {"a": "b"}}', b'{"IDs": ["\\ud800"]}', b'{"IDs": [["a"]]}', b'{"IDs": true}',
]  # fmt: skip


@pytest.mark.parametrize("body", INVALID, ids=repr)
@pytest.mark.parametrize("method", ["DELETE", "PUT"])
async def test_invalid_body_changes_nothing(method: str, body: bytes, mailbox: Mailbox) -> None:
    await mailbox.add(simple("a"))
    response = await mailbox.http.request(
        method, "/api/v1/messages", content=body, headers={"Content-Type": "application/json"}
    )
    assert response.status_code == 400
    assert response.json()["error"]
    assert await mailbox.subjects("is:unread") == ["a"]


@pytest.mark.parametrize(
    "body",
    [{"Read": "yes"}, {"Read": 1}, {"Read": None}, {"Search": 1}, {"Search": ["x"]}, {"Search": "before:x"}, {"Search": "\ud800"},
     {"IDs": ["x"], "Search": "x"}],
    ids=repr,
)  # fmt: skip
async def test_invalid_mark(body: dict[str, object], mailbox: Mailbox) -> None:
    await mailbox.add(simple("a"))
    headers = {"Content-Type": "application/json"}
    response = await mailbox.http.put("/api/v1/messages", content=json.dumps(body).encode(), headers=headers)
    assert response.status_code == 400
    assert await mailbox.subjects("is:unread") == ["a"]


async def test_body_is_limited(mailbox: Mailbox) -> None:
    await mailbox.add(simple("a"))
    async with serving(None, mailbox.store) as http:
        for ids, status in ([f"{number:024}" for number in range(100_000)], 200), (["x" * (9 << 20)], 413):
            assert (await http.request("DELETE", "/api/v1/messages", json={"IDs": ids})).status_code == status
    assert await mailbox.subjects() == ["a"]


@pytest.mark.parametrize(
    "name", ["unknown", "%00", "..%2f..%2fetc%2fpasswd", "%ff", "%f0%9f%98%80", "x" * 600, "latest", "1%20or%201"]
)
@pytest.mark.parametrize("path", ["", "/headers", "/raw", "/part/1"])
async def test_message_that_does_not_exist(path: str, name: str, mailbox: Mailbox) -> None:
    assert (await mailbox.http.get(f"/api/v1/message/{name}{path}")).status_code == 404


async def test_concurrent_deletes(mailbox: Mailbox) -> None:
    ids = [await mailbox.add(simple(str(number))) for number in range(60)]
    async with trio.open_nursery() as nursery:

        async def request(method: str, path: str, body: object = None, **parameters: str) -> None:
            response = await mailbox.send(method, path, body, **parameters)
            assert response.status_code == 200, response.text

        for n in range(20):
            nursery.start_soon(request, "DELETE", "/api/v1/messages", {"IDs": ids[n : n + 20]})
            nursery.start_soon(request, "GET", "/api/v1/messages")
        for _ in range(3):
            nursery.start_soon(request, "DELETE", "/api/v1/messages")
    assert await mailbox.subjects() == []


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/api/v1/message/latest/html-check"), ("GET", "/api/v1/message/latest/link-check"),
     ("GET", "/api/v1/message/latest/sa-check"), ("GET", "/api/v1/message/latest/part/1/thumb"),
     ("POST", "/api/v1/message/latest/release"), ("POST", "/api/v1/send"), ("PUT", "/api/v1/tags"), ("PUT", "/api/v1/tags/x"),
     ("DELETE", "/api/v1/tags/x")],
)  # fmt: skip
async def test_operations_that_do_not_exist_say_so(method: str, path: str, mailbox: Mailbox) -> None:
    response = await mailbox.send(method, path)
    assert response.status_code == 501
    assert response.json()["error"]


async def test_information(mailbox: Mailbox) -> None:
    await mailbox.add(simple("a"))
    found = await mailbox.get("/api/v1/info")
    assert (found["Messages"], found["Unread"], found["Tags"]) == (1, 1, {})
    assert (await mailbox.get("/api/v1/webui"))["SpamAssassin"] is False
    assert await mailbox.get("/api/v1/tags") == []


async def test_information_has_the_sums_over_worker_processes() -> None:
    async def measure() -> Snapshot:
        return evolve(empty_snapshot(), statistics=Statistics(messages=3, bytes=50, refused=2))

    async with Memory() as store, client(app(None, store, measure=measure)) as http:
        found = (await Mailbox(store, http).get("/api/v1/info"))["RuntimeStats"]
    assert (found["SMTPAccepted"], found["SMTPAcceptedSize"], found["SMTPRejected"]) == (3, 50, 2)
