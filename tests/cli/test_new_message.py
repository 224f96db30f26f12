"""``smtp-trio send --subject --body --attach``: a new message without a file."""

from __future__ import annotations

import email
import email.message
import io
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from email import policy
from pathlib import Path

import pytest

from smtp_trio._cli.main import main
from smtp_trio._cli.new_message import compose
from smtp_trio._cli.options import UsageError

from .test_send import HER, ME, YOU, recording_server, send


def composed(
    sender: str = ME,
    recipients: Sequence[str] = (YOU,),
    *,
    subject: str | None = None,
    body: str | None = None,
    attachments: Sequence[str] = (),
) -> tuple[bytes, email.message.EmailMessage]:
    """Return a new message as it is sent, and as a mail program reads it."""
    file = compose(sender, recipients, subject=subject, body=body, attachments=attachments)
    assert (file.sender, list(file.recipients)) == (sender, list(recipients))
    octets = file.read()
    message = email.message_from_bytes(octets, policy=policy.default)
    assert isinstance(message, email.message.EmailMessage)
    assert [part.defects for part in message.walk()] == [[]] * len(list(message.walk()))
    assert [name.lower() for name in message].count("mime-version") == 1
    assert max(map(len, octets.split(b"\r\n"))) <= 998
    assert octets.count(b"\n") == octets.count(b"\r\n") == octets.count(b"\r")
    return octets, message


async def test_new_message_is_sent(tmp_path: Path) -> None:
    (tmp_path / "chart.png").write_bytes(b"\x89PNG")
    options = ["--from", ME, "--to", YOU, "--to", HER, "--subject", "Gr\u00fc\u00dfe", "--body=-", "--attach=chart.png"]
    async with recording_server() as (hooks, server):
        code, lines, err = await send(server, *options, cwd=tmp_path, stdin="sch\u00f6n\r\n.\nbye\n\nbye".encode())

    assert (code, err) == (0, "")
    assert [line.split("  ")[::3] for line in lines] == [["accepted", "new message"]] * 2
    assert hooks.envelopes == [(ME, YOU, HER)]
    message = email.message_from_bytes(hooks.messages[0], policy=policy.default)
    assert isinstance(message, email.message.EmailMessage)
    assert (message["From"].addresses[0].addr_spec, message["Subject"]) == (ME, "Gr\u00fc\u00dfe")
    assert [address.addr_spec for address in message["To"].addresses] == [YOU, HER]
    assert abs(message["Date"].datetime - datetime.now(UTC)) < timedelta(minutes=10)
    assert message["Message-ID"].endswith("@example.net>")
    body, attachment = message.iter_parts()
    assert body.get_content().replace("\r\n", "\n") == "sch\u00f6n\n.\nbye\n\nbye\n"
    assert attachment.get_content_type() == "image/png"
    assert (attachment.get_filename(), attachment.get_content()) == ("chart.png", b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "subject", "body"),
    [
        ({"subject": "hi"}, "hi", "This is a test message.\n"),
        ({"body": "hello"}, "Test message", "hello\n"),
        ({"subject": "", "body": ""}, "", "\n"),
        ({"body": "two\nlines\n"}, "Test message", "two\nlines\n"),
        ({"subject": "\u4e16\u754c " * 80, "body": "\u4e16" * 2000}, "\u4e16\u754c " * 80, "\u4e16" * 2000 + "\n"),
        ({"subject": "x" * 2000, "body": "x" * 2000}, "x" * 2000, "x" * 2000 + "\n"),
        ({"body": "a\0b\x1b"}, "Test message", "a\0b\x1b\n"),
        ({"body": "Bcc: x@y\n\n.\n"}, "Test message", "Bcc: x@y\n\n.\n"),
    ],
)
def test_subject_and_body(options: dict[str, str], subject: str, body: str) -> None:
    octets, message = composed(**options)
    assert b"\0" not in octets
    assert message["Subject"].replace(" ", "") == subject.replace(" ", "")
    assert message.get_content().replace("\r\n", "\n") == body


