"""The commands of RFC 5321 except DATA."""

from __future__ import annotations

import pytest

from smtp_trio.protocol import Ehlo, Expn, Hello, Helo, Limits, Mail, Quit, Rcpt, Reply, Vrfy
from smtp_trio.protocol.extensions import EnhancedStatusCodes, StartTls, standard

from .talk import HELLO, NAME, PHASES, RECIPIENT, SENDER, Talk, answering, at, codes

# --- EHLO and HELO --------------------------------------------------------------------------------------------------


def test_reply_to_helo_is_the_server_name() -> None:
    talk = Talk()
    assert talk.say("HELO client.test")[1] == f"250 {NAME}"
    assert talk.story[-1] == Helo("client.test")


def test_ehlo_lists_the_default_extensions() -> None:
    talk = Talk(size=1000)
    assert talk.say("EHLO client.test")[1].split("\n") == [
        f"250-{NAME}", "250-PIPELINING", "250-SIZE 1000", "250-8BITMIME", "250-SMTPUTF8", "250-ENHANCEDSTATUSCODES", "250-CHUNKING",
        "250 HELP",
    ]  # fmt: skip
    assert talk.story[-1] == Ehlo("client.test")


def test_ehlo_lists_extensions_that_depend_on_hooks_and_tls() -> None:
    talk = Talk(tls=True, hooks={"auth", "expn"}, extensions=standard(StartTls(required=True)))
    keywords = {line[4:] for line in talk.say("EHLO client.test")[1].split("\n")[1:]}
    assert {"STARTTLS", "EXPN"} <= keywords
    assert not [keyword for keyword in keywords if "AUTH" in keyword]
    talk.say("STARTTLS")
    keywords = {line[4:] for line in talk.say("EHLO client.test")[0].split("\n")[1:]}
    assert {"AUTH PLAIN LOGIN", "EXPN"} <= keywords
    assert "STARTTLS" not in keywords


def test_ehlo_without_extensions() -> None:
    assert Talk(extensions=()).say("EHLO client.test") == [f"220 {NAME} ESMTP", f"250 {NAME}"]


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("line", ["EHLO", "HELO", "EHLO \t", "EHLO \u00fc"])
def test_ehlo_and_helo_without_a_valid_argument_change_nothing(phase: str, line: str) -> None:
    talk = at(phase)
    before = talk.protocol.dialogue.phase, talk.protocol.state.hello, talk.protocol.state.mail
    assert codes(talk.say(line)) == ["501"]
    assert (talk.protocol.dialogue.phase, talk.protocol.state.hello, talk.protocol.state.mail) == before


@pytest.mark.parametrize(
    "domain", ["bad_domain!", "[IPv6:::1]", "[1.2.3.4] extra words", "localhost", "a..b", "192.0.2.1"]
)
def test_ehlo_accepts_any_domain(domain: str) -> None:
    talk = Talk()
    assert codes(talk.say(f"EHLO {domain}")) == ["220", "250"]
    assert talk.story[-1] == Ehlo(domain.split()[0])


@pytest.mark.parametrize("line", ["EHLO client.test", "HELO client.test"])
def test_second_ehlo_or_helo_clears_the_transaction(line: str) -> None:
    talk = at("R")
    assert codes(talk.say(line, "DATA", RECIPIENT, SENDER)) == ["250", "503 5.5.1", "503 5.5.1", "250 2.1.0"]


def test_second_ehlo_keeps_tls_and_user() -> None:
    talk = Talk(hooks={"auth"}, secure=True).begin("AUTH PLAIN AGEAc2VjcmV0", SENDER)
    talk.say(HELLO)
    assert talk.protocol.state.secure
    assert talk.protocol.state.user == "a"


@pytest.mark.parametrize("reply", [Reply(550, "Not you"), Reply(504, "Not so"), Reply(451, "Not now")])
def test_refused_ehlo_changes_nothing(reply: Reply) -> None:
    talk = Talk(answer=lambda command: reply if command == Ehlo("bad") else None).begin(SENDER)
    assert codes(talk.say("EHLO bad", RECIPIENT, "DATA")) == [str(reply.code), "250 2.1.5", "354"]
    fresh = Talk(answer=answering((Ehlo, reply), (Helo, reply)))
    assert codes(fresh.say(HELLO, "HELO x", SENDER)) == ["220", str(reply.code), str(reply.code), "503 5.5.1"]


def test_refused_helo_does_not_replace_ehlo() -> None:
    talk = Talk(answer=answering((Helo, Reply(550, "No HELO"))))
    talk.say("EHLO one", "HELO two")
    assert talk.protocol.state.hello == Ehlo("one")
    assert talk.protocol.state.extended


# --- MAIL -----------------------------------------------------------------------------------------------------------


