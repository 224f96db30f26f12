"""The commands of RFC 5321, one after the other: items HEL, MAI, RCP, DAT, RST, VRF, EXP, HLP, NOP and QUI."""

from __future__ import annotations

import pytest

from smtp_trio.protocol import Command, Data, Ehlo, EndOfBody, Expn, Helo, Hello, Limits, Mail, Quit, Rcpt, Reply, Vrfy
from smtp_trio.protocol.extensions import EnhancedStatusCodes, StartTls, standard

from .talk import HELLO, NAME, RECIPIENT, SENDER, Answer, Talk, codes

#: What leads to each phase, by the letters of the list of items.
PHASES = {
    "G": [],
    "E": [HELLO],
    "M": [HELLO, SENDER],
    "R": [HELLO, SENDER, RECIPIENT],
}


def at(phase: str, answer: Answer | None = None) -> Talk:
    talk = Talk() if answer is None else Talk(answer=answer)
    talk.say(*PHASES[phase])
    return talk


def answering(*answers: tuple[type[Command], Reply]) -> Answer:
    return lambda command: dict(answers).get(type(command))


# --- HEL ------------------------------------------------------------------------------------------------------------


def test_HEL_1_helo_is_answered_by_the_name_alone() -> None:
    talk = Talk()
    assert talk.say("HELO client.test")[1] == f"250 {NAME}"
    assert talk.story[-1] == Helo("client.test")


def test_HEL_2_ehlo_shows_what_there_is_and_nothing_else() -> None:
    talk = Talk(size=1000)
    assert talk.say("EHLO client.test")[1].split("\n") == [
        f"250-{NAME}", "250-PIPELINING", "250-SIZE 1000", "250-8BITMIME", "250-SMTPUTF8", "250-ENHANCEDSTATUSCODES", "250-CHUNKING",
        "250 HELP",
    ]  # fmt: skip
    assert talk.story[-1] == Ehlo("client.test")


def test_HEL_2_everything() -> None:
    talk = Talk(tls=True, logins=True, verifies=["EXPN"], extensions=standard(StartTls(required=True)))
    keywords = {line[4:] for line in talk.say("EHLO client.test")[1].split("\n")[1:]}
    assert {"STARTTLS", "EXPN"} <= keywords
    assert not [keyword for keyword in keywords if "AUTH" in keyword]
    talk.say("STARTTLS")
    keywords = {line[4:] for line in talk.say("EHLO client.test")[0].split("\n")[1:]}
    assert {"AUTH PLAIN LOGIN", "EXPN"} <= keywords
    assert "STARTTLS" not in keywords


def test_HEL_2_nothing() -> None:
    assert Talk(extensions=()).say("EHLO client.test") == [f"220 {NAME} ESMTP", f"250 {NAME}"]


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("line", ["EHLO", "HELO", "EHLO \t", "EHLO \u00fc"])
def test_HEL_3_without_an_argument(phase: str, line: str) -> None:
    talk = at(phase)
    before = talk.protocol.dialogue.phase, talk.protocol.facts.hello, talk.protocol.facts.mail
    assert codes(talk.say(line)) == ["501"]
    assert (talk.protocol.dialogue.phase, talk.protocol.facts.hello, talk.protocol.facts.mail) == before


@pytest.mark.parametrize("domain", ["bad_domain!", "[IPv6:::1]", "[1.2.3.4] extra words", "localhost", "a..b", "192.0.2.1"])
def test_HEL_4_any_name_is_taken(domain: str) -> None:
    talk = Talk()
    assert codes(talk.say(f"EHLO {domain}")) == ["220", "250"]
    assert talk.story[-1] == Ehlo(domain.split()[0])


@pytest.mark.parametrize("line", ["EHLO client.test", "HELO client.test"])
def test_HEL_5_again_clears_the_transaction(line: str) -> None:
    talk = at("R")
    assert codes(talk.say(line, "DATA", RECIPIENT, SENDER)) == ["250", "503 5.5.1", "503 5.5.1", "250 2.1.0"]


def test_HEL_5_keeps_tls_and_login() -> None:
    talk = Talk(logins=True, secure=True).begin("AUTH PLAIN AGEAc2VjcmV0", SENDER)
    talk.say(HELLO)
    assert talk.protocol.facts.secure
    assert talk.protocol.facts.user == "a"


