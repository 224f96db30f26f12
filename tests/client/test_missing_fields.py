"""Date and Message-ID of email messages that have none."""

from __future__ import annotations

import email
import email.policy
import re
from email.message import EmailMessage, Message
from email.utils import parsedate_to_datetime
from typing import Any

import pytest
import trio
from scripted import ENVELOPE, GO_AHEAD, ME, OK, READ_BODY, UNPIPELINED, YOU, hello, scripted
from trio.testing import MockClock

import smtp_trio
from smtp_trio import Hooks, Pool, Server
from smtp_trio._client.missing_fields import add_missing_fields

POLICIES = [email.policy.default, email.policy.SMTPUTF8, email.policy.compat32]
TEXT = b"From: a@from.test\r\nTo: c@d\r\n"


@pytest.mark.parametrize("policy", POLICIES, ids=["default", "SMTPUTF8", "compat32"])
@pytest.mark.parametrize(
    "present", [b"", b"Date: x\r\n", b"message-id: <x@y>\r\n", b"DATE: x\r\nMessage-Id: <x@y>\r\n"]
)
def test_only_missing_fields_are_added(present: bytes, policy: email.policy.Policy) -> None:
    text = TEXT + present + b"\r\nx\r\n"
    message: Any = email.message_from_bytes(text, policy=policy)
    added = add_missing_fields(message, "me@sender.test")
    assert message.as_bytes(policy=policy.clone(linesep="\r\n")) == text
    names = [name.lower() for name in added.keys()]  # noqa: SIM118
    assert sorted(names) == ["date", "from", "message-id", "to"]
    assert (added is message) == (b"Id" in present)
    for name in message.keys():  # noqa: SIM118
        assert added[name] == message[name]
    if b"ate" not in present.lower():
        assert parsedate_to_datetime(added["Date"]).tzinfo is not None
    if b"message" not in present.lower():
        assert re.fullmatch(r"<[^<>@\s]+@sender\.test>", added["Message-ID"])


@pytest.mark.parametrize(
    ("sender", "fields", "domain"),
    [
        ("a@b\u00fccher.test", "", "xn--bcher-kva.test"),
        ("a@[192.0.2.1]", "", "[192.0.2.1]"),
        ("", "From: x@From.test\r\n", "from.test"),
        ("", "From: x y\r\nSender: z@sender.test", "sender.test"),
        ("", "", "localhost"),
        ("", "From: not an address\r\n", "localhost"),
        ("Postmaster", "From: Postmaster, x@y.test\r\n", "y.test"),
    ],
)
def test_domain_of_the_message_id(sender: str, fields: str, domain: str) -> None:
    for policy in POLICIES:
        message = email.message_from_bytes(fields.strip().encode() + b"\r\n\r\nx\r\n", policy=policy)
        assert add_missing_fields(message, sender)["Message-ID"].endswith(f"@{domain}>")
        assert "Message-ID" not in message


def test_invalid_sender() -> None:
    for sender, error in (("a b", ValueError), (None, TypeError)):
        with pytest.raises(error, match="sender"):
            add_missing_fields(EmailMessage(), sender)  # type: ignore[arg-type]


def test_each_message_has_its_own_id() -> None:
    assert add_missing_fields(Message(), ME)["Message-ID"] != add_missing_fields(Message(), ME)["Message-ID"]


def test_fields_are_added_after_a_byte_order_mark() -> None:
    message = email.message_from_bytes(b"\xef\xbb\xbf" + TEXT + b"\r\nx\r\n")
    assert add_missing_fields(message, ME).keys() == ["From", "To", "Date", "Message-ID"]


async def test_fields_are_sent_unless_they_are_not_wanted(autojump_clock: MockClock) -> None:
    message = EmailMessage()
    message["From"], message["To"] = ME, YOU
    message.set_content("x")
    async with scripted(*hello(), *UNPIPELINED * 3) as script, script.client() as client:
        await client.send_message(message)
        await client.send_message(message, add_headers=False)
        await client.send(ME, [YOU], message)
    assert b"\r\nDate: " in script.bodies[0]
    assert b"\r\nMessage-ID: <" in script.bodies[0]
    assert script.bodies[1] == script.bodies[2]
    assert b"Date" not in script.bodies[1]
    assert b"Message-ID" not in script.bodies[1]


async def test_message_id_is_the_same_for_all_recipients(autojump_clock: MockClock) -> None:
    """They may get the message in several transactions."""
    message = EmailMessage()
    message["From"], message["To"] = ME, f"{YOU}, other@mx.test"
    two = ("MAIL .*", "RCPT .*", "RCPT .*", "DATA", OK + OK + b"452 later\r\n" + GO_AHEAD, READ_BODY, OK)
    async with scripted(*hello("PIPELINING"), *two, *ENVELOPE, "DATA", OK * 2 + GO_AHEAD, READ_BODY, OK) as script:
        async with script.client() as client:
            assert (await client.send_message(message)).complete
    assert script.bodies[0] == script.bodies[1]
    assert b"Message-ID: <" in script.bodies[0]


class Keep(Hooks):
    """Hooks that keep the messages."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []

    async def data(self, session: smtp_trio.Session, body: smtp_trio.Body) -> None:
        self.messages.append(await body.read())


async def test_function_send_and_pool() -> None:
    message = EmailMessage()
    message["From"], message["To"] = ME, YOU
    message.set_content("x")
    hooks = Keep()
    async with trio.open_nursery() as nursery:
        server = Server(hooks)
        [listener] = await nursery.start(server.serve, 0, "127.0.0.1")
        port = listener.socket.getsockname()[1]
        for add in (True, False):
            await smtp_trio.send(message, "127.0.0.1", port, add_headers=add)
            async with Pool("127.0.0.1", port) as pool:
                await pool.send_message(message, add_headers=add)
        await server.stop()
    assert [b"Message-ID: <" in each and b"Date: " in each for each in hooks.messages] == [True, True, False, False]
