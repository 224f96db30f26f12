"""The pictures in the documentation. ``SMTP_TRIO_SCREENSHOTS=docs/images`` writes them there; `pngquant` makes them smaller."""

from __future__ import annotations

import os
import smtplib
import struct
import time
from contextlib import suppress
from email.message import EmailMessage
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from smtp_trio.web._history import History

from .inbox import Inbox, running

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


def send(client: smtplib.SMTP, recipient: str, message: EmailMessage) -> None:
    """Send a message, which the server may refuse."""
    with suppress(smtplib.SMTPException):
        client.send_message(message, "orders@shop.example", [recipient])


def test_picture_of_the_status(browser: Browser, directory: Path) -> None:
    """All numbers are those of a server under a small load. Only the time between the minutes is left out."""
    now = time.time() // 60 * 60 - 59 * 60
    small, large = mail("orders@shop.example", "Your order 4711"), mail("orders@shop.example", "Your order", html=ORDER)
    with running() as inbox:
        context = inbox.context
        context.history, context.began = History(context.measure, lambda: now), context.began - 59 * 60
        inbox.add_fault("answer RCPT 550 always for *@gone.example")
        for minute in range(60):
            if minute % 9 == 0:
                inbox.add_fault("answer CONNECT 554 once")
                with pytest.raises(smtplib.SMTPConnectError):
                    smtplib.SMTP("127.0.0.1", inbox.port, timeout=100)
            if 30 < minute < 38:
                inbox.add_fault("answer MAIL 450 6 times")
            with smtplib.SMTP("127.0.0.1", inbox.port, "mx.shop.example", timeout=100) as client:
                for number in range(8 + minute * 13 % 7):
                    send(client, "ada@example.org", small if number else large)
                for _ in range(minute * 7 % 5):
                    send(client, "grace@gone.example", small)
            if minute < 59:
                now += 60
                inbox.run(context.history.end_minute)
        browser.resize(WIDTH, HEIGHT, dark=True)
        browser.driver.get(f"{inbox.url}/status")
        browser.wait(lambda: len(browser.all(".plot rect")) > 60, "the plots")
        save(browser, "status.png", directory)