@pytest.mark.parametrize("reply", [Reply(550, "Not you"), Reply(504, "Not so"), Reply(451, "Not now")])
def test_HEL_6_refused_changes_nothing(reply: Reply) -> None:
    talk = Talk(answer=lambda command: reply if command == Ehlo("bad") else None).begin(SENDER)
    assert codes(talk.say("EHLO bad", RECIPIENT, "DATA")) == [str(reply.code), "250 2.1.5", "354"]
    fresh = Talk(answer=answering((Ehlo, reply), (Helo, reply)))
    assert codes(fresh.say(HELLO, "HELO x", SENDER)) == ["220", str(reply.code), str(reply.code), "503 5.5.1"]


def test_HEL_the_hello_that_was_refused_is_not_kept() -> None:
    talk = Talk(answer=answering((Helo, Reply(550, "No HELO"))))
    talk.say("EHLO one", "HELO two")
    assert talk.protocol.facts.hello == Ehlo("one")
    assert talk.protocol.facts.extended


# --- MAI ------------------------------------------------------------------------------------------------------------


def test_MAI_1_before_ehlo() -> None:
    assert codes(Talk().say(SENDER)) == ["220", "503 5.5.1"]


def test_MAI_2_null_sender() -> None:
    talk = Talk().begin("MAIL FROM:<>", RECIPIENT)
    mail = talk.protocol.facts.mail
    assert mail is not None
    assert mail.sender.is_null
    assert codes(talk.say("DATA", ".")) == ["354", "250 2.0.0"]


@pytest.mark.parametrize("phase", ["M", "R"])
def test_MAI_3_nested(phase: str) -> None:
    talk = at(phase)
    before = list(talk.protocol.facts.rcpts)
    assert codes(talk.say("MAIL FROM:<other@client.test>")) == ["503 5.5.1"]
    facts = talk.protocol.facts
    assert facts.mail is not None
    assert facts.mail.sender.raw == "me@client.test"
    assert facts.rcpts == before
    assert codes(talk.say(RECIPIENT, "DATA", ".")) == ["250 2.1.5", "354", "250 2.0.0"]


@pytest.mark.parametrize("user", ["no", "later"])
def test_MAI_4_refused(user: str) -> None:
    talk = at("E")
    code = {"no": "550 5.1.1", "later": "450 4.2.1"}[user]
    assert codes(talk.say(f"MAIL FROM:<{user}@x>", RECIPIENT, SENDER, RECIPIENT)) == [
        code, "503 5.5.1", "250 2.1.0", "250 2.1.5",
    ]  # fmt: skip


@pytest.mark.parametrize("line", ["MAIL", "MAIL FROM", "MAIL FROM:", "MAIL TO:<a@b>", "MAIL <a@b>", "MAIL FROM<a@b>", "RCPT FROM:<a@b>"])
def test_MAI_5_syntax(line: str) -> None:
    assert codes(at("E").say(line)) == ["501 5.5.4"]


# --- RCP ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["G", "E"])
def test_RCP_1_without_a_sender(phase: str) -> None:
    assert codes(at(phase).say(RECIPIENT)) == ["503 5.5.1"]


def test_RCP_2_some_are_refused() -> None:
    talk = at("M")
    lines = [f"RCPT TO:<{user}@mx.test>" for user in ("a", "no", "b", "later")]
    assert codes(talk.say(*lines)) == ["250 2.1.5", "550 5.1.1", "250 2.1.5", "450 4.2.1"]
    assert [rcpt.recipient.local for rcpt in talk.protocol.facts.rcpts] == ["a", "b"]
    assert talk.protocol.facts.turned_down == 2
    assert codes(talk.say("DATA", ".")) == ["354", "250 2.0.0"]


@pytest.mark.parametrize("limit", [100, 1000])
def test_RCP_3_too_many(limit: int) -> None:
    talk = Talk(limits=Limits(recipients=limit)).begin(SENDER)
    lines = [f"RCPT TO:<u{n}@mx.test>" for n in range(limit + 30)]
    assert codes(talk.say(*lines)) == ["250 2.1.5"] * limit + ["452 4.5.3"] * 30
    assert len(talk.protocol.facts.rcpts) == limit
    assert codes(talk.say("DATA", ".")) == ["354", "250 2.0.0"]


def test_RCP_3_a_hundred_is_the_least() -> None:
    with pytest.raises(ValueError, match="100 or more"):
        Limits(recipients=99)


def test_RCP_4_twice_the_same() -> None:
    talk = at("R")
    assert codes(talk.say(RECIPIENT)) == ["250 2.1.5"]
    assert len(talk.protocol.facts.rcpts) == 2


