"""Other programs send to smtp_trio: messages are stored unchanged, with their envelopes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import smtp_trio
from smtp_trio import Reply
from smtp_trio.stores import Maildir

from .conftest import Certificates, StoreCase, serve_and_send
from .mails import DIRECTORY, MAILS, large
from .programs import PASSWORD, PROGRAMS, USER, Mechanism, Program, Submission, Tls

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.interop

SECURE = [program for program in PROGRAMS if program.secure]
secure_programs = pytest.mark.parametrize("program", SECURE, indirect=True, ids=lambda program: program.name)
EVERY_MAIL = [
    pytest.param(program, mail, id=f"{program.name}-{mail.stem}")
    for program in PROGRAMS
    for mail in MAILS
    if mail.stem not in program.alters
]

# In the order in which smtp-source numbers its recipients.
HUNDRED = (*(f"{number}bo@example.org" for number in range(100, 1, -1)), "bo@example.org")


def sent(program: Program, mail: Path) -> bytes:
    """Return the content as the program sends it: the last line always has an end (RFC 5321 4.1.1.4)."""
    content = mail.read_bytes()
    return content + (b"" if content.endswith(b"\r\n") else b"\r\n") + program.appends


@pytest.mark.parametrize(("program", "mail"), EVERY_MAIL, indirect=["program"])
@pytest.mark.parametrize("store", [Maildir], indirect=True, ids=["maildir"])
async def test_every_mail(store: StoreCase, program: Program, mail: Path, home: Path) -> None:
    outcome = await serve_and_send(smtp_trio.Server(store.hooks), program, Submission(mail=mail, home=home))

    assert outcome.sent, outcome.output
    (stored,) = store.messages()
    assert (stored.sender, stored.recipients) == ("ada@example.net", ("bo@example.org",))
    assert stored.message == sent(program, mail)


async def test_ten_mebibytes(store: StoreCase, program: Program, tmp_path: Path, home: Path) -> None:
    mail = large(tmp_path / "large.eml")

    outcome = await serve_and_send(smtp_trio.Server(store.hooks), program, Submission(mail=mail, home=home))

    assert outcome.sent, outcome.output
    (stored,) = store.messages()
    assert stored.message == sent(program, mail)


async def test_100_recipients(store: StoreCase, program: Program, home: Path) -> None:
    submission = Submission(mail=DIRECTORY / "plain.eml", recipients=HUNDRED, home=home)

    outcome = await serve_and_send(smtp_trio.Server(store.hooks), program, submission)

    assert outcome.sent, outcome.output
    (stored,) = store.messages()
    assert stored.recipients == HUNDRED


async def check(session: smtp_trio.Session, credentials: smtp_trio.Credentials) -> Reply | None:
    """Accept the account of the tests: an `auth` hook."""
    correct = (credentials.user, credentials.password) == (USER, PASSWORD)
    return None if correct else Reply(535, "Authentication credentials invalid", "5.7.8")


@pytest.mark.parametrize("auth", [None, "PLAIN", "LOGIN"])
@pytest.mark.parametrize("tls", ["starttls", "implicit"])
@secure_programs
async def test_tls_and_auth(
    store: StoreCase, program: Program, tls: Tls, auth: Mechanism | None, certificates: Certificates, home: Path
) -> None:
    seen: list[tuple[str, str | None]] = []

    async def record(session: smtp_trio.Session, mail: smtp_trio.protocol.Mail) -> None:
        seen.append((session.protocol_name, session.user))

    server = smtp_trio.Server(store.hooks, tls=certificates.server)
    server.on(auth=check, mail=record)
    mail = DIRECTORY / "attachments.eml"

    submission = Submission(mail=mail, auth=auth, ca=certificates.authority, home=home, tls=tls)
    outcome = await serve_and_send(server, program, submission)

    assert outcome.sent, outcome.output
    assert seen == [("ESMTPSA", USER) if auth else ("ESMTPS", None)]
    assert [stored.message for stored in store.messages()] == [sent(program, mail)]


@pytest.mark.parametrize("store", [Maildir], indirect=True, ids=["maildir"])
@secure_programs
async def test_ten_mebibytes_over_tls(
    store: StoreCase, program: Program, certificates: Certificates, tmp_path: Path, home: Path
) -> None:
    mail = large(tmp_path / "large.eml")
    server = smtp_trio.Server(store.hooks, tls=certificates.server)

    submission = Submission(mail=mail, ca=certificates.authority, home=home, tls="starttls")
    outcome = await serve_and_send(server, program, submission)

    assert outcome.sent, outcome.output
    (stored,) = store.messages()
    assert stored.message == sent(program, mail)


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
@pytest.mark.parametrize("store", [Maildir], indirect=True, ids=["maildir"])
@secure_programs
async def test_untrusted_certificate_stops_the_program(
    store: StoreCase, program: Program, tls: Tls, certificates: Certificates, home: Path
) -> None:
    server = smtp_trio.Server(store.hooks, tls=certificates.server)

    submission = Submission(mail=DIRECTORY / "plain.eml", ca=certificates.other_authority, home=home, tls=tls)
    outcome = await serve_and_send(server, program, submission)

    assert not outcome.sent
    assert "certificate" in outcome.output.lower()
    assert server.statistics().messages == 0


@pytest.mark.parametrize("store", [Maildir], indirect=True, ids=["maildir"])
@secure_programs
async def test_wrong_password_stops_the_program(
    store: StoreCase, program: Program, certificates: Certificates, home: Path
) -> None:
    async def refuse(session: smtp_trio.Session, credentials: smtp_trio.Credentials) -> Reply:
        return Reply(535, "Authentication credentials invalid", "5.7.8")

    server = smtp_trio.Server(store.hooks, tls=certificates.server)
    server.on(auth=refuse)

    submission = Submission(
        mail=DIRECTORY / "plain.eml", auth="PLAIN", ca=certificates.authority, home=home, tls="starttls"
    )
    outcome = await serve_and_send(server, program, submission)

    assert not outcome.sent
    assert "535" in outcome.output
    assert server.statistics().messages == 0
