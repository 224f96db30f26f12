"""Messages that are sent with DATA."""

from __future__ import annotations

import pytest

from smtp_trio.protocol import Data, EndOfData, Limits, Reply
from smtp_trio.protocol.extensions import Auth, BinaryMime, standard

from .driver import HELLO, NAME, PHASES, RECIPIENT, SENDER, ServerDriver, codes, driver_in, replying


@pytest.mark.parametrize("phase", ["GREETED", "READY", "SENDER"])
def test_data_without_recipients(phase: str) -> None:
    assert codes(driver_in(phase).send_lines("DATA")) == ["503 5.5.1"]


def test_data_after_all_recipients_were_refused() -> None:
    driver = driver_in("SENDER")
    assert codes(driver.send_lines("RCPT TO:<no@mx.test>", "DATA")) == ["550 5.1.1", "554 5.5.1"]
    # The transaction is still open, and can be continued with another recipient.
    assert codes(driver.send_lines(RECIPIENT, "DATA")) == ["250 2.1.5", "354"]


def test_malformed_recipient_counts_as_refused() -> None:
    assert codes(driver_in("SENDER").send_lines("RCPT TO:<@>", "DATA")) == ["501 5.1.3", "554 5.5.1"]


def test_recipient_outside_a_transaction_does_not_count_as_refused() -> None:
    driver = driver_in("READY")
    assert codes(driver.send_lines(RECIPIENT, SENDER, "DATA")) == ["503 5.5.1", "250 2.1.0", "503 5.5.1"]
    driver = driver_in("SENDER")
    assert codes(driver.send_lines("RCPT TO:<no@x>", "RSET", SENDER, "DATA"))[-1] == "503 5.5.1"


def test_data_is_answered_with_354() -> None:
    assert driver_in("RECIPIENT").send_lines("DATA") == ["354 End data with <CR><LF>.<CR><LF>"]


def test_transaction_ends_with_the_message() -> None:
    driver = driver_in("RECIPIENT")
    assert codes(driver.send_lines("DATA", "hello", ".", "DATA", RECIPIENT, SENDER)) == [
        "354", "250 2.0.0", "503 5.5.1", "503 5.5.1", "250 2.1.0",
    ]  # fmt: skip
    assert driver.messages == [b"hello\r\n"]
    assert driver.protocol.state.rcpts == []


def test_text_of_the_final_reply() -> None:
    driver = driver_in("RECIPIENT", replying((EndOfData, Reply(250, "Ok: queued as x-1"))))
    assert driver.send_lines("DATA", ".")[1] == "250 2.0.0 Ok: queued as x-1"


@pytest.mark.parametrize("reply", [Reply(451, "Later", "4.3.0"), Reply(554, "Never", "5.6.0"), Reply(452, "Full")])
def test_message_refused_at_its_end(reply: Reply) -> None:
    driver = driver_in("RECIPIENT", replying((EndOfData, reply)))
    assert codes(driver.send_lines("DATA", "x", ".", "DATA", SENDER, RECIPIENT, "DATA"))[1:] == [
        f"{reply.code} {reply.encode().split()[1].decode()}", "503 5.5.1", "250 2.1.0", "250 2.1.5", "354",
    ]  # fmt: skip
    assert driver.messages == []


def test_message_refused_instead_of_354() -> None:
    driver = driver_in("RECIPIENT", replying((Data, Reply(451, "Later", "4.3.0"))))
    assert codes(driver.send_lines("DATA", "DATA", SENDER)) == ["451 4.3.0", "503 5.5.1", "250 2.1.0"]


def test_empty_message() -> None:
    driver = driver_in("RECIPIENT")
    assert codes(driver.send_lines("DATA", ".")) == ["354", "250 2.0.0"]
    assert driver.messages == [b""]


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        (b"..\r\n", b".\r\n"), (b"..x\r\n", b".x\r\n"), (b".x\r\n", b"x\r\n"), (b"...\r\n", b"..\r\n"), (b"x.\r\n", b"x.\r\n"),
        (b"a\r\n..\r\n..\r\nb\r\n", b"a\r\n.\r\n.\r\nb\r\n"), (b"\r\n..\r\n\r\n", b"\r\n.\r\n\r\n"),
    ],
)  # fmt: skip
def test_dots_added_by_the_client_are_removed(sent: bytes, kept: bytes) -> None:
    driver = driver_in("RECIPIENT")
    driver.send(b"DATA\r\n" + sent + b".\r\n")
    assert driver.messages == [kept]


