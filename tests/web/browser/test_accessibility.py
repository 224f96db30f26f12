"""axe-core finds no serious issue in any view, in light and dark colours, on a phone and on a wide screen."""

from __future__ import annotations

from email.message import EmailMessage
from typing import TYPE_CHECKING, Any

import pytest

from .inbox import Inbox

if TYPE_CHECKING:
    from .browser import Browser

pytestmark = pytest.mark.interop

RUN = """
const done = arguments[arguments.length - 1];
axe.run(document, {resultTypes: ["violations"], iframes: false}).then(result => done(result.violations));
"""


def found(browser: Browser, axe: str) -> list[str]:
    """Return the serious and critical issues of the present view."""
    browser.driver.execute_script(axe)
    issues: list[dict[str, Any]] = browser.driver.execute_async_script(RUN)
    return [
        f"{issue['id']}: {node['html']}: {node['failureSummary']}"
        for issue in issues
        if issue["impact"] in ("serious", "critical")
        for node in issue["nodes"]
    ]


@pytest.mark.parametrize(("width", "dark"), [(1440, False), (360, True)])
def test_no_serious_issue(browser: Browser, inbox: Inbox, axe: str, width: int, dark: bool) -> None:
    message = EmailMessage()
    message["Subject"], message["From"], message["To"] = "Invoice", "shop@example.com", "ada@example.org"
    message.set_content("Two notebooks")
    message.add_alternative("<p>Two notebooks</p><img src='https://example.com/x.png'>", subtype="html")
    message.add_attachment(b"x" * 5000, maintype="application", subtype="pdf", filename="invoice.pdf")
    inbox.send(message)
    inbox.send(message)
    browser.resize(width, 800, dark=dark)
    views = ["/", "/?q=subject:none", "/?q=larger:x", "/status", "/faults"]
    browser.driver.get(inbox.url)
    browser.find(".row")
    href = browser.driver.execute_script("return document.querySelector('.row').getAttribute('href')")
    views += [f"{href}?view={view}" for view in ("html", "text", "headers", "parts", "raw")]
    browser.driver.get(inbox.url + href)
    views.append(browser.driver.execute_script("return document.querySelector('.more').getAttribute('href')"))
    for view in views:
        browser.driver.get(inbox.url + view)
        assert found(browser, axe) == [], view
        assert browser.driver.execute_script("return document.documentElement.scrollWidth") <= width, view