def test_RCP_5_elsewhere() -> None:
    forward, elsewhere = Reply(251, "Will forward to <a@x>"), Reply(551, "Please try <a@x>", "5.7.1")
    talk = at("M", answering((Rcpt, forward)))
    assert codes(talk.say(RECIPIENT, "DATA")) == ["251 2.1.5", "354"]
    talk = at("M", answering((Rcpt, elsewhere)))
    assert codes(talk.say(RECIPIENT, "DATA")) == ["551 5.7.1", "554 5.5.1"]


# --- DAT ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["G", "E", "M"])
def test_DAT_1_without_recipients(phase: str) -> None:
    assert codes(at(phase).say("DATA")) == ["503 5.5.1"]


def test_DAT_1_every_recipient_refused() -> None:
    talk = at("M")
    assert codes(talk.say("RCPT TO:<no@mx.test>", "DATA")) == ["550 5.1.1", "554 5.5.1"]
    # The transaction is still there, and a recipient makes it good.
    assert codes(talk.say(RECIPIENT, "DATA")) == ["250 2.1.5", "354"]


def test_DAT_1_a_malformed_recipient_is_a_refused_one() -> None:
    assert codes(at("M").say("RCPT TO:<@>", "DATA")) == ["501 5.1.3", "554 5.5.1"]


def test_DAT_1_a_recipient_that_was_out_of_order_is_none() -> None:
    talk = at("E")
    assert codes(talk.say(RECIPIENT, SENDER, "DATA")) == ["503 5.5.1", "250 2.1.0", "503 5.5.1"]
    talk = at("M")
    assert codes(talk.say("RCPT TO:<no@x>", "RSET", SENDER, "DATA"))[-1] == "503 5.5.1"


def test_DAT_2_go_ahead() -> None:
    assert at("R").say("DATA") == ["354 End data with <CR><LF>.<CR><LF>"]


def test_DAT_3_the_buffers_are_cleared() -> None:
    talk = at("R")
    assert codes(talk.say("DATA", "hello", ".", "DATA", RECIPIENT, SENDER)) == [
        "354", "250 2.0.0", "503 5.5.1", "503 5.5.1", "250 2.1.0",
    ]  # fmt: skip
    assert talk.messages == [b"hello\r\n"]
    assert talk.protocol.facts.rcpts == []


def test_DAT_3_the_words_are_the_programs() -> None:
    talk = at("R", answering((EndOfBody, Reply(250, "Ok: queued as x-1"))))
    assert talk.say("DATA", ".")[1] == "250 2.0.0 Ok: queued as x-1"


@pytest.mark.parametrize("reply", [Reply(451, "Later", "4.3.0"), Reply(554, "Never", "5.6.0"), Reply(452, "Full")])
def test_DAT_3_refused_at_its_end(reply: Reply) -> None:
    talk = at("R", answering((EndOfBody, reply)))
    assert codes(talk.say("DATA", "x", ".", "DATA", SENDER, RECIPIENT, "DATA"))[1:] == [
        f"{reply.code} {reply.encode().split()[1].decode()}", "503 5.5.1", "250 2.1.0", "250 2.1.5", "354",
    ]  # fmt: skip
    assert talk.messages == []


def test_DAT_3_refused_instead_of_354() -> None:
    talk = at("R", answering((Data, Reply(451, "Later", "4.3.0"))))
    assert codes(talk.say("DATA", "DATA", SENDER)) == ["451 4.3.0", "503 5.5.1", "250 2.1.0"]


def test_DAT_4_empty_message() -> None:
    talk = at("R")
    assert codes(talk.say("DATA", ".")) == ["354", "250 2.0.0"]
    assert talk.messages == [b""]


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        (b"..\r\n", b".\r\n"), (b"..x\r\n", b".x\r\n"), (b".x\r\n", b"x\r\n"), (b"...\r\n", b"..\r\n"), (b"x.\r\n", b"x.\r\n"),
        (b"a\r\n..\r\n..\r\nb\r\n", b"a\r\n.\r\n.\r\nb\r\n"), (b"\r\n..\r\n\r\n", b"\r\n.\r\n\r\n"),
    ],
)  # fmt: skip
def test_DAT_5_dots(sent: bytes, kept: bytes) -> None:
    talk = at("R")
    talk.send(b"DATA\r\n" + sent + b".\r\n")
    assert talk.messages == [kept]


def test_DAT_6_a_dot_behind_something_ends_nothing() -> None:
    talk = at("R")
    assert codes(talk.send(b"DATA\r\nx.\r\n")) == ["354"]
    assert codes(talk.send(b".\r\n")) == ["250 2.0.0"]
    assert talk.messages == [b"x.\r\n"]


