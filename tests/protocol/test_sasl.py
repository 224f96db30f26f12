"""The SASL mechanisms, both sides: examples of the RFCs, one side against the other, and malformed messages."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, strategies as st

from smtp_trio.protocol import BadCommandError, LocalProtocolError, RemoteProtocolError, Reply
from smtp_trio.protocol.extensions import Auth, standard
from smtp_trio.protocol.grammar import Grammar
from smtp_trio.protocol.sasl import (
    INVALID_CREDENTIALS,
    MECHANISMS,
    AnonymousCredentials,
    Authenticated,
    AuthenticationFailedError,
    BearerToken,
    ClientCredentials,
    Computation,
    Credentials,
    ExternalCredentials,
    MechanismContext,
    PasswordCredentials,
    ScramSecret,
    Secret,
    SecretRequest,
    choose_mechanism,
    decode_challenge,
)

from .driver import HELLO, SENDER, ServerDriver, codes, respond

FRED = PasswordCredentials("fred", "secret")
BEARER = BearerToken("fred@example.org", "vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==")
CERTIFICATE = {"subject": ((("commonName", "fred"),),)}
CREDENTIALS: dict[type, Any] = {
    PasswordCredentials: FRED,
    BearerToken: BEARER,
    ExternalCredentials: ExternalCredentials("fred"),
    AnonymousCredentials: AnonymousCredentials("fred@client.test"),
}
NAMES = list(MECHANISMS)
#: The mechanisms whose credentials have a secret.
WITH_CHECK = [name for name in NAMES if name not in ("EXTERNAL", "ANONYMOUS")]
WITH_SECRET = [name for name in NAMES if MECHANISMS[name].hook == "secret"]
WITH_TOKEN = [name for name in NAMES if MECHANISMS[name].credentials is BearerToken]
DUMMY = {"OAUTHBEARER": b"\x01", "XOAUTH2": b""}
OFFER = Auth(mechanisms=tuple(NAMES), cleartext=True)
INVALID = b'{"status":"invalid_token","schemes":"bearer"}'


def make_random_bytes() -> Callable[[int], bytes]:
    """Return a source of octets that never repeats itself and is the same in each run."""
    numbers: Iterator[int] = iter(range(1, 1000))
    return lambda n: next(numbers).to_bytes(2, "big") * (n // 2)


def mechanism_context() -> MechanismContext:
    """Return a context of a session with TLS and a certificate of the client."""
    return MechanismContext("mx.test", make_random_bytes(), channel_binding=b"binding", client_certificate=CERTIFICATE)


def nonce_context(nonce: str) -> MechanismContext:
    """Return a context without TLS, and with a nonce."""
    return MechanismContext("mx.test", lambda _: base64.b64decode(nonce))


def begin() -> ServerDriver:
    """Return a driver of a session in which every mechanism is offered."""
    driver = ServerDriver(
        hooks={"auth", "secret"}, extensions=standard(OFFER), secure=True, check_credentials=lambda _: None
    )
    driver.protocol.state.channel_binding = b"binding"
    driver.protocol.state.client_certificate = CERTIFICATE
    return driver.begin()


def b64(octets: bytes) -> str:
    return base64.b64encode(octets).decode()


def check_password(credentials: Credentials) -> Reply | None:
    known = (FRED.password, BEARER.token, "fred@client.test")
    return None if credentials.password in known or credentials.certificate else INVALID_CREDENTIALS


def exchange(
    name: str,
    credentials: ClientCredentials,
    *,
    secrets: dict[str, Secret],
    check: Callable[[Credentials], Reply | None] = check_password,
    initial: bool = True,
) -> tuple[Authenticated, list[bytes]]:
    """Run both sides; return the result and the messages. The server's `BadCommandError` is passed on."""
    messages: list[bytes] = []
    client = MECHANISMS[name].client(credentials, mechanism_context())
    response = respond(client, None)
    assert (response is None) == (name in ("LOGIN", "CRAM-MD5"))
    server = MECHANISMS[name].server(response if initial else None, mechanism_context())
    if initial and response is not None:
        messages.append(response)
        response = None
    answer: Any = None
    try:
        while True:
            step = server.send(answer)
            if isinstance(step, SecretRequest):
                answer = secrets.get(step.user)
            elif isinstance(step, Credentials):
                answer = check(step)
            elif isinstance(step, Computation):
                answer = step.compute()
            else:
                messages.append(step)
                if not initial and response is not None:
                    assert step == b""
                    answer, response = response, None
                else:
                    answer = respond(client, step)
                messages.append(answer)
    except StopIteration as stop:
        with pytest.raises(StopIteration):
            respond(client, None)
        result: Authenticated = stop.value
        return result, messages
    except AuthenticationFailedError as failed:
        messages.extend((failed.challenge, respond(client, failed.challenge) or b""))
        raise


# --- both sides ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("initial", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_both_sides_of_a_mechanism_agree(name: str, initial: bool) -> None:
    credentials = CREDENTIALS[MECHANISMS[name].credentials]
    result, _ = exchange(name, credentials, secrets={"fred": "secret"}, initial=initial)
    assert result == Authenticated(credentials.user)


