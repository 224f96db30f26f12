"""AUTH: the choice of mechanism, the connections that credentials are sent over, and errors that must not contain secrets."""

from __future__ import annotations

import base64
import hmac
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from helpers import client_tls
from scripted import (
    CLOSE,
    EXPECT_CLOSE,
    GO_AHEAD,
    ME,
    MESSAGE,
    OK,
    READ_BODY,
    YOU,
    Script,
    Step,
    ehlo_reply,
    hello,
    scripted,
    tls_handshake,
)
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from smtp_trio import (
    BearerToken,
    Client,
    ConnectionLostError,
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


def challenge_reply(octets: bytes) -> bytes:
    return b"334 " + base64.b64encode(octets) + b"\r\n"


PLAIN: tuple[Step, ...] = ("AUTH PLAIN " + b64(b"\0fred\0" + SECRET.encode()), b"235 ok\r\n")
LOGIN: tuple[Step, ...] = (
    "AUTH LOGIN",
    challenge_reply(b"User Name\0"),
    b64(b"fred"),
    challenge_reply(b"Password"),
    b64(SECRET.encode()),
    b"235 x\r\n",
)
CRAM: tuple[Step, ...] = ("AUTH CRAM-MD5", challenge_reply(b"<1@x>"), "[A-Za-z0-9+/=]+", b"235 ok\r\n")


def tls_session(*mechanisms: str) -> tuple[Step, ...]:
    """Return the steps that open a session with STARTTLS in which these mechanisms are offered."""
    upgrade: tuple[Step, ...] = (*hello("STARTTLS"), "STARTTLS", b"220 go\r\n", tls_handshake())
    return *upgrade, "EHLO client.test", ehlo_reply(" ".join(["AUTH", *mechanisms]))


def client_of(script: Script, **settings: Any) -> Any:
    return script.client(**{"host": "mx.test", "ssl_context": client_tls(), "tls": None, "auth": FRED, **settings})


# --- choice of mechanism ----------------------------------------------------------------------------------------------


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
async def test_mechanism_chosen_with_tls(
    autojump_clock: MockClock, offered: tuple[str, ...], steps: tuple[Step, ...]
) -> None:
    async with scripted(*tls_session(*offered), *steps) as script, client_of(script) as client:
        assert client.user == "fred"
        assert client.tls.verified


@pytest.mark.parametrize(
    ("offered", "steps"), [(("PLAIN", "LOGIN"), PLAIN), (("LOGIN",), LOGIN), (("PLAIN", "CRAM-MD5"), CRAM)]
)
async def test_mechanism_chosen_without_tls(
    autojump_clock: MockClock, offered: tuple[str, ...], steps: tuple[Step, ...]
) -> None:
    async with scripted(*hello("AUTH " + " ".join(offered)), *steps) as script:
        async with script.client(auth=FRED, allow_cleartext=True) as client:
            assert client.user == "fred"


def login(first: bytes, second: bytes) -> tuple[Step, ...]:
    """Return the steps of LOGIN with these replies as challenges."""
    return "AUTH LOGIN", first, b64(b"fred"), second, b64(SECRET.encode()), b"235 ok\r\n"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (b"334 Username:\r\n", b"334 Password:\r\n"),
        (b"334 VXNlcm5hbWU6 \r\n", b"334  UGFzc3dvcmQ6\t\r\n"),
        (b"334 dXNlcm5hbWU\r\n", b"334 cGFzc3dvcmQ\r\n"),
        (b"334-VXNlcm\r\n334 5hbWU6\r\n", b"334-Enter your\r\n334 password\r\n"),
        (b"334\r\n", b"334 \r\n"),
        (b"334 not base64!\r\n", "334 pass\u00e9 =\r\n".encode()),
    ],
)
async def test_login_does_not_read_its_challenges(autojump_clock: MockClock, first: bytes, second: bytes) -> None:
    async with scripted(*tls_session("LOGIN"), *login(first, second)) as script, client_of(script) as client:
        assert client.user == "fred"


