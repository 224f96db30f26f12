"""The envelope comes from the commands, in their order, and not from the message."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import smtp_trio
from smtp_trio import Reply
from smtp_trio.stores import Maildir

from .conftest import StoreCase, serve_and_send
from .mails import DIRECTORY
from .programs import PROGRAMS, Program, Submission

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.interop

# smtp-source generates the names of its recipients.
NAMING = [program for program in PROGRAMS if program.name != "smtp-source"]
naming_programs = pytest.mark.parametrize("program", NAMING, indirect=True, ids=lambda program: program.name)


@naming_programs
async def test_blind_copy_and_forged_fields(store: StoreCase, program: Program, home: Path) -> None:
    # The message names two of the three recipients, and has another envelope in Envelope-To and Return-Path.
    mail = DIRECTORY / "forged.eml"
    recipients = ("cy@example.org", "di@example.org", "bo@example.org")
    submission = Submission(mail=mail, recipients=recipients, home=home)

    outcome = await serve_and_send(smtp_trio.Server(store.hooks), program, submission)

    assert outcome.sent, outcome.output
    (stored,) = store.messages()
    assert (stored.sender, stored.recipients) == ("ada@example.net", recipients)
    assert stored.message == mail.read_bytes()


class DomainMaildir(Maildir):
    """A store that accepts one domain, as in the tour."""

    async def rcpt(self, session: smtp_trio.Session, rcpt: smtp_trio.protocol.Rcpt) -> Reply | None:
        if rcpt.recipient.domain not in ("example.org", None):
            return Reply(550, "No such user here", "5.1.1")
        return None


@pytest.mark.parametrize("store", [DomainMaildir], indirect=True, ids=["domain"])
@naming_programs
async def test_domains_in_upper_case_and_postmaster_are_accepted(
    store: StoreCase, program: Program, home: Path
) -> None:
    recipients = ("YOU@EXAMPLE.ORG", "Postmaster")
    submission = Submission(mail=DIRECTORY / "plain.eml", recipients=recipients, home=home)

    outcome = await serve_and_send(smtp_trio.Server(store.hooks), program, submission)

    assert outcome.sent, outcome.output
    (stored,) = store.messages()
    # nodemailer sends domains in lower case.
    assert [recipient.lower() for recipient in stored.recipients] == ["you@example.org", "postmaster"]


@pytest.mark.parametrize("store", [DomainMaildir], indirect=True, ids=["domain"])
@naming_programs
async def test_another_domain_is_refused(store: StoreCase, program: Program, home: Path) -> None:
    submission = Submission(mail=DIRECTORY / "plain.eml", recipients=("you@example.com",), home=home)

    outcome = await serve_and_send(smtp_trio.Server(store.hooks), program, submission)

    assert not outcome.sent
    assert "5.1.1 No such user here" in outcome.output
    assert store.messages() == []
