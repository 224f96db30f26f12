"""Run ``smtp-trio inbox``, and then ``python -m pytest test_welcome.py``."""

import json
import os
import smtplib
import uuid
from typing import Any
from urllib.parse import urlencode
from urllib.request import Request, urlopen

API = os.environ.get("INBOX_URL", "http://127.0.0.1:8025") + "/api"
SMTP_PORT = int(os.environ.get("SMTP_PORT", "1025"))


def call(method: str, path: str, **parameters: str) -> dict[str, Any]:
    url = f"{API}{path}?{urlencode(parameters)}"
    with urlopen(Request(url, method=method)) as response:
        found: dict[str, Any] = json.load(response)
    return found


def sign_up(address: str) -> None:
    """Send a message, in the place of your application."""
    message = f"To: {address}\r\nSubject: Welcome\r\n\r\nYour code is 4711\r\n"
    with smtplib.SMTP("127.0.0.1", SMTP_PORT) as smtp:
        smtp.sendmail("shop@example.org", [address], message)


def test_welcome() -> None:
    address = f"{uuid.uuid4()}@example.org"  # no other test sees its mail
    sign_up(address)
    (message,) = call("GET", "/wait", to=address, subject="Welcome")["messages"]
    assert "Your code is 4711" in message["text"]
    found = call("GET", "/messages", query=f"rcpt:{address}")["messages"]
    assert [each["id"] for each in found] == [message["id"]]
    assert call("DELETE", "/messages", query=f"rcpt:{address}") == {"removed": 1}