ERROR = b'{"status":"401","schemes":"bearer"}'


@pytest.mark.parametrize("mechanism", ["XOAUTH2", "OAUTHBEARER"])
@pytest.mark.parametrize(
    "challenge",
    [
        b"334 " + ERROR + b"\r\n",
        b"334 " + base64.b64encode(ERROR).rstrip(b"=") + b"\r\n",
        b"334-" + base64.b64encode(ERROR)[:8] + b"\r\n334 " + base64.b64encode(ERROR)[8:] + b" \r\n",
        b"334 {\r\n",
        challenge_reply(ERROR),
    ],
)
async def test_error_challenge_does_not_hide_the_refusal(
    autojump_clock: MockClock, mechanism: str, challenge: bytes
) -> None:
    acknowledgement = "" if mechanism == "XOAUTH2" else b64(b"\1")
    steps = (f"AUTH {mechanism} .*", challenge, acknowledgement, b"535 5.7.8 no\r\n", *BYE, EXPECT_CLOSE)
    async with scripted(*tls_session(mechanism), *steps) as script:
        with pytest.raises(ReplyError) as caught:
            async with client_of(script, auth=BearerToken("fred", "abc123")):
                raise AssertionError("unreachable")
    assert caught.value.reply.code == 535


@pytest.mark.parametrize("challenge", [b"334 PDFAeD4\r\n", b"334 PDFA eD4= \r\n", b"334-PDFA\r\n334 eD4=\r\n"])
async def test_challenge_of_cram_md5_with_other_white_space_or_padding(
    autojump_clock: MockClock, challenge: bytes
) -> None:
    expected = hmac.new(SECRET.encode(), b"<1@x>", "md5").hexdigest()
    steps = ("AUTH CRAM-MD5", challenge, b64(f"fred {expected}".encode()), b"235 ok\r\n")
    async with scripted(*tls_session("CRAM-MD5"), *steps) as script, client_of(script) as client:
        assert client.user == "fred"


# --- another mechanism ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [432, 504, 534])
async def test_another_mechanism_after_one_was_refused(autojump_clock: MockClock, code: int) -> None:
    refusal = b"%d not this one\r\n" % code
    late = ("AUTH LOGIN", b"334 Username:\r\n", b64(b"fred"), refusal)
    async with scripted(*tls_session("PLAIN", "LOGIN", "CRAM-MD5"), PLAIN[0], refusal, *late, *CRAM) as script:
        async with client_of(script) as client:
            assert client.user == "fred"
    async with scripted(*tls_session("PLAIN", "LOGIN"), PLAIN[0], refusal, *late, *BYE, EXPECT_CLOSE) as script:
        with pytest.raises(ReplyError) as caught:
            async with client_of(script):
                raise AssertionError("unreachable")
    assert caught.value.reply.code == code


def scram_first(flag: str) -> Callable[[Script], Awaitable[None]]:
    """Return a step that expects SCRAM-SHA-256 with this flag of channel binding, and refuses it."""

    async def step(script: Script) -> None:
        verb, mechanism, message = (await script.line()).split()
        assert (verb, mechanism) == ("AUTH", "SCRAM-SHA-256")
        assert base64.b64decode(message).startswith(f"{flag},,n=fred,r=".encode())
        await script.send(b"535 5.7.8 no\r\n")

    return step


@pytest.mark.parametrize(
    ("offered", "names", "flag"),
    [
        (["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"], None, "y"), (["SCRAM-SHA-256-PLUS"] * 2 + ["SCRAM-SHA-256"], None, "y"),
        (["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"], ["SCRAM-SHA-256"], "n"), (["X-PLUS", "SCRAM-SHA-256"], None, "y"),
        (["SCRAM-SHA-256"], ["SCRAM-SHA-256"], "n"),
    ],
)  # fmt: skip
async def test_channel_binding_that_was_not_offered_or_was_refused(
    autojump_clock: MockClock, offered: list[str], names: list[str] | None, flag: str
) -> None:
    """A client that falls back to a login without it says that it could bind, which the server of the offer refuses."""
    refused: tuple[Step, ...] = ()
    if offered[0] == "SCRAM-SHA-256-PLUS" and names is None:
        refused = ("AUTH SCRAM-SHA-256-PLUS .*", b"504 no\r\n")
    async with scripted(*tls_session(*offered), *refused, scram_first(flag), *BYE, EXPECT_CLOSE) as script:
        with pytest.raises(ReplyError) as caught:
            async with client_of(script, auth_mechanisms=names):
                raise AssertionError("unreachable")
    assert caught.value.reply.code == 535