@pytest.mark.parametrize("name", WITH_CHECK)
def test_wrong_secret_is_refused(name: str) -> None:
    wrong = (
        PasswordCredentials("fred", "wrong")
        if MECHANISMS[name].credentials is PasswordCredentials
        else BearerToken("fred", "wrong")
    )
    with pytest.raises(BadCommandError) as caught:
        exchange(name, wrong, secrets={"fred": "secret"})
    assert caught.value.reply == INVALID_CREDENTIALS


@pytest.mark.parametrize("user", ["a,b=c", "=2C=3D,", "j\u00fcrgen", "two words"])
@pytest.mark.parametrize("name", WITH_CHECK)
def test_user_name_may_contain_special_characters(name: str, user: str) -> None:
    credentials = (
        PasswordCredentials(user, "secret")
        if MECHANISMS[name].credentials is PasswordCredentials
        else BearerToken(user, BEARER.token)
    )
    result, _ = exchange(name, credentials, secrets={user: "secret"})
    assert result.user == user


@pytest.mark.parametrize("name", WITH_TOKEN)
def test_reply_of_the_application_is_returned(name: str) -> None:
    hello = Reply(235, "Hello", "2.7.0")
    assert exchange(name, BEARER, secrets={}, check=lambda _: hello)[0] == Authenticated(BEARER.user, hello)


def test_invalid_stored_password_is_refused() -> None:
    """SASLprep (RFC 4013) does not allow an emoji; an empty or missing password is refused too."""
    for name in WITH_SECRET:
        for stored in ("", "\U0001f680", None):
            with pytest.raises(BadCommandError) as caught:
                exchange(name, FRED, secrets={"fred": stored} if stored is not None else {})
            assert caught.value.reply == INVALID_CREDENTIALS


# --- PLAIN, RFC 4616 4 ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("credentials", "message"),
    [
        (PasswordCredentials("tim", "tanstaaftanstaaf"), b"\0tim\0tanstaaftanstaaf"),
        (PasswordCredentials("Kurt", "xipj3plmq", "Ursel"), b"Ursel\0Kurt\0xipj3plmq"),
    ],
)
def test_examples_of_rfc_4616(credentials: PasswordCredentials, message: bytes) -> None:
    assert MECHANISMS["PLAIN"].client(credentials, mechanism_context()).send(None) == message
    claim = next(MECHANISMS["PLAIN"].server(message, mechanism_context()))
    assert claim == Credentials("PLAIN", credentials.user, credentials.password, credentials.authzid)


# --- CRAM-MD5, RFC 2195 -----------------------------------------------------------------------------------------------


def test_example_of_rfc_2195() -> None:
    client = MECHANISMS["CRAM-MD5"].client(PasswordCredentials("tim", "tanstaaftanstaaf"), mechanism_context())
    assert respond(client, None) is None
    response = respond(client, b"<1896.697170952@postoffice.reston.mci.net>")
    assert response == b"tim b913a602c7eda7a495b4e6e7334d3890"


def test_cram_challenge_is_never_repeated() -> None:
    driver = ServerDriver(hooks={"secret"}, extensions=standard(OFFER))
    driver.mechanism_context = mechanism_context()
    driver.begin()
    challenges = {driver.send_lines("AUTH CRAM-MD5", "*")[0] for _ in range(3)}
    assert len(challenges) == 3
    for challenge in challenges:
        assert re.fullmatch(rb"<[0-9a-f]{32}@mx\.test>", base64.b64decode(challenge[4:]))


def test_cram_refuses_an_initial_response() -> None:
    driver = ServerDriver(hooks={"secret"}, extensions=standard(OFFER)).begin()
    assert codes(driver.send_lines("AUTH CRAM-MD5 ZnJlZA==", "AUTH CRAM-MD5 =", SENDER)) == ["501 5.7.0"] * 2 + [
        "250 2.1.0"
    ]


def test_cram_cannot_use_a_scram_secret() -> None:
    with pytest.raises(BadCommandError) as caught:
        exchange("CRAM-MD5", FRED, secrets={"fred": ScramSecret.from_password("secret", bytes(16))})
    assert caught.value.reply == INVALID_CREDENTIALS


# --- SCRAM-SHA-256, RFC 7677 3 ----------------------------------------------------------------------------------------

FIRST = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
FINAL = b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
VERIFIER = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="


def rfc_7677_client() -> Any:
    client = MECHANISMS["SCRAM-SHA-256"].client(
        PasswordCredentials("user", "pencil"), nonce_context("rOprNGfwEbeRWgbNEkqO")
    )
    assert respond(client, None) == b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
    return client


def test_example_of_rfc_7677() -> None:
    client = rfc_7677_client()
    assert respond(client, FIRST) == FINAL
    assert respond(client, VERIFIER) == b""
    with pytest.raises(StopIteration):
        respond(client, None)