@pytest.mark.parametrize(
    ("sender", "recipients"),
    [
        ("a@[127.0.0.1]", ["b@[IPv6:::1]"]),
        ('"a, b"@x', ['"c> d"@x', "e@x"]),
        ("\u00e9@x", ["b@b\u00fccher.example"]),
        ("a@b\u00fccher.example", ["Postmaster"]),
        ("a@x", [f"user{number}@{'x' * 60}.example" for number in range(100)]),
    ],
)
def test_addresses_are_those_of_the_envelope(sender: str, recipients: Sequence[str]) -> None:
    octets, _ = composed(sender, recipients)
    header = octets.partition(b"\r\n\r\n")[0].decode()
    assert header.startswith(f"From: <{sender}>\r\nTo: <{recipients[0]}>")
    assert header.replace("\r\n", "").count("<") == 1 + len(recipients) + 1  # From, To and Message-ID
    for recipient in recipients:
        assert f"<{recipient}>" in header


@pytest.mark.parametrize(
    ("name", "octets", "kind", "filename"),
    [
        ("a.pdf", b"%PDF", "application/pdf", "a.pdf"),
        ("a.txt", b"text\r\nand\n\n", "text/plain", "a.txt"),
        ("a.html", b"\xff\xfe", "text/html", "a.html"),
        ("a.tar.gz", b"\x1f\x8b", "application/octet-stream", "a.tar.gz"),
        ("a.eml", b"Subject: hi\n\nhello\n", "application/octet-stream", "a.eml"),
        ("unknown", b"\0", "application/octet-stream", "unknown"),
        ("a.no-such-type", b"", "application/octet-stream", "a.no-such-type"),
        ("\u00dcber uns.pdf", b"%PDF", "application/pdf", "\u00dcber uns.pdf"),
        ('q"uote;\\.pdf', b"%PDF", "application/pdf", 'q"uote;\\.pdf'),
        ("x\r\nBcc: y@z.pdf", b"%PDF", "application/pdf", "x??Bcc: y@z.pdf"),
        (os.fsdecode(b"\xff.pdf"), b"%PDF", "application/pdf", "\ufffd.pdf"),
        ("l" * 200 + ".pdf", b"%PDF" * 1000, "application/pdf", "l" * 200 + ".pdf"),
    ],
)
def test_attachments(tmp_path: Path, name: str, octets: bytes, kind: str, filename: str) -> None:
    (tmp_path / name).write_bytes(octets)
    _, message = composed(attachments=[str(tmp_path / name)])
    assert message.get_content_type() == "multipart/mixed"
    _, attachment = message.iter_parts()
    assert (attachment.get_content_type(), attachment.get_filename()) == (kind, filename)
    assert attachment.get_content_disposition() == "attachment"
    assert attachment.get_payload(decode=True) == octets


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"subject": "a\r\nBcc: x@y"}, "--subject contains a control character"),
        ({"subject": "a\x00"}, "--subject contains a control character"),
        ({"subject": "\udcff"}, "--subject is not text in UTF-8"),
        ({"body": "\udcff"}, "--body is not text in UTF-8"),
        ({"attachments": ["/nowhere"]}, "cannot read /nowhere: No such file or directory"),
        ({"attachments": ["/"]}, "cannot read /: Is a directory"),
        ({"sender": ""}, "a new message requires --from and --to, with an address in each"),
        ({"recipients": ()}, "a new message requires --from and --to, with an address in each"),
    ],
)
def test_invalid_options(options: dict[str, str], error: str) -> None:
    with pytest.raises(UsageError) as caught:
        composed(**options)
    assert str(caught.value) == error


def test_standard_input_that_is_not_text(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9")))
    assert main(["send", "--from", ME, "--to", YOU, "--body", "-"]) == 2
    assert capsys.readouterr().err == "smtp-trio: error: standard input is not text in UTF-8\n"


@pytest.mark.parametrize("option", ["--subject=x", "--body=x", "--attach=x"])
def test_file_and_new_message_exclude_each_other(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["send", "--from", ME, "--to", YOU, option, "mail.eml"]) == 2
    assert capsys.readouterr().err == (
        "smtp-trio: error: a message cannot be combined with --subject, --body and --attach (see `smtp-trio send --help`)\n"
    )