@pytest.mark.parametrize("code", [421, 454, 500, 501, 503, 530, 535, 538, 550])
async def test_no_other_mechanism_after_another_refusal(autojump_clock: MockClock, code: int) -> None:
    async with scripted(*tls_session("PLAIN", "LOGIN", "CRAM-MD5"), PLAIN[0], b"%d no\r\n" % code) as script:
        with pytest.raises(ReplyError) as caught:
            async with client_of(script):
                raise AssertionError("unreachable")
    assert caught.value.reply.code == code
    assert sum(line.startswith("AUTH") for line in script.lines) == 1


@pytest.mark.parametrize(
    ("names", "steps"),
    [(["LOGIN"], LOGIN), (("cram-md5", "plain"), CRAM), (["SCRAM-SHA-256", "LOGIN"], LOGIN), (["PLAIN"], PLAIN)],
)
async def test_mechanisms_are_named(autojump_clock: MockClock, names: list[str], steps: tuple[Step, ...]) -> None:
    offered = tls_session("PLAIN", "LOGIN", "CRAM-MD5")
    async with scripted(*offered, *steps) as script, client_of(script, auth_mechanisms=names) as client:
        assert client.user == "fred"
    async with scripted(*offered, *steps) as script, client_of(script, auth=None, tls="required") as client:
        await client.auth(FRED, mechanisms=names)
        assert client.user == "fred"


async def test_named_mechanism_is_the_only_one(autojump_clock: MockClock) -> None:
    steps = (PLAIN[0], b"504 no\r\n", *BYE)
    async with scripted(*tls_session("PLAIN", "LOGIN"), *steps) as script:
        with pytest.raises(ReplyError):
            async with client_of(script, auth_mechanisms=["PLAIN"]):
                raise AssertionError("unreachable")
    async with scripted(*tls_session("PLAIN", "LOGIN"), *BYE) as script:
        with pytest.raises(LocalProtocolError, match="CRAM-MD5 is not offered"):
            async with client_of(script, auth_mechanisms=["CRAM-MD5"]):
                raise AssertionError("unreachable")


async def test_invalid_names_of_mechanisms(autojump_clock: MockClock) -> None:
    stream, _ = memory_stream_pair()
    with pytest.raises(ValueError, match="unknown SASL mechanism: NTLM"):
        Client(stream, auth_mechanisms=["PLAIN", "ntlm"])
    with pytest.raises(TypeError, match="not a str"):
        Client(stream, auth_mechanisms="PLAIN")


async def test_cram_md5_response(autojump_clock: MockClock) -> None:
    """The example of RFC 2195 2."""
    challenge, digest = b"<1896.697170952@postoffice.reston.mci.net>", "b913a602c7eda7a495b4e6e7334d3890"
    steps = ("AUTH CRAM-MD5", challenge_reply(challenge), b64(b"tim " + digest.encode()), b"235 ok\r\n")
    async with scripted(*hello("AUTH CRAM-MD5"), *steps) as script:
        async with script.client(auth=("tim", "tanstaaftanstaaf"), allow_cleartext=True):
            pass


