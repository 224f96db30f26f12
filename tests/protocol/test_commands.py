"""The commands of RFC 5321 except DATA."""

from __future__ import annotations

import pytest

from smtp_trio.protocol import Ehlo, Expn, Hello, Helo, Limits, Mail, Quit, Rcpt, Reply, Vrfy
from smtp_trio.protocol.extensions import EnhancedStatusCodes, StartTls, standard

from .driver import HELLO, NAME, PHASES, RECIPIENT, SENDER, ServerDriver, codes, driver_in, replying

# --- EHLO and HELO --------------------------------------------------------------------------------------------------


def test_reply_to_helo_is_the_server_name() -> None:
    driver = ServerDriver()
    assert driver.send_lines("HELO client.test")[1] == f"250 {NAME}"
    assert driver.events[-1] == Helo("client.test")


def test_ehlo_lists_the_default_extensions() -> None:
    driver = ServerDriver(size=1000)
    assert driver.send_lines("EHLO client.test")[1].split("\n") == [
        f"250-{NAME}", "250-PIPELINING", "250-SIZE 1000", "250-8BITMIME", "250-SMTPUTF8", "250-ENHANCEDSTATUSCODES", "250-CHUNKING",
        "250-DSN", "250 HELP",
    ]  # fmt: skip
    assert driver.events[-1] == Ehlo("client.test")


def test_ehlo_lists_extensions_that_depend_on_hooks_and_tls() -> None:
    driver = ServerDriver(tls=True, hooks={"auth", "expn"}, extensions=standard(StartTls(required=True)))
    keywords = {line[4:] for line in driver.send_lines("EHLO client.test")[1].split("\n")[1:]}
    assert {"STARTTLS", "EXPN"} <= keywords
    assert not [keyword for keyword in keywords if "AUTH" in keyword]
    driver.send_lines("STARTTLS")
    keywords = {line[4:] for line in driver.send_lines("EHLO client.test")[0].split("\n")[1:]}
    assert {"AUTH PLAIN LOGIN", "EXPN"} <= keywords
    assert "STARTTLS" not in keywords


def test_ehlo_without_extensions() -> None:
    assert ServerDriver(extensions=()).send_lines("EHLO client.test") == [f"220 {NAME} ESMTP", f"250 {NAME}"]


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("line", ["EHLO", "HELO", "EHLO \t", "EHLO \u00fc"])
def test_ehlo_and_helo_without_a_valid_argument_change_nothing(phase: str, line: str) -> None:
    driver = driver_in(phase)
    before = driver.protocol.dialogue.phase, driver.protocol.state.hello, driver.protocol.state.mail
    assert codes(driver.send_lines(line)) == ["501"]
    assert (driver.protocol.dialogue.phase, driver.protocol.state.hello, driver.protocol.state.mail) == before


@pytest.mark.parametrize(
    "domain", ["bad_domain!", "[IPv6:::1]", "[1.2.3.4] extra words", "localhost", "a..b", "192.0.2.1"]
)
def test_ehlo_accepts_any_domain(domain: str) -> None:
    driver = ServerDriver()
    assert codes(driver.send_lines(f"EHLO {domain}")) == ["220", "250"]
    assert driver.events[-1] == Ehlo(domain.split()[0])


@pytest.mark.parametrize("line", ["EHLO client.test", "HELO client.test"])
def test_second_ehlo_or_helo_clears_the_transaction(line: str) -> None:
    driver = driver_in("RECIPIENT")
    assert codes(driver.send_lines(line, "DATA", RECIPIENT, SENDER)) == ["250", "503 5.5.1", "503 5.5.1", "250 2.1.0"]


def test_second_ehlo_keeps_tls_and_user() -> None:
    driver = ServerDriver(hooks={"auth"}, secure=True).begin("AUTH PLAIN AGEAc2VjcmV0", SENDER)
    driver.send_lines(HELLO)
    assert driver.protocol.state.secure
    assert driver.protocol.state.user == "a"


@pytest.mark.parametrize("reply", [Reply(550, "Not you"), Reply(504, "Not so"), Reply(451, "Not now")])
def test_refused_ehlo_changes_nothing(reply: Reply) -> None:
    driver = ServerDriver(answer=lambda command: reply if command == Ehlo("bad") else None).begin(SENDER)
    assert codes(driver.send_lines("EHLO bad", RECIPIENT, "DATA")) == [str(reply.code), "250 2.1.5", "354"]
    fresh = ServerDriver(answer=replying((Ehlo, reply), (Helo, reply)))
    assert codes(fresh.send_lines(HELLO, "HELO x", SENDER)) == ["220", str(reply.code), str(reply.code), "503 5.5.1"]