@pytest.mark.parametrize(
    ("challenges", "message"),
    [
        ([None], "reported success"), ([FIRST, None], "reported success"), ([FIRST, VERIFIER, b""], "sent a challenge"),
        ([FIRST, VERIFIER.replace(b"6", b"7")], "prove"), ([FIRST, b"v=AAAA"], "prove"), ([FIRST, b"v="], "prove"),
        ([FIRST, b"\xff"], "prove"), ([b"\xff"], "prove"), ([b""], "prove"), ([FIRST.replace(b"rOpr", b"xxxx")], "prove"),
        ([FIRST.replace(b"4096", b"4095")], "prove"), ([FIRST.replace(b"4096", b"1000001")], "iterations"),
        ([FIRST.replace(b"4096", b"9" * 9999)], "iterations"),
        ([b"e=unknown-user", None], "did not refuse"), ([FIRST, b"e=invalid-proof", None], "did not refuse"),
        ([FIRST, b"e=invalid-proof", b""], "did not refuse"),
    ],
)  # fmt: skip
def test_scram_client_rejects_a_server_without_proof(challenges: list[bytes | None], message: str) -> None:
    client = rfc_7677_client()
    for challenge in challenges[:-1]:
        respond(client, challenge)
    with pytest.raises(RemoteProtocolError, match=message):
        respond(client, challenges[-1])


def test_scram_client_answers_an_error_message() -> None:
    client = rfc_7677_client()
    respond(client, FIRST)
    assert respond(client, b"e=invalid-proof") == b""
    assert respond(rfc_7677_client(), b"e=other-error") == b""


def test_scram_secret_of_a_password() -> None:
    salt = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
    secret = ScramSecret.from_password("pencil", salt)
    assert secret == ScramSecret(salt, 4096, secret.stored_key, secret.server_key)
    assert exchange("SCRAM-SHA-256", PasswordCredentials("user", "pencil"), secrets={"user": secret})[
        0
    ] == Authenticated("user")
    with pytest.raises(AuthenticationFailedError) as caught:
        exchange("SCRAM-SHA-256", PasswordCredentials("user", "pencils"), secrets={"user": secret})
    assert (caught.value.reply, caught.value.challenge) == (INVALID_CREDENTIALS, b"e=invalid-proof")
    more = ScramSecret.from_password("pencil", bytes(12), 5000)
    _, messages = exchange("SCRAM-SHA-256", PasswordCredentials("user", "pencil"), secrets={"user": more})
    assert messages[1].endswith(b",s=" + base64.b64encode(bytes(12)) + b",i=5000")
    assert [*map(len, (secret.stored_key, secret.server_key))] == [32, 32]
    assert "key" not in repr(secret)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((bytes(11), 4096, bytes(32), bytes(32)), "salt"), ((bytes(65), 4096, bytes(32), bytes(32)), "salt"),
        ((bytes(16), 4095, bytes(32), bytes(32)), "iterations"), ((bytes(16), 4096, bytes(31), bytes(32)), "stored_key"),
        ((bytes(16), 4096, bytes(32), b""), "server_key"),
    ],
)  # fmt: skip
def test_invalid_scram_secret_raises(values: tuple[bytes, int, bytes, bytes], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ScramSecret(*values)
    with pytest.raises(ValueError, match="salt"):
        ScramSecret.from_password("pencil", b"")


@pytest.mark.parametrize(
    "message",
    [
        b"", b"fred", b"n,,", b"n,,n=fred", b"n,,n=,r=abc", b"n,,n=fr=ed,r=abc", b"p=tls-unique,,n=fred,r=abc",
        b"n,,m=x,n=fred,r=abc", b"n,,n=\xf0\x9f\x9a\x80,r=abc", b"n,,n=fr\xff,r=abc", b"n,,n=fr\0ed,r=abc", b"n,,n=fr\ned,r=abc",
        b"x,,n=fred,r=abc", b"n,,n=fred,r=" + b"a" * 320,
    ],
)  # fmt: skip
def test_malformed_client_first_message_is_refused(message: bytes) -> None:
    driver = ServerDriver(hooks={"secret"}, extensions=standard(OFFER)).begin()
    assert codes(driver.send_lines("AUTH SCRAM-SHA-256", b64(message), SENDER)) == ["334", "501 5.5.2", "250 2.1.0"]


@pytest.mark.parametrize("flag", ["n", "y"])
def test_channel_binding_flags_n_and_y_are_accepted(flag: str) -> None:
    driver = ServerDriver(hooks={"secret"}, extensions=standard(OFFER)).begin()
    assert codes(driver.send_lines(f"AUTH SCRAM-SHA-256 {b64(f'{flag},,n=fred,r=abc'.encode())}")) == ["334"]


@pytest.mark.parametrize("message", [b"", b"c=biws", b"c=biws,r=abc,p=AAAA", b"c=####,r=abc,p=AAAA", b"e=x"])
@pytest.mark.parametrize("last", ["", "*", "AAAA", "###"])
def test_invalid_client_final_message_is_refused(message: bytes, last: str) -> None:
    driver = ServerDriver(hooks={"secret"}, extensions=standard(OFFER)).begin()
    driver.send_lines(f"AUTH SCRAM-SHA-256 {b64(b'n,,n=fred,r=abc')}")
    (challenge,) = driver.send_lines(b64(message))
    assert base64.b64decode(challenge[4:])[:2] == b"e="
    assert codes(driver.send_lines(last, SENDER)) == ["501 5.7.0" if last == "*" else "535 5.7.8", "250 2.1.0"]
    assert driver.protocol.state.user is None


def test_scram_client_rejects_names_that_saslprep_forbids() -> None:
    for credentials in (PasswordCredentials("\U0001f680", "secret"), PasswordCredentials("fred", "\U0001f680")):
        with pytest.raises(LocalProtocolError, match="cannot carry") as caught:
            next(MECHANISMS["SCRAM-SHA-256"].client(credentials, mechanism_context()))
        assert "\U0001f680" not in str(caught.value)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("n,,n={},r=abc", ["334"]), ("n,a={},n={},r=abc", ["334"]), ("n,a=fred,n={}x,r=abc", ["501 5.5.2"]),
        ("n,,n={}x,r=abc", ["501 5.5.2"]), ("n,a={}x,n=fred,r=abc", ["501 5.5.2"]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("character", ["x", "\u00e9", "=2C", "\U00010330"])
def test_longest_user_name_of_scram(character: str, message: str, expected: list[str]) -> None:
    """It is refused before it is prepared, and before a secret is asked for."""
    driver = ServerDriver(hooks={"secret"}, extensions=standard(OFFER)).begin()
    replies = driver.send_lines(f"AUTH SCRAM-SHA-256 {b64(message.replace('{}', character * 255).encode())}")
    assert codes(replies) == expected
    assert expected == ["334"] or replies == ["501 5.5.2 User name too long"]


def test_user_name_that_is_too_long_after_normalization() -> None:
    driver = ServerDriver(hooks={"secret"}, extensions=standard(OFFER)).begin()
    for count, expected in ((14, "334"), (15, "501 5.5.2")):  # U+FDFA becomes 18 characters
        assert (
            codes(driver.send_lines(f"AUTH SCRAM-SHA-256 {b64(f'n,,n={chr(0xFDFA) * count},r=abc'.encode())}", "*"))[0]
            == expected
        )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("PLAIN", b"\0%s\0secret"), ("PLAIN", b"%s\0fred\0secret"), ("LOGIN", b"%s"), ("CRAM-MD5", b"%s " + b"0" * 32),
        ("OAUTHBEARER", b"n,a=%s,\x01auth=Bearer abc\x01\x01"), ("XOAUTH2", b"user=%s\x01auth=Bearer abc\x01\x01"),
        ("EXTERNAL", b"%s"),
    ],
)  # fmt: skip
def test_longest_user_name_of_other_mechanisms(name: str, message: bytes) -> None:
    for character in (b"x", b"\xc3\xa9") + ((b"=2C",) if name == "OAUTHBEARER" else ()):
        for count, refused in ((255, False), (256, True)):
            replies = begin().send_lines(f"AUTH {name}", b64(message % (character * count)), "*")
            assert ("501 5.5.2 User name too long" in replies) is refused