def test_dot_at_the_end_of_a_line_is_not_the_end() -> None:
    driver = driver_in("RECIPIENT")
    assert codes(driver.send(b"DATA\r\nx.\r\n")) == ["354"]
    assert codes(driver.send(b".\r\n")) == ["250 2.0.0"]
    assert driver.messages == [b"x.\r\n"]


def test_all_octets_but_nul_are_preserved() -> None:
    octets = bytes(set(range(1, 256)) - set(b"\r\n")) * 3 + b"\r\n"
    driver = ServerDriver().begin("MAIL FROM:<a@b> BODY=8BITMIME", RECIPIENT)
    driver.send(b"DATA\r\n" + octets + b".\r\n")
    assert driver.messages == [octets]


@pytest.mark.parametrize("length", [998, 999, 1000, 1_000_000])
def test_long_text_lines_are_accepted(length: int) -> None:
    line = b"." + b"x" * (length - 1) + b"\r\n"
    driver = driver_in("RECIPIENT")
    assert codes(driver.send(b"DATA\r\n." + line + b".\r\n")) == ["354", "250 2.0.0"]
    assert driver.messages == [line]


def test_message_larger_than_size() -> None:
    driver = ServerDriver(size=100).begin(SENDER, RECIPIENT)
    assert codes(driver.send(b"DATA\r\n" + b"x" * 200)) == ["354"]
    assert codes(driver.send(b"\r\nQUIT\r\n.\r\nNOOP\r\n")) == ["552 5.3.4", "250 2.0.0"]
    assert driver.messages == []
    assert codes(driver.send_lines("DATA", SENDER, RECIPIENT, "DATA", "x", ".")) == [
        "503 5.5.1", "250 2.1.0", "250 2.1.5", "354", "250 2.0.0",
    ]  # fmt: skip


def test_message_of_ten_times_the_size_closes_the_session() -> None:
    for body in (b"x" * 1001, b"x" * 1001 + b"\r\n.\r\nNOOP\r\n", b"x" * 5000):
        for cut in (0, 50, 101, 500, 1000, 1001, 1003):
            driver = ServerDriver(size=100).begin(SENDER, RECIPIENT, "NOOP")
            driver.send_lines("DATA")
            begun = len(driver.output)
            driver.send_in_segments(body, [cut])
            assert driver.output[begun:].startswith(f"421 4.3.2 {NAME} ".encode())
            assert driver.closed
    assert not ServerDriver(size=0).begin(SENDER, RECIPIENT).send_in_segments(b"DATA\r\n" + b"x" * 5000, [100]).closed


def test_discarded_message_has_the_same_limit() -> None:
    driver = ServerDriver(size=100).begin(SENDER, RECIPIENT)
    driver.send_lines("DATA")
    driver.protocol.discard()
    assert driver.send(b"x" * 1000) == []
    assert driver.events[-1] == Data()
    assert codes(driver.send(b"x")) == ["421 4.3.2"]


def test_discard_between_messages_does_nothing() -> None:
    driver = ServerDriver().begin()
    driver.protocol.discard()
    assert codes(driver.send_lines(SENDER, RECIPIENT, "DATA", "hello", ".")) == [
        "250 2.1.0", "250 2.1.5", "354", "250 2.0.0",
    ]  # fmt: skip
    assert driver.messages == [b"hello\r\n"]


def test_too_many_received_fields() -> None:
    field = b"Received: from x by y; Thu, 1 Jan 1970 00:00:00 +0000\r\n"
    driver = ServerDriver().begin(SENDER, RECIPIENT)
    assert codes(driver.send(b"DATA\r\n" + field * 100 + b"\r\n" + field * 50 + b".\r\n")) == ["354", "250 2.0.0"]
    driver.send_lines(SENDER, RECIPIENT)
    assert codes(driver.send(b"DATA\r\n" + field * 101 + b"\r\nhello\r\n.\r\n")) == ["354", "554 5.4.6"]


def test_header_is_not_validated() -> None:
    driver = ServerDriver()
    for body in (b"From: a\r\nFrom: b\r\n\r\nx\r\n", b"no header\r\n", b": \r\n\r\n"):
        driver.send_lines(HELLO, SENDER, RECIPIENT)
        assert codes(driver.send(b"DATA\r\n" + body + b".\r\n")) == ["354", "250 2.0.0"]
        assert driver.messages[-1] == body