def test_refused_helo_does_not_replace_ehlo() -> None:
    driver = ServerDriver(answer=replying((Helo, Reply(550, "No HELO"))))
    driver.send_lines("EHLO one", "HELO two")
    assert driver.protocol.state.hello == Ehlo("one")
    assert driver.protocol.state.extended


# --- MAIL -----------------------------------------------------------------------------------------------------------


def test_mail_before_ehlo() -> None:
    assert codes(ServerDriver().send_lines(SENDER)) == ["220", "503 5.5.1"]


def test_null_sender() -> None:
    driver = ServerDriver().begin("MAIL FROM:<>", RECIPIENT)
    mail = driver.protocol.state.mail
    assert mail is not None
    assert mail.sender.is_null
    assert codes(driver.send_lines("DATA", ".")) == ["354", "250 2.0.0"]


@pytest.mark.parametrize("phase", ["SENDER", "RECIPIENT"])
def test_mail_during_a_transaction_is_refused(phase: str) -> None:
    driver = driver_in(phase)
    before = list(driver.protocol.state.rcpts)
    assert codes(driver.send_lines("MAIL FROM:<other@client.test>")) == ["503 5.5.1"]
    state = driver.protocol.state
    assert state.mail is not None
    assert state.mail.sender.raw == "me@client.test"
    assert state.rcpts == before
    assert codes(driver.send_lines(RECIPIENT, "DATA", ".")) == ["250 2.1.5", "354", "250 2.0.0"]


@pytest.mark.parametrize("user", ["no", "later"])
def test_refused_mail_begins_no_transaction(user: str) -> None:
    driver = driver_in("READY")
    code = {"no": "550 5.1.1", "later": "450 4.2.1"}[user]
    assert codes(driver.send_lines(f"MAIL FROM:<{user}@x>", RECIPIENT, SENDER, RECIPIENT)) == [
        code, "503 5.5.1", "250 2.1.0", "250 2.1.5",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "line", ["MAIL", "MAIL FROM", "MAIL FROM:", "MAIL TO:<a@b>", "MAIL <a@b>", "MAIL FROM<a@b>", "RCPT FROM:<a@b>"]
)
def test_mail_and_rcpt_syntax_errors(line: str) -> None:
    assert codes(driver_in("READY").send_lines(line)) == ["501 5.5.4"]


# --- RCPT -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["GREETED", "READY"])
def test_rcpt_before_mail(phase: str) -> None:
    assert codes(driver_in(phase).send_lines(RECIPIENT)) == ["503 5.5.1"]


def test_only_accepted_recipients_are_recorded() -> None:
    driver = driver_in("SENDER")
    lines = [f"RCPT TO:<{user}@mx.test>" for user in ("a", "no", "b", "later")]
    assert codes(driver.send_lines(*lines)) == ["250 2.1.5", "550 5.1.1", "250 2.1.5", "450 4.2.1"]
    assert [rcpt.recipient.local for rcpt in driver.protocol.state.rcpts] == ["a", "b"]
    assert driver.protocol.state.rejected_rcpts == 2
    assert codes(driver.send_lines("DATA", ".")) == ["354", "250 2.0.0"]


@pytest.mark.parametrize("limit", [100, 1000])
def test_recipients_beyond_the_limit_get_452(limit: int) -> None:
    driver = ServerDriver(limits=Limits(recipients=limit)).begin(SENDER)
    lines = [f"RCPT TO:<u{n}@mx.test>" for n in range(limit + 30)]
    assert codes(driver.send_lines(*lines)) == ["250 2.1.5"] * limit + ["452 4.5.3"] * 30
    assert len(driver.protocol.state.rcpts) == limit
    assert codes(driver.send_lines("DATA", ".")) == ["354", "250 2.0.0"]