@pytest.mark.parametrize("field", ["user", "authzid"])
def test_longest_names_of_clients(field: str) -> None:
    kinds: list[Callable[[str], object]] = [
        lambda name: PasswordCredentials(**{"user": "fred", field: name}, password="secret"),
        (lambda name: ExternalCredentials(name)) if field == "authzid" else (lambda name: BearerToken(name, "abc")),
    ]
    for kind in kinds:
        kind("\u00e9" * 255)
        with pytest.raises(ValueError, match=f"{field} must have up to 255 characters, got 256"):
            kind("\u00e9" * 256)


def test_longest_password_of_a_scram_client() -> None:
    """The other mechanisms send it as it is."""
    client = MECHANISMS["SCRAM-SHA-256"].client
    assert next(client(PasswordCredentials("fred", "\u00e9" * 1024), mechanism_context()))
    with pytest.raises(LocalProtocolError, match="cannot carry this password: it has more than 1024 characters"):
        next(client(PasswordCredentials("fred", "\u00e9" * 1025), mechanism_context()))
    assert next(MECHANISMS["PLAIN"].client(PasswordCredentials("fred", "x" * 9000), mechanism_context()))


def test_unknown_user_looks_like_a_wrong_password() -> None:
    """The number of steps and the replies are the same, and the salt does not change (RFC 5802 9)."""
    driver = ServerDriver(hooks={"secret"}, extensions=standard(OFFER)).begin()
    salts: dict[str, set[str]] = {"fred": set(), "nobody": set(), "wilma": set()}
    for user, seen in salts.items():
        for _ in range(2):
            (challenge,) = driver.send_lines(f"AUTH SCRAM-SHA-256 {b64(f'n,,n={user},r=abc'.encode())}")
            first = base64.b64decode(challenge[4:]).decode()
            match = re.fullmatch(r"(r=abc[^,]+),s=([^,]{24}),i=4096", first)
            assert match is not None
            seen.add(match[2])
            replies = driver.send_lines(b64(f"c=biws,{match[1]},p={b64(bytes(32))}".encode()), "")
            assert replies == ["334 " + b64(b"e=invalid-proof"), str(INVALID_CREDENTIALS)]
    assert [*map(len, salts.values())] == [1, 1, 1]
    assert len(set.union(*salts.values())) == 3
    for user in salts:
        replies = driver.send_lines("AUTH CRAM-MD5", b64(f"{user} {'0' * 32}".encode()))
        assert codes(replies) == ["334", "535 5.7.8"]
    assert driver.requested_secrets == ["fred", "fred", "nobody", "nobody", "wilma", "wilma", "fred", "nobody", "wilma"]