@pytest.mark.parametrize("newlines", ["reject", "normalize"])
@pytest.mark.parametrize("body", [b"a\0b\r\n", b"\0.\r\n", b"x\r\n.\0\r\n", b"\0" * 70000 + b"\r\n", b"x\r\n\0\r\n"])
def test_nul_in_a_message_is_refused(body: bytes, newlines: str) -> None:
    driver = ServerDriver(newlines=newlines)
    driver.send_lines(*PHASES["RECIPIENT"])
    for cut in {1, 2, 5, len(body)}:
        begin = driver.send_lines("RSET", SENDER, RECIPIENT, "DATA")
        assert codes(begin)[-1] == "354"
        assert codes(driver.send(body[:cut]) + driver.send(body[cut:] + b".\r\n")) == ["550 5.6.0"]
        driver.send_lines(SENDER, RECIPIENT)
        chunk = b"BDAT %d LAST\r\n" % len(body) + body
        assert codes(driver.send(chunk[:cut]) + driver.send(chunk[cut:])) == ["550 5.6.0"]
    assert driver.messages == []


def test_nul_in_a_message_is_kept_with_preserve() -> None:
    driver = ServerDriver(newlines="preserve").begin(SENDER, RECIPIENT, "BDAT 4 LAST\r\na\0\r\nRSET")
    assert driver.messages == [b"a\0\r\n"]


def test_nul_is_allowed_in_a_binarymime_message() -> None:
    driver = ServerDriver(extensions=standard(BinaryMime())).begin("MAIL FROM:<a@b> BODY=BINARYMIME", RECIPIENT)
    assert codes(driver.send(b"BDAT 1\r\n\0BDAT 2 LAST\r\n\0\n")) == ["250 2.0.0", "250 2.0.0"]
    assert driver.messages == [b"\0\0\n"]
    # The next message of the session is not binary.
    driver.send_lines(SENDER, RECIPIENT)
    assert codes(driver.send(b"BDAT 1 LAST\r\n\0")) == ["550 5.6.0"]


# --- octets that arrive before DATA is refused ----------------------------------------------------------------------

FORGED = b"MAIL FROM:<forged@client.test>\r\nRCPT TO:<you@mx.test>\r\nDATA\r\nSubject: forged\r\n\r\nx\r\n.\r\nQUIT\r\n"
REFUSED_DATA = {
    "no recipient": ("SENDER", b"RCPT TO:<no@mx.test>\r\nDATA\r\n"),
    "no transaction": ("READY", b"DATA\r\n"),
    "no EHLO": ("GREETED", b"data\r\n"),
    "an argument": ("RECIPIENT", b"DATA now\r\n"),
    "a control character": ("RECIPIENT", b"DATA \0\r\n"),
    "invalid UTF-8": ("RECIPIENT", b"DATA \xff\r\n"),
    "white space before it": ("RECIPIENT", b" \tDATA\r\n"),
    "NUL after the verb": ("RECIPIENT", b"DATA\0\r\n"),
    "VT after the verb": ("RECIPIENT", b"data\v\r\n"),
    "no-break space after the verb": ("RECIPIENT", b"DATA\xc2\xa0\r\n"),
    "an octet above 127 after the verb": ("RECIPIENT", b"DATA\xa0\r\n"),
    "a colon after the verb": ("RECIPIENT", b"DATA:\r\n"),
    "a bare CR": ("RECIPIENT", b"DATA\r\r\n"),
    "LF after another LF": ("RECIPIENT", b"RSET\nDATA\nSubject: x\r\n"),
    "a bare LF": ("RECIPIENT", b"Data\nSubject: x\r\n"),
    "a long line": ("RECIPIENT", b"DATA " + b"x" * 3000 + b"\r\n"),
    "BODY=BINARYMIME": ("READY", b"MAIL FROM:<a@b> BODY=BINARYMIME\r\nRCPT TO:<you@mx.test>\r\nDATA\r\n"),
    "a chunk before it": ("RECIPIENT", b"BDAT 1\r\nxDATA\r\n"),
}


@pytest.mark.parametrize("rest", [FORGED, b"M", b"\r\n", b".\r\n", b"\xff", b"\x16\x03"])
@pytest.mark.parametrize("reason", REFUSED_DATA)
def test_octets_after_refused_data_are_not_executed(reason: str, rest: bytes) -> None:
    phase, octets = REFUSED_DATA[reason]
    driver = ServerDriver(extensions=standard(BinaryMime()))
    driver.send_lines(*PHASES[phase])
    assert codes(driver.send(octets + rest))[-1] == "554 5.5.0"
    assert driver.closed
    assert driver.protocol.closed
    assert driver.send(FORGED) == []
    assert not driver.messages


