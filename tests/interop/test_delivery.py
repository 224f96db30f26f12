"""Real programs deliver real mail: what is stored is what was sent, to the octet, with its envelope."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import smtp_trio
from smtp_trio import Reply
from smtp_trio.stores import Maildir

from .conftest import Box, Certificates, serve_and_send
from .mails import FOLDER, MAILS, large
from .programs import PASSWORD, PROGRAMS, USER, Errand, Mechanism, Program, Tls

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.interop

SECURE = [program for program in PROGRAMS if program.secure]
secure_programs = pytest.mark.parametrize("program", SECURE, indirect=True, ids=lambda program: program.name)
EVERY_MAIL = [
    pytest.param(program, mail, id=f"{program.name}-{mail.stem}")
    for program in PROGRAMS
    for mail in MAILS
    if mail.stem not in program.spoils
]

# In the order in which smtp-source counts its recipients; the others take the list as it is.
HUNDRED = (*(f"{number}bo@example.org" for number in range(100, 1, -1)), "bo@example.org")


def sent(program: Program, mail: Path) -> bytes:
    """The content on its way: its last line has an end (RFC 5321 4.1.1.4)."""
    content = mail.read_bytes()
    return content + (b"" if content.endswith(b"\r\n") else b"\r\n") + program.adds


@pytest.mark.parametrize(("program", "mail"), EVERY_MAIL, indirect=["program"])
@pytest.mark.parametrize("box", [Maildir], indirect=True, ids=["maildir"])
async def test_every_mail(box: Box, program: Program, mail: Path, home: Path) -> None:
    outcome = await serve_and_send(smtp_trio.Server(box.store), program, Errand(mail=mail, home=home))

    assert outcome.sent, outcome.said
    (stored,) = box.read()
    assert (stored.sender, stored.recipients) == ("ada@example.net", ("bo@example.org",))
    assert stored.message == sent(program, mail)


async def test_ten_mebibytes(box: Box, program: Program, tmp_path: Path, home: Path) -> None:
    mail = large(tmp_path / "large.eml")

    outcome = await serve_and_send(smtp_trio.Server(box.store), program, Errand(mail=mail, home=home))

    assert outcome.sent, outcome.said
    (stored,) = box.read()
    assert stored.message == sent(program, mail)


async def test_a_hundred_recipients(box: Box, program: Program, home: Path) -> None:
    errand = Errand(mail=FOLDER / "plain.eml", recipients=HUNDRED, home=home)

    outcome = await serve_and_send(smtp_trio.Server(box.store), program, errand)

    assert outcome.sent, outcome.said
    (stored,) = box.read()
    assert stored.recipients == HUNDRED


async def check(session: smtp_trio.Session, credentials: smtp_trio.Credentials) -> Reply | None:
    right = (credentials.user, credentials.password) == (USER, PASSWORD)
    return None if right else Reply(535, "Authentication credentials invalid", "5.7.8")


@pytest.mark.parametrize("auth", [None, "PLAIN", "LOGIN"])
@pytest.mark.parametrize("tls", ["starttls", "implicit"])
@secure_programs
async def test_tls_and_auth(
    box: Box, program: Program, tls: Tls, auth: Mechanism | None, certificates: Certificates, home: Path
) -> None:
    seen: list[tuple[str, str | None]] = []

    async def note(session: smtp_trio.Session, mail: smtp_trio.protocol.Mail) -> None:
        seen.append((session.protocol_name, session.user))

    server = smtp_trio.Server(box.store, tls=certificates.server)
    server.on(auth=check, mail=note)
    mail = FOLDER / "attachments.eml"

    errand = Errand(mail=mail, auth=auth, ca=certificates.authority, home=home, tls=tls)
    outcome = await serve_and_send(server, program, errand)

    assert outcome.sent, outcome.said
    assert seen == [("ESMTPSA", USER) if auth else ("ESMTPS", None)]
    assert [stored.message for stored in box.read()] == [sent(program, mail)]


@pytest.mark.parametrize("box", [Maildir], indirect=True, ids=["maildir"])
@secure_programs
async def test_ten_mebibytes_over_tls(
    box: Box, program: Program, certificates: Certificates, tmp_path: Path, home: Path
) -> None:
    mail = large(tmp_path / "large.eml")
    server = smtp_trio.Server(box.store, tls=certificates.server)

    errand = Errand(mail=mail, ca=certificates.authority, home=home, tls="starttls")
    outcome = await serve_and_send(server, program, errand)

    assert outcome.sent, outcome.said
    (stored,) = box.read()
    assert stored.message == sent(program, mail)


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
@pytest.mark.parametrize("box", [Maildir], indirect=True, ids=["maildir"])
@secure_programs
async def test_a_certificate_that_nobody_vouches_for_stops_the_program(
    box: Box, program: Program, tls: Tls, certificates: Certificates, home: Path
) -> None:
    server = smtp_trio.Server(box.store, tls=certificates.server)

    errand = Errand(mail=FOLDER / "plain.eml", ca=certificates.stranger, home=home, tls=tls)
    outcome = await serve_and_send(server, program, errand)

    assert not outcome.sent
    assert "certificate" in outcome.said.lower()
    assert server.statistics().messages == 0


@pytest.mark.parametrize("box", [Maildir], indirect=True, ids=["maildir"])
@secure_programs
async def test_a_wrong_password_stops_the_program(
    box: Box, program: Program, certificates: Certificates, home: Path
) -> None:
    async def refuse(session: smtp_trio.Session, credentials: smtp_trio.Credentials) -> Reply:
        return Reply(535, "Who are you?", "5.7.8")

    server = smtp_trio.Server(box.store, tls=certificates.server)
    server.on(auth=refuse)

    errand = Errand(mail=FOLDER / "plain.eml", auth="PLAIN", ca=certificates.authority, home=home, tls="starttls")
    outcome = await serve_and_send(server, program, errand)

    assert not outcome.sent
    assert "535" in outcome.said
    assert server.statistics().messages == 0
