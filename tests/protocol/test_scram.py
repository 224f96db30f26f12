"""SCRAM: the examples of the RFCs, channel binding, and another implementation as the peer."""

from __future__ import annotations

import base64
import hashlib
import hmac
import stringprep
import unicodedata
from typing import Any

import pytest
from hypothesis import given, strategies as st

from smtp_trio.protocol import BadCommandError, LocalProtocolError, RemoteProtocolError
from smtp_trio.protocol.extensions import Auth, standard
from smtp_trio.protocol.sasl import (
    INVALID_CREDENTIALS,
    MECHANISMS,
    Authenticated,
    AuthenticationFailedError,
    Computation,
    MechanismContext,
    PasswordCredentials,
    ScramHash,
    ScramSecret,
    SecretRequest,
    choose_mechanism,
)
from smtp_trio.protocol.sasl.saslprep import saslprep

from .driver import HELLO, ServerDriver, codes, respond

USER = PasswordCredentials("user", "pencil")
HASHES: list[ScramHash] = ["SHA-256", "SHA-1"]
BINDING = bytes(range(32))
#: More characters than a text in the tests of SASLprep has.
LIMIT = 10**6
HOOKS: dict[str, Any] = {"hooks": {"auth", "secret"}, "extensions": standard(Auth(mechanisms=tuple(MECHANISMS)))}


def context(**session: Any) -> MechanismContext:
    return MechanismContext("mx.test", lambda count: bytes(range(1, count + 1)), **session)


def b64(octets: bytes) -> str:
    return base64.b64encode(octets).decode()


def continue_server(server: Any, answer: Any, secret: object = None) -> bytes:
    """Send an answer to a server's side, and the answers to its questions; return its challenge."""
    while True:
        step = server.send(answer)
        if isinstance(step, SecretRequest):
            answer = secret
        elif isinstance(step, Computation):
            answer = step.compute()
        else:
            return bytes(step)


def run(name: str, client_session: dict[str, Any], server_session: dict[str, Any]) -> Authenticated:
    """Run a mechanism between sides that know different things of the session."""
    client = MECHANISMS[name].client(USER, context(**client_session))
    server = MECHANISMS[name].server(respond(client, None), context(**server_session))
    answer = None
    try:
        while True:
            answer = respond(client, continue_server(server, answer, "pencil"))
    except StopIteration as done:
        with pytest.raises(StopIteration):
            respond(client, None)
        result: Authenticated = done.value
        return result


# --- the examples of the RFCs -----------------------------------------------------------------------------------------