def test_mail_before_ehlo() -> None:
    assert codes(Talk().say(SENDER)) == ["220", "503 5.5.1"]


def test_null_sender() -> None:
    talk = Talk().begin("MAIL FROM:<>", RECIPIENT)
    mail = talk.protocol.state.mail
    assert mail is not None
    assert mail.sender.is_null
    assert codes(talk.say("DATA", ".")) == ["354", "250 2.0.0"]


@pytest.mark.parametrize("phase", ["M", "R"])
def test_mail_during_a_transaction_is_refused(phase: str) -> None:
    talk = at(phase)
    before = list(talk.protocol.state.rcpts)
    assert codes(talk.say("MAIL FROM:<other@client.test>")) == ["503 5.5.1"]
    state = talk.protocol.state
    assert state.mail is not None
    assert state.mail.sender.raw == "me@client.test"
    assert state.rcpts == before
    assert codes(talk.say(RECIPIENT, "DATA", ".")) == ["250 2.1.5", "354", "250 2.0.0"]


@pytest.mark.parametrize("user", ["no", "later"])
def test_refused_mail_begins_no_transaction(user: str) -> None:
    talk = at("E")
    code = {"no": "550 5.1.1", "later": "450 4.2.1"}[user]
    assert codes(talk.say(f"MAIL FROM:<{user}@x>", RECIPIENT, SENDER, RECIPIENT)) == [
        code, "503 5.5.1", "250 2.1.0", "250 2.1.5",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "line", ["MAIL", "MAIL FROM", "MAIL FROM:", "MAIL TO:<a@b>", "MAIL <a@b>", "MAIL FROM<a@b>", "RCPT FROM:<a@b>"]
)
def test_mail_and_rcpt_syntax_errors(line: str) -> None:
    assert codes(at("E").say(line)) == ["501 5.5.4"]


# --- RCPT -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["G", "E"])
def test_rcpt_before_mail(phase: str) -> None:
    assert codes(at(phase).say(RECIPIENT)) == ["503 5.5.1"]


def test_only_accepted_recipients_are_recorded() -> None:
    talk = at("M")
    lines = [f"RCPT TO:<{user}@mx.test>" for user in ("a", "no", "b", "later")]
    assert codes(talk.say(*lines)) == ["250 2.1.5", "550 5.1.1", "250 2.1.5", "450 4.2.1"]
    assert [rcpt.recipient.local for rcpt in talk.protocol.state.rcpts] == ["a", "b"]
    assert talk.protocol.state.rejected_rcpts == 2
    assert codes(talk.say("DATA", ".")) == ["354", "250 2.0.0"]


@pytest.mark.parametrize("limit", [100, 1000])
def test_recipients_beyond_the_limit_get_452(limit: int) -> None:
    talk = Talk(limits=Limits(recipients=limit)).begin(SENDER)
    lines = [f"RCPT TO:<u{n}@mx.test>" for n in range(limit + 30)]
    assert codes(talk.say(*lines)) == ["250 2.1.5"] * limit + ["452 4.5.3"] * 30
    assert len(talk.protocol.state.rcpts) == limit
    assert codes(talk.say("DATA", ".")) == ["354", "250 2.0.0"]


def test_recipients_limit_is_at_least_100() -> None:
    with pytest.raises(ValueError, match="must be >= 100, got 99"):
        Limits(recipients=99)


def test_same_recipient_twice() -> None:
    talk = at("R")
    assert codes(talk.say(RECIPIENT)) == ["250 2.1.5"]
    assert len(talk.protocol.state.rcpts) == 2


def test_251_accepts_and_551_refuses_a_recipient() -> None:
    forward, elsewhere = Reply(251, "Will forward to <a@x>"), Reply(551, "Please try <a@x>", "5.7.1")
    talk = at("M", answering((Rcpt, forward)))
    assert codes(talk.say(RECIPIENT, "DATA")) == ["251 2.1.5", "354"]
    talk = at("M", answering((Rcpt, elsewhere)))
    assert codes(talk.say(RECIPIENT, "DATA")) == ["551 5.7.1", "554 5.5.1"]


# --- RSET, VRFY, EXPN, HELP, NOOP, QUIT -----------------------------------------------------------------------------


@pytest.mark.parametrize("phase", PHASES)
def test_rset_in_every_phase(phase: str) -> None:
    talk = at(phase)
    hello = talk.protocol.state.hello
    assert codes(talk.say("RSET")) == ["250 2.0.0"]
    assert talk.protocol.state.hello is hello
    assert talk.protocol.state.mail is None
    assert codes(talk.say("DATA", RECIPIENT, SENDER)) == ["503 5.5.1"] * 2 + ["250 2.1.0" if hello else "503 5.5.1"]