async def scram(script: Script) -> None:
    """Do the server's part with an independent implementation, which fails for a wrong password."""
    scramp = pytest.importorskip("scramp")
    mechanism = scramp.ScramMechanism("SCRAM-SHA-256")
    salt, stored_key, server_key, rounds = mechanism.make_auth_info(SECRET, iteration_count=4096)
    server = mechanism.make_server(lambda user: (salt, stored_key, server_key, rounds))
    line = await script.line()
    assert line.startswith("AUTH SCRAM-SHA-256 ")
    server.set_client_first(base64.b64decode(line.split()[2]).decode())
    await script.send(challenge_reply(server.get_server_first().encode()))
    server.set_client_final(base64.b64decode(await script.line()).decode())
    await script.send(challenge_reply(server.get_server_final().encode()))
    assert await script.line() == ""
    await script.send(b"235 ok\r\n")


async def test_scram_is_preferred(autojump_clock: MockClock) -> None:
    pytest.importorskip("scramp")
    async with scripted(*tls_session("PLAIN", "SCRAM-SHA-256", "LOGIN"), scram) as script, client_of(script) as client:
        assert client.user == "fred"
    assert SECRET.encode() not in b"".join(script.groups)


async def test_scram_server_without_proof_is_rejected(autojump_clock: MockClock) -> None:
    """It accepts any client, as an impostor could (RFC 5802 3)."""
    pytest.importorskip("scramp")
    steps = ("AUTH SCRAM-SHA-256 .*", b"235 2.7.0 welcome\r\n", EXPECT_CLOSE)
    async with scripted(*tls_session("SCRAM-SHA-256"), *steps) as script:
        with pytest.raises(RemoteProtocolError):
            async with client_of(script):
                raise AssertionError("unreachable")


async def test_bearer_token_uses_xoauth2(autojump_clock: MockClock) -> None:
    wanted = b"user=fred\1auth=Bearer abc123\1\1"
    steps = ("AUTH XOAUTH2 " + b64(wanted), b"235 ok\r\n")
    async with scripted(*tls_session("PLAIN", "XOAUTH2"), *steps) as script:
        async with client_of(script, auth=BearerToken("fred", "abc123")) as client:
            assert client.user == "fred"


async def test_long_initial_response_is_sent_after_the_challenge(autojump_clock: MockClock) -> None:
    """RFC 4954 4: the AUTH line must not exceed the limit of a command line."""
    password = "x" * 600
    steps = ("AUTH PLAIN", b"334 \r\n", b64(b"\0fred\0" + password.encode()), b"235 ok\r\n")
    async with scripted(*tls_session("PLAIN"), *steps) as script, client_of(script, auth=("fred", password)):
        pass


async def test_tuple_of_user_and_password(autojump_clock: MockClock) -> None:
    async with scripted(*tls_session("PLAIN"), *PLAIN) as script, client_of(script, auth=("fred", SECRET)) as client:
        assert client.user == "fred"


async def test_auth_after_mail_has_begun(autojump_clock: MockClock) -> None:
    """A server would refuse it with 503 (RFC 4954 4), so it is not sent, and the transaction goes on."""
    steps: tuple[Step, ...] = ("MAIL .*", OK, "RCPT .*", OK, "RSET", OK, PLAIN[0], b"503 no\r\n", *PLAIN)
    async with scripted(*tls_session("PLAIN", "LOGIN"), *steps) as script:
        async with client_of(script, auth=None, tls="required") as client:
            await client.mail(ME)
            with pytest.raises(LocalProtocolError, match="AUTH is not allowed"):
                await client.auth(FRED)
            await client.rcpt(YOU)
            with pytest.raises(LocalProtocolError, match="AUTH is not allowed"):
                await client.auth(FRED)
            await client.rset()
            with pytest.raises(ReplyError) as caught:
                await client.auth(FRED)
            assert (caught.value.reply.code, client.user, client.usable) == (503, None, True)
            await client.auth(FRED)
            assert client.user == "fred"


LOST: dict[str, tuple[Step, ...]] = {
    "LOGIN": ("AUTH LOGIN", b"334 \r\n"), "LOGIN, second": LOGIN[:4], "CRAM-MD5": CRAM[:2],
    "SCRAM-SHA-256": ("AUTH SCRAM-SHA-256 .*", b"334 \r\n"), "XOAUTH2": ("AUTH XOAUTH2 .*", challenge_reply(ERROR)),
}  # fmt: skip