# --- OAUTHBEARER, RFC 7628 4; XOAUTH2 ---------------------------------------------------------------------------------

EXAMPLE = (
    b"n,a=user@example.com,\x01host=server.example.com\x01port=143\x01"
    b"auth=Bearer vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==\x01\x01"
)


def test_example_of_rfc_7628() -> None:
    claim = next(MECHANISMS["OAUTHBEARER"].server(EXAMPLE, mechanism_context()))
    assert claim == Credentials("OAUTHBEARER", "user@example.com", BEARER.token)
    client = MECHANISMS["OAUTHBEARER"].client(BearerToken("user@example.com", BEARER.token), mechanism_context())
    assert respond(client, None) == EXAMPLE.replace(b"host=server.example.com\x01port=143\x01", b"")


def test_xoauth2_message() -> None:
    client = MECHANISMS["XOAUTH2"].client(BearerToken("someuser@example.com", "ya29.vF9dft4"), mechanism_context())
    assert respond(client, None) == b"user=someuser@example.com\x01auth=Bearer ya29.vF9dft4\x01\x01"


@pytest.mark.parametrize("name", WITH_TOKEN)
def test_invalid_token_gets_an_error_message_first(name: str) -> None:
    driver = ServerDriver(
        hooks={"auth"}, extensions=standard(OFFER), check_credentials=lambda _: INVALID_CREDENTIALS
    ).begin()
    client = MECHANISMS[name].client(BEARER, mechanism_context())
    assert driver.send_lines(f"AUTH {name} {b64(respond(client, None) or b'')}") == ["334 " + b64(INVALID)]
    dummy = respond(client, INVALID)
    assert dummy == DUMMY[name]
    assert codes(driver.send_lines(b64(dummy), SENDER)) == ["535 5.7.8", "250 2.1.0"]
    assert driver.credentials == [Credentials(name, BEARER.user, BEARER.token)]


@pytest.mark.parametrize("name", WITH_TOKEN)
def test_temporary_failure_has_no_error_message(name: str) -> None:
    later = Reply(454, "Later", "4.7.0")
    driver = ServerDriver(hooks={"auth"}, extensions=standard(OFFER), check_credentials=lambda _: later).begin()
    client = MECHANISMS[name].client(BEARER, mechanism_context())
    assert driver.send_lines(f"AUTH {name} {b64(respond(client, None) or b'')}") == [str(later)]


@pytest.mark.parametrize("answer", [None, b"", INVALID])
@pytest.mark.parametrize("name", WITH_TOKEN)
def test_client_rejects_success_after_an_error_message(name: str, answer: bytes | None) -> None:
    client = MECHANISMS[name].client(BEARER, mechanism_context())
    respond(client, None)
    respond(client, INVALID)
    with pytest.raises(RemoteProtocolError, match="did not refuse"):
        respond(client, answer)


@pytest.mark.parametrize(
    ("name", "message", "expected"),
    [
        ("OAUTHBEARER", b"", "501 5.5.2"), ("OAUTHBEARER", b"n,a=fred,", "501 5.5.2"),
        ("OAUTHBEARER", b"p=x,a=fred,\x01auth=Bearer x\x01\x01", "501 5.5.2"),
        ("OAUTHBEARER", b"n,a=fr=ed,\x01auth=Bearer x\x01\x01", "501 5.5.2"),
        ("OAUTHBEARER", b"n,a=fr\ned,\x01auth=Bearer x\x01\x01", "501 5.5.2"),
        ("OAUTHBEARER", b"n,a=fred,\x01auth=Bearer x\x01", "501 5.5.2"),
        ("OAUTHBEARER", b"n,,\x01auth=Bearer x\x01\x01", "535 5.7.8"),
        ("OAUTHBEARER", b"n,a=fred,\x01auth=Bearer \xff\x01\x01", "501 5.5.2"),
        ("OAUTHBEARER", b"n,a=fred,\x01auth=\x01\x01", "535 5.7.8"), ("OAUTHBEARER", b"n,a=fred,\x01\x01", "535 5.7.8"),
        ("OAUTHBEARER", b"n,a=fred,\x01auth=Basic x\x01\x01", "535 5.7.8"),
        ("OAUTHBEARER", b"n,a=fred,\x01auth=Bearer a b\x01\x01", "535 5.7.8"),
        ("XOAUTH2", b"", "501 5.5.2"), ("XOAUTH2", b"user=fred", "501 5.5.2"), ("XOAUTH2", b"user=fred\x01\x01", "535 5.7.8"),
        ("XOAUTH2", b"user=\x01auth=Bearer x\x01\x01", "535 5.7.8"),
    ],
)  # fmt: skip
def test_malformed_bearer_message_is_refused(name: str, message: bytes, expected: str) -> None:
    driver = ServerDriver(hooks={"auth"}, extensions=standard(OFFER), check_credentials=lambda _: None).begin()
    replies = codes(driver.send_lines(f"AUTH {name}", b64(message)))
    if replies[-1] == "334":
        replies[1:] = codes(driver.send_lines(b64(DUMMY[name])))
    assert replies == ["334", expected]
    assert driver.credentials == []


