"""The replies of an application to the parameters of extensions, and to ETRN and ATRN, as a client receives them."""

from __future__ import annotations

import re
from typing import Any

import pytest
from helpers import NAME, SECRET, Client, RecordingHooks, connected

from smtp_trio import Body, Mail, Rcpt, Reply, Server, Session, standard
from smtp_trio.protocol import Command, Extension
from smtp_trio.protocol.extensions import (
    AtrnExtension,
    Auth,
    BurlExtension,
    Chunking,
    DeliverBy,
    EightBitMime,
    EtrnExtension,
    MtPriority,
    RequireRecipientValidSince,
    SmtpUtf8,
)
from smtp_trio.protocol.extensions.atrn import Atrn
from smtp_trio.protocol.extensions.deliverby import BY
from smtp_trio.protocol.extensions.etrn import Etrn
from smtp_trio.protocol.extensions.mt_priority import (
    MT_PRIORITY,
    TOO_BIG_FOR_PRIORITY,
    TOO_LOW,
    TOO_LOW_NOW,
)
from smtp_trio.protocol.extensions.rrvs import CANNOT_TEST, DOMAIN_OWNER_CHANGED, OWNER_CHANGED, RRVS

MESSAGE = b"Subject: hi\r\n\r\nhello\r\n"


def server(hooks: RecordingHooks, *extensions: Extension) -> Server:
    return Server(hooks, name=NAME, extensions=standard(Auth(cleartext=True), *extensions))


async def replies(client: Client, *lines: str) -> list[str]:
    """Send each line after the reply to the last one; return the replies."""
    return [await client.command(line, "") for line in lines]


class WithLogin(RecordingHooks):
    """Accepts every password."""

    async def auth(self, session: Session, credentials: object) -> None:
        return None


# --- DELIVERBY, RFC 2852 4 -------------------------------------------------------------------------------------------


class Delivering(RecordingHooks):
    """Cannot deliver in less than an hour, and not now in less than a day."""

    async def mail(self, session: Session, mail: Mail) -> Reply | None:
        by = mail.params.get(BY)
        if by is None or by.seconds >= 86400:
            return None
        if by.seconds >= 3600:
            return Reply(455, "BY cannot be honoured now", "4.3.0")
        return Reply(555, "BY cannot be honoured", "5.4.7")


async def test_application_cannot_deliver_in_time() -> None:
    hooks = Delivering()
    async with connected(server(hooks, DeliverBy())) as client:
        await client.hello()
        assert await replies(
            client,
            "MAIL FROM:<me@client.test> BY=3599;R",
            "RCPT TO:<you@mx.test>",
            "MAIL FROM:<me@client.test> BY=3600;N",
        ) == [
            "555 5.4.7 BY cannot be honoured",
            "503 5.5.1 Bad sequence of commands: send MAIL first",
            "455 4.3.0 BY cannot be honoured now",
        ]
        await client.command("MAIL FROM:<me@client.test> BY=86400;R", "250 2.1.0")
        await client.command("RSET", "250")
        await client.deliver()
    assert (len(hooks.messages), hooks.errors) == (1, [])


# --- MT-PRIORITY, RFC 6710 4.1, 5 and 7 --------------------------------------------------------------------------------


class Priorities(WithLogin):
    """Refuses low priorities, and large messages of a high one."""

    def __init__(self) -> None:
        super().__init__()
        self.fields: list[bytes] = []

    async def mail(self, session: Session, mail: Mail) -> Reply | None:
        priority = mail.params.get(MT_PRIORITY, 0)
        return TOO_LOW if priority < -5 else TOO_LOW_NOW if priority < 0 else None

    async def data(self, session: Session, body: Body) -> Reply | None:
        self.fields.append(session.received())
        await super().data(session, body)
        priority = body.envelope.params.get(MT_PRIORITY, 0)
        return TOO_BIG_FOR_PRIORITY if priority > 5 and len(self.messages[-1]) > 100 else None


