"""The start and the end of a session, command lines, addresses and line limits."""

from __future__ import annotations

import pytest

from smtp_trio.protocol import NEED_DATA, Connect, Limits, Mail, Noop, Path, Rcpt, Reply, ServerProtocol
from smtp_trio.protocol.extensions import STANDARD, Auth, Dsn, SmtpUtf8, standard

from .driver import HELLO, NAME, RECIPIENT, SENDER, ServerDriver, codes


def rejecting(reply: Reply) -> ServerDriver:
    return ServerDriver(answer=lambda command: reply if isinstance(command, Connect) else None)


# --- start and end of the session -----------------------------------------------------------------------------------


def test_greeting_begins_with_server_name() -> None:
    assert ServerDriver().send_lines() == [f"220 {NAME} ESMTP"]


def test_221_and_421_begin_with_server_name() -> None:
    assert ServerDriver().begin().send_lines("QUIT") == [f"221 2.0.0 {NAME} Goodbye"]
    for junk in (b"GET / HTTP/1.1\r\n", b"X\r\n" * 20, b"NOOP\r\n" * 200):
        last = ServerDriver().send(junk)[-1]
        assert last.startswith(f"421 4.7.0 {NAME} ")


def test_554_greeting_allows_only_quit() -> None:
    driver = rejecting(Reply(554, "No mail from you"))
    assert driver.send_lines() == ["554 No mail from you"]
    assert (
        codes(driver.send_lines("NOOP", HELLO, SENDER, "RSET", "VRFY a", "HELP"))
        == ["503 5.5.1", "503"] + ["503 5.5.1"] * 4
    )
    assert codes(driver.send_lines("QUIT")) == ["221 2.0.0"]
    assert driver.closed


def test_521_greeting_allows_only_quit() -> None:
    driver = rejecting(Reply(521, "Server does not accept mail"))
    assert codes(driver.send_lines(SENDER, "QUIT")) == ["521", "503 5.5.1", "221 2.0.0"]


def test_commands_sent_before_greeting_are_answered_in_order() -> None:
    assert codes(ServerDriver().send_lines(HELLO, SENDER, "QUIT")) == ["220", "250", "250 2.1.0", "221 2.0.0"]


@pytest.mark.parametrize("phase", [[], [HELLO], [HELLO, SENDER], [HELLO, SENDER, RECIPIENT]])
def test_end_of_input_between_commands(phase: list[str]) -> None:
    driver = ServerDriver()
    driver.send_lines(*phase)
    assert driver.send(b"QUI") == []
    assert driver.end_input() == b""
    assert driver.closed
    assert not driver.messages


@pytest.mark.parametrize("body", [b"", b"hello", b"hello\r\n", b"hello\r\n.", b"hello\r\n.\r", b"hello\r", b"a\nb"])
def test_end_of_input_during_message_discards_it(body: bytes) -> None:
    driver = ServerDriver().begin(SENDER, RECIPIENT)
    driver.send_lines("DATA")
    assert driver.send(body) == []
    assert driver.end_input() == b""
    assert driver.closed
    assert not driver.messages


def test_twentieth_error_is_answered_with_421() -> None:
    driver = ServerDriver().begin()
    assert codes(driver.send_lines(*["FOO"] * 19)) == ["500 5.5.1"] * 19
    assert not driver.closed
    assert codes(driver.send_lines("FOO", "NOOP")) == ["421 4.7.0"]
    assert driver.closed


def test_errors_limit_is_at_least_two() -> None:
    driver = ServerDriver(limits=Limits(errors=2)).begin()
    assert codes(driver.send_lines("RSET x", "EHLO", "NOOP")) == ["501 5.5.4", "421"]
    for errors in (1, 0, -1):
        with pytest.raises(ValueError, match="must be >= 2"):
            Limits(errors=errors)


