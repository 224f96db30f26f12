"""smtp_trio's client sends to other servers: they store the messages unchanged."""

from __future__ import annotations

import smtplib
import ssl
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import trio

import smtp_trio
from smtp_trio import TlsMode

from .conftest import require_server
from .mails import DIRECTORY, MAILS, large
from .programs import Tls
from .servers import POLL, Server, start
from .setups import KEYWORDS, SETUPS

pytestmark = pytest.mark.interop

MODES: list[tuple[str, Tls]] = [
    (name, tls)
    for name, setup in SETUPS.items()
    for tls in (("none", "starttls", "implicit") if setup.secure else ("none",))
]
EVERY_MAIL = [
    pytest.param(name, tls, mail, id=f"{name}-{tls}-{mail.stem}")
    for name, tls in MODES
    for mail in MAILS
    if mail.stem not in SETUPS[name].alters
]
LOGINS = [(name, tls) for name, tls in MODES if tls != "none" and SETUPS[name].logins]
modes = pytest.mark.parametrize(("server", "tls"), MODES, indirect=["server"])
PLAIN = DIRECTORY / "plain.eml"
HUNDRED = tuple(f"bo{number}@example.org" for number in range(100))


async def send(
    server: Server,
    tls: Tls,
    message: bytes | Path,
    *,
    recipients: Sequence[str] = ("bo@example.org",),
    auth: tuple[str, str] | None = None,
) -> None:
    """Send a message to the server with smtp_trio's client."""
    port = server.implicit_port if tls == "implicit" else server.port
    assert port is not None
    modes: dict[Tls, TlsMode] = {"none": "never", "starttls": "required", "implicit": "implicit"}
    context = ssl.create_default_context(cafile=server.cafile) if server.cafile is not None else None
    async with smtp_trio.connect(
        server.host, port, tls=modes[tls], ssl_context=context, auth=auth, timeout=60
    ) as client:
        result = await client.send("ada@example.net", recipients, message)
        assert client.usable
        assert client.user == (auth and auth[0])
        assert (client.tls is not None) == (tls != "none")
    assert result.complete, result


def check(server: Server, mail: Path, recipients: Sequence[str] = ("bo@example.org",)) -> None:
    """Check that the server has stored this message only, unchanged.

    The last line must have an end (RFC 5321 4.1.1.4).
    """
    content = mail.read_bytes()
    content += b"" if content.endswith(b"\r\n") else b"\r\n"
    (stored,) = server.received(1, recipients=len(recipients))
    if stored != content:  # pytest takes too long to compare megabytes
        at = next(
            (at for at, (one, other) in enumerate(zip(stored, content, strict=False)) if one != other), len(content)
        )
        pytest.fail(f"first difference at octet {at} of {len(content)}: {stored[max(at - 100, 0) : at + 100]!r}")


@pytest.mark.parametrize(("server", "tls", "mail"), EVERY_MAIL, indirect=["server"])
async def test_delivery(server: Server, tls: Tls, mail: Path) -> None:
    content = await trio.Path(mail).read_bytes()
    if mail.stem == "utf8-header" and "SMTPUTF8" not in server.features:  # RFC 6531 3.5: it must not be sent there
        with pytest.raises(smtp_trio.LocalProtocolError, match="SMTPUTF8"):
            await send(server, tls, content)
        return

    await send(server, tls, content)

    check(server, mail)


@modes
async def test_ten_mebibytes_from_a_file(server: Server, tls: Tls, tmp_path: Path) -> None:
    mail = large(tmp_path / "large.eml")

    await send(server, tls, mail)

    check(server, mail)


@modes
async def test_100_recipients(server: Server, tls: Tls) -> None:
    await send(server, tls, PLAIN, recipients=HUNDRED)

    check(server, PLAIN, HUNDRED)


@pytest.mark.parametrize(("server", "tls"), LOGINS, indirect=["server"])
async def test_login(server: Server, tls: Tls) -> None:
    await send(server, tls, PLAIN, auth=server.credentials)

    check(server, PLAIN)


def test_features_are_those_in_the_setups(server: Server) -> None:
    with smtplib.SMTP(server.host, server.port, timeout=100) as client:
        client.ehlo()
        listed = {keyword.upper() for keyword in client.esmtp_features}

    assert listed & KEYWORDS == server.features
    assert ("STARTTLS" in listed) == (server.tls == "starttls")


def test_received_fails_if_nothing_was_sent(server: Server) -> None:
    with pytest.raises(AssertionError, match="expected 1 messages, got 0"):
        server.received(1, timeout=0.1)


@pytest.mark.parametrize("name", SETUPS)
def test_server_ends_with_its_block(name: str, request: pytest.FixtureRequest) -> None:
    require_server(name)
    modules = request.getfixturevalue("node_modules") if name == "smtp-server" else None

    with TemporaryDirectory(prefix="smtp-trio-") as directory, start(name, Path(directory), modules) as server:
        assert greets(server)

    # Some processes end shortly after the first one.
    deadline = time.monotonic() + 240
    while greets(server):
        assert time.monotonic() < deadline
        time.sleep(POLL)


def greets(server: Server) -> bool:
    """Return whether the server sends a greeting."""
    try:
        smtplib.SMTP(server.host, server.port, timeout=5).quit()
    except (OSError, smtplib.SMTPServerDisconnected):
        return False
    return True