@pytest.mark.parametrize("mailbox", ["x" * 500, "user", "ü" * 200], ids=["long", "short", "UTF-8"])
@pytest.mark.parametrize("limit", [51200, 60000])
def test_octets_of_an_envelope_beyond_the_limit_get_452(mailbox: str, limit: int) -> None:
    driver = ServerDriver(limits=Limits(envelope=limit, recipients=100000)).begin("MAIL FROM:<a@b.test> SMTPUTF8")
    octets = len("MAIL FROM:<a@b.test> SMTPUTF8") + len("RCPT TO:<000000@mx.test>") + len(mailbox.encode())
    accepted = 1
    while octets + len(f"RCPT TO:<{accepted:06}{mailbox}@mx.test>".encode()) <= limit:
        octets += len(f"RCPT TO:<{accepted:06}{mailbox}@mx.test>".encode())
        accepted += 1
    lines = [f"RCPT TO:<{n:06}{mailbox}@mx.test>" for n in range(accepted + 2)]
    assert codes(driver.send_lines(*lines)) == ["250 2.1.5"] * accepted + ["452 4.5.3"] * 2
    assert driver.protocol.state.envelope == octets
    assert codes(driver.send_lines("DATA", ".")) == ["354", "250 2.0.0"]
    assert driver.protocol.state.envelope == 0
    assert codes(driver.send_lines("MAIL FROM:<> SMTPUTF8", lines[-1], "RSET")) == [
        "250 2.1.0",
        "250 2.1.5",
        "250 2.0.0",
    ]
    assert driver.protocol.state.envelope == 0


def test_first_recipient_is_not_too_many_octets() -> None:
    limits = Limits(envelope=51200, line=80000)
    driver = ServerDriver(limits=limits).begin(f"MAIL FROM:<{'x' * 40000}@b.test>")
    line = f"RCPT TO:<{'x' * 40000}@mx.test>"
    assert codes(driver.send_lines(line, line)) == ["250 2.1.5", "452 4.5.3"]


def test_refused_recipients_are_not_counted() -> None:
    driver = ServerDriver(limits=Limits(envelope=51200)).begin(SENDER)
    before = driver.protocol.state.envelope
    assert before == len(SENDER)
    assert codes(driver.send_lines("RCPT TO:<>", "RCPT TO:<a@b.test> X=1")) == ["501 5.1.3", "555 5.5.4"]
    assert driver.protocol.state.envelope == before


def test_recipients_limit_is_at_least_100() -> None:
    with pytest.raises(ValueError, match="must be >= 100, got 99"):
        Limits(recipients=99)


def test_same_recipient_twice() -> None:
    driver = driver_in("RECIPIENT")
    assert codes(driver.send_lines(RECIPIENT)) == ["250 2.1.5"]
    assert len(driver.protocol.state.rcpts) == 2


def test_251_accepts_and_551_refuses_a_recipient() -> None:
    forward, elsewhere = Reply(251, "Will forward to <a@x>"), Reply(551, "Please try <a@x>", "5.7.1")
    driver = driver_in("SENDER", replying((Rcpt, forward)))
    assert codes(driver.send_lines(RECIPIENT, "DATA")) == ["251 2.1.5", "354"]
    driver = driver_in("SENDER", replying((Rcpt, elsewhere)))
    assert codes(driver.send_lines(RECIPIENT, "DATA")) == ["551 5.7.1", "554 5.5.1"]


# --- RSET, VRFY, EXPN, HELP, NOOP, QUIT -----------------------------------------------------------------------------


@pytest.mark.parametrize("phase", PHASES)
def test_rset_in_every_phase(phase: str) -> None:
    driver = driver_in(phase)
    hello = driver.protocol.state.hello
    assert codes(driver.send_lines("RSET")) == ["250 2.0.0"]
    assert driver.protocol.state.hello is hello
    assert driver.protocol.state.mail is None
    assert codes(driver.send_lines("DATA", RECIPIENT, SENDER)) == ["503 5.5.1"] * 2 + [
        "250 2.1.0" if hello else "503 5.5.1"
    ]


def test_rset_keeps_tls_and_user() -> None:
    driver = ServerDriver(hooks={"auth"}, secure=True).begin("AUTH PLAIN AGEAc2VjcmV0", SENDER, "RSET")
    assert (driver.protocol.state.secure, driver.protocol.state.user) == (True, "a")