def test_accepted_message_resets_error_and_work_counts() -> None:
    driver = ServerDriver(limits=Limits(errors=3, work=10)).begin()
    for _ in range(5):
        assert codes(driver.send_lines("FOO", "NOOP", SENDER, RECIPIENT, "DATA", "."))[-1] == "250 2.0.0"
    assert codes(driver.send_lines("FOO", "NOOP", "NOOP", "NOOP")) == [
        "500 5.5.1",
        "250 2.0.0",
        "250 2.0.0",
        "421 4.7.0",
    ]


def test_refused_recipients_are_not_errors() -> None:
    driver = ServerDriver(limits=Limits(errors=2)).begin(SENDER)
    replies = codes(driver.send_lines(*["RCPT TO:<no@mx.test>"] * 5, *["RCPT TO:<later@mx.test>"] * 5))
    assert replies == ["550 5.1.1"] * 5 + ["450 4.2.1"] * 5


def test_work_beyond_the_limit_is_an_error() -> None:
    driver = ServerDriver(limits=Limits(errors=3, work=50)).begin()
    lines = ["NOOP", "RSET", "VRFY a", "HELP", "NOOP", "RSET", "NOOP"]
    assert codes(driver.send_lines(*lines)) == [
        "250 2.0.0", "250 2.0.0", "252 2.5.0", "214 2.0.0", "250 2.0.0", "250 2.0.0", "421 4.7.0",
    ]  # fmt: skip


@pytest.mark.parametrize("line", ["GET / HTTP/1.1", "POST /x HTTP/1.0", "CONNECT mx.test:25 HTTP/1.1", "options *"])
def test_http_request_closes_the_session(line: str) -> None:
    driver = ServerDriver()
    assert codes(driver.send_lines(line, "Host: mx.test")) == ["220", "421 4.7.0"]
    assert driver.closed
    # After EHLO it is an unknown verb.
    assert codes(ServerDriver().begin().send_lines(line)) == ["500 5.5.1"]