def test_DAT_7_every_octet() -> None:
    octets = bytes(set(range(256)) - set(b"\r\n")) * 3 + b"\r\n"
    talk = Talk().begin("MAIL FROM:<a@b> BODY=8BITMIME", RECIPIENT)
    talk.send(b"DATA\r\n" + octets + b".\r\n")
    assert talk.messages == [octets]


@pytest.mark.parametrize("length", [998, 999, 1000, 1_000_000])
def test_DAT_8_long_text_lines_are_kept_whole(length: int) -> None:
    line = b"." + b"x" * (length - 1) + b"\r\n"
    talk = at("R")
    assert codes(talk.send(b"DATA\r\n." + line + b".\r\n")) == ["354", "250 2.0.0"]
    assert talk.messages == [line]


def test_DAT_9_too_big() -> None:
    talk = Talk(size=100).begin(SENDER, RECIPIENT)
    assert codes(talk.send(b"DATA\r\n" + b"x" * 200)) == ["354"]
    assert codes(talk.send(b"\r\nQUIT\r\n.\r\nNOOP\r\n")) == ["552 5.3.4", "250 2.0.0"]
    assert talk.messages == []
    assert codes(talk.say("DATA", SENDER, RECIPIENT, "DATA", "x", ".")) == [
        "503 5.5.1", "250 2.1.0", "250 2.1.5", "354", "250 2.0.0",
    ]  # fmt: skip


def test_DAT_9_far_too_big_ends_the_session() -> None:
    for body in (b"x" * 1001, b"x" * 1001 + b"\r\n.\r\nNOOP\r\n", b"x" * 5000):
        for cut in (0, 50, 101, 500, 1000, 1001, 1003):
            talk = Talk(size=100).begin(SENDER, RECIPIENT, "NOOP")
            talk.say("DATA")
            begun = len(talk.output)
            talk.split(body, [cut])
            assert talk.output[begun:].startswith(f"421 4.3.2 {NAME} ".encode())
            assert talk.over
    assert not Talk(size=0).begin(SENDER, RECIPIENT).split(b"DATA\r\n" + b"x" * 5000, [100]).over


def test_DAT_9_what_is_dropped_has_the_same_bounds() -> None:
    talk = Talk(size=100).begin(SENDER, RECIPIENT)
    talk.say("DATA")
    talk.protocol.discard()
    assert talk.send(b"x" * 1000) == []
    assert talk.story[-1] == Data()
    assert codes(talk.send(b"x")) == ["421 4.3.2"]


def test_DAT_12_loop() -> None:
    field = b"Received: from x by y; Thu, 1 Jan 1970 00:00:00 +0000\r\n"
    talk = Talk().begin(SENDER, RECIPIENT)
    assert codes(talk.send(b"DATA\r\n" + field * 100 + b"\r\n" + field * 50 + b".\r\n")) == ["354", "250 2.0.0"]
    talk.say(SENDER, RECIPIENT)
    assert codes(talk.send(b"DATA\r\n" + field * 101 + b"\r\nhello\r\n.\r\n")) == ["354", "554 5.4.6"]


def test_DAT_13_the_header_is_nobodys_business() -> None:
    talk = Talk()
    for body in (b"From: a\r\nFrom: b\r\n\r\nx\r\n", b"no header\r\n", b": \r\n\r\n"):
        talk.say(HELLO, SENDER, RECIPIENT)
        assert codes(talk.send(b"DATA\r\n" + body + b".\r\n")) == ["354", "250 2.0.0"]
        assert talk.messages[-1] == body


# --- RST, VRF, EXP, HLP, NOP, QUI -----------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", PHASES)
def test_RST_1_in_every_phase(phase: str) -> None:
    talk = at(phase)
    hello = talk.protocol.facts.hello
    assert codes(talk.say("RSET")) == ["250 2.0.0"]
    assert talk.protocol.facts.hello is hello
    assert talk.protocol.facts.mail is None
    assert codes(talk.say("DATA", RECIPIENT, SENDER)) == ["503 5.5.1"] * 2 + ["250 2.1.0" if hello else "503 5.5.1"]


def test_RST_1_keeps_tls_and_login() -> None:
    talk = Talk(logins=True, secure=True).begin("AUTH PLAIN AGEAc2VjcmV0", SENDER, "RSET")
    assert (talk.protocol.facts.secure, talk.protocol.facts.user) == (True, "a")