@pytest.mark.parametrize("steps", LOST.values(), ids=LOST)
@pytest.mark.parametrize("reads", [False, True])
async def test_connection_lost_after_a_challenge(
    autojump_clock: MockClock, steps: tuple[Step, ...], reads: bool
) -> None:
    """Before or after the server has read the response."""
    name = str(steps[0]).split()[1]
    credentials = BearerToken("fred", "abc") if name == "XOAUTH2" else FRED
    ending: tuple[Step, ...] = (r"[A-Za-z0-9+/=]*|\*", CLOSE) if reads else (CLOSE,)
    async with scripted(*tls_session(name), *steps, *ending) as script:
        with pytest.raises((ConnectionLostError, RemoteProtocolError)) as caught:
            async with client_of(script, auth=credentials):
                raise AssertionError("unreachable")
    assert SECRET not in all_text(caught.value)


@pytest.mark.parametrize("log_in", [True, False])
@pytest.mark.parametrize(
    ("submitter", "encoded"),
    [
        ("<>", "<>"), ("e=mc2@example.com", r"e\+3Dmc2@example\.com"), ("fred@example.org", r"fred@example\.org"),
        ("a+b@example.org", r"a\+2Bb@example\.org"), ('"a b"@example.org', r'"a\+20b"@example\.org'),
    ],
)  # fmt: skip
async def test_submitter_of_a_message(autojump_clock: MockClock, submitter: str, encoded: str, log_in: bool) -> None:
    """It is sent with and without a login before (RFC 4954 5), in xtext (RFC 3461 4), with the example of 5.1."""
    steps: tuple[Step, ...] = (
        *(PLAIN if log_in else ()), rf"MAIL FROM:<me@client\.test> AUTH={encoded}", OK, "RSET", OK,
        *(rf"MAIL FROM:<me@client\.test> AUTH={encoded}", OK, "RCPT .*", OK, "DATA", GO_AHEAD, READ_BODY, OK),
    )  # fmt: skip
    async with scripted(*tls_session("PLAIN"), *steps) as script:
        async with client_of(script, auth=FRED if log_in else None, tls="required") as client:
            await client.mail(ME, auth=submitter)
            await client.rset()
            await client.send(ME, [YOU], MESSAGE, auth=submitter)


@pytest.mark.parametrize("submitter", ["", "\r\n", "a\0b@x", "a\x7f@x", "\udcff@x"])
async def test_invalid_submitter(autojump_clock: MockClock, submitter: str) -> None:
    async with scripted(*tls_session("PLAIN")) as script, client_of(script, auth=None, tls="required") as client:
        with pytest.raises((ValueError, LocalProtocolError)):
            await client.mail(ME, auth=submitter)
        assert client.usable
    assert not any(line.startswith("MAIL") for line in script.lines)


async def test_submitter_for_a_server_without_auth(autojump_clock: MockClock) -> None:
    async with scripted(*hello("SIZE")) as script, script.client() as client:
        with pytest.raises(NotOfferedError, match="AUTH"):
            await client.mail(ME, auth="<>")


# --- connections ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tls", ["never", "opportunistic"])
@pytest.mark.parametrize("mechanism", ["PLAIN", "CRAM-MD5"])
async def test_credentials_are_not_sent_without_tls(autojump_clock: MockClock, tls: str, mechanism: str) -> None:
    async with scripted(*hello(f"AUTH {mechanism}"), *BYE, EXPECT_CLOSE) as script:
        with pytest.raises(LocalProtocolError, match="allow_cleartext"):
            async with script.client(tls=tls, auth=FRED):
                raise AssertionError("unreachable")


async def test_credentials_are_not_sent_without_a_verified_certificate(autojump_clock: MockClock) -> None:
    async with scripted(*tls_session("PLAIN"), *BYE, EXPECT_CLOSE) as script:
        with pytest.raises(LocalProtocolError, match="without a verified certificate"):
            async with script.client(tls="opportunistic", host="mx.test", auth=FRED):
                raise AssertionError("unreachable")