async def test_application_refuses_a_priority() -> None:
    hooks = Priorities()
    async with connected(server(hooks, MtPriority())) as client:
        await client.hello()
        await client.command(f"AUTH PLAIN {SECRET}", "235")
        assert await replies(
            client, "MAIL FROM:<me@client.test> MT-PRIORITY=-1", "MAIL FROM:<me@client.test> MT-PRIORITY=-6"
        ) == [
            "450 4.7.15 Messages of this priority are not accepted now",
            "550 5.7.15 Messages of this priority are not accepted",
        ]
        for size, reply in ((1, "250 2.0.0"), (200, "552 5.7.16 Message too big for its priority")):
            await client.command("MAIL FROM:<me@client.test> MT-PRIORITY=6", "250 2.1.0")
            await client.command("RCPT TO:<you@mx.test>", "250")
            await client.command("DATA", "354")
            await client.send(MESSAGE + b"x" * size + b"\r\n.\r\n")
            await client.expect(reply)
    assert hooks.errors == []


@pytest.mark.parametrize(
    ("params", "recipients", "clauses"),
    [
        (" MT-PRIORITY=3", 1, "for <0@mx.test> PRIORITY 3;"),
        (" MT-PRIORITY=3", 2, "PRIORITY 3;"),
        (" MT-PRIORITY=0", 2, "PRIORITY 0;"),
        ("", 2, ";"),
    ],
)
async def test_priority_in_the_received_field(params: str, recipients: int, clauses: str) -> None:
    """It comes after the other clauses, also if no recipient may be named (RFC 5321 4.4 and 7.2)."""
    hooks = Priorities()
    async with connected(server(hooks, MtPriority())) as client:
        await client.hello()
        await client.command(f"AUTH PLAIN {SECRET}", "235")
        await client.command(f"MAIL FROM:<me@client.test>{params}", "250")
        for number in range(recipients):
            await client.command(f"RCPT TO:<{number}@mx.test>", "250")
        await client.command("DATA", "354")
        await client.command("Subject: hi\r\n\r\nhello\r\n.", "250")
    [field] = hooks.fields
    unfolded = re.sub(r"\r\n[ \t]+", " ", field.decode())
    before, _, date = unfolded.partition("; ")
    found = re.fullmatch(rf"Received: from client\.test \(.*\) by {NAME} with ESMTPA id [0-9a-f]+-[0-9]+ ?(.*)", before)
    assert found is not None, unfolded
    assert f"{found[1]};" == clauses
    assert date.endswith("\r\n")


# --- RRVS, RFC 7293 5.1 and 15.3 ----------------------------------------------------------------------------------------


class Owners(RecordingHooks):
    """Knows owners of some mailboxes."""

    async def rcpt(self, session: Session, rcpt: Rcpt) -> Reply | None:
        if RRVS not in rcpt.params:
            return None
        replies = {"sold": DOMAIN_OWNER_CHANGED, "unknown": CANNOT_TEST, "new": OWNER_CHANGED}
        return replies.get(rcpt.recipient.local)


async def test_application_tests_the_owner() -> None:
    hooks, since = Owners(), "RRVS=2014-04-03T23:01:00Z"
    async with connected(server(hooks, RequireRecipientValidSince())) as client:
        await client.hello()
        await client.command("MAIL FROM:<me@client.test>", "250")
        names = ("new", "sold", "unknown", "old")
        found = await replies(client, *(f"RCPT TO:<{name}@mx.test> {since}" for name in names))
        assert [reply[:10] for reply in found] == ["550 5.7.17", "550 5.7.18", "550 5.7.19", "250 2.1.5 "]
        await client.command("RCPT TO:<sold@mx.test>", "250 2.1.5")
        await client.command("DATA", "354")
        await client.command("Subject: hi\r\n\r\nhello\r\n.", "250")
    assert (len(hooks.messages), hooks.errors) == (1, [])


