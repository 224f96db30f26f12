"""The adapter for external conformance runners, against scripted servers: the octets on the wire, and the result."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest
import trio
from helpers import authority
from scripted import CLOSE, GO_AHEAD, NO_REPLY, OK, READ_BODY, Script, Step, ehlo_reply, hello, tls_handshake

from .adapter import run

HOST = "127.0.0.1"
MESSAGE = r"Subject: x\r\n\r\nbody\r\n"
ENVELOPE: tuple[Step, ...] = ("MAIL FROM:<a@client.test>", OK, "RCPT TO:<user@example.com>", OK)
DELIVERY: tuple[Step, ...] = (*ENVELOPE, "DATA", GO_AHEAD, READ_BODY, OK)
SUCCESS = {"ok": True, "exc": None}


@pytest.fixture(scope="module")
def cafile(tmp_path_factory: pytest.TempPathFactory) -> str:
    path: Path = tmp_path_factory.mktemp("ca") / "ca.pem"
    authority().cert_pem.write_to_path(path)
    return str(path)


async def run_adapter(cafile: str, *steps: Step, **call: Any) -> tuple[dict[str, Any], Script]:
    """Run the adapter in a thread, against a server with this script. Return its result, and the script."""
    call = {"mail_from": "a@client.test", "rcpts": ["user@example.com"], "data": MESSAGE, "cafile": cafile, **call}
    scripts: list[Script] = []

    async def serve() -> None:
        stream = await listener.accept()
        scripts.append(Script(stream, stream, steps))
        await scripts[0].run()

    (listener,) = await trio.open_tcp_listeners(0, host=HOST)
    with trio.fail_after(100):
        async with listener, trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            port = listener.socket.getsockname()[1]
            result = await trio.to_thread.run_sync(run, HOST, port, call)
    return result, scripts[0]


@pytest.mark.parametrize(
    ("data", "wire"),
    [
        (MESSAGE, b"Subject: x\r\n\r\nbody\r\n"),
        (r"\r\n.start\r\nx\r\n", b"\r\n..start\r\nx\r\n"),
        (r"\r\na\r\n.\r\nb\r\n", b"\r\na\r\n..\r\nb\r\n"),
        (r"\r\na\n.\nMAIL FROM:<x@y>\r.\rz", b"\r\na\r\n..\r\nMAIL FROM:<x@y>\r\n..\r\nz\r\n"),
        (r"\r\nlast", b"\r\nlast\r\n"),
        (r"\r\na\r\n.", b"\r\na\r\n..\r\n"),
    ],
    ids=["plain", "leading dot", "single dot", "bare LF and CR", "no final line end", "dot at the end"],
)
async def test_dots_are_stuffed_and_line_ends_are_crlf(data: str, wire: bytes, cafile: str) -> None:
    result, script = await run_adapter(cafile, *hello(), *DELIVERY, data=data)

    assert result == SUCCESS
    assert script.bodies == [wire]


async def test_data_repeat(cafile: str) -> None:
    result, script = await run_adapter(cafile, *hello(), *DELIVERY, data_repeat=[r"yy\r\n", 50000])

    assert result == SUCCESS
    assert script.bodies == [b"Subject: x\r\n\r\nbody\r\n" + b"yy\r\n" * 50000]


@pytest.mark.parametrize(
    "call",
    [
        {"mail_from": "a@client.test>\r\nRCPT TO:<evil@evil.test"},
        {"mail_from": "a@client.test>\nRCPT TO:<evil@evil.test"},
        {"mail_from": "a@client.test>\rRCPT TO:<evil@evil.test"},
        {"mail_from": "a\0@client.test"},
        {"mail_from": "a@client.test> SIZE=1 X=<"},
        {"rcpts": ["user@example.com", "user@example.com>\r\nDATA"]},
        {"rcpts": ["user@example.com\tX"]},
        {"rcpts": [""]},
        {"mail_options": ["BODY=8BITMIME\r\nDATA"]},
    ],
    ids=lambda call: ascii(call),
)
async def test_command_injection_raises_value_error_and_sends_nothing(call: dict[str, Any], cafile: str) -> None:
    result, script = await run_adapter(cafile, *hello("8BITMIME"), **call)

    assert result["exc"].startswith("ValueError(")
    assert script.lines == ["EHLO client.test"]


def test_header_injection_raises_value_error() -> None:
    call = {"mail_from": "", "rcpts": [], "data": MESSAGE, "headers": {"Subject": "x\r\nBcc: evil@evil.test"}}

    assert run(HOST, 0, call)["exc"].startswith("ValueError(")


async def test_mail_options_are_sent_unchanged(cafile: str) -> None:
    steps = (*hello("8BITMIME"), "MAIL FROM:<a@client.test> BODY=8BITMIME", *DELIVERY[1:])
    result, _ = await run_adapter(cafile, *steps, mail_options=["BODY=8BITMIME"])

    assert result == SUCCESS


async def test_bcc_field_is_not_sent(cafile: str) -> None:
    result, script = await run_adapter(cafile, *hello(), *DELIVERY, headers={"Bcc": "hidden@example.com"})

    assert result == SUCCESS
    assert b"hidden" not in script.bodies[0]


# --- replies --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "raised"),
    [
        (b"250-first\r\n550 second\r\n", "RemoteProtocolError"),  # RFC 5321 4.2.1
        (b"hello there\r\n", "InvalidReplyError"),
        (b"999 ok\r\n", "InvalidReplyError"),
        (b"100 hold\r\n", "InvalidReplyError"),
        (b"250 ok\n", "InvalidReplyError"),
        (b"354 go\r\n", "RemoteProtocolError"),
        (b"221 bye\r\n", "ConnectionLostError"),
        (b"250-more\r\n" * 1000, "RemoteProtocolError"),
        (b"450 4.2.1 later\r\n", "AllRecipientsRejectedError"),
        (b"550 5.7.1 no\r\n", "AllRecipientsRejectedError"),
        (b"421 4.3.2 gone\r\n", "AllRecipientsRejectedError"),
    ],
    ids=["two codes", "no code", "9yz", "1yz", "bare LF", "3yz", "221", "endless reply", "4yz", "5yz", "421"],
)
async def test_rcpt_is_not_sent_unless_the_reply_to_mail_is_250(reply: bytes, raised: str, cafile: str) -> None:
    result, script = await run_adapter(cafile, *hello(), "MAIL FROM:<a@client.test>", reply)

    assert result["exc"].startswith(f"{raised}(")
    assert not any(line.startswith("RCPT") for line in script.lines)


@pytest.mark.parametrize("unsolicited", [b"250 unsolicited\r\n", b"250 unso"])
async def test_unsolicited_reply_does_not_answer_the_next_command(unsolicited: bytes, cafile: str) -> None:
    result, script = await run_adapter(cafile, *hello()[:-1], ehlo_reply() + unsolicited)

    assert result["exc"].startswith("RemoteProtocolError(")
    assert script.lines == ["EHLO client.test"]


async def test_reply_before_the_end_of_the_message_is_raised(cafile: str) -> None:
    steps = (*hello(), *ENVELOPE, "DATA", GO_AHEAD, "Subject: x", b"552 5.3.4 too big\r\n", NO_REPLY)
    result, _ = await run_adapter(cafile, *steps, data_repeat=["y" * 998 + r"\r\n", 20000])

    assert result["exc"].startswith("AllRecipientsRejectedError(")
    assert "552 5.3.4 too big" in result["exc"]


@pytest.mark.parametrize("reply", [b"", b"354 go on\r\n", b"what?\r\n"])
async def test_delivery_is_unknown_without_a_valid_reply_to_the_message(reply: bytes, cafile: str) -> None:
    result, _ = await run_adapter(cafile, *hello(), *DELIVERY[:-1], reply, CLOSE)

    assert result["exc"].startswith("DeliveryUnknownError(")


# --- TLS and AUTH ---------------------------------------------------------------------------------------------------


async def test_starttls_needs_220(cafile: str) -> None:
    result, script = await run_adapter(cafile, *hello("STARTTLS"), "STARTTLS", b"250 sure\r\n", require_tls=True)

    assert result["exc"].startswith("RemoteProtocolError(")
    assert script.lines[:2] == ["EHLO client.test", "STARTTLS"]
    assert script.lines[2:] in ([], ["QUIT"])


async def test_required_tls_that_is_not_offered_ends_the_session(cafile: str) -> None:
    result, script = await run_adapter(cafile, *hello(), require_tls=True)

    assert result["exc"].startswith("NotOfferedError(")
    assert script.lines == ["EHLO client.test", "QUIT"]


@pytest.mark.parametrize(("name", "valid"), [(HOST, True), ("other.test", False)])
async def test_certificate_must_be_for_the_host(name: str, valid: bool, cafile: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority().issue_cert(name).configure_cert(context)
    steps = (*hello("STARTTLS"), "STARTTLS", b"220 go\r\n", tls_handshake(context, fails=not valid))
    after_tls = ("EHLO client.test", ehlo_reply(), *DELIVERY) if valid else ()

    result, script = await run_adapter(cafile, *steps, *after_tls, require_tls=True)

    if valid:
        assert result == SUCCESS
    else:
        assert result["exc"].startswith("TlsHandshakeError(")
        assert script.lines == ["EHLO client.test", "STARTTLS"]


async def test_error_of_a_rejected_login_does_not_contain_the_password(cafile: str) -> None:
    steps = (*hello("AUTH PLAIN"), "AUTH PLAIN AHRlc3QAczNjcjN0", b"535 5.7.8 no\r\n")
    result, script = await run_adapter(cafile, *steps, username="test", password="s3cr3t", allow_cleartext=True)

    assert result["exc"].startswith("ReplyError(")
    assert "s3cr3t" not in result["exc"]
    assert not any(line.startswith("MAIL") for line in script.lines)


async def test_password_is_not_sent_in_cleartext_unless_allowed(cafile: str) -> None:
    result, script = await run_adapter(cafile, *hello("AUTH PLAIN"), username="test", password="s3cr3t")

    assert not result["ok"]
    assert not any(line.startswith("AUTH") for line in script.lines)