def test_rset_keeps_tls_and_user() -> None:
    talk = Talk(hooks={"auth"}, secure=True).begin("AUTH PLAIN AGEAc2VjcmV0", SENDER, "RSET")
    assert (talk.protocol.state.secure, talk.protocol.state.user) == (True, "a")


@pytest.mark.parametrize("phase", PHASES)
def test_vrfy_in_every_phase(phase: str) -> None:
    assert codes(at(phase).say("VRFY a", "VRFY <a@b>", "VRFY Fred Foo")) == ["252 2.5.0"] * 3


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (Reply(250, "<a@mx.test>", "2.1.5"), "250 2.1.5"), (Reply(251, "<a@x>"), "251 2.1.5"), (Reply(252, "Perhaps"), "252 2.5.0"),
        (Reply(550, "No", "5.1.1"), "550 5.1.1"), (Reply(553, "Which?\n<a@b>\n<a@c>", "5.1.4"), "553 5.1.4"),
    ],
)  # fmt: skip
def test_replies_to_vrfy(reply: Reply, expected: str) -> None:
    assert codes(at("E", answering((Vrfy, reply))).say("VRFY a")) == [expected]


def test_vrfy_without_an_argument() -> None:
    assert codes(at("E").say("VRFY", "VRFY  ")) == ["501 5.5.4"] * 2


def test_expn_with_a_hook() -> None:
    members = Reply(250, "<a@mx.test>\n<b@mx.test>", "2.1.5")
    talk = Talk(hooks={"expn"}, answer=answering((Expn, members)))
    assert "250-EXPN" in talk.say(HELLO)[1].split("\n")
    assert talk.say("EXPN list") == ["250-2.1.5 <a@mx.test>\n250 2.1.5 <b@mx.test>"]
    assert codes(talk.say("EXPN")) == ["501 5.5.4"]


def test_expn_without_a_hook() -> None:
    talk = Talk(hooks={"vrfy"})
    assert "EXPN" not in talk.say(HELLO)[1]
    assert codes(talk.say("EXPN list", "EXPN")) == ["502 5.5.1"] * 2
    # Without the extension the verb is recognized too (RFC 5321 4.2.4).
    assert codes(Talk(extensions=()).say("EXPN list")) == ["220", "502"]


@pytest.mark.parametrize("phase", PHASES)
def test_help_topics(phase: str) -> None:
    talk = at(phase)
    general, mail, unknown, other = talk.say("HELP", "help mail", "HELP XYZ", "HELP \u00fc")
    assert codes([general, mail, unknown, other]) == ["214 2.0.0", "214 2.0.0", "504 5.5.4", "504 5.5.4"]
    assert "STARTTLS" in general
    assert "MAIL FROM:<reverse-path>" in mail


def test_help_shows_the_syntax_of_every_verb() -> None:
    talk = Talk(tls=True, hooks={"auth"})
    for verb, command in talk.protocol.grammar.verbs.items():
        assert command.usage.split()[0] == verb
        assert talk.say(f"HELP {verb}")[-1] == f"214 2.0.0 Syntax: {command.usage}"


@pytest.mark.parametrize("phase", PHASES)
def test_noop_changes_nothing(phase: str) -> None:
    talk = at(phase)
    before = talk.protocol.dialogue.phase
    assert codes(talk.say("NOOP")) == ["250 2.0.0"]
    assert talk.protocol.dialogue.phase is before


@pytest.mark.parametrize("phase", PHASES)
def test_quit_in_every_phase(phase: str) -> None:
    talk = at(phase)
    assert codes(talk.say("QUIT")) == ["221 2.0.0"]
    assert talk.protocol.closed
    assert talk.messages == []


def test_commands_after_quit_are_ignored() -> None:
    talk = at("R")
    assert codes(talk.say("QUIT", "DATA", "NOOP")) == ["221 2.0.0"]
    assert talk.story[-1] == Quit()
    # Even if the application calls next_event again.
    talk.over = False
    assert codes(talk.say("RSET", SENDER)) == []


def test_no_enhanced_status_codes_without_the_extension() -> None:
    talk = Talk(extensions=standard(without=(EnhancedStatusCodes,)))
    replies = talk.say(
        HELLO, SENDER, "RCPT TO:<no@x>", RECIPIENT, "NOOP", "VRFY a", "FOO", "HELP", "MAIL", "DATA", "x", ".", "QUIT"
    )
    assert "ENHANCEDSTATUSCODES" not in replies[1]
    assert codes(replies) == ["220", "250", "250", "550", "250", "250", "252", "500", "214", "501", "354", "250", "221"]


def test_text_of_a_hooks_reply_is_sent() -> None:
    talk = Talk(answer=answering((Mail, Reply(250, "Fine", "2.1.0")))).begin()
    assert talk.say(SENDER) == ["250 2.1.0 Fine"]
    assert isinstance(talk.story[1], Hello)