# --- BURL, RFC 4468 4 ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", [EightBitMime, Chunking])
def test_burl_requires_other_extensions(missing: type[Extension]) -> None:
    """A server with BURL must offer 8BITMIME (RFC 4468 4), and BURL is a form of BDAT (3.2)."""
    extensions = standard(BurlExtension(), without=(missing, SmtpUtf8))  # SMTPUTF8 requires 8BITMIME too
    with pytest.raises(ValueError, match=f"BURL requires {missing.keyword}"):
        Server(extensions=extensions)


async def test_burl_is_offered_with_8bitmime() -> None:
    class Fetching(RecordingHooks):
        async def burl(self, session: Session, burl: Command) -> None:
            raise AssertionError

    async with connected(server(Fetching(), BurlExtension())) as client:
        words = (await client.hello()).replace("-", " ").split()
    assert {"BURL", "8BITMIME", "CHUNKING"} <= set(words)


# --- ETRN, RFC 1985 5.3, and ATRN, RFC 2645 5.2 ---------------------------------------------------------------------------


class EtrnQueues(WithLogin):
    """Replies with what the first label of the domain says."""

    async def etrn(self, session: Session, etrn: Etrn) -> Reply:
        return Reply(int(etrn.node.partition(".")[0][1:]), "Answer")


class AtrnQueues(WithLogin):
    """Replies with what the first label of the domain says."""

    async def atrn(self, session: Session, atrn: Atrn) -> Reply:
        return Reply(int(atrn.domains[0].partition(".")[0][1:]), "Answer")


@pytest.mark.parametrize("code", [250, 251, 252, 253, 458, 459])
async def test_replies_to_etrn(code: int) -> None:
    hooks = EtrnQueues()
    async with connected(server(hooks, EtrnExtension())) as client:
        await client.hello()
        reply = await client.command(f"ETRN n{code}.test", f"{code} {code // 100}.")
        assert reply.endswith(" Answer")
        await client.command("NOOP", "250")
    assert hooks.errors == []


@pytest.mark.parametrize("code", [450, 451, 453, 502])
async def test_refusals_of_atrn(code: int) -> None:
    hooks = AtrnQueues()
    async with connected(server(hooks, AtrnExtension())) as client:
        await client.hello()
        await client.command(f"ATRN n{code}.test", "530 5.7.0")
        await client.command(f"AUTH PLAIN {SECRET}", "235")
        await client.command(f"ATRN n{code}.test", f"{code} {code // 100}.")
        # The roles were not reversed.
        await client.command("MAIL FROM:<me@client.test>", "250")
        await client.command(f"ATRN n{code}.test", "503 5.5.1")
        await client.quit()
    assert hooks.errors == []


async def test_without_hooks_etrn_and_atrn_are_not_implemented() -> None:
    hooks = WithLogin()
    async with connected(server(hooks, EtrnExtension(), AtrnExtension())) as client:
        assert not {"ETRN", "ATRN"} & set((await client.hello()).replace("-", " ").split())
        await client.command("ETRN x.test", "502 5.5.1")
        await client.command(f"AUTH PLAIN {SECRET}", "235")
        await client.command("ATRN x.test", "502 5.5.1")
    assert hooks.errors == []


@pytest.mark.parametrize(
    ("extension", "hooks"), [(EtrnExtension(), EtrnQueues()), (AtrnExtension(), AtrnQueues())], ids=["etrn", "atrn"]
)
async def test_code_that_the_command_does_not_have(extension: Any, hooks: Any) -> None:
    """It is an error of the hook, and the client is told to try later."""
    verb = extension.keyword
    async with connected(server(hooks, extension)) as client:
        await client.hello()
        await client.command(f"AUTH PLAIN {SECRET}", "235")
        await client.command(f"{verb} n354.test", "451 4.3.0")
        await client.quit()
    assert len(hooks.errors) == 1
    assert "354" in str(hooks.errors[0])
