"""Clients of Mailpit's API v1 use the listener as they use Mailpit."""

from __future__ import annotations

import smtplib
import unittest
from email.message import EmailMessage
from pathlib import Path

import pytest
import trio

from .conftest import require
from .listening import Listener, listening
from .programs import PATH

pytestmark = pytest.mark.interop

FOLDER = Path(__file__).parent


TOKEN = "a-token"


@pytest.mark.parametrize(("script", "token"), [("mailpit_api.cjs", None), ("cypress_mailpit.cjs", TOKEN)])
async def test_npm_packages(script: str, token: str | None, node_modules: Path, tmp_path: Path) -> None:
    require("node")
    options = () if token is None else ("--http-token", token)
    async with listening(*options, cwd=tmp_path) as listener:
        result = await trio.run_process(
            ["node", FOLDER / script, listener.url, str(listener.port), *options[1:]],
            env={"PATH": PATH, "NODE_PATH": str(node_modules)},
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
    assert result.returncode == 0, result.stderr.decode()
    assert b"succeeded" in result.stdout


def message(subject: str) -> EmailMessage:
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = "Ada <ada@example.org>", "bo@example.org", subject
    mail["Date"], mail["Message-ID"] = "Mon, 16 Mar 2026 08:00:00 +0100", f"<{subject}@example.org>"
    mail["Delivered-To"] = "bo@example.org"  # the model of the client requires it
    mail.set_content("Hello\n")
    mail.add_attachment("a,b\n", subtype="csv", filename="table.csv")
    return mail


async def test_mailpit_api_client(tmp_path: Path) -> None:
    """The package of PyPI. Its tests use it with pytest and with unittest."""
    client = pytest.importorskip("mailpit.client.api")
    testing = pytest.importorskip("mailpit.testing.unittest")

    def use(listener: Listener) -> None:
        with pytest.raises(Exception, match="401"):
            client.API(listener.url).get_messages()
        url = listener.url.replace("//", f"//test:{TOKEN}@")
        api = client.API(url)
        assert api.get_messages().messages == []
        with smtplib.SMTP("127.0.0.1", listener.port) as smtp:
            for subject in "abc":
                smtp.send_message(message(subject))
        found = api.get_messages(limit=2, start=1)
        assert [each.subject for each in found.messages] == ["b", "a"]
        assert (found.total, found.unread, found.count, found.start) == (3, 3, 2, 1)
        summary = found.messages[0]
        assert (summary.message_id, summary.read, summary.attachments) == ("b@example.org", False, 1)
        assert (summary.from_.name, summary.from_.address) == ("Ada", "ada@example.org")

        whole = api.get_message(summary.id)
        assert (whole.subject, whole.text, whole.html, whole.read) == ("b", "Hello\n", "", True)
        assert whole.date.isoformat() == "2026-03-16T07:00:00+00:00"
        assert whole == api.get_message(summary.id)
        (table,) = whole.attachments
        assert api.get_message_attachment(summary.id, table.part_id) == "a,b\r\n"
        assert api.get_message_headers(summary.id).message_id == ["<b@example.org>"]

        api.put_messages([each.id for each in found.messages], "Read", True)
        assert api.get_messages().unread == 1
        api.put_messages([summary.id], "Read", False)
        assert api.get_messages().unread == 2

        class Test(testing.EMailTestCase):  # type: ignore[name-defined, misc]
            api_url = url

            def runTest(self) -> None:
                self.assertMessageReceived("b@example.org")
                with pytest.raises(self.failureException):
                    self.assertMessageReceived("d@example.org")

        Test.setUpClass()
        result = unittest.TestResult()
        Test().run(result)
        assert result.wasSuccessful(), result.failures + result.errors

        api.delete_messages([summary.id])
        assert [each.subject for each in api.get_messages().messages] == ["c", "a"]
        api.delete_messages([])
        assert api.get_messages().total == 0

    async with listening("--http-token", TOKEN, cwd=tmp_path) as listener:
        await trio.to_thread.run_sync(use, listener)