# --- all mechanisms ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_asterisk_cancels_each_mechanism(name: str) -> None:
    driver = begin()
    assert codes(driver.send_lines(f"AUTH {name}", "*", SENDER)) == ["334", "501 5.7.0", "250 2.1.0"]


@pytest.mark.parametrize("name", [*WITH_SECRET, *WITH_TOKEN])
def test_invalid_base64_is_refused_by_each_mechanism(name: str) -> None:
    driver = begin()
    assert codes(driver.send_lines(f"AUTH {name}", "####", SENDER)) == ["334", "501 5.5.2", "250 2.1.0"]


@pytest.mark.parametrize("message", [b"", b"fred", b" 00", b"fr\ned 00", b"fr\0ed 00", b"\xff 00"])
def test_malformed_cram_response_is_refused(message: bytes) -> None:
    driver = ServerDriver(hooks={"secret"}, extensions=standard(OFFER)).begin()
    assert codes(driver.send_lines("AUTH CRAM-MD5", b64(message))) == ["334", "501 5.5.2"]


@pytest.mark.parametrize(
    ("name", "answers"),
    [
        ("PLAIN", [b""]), ("LOGIN", [None]), ("LOGIN", [b"", None]), ("LOGIN", [b"", b"", b""]),
        ("CRAM-MD5", [None]), ("CRAM-MD5", [b"<1@a>", b""]),
    ],
)  # fmt: skip
def test_client_rejects_steps_out_of_order(name: str, answers: list[bytes | None]) -> None:
    client = MECHANISMS[name].client(FRED, mechanism_context())
    for answer in (None, *answers[:-1]):
        respond(client, answer)
    with pytest.raises(RemoteProtocolError):
        respond(client, answers[-1])


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_scram_is_cancelled_at_any_step(steps: int) -> None:
    """Also at the last one, when the client has proved its identity and the server's own proof is sent (RFC 4954 4)."""
    driver = ServerDriver(hooks={"secret"}, extensions=standard(OFFER)).begin()
    client = MECHANISMS["SCRAM-SHA-256"].client(FRED, mechanism_context())
    (reply,) = driver.send_lines("AUTH SCRAM-SHA-256")
    challenge: bytes | None = None
    for _ in range(steps):
        (reply,) = driver.send_lines(b64(respond(client, challenge) or b""))
        challenge = base64.b64decode(reply[4:])
    assert [reply[:3], (challenge or b"")[:2]] == ["334", [b"", b"r=", b"v="][steps]]
    assert codes(driver.send_lines("*", "NOOP", SENDER)) == ["501 5.7.0", "250 2.0.0", "250 2.1.0"]
    assert driver.protocol.state.user is None


def octets_of(alphabet: bytes) -> st.SearchStrategy[bytes]:
    return st.lists(st.sampled_from([bytes([octet]) for octet in alphabet])).map(b"".join)


@pytest.mark.parametrize("name", NAMES)
@given(messages=st.lists(st.binary(max_size=60) | octets_of(b"n,=ryabcps01\x01 "), max_size=4))
def test_random_messages_never_authenticate(name: str, messages: list[bytes]) -> None:
    driver = begin()
    driver.check_credentials = lambda _: INVALID_CREDENTIALS
    driver.send_lines(f"AUTH {name}", *map(b64, messages))
    assert driver.protocol.state.user is None


def messages_of(name: str) -> st.SearchStrategy[bytes]:
    """Return messages that are well-formed but for the text in their fields."""
    text = st.text(st.characters(codec="utf-8"), max_size=300).map(str.encode)
    plain = "SCRAM" in name and not name.endswith("-PLUS")
    formats = {
        "PLAIN": b"%s\0%s\0%s", "OAUTHBEARER": b"n,a=%s,\x01host=%s\x01auth=Bearer %s\x01\x01",
        "XOAUTH2": b"user=%s\x01x=%s\x01auth=%s\x01\x01",
    }  # fmt: skip
    scram = (b"y" if plain else b"p=tls-server-end-point") + b",a=%s,n=%s,r=%s"
    form = formats.get(name, scram if "SCRAM" in name else b"%s")
    return st.tuples(*[text] * form.count(b"%s")).map(lambda fields: form % fields)


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
def test_fields_of_messages_only_raise_bad_command_errors(name: str, data: st.DataObject) -> None:
    """Whatever they contain, the reply is one of a failed AUTH, and a name that the application gets can be logged."""
    server = MECHANISMS[name].server(data.draw(messages_of(name)), mechanism_context())
    step: object = None
    try:
        step = next(server)
        if isinstance(step, bytes):
            step = server.send(data.draw(messages_of("LOGIN")))
    except BadCommandError as bad:
        step = bad.reply
    assert not isinstance(step, Reply) or step.code in (501, 535)
    if isinstance(step, Credentials | SecretRequest):
        assert not any(ord(character) < 32 for character in step.user)
        assert len(step.user) <= 255


