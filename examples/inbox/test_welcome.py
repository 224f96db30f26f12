# Run `smtp-trio inbox`, and then `python -m pytest test_welcome.py`.
import json
import os
import smtplib
import uuid
from urllib.request import Request, urlopen

API = f"http://127.0.0.1:{os.environ.get('HTTP_PORT', 8025)}/api"


def test_welcome() -> None:
    to = f"{uuid.uuid4()}@example.org"  # no other test sees its mail
    with smtplib.SMTP(f"127.0.0.1:{os.environ.get('SMTP_PORT', 1025)}") as smtp:
        smtp.sendmail("shop@example.org", to, "Subject: Welcome\n\nYour code is 4711")
    (message,) = json.load(urlopen(f"{API}/wait?to={to}&subject=Welcome"))["messages"]
    assert "Your code is 4711" in message["text"]
    found = json.load(urlopen(f"{API}/messages?query=rcpt:{to}"))["messages"]
    assert [each["id"] for each in found] == [message["id"]]
    delete = Request(f"{API}/messages?query=rcpt:{to}", method="DELETE")
    assert json.load(urlopen(delete)) == {"removed": 1}
