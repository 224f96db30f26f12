"""TLS in memory: STARTTLS (opportunistic and required), implicit TLS, certificates."""

from __future__ import annotations

import ssl
from typing import Any

import pytest
import trio
from helpers import authority, client_tls
from scripted import (
    CLOSE,
    EXPECT_CLOSE,
    GREETING,
    ME,
    MESSAGE,
    NO_REPLY,
    OK,
    UNPIPELINED,
    YOU,
    Script,
    Step,
    ehlo_reply,
    hello,
    scripted,
    tls_handshake,
)
from trio.testing import MockClock, memory_stream_pair

from smtp_trio import (
    Client,
    ConnectionLostError,
    LocalProtocolError,
    NotOfferedError,
    RemoteProtocolError,
    ReplyError,
    TimedOutError,
    TlsHandshakeError,
)

HOST = "mx.test"
UPGRADE: tuple[Step, ...] = (*hello("STARTTLS", "X-BEFORE", "AUTH PLAIN"), "STARTTLS", b"220 go\r\n", tls_handshake())
AFTER_TLS: tuple[Step, ...] = ("EHLO client.test", ehlo_reply("8BITMIME", "AUTH LOGIN"))


def client_of(script: Script, **settings: Any) -> Any:
    return script.client(**{"host": HOST, "ssl_context": client_tls(), "tls": "required", **settings})


async def test_required_tls(autojump_clock: MockClock) -> None:
    async with scripted(*UPGRADE, *AFTER_TLS, "MAIL FROM:<.*> BODY=8BITMIME", *UNPIPELINED[1:]) as script:
        async with client_of(script) as client:
            assert client.tls.verified
            assert client.tls.problem is None
            assert client.tls.version == "TLSv1.3"
            assert isinstance(client.stream, trio.SSLStream)
            result = await client.send(ME, [YOU], b"\xe9\r\n".join([b"a: b\r\n\r\n", b""]))
    assert result.tls == client.tls
    assert result.complete


async def test_capabilities_before_starttls_are_discarded(autojump_clock: MockClock) -> None:
    """RFC 3207 4.2: an attacker may have sent them. EHLO is sent again after STARTTLS, and only then."""
    async with scripted(*UPGRADE, *AFTER_TLS) as script, client_of(script) as client:
        assert client.capabilities == {"8BITMIME": (), "AUTH": ("LOGIN",)}
    assert [line.split()[0] for line in script.lines] == ["EHLO", "STARTTLS", "EHLO", "QUIT"]


async def test_opportunistic_is_the_default(autojump_clock: MockClock) -> None:
    async with scripted(*UPGRADE, *AFTER_TLS) as script, script.client(tls=None) as client:
        assert client.tls is not None
        assert not client.tls.verified
        assert client.tls.problem == "the certificate was not checked"


@pytest.mark.parametrize("reply", [b"454 not now\r\n", b"502 no\r\n"])
async def test_opportunistic_continues_after_refused_starttls(autojump_clock: MockClock, reply: bytes) -> None:
    async with (
        scripted(*hello("STARTTLS"), "STARTTLS", reply, *UNPIPELINED) as script,
        script.client(tls=None) as client,
    ):
        assert client.tls is None
        assert (await client.send(ME, [YOU], MESSAGE)).tls is None


async def test_opportunistic_without_starttls(autojump_clock: MockClock) -> None:
    async with scripted(*hello(), *UNPIPELINED) as script, script.client(tls=None) as client:
        await client.send(ME, [YOU], MESSAGE)


async def test_never_uses_tls(autojump_clock: MockClock) -> None:
    async with scripted(*hello("STARTTLS"), *UNPIPELINED) as script, script.client() as client:
        await client.send(ME, [YOU], MESSAGE)


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("auth", [None, ("fred", "secret")])
async def test_required_tls_is_not_offered(autojump_clock: MockClock, auth: tuple[str, str] | None) -> None:
    """An attacker may have removed STARTTLS from the reply: neither mail nor credentials are sent."""
    async with scripted(*hello("AUTH PLAIN LOGIN"), "QUIT", b"221 bye\r\n", EXPECT_CLOSE) as script:
        with pytest.raises(NotOfferedError, match="STARTTLS"):
            async with client_of(script, tls=None if auth else "required", auth=auth):
                raise AssertionError("unreachable")