@given(proof=st.binary(max_size=80) | st.text(max_size=80).map(str.encode), place=st.integers(0, 5))
def test_final_messages_of_scram_only_raise_bad_command_errors(proof: bytes, place: int) -> None:
    server = MECHANISMS["SCRAM-SHA-256"].server(b"n,,n=fred,r=abc", mechanism_context())
    answer: Any = None
    while not isinstance(step := server.send(answer), bytes):
        answer = (
            "secret" if isinstance(step, SecretRequest) else step.compute() if isinstance(step, Computation) else None
        )
    parts = [b"c=biws,", step.split(b",")[0], b",", b"p=", base64.b64encode(bytes(32)), b""]
    parts[place] = proof
    with pytest.raises(AuthenticationFailedError) as caught:
        server.send(b"".join(parts))
    assert caught.value.reply == INVALID_CREDENTIALS


@pytest.mark.parametrize("name", NAMES)
@given(messages=st.lists(st.binary(max_size=60) | octets_of(b"resiv=,0123456789"), max_size=3))
def test_random_challenges_only_raise_remote_protocol_errors(name: str, messages: list[bytes]) -> None:
    client = MECHANISMS[name].client(CREDENTIALS[MECHANISMS[name].credentials], mechanism_context())
    respond(client, None)
    try:
        for message in messages:
            assert isinstance(respond(client, message), bytes)
    except RemoteProtocolError:
        pass


# --- offered mechanisms --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"hooks": {"auth"}, "secure": True}, "AUTH PLAIN LOGIN"), ({"hooks": {"auth"}}, None),
        ({"hooks": {"secret"}}, "AUTH SCRAM-SHA-256 CRAM-MD5"), ({"hooks": {"auth", "secret"}}, "AUTH SCRAM-SHA-256 CRAM-MD5"),
        ({"hooks": {"auth", "secret"}, "secure": True}, "AUTH SCRAM-SHA-256 PLAIN LOGIN CRAM-MD5"),
        ({"hooks": {"auth"}, "secure": True, "extensions": standard(Auth(mechanisms=("XOAUTH2", "FOO")))}, "AUTH XOAUTH2"),
        ({"hooks": {"auth"}, "extensions": standard(Auth(mechanisms=("XOAUTH2",)))}, None),
    ],
)  # fmt: skip
def test_mechanism_is_offered_with_its_hook(settings: dict[str, Any], line: str | None) -> None:
    lines = [line[4:] for line in ServerDriver(**settings).send_lines(HELLO)[1].split("\n")]
    assert [found for found in lines if found.startswith("AUTH")] == ([] if line is None else [line])


def test_shared_grammar_keeps_offers_apart() -> None:
    """Sessions share a grammar, which caches the replies to EHLO."""
    grammar = Grammar(standard())
    assert "AUTH" not in ServerDriver(extensions=grammar).send_lines(HELLO)[1]
    assert "AUTH SCRAM-SHA-256" in ServerDriver(extensions=grammar, hooks={"secret"}).send_lines(HELLO)[1]


@pytest.mark.parametrize(
    ("settings", "mechanism", "expected"),
    [
        ({"hooks": {"auth", "secret"}}, "PLAIN", "538 5.7.11"), ({"hooks": {"secret"}}, "PLAIN", "504 5.5.4"),
        ({"hooks": {"auth"}, "secure": True}, "CRAM-MD5", "504 5.5.4"),
        ({"hooks": {"auth"}, "secure": True}, "XOAUTH2", "504 5.5.4"),
        ({"hooks": {"secret"}, "extensions": standard(Auth(mechanisms=("PLAIN",)))}, "PLAIN", "502 5.5.1"),
    ],
)  # fmt: skip
def test_mechanism_that_is_not_offered_is_refused(settings: dict[str, Any], mechanism: str, expected: str) -> None:
    assert codes(ServerDriver(**settings).begin().send_lines(f"AUTH {mechanism}")) == [expected]


# --- challenges ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["PDFAeD4=", "PDFAeD4", " PDFA\neD4= ", "PDFAeD4=\t", "P D F A e D 4"])
def test_challenge_with_other_white_space_or_padding(text: str) -> None:
    assert all(decode_challenge(text, mechanism) == b"<1@x>" for mechanism in MECHANISMS.values())


