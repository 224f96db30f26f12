"""The envelope is what the session said, in its order; nothing in the message can change it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import smtp_trio
from smtp_trio import Reply
from smtp_trio.stores import Maildir

from .conftest import Box, serve_and_send
from .mails import FOLDER
from .programs import PROGRAMS, Errand, Program

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.interop

# smtp-source makes up the names of its recipients.
NAMING = [program for program in PROGRAMS if program.name != "smtp-source"]
naming_programs = pytest.mark.parametrize("program", NAMING, indirect=True, ids=lambda program: program.name)


@naming_programs
async def test_a_blind_copy_and_forged_fields(box: Box, program: Program, home: Path) -> None:
    # The message names two of the three, and claims by Envelope-To and Return-Path to be somebody else's.
    mail = FOLDER / "forged.eml"
    recipients = ("cy@example.org", "di@example.org", "bo@example.org")
    errand = Errand(mail=mail, recipients=recipients, home=home)

    outcome = await serve_and_send(smtp_trio.Server(box.store), program, errand)

    assert outcome.sent, outcome.said
    (stored,) = box.read()
    assert (stored.sender, stored.recipients) == ("ada@example.net", recipients)
    assert stored.message == mail.read_bytes()


class Intake(Maildir):
    """The rcpt hook of the tour, over a store."""

    async def rcpt(self, session: smtp_trio.Session, rcpt: smtp_trio.protocol.Rcpt) -> Reply | None:
        if rcpt.recipient.domain not in ("example.org", None):
            return Reply(550, "No such user here", "5.1.1")
        return None


@pytest.mark.parametrize("box", [Intake], indirect=True, ids=["tour"])
@naming_programs
async def test_the_tour_takes_its_domain_in_any_case_and_the_bare_postmaster(
    box: Box, program: Program, home: Path
) -> None:
    recipients = ("YOU@EXAMPLE.ORG", "Postmaster")
    errand = Errand(mail=FOLDER / "plain.eml", recipients=recipients, home=home)

    outcome = await serve_and_send(smtp_trio.Server(box.store), program, errand)

    assert outcome.sent, outcome.said
    (stored,) = box.read()
    # nodemailer writes a domain in lower case.
    assert [recipient.lower() for recipient in stored.recipients] == ["you@example.org", "postmaster"]


@pytest.mark.parametrize("box", [Intake], indirect=True, ids=["tour"])
@naming_programs
async def test_the_tour_refuses_another_domain(box: Box, program: Program, home: Path) -> None:
    errand = Errand(mail=FOLDER / "plain.eml", recipients=("you@example.com",), home=home)

    outcome = await serve_and_send(smtp_trio.Server(box.store), program, errand)

    assert not outcome.sent
    assert "5.1.1 No such user here" in outcome.said
    assert box.read() == []