@pytest.mark.parametrize("reply", [b"454 not now\r\n", b"502 no\r\n"])
async def test_required_tls_is_refused(autojump_clock: MockClock, reply: bytes) -> None:
    async with scripted(*hello("STARTTLS"), "STARTTLS", reply, "QUIT", b"221 bye\r\n", EXPECT_CLOSE) as script:
        with pytest.raises(ReplyError) as caught:
            async with client_of(script):
                raise AssertionError("unreachable")
    assert caught.value.command.verb == "STARTTLS"


@pytest.mark.parametrize("injected", [b"250 hello\r\n", b"2", b"\r\n"])
@pytest.mark.parametrize("tls", ["required", "opportunistic"])
async def test_octets_between_220_and_the_handshake_are_an_error(
    autojump_clock: MockClock, injected: bytes, tls: str
) -> None:
    """An attacker could inject replies that would be read as if they came from inside TLS (RFC 3207 6)."""
    async with scripted(*hello("STARTTLS"), "STARTTLS", b"220 go\r\n" + injected, EXPECT_CLOSE) as script:
        with pytest.raises(RemoteProtocolError, match="handshake"):
            async with client_of(script, tls=tls):
                raise AssertionError("unreachable")


async def test_starttls_reply_must_be_220(autojump_clock: MockClock) -> None:
    async with scripted(*hello("STARTTLS"), "STARTTLS", OK, EXPECT_CLOSE) as script:
        with pytest.raises(RemoteProtocolError):
            async with client_of(script):
                raise AssertionError("unreachable")


@pytest.mark.parametrize(
    "settings", [{"host": "other.test"}, {"ssl_context": ssl.create_default_context()}], ids=["host", "authority"]
)
async def test_invalid_certificate(autojump_clock: MockClock, settings: dict[str, Any]) -> None:
    async with scripted(*UPGRADE[:-1], tls_handshake(fails=True)) as script:
        with pytest.raises(TlsHandshakeError) as caught:
            async with client_of(script, **settings):
                raise AssertionError("unreachable")
    assert isinstance(caught.value, ConnectionLostError)
    assert caught.value.unverified is not None
    assert "certificate" in str(caught.value)


@pytest.mark.parametrize("tls", [None, "opportunistic"])
async def test_given_context_checks_the_certificate(autojump_clock: MockClock, tls: str | None) -> None:
    context = ssl.create_default_context()
    async with scripted(*UPGRADE[:-1], tls_handshake(fails=True)) as script:
        with pytest.raises(TlsHandshakeError, match="certificate"):
            async with client_of(script, tls=tls, ssl_context=context):
                raise AssertionError("unreachable")


@pytest.mark.parametrize("tls", [None, "required"])
async def test_context_needs_a_host_only_if_it_checks_the_name(autojump_clock: MockClock, tls: Any) -> None:
    context = ssl.create_default_context()
    stream, _ = memory_stream_pair()
    with pytest.raises(ValueError, match="host"):
        Client(stream, tls=tls, ssl_context=context)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    async with scripted(*UPGRADE, *AFTER_TLS) as script:
        async with client_of(script, tls=tls, ssl_context=context, host="") as client:
            assert client.tls is not None