@pytest.mark.parametrize("reply", [Reply(451, "Later"), Reply(452, "Full"), Reply(554, "Never"), Reply(550, "No")])
def test_octets_after_data_refused_by_the_application_are_not_executed(reply: Reply) -> None:
    driver = driver_in("RECIPIENT", replying((Data, reply)))
    assert codes(driver.send(b"DATA\r\n" + FORGED)) == ["554 5.5.0"]
    assert driver.closed
    assert not driver.messages


def test_octets_after_required_authentication_was_refused_are_not_executed() -> None:
    driver = ServerDriver(hooks={"auth"}, secure=True, extensions=standard(Auth(required=True)))
    assert codes(driver.send(b"EHLO x\r\nDATA\r\n" + FORGED)) == ["220", "250", "554 5.5.0"]


def test_421_to_data_is_not_replaced() -> None:
    driver = driver_in("RECIPIENT", replying((Data, Reply(421, "Stopping", "4.3.2"))))
    assert codes(driver.send(b"DATA\r\n" + FORGED)) == ["421 4.3.2"]
    driver = ServerDriver(limits=Limits(errors=2)).begin()
    assert codes(driver.send(b"FOO\r\nDATA\r\n" + FORGED)) == ["500 5.5.1", "421 4.7.0"]


@pytest.mark.parametrize("reason", REFUSED_DATA)
def test_session_goes_on_if_the_client_waits_for_the_refusal_of_data(reason: str) -> None:
    phase, octets = REFUSED_DATA[reason]
    driver = ServerDriver(extensions=standard(BinaryMime()))
    driver.send_lines(*PHASES[phase])
    for octet in octets:
        driver.send(bytes([octet]))
    assert codes(driver.send_lines(HELLO, SENDER, RECIPIENT, "DATA", "x", "."))[-1] == "250 2.0.0"
    assert driver.messages == [b"x\r\n"]


def test_commands_after_refused_ehlo_and_auth_are_answered() -> None:
    driver = ServerDriver(hooks={"auth"}, secure=True)
    replies = driver.send_lines("EHLO", "EHLO x", "AUTH X", "AUTH LOGIN", "####", "c2VjcmV0", "AUTH PLAIN ####", SENDER)
    assert codes(replies) == [
        "220", "501", "250", "504 5.5.4", "334", "501 5.5.2", "500 5.5.1", "501 5.5.2", "250 2.1.0",
    ]  # fmt: skip
    assert "secret" not in "".join(replies)
    assert "c2Vj" not in "".join(replies)


# --- CR CR LF -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [b"\r\r\n", b"\r\r\r\n", b"\n", b"\r\n", b"\r\r\r\r\r\r\n"])
def test_run_of_crs_before_lf_is_one_line_end_when_normalized(end: bytes) -> None:
    message = end.join([b"Subject: a", b"From: b", b"", b"..text", b""])
    expected = b"Subject: a\r\nFrom: b\r\n\r\n" + (b".text\r\n" if end.endswith(b"\r\n") else b"..text\r\n")
    octets = b"DATA\r\n" + message + b".\r\n" if end != b"\n" else b"DATA\r\n" + message + b"\r\n.\r\n"
    for cut in range(6, len(octets)):
        driver = ServerDriver(newlines="normalize").begin(SENDER, RECIPIENT)
        driver.send_in_segments(octets, [cut])
        assert driver.messages == [expected + b"\r\n" * (end == b"\n")]


@pytest.mark.parametrize("end", [b"\r\r\n", b"\r\r\r\n", b"\n"])
@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_run_of_crs_before_lf_over_chunks(end: bytes, size: int) -> None:
    message = end.join([b"Subject: a", b"From: b", b"", b".text", b""])
    driver = ServerDriver(newlines="normalize").begin(SENDER, RECIPIENT)
    for start in range(0, len(message), size):
        chunk = message[start : start + size]
        driver.send(b"BDAT %d\r\n" % len(chunk) + chunk)
    driver.send_lines("BDAT 0 LAST")
    assert driver.messages == [b"Subject: a\r\nFrom: b\r\n\r\n.text\r\n"]