@pytest.mark.parametrize("text", ["=", "A", "not base64!", "Username:", "{}", "\u00e9", "AAAA=AAA"])
def test_challenge_that_is_not_base64(text: str) -> None:
    for name in ("PLAIN", "LOGIN", "OAUTHBEARER", "XOAUTH2"):
        assert decode_challenge(text, MECHANISMS[name]) == text.encode()
    for name in ("CRAM-MD5", "SCRAM-SHA-256"):
        with pytest.raises(RemoteProtocolError, match="not base64"):
            decode_challenge(text, MECHANISMS[name])


# --- the choice of a mechanism ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offered", "credentials", "secure", "cleartext", "chosen"),
    [
        (NAMES, FRED, True, False, "SCRAM-SHA-256"), (NAMES, FRED, False, False, "SCRAM-SHA-256"),
        (NAMES, ExternalCredentials(), True, False, "EXTERNAL"), (NAMES, AnonymousCredentials(), False, False, "ANONYMOUS"),
        (["SCRAM-SHA-1", "SCRAM-SHA-256"], FRED, True, False, "SCRAM-SHA-256"), (["SCRAM-SHA-1"], FRED, True, False, "SCRAM-SHA-1"),
        (["LOGIN", "PLAIN", "CRAM-MD5"], FRED, True, False, "PLAIN"), (["CRAM-MD5", "login"], FRED, True, False, "LOGIN"),
        (["CRAM-MD5"], FRED, True, False, "CRAM-MD5"), (["LOGIN", "PLAIN", "CRAM-MD5"], FRED, False, True, "CRAM-MD5"),
        (["LOGIN", "PLAIN"], FRED, False, True, "PLAIN"), (NAMES, BEARER, True, False, "OAUTHBEARER"),
        (["XOAUTH2"], BEARER, True, False, "XOAUTH2"), (["XOAUTH2"], BEARER, False, True, "XOAUTH2"),
        (NAMES, PasswordCredentials("fred", "secret", "joe"), True, False, "PLAIN"),
    ],
)  # fmt: skip
def test_best_usable_mechanism_is_chosen(
    offered: list[str], credentials: ClientCredentials, secure: bool, cleartext: bool, chosen: str
) -> None:
    assert (
        choose_mechanism(MECHANISMS.values(), offered, credentials, secure=secure, allow_cleartext=cleartext)
        is MECHANISMS[chosen]
    )


@pytest.mark.parametrize(
    ("offered", "credentials", "secure", "message"),
    [
        (["PLAIN", "LOGIN"], FRED, False, "offers LOGIN, PLAIN: .*PLAIN needs TLS"),
        (["GSSAPI"], FRED, True, "offers GSSAPI: .*PLAIN is not offered"), ([], FRED, True, "offers no mechanism"),
        (["XOAUTH2"], FRED, True, "offers XOAUTH2"), (["PLAIN"], BEARER, True, "OAUTHBEARER is not offered"),
        (["XOAUTH2"], BEARER, False, "XOAUTH2 needs TLS"),
        (["CRAM-MD5"], PasswordCredentials("fred", "secret", "joe"), True, "CRAM-MD5 cannot carry an authzid"),
    ],
)  # fmt: skip
def test_no_usable_mechanism_raises_with_the_reasons(
    offered: list[str], credentials: ClientCredentials, secure: bool, message: str
) -> None:
    with pytest.raises(LocalProtocolError, match=message) as caught:
        choose_mechanism(MECHANISMS.values(), offered, credentials, secure=secure)
    assert FRED.password not in str(caught.value)
    assert BEARER.token not in str(caught.value)


@pytest.mark.parametrize(
    ("credentials", "values", "attribute"),
    [
        (PasswordCredentials, ("", "x"), "user"), (PasswordCredentials, ("a\0", "x"), "user"),
        (PasswordCredentials, (b"a", "x"), "user"), (PasswordCredentials, ("a\nb", "x"), "user"),
        (PasswordCredentials, ("a\udc80", "x"), "user"), (PasswordCredentials, ("a", ""), "password"),
        (PasswordCredentials, ("a", "se\0cret"), "password"), (PasswordCredentials, ("a", None), "password"),
        (PasswordCredentials, ("a", "x", "\0"), "authzid"), (PasswordCredentials, ("a", "x", None), "authzid"),
        (BearerToken, ("", "x"), "user"), (BearerToken, ("a\x01auth=", "x"), "user"), (BearerToken, ("a", ""), "token"),
        (BearerToken, ("a", "se cret"), "token"), (BearerToken, ("a", "secret\x01"), "token"), (BearerToken, ("a", 1), "token"),
    ],
)  # fmt: skip
def test_invalid_credentials_raise(credentials: Callable[..., object], values: tuple[Any, ...], attribute: str) -> None:
    with pytest.raises(ValueError, match=f"^{attribute} must") as caught:
        credentials(*values)
    assert "cret" not in str(caught.value)


def test_reprs_do_not_contain_secrets() -> None:
    assert repr(FRED) == "PasswordCredentials(user='fred', authzid='')"
    assert repr(BEARER) == "BearerToken(user='fred@example.org')"
    assert repr(mechanism_context()) == "MechanismContext(name='mx.test')"
    assert repr(MECHANISMS["PLAIN"]) == "<Plain PLAIN>"
