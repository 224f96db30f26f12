"""The page in a browser: arrival, reading, search, attachments, deletion and the keyboard."""

from __future__ import annotations

import smtplib
from email.message import EmailMessage
from typing import TYPE_CHECKING

import pytest

from .inbox import Inbox, running

if TYPE_CHECKING:
    from .browser import Browser

pytestmark = pytest.mark.interop

OCTETS = bytes(range(256)) * 200


def mail(subject: str, text: str = "Hello Ada") -> EmailMessage:
    message = EmailMessage()
    message["Subject"], message["From"], message["To"] = subject, "shop@example.com", "ada@example.org"
    message.set_content(text)
    return message


@pytest.mark.parametrize("width", [1440, 360])
def test_mail_arrives_and_is_read_searched_downloaded_and_deleted(browser: Browser, inbox: Inbox, width: int) -> None:
    browser.resize(width, 800)
    browser.wait(lambda: browser.all(".live.on"), "not connected")
    browser.driver.execute_script("window.notReloaded = true")

    inbox.send(mail("Welcome"))
    browser.wait(lambda: browser.texts(".unread .subject") == ["Unread: Welcome"], "the first message")
    invoice = mail("Invoice", "Two notebooks")
    invoice.add_alternative("<p>Two <b>notebooks</b></p>", subtype="html")
    invoice.add_attachment(OCTETS, maintype="application", subtype="octet-stream", filename=f"invoice {width}.bin")
    inbox.send(invoice)
    browser.wait(lambda: len(browser.all(".unread")) == 2, "the second message")

    # Read it.
    browser.click(".row .subject")
    browser.wait(lambda: browser.texts("#subject") == ["Invoice"], "the message")
    assert len(browser.all(".unread")) == 1
    browser.driver.switch_to.frame(browser.find("iframe.html"))
    browser.wait(lambda: browser.texts("p") == ["Two notebooks"], "the HTML")
    browser.driver.switch_to.default_content()
    browser.click(".tabs a[href*='view=text']")
    browser.wait(lambda: browser.texts("pre.text") == ["Two notebooks\n"], "the text")
    assert browser.driver.execute_script("return document.documentElement.scrollWidth") <= width

    # Save the attachment.
    browser.click(".files a")
    saved = browser.downloads / f"invoice {width}.bin"
    browser.wait(lambda: saved.exists() and saved.read_bytes() == OCTETS, "the attachment")

    # Search for the other one.
    if width < 700:
        browser.click(".back")
    browser.find("#search").send_keys("subject:welc")
    browser.wait(lambda: browser.texts(".row .subject") == ["Unread: Welcome"], "the result")
    browser.click(".row .subject")
    browser.wait(lambda: browser.texts("#subject") == ["Welcome"], "the other message")

    # Delete it.
    browser.click("#delete")
    browser.wait(lambda: inbox.count() == 1, "the deletion")
    browser.wait(lambda: browser.texts(".row .subject") == [], "the list without it")
    assert browser.driver.execute_script("return window.notReloaded") is True


def test_keyboard(browser: Browser, inbox: Inbox) -> None:
    for number in range(3):
        inbox.send(mail(f"Mail {number}"))
    browser.wait(lambda: len(browser.all(".row")) == 3, "the messages")
    browser.press("j")
    browser.press("\ue007")  # Enter
    browser.wait(lambda: browser.texts("#subject") == ["Mail 2"], "the first message")
    browser.press("j")
    browser.wait(lambda: browser.texts("#subject") == ["Mail 1"], "the next message")
    browser.press("k")
    browser.wait(lambda: browser.texts("#subject") == ["Mail 2"], "the previous message")
    browser.press("#")
    browser.wait(lambda: browser.texts("#subject") == ["Mail 1"], "the message after the deleted one")
    browser.wait(lambda: inbox.count() == 2, "the deletion")
    browser.press("u")
    browser.wait(lambda: browser.all("#message.empty"), "the list")
    browser.press("?")
    browser.wait(lambda: browser.all("#help[open]"), "the help")
    browser.press("\ue00c")  # Escape
    browser.wait(lambda: not browser.all("#help[open]"), "no help")
    browser.press("/")
    browser.press("subject:0")
    browser.wait(lambda: browser.texts(".row .subject") == ["Unread: Mail 0"], "the result")


#: Requests for what "slow" finds get no answer, and are counted when they begin and when they are aborted.
SLOW_SEARCH = """
    const send = window.fetch;
    window.begun = window.aborted = 0;
    window.fetch = (url, options) => url.includes("q=slow&") ? new Promise((_, reject) => {
        window.begun++;
        options.signal.addEventListener("abort", () => { window.aborted++; reject(options.signal.reason); });
    }) : send(url, options);
"""


def test_search_is_aborted_by_the_next_one(browser: Browser, inbox: Inbox) -> None:
    inbox.send(mail("Slowly arrived"))
    browser.wait(lambda: len(browser.all(".row")) == 1, "the message")
    browser.driver.execute_script(SLOW_SEARCH)
    browser.find("#search").send_keys("slow")
    browser.wait(lambda: browser.driver.execute_script("return window.begun"), "the first search")
    browser.find("#search").send_keys("er")
    browser.wait(lambda: browser.texts(".row .subject") == [], "the result of the second search")
    assert browser.driver.execute_script("return window.aborted === window.begun")


def test_fault_is_set_met_counted_and_removed(browser: Browser, inbox: Inbox) -> None:
    browser.driver.get(f"{inbox.url}/faults")
    browser.find("#fault-text").send_keys("ansewr RCPT 450")
    browser.click("#fault-form .primary")
    browser.wait(lambda: "answer" in browser.texts("#notice")[0], "the error")
    browser.find("#fault-text").clear()
    browser.click("[data-preset='answer RCPT 450 once']")
    browser.click("#fault-form .primary")
    browser.wait(lambda: browser.texts("#faults-list td:first-child") == ["answer RCPT 450 once"], "the fault")
    with pytest.raises(smtplib.SMTPRecipientsRefused):
        inbox.send(mail("Refused once"))
    inbox.send(mail("Accepted"))
    browser.wait(lambda: browser.texts("#faults-list td:nth-child(2)") == ["1"], "the count")
    browser.click("[data-fault]")
    browser.wait(lambda: not browser.all("#faults-list td"), "the list without it")
    assert inbox.count() == 1


def test_page_with_a_token(browser: Browser) -> None:
    token = "a-token-of-the-test-0123456789"
    with running(token) as inbox:
        browser.driver.get(inbox.url.replace("http://", f"http://user:{token}@"))
        inbox.send(mail("Welcome"))
        browser.wait(lambda: browser.texts(".unread .subject") == ["Unread: Welcome"], "the message")
        browser.click(".row .subject")
        browser.wait(lambda: browser.texts("#subject") == ["Welcome"], "the message")
        browser.click("#delete")
        browser.wait(lambda: inbox.count() == 0, "the deletion")
        browser.driver.get("about:blank")


def test_messages_are_read_without_scripts(browser: Browser, inbox: Inbox) -> None:
    inbox.send(mail("Welcome", "Hello Ada"))
    browser.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.driver.get(inbox.url)
        browser.click(".row .subject")
        assert browser.find("#subject").text == "Welcome"
        browser.click(".tabs a[href*='view=raw']")
        assert "Subject: Welcome" in browser.find("pre.source").text
        assert not browser.find("#delete").is_displayed()
    finally:
        browser.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