def test_tls_client_hello_closes_the_session() -> None:
    driver = ServerDriver()
    assert codes(driver.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")) == ["220", "500 5.5.2"]
    assert driver.closed


def test_client_hello_is_recognized_only_at_the_start_of_a_command() -> None:
    for octets in (
        b"x" * 3000 + b"\x16\x03\r\nNOOP\r\n",
        b"a\n\x16\x03\r\nNOOP\r\n",
        b"HELO x\r\n\x16\x03\r\nNOOP\r\n",
    ):
        for cut in range(len(octets)):
            driver = ServerDriver().send_in_segments(octets, [cut])
            assert not driver.closed
            assert driver.output.endswith(b"250 2.0.0 Ok\r\n")
    assert codes(ServerDriver().send(b"NOOP\r\n\x16\x03\x01")) == ["220", "250 2.0.0", "500 5.5.2"]


# --- lines, verbs, addresses and parameters -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("octets", "expected"),
    [
        pytest.param(b"NOOP\nNOOP\r\n", ["500 5.5.2"], id="bare-lf"),
        pytest.param(b"NOOP\n\n\nNOOP\r\nNOOP\r\n", ["500 5.5.2"] * 3 + ["250 2.0.0"], id="several-bare-lf"),
        pytest.param(b"NOOP\rNOOP\r\n", ["500 5.5.2"], id="bare-cr"),
        pytest.param(b"NOOP\r\r\n", ["500 5.5.2"], id="cr-before-crlf"),
        pytest.param(b"\r\r\nNOOP\r\n", ["500 5.5.2", "250 2.0.0"], id="cr-at-line-start"),
        pytest.param(b"NOOP a\0b\r\n", ["501 5.5.2"], id="nul"),
        pytest.param(b"NO\0OP\r\n", ["500 5.5.2"], id="nul-in-verb"),
        pytest.param(b"MAIL FROM:<a\x1b@b>\r\n", ["501 5.5.2"], id="escape"),
        pytest.param(b"HELP a\x7f\r\n", ["501 5.5.2"], id="delete"),
        pytest.param("HELP a\u0085b\r\n".encode(), ["501 5.5.2"], id="c1-control"),
        pytest.param("HELP a\u2028b\r\n".encode(), ["501 5.5.2"], id="line-separator"),
        pytest.param("N\u00d6OP\r\n".encode(), ["500 5.5.2"], id="utf8-verb"),
        pytest.param("\u017fEND x\r\n".encode(), ["500 5.5.2"], id="verb-that-folds-to-ascii"),
        pytest.param("MAIL FROM:<\u00e9@b>\r\n".encode(), ["550 5.6.7"], id="utf8-sender"),
        pytest.param(b"\xe9\xff\r\n", ["500 5.5.2"], id="invalid-utf8-verb"),
        pytest.param(b"MAIL FROM:<\xe9@b>\r\n", ["501 5.5.2"], id="invalid-utf8-argument"),
        pytest.param(b"NOOP \xc0\xaf\r\n", ["501 5.5.2"], id="overlong-utf8"),
        pytest.param("EHLO b\u00fccher.test\r\n".encode(), ["501"], id="utf8-ehlo"),
        pytest.param("MAIL FROM:<a@b> BODY=7B\u0131T\r\n".encode(), ["501 5.5.4"], id="utf8-parameter"),
        pytest.param("MAIL FROM:<a@b> SIZE=\u0663\r\n".encode(), ["501 5.5.4"], id="arabic-digits"),
        pytest.param(b"\r\n", ["500 5.5.2"], id="empty-line"),
        pytest.param(b" \t \r\n", ["500 5.5.2"], id="blank-line"),
        pytest.param(b" NOOP\r\n", ["500 5.5.2"], id="leading-space"),
        pytest.param(b"nOoP\r\n", ["250 2.0.0"], id="verb-in-any-case"),
        pytest.param(b"RSET \t \r\nNOOP\t\r\n", ["250 2.0.0"] * 2, id="trailing-white-space"),
        pytest.param(b"RSET x\r\n", ["501 5.5.4"], id="rset-with-argument"),
        pytest.param(b"DATA x\r\n", ["501 5.5.4"], id="data-with-argument"),
        pytest.param(b"QUIT x\r\nNOOP\r\n", ["501 5.5.4", "250 2.0.0"], id="quit-with-argument"),
        pytest.param(b"NOOP anything at all\r\n", ["250 2.0.0"], id="noop-with-argument"),
        pytest.param("NOOP \u65e5\u672c\r\n".encode(), ["250 2.0.0"], id="noop-with-utf8"),
        pytest.param(b"XFOO\r\nfoo bar\r\nMAILFROM:<a@b>\r\n", ["500 5.5.1"] * 3, id="unknown-verbs"),
        pytest.param(
            b"SEND FROM:<a@b>\r\nSOML x\r\nSAML x\r\nTURN\r\nEXPN l\r\n", ["502 5.5.1"] * 5, id="verbs-not-implemented"
        ),
        pytest.param(b"__init__\r\nsend x\r\n", ["500 5.5.1", "502 5.5.1"], id="verbs-are-not-attributes"),
    ],
)
def test_lines(octets: bytes, expected: list[str]) -> None:
    driver = ServerDriver().begin()
    assert codes(driver.send(octets)) == expected
    assert not driver.closed


def test_bare_lf_is_refused_before_the_line_ends() -> None:
    driver = ServerDriver().begin()
    assert codes(driver.send(b"NOOP\n")) == ["500 5.5.2"]
    assert driver.send(b"MAIL FROM:<a@b>") == []
    assert codes(driver.send(b"\r\nNOOP\r\n")) == ["250 2.0.0"]


@pytest.mark.parametrize(
    "line", [b"EHLO x", b"NOOP", b"", b"QUIT", b"AUTH LOGIN", b"DATA", b"\xff", b"x" * 100, b"A\rB"]
)
def test_each_line_that_ends_in_lf_is_refused_at_once(line: bytes) -> None:
    driver = ServerDriver().begin()
    first = driver.send(line + b"\n")
    assert codes(first) == ["500 5.5.2"] * (1 + (b"\r" in line))
    for count in range(1, 4):
        assert codes(driver.send(b"NOOP\n" * count)) == ["500 5.5.2"] * count
    assert codes(driver.send(b"NO")) == []
    assert codes(driver.send(b"OP\n")) == ["500 5.5.2"]
    assert codes(driver.send(b"\n")) == ["500 5.5.2"]
    # What follows the last LF belongs to the refused line, up to CRLF.
    assert codes(driver.send(b"NOOP\r")) == []
    assert codes(driver.send(b"\nNOOP\r\n")) == ["250 2.0.0"]
    assert not driver.closed


