"""AUTH from the client's side: which mechanism, over which connection, and that the secret stays one."""

from __future__ import annotations

import base64
import traceback
from typing import Any

import pytest
from helpers import client_tls
from scripted import EXPECT_CLOSE, OK, Script, Step, ehlo_reply, hello, scripted, tls_handshake
from trio.testing import MockClock

from smtp_trio import (
    BearerToken,
    LocalProtocolError,
    NotOfferedError,
    PasswordCredentials,
    RemoteProtocolError,
    ReplyError,
)

SECRET = "hushhush"
FRED = PasswordCredentials("fred", SECRET)
BYE: tuple[Step, ...] = ("QUIT", b"221 bye\r\n")


def b64(octets: bytes) -> str:
    return base64.b64encode(octets).decode()


def ask(octets: bytes) -> bytes:
    return b"334 " + base64.b64encode(octets) + b"\r\n"


PLAIN: tuple[Step, ...] = ("AUTH PLAIN " + b64(b"\0fred\0" + SECRET.encode()), b"235 ok\r\n")
LOGIN: tuple[Step, ...] = (
    "AUTH LOGIN",
    ask(b"User Name\0"),
    b64(b"fred"),
    ask(b"Password"),
    b64(SECRET.encode()),
    b"235 x\r\n",
)
CRAM: tuple[Step, ...] = ("AUTH CRAM-MD5", ask(b"<1@x>"), "[A-Za-z0-9+/=]+", b"235 ok\r\n")


def within(*mechanisms: str) -> tuple[Step, ...]:
    """All up to a session under TLS that offers these."""
    upgrade: tuple[Step, ...] = (*hello("STARTTLS"), "STARTTLS", b"220 go\r\n", tls_handshake())
    return *upgrade, "EHLO client.test", ehlo_reply(" ".join(["AUTH", *mechanisms]))


def client_of(script: Script, **settings: Any) -> Any:
    return script.client(**{"host": "mx.test", "ssl_context": client_tls(), "tls": None, "auth": FRED, **settings})


# --- which ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offered", "steps"),
    [
        (("PLAIN",), PLAIN),
        (("LOGIN", "PLAIN", "CRAM-MD5"), PLAIN),
        (("plain", "X-ODD"), PLAIN),
        (("LOGIN",), LOGIN),
        (("CRAM-MD5",), CRAM),
        (("CRAM-MD5", "LOGIN"), LOGIN),
    ],
)
async def test_the_best_under_tls(autojump_clock: MockClock, offered: tuple[str, ...], steps: tuple[Step, ...]) -> None:
    async with scripted(*within(*offered), *steps) as script, client_of(script) as client:
        assert client.user == "fred"
        assert client.tls.verified


@pytest.mark.parametrize(
    ("offered", "steps"), [(("PLAIN", "LOGIN"), PLAIN), (("LOGIN",), LOGIN), (("PLAIN", "CRAM-MD5"), CRAM)]
)
async def test_the_best_in_the_clear(
    autojump_clock: MockClock, offered: tuple[str, ...], steps: tuple[Step, ...]
) -> None:
    async with scripted(*hello("AUTH " + " ".join(offered)), *steps) as script:
        async with script.client(auth=FRED, allow_cleartext=True) as client:
            assert client.user == "fred"


async def test_cram_md5_is_computed(autojump_clock: MockClock) -> None:
    """The example of RFC 2195 2."""
    challenge, digest = b"<1896.697170952@postoffice.reston.mci.net>", "b913a602c7eda7a495b4e6e7334d3890"
    steps = ("AUTH CRAM-MD5", ask(challenge), b64(b"tim " + digest.encode()), b"235 ok\r\n")
    async with scripted(*hello("AUTH CRAM-MD5"), *steps) as script:
        async with script.client(auth=("tim", "tanstaaftanstaaf"), allow_cleartext=True):
            pass