@pytest.mark.parametrize("offered", [["AUTH X-ODD"], ["AUTH"], []])
async def test_no_common_mechanism(autojump_clock: MockClock, offered: list[str]) -> None:
    async with scripted(*hello(*offered), *BYE, EXPECT_CLOSE) as script:
        with pytest.raises(LocalProtocolError) as caught:
            async with script.client(auth=FRED, allow_cleartext=True):
                raise AssertionError("unreachable")
    assert (
        isinstance(caught.value, NotOfferedError) or "X-ODD" in str(caught.value) or "no mechanism" in str(caught.value)
    )


# --- errors -----------------------------------------------------------------------------------------------------------


def all_text(exc: BaseException) -> str:
    """Return everything about an exception that could be logged."""
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
async def test_refused_credentials(autojump_clock: MockClock, mechanism: str, steps: tuple[Step, ...]) -> None:
    async with scripted(*tls_session(mechanism), *steps, *BYE, EXPECT_CLOSE) as script:
        with pytest.raises(ReplyError) as caught:
            async with client_of(script):
                raise AssertionError("unreachable")
    assert caught.value.command.verb == "AUTH"
    assert caught.value.reply.temporary is (steps[-1] == b"454 4.7.0 later\r\n")
    for secret in (SECRET, b64(SECRET.encode()), b64(b"\0fred\0" + SECRET.encode())):
        assert secret not in all_text(caught.value)


@pytest.mark.parametrize("challenge", [b"334 not base64!\r\n", b"334 =\r\n", b"334 A\r\n", "334 é\r\n".encode()])
async def test_invalid_challenge_cancels_the_exchange(autojump_clock: MockClock, challenge: bytes) -> None:
    """RFC 4954 4: the client cancels with "*"."""
    steps = ("AUTH CRAM-MD5", challenge, r"\*", b"501 5.7.0 cancelled\r\n", *BYE, EXPECT_CLOSE)
    async with scripted(*tls_session("CRAM-MD5"), *steps) as script:
        with pytest.raises(RemoteProtocolError) as caught:
            async with client_of(script):
                raise AssertionError("unreachable")
    assert SECRET not in all_text(caught.value)
    assert b64(SECRET.encode()) not in all_text(caught.value)


async def test_too_many_challenges_cancel_the_exchange(autojump_clock: MockClock) -> None:
    steps = (
        *LOGIN[:-1],
        challenge_reply(b"and your mother's maiden name?"),
        r"\*",
        b"501 cancelled\r\n",
        *BYE,
        EXPECT_CLOSE,
    )
    async with scripted(*tls_session("LOGIN"), *steps) as script:
        with pytest.raises(RemoteProtocolError) as caught:
            async with client_of(script):
                raise AssertionError("unreachable")
    assert SECRET not in all_text(caught.value)


# --- Client.auth ------------------------------------------------------------------------------------------------------


async def test_auth_method(autojump_clock: MockClock) -> None:
    async with scripted(*hello("AUTH PLAIN"), PLAIN[0], b"535 no\r\n", *PLAIN, "NOOP", OK) as script:
        async with script.client(allow_cleartext=True) as client:
            with pytest.raises(ReplyError):
                await client.auth(FRED)
            assert client.user is None
            assert (await client.auth(("fred", SECRET))).code == 235
            assert client.user == "fred"
            await client.noop()


async def test_auth_method_without_tls(autojump_clock: MockClock) -> None:
    async with scripted(*hello("AUTH PLAIN"), "NOOP", OK) as script, script.client() as client:
        with pytest.raises(LocalProtocolError, match="allow_cleartext"):
            await client.auth(FRED)
        await client.noop()


# --- the derivation of keys -------------------------------------------------------------------------------------------