async def test_context_without_checks_is_not_verified(autojump_clock: MockClock) -> None:
    """TLS is used without verification then, and credentials are not sent."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    async with scripted(*UPGRADE, *AFTER_TLS) as script, client_of(script, ssl_context=context) as client:
        assert not client.tls.verified
    async with scripted(*UPGRADE, *AFTER_TLS, "QUIT", b"221 bye\r\n") as script:
        with pytest.raises(LocalProtocolError, match="without a verified certificate"):
            async with client_of(script, ssl_context=context, auth=("fred", "secret")):
                raise AssertionError("unreachable")
    assert not any(line.startswith("AUTH") for line in script.lines)


async def test_connection_closed_during_the_handshake(autojump_clock: MockClock) -> None:
    async with scripted(*UPGRADE[:-1], CLOSE) as script:
        with pytest.raises(TlsHandshakeError) as caught:
            async with client_of(script):
                raise AssertionError("unreachable")
    assert caught.value.unverified is None


async def test_server_sends_plain_text_instead_of_tls(autojump_clock: MockClock) -> None:
    async with scripted(*UPGRADE[:-1], b"500 what is this?\r\n", NO_REPLY) as script:
        with pytest.raises(TlsHandshakeError):
            async with client_of(script):
                raise AssertionError("unreachable")


async def test_handshake_timeout(autojump_clock: MockClock) -> None:
    async with scripted(*UPGRADE[:-1], NO_REPLY) as script:
        began = trio.current_time()
        with pytest.raises(TimedOutError) as caught:
            async with client_of(script, timeout=11):
                raise AssertionError("unreachable")
        assert trio.current_time() == began + 11
        assert caught.value.command.verb == "STARTTLS"


async def test_ehlo_refused_after_starttls(autojump_clock: MockClock) -> None:
    async with scripted(*UPGRADE, "EHLO .*", b"550 no\r\n", "QUIT", b"221 bye\r\n") as script:
        with pytest.raises(ReplyError):
            async with client_of(script):
                raise AssertionError("unreachable")


# --- implicit TLS -----------------------------------------------------------------------------------------------------


async def test_implicit_tls(autojump_clock: MockClock) -> None:
    async with scripted(tls_handshake(), *hello("STARTTLS"), *UNPIPELINED) as script:
        async with client_of(script, tls="implicit") as client:
            assert client.tls.verified
            await client.send(ME, [YOU], MESSAGE)
    assert "STARTTLS" not in script.lines


async def test_implicit_tls_with_wrong_host(autojump_clock: MockClock) -> None:
    async with scripted(tls_handshake(fails=True)) as script:
        with pytest.raises(TlsHandshakeError) as caught:
            async with client_of(script, tls="implicit", host="other.test"):
                raise AssertionError("unreachable")
    assert caught.value.unverified is not None


async def test_implicit_tls_to_a_server_without_tls(autojump_clock: MockClock) -> None:
    async with scripted(GREETING, NO_REPLY) as script:
        with pytest.raises(TlsHandshakeError):
            async with client_of(script, tls="implicit"):
                raise AssertionError("unreachable")


async def test_stream_that_has_tls_already(autojump_clock: MockClock) -> None:
    async with scripted(tls_handshake(), *hello("STARTTLS"), *UNPIPELINED) as script:
        script.client_stream = trio.SSLStream(script.client_stream, client_tls(), server_hostname=HOST)
        await script.client_stream.do_handshake()
        async with script.client(tls="required", host=HOST) as client:
            assert client.tls is not None
            await client.send(ME, [YOU], MESSAGE)


# --- server name, Client.starttls -------------------------------------------------------------------------------------


async def test_server_name_indication(autojump_clock: MockClock) -> None:
    names: list[str | None] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority().issue_cert(HOST).configure_cert(context)
    context.sni_callback = lambda _, name, __: names.append(name)
    async with scripted(*UPGRADE[:-1], tls_handshake(context), *AFTER_TLS) as script, client_of(script):
        pass
    assert names == [HOST]


async def test_starttls_method(autojump_clock: MockClock) -> None:
    async with scripted(*UPGRADE, *AFTER_TLS) as script, script.client(host=HOST) as client:
        assert "X-BEFORE" in client.capabilities
        info = await client.starttls(client_tls())
        assert info.verified
        assert client.tls == info
        assert "X-BEFORE" not in client.capabilities


async def test_starttls_method_checks_the_certificate(autojump_clock: MockClock) -> None:
    async with scripted(*UPGRADE[:-1], tls_handshake(fails=True)) as script, script.client(host=HOST) as client:
        with pytest.raises(TlsHandshakeError):
            await client.starttls()
        assert not client.usable


async def test_starttls_method_without_offer(autojump_clock: MockClock) -> None:
    async with scripted(*hello(), "NOOP", OK) as script, script.client(host=HOST) as client:
        with pytest.raises(NotOfferedError):
            await client.starttls()
        await client.noop()


async def test_quit_over_tls(autojump_clock: MockClock) -> None:
    async with scripted(*UPGRADE, *AFTER_TLS, "QUIT", b"221 bye\r\n", EXPECT_CLOSE) as script:
        began = trio.current_time()
        async with client_of(script):
            pass
        assert trio.current_time() == began


async def test_starttls_method_without_a_host(autojump_clock: MockClock) -> None:
    async with scripted(*hello("STARTTLS")) as script, script.client() as client:
        with pytest.raises(ValueError, match="host"):
            await client.starttls()
        assert client.usable
