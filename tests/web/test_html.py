"""The HTML of messages, before a browser displays it."""

from __future__ import annotations

import base64
import re
import time
from datetime import UTC, datetime
from email.message import EmailMessage
from html.parser import HTMLParser

import pytest
from hypothesis import given, strategies as st

from smtp_trio.stores import Stored
from smtp_trio.web import _html
from smtp_trio.web._html import has_remote_images, is_cut, sanitised
from smtp_trio.web._message import MessagePart, ParsedMessage


def body(html: str, *, remote: bool = False) -> str:
    """Return what is between the body's tags of a sanitised document."""
    return sanitised(html, remote=remote).partition("<body>")[2].removesuffix("</body></html>\n")


class Elements(HTMLParser):
    """Collects the elements of a document and their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]


@pytest.mark.parametrize(
    ("html", "shown"),
    [
        ("<b>x</b><script>y</script>", "<b>x</b>"),
        ("<style>p{color:red}</style><p style='color:red'>x", '<style>p{color:red}</style><p style="color:red">x</p>'),
        ("<img src=https://example.com/x alt=y>", '<img alt="y">'),
        ("<img src=//example.com/x>", "<img>"),
        ("<img src=/api/messages>", "<img>"),
        ("<img src=data:image/svg+xml,x>", "<img>"),
        ("<img src='data:image/png;base64,AAAA'>", '<img src="data:image/png;base64,AAAA">'),
        ("<img src=cid:unknown>", "<img>"),
        ("<p style='background:url( \"//x/y\")'>z", '<p style="background:url(about:invalid#x/y&quot;)">z</p>'),
        ("<form action=x><input name=y><button>z</button></form>", "z"),
        ("<base href=x><meta http-equiv=refresh content=0><link rel=stylesheet href=x>", ""),
        ("<iframe src=x>y</iframe><svg><a>z</a></svg>", ""),
    ],
)  # fmt: skip
def test_what_is_kept(html: str, shown: str) -> None:
    assert body(html) == shown


@pytest.mark.parametrize(
    "address", ["javascript:x()", " JaVa\tScript:x()", "data:text/html,x", "vbscript:x", "file:///x", "/x", "x"]
)
def test_link_that_is_not_to_a_site_is_removed(address: str) -> None:
    assert "href" not in body(f'<a href="{address}">x</a>')


@pytest.mark.parametrize(
    "address", ["https://example.com/x?y=1", "http://example.com", "mailto:ada@example.org", "tel:1", "#part"]
)
def test_link_opens_another_window(address: str) -> None:
    shown = body(f'<a href="{address}">x</a>')
    assert f'href="{address}"' in shown
    assert 'target="_blank"' in shown
    assert 'rel="noopener noreferrer nofollow"' in shown


def test_remote_images_are_kept_on_request() -> None:
    html = "<img src=https://example.com/x><p style='background:url(https://example.com/y)'>z</p>"
    assert "example.com/x" in body(html, remote=True)
    assert "(https://example.com/y)" in body(html, remote=True)


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        ("<img src='https://x/y'>", True),
        ("<img src = //x/y>", True),
        ("<table background=http://x/y>", True),
        ("<p style='background:url(\"http://x\")'>", True),
        ("<img src=cid:x><a href=https://example.com>x</a>", False),
        ("see https://example.com", False),
    ],
)
def test_remote_images_are_noticed(html: str, expected: bool) -> None:
    assert has_remote_images(html) is expected


def parts_with_image(octets: bytes, content_id: str = "<logo>", subtype: str = "png") -> tuple[MessagePart, ...]:
    message = EmailMessage()
    message.set_content("<img src='cid:logo'>", subtype="html")
    message.add_related(octets, "image", subtype, cid=content_id)
    stored = Stored(id="1", received=datetime.now(UTC), sender="", recipients=("a",), message=message.as_bytes())
    return ParsedMessage.of(stored).parts


def test_image_of_the_message_is_put_into_the_document() -> None:
    document = sanitised("<img src=cid:logo><img src='CID:logo'>", parts_with_image(b"\x89PNG"))
    url = "data:image/png;base64," + base64.b64encode(b"\x89PNG").decode()
    assert document.count(f'src="{url}"') == 2


def test_drawing_of_the_message_is_not_put_into_the_document() -> None:
    assert "src" not in body_with("<img src=cid:logo>", parts_with_image(b"<svg/>", subtype="svg+xml"))


def body_with(html: str, parts: tuple[MessagePart, ...]) -> str:
    return sanitised(html, parts).partition("<body>")[2]


def test_images_of_a_document_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_html, "MAX_IMAGES", 10_000)
    document = sanitised("<img src=cid:logo>" * 5000, parts_with_image(b"x" * 3000))
    assert document.count("src=") == 3


def test_end_of_a_long_document_is_cut() -> None:
    assert not is_cut("<p>" * 10_000)
    assert is_cut("<p>" * 10_001)
    assert sanitised("<br>" * 12_000).count("<br>") == 10_000


@pytest.mark.parametrize(
    "html",
    [
        "<div>" * 200_000,
        "<p style='" + "url( " * 200_000,
        "<style>" + "url(//" * 150_000,
        "<b><p>" * 150_000,
        "src=" + " " * (1 << 20),
    ],
)
def test_hostile_html_takes_bounded_time(html: str) -> None:
    began = time.monotonic()
    has_remote_images(html)
    sanitised(html)
    assert time.monotonic() - began < 100


PIECES = st.sampled_from(
    [
        "<",
        ">",
        "/",
        '"',
        "'",
        "=",
        "&",
        ";",
        "<!--",
        "-->",
        "<![CDATA[",
        "]]>",
        "</",
        "<script",
        "</script>",
        "<style>",
        "</style>",
        "</sty",
        "<title>",
        "<svg>",
        "<math>",
        "<mtext>",
        "<p",
        "<a",
        "<img",
        "href=",
        "src=",
        "style=",
        "onerror=",
        "cid:",
        "javascript:",
        "https://x",
        "data:",
        "url(",
        "&#x3c;",
        "&lt;",
        "&quot;",
        'src="x"',
        'href="x"',
        "le>",
        "x\n",
    ]
)


@given(st.lists(PIECES, max_size=40).map(" ".join) | st.lists(PIECES, max_size=40).map("".join))
def test_nothing_active_is_left(html: str) -> None:
    found = Elements()
    found.feed(body(html))
    assert found.tags <= _html.TAGS
    for name, value in found.attributes:
        assert not name.startswith("on")
        if name in ("href", "cite"):
            assert re.match("https?:|mailto:|tel:|#", value, re.IGNORECASE)
        if name == "src":
            assert value.startswith("data:image/")
