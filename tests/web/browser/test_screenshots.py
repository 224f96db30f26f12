"""The pictures in the documentation. ``SMTP_TRIO_SCREENSHOTS=docs/images`` writes them there; `pngquant` makes them smaller."""

from __future__ import annotations

import os
import struct
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from smtp_trio.web._statistics_api import describe as described

from .inbox import Inbox

if TYPE_CHECKING:
    from .browser import Browser

pytestmark = pytest.mark.interop

WIDTH, HEIGHT = 1280, 880

ORDER = """
<h1 style="color:#2f6f8f">Thank you for your order</h1>
<p>Hello Ada,</p><p>your parcel with <b>two notebooks</b> leaves our house today.</p>
<table style="border-collapse:collapse" cellpadding="8">
<tr style="background:#eef3f6"><th align="left" width="220">Item</th><th align="right" width="90">Price</th></tr>
<tr><td>Notebook, dotted, 192 pages</td><td align="right">12.00</td></tr>
<tr><td>Notebook, plain, 96 pages</td><td align="right">7.50</td></tr>
<tr><td>Delivery</td><td align="right">3.50</td></tr>
<tr style="background:#eef3f6"><td><b>Total</b></td><td align="right"><b>23.00</b></td></tr></table>
<p><a href="https://shop.example/orders/4711">Follow your parcel</a></p>
<img src="https://shop.example/open.png" alt="">
"""


def mail(sender: str, subject: str, to: str = "ada@example.org", html: str = "") -> EmailMessage:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = sender, to, subject
    message["Date"] = "Sun, 29 Nov 2026 09:30:00 +0000"
    message.set_content("Hello Ada,\n\nyour parcel with two notebooks leaves our house today.\n")
    if html:
        message.add_alternative(html, subtype="html")
        message.add_attachment(b"%PDF-1.7" * 6000, maintype="application", subtype="pdf", filename="invoice-4711.pdf")
    return message


def save(browser: Browser, name: str, directory: Path) -> None:
    """Save a picture of the view, and check its size."""
    browser.driver.save_screenshot(str(directory / name))
    octets = (directory / name).read_bytes()
    assert struct.unpack(">II", octets[16:24]) == (WIDTH, HEIGHT)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return Path(os.environ.get("SMTP_TRIO_SCREENSHOTS", tmp_path))


def test_picture_of_a_message(browser: Browser, inbox: Inbox, directory: Path) -> None:
    browser.resize(WIDTH, HEIGHT)
    inbox.send(mail("welcome@shop.example", "Welcome to the shop"))
    inbox.send(mail("accounts@shop.example", "Reset your password", "grace@example.org"))
    inbox.send(mail("versand@laden.example", "Ihre Bestellung ist unterwegs"))
    inbox.send(mail("reports@tickets.example", "Weekly report: 12 open tickets", "ada@example.org, grace@example.org"))
    inbox.send(mail("orders@shop.example", "Your order 4711 is on its way", html=ORDER))
    browser.wait(lambda: len(browser.all(".row")) == 5, "the messages")
    browser.click(".row")
    browser.wait(lambda: browser.texts("#subject") == ["Your order 4711 is on its way"], "the message")
    browser.wait(lambda: browser.all(".transcript"), "the session")
    browser.driver.switch_to.frame(browser.find("iframe.html"))
    browser.find("table")
    browser.driver.switch_to.default_content()
    save(browser, "inbox.png", directory)


def test_picture_of_the_status(
    browser: Browser, inbox: Inbox, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def describe(context: Any) -> dict[str, Any]:
        """Return the statistics with a busy hour."""
        now = datetime(2026, 11, 29, 9, 58, tzinfo=UTC)
        history: list[dict[str, Any]] = []
        for number in range(60):
            refusals: dict[str, int] = {
                "rcpt 550": (number * 7) % 5,
                "mail 450": 6 if 30 < number < 38 else 0,
                "connect 554": int(number % 9 == 0),
            }
            history.append(
                {
                    "time": (now - timedelta(minutes=59 - number)).isoformat(),
                    "messages": 40 + (number * 13) % 17 + (20 if 30 < number < 45 else 0),
                    "sessions": 20,
                    "refusals": {name: count for name, count in refusals.items() if count},
                }
            )
        statistics = await described(context)
        messages = sum(minute["messages"] for minute in history)
        statistics["counts"] |= {"sessions_open": 3, "messages": messages, "octets": messages * 9876, "refused": 167}
        return statistics | {"history": history, "uptime": 3 * 86_400.0}

    monkeypatch.setattr("smtp_trio.web._pages.describe", describe)
    inbox.send(mail("orders@shop.example", "Your order 4711 is on its way", html=ORDER))
    browser.resize(WIDTH, HEIGHT, dark=True)
    browser.driver.get(f"{inbox.url}/status")
    browser.wait(lambda: len(browser.all(".plot rect")) > 60, "the plots")
    save(browser, "status.png", directory)