async def scram(script: Script) -> None:
    """The server's half, by another hand. Ends in 235 only if the password is right."""
    scramp = pytest.importorskip("scramp")
    mechanism = scramp.ScramMechanism("SCRAM-SHA-256")
    salt, stored_key, server_key, rounds = mechanism.make_auth_info(SECRET, iteration_count=4096)
    server = mechanism.make_server(lambda user: (salt, stored_key, server_key, rounds))
    line = await script.line()
    assert line.startswith("AUTH SCRAM-SHA-256 ")
    server.set_client_first(base64.b64decode(line.split()[2]).decode())
    await script.send(ask(server.get_server_first().encode()))
    server.set_client_final(base64.b64decode(await script.line()).decode())
    await script.send(ask(server.get_server_final().encode()))
    assert await script.line() == ""
    await script.send(b"235 ok\r\n")


async def test_scram_is_better_than_all(autojump_clock: MockClock) -> None:
    pytest.importorskip("scramp")
    async with scripted(*within("PLAIN", "SCRAM-SHA-256", "LOGIN"), scram) as script, client_of(script) as client:
        assert client.user == "fred"
    assert SECRET.encode() not in b"".join(script.groups)


async def test_scram_a_server_that_proves_nothing(autojump_clock: MockClock) -> None:
    """It says yes to everybody: so may whoever sits in between."""
    pytest.importorskip("scramp")
    steps = ("AUTH SCRAM-SHA-256 .*", b"235 2.7.0 welcome\r\n", EXPECT_CLOSE)
    async with scripted(*within("SCRAM-SHA-256"), *steps) as script:
        with pytest.raises(RemoteProtocolError):
            async with client_of(script):
                raise AssertionError("let in")


async def test_tokens(autojump_clock: MockClock) -> None:
    wanted = b"user=fred\1auth=Bearer abc123\1\1"
    steps = ("AUTH XOAUTH2 " + b64(wanted), b"235 ok\r\n")
    async with scripted(*within("PLAIN", "XOAUTH2"), *steps) as script:
        async with client_of(script, auth=BearerToken("fred", "abc123")) as client:
            assert client.user == "fred"


async def test_a_long_initial_response_waits_to_be_asked(autojump_clock: MockClock) -> None:
    """RFC 4954 4: the AUTH line is no longer than any other."""
    password = "x" * 600
    steps = ("AUTH PLAIN", b"334 \r\n", b64(b"\0fred\0" + password.encode()), b"235 ok\r\n")
    async with scripted(*within("PLAIN"), *steps) as script, client_of(script, auth=("fred", password)):
        pass


async def test_a_pair_is_a_password(autojump_clock: MockClock) -> None:
    async with scripted(*within("PLAIN"), *PLAIN) as script, client_of(script, auth=("fred", SECRET)) as client:
        assert client.user == "fred"


# --- over what --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tls", ["never", "opportunistic"])
@pytest.mark.parametrize("mechanism", ["PLAIN", "CRAM-MD5"])
async def test_never_in_the_clear_unless_allowed(autojump_clock: MockClock, tls: str, mechanism: str) -> None:
    async with scripted(*hello(f"AUTH {mechanism}"), *BYE, EXPECT_CLOSE) as script:
        with pytest.raises(LocalProtocolError, match="allow_cleartext"):
            async with script.client(tls=tls, auth=FRED):
                raise AssertionError("let in")


async def test_never_over_a_connection_that_was_not_verified(autojump_clock: MockClock) -> None:
    async with scripted(*within("PLAIN"), *BYE, EXPECT_CLOSE) as script:
        with pytest.raises(LocalProtocolError, match="without a verified certificate"):
            async with script.client(tls="opportunistic", host="mx.test", auth=FRED):
                raise AssertionError("let in")