EXAMPLES = {
    # RFC 7677 3
    "SCRAM-SHA-256": (
        "rOprNGfwEbeRWgbNEkqO", "n,,n=user,r=rOprNGfwEbeRWgbNEkqO",
        "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
        "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
        "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
    ),
    # RFC 5802 5
    "SCRAM-SHA-1": (
        "fyko+d2lbbFgONRv9qkxdawL", "n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL",
        "r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096",
        "c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=",
        "v=rmF9pqV8S7suAoZWja4dJRkFsKQ=",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", EXAMPLES)
def test_client_of_the_example(name: str) -> None:
    nonce, first, server_first, final, server_final = EXAMPLES[name]
    client = MECHANISMS[name].client(USER, MechanismContext("mx.test", lambda _: base64.b64decode(nonce)))
    assert respond(client, None) == first.encode()
    assert respond(client, server_first.encode()) == final.encode()
    assert respond(client, server_final.encode()) == b""
    with pytest.raises(StopIteration):
        respond(client, None)


@pytest.mark.parametrize("name", EXAMPLES)
def test_server_of_the_example(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    nonce, first, server_first, final, server_final = EXAMPLES[name]
    salt = base64.b64decode(server_first.split(",s=")[1].split(",")[0])
    secret = ScramSecret.from_password("pencil", salt, hash="SHA-1" if name.endswith("-1") else "SHA-256")
    server_nonce = server_first[2:].split(",")[0].removeprefix(nonce)
    monkeypatch.setattr("smtp_trio.protocol.sasl.scram.make_nonce", lambda _: server_nonce)
    server = MECHANISMS[name].server(first.encode(), context())
    assert continue_server(server, None, secret) == server_first.encode()
    assert continue_server(server, final.encode()) == server_final.encode()
    with pytest.raises(StopIteration) as done:
        server.send(b"")
    assert done.value.value == Authenticated("user")


@pytest.mark.parametrize("octets", [1, 11, 65, 300])
@pytest.mark.parametrize("hash", HASHES)
def test_client_with_a_salt_of_any_length(hash: ScramHash, octets: int) -> None:
    """RFC 5802 5.1 limits the salt in no way, although `ScramSecret` does; hashlib and hmac compute the expected proof."""
    name, salt = hash.replace("-", "").lower(), bytes(octets)
    client = MECHANISMS[f"SCRAM-{hash}"].client(USER, context())
    first = (respond(client, None) or b"").decode().removeprefix("n,,")
    server_first = f"{first.partition(',')[2]}x,s={b64(salt)},i=4096"
    final = (respond(client, server_first.encode()) or b"").decode()
    salted = hashlib.pbkdf2_hmac(name, b"pencil", salt, 4096)
    client_key = hmac.digest(salted, b"Client Key", name)
    without_proof, _, proof = final.partition(",p=")
    message = f"{first},{server_first},{without_proof}".encode()
    signature = hmac.digest(hashlib.new(name, client_key).digest(), message, name)
    assert bytes(a ^ b for a, b in zip(base64.b64decode(proof), signature, strict=True)) == client_key
    verifier = hmac.digest(hmac.digest(salted, b"Server Key", name), message, name)
    assert respond(client, f"v={b64(verifier)}".encode()) == b""
    with pytest.raises(StopIteration):
        respond(client, None)


# --- another implementation -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("password", ["pencil", "p\u00e4ss w\u00f6rd", "\u00aa\u00ad\u2168"])
@pytest.mark.parametrize("plus", [False, True])
@pytest.mark.parametrize("hash", HASHES)
def test_scramp_agrees(hash: ScramHash, plus: bool, password: str) -> None:
    """scramp as the client of our server, and as the server of our client."""
    scramp = pytest.importorskip("scramp")
    name = f"SCRAM-{hash}{'-PLUS' * plus}"
    session: dict[str, Any] = {"channel_binding": BINDING, "offered": tuple(MECHANISMS)} if plus else {}
    binding = ("tls-server-end-point", BINDING) if plus else None
    secret = ScramSecret.from_password(password, bytes(16), 5000, hash)
    mechanism = scramp.ScramMechanism(name)
    keys = mechanism.make_auth_info(password, 5000, bytes(16))
    assert keys == (secret.salt, secret.stored_key, secret.server_key, 5000)

    peer = scramp.ScramClient([name], "fr,e=d", password, channel_binding=binding)
    server = MECHANISMS[name].server(peer.get_client_first().encode(), context(**session))
    peer.set_server_first(continue_server(server, None, secret).decode())
    peer.set_server_final(continue_server(server, peer.get_client_final().encode()).decode())
    with pytest.raises(StopIteration) as done:
        server.send(b"")
    assert done.value.value.user == "fr,e=d"

    other = mechanism.make_server(lambda user: (*keys[:3], 5000), channel_binding=binding)
    client = MECHANISMS[name].client(PasswordCredentials("fr,e=d", password), context(**session))
    other.set_client_first((respond(client, None) or b"").decode())
    other.set_client_final((respond(client, other.get_server_first().encode()) or b"").decode())
    assert respond(client, other.get_server_final().encode()) == b""
    with pytest.raises(StopIteration):
        respond(client, None)


# --- channel binding (RFC 5802 6) -------------------------------------------------------------------------------------

BOUND: dict[str, Any] = {"channel_binding": BINDING, "offered": ("SCRAM-SHA-256-PLUS", "SCRAM-SHA-1-PLUS")}


@pytest.mark.parametrize("hash", HASHES)
def test_both_sides_see_the_same_certificate(hash: ScramHash) -> None:
    assert run(f"SCRAM-{hash}-PLUS", BOUND, BOUND) == Authenticated("user")


@pytest.mark.parametrize("hash", HASHES)
def test_different_certificates(hash: ScramHash) -> None:
    """Someone with a valid certificate is between client and server."""
    with pytest.raises(AuthenticationFailedError) as caught:
        run(f"SCRAM-{hash}-PLUS", BOUND, {**BOUND, "channel_binding": bytes(32)})
    assert (caught.value.reply, caught.value.challenge) == (INVALID_CREDENTIALS, b"e=channel-bindings-dont-match")


def test_mechanisms_with_channel_binding_that_were_removed_from_the_offer() -> None:
    """A client that could bind and saw no such mechanism says so, which the server does not believe if it has one."""
    with pytest.raises(AuthenticationFailedError) as caught:
        run("SCRAM-SHA-256", {"channel_binding": BINDING}, BOUND)
    assert caught.value.challenge == b"e=server-does-support-channel-binding"
    assert caught.value.reply == INVALID_CREDENTIALS


@pytest.mark.parametrize(
    ("offered", "flag"),
    [
        ((), "y"), (("SCRAM-SHA-256",), "y"), (("SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"), "n"),
        (("SCRAM-SHA-1-PLUS", "SCRAM-SHA-256"), "y"), (("X-OTHER-PLUS", "SCRAM-SHA-256"), "y"),
        (("SCRAM-SHA-512-PLUS", "SCRAM-SHA-256"), "y"), (("SCRAM-SHA-256-PLUS-PLUS", "SCRAM-SHA-256"), "y"),
    ],
)  # fmt: skip
def test_flag_of_a_client_that_could_bind(offered: tuple[str, ...], flag: str) -> None:
    """It depends on the -PLUS form of the client's mechanism, and on no other name."""
    session: dict[str, Any] = {"channel_binding": BINDING, "offered": offered}
    assert (respond(MECHANISMS["SCRAM-SHA-256"].client(USER, context(**session)), None) or b"")[
        :3
    ] == f"{flag},,".encode()
    session["channel_binding"] = b""
    assert (respond(MECHANISMS["SCRAM-SHA-256"].client(USER, context(**session)), None) or b"")[:3] == b"n,,"


@pytest.mark.parametrize("offered", [(), ("SCRAM-SHA-256", "PLAIN"), ("X-OTHER-PLUS", "SCRAM-SHA-256"), ("SCRAM-X",)])
def test_server_without_scram_with_channel_binding_accepts_the_flag(offered: tuple[str, ...]) -> None:
    server = {"channel_binding": BINDING, "offered": offered}
    assert run("SCRAM-SHA-256", {"channel_binding": BINDING}, server) == Authenticated("user")


@pytest.mark.parametrize(
    ("client", "server"),
    [
        ({}, {}), ({}, BOUND), (BOUND, BOUND), ({"channel_binding": BINDING}, {}),
        ({"channel_binding": BINDING}, {"channel_binding": BINDING}), ({"offered": ("SCRAM-SHA-256-PLUS",)}, BOUND),
    ],
)  # fmt: skip
def test_login_without_channel_binding(client: dict[str, Any], server: dict[str, Any]) -> None:
    assert run("SCRAM-SHA-256", client, server) == Authenticated("user")


@pytest.mark.parametrize(
    ("name", "message", "error"),
    [
        ("SCRAM-SHA-256", "p=tls-server-end-point,,n=user,r=abc", None), ("SCRAM-SHA-256-PLUS", "n,,n=user,r=abc", None),
        ("SCRAM-SHA-256-PLUS", "p=tls-exporter,,n=user,r=abc", b"e=unsupported-channel-binding-type"),
        ("SCRAM-SHA-256-PLUS", "y,,n=user,r=abc", b"e=server-does-support-channel-binding"),
        ("SCRAM-SHA-256", "n,a=other,n=user,r=abc", b"e=other-error"),
    ],
)  # fmt: skip
def test_first_message_that_is_refused(name: str, message: str, error: bytes | None) -> None:
    with pytest.raises(BadCommandError) as caught:
        continue_server(MECHANISMS[name].server(message.encode(), context(**BOUND)), None)
    assert getattr(caught.value, "challenge", None) == error
    assert caught.value.reply.code == (501 if error is None else 535)


@pytest.mark.parametrize("proof", ["AAAA", "AAA", b64(bytes(31)), b64(bytes(32))])
def test_invalid_proof(proof: str) -> None:
    server = MECHANISMS["SCRAM-SHA-256"].server(b"n,,n=user,r=abc", context())
    nonce = continue_server(server, None, "pencil").split(b",")[0].decode()
    with pytest.raises(AuthenticationFailedError) as caught:
        continue_server(server, f"c=biws,{nonce},p={proof}".encode())
    assert caught.value.challenge == b"e=invalid-proof"


def test_authorization_identity_that_is_the_user() -> None:
    server = MECHANISMS["SCRAM-SHA-256"].server(b"n,a=us=2Cer,n=us=2Cer,r=abc", context())
    assert continue_server(server, None).startswith(b"r=abc")


def test_binding_is_offered_to_a_session_that_has_one() -> None:
    offers = []
    for secure, binding in ((False, b""), (True, b""), (True, BINDING)):
        driver = ServerDriver(**HOOKS, secure=secure)
        driver.protocol.state.channel_binding = binding
        lines = driver.send_lines(HELLO)[1].split("\n")
        offers.append(next(line for line in lines if line[4:].startswith("AUTH"))[9:].split())
    assert ["-PLUS" in " ".join(offer) for offer in offers] == [False, False, True]
    assert offers[2][:4] == ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-1-PLUS", "SCRAM-SHA-256", "SCRAM-SHA-1"]


def test_downgrade_through_a_session() -> None:
    """The flag counts only where the session has offered a mechanism with channel binding."""
    for binding, mechanisms, expected in (
        (b"", ("SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"), ["334"]),
        (BINDING, ("SCRAM-SHA-256",), ["334"]),
        (BINDING, ("SCRAM-SHA-256", "SCRAM-SHA-1-PLUS"), ["334", "535 5.7.8"]),
    ):
        driver = ServerDriver(hooks={"secret"}, extensions=standard(Auth(mechanisms=mechanisms)), secure=True)
        driver.protocol.state.channel_binding = binding
        driver.begin()
        lines = [f"AUTH SCRAM-SHA-256 {b64(b'y,,n=user,r=abc')}", ""][: len(expected)]
        assert codes(driver.send_lines(*lines)) == expected


def test_client_prefers_channel_binding() -> None:
    offered = list(MECHANISMS)
    choose = choose_mechanism
    assert choose(MECHANISMS.values(), offered, USER, secure=True, channel_binding=BINDING).name == "SCRAM-SHA-256-PLUS"
    assert (
        choose(MECHANISMS.values(), offered[1:], USER, secure=True, channel_binding=BINDING).name == "SCRAM-SHA-1-PLUS"
    )
    with pytest.raises(LocalProtocolError, match="SCRAM-SHA-256-PLUS needs TLS with a certificate"):
        choose(MECHANISMS.values(), ["SCRAM-SHA-256-PLUS"], USER, secure=True)


# --- secrets ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hash", HASHES)
def test_secret_of_the_other_hash_function_is_not_used(hash: ScramHash) -> None:
    other: ScramHash = "SHA-1" if hash == "SHA-256" else "SHA-256"
    secret = ScramSecret.from_password("pencil", bytes(12), hash=other)
    assert secret.hash == other
    client = MECHANISMS[f"SCRAM-{hash}"].client(USER, context())
    server = MECHANISMS[f"SCRAM-{hash}"].server(respond(client, None), context())
    first = continue_server(server, None, secret)
    assert b64(bytes(12)) not in first.decode()
    with pytest.raises(AuthenticationFailedError) as caught:
        continue_server(server, respond(client, first))
    assert caught.value.challenge == b"e=invalid-proof"


@pytest.mark.parametrize("hash", HASHES)
def test_secret_of_the_longest_password(hash: ScramHash) -> None:
    longest = "\u00e9" * 1024
    secret = ScramSecret.from_password(longest, bytes(16), hash=hash)
    assert secret.matches(memoryview(longest.encode()))
    # Both would be the same password if it were cut.
    assert not secret.matches(memoryview((longest + "x").encode()))
    for password in (longest + "x", "\ufdfa" * 57):
        with pytest.raises(ValueError, match="the password has more than 1024 characters") as caught:
            ScramSecret.from_password(password, bytes(16), hash=hash)
        assert "\u00e9" not in str(caught.value)


@pytest.mark.parametrize("hash", HASHES)
def test_secret_matches_a_password(hash: ScramHash) -> None:
    secret = ScramSecret.from_password("a\u00aa", bytes(16), hash=hash)
    for password, expected in (("a\u00aa", True), ("aa", True), ("ab", False), ("\U0001f680", False), ("a\x01", False)):
        assert secret.matches(memoryview(password.encode())) is expected


def test_password_that_saslprep_forbids() -> None:
    with pytest.raises(ValueError, match="the password contains") as caught:
        ScramSecret.from_password("secret\x01", bytes(16))
    assert caught.value.__context__ is None
    with pytest.raises(ValueError, match="hash"):
        ScramSecret.from_password("pencil", bytes(16), hash="MD5")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("r=abcdef,s=AAAA,i=4096", "nonce"), ("r=,s=AAAA,i=4096", "malformed"), ("m=x,r=NONCEx,s=AAAA,i=4096", "malformed"),
        ("r=NONCE,s=AAAA,i=4096", "nonce"), ("r=NONCEx,s=AAA,i=4096", "malformed"), ("r=NONCEx,s=AAAA,i=04096", "malformed"),
        ("r=NONCEx,s=AAAA,i=4095", "less than 4096"),
    ],
)  # fmt: skip
def test_invalid_first_message_of_a_server(message: str, reason: str) -> None:
    client = MECHANISMS["SCRAM-SHA-256"].client(USER, context())
    nonce = (respond(client, None) or b"").decode().split(",r=")[1]
    with pytest.raises(RemoteProtocolError, match=reason):
        respond(client, message.replace("NONCE", nonce).encode())


# --- SASLprep -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "prepared"),
    [
        # RFC 4013 3
        ("I\u00adX", "IX"), ("user", "user"), ("USER", "USER"), ("\u00aa", "a"), ("\u2168", "IX"),
        ("two\u00a0words", "two words"), ("\u0627\u0628", "\u0627\u0628"), ("\u0627 1\u0628", "\u0627 1\u0628"),
    ],
)  # fmt: skip
def test_saslprep(text: str, prepared: str) -> None:
    assert saslprep(text, LIMIT) == prepared


