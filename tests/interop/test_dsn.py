"""Requests for delivery status notifications, and the notifications, to and from Postfix and Exim."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from email.message import EmailMessage, Message
from typing import Any

import pytest
import trio
from ports import free_port

import smtp_trio
from smtp_trio import Rcpt, Reply, Server, Session, standard
from smtp_trio.dsn import Original, RecipientStatus, build_report
from smtp_trio.protocol import Params
from smtp_trio.protocol.extensions import Dsn
from smtp_trio.protocol.extensions.dsn import ENVID, NOTIFY, ORCPT, RET
from smtp_trio.testing import Inbox

from . import servers as programs
from .conftest import require_server
from .relays import RELAYS, start_relay
from .setups import ADDRESS

pytestmark = pytest.mark.interop

ADA, BO = "ada@example.net", "bo@example.com"
MESSAGE = b"From: ada@example.net\r\nTo: bo@example.com\r\nSubject: hi\r\n\r\nhello\r\n"
ENVELOPE_ID = "QQ 314+159="
WAIT = 240


@pytest.fixture(params=RELAYS)
def relay(request: pytest.FixtureRequest) -> Iterator[tuple[programs.Server, int]]:
    """A relay, and the port to which it passes all mail on."""
    require_server(request.param)
    port = free_port()
    with start_relay(request.param, port) as server:
        yield server, port


class RefusingInbox(Inbox):
    """An inbox without a mailbox for "nemo"."""

    async def rcpt(self, session: Session, rcpt: Rcpt) -> Reply | None:
        return Reply(550, "No such user here", "5.1.1") if rcpt.recipient.local == "nemo" else None


async def send(server: programs.Server, recipients: Sequence[str], *notify: str) -> None:
    """Send a message with requests to a server, which has to accept it."""
    rcpt_params = {name: Params({NOTIFY: frozenset(notify), ORCPT: f"rfc822;Original+{name}"}) for name in recipients}
    async with smtp_trio.connect(server.host, server.port, tls="never", timeout=60) as client:
        assert "DSN" in client.offered
        result = await client.send(
            ADA,
            recipients,
            MESSAGE,
            mail_params=Params({RET: "HDRS", ENVID: ENVELOPE_ID}),
            rcpt_params=rcpt_params,
        )
    assert result.complete


async def relayed(
    relay: tuple[programs.Server, int], next_server: Server, inbox: Inbox, n: int, send_all: Callable[[], Any]
) -> None:
    """Send a message through a relay, and wait for messages in the inbox of the next server."""
    async with trio.open_nursery() as nursery:
        await nursery.start(next_server.serve, relay[1], ADDRESS)
        await send_all()
        with trio.fail_after(WAIT):
            await inbox.wait_for(n)
        await next_server.stop()


def report_of(message: EmailMessage) -> list[dict[str, str]]:
    """Return the fields of a report, in lower case: those of the message, and those of each recipient."""
    assert message.get_content_type() == "multipart/report"
    part = list(message.iter_parts())[1]
    assert part.get_content_type() == "message/delivery-status"
    groups: list[Message] = part.get_payload()  # type: ignore[assignment]
    return [{name.lower(): str(value) for name, value in group.items()} for group in groups if group.items()]


async def test_relay_passes_the_requests_on_to_our_server(relay: tuple[programs.Server, int]) -> None:
    inbox = Inbox()
    await relayed(relay, Server(inbox, name="next.test"), inbox, 1, lambda: send(relay[0], [BO], "SUCCESS", "FAILURE"))

    envelope = inbox[0].envelope
    assert (envelope.params.get(RET), envelope.params.get(ENVID)) == ("HDRS", ENVELOPE_ID)
    [rcpt] = envelope.rcpts
    assert rcpt.params.get(NOTIFY) == frozenset({"SUCCESS", "FAILURE"})
    assert rcpt.params.get(ORCPT) == f"rfc822;Original+{BO}"


@pytest.mark.parametrize("relay", ["postfix"], indirect=True)  # Exim starts itself anew for a report, which fails here
@pytest.mark.parametrize("action", ["failed", "relayed"])
async def test_relay_reports_with_our_envelope_id(relay: tuple[programs.Server, int], action: str) -> None:
    """Of a recipient that our server refuses, and of one that is relayed to our server without DSN."""
    inbox = RefusingInbox()
    server = Server(inbox, name="next.test", extensions=standard(without=(Dsn,)))
    name, notify, count = ("nemo@example.com", "FAILURE", 1) if action == "failed" else (BO, "SUCCESS", 2)
    await relayed(relay, server, inbox, count, lambda: send(relay[0], [name], notify))

    [mail] = [mail for mail in inbox if mail.sender == ""]
    assert mail.recipients == (ADA,)
    about, recipient = report_of(mail.message)
    assert about["original-envelope-id"] == ENVELOPE_ID
    assert recipient["original-recipient"].replace(" ", "") == f"rfc822;Original+{name}"
    assert recipient["action"] == action


async def test_sendmail_of_postfix_requests_reports() -> None:
    """The options -N and -V of Postfix's sendmail."""
    require_server("postfix")
    inbox, port = Inbox(), free_port()
    with start_relay("postfix", port) as server:
        command = [
            "sendmail",
            "-C",
            str(server.directory / "config"),
            "-N",
            "success,delay",
            "-V",
            "id-1",
            "-f",
            ADA,
            BO,
        ]

        async def submit() -> None:
            done = await trio.run_process(
                command, stdin=MESSAGE.replace(b"\r\n", b"\n"), check=False, capture_stderr=True
            )
            assert done.returncode == 0, done.stderr

        await relayed((server, port), Server(inbox, name="next.test"), inbox, 1, submit)
    envelope = inbox[0].envelope
    assert envelope.params.get(ENVID) == "id-1"
    assert envelope.rcpts[0].params.get(NOTIFY) == frozenset({"SUCCESS", "DELAY"})


HOSTILE = "550-5.1.1 no\r\n\r\nFinal-Recipient: rfc822; victim@example.com\r\n550 5.1.1 " + "x" * 100_000
STATUSES = {
    "plain": [RecipientStatus(BO, "failed", "5.1.1", "550 5.1.1 No such user", "mx.example.com")],
    "unusual": [
        RecipientStatus(name, "failed", "5.1.1", HOSTILE, "mx.example.com")
        for name in (
            " ",
            '"a  b"@example.com',
            f'"{" " * 300}"@example.com',
            "x" * 1000,
            "l" * 64 + "@" + "d." * 90 + "test",
        )
    ],
    "utf8": [
        RecipientStatus("\u7528\u6237@example.com", "failed", "5.1.1", "550 5.1.1 \u7528 " * 100, "mx.example.com")
    ],
}


@pytest.mark.parametrize("server", RELAYS, indirect=True)
@pytest.mark.parametrize("kind", STATUSES)
async def test_our_report_is_accepted_unchanged(server: programs.Server, kind: str) -> None:
    original = Original(sender="ada@example.org", message=MESSAGE, mail_params=Params({ENVID: ENVELOPE_ID}))
    async with smtp_trio.connect(server.host, server.port, tls="never", timeout=60) as client:
        report = build_report(original, STATUSES[kind], reporting_mta="mx.example.org", offers=client.offered)
        assert report is not None
        await client.send("", [report.recipient], report.message, mail_params=report.mail_params)
    assert server.received(1) == [report.message]