@pytest.mark.parametrize("phase", PHASES)
def test_VRF_1_always_in_order(phase: str) -> None:
    assert codes(at(phase).say("VRFY a", "VRFY <a@b>", "VRFY Fred Foo")) == ["252 2.5.0"] * 3


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (Reply(250, "<a@mx.test>", "2.1.5"), "250 2.1.5"), (Reply(251, "<a@x>"), "251 2.1.5"), (Reply(252, "Perhaps"), "252 2.5.0"),
        (Reply(550, "No", "5.1.1"), "550 5.1.1"), (Reply(553, "Which?\n<a@b>\n<a@c>", "5.1.4"), "553 5.1.4"),
    ],
)  # fmt: skip
def test_VRF_1_answers(reply: Reply, expected: str) -> None:
    assert codes(at("E", answering((Vrfy, reply))).say("VRFY a")) == [expected]


def test_VRF_2_without_an_argument() -> None:
    assert codes(at("E").say("VRFY", "VRFY  ")) == ["501 5.5.4"] * 2


def test_EXP_1_with_somebody_to_answer_it() -> None:
    members = Reply(250, "<a@mx.test>\n<b@mx.test>", "2.1.5")
    talk = Talk(verifies={"EXPN"}, answer=answering((Expn, members)))
    assert "250-EXPN" in talk.say(HELLO)[1].split("\n")
    assert talk.say("EXPN list") == ["250-2.1.5 <a@mx.test>\n250 2.1.5 <b@mx.test>"]
    assert codes(talk.say("EXPN")) == ["501 5.5.4"]


def test_EXP_1_with_nobody() -> None:
    talk = Talk(verifies={"VRFY"})
    assert "EXPN" not in talk.say(HELLO)[1]
    assert codes(talk.say("EXPN list", "EXPN")) == ["502 5.5.1"] * 2
    # Without the extension the verb is known all the same.
    assert codes(Talk(extensions=()).say("EXPN list")) == ["220", "502"]


@pytest.mark.parametrize("phase", PHASES)
def test_HLP_1_topics(phase: str) -> None:
    talk = at(phase)
    general, mail, unknown, other = talk.say("HELP", "help mail", "HELP XYZ", "HELP \u00fc")
    assert codes([general, mail, unknown, other]) == ["214 2.0.0", "214 2.0.0", "504 5.5.4", "504 5.5.4"]
    assert "STARTTLS" in general
    assert "MAIL FROM:<reverse-path>" in mail


def test_HLP_1_every_verb_says_how_it_is_written() -> None:
    talk = Talk(tls=True, logins=True)
    for verb, command in talk.protocol.grammar.verbs.items():
        assert command.usage.split()[0] == verb
        assert talk.say(f"HELP {verb}")[-1] == f"214 2.0.0 Syntax: {command.usage}"


@pytest.mark.parametrize("phase", PHASES)
def test_NOP_1_changes_nothing(phase: str) -> None:
    talk = at(phase)
    before = talk.protocol.dialogue.phase
    assert codes(talk.say("NOOP")) == ["250 2.0.0"]
    assert talk.protocol.dialogue.phase is before


@pytest.mark.parametrize("phase", PHASES)
def test_QUI_1_from_every_phase(phase: str) -> None:
    talk = at(phase)
    assert codes(talk.say("QUIT")) == ["221 2.0.0"]
    assert talk.protocol.closed
    assert talk.messages == []


def test_QUI_2_what_follows_is_not_executed() -> None:
    talk = at("R")
    assert codes(talk.say("QUIT", "DATA", "NOOP")) == ["221 2.0.0"]
    assert talk.story[-1] == Quit()
    # Not even by a program that goes on asking.
    talk.over = False
    assert codes(talk.say("RSET", SENDER)) == ["503 5.5.1"] * 4


def test_without_enhanced_codes_no_reply_has_one() -> None:
    talk = Talk(extensions=standard(without=(EnhancedStatusCodes,)))
    replies = talk.say(HELLO, SENDER, "RCPT TO:<no@x>", RECIPIENT, "NOOP", "VRFY a", "FOO", "HELP", "MAIL", "DATA", "x", ".", "QUIT")
    assert "ENHANCEDSTATUSCODES" not in replies[1]
    assert codes(replies) == "220 250 250 550 250 250 252 500 214 501 354 250 221".split()


def test_the_last_word_of_a_command_is_kept() -> None:
    talk = Talk(answer=answering((Mail, Reply(250, "Fine", "2.1.0")))).begin()
    assert talk.say(SENDER) == ["250 2.1.0 Fine"]
    assert isinstance(talk.story[1], Hello)