def scram_begun(iterations: int, then: Callable[[Script], Awaitable[None]]) -> tuple[Step, ...]:
    """Return the steps of a server that answers the first message of SCRAM with this iteration count."""

    async def server_first(script: Script) -> None:
        nonce = base64.b64decode((await script.line()).split()[2]).split(b"r=")[1]
        await script.send(challenge_reply(b"r=%sx,s=%s,i=%d" % (nonce, base64.b64encode(bytes(16)), iterations)))

    return *hello("AUTH SCRAM-SHA-256"), server_first, then


async def test_iterations_do_not_delay_other_tasks() -> None:
    pytest.importorskip("scramp")
    rounds = 0

    async def count_rounds(script: Script) -> None:
        nonlocal rounds

        async def receive(nursery: trio.Nursery) -> None:
            await script.line()
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive, nursery)
            while True:
                await trio.lowlevel.checkpoint()
                rounds += 1
        await script.send(b"535 no\r\n")

    async with scripted(*scram_begun(1_000_000, count_rounds), *BYE) as script:
        with pytest.raises(ReplyError):
            async with script.client(auth=FRED, allow_cleartext=True):
                raise AssertionError("unreachable")
    assert rounds > 100


async def test_cancellation_during_the_derivation_closes_the_connection() -> None:
    """The next command would be taken for a line of the exchange."""
    pytest.importorskip("scramp")
    scope = trio.CancelScope()

    async def cancel(script: Script) -> None:
        await wait_all_tasks_blocked(0.01)
        scope.cancel()

    async with scripted(*scram_begun(1_000_000, cancel), EXPECT_CLOSE) as script:
        async with script.client(allow_cleartext=True) as client:
            with scope:
                await client.auth(FRED)
            assert scope.cancelled_caught
            assert not client.usable
            with pytest.raises(trio.ClosedResourceError):
                await client.noop()


@pytest.mark.parametrize("iterations", [1, 4095, 1_000_001, 10**9, 10**30])
async def test_iteration_count_out_of_range_cancels_the_exchange(iterations: int, autojump_clock: MockClock) -> None:
    pytest.importorskip("scramp")

    async def cancelled(script: Script) -> None:
        assert await script.line() == "*"
        await script.send(b"501 cancelled\r\n")

    async with scripted(*scram_begun(iterations, cancelled), *BYE) as script:
        with pytest.raises(RemoteProtocolError, match="AUTH SCRAM-SHA-256"):
            async with script.client(auth=FRED, allow_cleartext=True):
                raise AssertionError("unreachable")


@pytest.mark.parametrize("reply", [b"334 eA==\r\n", b"334-a\r\n334 b\r\n", b"354 go\r\n", b"235 ok\r\n", b"250 ok\r\n"])
@pytest.mark.parametrize(
    "steps",
    [
        ("AUTH PLAIN .*", b"334 eA==\r\n"),
        ("AUTH LOGIN", *[step for _ in range(2) for step in (b"334 eA==\r\n", ".+")], b"334 eA==\r\n"),
        ("AUTH CRAM-MD5", b"334 !!!\r\n"),
    ],
)
async def test_server_that_does_not_cancel_the_exchange(
    steps: tuple[Step, ...], reply: bytes, autojump_clock: MockClock
) -> None:
    """The connection is closed, since the next command would be taken for a line of the exchange."""
    offer = f"AUTH {str(steps[0]).split(' ')[1]}"
    async with scripted(*hello(offer), *steps, r"\*", reply, EXPECT_CLOSE) as script:
        async with script.client(allow_cleartext=True) as client:
            with pytest.raises(RemoteProtocolError):
                await client.auth(FRED)
            assert not client.usable
            assert client.user is None


async def test_client_goes_on_after_it_has_cancelled_an_exchange(autojump_clock: MockClock) -> None:
    steps = ("AUTH PLAIN .*", b"334 eA==\r\n", r"\*", b"501 cancelled\r\n", "NOOP", OK, *BYE)
    async with scripted(*hello("AUTH PLAIN"), *steps) as script:
        async with script.client(allow_cleartext=True) as client:
            with pytest.raises(RemoteProtocolError):
                await client.auth(FRED)
            await client.noop()
