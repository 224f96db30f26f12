"""The extensions SIZE, 8BITMIME, SMTPUTF8, PIPELINING and STARTTLS on the server."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
from attrs import evolve

from smtp_trio.protocol import BadCommandError, Command, Extension, Limits, Mail, Rcpt, Reply, ServerProtocol, Table
from smtp_trio.protocol.dialogue import GREETED, READY, PhaseEnum
from smtp_trio.protocol.extensions import (
    Auth,
    BinaryMime,
    EightBitMime,
    Pipelining,
    Size,
    SmtpUtf8,
    StartTls,
    standard,
)
from smtp_trio.protocol.extensions.eightbitmime import BODY
from smtp_trio.protocol.extensions.size import SIZE
from smtp_trio.protocol.extensions.smtputf8 import SMTPUTF8
from smtp_trio.protocol.params import KnownParams

from .driver import HELLO, RECIPIENT, SENDER, ServerDriver, codes, replying


def mail_of(driver: ServerDriver) -> Mail:
    mail = driver.protocol.state.mail
    assert mail is not None
    return mail


def deliver(driver: ServerDriver, body: bytes) -> str:
    """Send a message; return the code and status of the reply to it."""
    replies = codes(driver.send(f"{SENDER}\r\n{RECIPIENT}\r\nDATA\r\n".encode() + body + b".\r\n"))
    assert replies[:-1] == ["250 2.1.0", "250 2.1.5", "354"]
    return replies[-1]


# --- SIZE, RFC 1870 --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 31457280])
def test_size_limit_is_advertised(size: int) -> None:
    assert f"250-SIZE {size}" in ServerDriver(size=size).send_lines(HELLO)[1].split("\n")


def test_limit_is_enforced_without_the_size_extension() -> None:
    driver = ServerDriver(extensions=standard(without=(Size,)), size=10)
    assert "SIZE" not in driver.send_lines(HELLO)[1]
    assert codes(driver.send_lines("MAIL FROM:<a@b> SIZE=1")) == ["555 5.5.4"]
    assert deliver(driver, b"x" * 20 + b"\r\n") == "552 5.3.4"


@pytest.mark.parametrize(
    ("limit", "declared", "expected"),
    [
        (100, "100", "250 2.1.0"), (100, "101", "552 5.3.4"), (100, "9" * 20, "552 5.3.4"), (0, "9" * 20, "250 2.1.0"),
        (100, "0", "250 2.1.0"), (100, "00000000000000000100", "250 2.1.0"),
    ],
)  # fmt: skip
def test_declared_size_over_the_limit_is_refused(limit: int, declared: str, expected: str) -> None:
    driver = ServerDriver(size=limit).begin()
    assert codes(driver.send_lines(f"MAIL FROM:<a@b> SIZE={declared}")) == [expected]
    if expected[0] == "2":
        assert mail_of(driver).params.get(SIZE) == int(declared)
    assert codes(driver.send_lines("MAIL FROM:<a@b>")) == ["503 5.5.1" if expected[0] == "2" else "250 2.1.0"]


def test_application_refuses_a_declared_size() -> None:
    driver = ServerDriver(answer=lambda command: Reply(452, "Disk full") if isinstance(command, Mail) else None).begin()
    assert codes(driver.send_lines("MAIL FROM:<a@b> SIZE=5")) == ["452 4.3.1"]


@pytest.mark.parametrize(
    "value", ["=", "=abc", "=-1", "=+5", "=1_0", "=" + "1" * 21, "", "=1 SIZE=1", "=0x5", "=\u0661", "=5.0"]
)
def test_malformed_size_is_refused(value: str) -> None:
    assert codes(ServerDriver().begin().send_lines(f"MAIL FROM:<a@b> SIZE{value}")) == ["501 5.5.4"]


def test_application_refuses_a_recipient_by_size() -> None:
    refusals = {"big": Reply(552, "Too big for them", "5.2.3"), "full": Reply(452, "Mailbox full", "4.2.2")}
    driver = ServerDriver(answer=lambda c: refusals.get(c.recipient.local) if isinstance(c, Rcpt) else None).begin(
        "MAIL FROM:<a@b> SIZE=9"
    )
    assert codes(driver.send_lines("RCPT TO:<big@x>", "RCPT TO:<full@x>", RECIPIENT)) == [
        "552 5.2.3",
        "452 4.2.2",
        "250 2.1.5",
    ]


@pytest.mark.parametrize("line", [b"x\r\n", b".\r\n", b"..x\r\n"])
def test_size_counts_delivered_octets(line: bytes) -> None:
    """Line ends are counted; stuffed dots and the final dot are not, wherever the octets are cut."""
    limit = 4 * len(line)
    stuffed = line.replace(b".", b"..", 1)
    for lines, expected in ((4, b"250 2.0.0"), (5, b"552 5.3.4")):
        octets = stuffed * lines + b".\r\n"
        for cut in range(len(octets)):
            driver = ServerDriver(size=limit).begin(SENDER, RECIPIENT)
            driver.send_lines("DATA")
            begun = len(driver.output)
            driver.send_in_segments(octets, [cut])
            assert driver.output[begun : begun + 9] == expected
    one_more = ServerDriver(size=limit).begin()
    assert deliver(one_more, stuffed * 3 + b"y" + stuffed) == "552 5.3.4"


def test_message_of_the_declared_size() -> None:
    driver = ServerDriver(size=100).begin("MAIL FROM:<a@b> SIZE=100", RECIPIENT)
    assert codes(driver.send(b"DATA\r\n" + b"x" * 98 + b"\r\n.\r\n")) == ["354", "250 2.0.0"]


def test_declared_size_is_only_an_estimate() -> None:
    driver = ServerDriver(size=100).begin("MAIL FROM:<a@b> SIZE=1", RECIPIENT)
    assert codes(driver.send(b"DATA\r\nhello\r\n.\r\n")) == ["354", "250 2.0.0"]
    assert driver.messages == [b"hello\r\n"]


def test_size_counts_all_chunks() -> None:
    driver = ServerDriver(size=10).begin(SENDER, RECIPIENT)
    assert codes(driver.send(b"BDAT 5\r\n12345BDAT 5\r\n67890BDAT 1\r\nxBDAT 1 LAST\r\nx")) == [
        "250 2.0.0", "250 2.0.0", "552 5.3.4", "503 5.5.1",
    ]  # fmt: skip
    driver.send_lines("RSET", SENDER, RECIPIENT)
    assert codes(driver.send(b"BDAT 5\r\n12345BDAT 5 LAST\r\n67890")) == ["250 2.0.0"] * 2


# --- 8BITMIME, RFC 6152 --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["7BIT", "8BITMIME", "7bit", "8BitMime"])
def test_body_values_are_case_insensitive(value: str) -> None:
    assert mail_of(ServerDriver().begin(f"MAIL FROM:<a@b> BODY={value}")).params.get(BODY) == value.upper()


@pytest.mark.parametrize("value", ["=X", "", "=", "=7BIT BODY=7BIT", "=9BIT", "=8BIT", "=BINARYMIME"])
def test_invalid_body_value_is_refused(value: str) -> None:
    assert codes(ServerDriver().begin().send_lines(f"MAIL FROM:<a@b> BODY{value}")) == ["501 5.5.4"]


def test_body_is_unknown_without_8bitmime() -> None:
    driver = ServerDriver(extensions=standard(without=(EightBitMime, SmtpUtf8)))
    assert codes(driver.send_lines(HELLO, "MAIL FROM:<a@b> BODY=7BIT"))[1:] == ["250", "555 5.5.4"]


def test_undeclared_8bit_data_is_kept() -> None:
    driver = ServerDriver().begin()
    assert deliver(driver, b"caf\xc3\xa9 \xff\x80\r\n") == "250 2.0.0"
    assert driver.messages == [b"caf\xc3\xa9 \xff\x80\r\n"]


# --- SMTPUTF8, RFC 6531 --------------------------------------------------------------------------------------------------


def test_smtputf8_requires_8bitmime() -> None:
    lines = ServerDriver().send_lines(HELLO)[1].split("\n")
    assert {"250-SMTPUTF8", "250-8BITMIME"} <= set(lines)
    with pytest.raises(ValueError, match="SMTPUTF8 requires 8BITMIME"):
        ServerProtocol(extensions=[SmtpUtf8()])


@pytest.mark.parametrize(
    ("path", "local", "domain"),
    [
        ("<\u00e9@x>", "\u00e9", "x"),
        ("<a@b\u00fccher.test>", "a", "xn--bcher-kva.test"),
        ('<"\u00e9 \u00e9"@x>', '"\u00e9 \u00e9"', "x"),
        # A joiner, which Persian and emoji need, is not a control character.
        ("<\u0646\u0627\u0645\u0647\u200c\u0627\u06cc@x>", "\u0646\u0627\u0645\u0647\u200c\u0627\u06cc", "x"),
    ],
)
def test_non_ascii_mailboxes_are_accepted_with_smtputf8(path: str, local: str, domain: str) -> None:
    driver = ServerDriver().begin(f"MAIL FROM:{path} SMTPUTF8", f"RCPT TO:{path}")
    mail = mail_of(driver)
    assert mail.params.get(SMTPUTF8) is True
    assert (mail.sender.local, mail.sender.domain) == (local, domain)


@pytest.mark.parametrize("param", ["SMTPUTF8=1", "SMTPUTF8=", "SMTPUTF8 SMTPUTF8"])
def test_smtputf8_has_no_value(param: str) -> None:
    assert codes(ServerDriver().begin().send_lines(f"MAIL FROM:<a@b> {param}")) == ["501 5.5.4"]


@pytest.mark.parametrize("path", ["<\u00e9@x>", "<a@b\u00fccher.test>"])
def test_non_ascii_mailboxes_are_refused_without_smtputf8(path: str) -> None:
    assert codes(ServerDriver().begin().send_lines(f"MAIL FROM:{path}", SENDER, f"RCPT TO:{path}")) == [
        "550 5.6.7", "250 2.1.0", "553 5.6.7",
    ]  # fmt: skip


def test_application_refuses_a_recipient_without_smtputf8() -> None:
    driver = ServerDriver(answer=lambda c: Reply(553, "Not in UTF-8", "5.6.7") if isinstance(c, Rcpt) else None)
    assert codes(driver.begin("MAIL FROM:<\u00e9@x> SMTPUTF8").send_lines(RECIPIENT)) == ["553 5.6.7"]


@pytest.mark.parametrize(
    "line",
    ["MAIL FROM:<\u00e9>", "MAIL FROM:<a@b> X=\u00e9", "MAIL FROM:<a@b> SIZE=\u00e9", "HELP \u00e9", "AUTH \u00e9"],
)
def test_replies_to_non_ascii_commands_are_ascii(line: str) -> None:
    """`check_replies` fails for octets above 126."""
    driver = ServerDriver(hooks={"auth"}, secure=True).begin()
    assert codes(driver.send_lines(line))[0][0] == "5"


@pytest.mark.parametrize("extensions", [standard(without=(SmtpUtf8,)), ()])
def test_non_ascii_mailboxes_are_refused_without_the_extension(extensions: tuple[SmtpUtf8, ...]) -> None:
    driver = ServerDriver(extensions=extensions)
    enhanced = bool(extensions)
    replies = [reply[:3] if not enhanced else reply for reply in ("555 5.5.4", "550 5.6.7", "250 2.1.0", "553 5.6.7")]
    driver.send_lines(HELLO)
    assert (
        codes(driver.send_lines("MAIL FROM:<a@b> SMTPUTF8", "MAIL FROM:<\u00e9@x>", SENDER, "RCPT TO:<\u00e9@x>"))
        == replies
    )


SHOWN = "<\u00e9@mx.test>"


@pytest.mark.parametrize(
    ("lines", "reply", "permitted", "replaced"),
    [
        (["VRFY e"], Reply(250, SHOWN), f"250 2.1.5 {SHOWN}", "252 2.6.8 "),
        (["VRFY e"], Reply(251, SHOWN), f"251 2.1.5 {SHOWN}", "252 2.6.8 "),
        (["VRFY e"], Reply(551, SHOWN), f"551 5.1.6 {SHOWN}", "550 5.1.6 User not local"),
        (["VRFY e"], Reply(553, SHOWN, "5.1.4"), f"553 5.1.4 {SHOWN}", "553 5.1.4 <?@mx.test>"),
        (["EXPN e"], Reply(250, f"<a@b>\n{SHOWN}"), f"250-2.1.5 <a@b>\n250 2.1.5 {SHOWN}", "252 2.6.8 "),
        ([SENDER, RECIPIENT], Reply(251, SHOWN), f"251 2.1.5 {SHOWN}", "250 2.1.5 Ok"),
        ([SENDER, RECIPIENT], Reply(551, SHOWN), f"551 5.1.6 {SHOWN}", "550 5.1.6 User not local"),
        ([SENDER, RECIPIENT], Reply(550, SHOWN, "5.1.1"), f"550 5.1.1 {SHOWN}", "550 5.1.1 <?@mx.test>"),
    ],
)
def test_client_without_smtputf8_gets_no_utf8(lines: list[str], reply: Reply, permitted: str, replaced: str) -> None:
    """RFC 6531 3.7.4. `check_replies` fails for octets above 126."""
    last = lines[-1].partition(" ")[0]
    driver = ServerDriver(answer=lambda command: reply if command.verb == last else None, hooks={"expn"}).begin()
    assert driver.send_lines(*lines)[-1].startswith(replaced)
    driver.begin()
    with_param = [f"{line} SMTPUTF8" if line != RECIPIENT else line for line in lines]
    received = driver.feed("".join(f"{line}\r\n" for line in with_param).encode()).decode().replace("\r\n", "\n")
    assert received.endswith(f"{permitted}\n")


@pytest.mark.parametrize("verb", ["CONNECT", "EHLO", "NOOP", "MAIL", "DATA", "end of data", "QUIT", "RSET"])
@pytest.mark.parametrize("param", ["", " SMTPUTF8"])
def test_other_replies_are_ascii(verb: str, param: str) -> None:
    """Also in a transaction with SMTPUTF8, since RFC 6531 3.7.4.1 permits UTF-8 only where a mailbox is named."""

    def answer(command: Command) -> Reply | None:
        reply = ServerProtocol().default_reply(command)
        return evolve(reply, text=f"caf\u00e9 {reply.text}") if command.verb == verb else None

    driver = ServerDriver(answer=answer)
    replies = driver.send_lines(HELLO, "NOOP", f"{SENDER}{param}", RECIPIENT, "DATA")
    replies += driver.send_lines(".", "RSET", "QUIT")
    assert any("caf? " in reply for reply in replies)


def test_421_is_ascii() -> None:
    driver = ServerDriver().begin()
    driver.protocol.close(Reply(421, "\u00e9", "4.3.2"))
    assert driver.protocol.data_to_send() == b"421 4.3.2 mx.test ?\r\n"


def test_smtputf8_on_vrfy_and_expn() -> None:
    driver = ServerDriver(hooks={"expn"}).begin()
    assert codes(driver.send_lines("VRFY \u00e9 SMTPUTF8", "EXPN x smtputf8", "VRFY x SMTPUTF8=1", "VRFY SMTPUTF8")) == [
        "252 2.5.0", "502 5.5.1", "252 2.5.0", "252 2.5.0",
    ]  # fmt: skip
    arguments = [(getattr(event, "argument", None), getattr(event, "params", {})) for event in driver.events[2:]]
    assert arguments == [("\u00e9", {SMTPUTF8: True}), ("x", {SMTPUTF8: True}), ("x SMTPUTF8=1", {}), ("SMTPUTF8", {})]


# --- PIPELINING, RFC 2920 --------------------------------------------------------------------------------------------------


def test_group_in_one_segment() -> None:
    driver = ServerDriver().begin()
    assert codes(driver.send_lines(SENDER, RECIPIENT, RECIPIENT, "DATA")) == [
        "250 2.1.0",
        "250 2.1.5",
        "250 2.1.5",
        "354",
    ]


def test_replies_are_sent_when_the_input_is_consumed() -> None:
    driver = ServerDriver().begin()
    assert codes(driver.send(b"MAIL FROM:<a@b>\r\nRCPT TO:<c")) == ["250 2.1.0"]
    assert codes(driver.send(b"@d>\r\n")) == ["250 2.1.5"]


def test_groupable_commands() -> None:
    # RFC 2920 3.1, and RFC 3030 4.2 for BDAT.
    verbs = ServerDriver().protocol.grammar.verbs
    assert {verb for verb, command in verbs.items() if command.groupable} == {"MAIL", "RCPT", "RSET", "BDAT"}


def test_data_after_refused_recipients_is_refused() -> None:
    driver = ServerDriver().begin()
    replies = codes(driver.send_lines(SENDER, "RCPT TO:<no@x>", "RCPT TO:<no@y>", "DATA", ".", "QUIT"))
    assert replies == ["250 2.1.0", "550 5.1.1", "550 5.1.1", "554 5.5.1", "500 5.5.1", "221 2.0.0"]


def test_two_messages_in_one_segment() -> None:
    driver = ServerDriver().begin()
    lines = [SENDER, RECIPIENT, "DATA", "one", ".", SENDER, RECIPIENT, "DATA", "two", "."]
    assert codes(driver.send_lines(*lines)) == ["250 2.1.0", "250 2.1.5", "354", "250 2.0.0"] * 2
    assert driver.messages == [b"one\r\n", b"two\r\n"]


def test_thousand_recipients_in_one_segment() -> None:
    driver = ServerDriver().begin(SENDER)
    assert codes(driver.send_lines(*[f"RCPT TO:<u{n}@mx.test>" for n in range(1000)])) == ["250 2.1.5"] * 1000


def test_group_is_processed_without_the_extension() -> None:
    driver = ServerDriver(extensions=standard(without=(Pipelining,)))
    assert "PIPELINING" not in driver.send_lines(HELLO)[1]
    assert codes(driver.send_lines(SENDER, RECIPIENT, "NOOP")) == ["250 2.1.0", "250 2.1.5", "250 2.0.0"]


def test_command_after_auth_with_an_initial_response() -> None:
    driver = ServerDriver(hooks={"auth"}, secure=True).begin()
    assert codes(driver.send_lines("AUTH PLAIN AGEAc2VjcmV0", SENDER)) == ["235 2.7.0", "250 2.1.0"]


def test_quit_after_the_final_dot_in_one_segment() -> None:
    driver = ServerDriver().begin(SENDER, RECIPIENT)
    assert codes(driver.send_lines("DATA", "x", ".", "QUIT")) == ["354", "250 2.0.0", "221 2.0.0"]
    assert driver.messages == [b"x\r\n"]


# --- STARTTLS, RFC 3207 --------------------------------------------------------------------------------------------------


def test_starttls_is_offered_with_a_certificate_and_before_tls() -> None:
    assert "STARTTLS" not in ServerDriver().send_lines(HELLO)[1]
    assert "STARTTLS" not in ServerDriver(tls=True, secure=True).send_lines(HELLO)[1]
    driver = ServerDriver(tls=True)
    assert "250-STARTTLS" in driver.send_lines(HELLO)[1].split("\n")
    driver.send_lines("STARTTLS")
    assert "STARTTLS" not in driver.send_lines(HELLO)[0]


def test_starttls_resets_the_session() -> None:
    driver = ServerDriver(tls=True, hooks={"auth"}, extensions=standard(Auth(cleartext=True))).begin(
        "AUTH PLAIN AGEAc2VjcmV0"
    )
    assert codes(driver.send_lines("STARTTLS")) == ["220 2.0.0"]
    state = driver.protocol.state
    assert (state.secure, state.user, state.hello, state.mail, state.extended) == (True, None, None, None, False)
    assert driver.send_lines() == []
    assert codes(driver.send_lines(SENDER, "AUTH PLAIN AGEAc2VjcmV0", HELLO, SENDER)) == [
        "503 5.5.1",
        "503 5.5.1",
        "250",
        "250 2.1.0",
    ]


def test_no_command_is_legal_during_the_handshake() -> None:
    protocol = ServerProtocol(tls=True)
    protocol.send_reply(protocol.default_reply(protocol.next_event()))  # type: ignore[arg-type]
    for line in (b"EHLO x\r\n", b"STARTTLS\r\n"):
        protocol.receive_data(line)
        protocol.send_reply(protocol.default_reply(protocol.next_event()))  # type: ignore[arg-type]
    protocol.receive_data(b"NOOP\r\n")
    with pytest.raises(Exception, match="503 Bad sequence of commands: NOOP is not allowed during the TLS handshake"):
        protocol.next_event()


@pytest.mark.parametrize(
    ("settings", "lines", "expected"),
    [
        pytest.param({"tls": True}, [HELLO, "STARTTLS x"], "501 5.5.4", id="argument"),
        pytest.param({"tls": True}, ["STARTTLS"], "503 5.5.1", id="before-EHLO"),
        pytest.param({"tls": True}, ["HELO x", "STARTTLS"], "503 5.5.1", id="after-HELO"),
        pytest.param({"tls": True}, [HELLO, SENDER, "STARTTLS"], "503 5.5.1", id="in-a-transaction"),
        pytest.param({"tls": True}, [HELLO, SENDER, RECIPIENT, "STARTTLS"], "503 5.5.1", id="with-recipients"),
        pytest.param({"tls": True, "secure": True}, [HELLO, "STARTTLS"], "503 5.5.1", id="already"),
        pytest.param({}, [HELLO, "STARTTLS"], "502 5.5.1", id="not-configured"),
        pytest.param(
            {"extensions": standard(without=(StartTls,))}, [HELLO, "STARTTLS"], "502 5.5.1", id="no-extension"
        ),
    ],
)
def test_starttls_is_refused(settings: dict[str, Any], lines: list[str], expected: str) -> None:
    driver = ServerDriver(**settings)
    assert codes(driver.send_lines(*lines))[-1] == expected
    assert not driver.closed
    assert codes(driver.send_lines("RSET")) == ["250 2.0.0"]


def test_application_refuses_starttls() -> None:
    driver = ServerDriver(
        tls=True, answer=lambda c: Reply(454, "TLS not available", "4.7.0") if c.verb == "STARTTLS" else None
    ).begin()
    assert codes(driver.send_lines("STARTTLS", SENDER)[:1]) in (["454 4.7.0"], ["554 5.5.0"])
    driver = ServerDriver(
        tls=True, answer=lambda c: Reply(454, "TLS not available", "4.7.0") if c.verb == "STARTTLS" else None
    ).begin()
    assert codes([*driver.send_lines("STARTTLS"), *driver.send_lines(SENDER)]) == ["454 4.7.0", "250 2.1.0"]


@pytest.mark.parametrize("rest", [b"R", b"RSET\r\n", b"RSET\r\nMAIL FROM:<x@y>\r\n", b"\x16\x03\x01", b"\0"])
def test_octets_after_starttls_close_the_connection(rest: bytes) -> None:
    driver = ServerDriver(tls=True).begin()
    assert codes(driver.send(b"STARTTLS\r\n" + rest)) == ["554 5.5.0"]
    assert driver.closed
    assert driver.protocol.state.mail is None
    assert not driver.protocol.state.secure


def test_octets_before_the_handshake_are_discarded() -> None:
    protocol = ServerDriver(tls=True).begin().protocol
    protocol.receive_data(b"STARTTLS\r\n")
    protocol.send_reply(protocol.default_reply(protocol.next_event()))  # type: ignore[arg-type]
    protocol.receive_data(b"MAIL FROM:<evil@x>\r\n")
    protocol.tls_started()
    assert protocol.buffered == 0


def test_implicit_tls_starts_before_the_greeting() -> None:
    protocol = ServerProtocol(tls=True)
    protocol.tls_started()
    protocol.send_reply(protocol.default_reply(protocol.next_event()))  # type: ignore[arg-type]
    assert (protocol.state.secure, protocol.dialogue.phase) == (True, GREETED)


def test_required_tls_refuses_other_commands() -> None:
    driver = ServerDriver(
        tls=True, hooks={"auth", "expn"}, extensions=standard(StartTls(required=True), Auth(required=True))
    )
    driver.send_lines(HELLO)
    assert codes(driver.send_lines("HELO x")) == ["530"]
    lines = [SENDER, "MAIL junk", RECIPIENT, "DATA", "RSET", "VRFY a", "EXPN a", "HELP", "AUTH PLAIN", "BDAT 0 LAST"]
    assert codes(driver.send_lines(*lines)) == ["530 5.7.0"] * len(lines)
    assert codes(driver.send(b"BDAT 6\r\nNOOP\r\nNOOP\r\n")) == ["530 5.7.0", "250 2.0.0"]
    assert codes(driver.send_lines("NOOP", HELLO, "FOO", "SEND x")) == ["250 2.0.0", "250", "500 5.5.1", "502 5.5.1"]
    assert codes(driver.send_lines("STARTTLS")) == ["220 2.0.0"]
    assert codes(driver.send_lines(HELLO, SENDER, "RSET", "AUTH PLAIN AGEAc2VjcmV0", SENDER)) == [
        "250", "530 5.7.0", "250 2.0.0", "235 2.7.0", "250 2.1.0",
    ]  # fmt: skip
    assert codes(ServerDriver(tls=True, extensions=standard(StartTls(required=True))).send_lines("QUIT")) == [
        "220",
        "221 2.0.0",
    ]


def test_refusals_before_required_tls_count_as_errors() -> None:
    driver = ServerDriver(tls=True, limits=Limits(errors=3), extensions=standard(StartTls(required=True))).begin()
    assert codes(driver.send_lines(SENDER, SENDER, SENDER)) == ["530 5.7.0", "530 5.7.0", "421 4.7.0"]


def test_starttls_is_not_offered_under_implicit_tls() -> None:
    driver = ServerDriver(tls=True, hooks={"auth"}, secure=True)
    lines = driver.send_lines(HELLO)[1].split("\n")
    assert "250-AUTH PLAIN LOGIN" in lines
    assert "250-STARTTLS" not in lines


def test_binarymime_is_not_standard() -> None:
    assert "BINARYMIME" not in ServerDriver().send_lines(HELLO)[1]
    assert "250-CHUNKING" in ServerDriver(extensions=standard(BinaryMime())).send_lines(HELLO)[1]
    assert "BINARYMIME" in ServerDriver(extensions=standard(BinaryMime())).send_lines(HELLO)[1]


# --- commands with a hook -------------------------------------------------------------------------------------------


class XQueue(Command):
    verb = "XQUEUE"
    usage = "XQUEUE"
    hook = "xqueue"


class XQueueExtension(Extension):
    keyword = "XQUEUE"
    verbs = (XQueue,)
    table = Table(accepted={XQueue: {READY: READY}})


def test_command_is_offered_with_its_hook() -> None:
    driver = ServerDriver(
        extensions=standard(XQueueExtension()),
        hooks={"xqueue"},
        answer=replying((XQueue, Reply(250, "Queue started"))),
    )
    assert driver.send_lines(HELLO, "XQUEUE", "XQUEUE x")[1:] == [
        "250-mx.test\n250-PIPELINING\n250-SIZE 31457280\n250-8BITMIME\n250-SMTPUTF8\n250-ENHANCEDSTATUSCODES\n250-CHUNKING\n"
        "250-DSN\n250-HELP\n250 XQUEUE",
        "250 2.0.0 Queue started",
        "501 5.5.4 XQUEUE takes no argument",
    ]


def test_command_without_its_hook_is_neither_offered_nor_accepted() -> None:
    driver = ServerDriver(extensions=standard(XQueueExtension()), hooks={"expn"})
    assert "XQUEUE" not in driver.send_lines(HELLO)[1]
    assert codes(driver.send_lines("XQUEUE", "XQUEUE x", "HELP XQUEUE")) == ["502 5.5.1", "502 5.5.1", "214 2.0.0"]


def test_required_auth_comes_before_a_missing_hook() -> None:
    driver = ServerDriver(
        extensions=standard(XQueueExtension(), Auth(required=True)), hooks={"auth"}, secure=True
    ).begin()
    assert codes(driver.send_lines("XQUEUE")) == ["530 5.7.0"]


def test_expn_is_offered_with_its_hook() -> None:
    assert "EXPN" not in ServerDriver().send_lines(HELLO)[1]
    assert "250-EXPN" in ServerDriver(hooks={"expn"}).send_lines(HELLO)[1].split("\n")
    assert codes(ServerDriver().begin().send_lines("EXPN list", "VRFY fred")) == ["502 5.5.1", "252 2.5.0"]


# --- lines of an exchange -------------------------------------------------------------------------------------------


class LinePhase(PhaseEnum):
    LINES = "during an exchange"


class XLine(Command):
    """A line of an exchange: "bad" is refused by the core, "." ends it."""

    verb = "XTALK"
    hook = "xline"

    @classmethod
    def decode(cls, argument: str, known_params: KnownParams) -> XLine:
        if argument == "bad":
            raise BadCommandError(Reply(501, "Bad line", "5.5.2"))
        return DotLine() if argument == "." else XLine()


class DotLine(XLine):
    pass


class XTalk(Command):
    verb = "XTALK"
    hook = "xtalk"


class XTalkExtension(Extension):
    keyword = "XTALK"
    verbs = (XTalk,)
    table = Table(
        accepted={DotLine: {LinePhase.LINES: READY}},
        proceed={XTalk: {READY: LinePhase.LINES}, XLine: {LinePhase.LINES: LinePhase.LINES}},
        refused={XLine: {LinePhase.LINES: READY}, DotLine: {LinePhase.LINES: READY}},
    )
    continuations: ClassVar[Mapping[enum.Enum, type[Command]]] = {LinePhase.LINES: XLine}


def test_lines_of_an_exchange() -> None:
    driver = ServerDriver(
        extensions=standard(XTalkExtension()),
        hooks={"xtalk", "xline"},
        answer=replying((XTalk, Reply(350, "Go on")), (XLine, Reply(350, "Go on")), (DotLine, Reply(250, "Done"))),
    ).begin()
    assert codes(driver.send_lines("XTALK", "NOOP", "x", ".", "NOOP")) == [
        "350",
        "350",
        "350",
        "250 2.0.0",
        "250 2.0.0",
    ]
    # RFC 4954 4 has the same rule for AUTH: a line that is refused ends the exchange.
    assert codes(driver.send_lines("XTALK", "bad", "NOOP")) == ["350", "501 5.5.2", "250 2.0.0"]