def test_lines_that_end_in_lf_count_as_errors() -> None:
    driver = ServerDriver()
    replies = driver.send(b"EHLO x\nMAIL FROM:<a@b>\nRCPT TO:<you@mx.test>\nNOOP\n" * 10)
    assert codes(replies) == ["220"] + ["500 5.5.2"] * 19 + ["421 4.7.0"]
    assert driver.closed


def test_lf_in_an_auth_exchange() -> None:
    driver = ServerDriver(hooks={"auth"}, secure=True).begin()
    assert codes(driver.send_lines("AUTH LOGIN")) == ["334"]
    assert codes(driver.send(b"ZnJlZA==\nc2VjcmV0\n")) == ["500 5.5.2"] * 2
    assert codes(driver.send(b"\r\nNOOP\r\n")) == ["250 2.0.0"]


def test_local_part_keeps_its_case() -> None:
    driver = ServerDriver().begin()
    driver.send_lines("mAiL fRoM:<Fred.Foo@EXAMPLE.org>")
    assert driver.events[-1] == Mail(Path("Fred.Foo@EXAMPLE.org", "Fred.Foo", "example.org"))


def test_trailing_space_after_data_and_quit() -> None:
    driver = ServerDriver().begin(SENDER, RECIPIENT)
    assert codes(driver.send_lines("DATA  ", ".", "QUIT \t")) == ["354", "250 2.0.0", "221 2.0.0"]


@pytest.mark.parametrize(
    ("line", "bracketed"),
    [
        ("MAIL FROM: <a@b>", True), ("MAIL FROM :<a@b>", True), ("MAIL FROM  :  <a@b>", True),
        ("MAIL FROM:a@b", False), ("MAIL FROM: a@b  SIZE=1", False),
    ],
)  # fmt: skip
def test_spaces_around_colon_and_missing_brackets(line: str, bracketed: bool) -> None:
    driver = ServerDriver().begin(line)
    mail = driver.events[-1]
    assert isinstance(mail, Mail)
    assert (mail.sender.raw, mail.sender.bracketed) == ("a@b", bracketed)


@pytest.mark.parametrize(
    ("path", "local", "domain"),
    [
        ("<a@b>", "a", "b"),
        ("<a@b-c.D.example>", "a", "b-c.d.example"),
        ('<"a b"@c>', '"a b"', "c"),
        (r'<"a\"b"@c>', r'"a\"b"', "c"),
        ('<"a>b"@c>', '"a>b"', "c"),
        ('<"a@b"@c>', '"a@b"', "c"),
        ('<""@c>', '""', "c"),
        ("<a@[192.0.2.1]>", "a", "[192.0.2.1]"),
        ("<a@[IPv6:2001:db8::1]>", "a", "[IPv6:2001:db8::1]"),
        ("<@x,@y:a@b>", "a", "b"),
        ("<@x.example:a@b>", "a", "b"),
        ("<!#$%&'*+-/=?^_`{|}~@b>", "!#$%&'*+-/=?^_`{|}~", "b"),
        ("<Postmaster>", "Postmaster", None),
        ("<postMASTER@d>", "postMASTER", "d"),
        ("<a.b-.c@d-e.f--g.1h>", "a.b-.c", "d-e.f--g.1h"),
        # The domains of a source route are ignored.
        ("<@x_y,@-z:a@b>", "a", "b"),
        # Longer than RFC 5321 4.5.3.1 allows, and accepted by default.
        (f"<{'a' * 65}@b>", "a" * 65, "b"),
        (f"<a@{'b' * 256}>", "a", "b" * 256),
    ],
)
def test_accepted_addresses(path: str, local: str, domain: str | None) -> None:
    driver = ServerDriver().begin(SENDER, f"RCPT TO:{path}")
    rcpt = driver.events[-1]
    assert isinstance(rcpt, Rcpt)
    assert (rcpt.recipient.local, rcpt.recipient.domain) == (local, domain)