@pytest.mark.parametrize(
    "text",
    [
        "\u0007", "\u06271", "\u0627a\u0628", "\u0627\u06281", "", "\u00ad", "a\u0085", "\ue000", "\ufdd0", "\ufffd",
        "\u2ff0", "\u200e", "\U000e0001", "\U0001f680", "\x7f",
    ],
)  # fmt: skip
def test_text_that_saslprep_forbids(text: str) -> None:
    with pytest.raises(ValueError, match="SASLprep") as caught:
        saslprep(text, LIMIT)
    assert not text or text not in str(caught.value)


@pytest.mark.parametrize("text", ["x" * 10, "\u00aa" * 10, "\ufb03" * 3, "\u00ad" * 9 + "x", "e\u0301" * 5])
def test_longest_text(text: str) -> None:
    """The limit is that of the text before and after normalization, which may make it shorter or longer."""
    prepared = saslprep(text, LIMIT)
    longest = max(len(text), len(prepared))
    assert saslprep(text, longest) == prepared
    with pytest.raises(ValueError, match=f"has more than {longest - 1} characters"):
        saslprep(text, longest - 1)


@given(st.text(max_size=40), st.integers(0, 40))
def test_saslprep_of_any_text(text: str, limit: int) -> None:
    """Also of text with lone surrogates, which comes from the arguments of a program."""
    try:
        prepared = saslprep(text, limit)
    except ValueError as error:
        assert "SASLprep" in str(error) or f"more than {limit} characters" in str(error)  # noqa: PT017
    else:
        assert 0 < len(prepared) <= limit
        assert len(text) <= limit
        prepared.encode()


@given(st.text(st.characters(codec="utf-8"), min_size=1))
def test_saslprep_twice_is_saslprep_once(text: str) -> None:
    try:
        prepared = saslprep(text, LIMIT)
    except ValueError:
        return
    assert saslprep(prepared, LIMIT) == prepared == unicodedata.ucd_3_2_0.normalize("NFKC", prepared)
    assert not any(map(stringprep.in_table_c21_c22, prepared))