@pytest.mark.parametrize("phase", PHASES)
def test_vrfy_in_every_phase(phase: str) -> None:
    assert codes(driver_in(phase).send_lines("VRFY a", "VRFY <a@b>", "VRFY Fred Foo")) == ["252 2.5.0"] * 3


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (Reply(250, "<a@mx.test>", "2.1.5"), "250 2.1.5"), (Reply(251, "<a@x>"), "251 2.1.5"), (Reply(252, "Perhaps"), "252 2.5.0"),
        (Reply(550, "No", "5.1.1"), "550 5.1.1"), (Reply(553, "Which?\n<a@b>\n<a@c>", "5.1.4"), "553 5.1.4"),
    ],
)  # fmt: skip
def test_replies_to_vrfy(reply: Reply, expected: str) -> None:
    assert codes(driver_in("READY", replying((Vrfy, reply))).send_lines("VRFY a")) == [expected]


def test_vrfy_without_an_argument() -> None:
    assert codes(driver_in("READY").send_lines("VRFY", "VRFY  ")) == ["501 5.5.4"] * 2


def test_expn_with_a_hook() -> None:
    members = Reply(250, "<a@mx.test>\n<b@mx.test>", "2.1.5")
    driver = ServerDriver(hooks={"expn"}, answer=replying((Expn, members)))
    assert "250-EXPN" in driver.send_lines(HELLO)[1].split("\n")
    assert driver.send_lines("EXPN list") == ["250-2.1.5 <a@mx.test>\n250 2.1.5 <b@mx.test>"]
    assert codes(driver.send_lines("EXPN")) == ["501 5.5.4"]


def test_expn_without_a_hook() -> None:
    driver = ServerDriver(hooks={"vrfy"})
    assert "EXPN" not in driver.send_lines(HELLO)[1]
    assert codes(driver.send_lines("EXPN list", "EXPN")) == ["502 5.5.1"] * 2
    # Without the extension the verb is recognized too (RFC 5321 4.2.4).
    assert codes(ServerDriver(extensions=()).send_lines("EXPN list")) == ["220", "502"]


@pytest.mark.parametrize("phase", PHASES)
def test_help_topics(phase: str) -> None:
    driver = driver_in(phase)
    general, mail, unknown, other = driver.send_lines("HELP", "help mail", "HELP XYZ", "HELP \u00fc")
    assert codes([general, mail, unknown, other]) == ["214 2.0.0", "214 2.0.0", "504 5.5.4", "504 5.5.4"]
    assert " NOOP " in general
    assert "MAIL FROM:<reverse-path>" in mail


def test_help_shows_the_syntax_of_every_verb() -> None:
    driver = ServerDriver(tls=True, hooks={"auth"})
    for verb, command in driver.protocol.grammar.verbs.items():
        assert command.usage.split()[0] == verb
        assert driver.send_lines(f"HELP {verb}")[-1] == f"214 2.0.0 Syntax: {command.usage}"


@pytest.mark.parametrize("phase", PHASES)
def test_noop_changes_nothing(phase: str) -> None:
    driver = driver_in(phase)
    before = driver.protocol.dialogue.phase
    assert codes(driver.send_lines("NOOP")) == ["250 2.0.0"]
    assert driver.protocol.dialogue.phase is before


@pytest.mark.parametrize("phase", PHASES)
def test_quit_in_every_phase(phase: str) -> None:
    driver = driver_in(phase)
    assert codes(driver.send_lines("QUIT")) == ["221 2.0.0"]
    assert driver.protocol.closed
    assert driver.messages == []


def test_commands_after_quit_are_ignored() -> None:
    driver = driver_in("RECIPIENT")
    assert codes(driver.send_lines("QUIT", "DATA", "NOOP")) == ["221 2.0.0"]
    assert driver.events[-1] == Quit()
    # Even if the application calls next_event again.
    driver.closed = False
    assert codes(driver.send_lines("RSET", SENDER)) == []


def test_no_enhanced_status_codes_without_the_extension() -> None:
    driver = ServerDriver(extensions=standard(without=(EnhancedStatusCodes,)))
    replies = driver.send_lines(
        HELLO, SENDER, "RCPT TO:<no@x>", RECIPIENT, "NOOP", "VRFY a", "FOO", "HELP", "MAIL", "DATA", "x", ".", "QUIT"
    )
    assert "ENHANCEDSTATUSCODES" not in replies[1]
    assert codes(replies) == ["220", "250", "250", "550", "250", "250", "252", "500", "214", "501", "354", "250", "221"]


def test_text_of_a_hooks_reply_is_sent() -> None:
    driver = ServerDriver(answer=replying((Mail, Reply(250, "Fine", "2.1.0")))).begin()
    assert driver.send_lines(SENDER) == ["250 2.1.0 Fine"]
    assert isinstance(driver.events[1], Hello)