def test_null_path_is_refused_for_recipients() -> None:
    driver = ServerDriver().begin("MAIL FROM:<>")
    assert codes(driver.send_lines("RCPT TO:<>")) == ["501 5.1.3"]


@pytest.mark.parametrize(
    "path",
    [
        "<@>", "<a@>", "<@b>", "<a>", "<a b@c>", "<a@b", "a@b>", "<a@b>>", "<<a@b>>", "<a@b>garbage", "<a@b c>", "<a@b@c>", "a",
        "<a@b,c>", "<a@b..c>", "<a@.b>", "<a@b.>", '<"a@b>', '<a"b@c>', "<@x,y:a@b>", "<@x:>", "<a@[300.1.1.1]>", "<a@[1.2.3]>",
        "<a@[192.0.2.1>", "<a@[IPv6:::g]>", "<a@[IPv6:fe80::1%eth0]>", "<a@[tag:x]>", "<a@[]>", "<a(comment)@b>", "<a;b>", "< a@b>",
        "<a@b >",
        "<.a@b>", "<a.@b>", "<a..b@c>", "<.@b>", "<a@b_c>", "<a@-b>", "<a@b-.c>", "<a@b.-c.d>",
        "<a@b\u00ad->", f"<{'a@' * 400}", f"<{'@a,' * 400}", '<"' + "\\a" * 400,
    ],
)  # fmt: skip
def test_refused_addresses(path: str) -> None:
    driver = ServerDriver().begin()
    assert codes(driver.send_lines(f"MAIL FROM:{path}")) == ["501 5.1.7"]
    assert codes(driver.send_lines(SENDER, f"RCPT TO:{path}")) == ["250 2.1.0", "501 5.1.3"]


@pytest.mark.parametrize(
    "path", [f"<{'a' * 65}@b>", f"<a@{'b' * 256}>", f"<{'a' * 64}@{'b' * 190}>", f"<{chr(233) * 33}@b>"]
)
def test_strict_lengths(path: str) -> None:
    driver = ServerDriver(limits=Limits(strict_lengths=True)).begin()
    assert codes(driver.send_lines(f"MAIL FROM:{path} SMTPUTF8")) == ["501 5.1.7"]
    assert codes(driver.send_lines(f"{SENDER} SMTPUTF8", f"RCPT TO:{path}")) == ["250 2.1.0", "501 5.1.3"]
    assert codes(driver.send_lines(f"RCPT TO:<{'a' * 64}@b>", f"RCPT TO:<a@{'b' * 252}>")) == ["250 2.1.5"] * 2


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ("X", "555 5.5.4"), ("X=1", "555 5.5.4"), ("X=\u00e9", "555 5.5.4"), ("x-y=z SIZE=1", "555 5.5.4"),
        ("X=", "501 5.5.4"), ("=1", "501 5.5.4"), ("X=a=b", "501 5.5.4"), ("-X", "501 5.5.4"), ("\u00e9=1", "501 5.5.4"),
        ("SIZE=1 SIZE=2", "501 5.5.4"), ("size=1 BODY=7BIT Size=1", "501 5.5.4"), ("<x>", "501 5.5.4"),
        ("SIZE=1  body=7bit", "250 2.1.0"),
    ],
)  # fmt: skip
def test_parameters_of_mail(params: str, expected: str) -> None:
    assert codes(ServerDriver().begin().send_lines(f"MAIL FROM:<a@b> {params}")) == [expected]