@pytest.mark.parametrize("offered", [["AUTH X-ODD"], ["AUTH"], []])
async def test_nothing_that_both_sides_know(autojump_clock: MockClock, offered: list[str]) -> None:
    async with scripted(*hello(*offered), *BYE, EXPECT_CLOSE) as script:
        with pytest.raises(LocalProtocolError) as caught:
            async with script.client(auth=FRED, allow_cleartext=True):
                raise AssertionError("let in")
    assert (
        isinstance(caught.value, NotOfferedError) or "X-ODD" in str(caught.value) or "no mechanism" in str(caught.value)
    )


# --- when it goes wrong -----------------------------------------------------------------------------------------------


def told(exc: BaseException) -> str:
    """All that a log could hold of it."""
    return "".join(traceback.format_exception(exc)) + repr(exc) + repr(exc.__dict__)


@pytest.mark.parametrize(
    ("mechanism", "steps"),
    [
        ("PLAIN", (PLAIN[0], b"535 5.7.8 no\r\n")),
        ("LOGIN", (*LOGIN[:-1], b"535 5.7.8 no\r\n")),
        ("CRAM-MD5", (*CRAM[:-1], b"535 5.7.8 no\r\n")),
        ("PLAIN", (PLAIN[0], b"454 4.7.0 later\r\n")),
    ],
)
async def test_refused(autojump_clock: MockClock, mechanism: str, steps: tuple[Step, ...]) -> None:
    async with scripted(*within(mechanism), *steps, *BYE, EXPECT_CLOSE) as script:
        with pytest.raises(ReplyError) as caught:
            async with client_of(script):
                raise AssertionError("let in")
    assert caught.value.command.verb == "AUTH"
    assert caught.value.reply.temporary is (steps[-1] == b"454 4.7.0 later\r\n")
    for secret in (SECRET, b64(SECRET.encode()), b64(b"\0fred\0" + SECRET.encode())):
        assert secret not in told(caught.value)


@pytest.mark.parametrize("challenge", [b"334 not base64!\r\n", b"334 =\r\n", "334 é\r\n".encode()])
@pytest.mark.parametrize("mechanism", ["LOGIN", "CRAM-MD5"])
async def test_a_challenge_that_nobody_can_read(autojump_clock: MockClock, mechanism: str, challenge: bytes) -> None:
    """RFC 4954 4: the client says "*", and gives up."""
    steps = (f"AUTH {mechanism}", challenge, r"\*", b"501 5.7.0 cancelled\r\n", *BYE, EXPECT_CLOSE)
    async with scripted(*within(mechanism), *steps) as script:
        with pytest.raises(RemoteProtocolError) as caught:
            async with client_of(script):
                raise AssertionError("let in")
    assert SECRET not in told(caught.value)
    assert b64(SECRET.encode()) not in told(caught.value)


async def test_a_server_that_never_stops_asking(autojump_clock: MockClock) -> None:
    steps = (*LOGIN[:-1], ask(b"and your mother's maiden name?"), r"\*", b"501 cancelled\r\n", *BYE, EXPECT_CLOSE)
    async with scripted(*within("LOGIN"), *steps) as script:
        with pytest.raises(RemoteProtocolError) as caught:
            async with client_of(script):
                raise AssertionError("let in")
    assert SECRET not in told(caught.value)


# --- the verb ---------------------------------------------------------------------------------------------------------


async def test_by_hand(autojump_clock: MockClock) -> None:
    async with scripted(*hello("AUTH PLAIN"), PLAIN[0], b"535 no\r\n", *PLAIN, "NOOP", OK) as script:
        async with script.client(allow_cleartext=True) as client:
            with pytest.raises(ReplyError):
                await client.auth(FRED)
            assert client.user is None
            assert (await client.auth(("fred", SECRET))).code == 235
            assert client.user == "fred"
            await client.noop()


async def test_by_hand_in_the_clear(autojump_clock: MockClock) -> None:
    async with scripted(*hello("AUTH PLAIN"), "NOOP", OK) as script, script.client() as client:
        with pytest.raises(LocalProtocolError, match="allow_cleartext"):
            await client.auth(FRED)
        await client.noop()
