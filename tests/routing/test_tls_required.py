"""The header field TLS-Required (RFC 8689 3): the sender asks to ignore the TLS policies of the recipients' domains."""

from __future__ import annotations

import email
import email.policy
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from smtp_trio import Server
from smtp_trio.protocol import Params
from smtp_trio.protocol.extensions.requiretls import REQUIRETLS
from smtp_trio.routing import DomainPool, DomainsResult, send
from smtp_trio.testing import Inbox, memory_network

from .test_connect import ONE, OTHER, SERVER, TWO, Published, certified, signed

ASKING = b"Subject: hi\r\nTLS-Required: No\r\n\r\nhello\r\n"


async def deliver(message: Any, inbox: Inbox, context: Any, pooled: bool = False, **settings: Any) -> DomainsResult:
    """Send a message to example.org, whose server has this TLS context."""
    given: dict[str, Any] = {"sender": "me@example.net", "recipients": ["you@example.org"]}
    given |= {name: settings.pop(name) for name in ("mail_params",) if name in settings}
    server = Server(inbox, tls=context)
    async with memory_network({ONE: server, TWO: server}):
        if pooled:
            async with DomainPool(**settings) as pool:
                return await pool.send(message, **given)
        return await send(message, **given, **settings)


async def pieces(message: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(message), size):
        yield message[start : start + size]


def file(message: bytes, directory: Path) -> Path:
    (directory / "message").write_bytes(message)
    return directory / "message"


def parsed(message: bytes, _: Path) -> email.message.EmailMessage:
    return email.message_from_bytes(message, policy=email.policy.default)


SOURCES: dict[str, Callable[[bytes, Path], Any]] = {
    "bytes": lambda message, _: message,
    "line feeds": lambda message, _: message.replace(b"\r\n", b"\n"),
    "mbox": lambda message, _: b"From me@example.net Sat Nov 28 12:00:00 2026\n" + message,
    "bytearray": lambda message, _: bytearray(message),
    "email message": parsed,
    "compat32": lambda message, _: email.message_from_bytes(message),
    "file": file,
    "large header": lambda message, path: file(b"X: " + b"x" * (1 << 17) + b"\r\n" + message, path),
    "iterable": lambda message, _: pieces(message, 3),
    "large iterable": lambda message, _: pieces(message + b"x" * 78 * (1 << 14), 1 << 16),
}


@pytest.mark.parametrize("source", SOURCES)
async def test_policy_is_ignored(source: str, tmp_path: Path) -> None:
    """The certificate is not valid for the exchanger, and MTA-STS requires that it is."""
    context = certified("x.example")
    policy = Published("enforce", "*.example").settings()
    inbox = Inbox()
    plain = ASKING.replace(b"TLS-Required: No\r\n", b"")
    assert not (await deliver(SOURCES[source](plain, tmp_path), inbox, context, **policy)).accepted
    result = await deliver(SOURCES[source](ASKING, tmp_path), inbox, context, **policy)
    assert result.complete
    assert b"TLS-Required: No\r\n" in inbox[0].raw
    assert inbox[0].tls is not None  # TLS is used where it is offered


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("tls", [True, False], ids=["other certificate", "no tls"])
async def test_dane_is_ignored(tls: bool, pooled: bool, tmp_path: Path) -> None:
    context = OTHER.server_context(tmp_path) if tls else None
    resolver = signed(str(SERVER.record(3)))
    inbox = Inbox()
    result = await deliver(ASKING.replace(b"TLS-Required: No\r\n", b""), inbox, context, pooled, resolver=resolver)
    assert [each.reply.status for each in result.rejected] == ["4.7.5" if tls else "4.7.4"]
    assert (await deliver(ASKING, inbox, context, pooled, resolver=resolver)).complete


async def test_exchanger_that_the_policy_does_not_name() -> None:
    policy = Published("enforce", "elsewhere.example").settings()
    inbox = Inbox()
    assert (await deliver(ASKING, inbox, certified("a.example"), **policy)).complete


async def test_connection_of_such_a_message_is_not_used_for_others() -> None:
    """A pool keeps it apart from those that comply with the policy."""
    inbox = Inbox()
    server = Server(inbox, tls=certified("x.example"))
    given: dict[str, Any] = {"sender": "me@example.net", "recipients": ["you@example.org"]}
    async with memory_network({ONE: server, TWO: server}):
        async with DomainPool(**Published("enforce", "*.example").settings()) as pool:
            assert (await pool.send(ASKING, **given)).complete
            assert not (await pool.send(b"Subject: hi\r\n\r\n", **given)).accepted
    assert len(inbox) == 1


@pytest.mark.parametrize(
    "header",
    [
        b"TLS-Required: Yes", b"TLS-Required:", b"TLS-Required: No, please", b"X-TLS-Required: No",
        b"TLS-Required: No\r\nTLS-Required: No", b"TLS-Required: No\r\ntls-required: Yes", b"X: y\r\n TLS-Required: No",
        b"Subject: hi\r\n\r\nTLS-Required: No", b"\r\nTLS-Required: No",
    ],
)  # fmt: skip
async def test_field_without_effect(header: bytes) -> None:
    """RFC 8689 3: "No" is the only value, and there must not be two of them."""
    policy = Published("enforce", "*.example").settings()
    result = await deliver(header + b"\r\n\r\nhello\r\n", Inbox(), certified("x.example"), **policy)
    assert [each.reply.status for each in result.rejected] == ["4.7.5"]


@pytest.mark.parametrize("field", [b"tls-required:no", b"TLS-Required:\r\n No", b"TLS-REQUIRED \t: \tNO \t"])
async def test_forms_of_the_field(field: bytes) -> None:
    policy = Published("enforce", "*.example").settings()
    message = b"Subject: hi\r\n" + field + b"\r\n\r\nhello\r\n"
    assert (await deliver(message, Inbox(), certified("x.example"), **policy)).complete


async def test_requiretls_wins() -> None:
    """RFC 8689 4.1."""
    policy = Published("enforce", "*.example").settings()
    params = Params({REQUIRETLS: True})
    result = await deliver(ASKING, Inbox(), certified("x.example"), mail_params=params, **policy)
    assert not result.accepted


async def test_requirement_of_the_caller_remains(tmp_path: Path) -> None:
    resolver = signed(str(SERVER.record(3)))
    result = await deliver(ASKING, Inbox(), OTHER.server_context(tmp_path), resolver=resolver, dane="required")
    assert [each.reply.status for each in result.rejected] == ["4.7.5"]


async def test_fifo_is_read_once(tmp_path: Path) -> None:
    """So the field has no effect there."""
    path, inbox = tmp_path / "fifo", Inbox()
    os.mkfifo(path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, path.write_bytes, ASKING)
        result = await deliver(path, inbox, certified("a.example"), resolver=Published("none").resolver)
    assert result.complete
    assert inbox[0].raw.endswith(ASKING)


async def test_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await deliver(tmp_path / "none", Inbox(), None, resolver=Published("none").resolver)
