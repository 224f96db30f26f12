"""AUTH (RFC 4954) with the mechanisms PLAIN (RFC 4616) and LOGIN."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from smtp_trio.protocol import BadCommandError, Limits, Reply
from smtp_trio.protocol.extensions import Auth, StartTls, standard
from smtp_trio.protocol.extensions.auth import (
    AUTH,
    AuthCommand,
    AuthResponse,
)
from smtp_trio.protocol.extensions.eightbitmime import BODY
from smtp_trio.protocol.sasl import MECHANISMS, Credentials, MechanismContext, PasswordCredentials

from .driver import HELLO, RECIPIENT, SENDER, ServerDriver, codes, respond


def b64(text: str | bytes) -> str:
    return base64.b64encode(text.encode() if isinstance(text, str) else text).decode()


GOOD = b64("\0fred\0secret")


def begin(**settings: Any) -> ServerDriver:
    return ServerDriver(**{"hooks": {"auth"}, "secure": True, **settings}).begin()


def test_auth_is_offered_with_a_hook_under_tls() -> None:
    assert "AUTH" not in ServerDriver(hooks={"auth"}).send_lines(HELLO)[1]
    assert "AUTH" not in ServerDriver(secure=True).send_lines(HELLO)[1]
    assert "250-AUTH PLAIN LOGIN" in ServerDriver(hooks={"auth"}, secure=True).send_lines(HELLO)[1].split("\n")
    cleartext = ServerDriver(hooks={"auth"}, extensions=standard(Auth(cleartext=True)))
    assert "250-AUTH PLAIN LOGIN" in cleartext.send_lines(HELLO)[1].split("\n")
    assert codes(cleartext.send_lines(f"AUTH PLAIN {GOOD}")) == ["235 2.7.0"]


def test_initial_response() -> None:
    driver = begin()
    assert codes(driver.send_lines(f"AUTH PLAIN {GOOD}")) == ["235 2.7.0"]
    assert driver.credentials == [Credentials("PLAIN", "fred", "secret")]
    assert driver.protocol.state.user == "fred"


def test_response_to_an_empty_challenge() -> None:
    driver = begin()
    assert driver.send_lines("AUTH PLAIN") == ["334 "]
    assert codes(driver.send_lines(GOOD)) == ["235 2.7.0"]
    assert driver.protocol.state.user == "fred"


def test_equals_sign_is_an_empty_initial_response() -> None:
    driver = begin()
    assert codes(driver.send_lines("AUTH PLAIN =")) == ["501 5.5.2"]
    assert AuthCommand.decode("LOGIN =", {}) == AuthCommand("LOGIN", b"")
    assert codes(driver.send_lines("AUTH LOGIN =", b64("secret"))) == ["334", "535 5.7.8"]


def test_wrong_password_is_refused_and_the_session_continues() -> None:
    driver = begin()
    assert codes(driver.send_lines("AUTH PLAIN " + b64("\0fred\0wrong"))) == ["535 5.7.8"]
    assert driver.protocol.state.user is None
    assert codes(driver.send_lines(SENDER, "RSET", f"AUTH PLAIN {GOOD}")) == ["250 2.1.0", "250 2.0.0", "235 2.7.0"]


@pytest.mark.parametrize("lines", [["AUTH PLAIN", "*"], ["AUTH LOGIN", "*"], ["AUTH LOGIN", b64("fred"), "*"]])
def test_asterisk_cancels_the_exchange(lines: list[str]) -> None:
    driver = begin()
    assert codes(driver.send_lines(*lines, "NOOP", SENDER))[-3:] == ["501 5.7.0", "250 2.0.0", "250 2.1.0"]


BAD_BASE64 = ["=AAA", "AAA=BBB", "####", "AAA", "A", "A===", "AAAA=", "QUJ-", "QUJ_", "*x", "caf\u00e9", "QQ==QQ=="]


@pytest.mark.parametrize("line", BAD_BASE64)
def test_invalid_base64_is_refused(line: str) -> None:
    driver = begin()
    assert codes(driver.send_lines(f"AUTH PLAIN {line}")) == ["501 5.5.2"]
    assert codes(driver.send_lines("AUTH PLAIN", line, "NOOP")) == ["334", "501 5.5.2", "250 2.0.0"]
    assert driver.credentials == []


@pytest.mark.parametrize("line", ["a b", "AA AA", "QUJD\tQUJD", "QUJD QUJD", "QUJD\x0b", "\0"])
def test_response_with_spaces_or_controls_is_refused(line: str) -> None:
    assert codes(begin().send_lines("AUTH LOGIN", line, "NOOP")) == ["334", "501 5.5.2", "250 2.0.0"]


def test_argument_must_be_a_mechanism_and_at_most_one_response() -> None:
    assert codes(begin().send_lines("AUTH PLAIN a b", "AUTH PLAIN  AAAA", "AUTH", "AUTH ")) == [
        "501 5.5.2", "501 5.5.2", "501 5.5.4", "501 5.5.4",
    ]  # fmt: skip


@pytest.mark.parametrize("over", [0, 1, 5000])
def test_lines_over_12288_octets_are_refused(over: int) -> None:
    """The rest of a refused line is discarded, not executed, wherever the octets are cut (RFC 4954 4)."""
    for first, line in ((b"AUTH PLAIN\r\n", b""), (b"", b"AUTH PLAIN ")):
        line = line.ljust(12288 - 2 - 1 + over, b"A")
        line += b"A" if over else b"*"  # not base64, but not too long
        octets = first + line + b"\r\nNOOP\r\n"
        expected = (["334"] if first else []) + ["500 5.5.6" if over else "501 5.5.2", "250 2.0.0"]
        for cut in (0, 5, 16, 2047, 2048, 2049, 2060, 12286, 12288, len(octets) - 7):
            driver = begin()
            begun = len(driver.output)
            driver.send_in_segments(octets, [cut])
            assert codes(driver.output[begun:].decode().splitlines()) == expected


def test_long_response_is_accepted_at_any_cut() -> None:
    password = "x" * 9000
    line = b"AUTH PLAIN " + b64(f"\0fred\0{password}").encode() + b"\r\n"
    assert len(line) > 12000
    for octets in (line, line.replace(b"PLAIN ", b"PLAIN\r\n")):
        for cuts in ([], [2048], [2049], range(1, len(octets), 7)):
            assert begin().send_in_segments(octets, cuts).credentials == [Credentials("PLAIN", "fred", password)]
    # The longer limit is AUTH's alone.
    assert codes(begin().send(b"NOOP ".ljust(3000, b"x") + b"\r\nauth plain " + b"A" * 3000 + b"\r\n")) == [
        "500 5.5.2",
        "501 5.5.2",
    ]


def test_line_limit_depends_on_the_verb_at_the_start_of_a_line() -> None:
    """The rest of a refused line neither raises nor lowers the limit."""
    octets = b"x\nAUTH \r\nNOOP " + b"x" * 3000 + b"\r\nx\n\r\nAUTH PLAIN " + b"A" * 3001 + b"\r\nNOOP\r\n"
    for cut in (0, 1, 2, 3, 6, 8, 9, 10, 15, 2055, 3016, 3018, 3019, 3020, 3021, 3022, 3030, 5100):
        driver = begin()
        begun = len(driver.output)
        driver.send_in_segments(octets, [cut])
        replies = codes(driver.output[begun:].decode().splitlines())
        assert replies == ["500 5.5.2", "500 5.5.2", "500 5.5.2", "501 5.5.2", "250 2.0.0"], cut


@pytest.mark.parametrize("line", [b"x" * 13000, b"a\nb", b"a\rb"])
def test_refused_line_ends_the_exchange(line: bytes) -> None:
    driver = begin()
    assert codes(driver.send(b"AUTH PLAIN\r\n" + line + b"\r\n" + GOOD.encode() + b"\r\nNOOP\r\n"))[2:] == [
        "500 5.5.1",
        "250 2.0.0",
    ]
    assert driver.credentials == []
    assert driver.protocol.state.user is None


@pytest.mark.parametrize("mechanism", ["CRAM-MD5", "FOO", "plainx", "PLA\u0131N", "\u00e9"])
def test_unknown_mechanism_is_refused(mechanism: str) -> None:
    assert codes(begin().send_lines(f"AUTH {mechanism}")) == ["504 5.5.4" if mechanism.isascii() else "501 5.5.2"]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"hooks": {"auth"}}, "538 5.7.11"),
        ({"hooks": {"auth"}, "tls": True}, "538 5.7.11"),
        ({"hooks": {"auth"}, "tls": True, "extensions": standard(StartTls(required=True))}, "530 5.7.0"),
        ({}, "502 5.5.1"),
        ({"secure": True}, "502 5.5.1"),
        ({"hooks": {"auth"}, "secure": True, "extensions": standard(without=(Auth,))}, "502 5.5.1"),
        ({"hooks": {"auth"}, "secure": True, "extensions": standard(Auth(mechanisms=("LOGIN",)))}, "504 5.5.4"),
    ],
)
def test_auth_is_refused_without_hook_tls_or_mechanism(settings: dict[str, Any], expected: str) -> None:
    driver = ServerDriver(**settings).begin()
    assert codes(driver.send_lines("AUTH PLAIN", f"AUTH PLAIN {GOOD}")) == [expected] * 2
    assert driver.credentials == []


@pytest.mark.parametrize(
    "reply",
    [
        Reply(534, "Too weak", "5.7.9"), Reply(432, "Change it", "4.7.12"), Reply(454, "Later", "4.7.0"),
        Reply(525, "Disabled", "5.7.13"),
    ],
)  # fmt: skip
def test_reply_of_the_application_is_sent(reply: Reply) -> None:
    driver = begin(check_credentials=lambda _: reply)
    assert codes(driver.send_lines(f"AUTH PLAIN {GOOD}", SENDER)) == [f"{reply.code} {reply.status}", "250 2.1.0"]
    assert driver.protocol.state.user is None


def test_login_takes_the_user_from_an_initial_response() -> None:
    driver = begin()
    assert driver.send_lines("AUTH LOGIN " + b64("fred")) == ["334 UGFzc3dvcmQ6"]
    assert codes(driver.send_lines(b64("secret"))) == ["235 2.7.0"]
    assert driver.credentials == [Credentials("LOGIN", "fred", "secret")]


def test_second_auth_is_refused() -> None:
    assert codes(begin().send_lines(f"AUTH PLAIN {GOOD}", f"AUTH PLAIN {GOOD}", "AUTH FOO")) == [
        "235 2.7.0",
        "503 5.5.1",
        "503 5.5.1",
    ]


def test_auth_in_a_transaction_is_refused() -> None:
    driver = begin()
    assert codes(driver.send_lines(SENDER, f"AUTH PLAIN {GOOD}", RECIPIENT, "AUTH PLAIN", "DATA")) == [
        "250 2.1.0", "503 5.5.1", "250 2.1.5", "503 5.5.1", "354",
    ]  # fmt: skip


@pytest.mark.parametrize("lines", [[], ["HELO x"], [HELLO, "HELO x"]])
def test_auth_without_ehlo_is_refused(lines: list[str]) -> None:
    driver = ServerDriver(hooks={"auth"}, secure=True)
    assert codes(driver.send_lines(*lines, f"AUTH PLAIN {GOOD}"))[-1] == "503 5.5.1"


def test_required_auth_refuses_a_transaction_before_it() -> None:
    driver = begin(extensions=standard(Auth(required=True)), tls=True, hooks={"auth", "expn"})
    lines = [SENDER, RECIPIENT, "DATA", "VRFY a", "EXPN a", "MAIL junk", "BDAT 0"]
    assert codes(driver.send_lines(*lines)) == ["530 5.7.0"] * len(lines)
    assert codes(driver.send_lines("NOOP", "RSET", HELLO, "HELO x", "HELP", HELLO, "STARTTLS")) == [
        "250 2.0.0", "250 2.0.0", "250", "250", "214 2.0.0", "250", "503 5.5.1",
    ]  # fmt: skip
    assert codes(driver.send_lines(f"AUTH PLAIN {GOOD}", SENDER, RECIPIENT)) == ["235 2.7.0", "250 2.1.0", "250 2.1.5"]
    assert codes(begin(extensions=standard(Auth(required=True))).send_lines("QUIT")) == ["221 2.0.0"]


def test_verb_and_mechanism_are_case_insensitive() -> None:
    assert codes(begin().send_lines(f"auth plain {GOOD}")) == ["235 2.7.0"]
    assert codes(begin().send_lines("AUTH Login")) == ["334"]


def test_plain_passes_the_authorization_identity() -> None:
    driver = begin()
    driver.send_lines("AUTH PLAIN " + b64("joe\0fred\0secret"))
    assert driver.credentials == [Credentials("PLAIN", "fred", "secret", authzid="joe")]


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (b"fred", "501 5.5.2"), (b"\0fred", "501 5.5.2"), (b"\0fred\0secret\0x", "501 5.5.2"), (b"", "501 5.5.2"),
        (b"\0fr\r\ned\0secret", "501 5.5.2"), (b"a\x1bb\0fred\0secret", "501 5.5.2"), (b"\0fr\xff\0secret", "501 5.5.2"),
        (b"\0fred\0se\xc0\xaf", "501 5.5.2"), (b"\0\0secret", "535 5.7.8"), (b"\0fred\0", "535 5.7.8"), (b"\0\0", "535 5.7.8"),
    ],
)  # fmt: skip
def test_malformed_plain_message_is_refused(message: bytes, expected: str) -> None:
    driver = begin()
    assert codes(driver.send_lines("AUTH PLAIN", b64(message), SENDER)) == ["334", expected, "250 2.1.0"]
    assert driver.credentials == []


@pytest.mark.parametrize(
    "password", ["with space", "tab\there", "nb\u00a0sp", "\U0001f469\u200d\U0001f680", "p\u00e4ss", "\x01"]
)
def test_password_may_contain_anything_but_nul(password: str) -> None:
    for mechanism in ("PLAIN", "LOGIN"):
        driver = begin(check_credentials=lambda _: None)
        client = MECHANISMS[mechanism].client(PasswordCredentials("fred", password), MechanismContext("mx.test", bytes))
        responses = [respond(client, asked) for asked in ([None] if mechanism == "PLAIN" else [None, b"", b""])]
        driver.send_lines(f"AUTH {mechanism}", *[b64(response) for response in responses if response is not None])
        assert driver.credentials == [Credentials(mechanism, "fred", password)]


def test_login_asks_for_user_and_password() -> None:
    driver = begin()
    assert driver.send_lines("AUTH LOGIN") == ["334 VXNlcm5hbWU6"]
    assert driver.send_lines(b64("fred")) == ["334 UGFzc3dvcmQ6"]
    assert codes(driver.send_lines(b64("secret"))) == ["235 2.7.0"]
    assert driver.credentials == [Credentials("LOGIN", "fred", "secret")]


@pytest.mark.parametrize(
    ("user", "password", "expected"),
    [
        ("", "secret", "535 5.7.8"), ("fred", "", "535 5.7.8"), ("fr\ned", "x", "501 5.5.2"), ("fred", "a\0b", "501 5.5.2"),
        ("fred", b"\xff", "501 5.5.2"),
    ],
)  # fmt: skip
def test_malformed_login_is_refused(user: str, password: str | bytes, expected: str) -> None:
    driver = begin()
    assert expected in codes(driver.send_lines("AUTH LOGIN", b64(user), b64(password)))
    assert driver.credentials == []


def test_end_of_input_in_an_exchange() -> None:
    driver = begin()
    driver.send_lines("AUTH LOGIN")
    driver.send(b"ZnJl")
    assert driver.end_input() == b""
    assert driver.closed


def test_command_in_an_exchange_is_a_response() -> None:
    driver = begin()
    assert codes(driver.send_lines("AUTH LOGIN", "NOOP", "QUIT", "NOOP")) == ["334", "501 5.5.2", "221 2.0.0"]


@pytest.mark.parametrize(
    ("value", "decoded"),
    [("<>", "<>"), ("e+3Dmc2@x", "e=mc2@x"), ("fred@x", "fred@x"), ("+C3+A9@x", "\u00e9@x")],
)
def test_auth_parameter_of_mail_is_decoded(value: str, decoded: str) -> None:
    """It is taken for true if the user is trusted, and accepted from everyone (RFC 4954 5)."""
    trusting = Auth(cleartext=True, trusted=("fred",))
    for extension, login, expected in (
        (trusting, True, decoded), (trusting, False, "<>"), (Auth(cleartext=True, trusted=("wilma",)), True, "<>"),
        (Auth(cleartext=True), True, "<>"),
    ):  # fmt: skip
        driver = begin(extensions=standard(extension))
        if login:
            driver.send_lines(f"AUTH PLAIN {GOOD}")
        for _ in range(2):  # the second is parsed with the cache
            assert codes(driver.send_lines(f"MAIL FROM:<a@b> BODY=8BITMIME AUTH={value}")) == ["250 2.1.0"]
            assert driver.protocol.state.mail is not None
            assert dict(driver.protocol.state.mail.params) == {BODY: "8BITMIME", AUTH: expected}
            driver.send_lines("RSET")


@pytest.mark.parametrize(
    "value", ["=bad+zz", "=+3d", "=+", "=", "", "=\u00e9", "=+0D+0A", "=a+00", "=+FF", "=a AUTH=a"]
)
def test_malformed_auth_parameter_is_refused(value: str) -> None:
    assert codes(begin().send_lines(f"MAIL FROM:<a@b> AUTH{value}")) == ["501 5.5.4"]


@pytest.mark.parametrize("value", ["", "a\r\nb", "a\0@x", "\x85"])
def test_submitter_that_cannot_be_sent(value: str) -> None:
    with pytest.raises(ValueError, match="AUTH cannot be"):
        AUTH.format(value)


def test_ehlo_after_auth_keeps_the_user() -> None:
    driver = begin()
    assert codes(driver.send_lines(f"AUTH PLAIN {GOOD}", HELLO, SENDER)) == ["235 2.7.0", "250", "250 2.1.0"]
    assert driver.protocol.state.user == "fred"


def test_reprs_do_not_contain_secrets() -> None:
    values = [
        Credentials("PLAIN", "fred", "secret"),
        AuthCommand("PLAIN", b"\0fred\0secret"),
        AuthResponse(b64("secret")),
    ]
    for value in values:
        assert "secret" not in repr(value)
        assert b64("secret") not in repr(value)
        assert b64("\0fred\0secret") not in repr(value)


def test_refused_passwords_do_not_count_as_errors() -> None:
    driver = begin(limits=Limits(errors=3))
    assert codes(driver.send_lines(*["AUTH PLAIN " + b64("\0fred\0no")] * 5)) == ["535 5.7.8"] * 5
    assert codes(driver.send_lines(*["AUTH PLAIN ###"] * 3)) == ["501 5.5.2"] * 2 + ["421 4.7.0"]


def test_exchange_ends_after_its_error() -> None:
    exchange = AuthCommand("PLAIN", None).exchange(MechanismContext("mx.test", bytes))
    assert next(exchange) == Reply(334, "")
    with pytest.raises(BadCommandError):
        exchange.send("*")
    with pytest.raises(StopIteration):
        next(exchange)
