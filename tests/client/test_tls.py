"""TLS, real and in memory: STARTTLS where it can be had, where it must be, and from the first octet."""

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
from trio.testing import MockClock

from smtp_trio import (
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
WITHIN: tuple[Step, ...] = ("EHLO client.test", ehlo_reply("8BITMIME", "AUTH LOGIN"))


def client_of(script: Script, **settings: Any) -> Any:
    return script.client(**{"host": HOST, "ssl_context": client_tls(), "tls": "required", **settings})


async def test_required(autojump_clock: MockClock) -> None:
    async with scripted(*UPGRADE, *WITHIN, "MAIL FROM:<.*> BODY=8BITMIME", *UNPIPELINED[1:]) as script:
        async with client_of(script) as client:
            assert client.tls.verified
            assert client.tls.problem is None
            assert client.tls.version == "TLSv1.3"
            assert isinstance(client.stream, trio.SSLStream)
            result = await client.send(ME, [YOU], b"\xe9\r\n".join([b"a: b\r\n\r\n", b""]))
    assert result.tls == client.tls
    assert result.complete


async def test_capabilities_from_before_are_forgotten(autojump_clock: MockClock) -> None:
    """RFC 3207 4.2: whoever sits in between may have said them. CLI-21: EHLO comes again here, and only here."""
    async with scripted(*UPGRADE, *WITHIN) as script, client_of(script) as client:
        assert client.capabilities == {"8BITMIME": (), "AUTH": ("LOGIN",)}
    assert [line.split()[0] for line in script.lines] == ["EHLO", "STARTTLS", "EHLO", "QUIT"]


async def test_opportunistic_is_the_default(autojump_clock: MockClock) -> None:
    async with scripted(*UPGRADE, *WITHIN) as script, script.client(tls=None) as client:
        assert client.tls is not None
        assert not client.tls.verified


@pytest.mark.parametrize("answer", [b"454 not now\r\n", b"502 no\r\n"])
async def test_opportunistic_goes_on_without(autojump_clock: MockClock, answer: bytes) -> None:
    async with (
        scripted(*hello("STARTTLS"), "STARTTLS", answer, *UNPIPELINED) as script,
        script.client(tls=None) as client,
    ):
        assert client.tls is None
        assert (await client.send(ME, [YOU], MESSAGE)).tls is None


async def test_opportunistic_where_it_is_not_offered(autojump_clock: MockClock) -> None:
    async with scripted(*hello(), *UNPIPELINED) as script, script.client(tls=None) as client:
        await client.send(ME, [YOU], MESSAGE)


async def test_never(autojump_clock: MockClock) -> None:
    async with scripted(*hello("STARTTLS"), *UNPIPELINED) as script, script.client() as client:
        await client.send(ME, [YOU], MESSAGE)


# --- what must not go on ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("auth", [None, ("fred", "secret")])
async def test_stripped(autojump_clock: MockClock, auth: tuple[str, str] | None) -> None:
    """STARTTLS is missing where TLS is required: nothing is said of mail, nor of passwords. With ``auth`` it is by default."""
    async with scripted(*hello("AUTH PLAIN LOGIN"), "QUIT", b"221 bye\r\n", EXPECT_CLOSE) as script:
        with pytest.raises(NotOfferedError, match="STARTTLS"):
            async with client_of(script, tls=None if auth else "required", auth=auth):
                raise AssertionError("let in")


@pytest.mark.parametrize("answer", [b"454 not now\r\n", b"502 no\r\n"])
async def test_required_and_refused(autojump_clock: MockClock, answer: bytes) -> None:
    async with scripted(*hello("STARTTLS"), "STARTTLS", answer, "QUIT", b"221 bye\r\n", EXPECT_CLOSE) as script:
        with pytest.raises(ReplyError) as caught:
            async with client_of(script):
                raise AssertionError("let in")
    assert caught.value.command.verb == "STARTTLS"


@pytest.mark.parametrize("injected", [b"250 hello\r\n", b"2", b"\r\n"])
@pytest.mark.parametrize("tls", ["required", "opportunistic"])
async def test_octets_behind_220(autojump_clock: MockClock, injected: bytes, tls: str) -> None:
    """What stands there came from somebody in between, who wants it to be read as if it came from inside."""
    async with scripted(*hello("STARTTLS"), "STARTTLS", b"220 go\r\n" + injected, EXPECT_CLOSE) as script:
        with pytest.raises(RemoteProtocolError, match="handshake"):
            async with client_of(script, tls=tls):
                raise AssertionError("let in")


async def test_another_2yz_is_no_220(autojump_clock: MockClock) -> None:
    async with scripted(*hello("STARTTLS"), "STARTTLS", OK, EXPECT_CLOSE) as script:
        with pytest.raises(RemoteProtocolError):
            async with client_of(script):
                raise AssertionError("let in")


@pytest.mark.parametrize(
    "settings", [{"host": "other.test"}, {"ssl_context": ssl.create_default_context()}], ids=["host", "authority"]
)
async def test_a_certificate_that_is_not_right(autojump_clock: MockClock, settings: dict[str, Any]) -> None:
    async with scripted(*UPGRADE[:-1], tls_handshake(fails=True)) as script:
        with pytest.raises(TlsHandshakeError) as caught:
            async with client_of(script, **settings):
                raise AssertionError("let in")
    assert isinstance(caught.value, ConnectionLostError)
    assert caught.value.unverified is not None
    assert "certificate" in str(caught.value)


async def test_a_context_without_checks_is_not_verified(autojump_clock: MockClock) -> None:
    """It is the caller's wish, and is recorded; passwords are not sent over it."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    async with scripted(*UPGRADE, *WITHIN) as script, client_of(script, ssl_context=context) as client:
        assert not client.tls.verified
    async with scripted(*UPGRADE, *WITHIN, "QUIT", b"221 bye\r\n") as script:
        with pytest.raises(LocalProtocolError, match="without a verified certificate"):
            async with client_of(script, ssl_context=context, auth=("fred", "secret")):
                raise AssertionError("let in")
    assert not any(line.startswith("AUTH") for line in script.lines)


async def test_the_server_closes_in_the_handshake(autojump_clock: MockClock) -> None:
    async with scripted(*UPGRADE[:-1], CLOSE) as script:
        with pytest.raises(TlsHandshakeError) as caught:
            async with client_of(script):
                raise AssertionError("let in")
    assert caught.value.unverified is None


async def test_no_tls_where_tls_should_be(autojump_clock: MockClock) -> None:
    async with scripted(*UPGRADE[:-1], b"500 what is this?\r\n", NO_REPLY) as script:
        with pytest.raises(TlsHandshakeError):
            async with client_of(script):
                raise AssertionError("let in")


async def test_a_handshake_takes_no_longer_than_it_may(autojump_clock: MockClock) -> None:
    async with scripted(*UPGRADE[:-1], NO_REPLY) as script:
        began = trio.current_time()
        with pytest.raises(TimedOutError) as caught:
            async with client_of(script, timeout=11):
                raise AssertionError("let in")
        assert trio.current_time() == began + 11
        assert caught.value.command.verb == "STARTTLS"


async def test_ehlo_is_refused_inside(autojump_clock: MockClock) -> None:
    async with scripted(*UPGRADE, "EHLO .*", b"550 no\r\n", "QUIT", b"221 bye\r\n") as script:
        with pytest.raises(ReplyError):
            async with client_of(script):
                raise AssertionError("let in")


# --- implicit ---------------------------------------------------------------------------------------------------------


async def test_implicit(autojump_clock: MockClock) -> None:
    async with scripted(tls_handshake(), *hello("STARTTLS"), *UNPIPELINED) as script:
        async with client_of(script, tls="implicit") as client:
            assert client.tls.verified
            await client.send(ME, [YOU], MESSAGE)
    assert "STARTTLS" not in script.lines


async def test_implicit_and_the_wrong_host(autojump_clock: MockClock) -> None:
    async with scripted(tls_handshake(fails=True)) as script:
        with pytest.raises(TlsHandshakeError) as caught:
            async with client_of(script, tls="implicit", host="other.test"):
                raise AssertionError("let in")
    assert caught.value.unverified is not None


async def test_implicit_and_a_server_in_the_clear(autojump_clock: MockClock) -> None:
    async with scripted(GREETING, NO_REPLY) as script:
        with pytest.raises(TlsHandshakeError):
            async with client_of(script, tls="implicit"):
                raise AssertionError("let in")


async def test_a_stream_that_has_tls_already(autojump_clock: MockClock) -> None:
    async with scripted(tls_handshake(), *hello("STARTTLS"), *UNPIPELINED) as script:
        script.client_stream = trio.SSLStream(script.client_stream, client_tls(), server_hostname=HOST)
        await script.client_stream.do_handshake()
        async with script.client(tls="required", host=HOST) as client:
            assert client.tls is not None
            await client.send(ME, [YOU], MESSAGE)


# --- SNI, the verb ----------------------------------------------------------------------------------------------------


async def test_the_server_is_called_by_its_name(autojump_clock: MockClock) -> None:
    names: list[str | None] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority().issue_cert(HOST).configure_cert(context)
    context.sni_callback = lambda _, name, __: names.append(name)
    async with scripted(*UPGRADE[:-1], tls_handshake(context), *WITHIN) as script, client_of(script):
        pass
    assert names == [HOST]


async def test_starttls_by_hand(autojump_clock: MockClock) -> None:
    async with scripted(*UPGRADE, *WITHIN) as script, script.client(host=HOST) as client:
        assert "X-BEFORE" in client.capabilities
        info = await client.starttls(client_tls())
        assert info.verified
        assert client.tls == info
        assert "X-BEFORE" not in client.capabilities


async def test_starttls_by_hand_checks_the_certificate(autojump_clock: MockClock) -> None:
    async with scripted(*UPGRADE[:-1], tls_handshake(fails=True)) as script, script.client(host=HOST) as client:
        with pytest.raises(TlsHandshakeError):
            await client.starttls()
        assert not client.usable


async def test_starttls_by_hand_where_it_is_not_offered(autojump_clock: MockClock) -> None:
    async with scripted(*hello(), "NOOP", OK) as script, script.client(host=HOST) as client:
        with pytest.raises(NotOfferedError):
            await client.starttls()
        await client.noop()


async def test_quit_closes_tls(autojump_clock: MockClock) -> None:
    async with scripted(*UPGRADE, *WITHIN, "QUIT", b"221 bye\r\n", EXPECT_CLOSE) as script:
        began = trio.current_time()
        async with client_of(script):
            pass
        assert trio.current_time() == began