def test_parameters_after_helo_are_refused() -> None:
    driver = ServerDriver()
    replies = codes(driver.send_lines("HELO x", "MAIL FROM:<a@b> SIZE=1", "MAIL FROM:<a@b>", "RCPT TO:<a@b> X=1"))
    assert replies == ["220", "250", "555 5.5.4", "250 2.1.0", "555 5.5.4"]
    # HELO after EHLO ends the use of extensions.
    assert codes(ServerDriver().begin().send_lines("HELO x", "MAIL FROM:<a@b> SIZE=1")) == ["250", "555 5.5.4"]


# --- line limits ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", [2048, 3000])
def test_line_of_exactly_the_limit(line: int) -> None:
    octets = b"NOOP ".ljust(line - 2, b"x") + b"\r\nRSET\r\n"
    for cut in (0, 1, line - 3, line - 2, line - 1, line):
        driver = ServerDriver(limits=Limits(line=line)).begin().send_in_segments(octets, [cut])
        assert isinstance(driver.events[-2], Noop)
        assert not driver.refused


@pytest.mark.parametrize("over", [1, 2, 500])
def test_line_longer_than_the_limit(over: int) -> None:
    octets = b"NOOP ".ljust(2046 + over, b"x") + b"\r\n" + b"VRFY x\r\n"
    for cut in (0, 1, 2045, 2046, 2047, 2048, 2049, len(octets) - 8):
        driver = ServerDriver().begin()
        begun = len(driver.output)
        driver.send_in_segments(octets, [cut])
        assert codes(driver.output[begun:].decode().splitlines()) == ["500 5.5.2", "252 2.5.0"]


def test_rest_of_long_line_is_not_executed() -> None:
    driver = ServerDriver().begin()
    assert codes(driver.send(b"x" * 5000 + b"\nNOOP\rNOOP\r\r\nRSET\r\n")) == ["500 5.5.2", "250 2.0.0"]


def test_line_limit_is_at_least_512() -> None:
    grammar_alone = ServerDriver(limits=Limits(line=0), extensions=())
    assert grammar_alone.protocol.grammar.line_limit == 512
    assert codes(grammar_alone.send_lines(b"HELO x", b"NOOP ".ljust(510, b"x"), b"NOOP ".ljust(511, b"x"))) == [
        "220",
        "250",
        "250",
        "500",
    ]


def test_extensions_increase_the_line_limit() -> None:
    # SIZE 26 (RFC 1870 3), BODY 16 (RFC 3030 3), SMTPUTF8 10 (RFC 6531 3.1), AUTH 500 (RFC 4954 3), RET, ENVID, NOTIFY and
    # ORCPT (RFC 3461 5.4).
    dsn = 8 + 107 + 28 + 507
    assert (
        ServerDriver(limits=Limits(line=0), extensions=STANDARD).protocol.grammar.line_limit
        == 512 + 26 + 16 + 10 + 500 + dsn
    )
    without = standard(without=(SmtpUtf8, Auth, Dsn))
    assert ServerDriver(limits=Limits(line=0), extensions=without).protocol.grammar.line_limit == 512 + 26 + 16


def test_endless_line_is_dropped_as_it_arrives() -> None:
    driver = ServerDriver().begin()
    for _ in range(160):
        assert driver.send(b"x" * 65536) == []
        assert driver.protocol.buffered <= 2048 + 65536
    assert codes(driver.send(b"\r\nNOOP\r\n")) == ["500 5.5.2", "250 2.0.0"]
    assert driver.protocol.buffered == 0


def test_long_line_that_ends_in_lf_is_refused_at_once() -> None:
    driver = ServerDriver().begin()
    assert driver.send(b"x" * 4000) == []
    assert driver.send(b"\n") == ["500 5.5.2 Line too long"]
    assert codes(driver.send(b"x" * 4000 + b"\n" + b"x" * 4000)) == ["500 5.5.2"]
    # Nothing is executed before CRLF.
    assert codes(driver.send(b"\r\nNOOP\r\n")) == ["250 2.0.0"]


