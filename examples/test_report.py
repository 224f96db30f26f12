"""Tests a program that sends mail by smtplib, with unittest: what is tested knows nothing of Trio, and neither does its test.

python examples/test_report.py
"""

import smtplib
import unittest
from email.message import EmailMessage

from smtp_trio.testing import open_inbox_thread


def send_report(host: str, port: int, people: list[str], text: str) -> None:
    """The program."""
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "reports@example.org", ", ".join(people), "Report"
    message.set_content(text)
    with smtplib.SMTP(host, port) as client:
        client.send_message(message)


class TestReport(unittest.TestCase):
    def setUp(self) -> None:
        self.inbox = self.enterContext(open_inbox_thread())

    def test_it_is_sent_to_everybody(self) -> None:
        people = ["you@example.net", "her@example.net"]
        send_report(self.inbox.host, self.inbox.port, people, "All is well.\n")
        [mail] = self.inbox.wait_for(subject="Report")
        assert list(mail.recipients) == people
        assert mail.message.get_content() == "All is well.\n"


if __name__ == "__main__":
    unittest.main()
