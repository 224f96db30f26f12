"""Messages that attack the page are displayed, run nothing, and fetch nothing."""

from __future__ import annotations

import base64
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING

import pytest
from attrs import frozen

from . import attacks
from .inbox import Inbox

if TYPE_CHECKING:
    from .browser import Browser

pytestmark = pytest.mark.interop

#: An image of one pixel.
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


@frozen
class Trap:
    """A server that counts the requests that it gets."""

    url: str
    paths: list[str]


@pytest.fixture
def trap() -> Iterator[Trap]:
    paths: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_response(200)
            self.send_header("Content-Type", "image/png")
            self.send_header("Access-Control-Allow-Origin", "*")
            self.end_headers()
            self.wfile.write(PNG)

        do_POST = do_GET

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield Trap(f"http://127.0.0.1:{server.server_port}", paths)
        finally:
            server.shutdown()
            thread.join()


def open_message(browser: Browser, inbox: Inbox, message: bytes) -> str:
    """Open a message of the store in the browser, and return its address."""
    url = inbox.add(message)
    browser.requests()
    browser.driver.get(url)
    return url


def check_harmless(browser: Browser, inbox: Inbox, trap: Trap) -> None:
    """Check that nothing was run, and that only the server of the page was asked."""
    from selenium.common.exceptions import NoAlertPresentException

    with pytest.raises(NoAlertPresentException):
        browser.driver.switch_to.alert  # noqa: B018
    assert "changed" not in browser.driver.title
    assert len(browser.driver.window_handles) == 1
    assert trap.paths == []
    foreign = [url for url in browser.requests() if not url.startswith((inbox.url, "data:", "chrome:"))]
    assert foreign == []


@pytest.mark.parametrize("name", attacks.HTML)
def test_html_runs_nothing_and_fetches_nothing(browser: Browser, inbox: Inbox, trap: Trap, name: str) -> None:
    url = open_message(browser, inbox, attacks.html(attacks.HTML[name], trap.url))
    browser.driver.switch_to.frame(browser.find("iframe.html"))
    assert browser.find("h1").text == "shown"
    for link in browser.all("a[href]"):
        assert str(link.get_attribute("href")).startswith("https://example.com/")
    browser.driver.switch_to.default_content()
    # The document alone, without the frame of the page.
    browser.driver.get(f"{url}/html")
    assert browser.find("h1").text == "shown"
    assert browser.driver.execute_script("return self.origin") == "null"
    check_harmless(browser, inbox, trap)


def test_remote_images_are_fetched_when_the_reader_asks_for_them(browser: Browser, inbox: Inbox, trap: Trap) -> None:
    images = '<img src="TRAP/a.png"><p style="background:url(TRAP/b.png)">x</p><script src="TRAP/c.js"></script>'
    open_message(browser, inbox, attacks.html(images, trap.url))
    browser.find("iframe.html")
    assert trap.paths == []
    browser.click(".note a")
    browser.wait(lambda: sorted(trap.paths) == ["/a.png", "/b.png"], "the images")


def test_image_of_the_message_is_shown(browser: Browser, inbox: Inbox) -> None:
    part = "Content-Type: image/png\r\nContent-ID: <logo@example.org>\r\nContent-Transfer-Encoding: base64\r\n\r\n"
    part += base64.b64encode(PNG).decode()
    open_message(
        browser, inbox, attacks.multipart("Content-Type: text/html\r\n\r\n<img src='cid:logo@example.org'>", part)
    )
    browser.driver.switch_to.frame(browser.find("iframe.html"))
    script = "return arguments[0].complete && arguments[0].naturalWidth"
    browser.wait(lambda: browser.driver.execute_script(script, browser.find("img")) == 1, "the image")
    browser.driver.switch_to.default_content()


@pytest.mark.parametrize("view", ["", "text", "headers", "parts", "raw"])
def test_fields_are_text(browser: Browser, inbox: Inbox, trap: Trap, view: str) -> None:
    url = open_message(browser, inbox, attacks.fields(trap.url))
    browser.driver.get(f"{url}?view={view}")
    shown = browser.find("#subject").text
    assert "</title><script>alert(1)</script>[U+202E]gnp[U+0007][U+001B][31m{{7*7}}" in shown
    assert "\u202e" not in browser.driver.page_source
    assert not browser.all("main img")
    check_harmless(browser, inbox, trap)


def test_file_names_are_text_and_safe_to_save(browser: Browser, inbox: Inbox, trap: Trap) -> None:
    url = open_message(browser, inbox, attacks.file_names())
    browser.driver.get(f"{url}?view=parts")
    assert len(browser.all("#message tbody tr")) == len(attacks.NAMES)
    assert not browser.all("main img")
    browser.click("#message tbody a")
    saved = browser.downloads / "_.._.._etc_passwd"
    browser.wait(lambda: saved.exists() and saved.read_bytes() == b"<script>alert(1)</script>", "the file")
    check_harmless(browser, inbox, trap)


@pytest.mark.parametrize("name", attacks.LARGE)
def test_large_message_is_shown_in_bounded_time(inbox: Inbox, name: str) -> None:
    url = inbox.add(attacks.LARGE[name]())
    for path in ("", "?view=text", "?view=headers", "?view=parts", "?view=raw", "/html"):
        began = time.monotonic()
        with urllib.request.urlopen(url + path, timeout=100) as response:
            size = len(response.read())
        assert time.monotonic() - began < 100, path
        assert size < 16_000_000, path


def test_mail_is_accepted_while_the_page_works_on_a_hostile_message(inbox: Inbox) -> None:
    from .test_page import mail

    url = inbox.add(attacks.LARGE["open elements"]())
    thread = Thread(target=lambda: urllib.request.urlopen(f"{url}/html", timeout=100).read())
    thread.start()
    for _ in range(5):
        inbox.send(mail("meanwhile"))
    thread.join()
    assert inbox.count() == 6