# --- white space ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", [" ", "  ", "\t", "\t ", " \t \t  "], ids=repr)
@pytest.mark.parametrize("repeat", [1, 2], ids=["first", "again"])
def test_white_space_between_words(space: str, repeat: int) -> None:
    lines = [
        ("EHLO client.test", "250"),
        ("MAIL FROM:<a@b> SIZE=5 BODY=8BITMIME", "250 2.1.0"),
        ("RCPT TO:<c@d>", "250 2.1.5"),
        ("VRFY John Smith", "252 2.5.0"),
        ("VRFY a@b SMTPUTF8", "252 2.5.0"),
        ("NOOP x y", "250 2.0.0"),
        ("HELP MAIL", "214 2.0.0"),
        ("BDAT 0", "250 2.0.0"),
        ("BDAT 0 LAST", "250 2.0.0"),
        ("RSET ", "250 2.0.0"),
        ("AUTH FOO eA==", "504 5.5.4"),
        ("HELO client.test", "250"),
    ]
    driver = ServerDriver(hooks={"auth"}, secure=True)
    driver.send_lines()
    plain = ServerDriver(hooks={"auth"}, secure=True)
    plain.send_lines()
    for _ in range(repeat):
        for line, expected in lines:
            assert codes(driver.send_lines(line.replace(" ", space))) == [expected]
            plain.send_lines(line)
    assert driver.events == plain.events


def test_white_space_around_the_colon_and_after_the_address() -> None:
    for line in (
        "MAIL\tFROM:\t<a@b>\t",
        "MAIL FROM\t:<a@b>  ",
        "mail  from :  a@b\t \tSIZE=1",
        "MAIL  FROM:<a@b>\t\tSIZE=1 ",
    ):
        driver = ServerDriver().begin()
        assert codes(driver.send_lines(line)) == ["250 2.1.0"], line


def test_white_space_in_a_quoted_local_part_is_kept() -> None:
    driver = ServerDriver().begin('MAIL  FROM:<"a  b \\"  c"@d>  SIZE=1', r'RCPT  TO:<"x\  y"@z>')
    mail, rcpt = driver.events[-2:]
    assert isinstance(mail, Mail)
    assert isinstance(rcpt, Rcpt)
    assert mail.sender.local == '"a  b \\"  c"'
    assert (rcpt.recipient.raw, rcpt.recipient.local) == (r'"x\  y"@z', '"x  y"')
    assert codes(driver.send_lines('RCPT TO:<"a\tb"@c>')) == ["501 5.5.2"]


def test_white_space_before_the_verb_is_refused() -> None:
    assert codes(ServerDriver().begin().send_lines(" NOOP", "\tNOOP", "  ", "\t")) == ["500 5.5.2"] * 4


def test_tab_after_the_verb_of_a_line_that_is_not_utf8() -> None:
    assert codes(ServerDriver().begin().send_lines(b"NOOP\t\xff", b"MAIL  FROM:<\xff@b>")) == ["501 5.5.2"] * 2
    driver = ServerDriver().begin()
    driver.send_lines(b"BDAT\t\xff")
    assert driver.closed


@pytest.mark.parametrize(
    "lines",
    [
        ["AUTH  PLAIN  AGZyZWQAc2VjcmV0"],
        ["AUTH\tPLAIN\tAGZyZWQAc2VjcmV0 "],
        ["auth \t plain", "AGZyZWQAc2VjcmV0  "],
        ["AUTH PLAIN ", "\tAGZyZWQAc2VjcmV0"],
        ["AUTH LOGIN", " ZnJlZA==", "c2VjcmV0\t"],
        ["AUTH LOGIN  ZnJlZA==", "\tc2VjcmV0"],
    ],
)
def test_white_space_in_an_auth_exchange(lines: list[str]) -> None:
    driver = ServerDriver(hooks={"auth"}, secure=True).begin()
    assert codes(driver.send_lines(*lines))[-1] == "235 2.7.0"
    assert driver.credentials[0].user == "fred"


