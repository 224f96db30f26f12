"""What Exim and Postfix send to a server: BDAT, DSN, SIZE, SMTPUTF8, and as many recipients as LIMITS allows.

Debian 12's Exim 4.96 does not support LIMITS, and its light package does not support PROXY; 4.98 of its backports does. No
version of Postfix sends BDAT, and none sends XCLIENT, which nginx does (`test_nginx`); `test_proxies` has XFORWARD.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pytest
import trio
from ports import free_port

import smtp_trio
from smtp_trio import Body, Reply, Server, Session, standard
from smtp_trio.protocol import Extension, Params
from smtp_trio.protocol.extensions import Chunking, LimitsExtension
from smtp_trio.protocol.extensions.dsn import ENVID, NOTIFY, ORCPT, RET
from smtp_trio.protocol.extensions.eightbitmime import BODY
from smtp_trio.protocol.extensions.size import SIZE
from smtp_trio.protocol.extensions.smtputf8 import SMTPUTF8
from smtp_trio.testing import Inbox, ReceivedMail

from .conftest import require_server
from .relays import start_relay
from .servers import POLL
from .setups import ADDRESS

pytestmark = pytest.mark.interop

ADA, BO = "ada@example.net", "bo@example.com"
HEADER = (
    b"From: ada@example.net\r\nTo: bo@example.com\r\nSubject: hi\r\nDate: Mon, 16 Mar 2026 08:00:00 +0000\r\n"
    b"Message-ID: <20260316080000.14@example.net>\r\n"
)
MESSAGE = HEADER + b"\r\nhello\r\n.\r\n..\r\nbye\r\n"
EIGHT_BIT = (
    HEADER
    + b"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n\xc3\xa9\r\n"
)
WAIT = 120


class Relayed:
    """What a relay has sent: the messages, and the command lines of each session."""

    def __init__(self, inbox: Inbox) -> None:
        self.messages = list(inbox)
        sessions = [transcript.octets("C") for transcript in inbox.transcripts]
        # The content of a message is not looked for among the commands: no line of these messages begins like one.
        self.sessions = [
            re.findall(rb"(?m)^(?:MAIL|RCPT|DATA|BDAT|RSET|QUIT)\b[^\r\n]*", octets) for octets in sessions
        ]

    @property
    def verbs(self) -> list[bytes]:
        """The verbs of all sessions."""
        return [line[:4] for session in self.sessions for line in session]

    def lines(self, verb: bytes) -> list[bytes]:
        """Return the lines of all sessions that begin with a verb."""
        return [line for session in self.sessions for line in session if line.startswith(verb)]


async def relay(
    name: str,
    recipients: Sequence[str] = (BO,),
    message: bytes = MESSAGE,
    *,
    messages: int = 1,
    extensions: Sequence[Extension] = standard(),
    options: Sequence[str] = (),
    hooks: Inbox | None = None,
    **params: Any,
) -> Relayed:
    """Send a message to a relay, and return what it sends to our server, which gets a number of messages."""
    require_server(name)
    inbox, port = hooks or Inbox(), free_port()
    next_server = Server(inbox, name="next.test", extensions=extensions)
    with start_relay(name, port, options) as server, trio.fail_after(4 * WAIT):
        async with trio.open_nursery() as nursery:
            await nursery.start(next_server.serve, port, ADDRESS)
            async with smtp_trio.connect(server.host, server.port, tls="never", timeout=WAIT) as client:
                assert (await client.send(ADA, recipients, message, **params)).complete
            with trio.fail_after(WAIT):
                await inbox.wait_for(messages)
            await next_server.stop(WAIT)
    return Relayed(inbox)


def content(mail: ReceivedMail) -> bytes:
    """Return a message without the fields that the relay has added before it."""
    return mail.raw[mail.raw.index(b"From: ") :]


# --- CHUNKING ------------------------------------------------------------------------------------------------------


async def test_exim_sends_bdat() -> None:
    """Exim sends BDAT whenever a server offers CHUNKING, and DATA otherwise."""
    sent = await relay("exim")
    assert b"BDAT" in sent.verbs
    assert b"DATA" not in sent.verbs
    assert sent.lines(b"BDAT")[-1].endswith(b" LAST")
    assert content(sent.messages[0]) == MESSAGE

    sent = await relay("exim", extensions=standard(without=(Chunking,)))
    assert b"DATA" in sent.verbs
    assert b"BDAT" not in sent.verbs
    assert content(sent.messages[0]) == MESSAGE


async def test_exim_sends_a_message_in_chunks() -> None:
    """A chunk with the fields that it has added, and another one with the rest."""
    message = HEADER + b"\r\n" + b"".join(b"%07d %s\r\n" % (n, b"x" * 60) for n in range(2000))
    sent = await relay("exim", message=message)
    sizes = [int(line.split()[1]) for line in sent.lines(b"BDAT")]
    assert len(sizes) > 1
    assert [line.endswith(b" LAST") for line in sent.lines(b"BDAT")] == [*[False] * (len(sizes) - 1), True]
    assert sum(sizes) == len(sent.messages[0].raw)
    assert content(sent.messages[0]) == message


async def test_postfix_sends_data() -> None:
    """The client of Postfix does not know CHUNKING, which its server offers."""
    sent = await relay("postfix")
    assert sent.verbs == [b"MAIL", b"RCPT", b"DATA", b"QUIT"]
    assert content(sent.messages[0]) == MESSAGE


# --- SIZE, 8BITMIME, SMTPUTF8 and DSN ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "body"), [("postfix", "8BITMIME"), ("exim", None)])
async def test_size_and_body(name: str, body: str | None) -> None:
    """Exim does not declare an 8-bit message, which is accepted and kept as it is (RFC 6152)."""
    sent = await relay(name, message=EIGHT_BIT)
    [mail] = sent.messages
    assert mail.envelope.params[SIZE] >= len(EIGHT_BIT)
    assert b" SIZE=%d" % mail.envelope.params[SIZE] in sent.lines(b"MAIL")[0]
    assert mail.envelope.params.get(BODY) == body
    assert content(mail) == EIGHT_BIT


@pytest.mark.parametrize("name", ["postfix", "exim"])
async def test_smtputf8(name: str) -> None:
    recipient = "b\u00f6@example.com"
    sent = await relay(name, [recipient])
    [mail] = sent.messages
    assert mail.envelope.params[SMTPUTF8] is True
    assert mail.recipients == (recipient,)
    if name == "postfix":  # the UTF-8 in xtext, which RFC 3461 does not have
        assert mail.envelope.rcpts[0].params[ORCPT] == f"rfc822;{recipient}"
    assert sent.lines(b"RCPT")[0].startswith(b"RCPT TO:<b\xc3\xb6@example.com>")


@pytest.mark.parametrize("name", ["postfix", "exim"])
async def test_smtputf8_is_not_sent_without_need(name: str) -> None:
    sent = await relay(name)
    assert SMTPUTF8 not in sent.messages[0].envelope.params
    assert b"SMTPUTF8" not in sent.lines(b"MAIL")[0]


@pytest.mark.parametrize("name", ["postfix", "exim"])
async def test_dsn(name: str) -> None:
    sent = await relay(
        name,
        mail_params=Params({RET: "HDRS", ENVID: "QQ 314+159="}),
        rcpt_params={BO: Params({NOTIFY: frozenset({"SUCCESS", "DELAY"}), ORCPT: "rfc822;Bob+1@example.com"})},
    )
    [mail], [line], [rcpt] = sent.messages, sent.lines(b"MAIL"), sent.lines(b"RCPT")
    assert [b" RET=HDRS" in line, b" ENVID=QQ+20314+2B159+3D" in line] == [True, True]
    assert [b" NOTIFY=SUCCESS,DELAY" in rcpt, b" ORCPT=rfc822;Bob+2B1@example.com" in rcpt] == [True, True]
    assert mail.envelope.rcpts[0].params[NOTIFY] == {"SUCCESS", "DELAY"}
    assert mail.envelope.rcpts[0].params[ORCPT] == "rfc822;Bob+1@example.com"


UNUSUAL = {
    "plus": "a+b=c@example.com",
    "quoted": '"a b"@example.com',
    "backslash": '"a\\\\b\\"c"@example.com',
    "apostrophe": "o'hara@example.com",
    "percent": "a%b!c@example.com",
    "utf-8": "b\u00f6@example.com",
    "quoted utf-8": '"b \u00f6"@example.com',
    "utf-8 domain": "b\u00f6@b\u00fccher.example",
}


@pytest.mark.parametrize("recipient", UNUSUAL.values(), ids=UNUSUAL)
@pytest.mark.parametrize("name", ["postfix", "exim"])
async def test_unusual_recipients(name: str, recipient: str) -> None:
    """They arrive, with the ORCPT that the relay makes for them."""
    rcpt_params = {recipient: Params({NOTIFY: frozenset({"FAILURE"})})}
    sent = await relay(name, [recipient], rcpt_params=rcpt_params)
    [mail] = sent.messages
    assert mail.recipients == (recipient,)
    assert mail.envelope.rcpts[0].params[NOTIFY] == {"FAILURE"}
    if name == "postfix":
        assert mail.envelope.rcpts[0].params[ORCPT].startswith("rfc822;")


# --- LIMITS ------------------------------------------------------------------------------------------------------

FIVE = [f"b{number}@example.com" for number in range(5)]
DOMAINS = [f"bo@{name}.example.com" for name in "abc"]


async def test_exim_obeys_rcptmax() -> None:
    sent = await relay("exim-current", FIVE, messages=3, extensions=standard(LimitsExtension(rcpt_max=2)))
    assert sorted(len(mail.recipients) for mail in sent.messages) == [1, 2, 2]
    assert sorted(name for mail in sent.messages for name in mail.recipients) == FIVE
    assert sent.verbs.count(b"RCPT") == 5


async def test_exim_obeys_mailmax() -> None:
    """It opens another connection for a further message."""
    limits = LimitsExtension(mail_max=1, rcpt_max=2)
    sent = await relay("exim-current", FIVE, messages=3, extensions=standard(limits))
    assert sorted(name for mail in sent.messages for name in mail.recipients) == FIVE
    assert [sum(line.startswith(b"MAIL") for line in session) for session in sent.sessions] == [1, 1, 1]


async def test_exim_obeys_rcptdomainmax() -> None:
    """It sends a message to one domain at a time.

    For RFC 9422 4.3 it is a limit of the session. Exim does not open another connection for another domain, so our server
    refuses that domain with 452, and Exim has to send the message again later. With MAILMAX=1 it opens one, and sends MAIL
    without RCPT.
    """
    sent = await relay("exim-current", DOMAINS, extensions=standard(LimitsExtension(rcpt_domain_max=1)))
    assert len(sent.messages[0].recipients) == 1
    assert [line[:4] for line in sent.sessions[0][:6]] == [b"MAIL", b"RCPT", b"BDAT"] * 2


async def test_exim_without_limits() -> None:
    """It sends one message to all recipients."""
    sent = await relay("exim-current", FIVE)
    assert [sorted(mail.recipients) for mail in sent.messages] == [FIVE]


# --- LMTP --------------------------------------------------------------------------------------------------------


class MixedInbox(Inbox):
    """An inbox where the mailbox "full" is full, and "gone" is closed."""

    async def data(self, session: Session, body: Body) -> list[Reply | None]:
        await super().data(session, body)
        replies = {"full": Reply(452, "Mailbox full", "4.2.2"), "gone": Reply(550, "Mailbox closed", "5.2.1")}
        return [replies.get(rcpt.recipient.local) for rcpt in body.envelope.rcpts]


async def test_exim_delivers_by_lmtp() -> None:
    """It has an outcome for each recipient: delivered, deferred and failed."""
    recipients = [f"{name}@example.com" for name in ("bo", "full", "gone")]
    require_server("exim")
    inbox, port = MixedInbox(), free_port()
    next_server = Server(inbox, name="next.test", lmtp=True)
    with start_relay("exim", port, ["protocol = lmtp", "hosts_try_chunking = *"]) as server, trio.fail_after(2 * WAIT):
        async with trio.open_nursery() as nursery:
            await nursery.start(next_server.serve, port, ADDRESS)
            async with smtp_trio.connect(server.host, server.port, tls="never", timeout=WAIT) as client:
                await client.send(ADA, recipients, MESSAGE)
            for _ in range(int(WAIT / POLL)):  # the log has the outcomes after the session
                text = (server.directory / "mainlog").read_text()
                if "== full@" in text and "** gone@" in text:
                    break
                await trio.sleep(POLL)
            await next_server.stop(WAIT)
    assert content(inbox[0]) == MESSAGE
    assert inbox[0].recipients == tuple(recipients)
    assert re.search('=> bo@.* C="250 2\\.0\\.0 ', text)
    assert re.search("== full@.*452 4\\.2\\.2 Mailbox full", text)
    assert re.search("\\*\\* gone@.*550 5\\.2\\.1 Mailbox closed", text)
