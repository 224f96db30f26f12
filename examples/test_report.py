"""Test a program that sends mail with smtplib. Neither the program nor its unittest test case uses Trio.

python examples/test_report.py
"""

import smtplib
import unittest
from email.message import EmailMessage

from smtp_trio.testing import open_inbox_thread


def send_report(host: str, port: int, recipients: list[str], text: str) -> None:
    """Send a report. This is the program that is tested."""
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "reports@example.org", ", ".join(recipients), "Report"
    message.set_content(text)
    with smtplib.SMTP(host, port) as client:
        client.send_message(message)


class TestReport(unittest.TestCase):
    """The report reaches an inbox, a server that runs in a thread."""

    def setUp(self) -> None:
        self.inbox = self.enterContext(open_inbox_thread())

    def test_report_is_sent_to_all_recipients(self) -> None:
        recipients = ["you@example.net", "her@example.net"]
        send_report(self.inbox.host, self.inbox.port, recipients, "All is well.\n")
        [mail] = self.inbox.wait_for(subject="Report")
        assert list(mail.recipients) == recipients
        assert mail.message.get_content() == "All is well.\n"


if __name__ == "__main__":
    unittest.main()