def test_white_space_around_the_cancellation_of_auth() -> None:
    driver = ServerDriver(hooks={"auth"}, secure=True).begin()
    for line in ("* ", " *", "*\t"):
        assert codes(driver.send_lines("AUTH PLAIN", line)) == ["334", "501 5.7.0"]
    assert codes(driver.send_lines("AUTH PLAIN", "AGZy ZWQAc2VjcmV0")) == ["334", "501 5.5.2"]


def test_long_auth_line_with_a_tab() -> None:
    driver = ServerDriver(hooks={"auth"}, secure=True).begin()
    assert codes(driver.send_lines("AUTH\tPLAIN " + "A" * 8000)) == ["501 5.5.2"]
    assert codes(driver.send_lines("AUTH\tPLAIN " + "A" * 13000)) == ["500 5.5.6"]


# --- the line of a command, for logs ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("octets", "verb", "line"),
    [
        (b"mail  From:<a b>\t\r\n", "MAIL", b"mail  From:<a b>\t"),
        (b"MAIL FROM:<a\x00b@c>\r\n", "MAIL", b"MAIL FROM:<a\x00b@c>"),
        (b"MAIL FROM:<a\xffb@c>\r\n", "MAIL", b"MAIL FROM:<a\xffb@c>"),
        (b"MAIL FROM:<a@b>\nx\r\n", "MAIL", b"MAIL FROM:<a@b>"),
        (b"Rcpt TO:<a@b>\rx\r\n", "RCPT", b"Rcpt TO:<a@b>"),
        (b"RCPT TO:<" + b"x" * 3000 + b">\r\n", "RCPT", b"RCPT TO:<" + b"x" * 2039),
        (b"a\nRCPT TO:<a@b>\n", "RCPT", b"RCPT TO:<a@b>"),
        (b"x" * 3000 + b"\nb\r\n", "", b"x" * 2048),
        (b"MAILS FROM:<a@b>\n", "", b"MAILS FROM:<a@b>"),
        (b"X y\r\n", "X", b"X y"),
        (b"\x16\x03\x01\x02", "", b"\x16\x03"),
    ],
)
def test_refused_line_and_its_verb(octets: bytes, verb: str, line: bytes) -> None:
    driver = ServerDriver()
    driver.feed(octets)
    assert (driver.refused[-1].verb, driver.protocol.line) == (verb, line)


def test_line_of_an_accepted_command() -> None:
    driver = ServerDriver()
    assert driver.protocol.line == b""
    for line in (b"ehlo  Client.test", b"NOOP", b"MAIL FROM:<a@b> SIZE=3", b"rcpt to:<a@b>\t"):
        driver.feed(line + b"\r\n")
        assert driver.protocol.line == line


@pytest.mark.parametrize("line", [b"MAIL a\n", b"rcpt TO:<a@b>\rx\r\n", b"MAIL " + b"x" * 13000 + b"\r\n"])
def test_line_of_an_exchange_has_no_verb(line: bytes) -> None:
    """It may be a password, which must not be logged like the path of a MAIL or RCPT."""
    driver = ServerDriver(hooks={"auth"}, secure=True).begin()
    assert codes(driver.send_lines("AUTH LOGIN")) == ["334"]
    driver.feed(line)
    assert (driver.refused[-1].verb, driver.refused[-1].reply.code) == ("", 500)


# --- a stream that is put in between in the middle of a session -----------------------------------------------------------


def test_octets_that_were_not_processed_are_received_again() -> None:
    protocol = ServerProtocol(NAME)
    protocol.receive_data(b"NOOP\r\nQUIT\r\nNO")
    protocol.next_event()  # the greeting
    protocol.send_reply(Reply(220, NAME, ""))
    assert protocol.next_event() == Noop()
    protocol.send_reply(Reply(250, "Ok"))
    assert protocol.receive_again() == b"QUIT\r\nNO"
    assert protocol.next_event() is NEED_DATA


def test_nothing_is_received_again_after_the_end_of_the_input() -> None:
    protocol = ServerProtocol(NAME)
    protocol.receive_data(b"NOOP\r\n")
    protocol.receive_data(b"")
    assert protocol.receive_again() is None
