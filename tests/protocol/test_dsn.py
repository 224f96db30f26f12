"""The parameters of DSN (RFC 3461): decoding them on a server, encoding them on a client."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, strategies as st

from smtp_trio.protocol import Mail, Param, Params, Path, Rcpt
from smtp_trio.protocol.extensions import STANDARD, Dsn, standard
from smtp_trio.protocol.extensions.dsn import ENVID, NOTIFY, ORCPT, RET
from smtp_trio.protocol.extensions.size import SIZE
from smtp_trio.protocol.extensions.smtputf8 import SMTPUTF8
from smtp_trio.protocol.grammar import Grammar
from smtp_trio.protocol.session_state import SessionState

from .driver import HELLO, SENDER, ServerDriver, codes

EXTENSIONS = standard()


def mail_of(line: str) -> Mail:
    mail = ServerDriver(extensions=EXTENSIONS).begin(line).protocol.state.mail
    assert mail is not None
    return mail


def rcpt_of(line: str) -> Rcpt:
    return ServerDriver(extensions=EXTENSIONS).begin(SENDER, line).protocol.state.rcpts[0]


def test_dsn_is_standard() -> None:
    assert any(isinstance(extension, Dsn) for extension in STANDARD)
    assert "250-DSN" in ServerDriver().send_lines(HELLO)[1].split("\n")
    offer = Grammar([Dsn()]).offer(SessionState()).params
    assert {command: list(params) for command, params in offer.items()} == {
        Mail: ["RET", "ENVID"], Rcpt: ["NOTIFY", "ORCPT"],
    }  # fmt: skip


@pytest.mark.parametrize(("value", "expected"), [("FULL", "FULL"), ("hdrs", "HDRS")])
def test_ret(value: str, expected: str) -> None:
    assert mail_of(f"MAIL FROM:<a@b> RET={value}").params.get(RET) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("QQ314159", "QQ314159"), ("a+2Bb+3Dc", "a+b=c"), ("a+20b+09c", "a b\tc"), ("x" * 100, "x" * 100),
        ("+2B" * 33, "+" * 33),
    ],
)  # fmt: skip
def test_envid_is_decoded(value: str, expected: str) -> None:
    mail = mail_of(f"MAIL FROM:<a@b> RET=HDRS ENVID={value}")
    assert (mail.params.get(RET), mail.params.get(ENVID)) == ("HDRS", expected)


@pytest.mark.parametrize(
    "params",
    [
        "RET=X", "RET", "RET=", "RET=FULL,HDRS", "RET=FULL RET=FULL", "RET=\u017fULL", "ENVID", "ENVID=", "ENVID=+zz",
        "ENVID=+2b", "ENVID=+2", "ENVID=a=b", "ENVID=+00", "ENVID=+0D+0A", "ENVID=+FF", "ENVID=+C3+A9", "ENVID=\u00e9",
        "ENVID=" + "x" * 101, "ENVID=" + "+2B" * 34, "ENVID=a ENVID=a",
    ],
)  # fmt: skip
def test_malformed_ret_or_envid_is_refused(params: str) -> None:
    assert codes(ServerDriver(extensions=EXTENSIONS).begin().send_lines(f"MAIL FROM:<a@b> {params}")) == ["501 5.5.4"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("NEVER", {"NEVER"}), ("never", {"NEVER"}), ("SUCCESS", {"SUCCESS"}), ("failure,DELAY", {"FAILURE", "DELAY"}),
        ("DELAY,FAILURE,SUCCESS", {"SUCCESS", "FAILURE", "DELAY"}),
    ],
)  # fmt: skip
def test_notify(value: str, expected: set[str]) -> None:
    assert rcpt_of(f"RCPT TO:<a@b> NOTIFY={value}").params.get(NOTIFY) == frozenset(expected)


@pytest.mark.parametrize(
    "params",
    [
        "NOTIFY", "NOTIFY=", "NOTIFY=X", "NOTIFY=NEVER,SUCCESS", "NOTIFY=SUCCESS,SUCCESS", "NOTIFY=NEVER,NEVER", "NOTIFY=,",
        "NOTIFY=SUCCESS,", "NOTIFY=,DELAY", "NOTIFY=\u017fUCCESS", "NOTIFY=NEVER NOTIFY=NEVER",
    ],
)  # fmt: skip
def test_malformed_notify_is_refused(params: str) -> None:
    assert codes(ServerDriver(extensions=EXTENSIONS).begin(SENDER).send_lines(f"RCPT TO:<a@b> {params}")) == [
        "501 5.5.4"
    ]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("rfc822;a+2Bb@c", "rfc822;a+b@c"), ("RFC822;a@b", "RFC822;a@b"), ("x400;/C+3D", "x400;/C="),
        ("rfc822;a;b", "rfc822;a;b"), ("rfc822;+09", "rfc822;\t"),
        # not in RFC 3461, but sent by Postfix
        ("rfc822;b+C3+B6@example.com", "rfc822;b\u00f6@example.com"), ("rfc822;" + "x" * 493, "rfc822;" + "x" * 493),
        # RFC 6533 3: addresses in UTF-8 have an encoding of their own, and are accepted without it too.
        (r"utf-8;\x{E9}\x{2B}\x{65E5}\x{1F600}@c", "utf-8;\u00e9+\u65e5\U0001f600@c"), ("utf-8;\u00e9@c", "utf-8;\u00e9@c"),
        (r"UTF-8;\x{10ffff}\x{5C}@c", "UTF-8;\U0010ffff\\@c"),
    ],
)  # fmt: skip
def test_orcpt_is_decoded(value: str, expected: str) -> None:
    assert rcpt_of(f"RCPT TO:<a@b> ORCPT={value}").params.get(ORCPT) == expected


@pytest.mark.parametrize(
    ("character", "characters"),
    [
        ("\u00e9", 1),
        ("\u00e9", 82),
        ("\u00e9", 83),
        ("\u00e9", 246),
        ("\u20ac", 61),
        ("\u20ac", 62),
        ("\u20ac", 164),
        ("\U0010ffff", 123),
    ],
)
def test_orcpt_of_any_length_can_be_passed_on(character: str, characters: int) -> None:
    """As ASCII, or as UTF-8 when that would be too long. A value that was accepted can always be written."""
    value = f"utf-8;{character * characters}@b"
    params = rcpt_of(f"RCPT TO:<a@b> ORCPT={value}").params
    encoded = params.encode()
    assert encoded.isascii() == ((len(f"{ord(character):02X}") + 4) * characters <= 492)
    assert rcpt_of(f"RCPT TO:<a@b> {encoded}").params == params


@pytest.mark.parametrize(
    "value",
    [
        "", "=", "=a@b", "=;a@b", "=rfc822;", "=rfc822", "=rfc822;+zz", "=rfc822;a=b", "=rfc822;+0A", "=rfc822;+C3",
        "=rfc822;\u00e9@c", "=rfc\u00e9;a@b", "=(x);a@b", "=rfc822;" + "x" * 494, "=utf-8;a+2Bb@c", r"=utf-8;\x{D800}",
        r"=utf-8;\x{110000}", r"=utf-8;\x{A}", r"=utf-8;\x{0A}", r"=utf-8;a\b", "=utf-8;", "=utf-8;" + "\u00e9" * 250,
        r"=utf-8;\x{2028}", "=rfc822;+C2+85", "=rfc822;+E2+80+A8", "=rfc822;+ED+A0+80", "=rfc822;a+00",
    ],
)  # fmt: skip
def test_malformed_orcpt_is_refused(value: str) -> None:
    assert codes(ServerDriver(extensions=EXTENSIONS).begin(SENDER).send_lines(f"RCPT TO:<a@b> ORCPT{value}")) == [
        "501 5.5.4"
    ]


@pytest.mark.parametrize("line", ["MAIL FROM:<a@b> RET=FULL", "MAIL FROM:<a@b> ENVID=x"])
def test_parameters_are_unknown_without_the_extension(line: str) -> None:
    driver = ServerDriver(extensions=standard(without=(Dsn,))).begin()
    assert codes(driver.send_lines(line, SENDER, "RCPT TO:<a@b> NOTIFY=NEVER")) == [
        "555 5.5.4",
        "250 2.1.0",
        "555 5.5.4",
    ]


def test_parameters_are_unknown_on_the_other_command() -> None:
    driver = ServerDriver(extensions=EXTENSIONS).begin()
    assert codes(driver.send_lines("MAIL FROM:<a@b> NOTIFY=NEVER", SENDER, "RCPT TO:<a@b> RET=FULL")) == [
        "555 5.5.4", "250 2.1.0", "555 5.5.4",
    ]  # fmt: skip


def test_longest_parameters_are_accepted() -> None:
    """RFC 3461 5.4: parameters of these sizes MUST be accepted."""
    local, domain = "l" * 64, ".".join(["d" * 62] * 3)
    lines = [
        f"MAIL FROM:<{local}@{domain}> RET=FULL ENVID={'x' * 100}",
        f"RCPT TO:<{local}@{domain}> NOTIFY=SUCCESS,FAILURE,DELAY ORCPT=rfc822;{'x' * 493}",
    ]
    assert codes(ServerDriver(extensions=EXTENSIONS).begin().send_lines(*lines)) == ["250 2.1.0", "250 2.1.5"]


# --- encoding ---------------------------------------------------------------------------------------------------

PRINTABLE = st.text(st.sampled_from("ab+=\\{}x @;\t~!,"), min_size=1, max_size=20)
UNICODE = st.text(st.characters(blacklist_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1, max_size=20)


@given(
    st.sampled_from(["FULL", "HDRS"]),
    PRINTABLE,
    st.one_of(st.just({"NEVER"}), st.sets(st.sampled_from(["SUCCESS", "FAILURE", "DELAY"]), min_size=1)),
    st.one_of(PRINTABLE.map("rfc822;{}".format), UNICODE.map("utf-8;{}".format)),
)
def test_encoded_parameters_are_decoded_to_the_same_values(ret: str, envid: str, notify: set[str], orcpt: str) -> None:
    path = Path("a@b", "a", "b")
    mail = Mail(path, Params({RET: ret, ENVID: envid}))
    rcpt = Rcpt(path, Params({NOTIFY: frozenset(notify), ORCPT: orcpt}))
    grammar = Grammar([Dsn()]).offer(SessionState()).params
    for command in (mail, rcpt):
        line = command.encode()
        assert line.isascii()
        assert type(command).decode(line[5:], grammar[type(command)]) == command


@pytest.mark.parametrize(
    ("param", "value"),
    [
        (RET, "full"), (RET, "FULL\r\nRSET"), (ENVID, ""), (ENVID, "x" * 101), (ENVID, "\u00e9"), (ENVID, "a\r\nb"),
        (NOTIFY, frozenset()), (NOTIFY, frozenset({"NEVER", "DELAY"})), (NOTIFY, frozenset({"SUCCESS", "X\r\nRSET"})),
        (NOTIFY, frozenset({"delay"})), (ORCPT, "a@b"), (ORCPT, "rfc822;"), (ORCPT, "rfc822;\x85@b"), (ORCPT, "a b;a@b"),
        (ORCPT, "rfc822;" + "+" * 200), (ORCPT, "utf-8;\ud800"), (ORCPT, "utf-8;a\nb"), (ORCPT, "x\r\ny;a@b"),
    ],
)  # fmt: skip
def test_invalid_values_are_not_encoded(param: Param[Any], value: object) -> None:
    with pytest.raises(ValueError, match=rf"{param} cannot be .* \(RFC 3461 4\)"):
        Params({param: value}).encode()


def test_notify_is_encoded_in_a_fixed_order() -> None:
    assert Params({NOTIFY: frozenset({"DELAY", "SUCCESS", "FAILURE"})}).encode() == "NOTIFY=SUCCESS,FAILURE,DELAY"


def test_values_as_the_client_has_written_them() -> None:
    mail = mail_of("MAIL FROM:<a@b> ret=hdrs  ENVID=a+2Bb+41").params
    assert (mail[RET], mail[ENVID]) == ("HDRS", "a+bA")
    assert (mail.raw(RET), mail.raw(ENVID), mail.raw(SIZE)) == ("hdrs", "a+2Bb+41", None)
    rcpt = rcpt_of(r"RCPT TO:<a@b> NOTIFY=delay,SUCCESS ORCPT=utf-8;\x{E9}\x{61}@b").params
    assert (rcpt.raw(NOTIFY), rcpt.raw(ORCPT)) == ("delay,SUCCESS", r"utf-8;\x{E9}\x{61}@b")
    assert rcpt.without(NOTIFY).raw(NOTIFY) is None
    assert rcpt.without(NOTIFY).raw(ORCPT) == rcpt.replace(NOTIFY, frozenset({"NEVER"})).raw(ORCPT) == rcpt.raw(ORCPT)
    assert mail_of("MAIL FROM:<\u00e9@b> SMTPUTF8").params.raw(SMTPUTF8) is None  # it has no value
    assert Params({RET: "HDRS"}).raw(RET) is None  # it was not received
    assert mail == Params({RET: "HDRS", ENVID: "a+bA"})
