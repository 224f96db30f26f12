"""XCLIENT and XFORWARD: which clients may use them, their attributes, and what they change."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, strategies as st

from smtp_trio.protocol import BadCommandError, Limits, Reply
from smtp_trio.protocol.attributes import AttributeCommand
from smtp_trio.protocol.dialogue import GREETED, READY, REJECTED
from smtp_trio.protocol.extensions import Auth, LimitsExtension, StartTls, Xclient, Xforward, standard
from smtp_trio.protocol.extensions.xclient import XclientCommand, begin_session
from smtp_trio.protocol.extensions.xforward import XforwardCommand

from .driver import HELLO, RECIPIENT, SENDER, ServerDriver
from .test_client import ready, receive

EXTENSIONS = standard(Xclient(), Xforward())
BOTH = frozenset({"XCLIENT", "XFORWARD"})
OFFERS = [
    "XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT",
    "XFORWARD NAME ADDR PORT PROTO HELO IDENT SOURCE",
]


def driver(trusted: frozenset[str] = BOTH, **settings: Any) -> ServerDriver:
    return ServerDriver(**{"extensions": EXTENSIONS, "trusted": trusted, **settings})


def offers(session: ServerDriver) -> list[str]:
    """Send EHLO; return the lines of the reply about these extensions."""
    lines = session.send_lines(HELLO)[-1].split("\n")
    return [line[4:] for line in lines if line[4:].startswith(("XCLIENT", "XFORWARD"))]


# --- who may use them ---------------------------------------------------------------------------------------------


def test_trusted_client_is_offered_both() -> None:
    assert offers(driver()) == OFFERS
    assert offers(driver(frozenset({"XCLIENT"}))) == OFFERS[:1]
    assert offers(driver(frozenset({"XFORWARD"}))) == OFFERS[1:]


@pytest.mark.parametrize("argument", ["", " ADDR=192.0.2.1", " FOO"])
@pytest.mark.parametrize("verb", ["XCLIENT", "XFORWARD"])
def test_other_clients_are_refused(verb: str, argument: str) -> None:
    """XCL-1, XCL-3: whatever the argument is, and whether or not others of the same server are trusted."""
    other = frozenset({"XCLIENT", "XFORWARD"} - {verb})
    for trusted in (frozenset(), other):
        session = driver(trusted)
        assert all(not line.startswith(verb) for line in offers(session))
        (reply,) = session.send_lines(verb + argument)
        assert reply == f"550 5.7.0 Not authorized to use {verb}"
        assert verb not in session.send_lines("HELP")[0]
    assert driver(extensions=standard()).begin().send_lines(verb + argument) == ["500 5.5.1 Command not recognized"]


def test_trusted_clients_and_others_share_a_grammar() -> None:
    """What is cached for one of them is not used for another one."""
    grammar = driver().protocol.grammar
    for trusted, start in [(BOTH, "220"), (frozenset(), "550"), (BOTH, "220")]:
        session = driver(trusted, extensions=grammar)
        for _ in range(2):
            session.send_lines(HELLO)
            assert session.send_lines("XCLIENT ADDR=192.0.2.1")[0].startswith(start)


@pytest.mark.parametrize("lines", [[SENDER], [SENDER, RECIPIENT]])
@pytest.mark.parametrize("line", ["XCLIENT ADDR=192.0.2.1", "XFORWARD SOURCE=LOCAL"])
def test_in_a_transaction(line: str, lines: list[str]) -> None:
    """XCL-3."""
    session = driver().begin(*lines)
    assert session.send_lines(line)[0].startswith("503 5.5.1 ")
    assert session.protocol.state.mail is not None


def test_before_ehlo() -> None:
    """Postfix allows XCLIENT after the greeting of another XCLIENT, and so before EHLO; RFC 5321 2.2.1 applies to XFORWARD."""
    session = driver()
    assert session.send_lines("XFORWARD SOURCE=LOCAL")[-1].startswith("503 5.5.1 ")
    assert session.send_lines("XCLIENT ADDR=192.0.2.1")[0].startswith("220 ")


def test_before_tls_and_auth() -> None:
    """A proxy may have to use TLS, but XCLIENT is in place of AUTH."""
    session = driver(extensions=standard(Xclient(), Xforward(), StartTls(required=True)), tls=True)
    assert session.begin().send_lines("XCLIENT ADDR=192.0.2.1")[0].startswith("530 5.7.0 ")
    session = driver(extensions=standard(Xclient(), Xforward(), Auth(required=True)), hooks={"auth"}, secure=True)
    session.begin("XFORWARD SOURCE=LOCAL", "XCLIENT LOGIN=fred", HELLO, SENDER)


# --- XCLIENT ------------------------------------------------------------------------------------------------------


def test_session_begins_anew() -> None:
    """XCL-2."""
    session = driver().begin("XFORWARD SOURCE=LOCAL")
    assert session.send_lines("XCLIENT ADDR=192.0.2.1") == ["220 mx.test ESMTP"]
    state = session.protocol.state
    assert session.protocol.dialogue.phase is GREETED
    assert (state.hello, state.user, dict(state.forwarded)) == (None, None, {})
    assert dict(state.client) == {"ADDR": "192.0.2.1"}
    assert session.send_lines(SENDER)[0].startswith("503 5.5.1 ")
    assert offers(session) == OFFERS
    session.send_lines(SENDER, RECIPIENT, "DATA", "x", ".")
    assert session.messages == [b"x\r\n"]


@pytest.mark.parametrize("hello", [True, False])
def test_several_commands(hello: bool) -> None:
    """Each one adds to those before, up to the one with ADDR, whether or not EHLO comes in between."""
    session = driver().begin()
    between = [HELLO] if hello else []
    session.begin(
        "XCLIENT LOGIN=fred HELO=a.test", *between, "XCLIENT HELO=b.test PORT=1", *between, "XCLIENT ADDR=192.0.2.1"
    )
    state = session.protocol.state
    assert dict(state.client) == {"LOGIN": "fred", "HELO": "b.test", "PORT": "1", "ADDR": "192.0.2.1"}
    assert state.user == "fred"


def test_session_may_begin_before_the_reply() -> None:
    """A caller whose hooks decide about the reply lets them see the session of the client, which then begins only once."""
    session = driver().begin("XCLIENT NAME=a.test LOGIN=fred", HELLO)
    protocol, state = session.protocol, session.protocol.state
    for address in ("192.0.2.1", "192.0.2.2"):
        protocol.receive_data(f"XCLIENT ADDR={address}\r\n".encode())
        command = protocol.next_event()
        assert isinstance(command, XclientCommand)
        begin_session(state, command)
        before = dict(state.client), state.user, state.hello
        protocol.send_reply(protocol.default_reply(command))
        assert (dict(state.client), state.user, state.hello) == before
        assert state.client["ADDR"] == address
    assert before == ({"ADDR": "192.0.2.2"}, None, None)


@pytest.mark.parametrize("address", ["ADDR=192.0.2.1", "ADDR=[UNAVAILABLE]"])
@pytest.mark.parametrize("attributes", ["ADDR=192.0.2.2", "NAME=b.test", "PORT=1"])
def test_client_has_no_attributes_of_the_one_before(address: str, attributes: str) -> None:
    session = driver().begin(f"XCLIENT NAME=a.test LOGIN=fred HELO=a.test {address}", HELLO, f"XCLIENT {attributes}")
    session.send_lines("EHLO proxy.test")
    state = session.protocol.state
    name, _, value = attributes.partition("=")
    assert (dict(state.client), state.user) == ({name: value}, None)
    assert state.hello is not None
    assert state.hello.domain == "proxy.test"


def test_client_that_may_not_use_xclient() -> None:
    """The application states that after it has changed the address."""
    session = driver().begin("XCLIENT ADDR=192.0.2.1")
    session.protocol.client_changed(frozenset())
    assert offers(session) == []
    for line in ("XCLIENT ADDR=192.0.2.2", "XFORWARD SOURCE=LOCAL"):
        assert session.send_lines(line)[0].startswith("550 5.7.0 ")
    assert dict(session.protocol.state.client) == {"ADDR": "192.0.2.1"}


def test_errors_are_those_of_one_client() -> None:
    session = driver(limits=Limits(errors=4)).begin()
    for _ in range(3):
        assert session.send_lines("FOO", "FOO", "FOO")[-1].startswith("500 ")
        assert session.protocol.delayed
        session.protocol.client_changed(BOTH)
        assert not session.protocol.delayed
    assert session.send_lines("FOO", "FOO", "FOO", "FOO")[-1].startswith("421 ")


def test_work_is_that_of_all_clients_of_a_connection() -> None:
    """Otherwise a proxy could name one client after another without end."""
    session = driver(limits=Limits(errors=4, work=50)).begin()
    replies = []
    for _ in range(9):
        session.protocol.client_changed(BOTH)
        replies += [reply[:3] for reply in session.send_lines("XCLIENT ADDR=192.0.2.1")]
    assert replies == ["220"] * 7 + ["421"]


def test_messages_and_transactions_are_those_of_one_client() -> None:
    for settings in (
        {"limits": Limits(messages=1)},
        {"extensions": standard(Xclient(), LimitsExtension(mail_max=1))},
        {"extensions": standard(Xclient(), LimitsExtension(rcpt_domain_max=1))},
    ):
        session = driver(**settings).begin(SENDER, RECIPIENT)
        session.send_lines("DATA", "x", ".")
        session.protocol.client_changed(BOTH)
        session.send_lines(SENDER, "RCPT TO:<a@other.test>", "DATA", "x", ".")
        assert len(session.messages) == 2
        assert session.send_lines(SENDER, RECIPIENT)[-1].startswith(("421", "452"))


def test_certificate_is_that_of_the_proxy() -> None:
    session = driver().begin()
    state = session.protocol.state
    state.client_certificate, state.channel_binding = {"subject": ()}, b"x"
    session.protocol.client_changed(BOTH)
    after = session.protocol.state
    assert (after.client_certificate, after.channel_binding) == (None, b"")


@pytest.mark.parametrize("line", ["EHLO proxy.test", "HELO proxy.test"])
def test_name_of_the_client_replaces_that_of_the_proxy(line: str) -> None:
    session = driver().begin("XCLIENT HELO=client.example")
    session.send_lines(line)
    hello = session.protocol.state.hello
    assert hello is not None
    assert (hello.verb, hello.domain) == (line[:4], "client.example")
    session.begin("XCLIENT HELO=[UNAVAILABLE]")
    session.send_lines(line)
    hello = session.protocol.state.hello
    assert hello is not None
    assert hello.domain == "proxy.test"


def test_user() -> None:
    """The rights of a proxy that has logged in are not those of its clients."""
    session = driver(hooks={"auth"}, secure=True).begin("AUTH PLAIN AGZyZWQAc2VjcmV0")
    assert session.protocol.state.user == "fred"
    session.begin("XCLIENT NAME=a.test")
    assert session.protocol.state.user is None
    session.begin("XCLIENT LOGIN=wilma+40example.org", "XCLIENT PORT=1", HELLO)
    assert session.protocol.state.user == "wilma@example.org"
    assert session.send_lines("AUTH PLAIN AGZyZWQAc2VjcmV0")[0].startswith("503 5.5.1 ")
    session.begin("XCLIENT LOGIN=[UNAVAILABLE]")
    assert session.protocol.state.user is None


def test_tls_lasts() -> None:
    session = driver(secure=True, tls=True).begin("XCLIENT ADDR=192.0.2.1")
    assert session.protocol.state.secure
    assert "STARTTLS" not in session.send_lines(HELLO)[0]


def test_client_that_the_application_refuses() -> None:
    """The refusal is in place of the greeting, so only QUIT is possible after it."""
    session = driver(answer=lambda command: Reply(550, "no", "5.7.1") if command.verb == "XCLIENT" else None).begin()
    assert session.send_lines("XCLIENT ADDR=192.0.2.1") == ["550 5.7.1 no"]
    assert session.protocol.dialogue.phase is REJECTED
    assert dict(session.protocol.state.client) == {}
    assert session.send_lines(HELLO)[0].startswith("503 ")


# --- XFORWARD -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["RSET", HELLO, "HELO a.test"])
def test_attributes_of_a_message_that_is_not_begun(end: str) -> None:
    """They are not those of the message after it."""
    session = driver(answer=lambda command: Reply(550, "no", "5.7.1") if command.verb == "MAIL" else None)
    forwarded = session.begin("XFORWARD ADDR=192.0.2.1", "NOOP").protocol.state
    assert dict(forwarded.forwarded) == {"ADDR": "192.0.2.1"}
    session.send_lines(end)
    assert dict(forwarded.forwarded) == {}
    session.send_lines("XFORWARD ADDR=192.0.2.1", "MAIL FROM:<a b>")
    assert dict(forwarded.forwarded) == ({} if end.startswith("HELO") else {"ADDR": "192.0.2.1"})
    session.send_lines(SENDER)
    assert dict(forwarded.forwarded) == {}


def test_refused_ehlo_changes_nothing() -> None:
    refused: list[str] = []
    session = driver(answer=lambda command: Reply(550, "no", "5.7.1") if command.verb in refused else None)
    session.begin("XFORWARD ADDR=192.0.2.1")
    refused += ["EHLO"]
    session.send_lines(HELLO)
    assert dict(session.protocol.state.forwarded) == {"ADDR": "192.0.2.1"}


@pytest.mark.parametrize("end", [["DATA", "x", "."], ["RSET"], [HELLO]])
def test_attributes_are_those_of_one_message(end: list[str]) -> None:
    """XFW-1."""
    session = driver().begin(
        "XFORWARD NAME=a.test ADDR=192.0.2.1", "XFORWARD NAME=[UNAVAILABLE] IDENT=x+2By", SENDER, RECIPIENT
    )
    state = session.protocol.state
    assert dict(state.forwarded) == {"NAME": None, "ADDR": "192.0.2.1", "IDENT": "x+y"}
    assert (state.user, dict(state.client)) == (None, {})
    session.send_lines(*end)
    assert dict(state.forwarded) == {}
    assert session.protocol.dialogue.phase is READY


# --- attributes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "attributes"),
    [
        ("NAME=mail.example.org", {"NAME": "mail.example.org"}),
        ("name=a_b.test.", {"NAME": "a_b.test."}),
        ("NAME=[UNAVAILABLE]", {"NAME": None}),
        ("NAME=[unavailable]", {"NAME": None}),
        ("NAME=[TEMPUNAVAIL]", {"NAME": "[TEMPUNAVAIL]"}),
        ("ADDR=192.0.2.1", {"ADDR": "192.0.2.1"}),
        ("ADDR=IPV6:2001:DB8::1", {"ADDR": "2001:db8::1"}),
        ("ADDR=IPv6:::1", {"ADDR": "::1"}),
        ("ADDR=[UNAVAILABLE] PORT=[UNAVAILABLE]", {"ADDR": None, "PORT": None}),
        ("PORT=0", {"PORT": "0"}),
        ("PORT=065", {"PORT": "65"}),
        ("PORT=65535 DESTPORT=25", {"PORT": "65535", "DESTPORT": "25"}),
        ("DESTADDR=IPV6:::1", {"DESTADDR": "::1"}),
        ("PROTO=esmtp", {"PROTO": "ESMTP"}),
        ("HELO=a+20b+2B", {"HELO": "a b+"}),
        ("HELO=" + "x" * 255, {"HELO": "x" * 255}),
        ("LOGIN=+C3+A9", {"LOGIN": "\u00e9"}),
        ("LOGIN=a  HELO=b", {"LOGIN": "a", "HELO": "b"}),
    ],
)  # fmt: skip
def test_attributes(text: str, attributes: dict[str, str | None]) -> None:
    session = driver().begin(f"XCLIENT {text}")
    assert dict(session.protocol.state.client) == attributes


@pytest.mark.parametrize(
    ("text", "reply"),
    [
        ("", "Syntax: XCLIENT attribute=value..."),
        ("ADDR", "Invalid value of ADDR"),
        ("ADDR=", "Invalid value of ADDR"),
        ("FOO=1", "Unknown attribute of XCLIENT: 'FOO'"),
        ("IDENT=1", "Unknown attribute of XCLIENT: 'IDENT'"),
        ("PORT=1 PORT=1", "Duplicate attribute: PORT"),
        ("ADDR=::1", "Invalid value of ADDR"),
        ("ADDR=IPV6:192.0.2.1", "Invalid value of ADDR"),
        ("ADDR=IPV6:fe80::1%25eth0", "Invalid value of ADDR"),
        ("ADDR=mx.test", "Invalid value of ADDR"),
        ("ADDR=192.0.2", "Invalid value of ADDR"),
        ("ADDR=[TEMPUNAVAIL]", "Invalid value of ADDR"),
        ("DESTADDR=x", "Invalid value of DESTADDR"),
        ("PORT=65536", "Invalid value of PORT"),
        ("PORT=-1", "Invalid value of PORT"),
        ("PORT=1e3", "Invalid value of PORT"),
        ("PROTO=LMTP", "Invalid value of PROTO"),
        ("NAME=a..b", "Invalid value of NAME"),
        ("NAME=a+20b", "Invalid value of NAME"),
        ("NAME=<script>", "Invalid value of NAME"),
        ("HELO=" + "x" * 256, "Invalid value of HELO"),
        ("HELO=", "Invalid value of HELO"),
        ("LOGIN=admin+0D+0A", "Invalid value of LOGIN"),
        ("LOGIN=a+00", "Invalid value of LOGIN"),
        ("LOGIN=a+2", "Invalid value of LOGIN"),
        ("LOGIN=a+2b", "Invalid value of LOGIN"),
        ("LOGIN=+FF", "Invalid value of LOGIN"),
        ("LOGIN=a=b", "Invalid value of LOGIN"),
    ],
)
def test_invalid_attributes(text: str, reply: str) -> None:
    """XCL-3. None of the attributes of the command has an effect then."""
    session = driver().begin("XCLIENT LOGIN=fred", HELLO)
    assert session.send_lines(f"XCLIENT DESTPORT=7 {text}".rstrip() if text else "XCLIENT") == [f"501 5.5.4 {reply}"]
    state = session.protocol.state
    assert (dict(state.client), state.user) == ({"LOGIN": "fred"}, "fred")
    assert session.protocol.dialogue.phase is READY


@pytest.mark.parametrize(
    ("text", "valid"), [("SOURCE=local", True), ("SOURCE=REMOTE", True), ("SOURCE=x", False), ("LOGIN=x", False)]
)
def test_attributes_of_xforward(text: str, valid: bool) -> None:
    reply = driver().begin().send_lines(f"XFORWARD {text}")[0]
    assert reply.startswith("250 2.0.0" if valid else "501 5.5.4")


TEXT = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1, max_size=40)


@given(
    st.dictionaries(st.sampled_from(["HELO", "LOGIN"]), st.none() | TEXT, min_size=1),
    st.none() | st.ip_addresses().map(str),
)
def test_attributes_that_were_written_are_read_again(texts: dict[str, str | None], host: str | None) -> None:
    command = XclientCommand({**texts, "ADDR": host, "DESTADDR": host, "NAME": "[TEMPUNAVAIL]"})
    line = command.encode()
    assert line.isascii()
    try:
        found = XclientCommand.decode(line.partition(" ")[2], {})
    except BadCommandError:
        assert any(len(text or "") > 255 for text in texts.values())
        return
    expected = {
        name: None if text is not None and text.upper() == "[UNAVAILABLE]" else text for name, text in texts.items()
    }
    assert found.attributes == {**command.attributes, **expected}


# --- the dialogues in the documentation of Postfix ------------------------------------------------------------------

MESSAGE = [
    ("MAIL FROM:<wietse@porcupine.org>", "250 2.1.0 Ok"),
    ("RCPT TO:<user@example.com>", "250 2.1.5 Ok"),
    ("DATA", "354 End data with <CR><LF>.<CR><LF>"),
    (". . .message content. . .\r\n.", "250 2.0.0 Ok"),
    ("QUIT", "221 2.0.0 mx.test Goodbye"),
]
DIALOGUES = {
    "XCLIENT_README": [
        ("XCLIENT NAME=spike.porcupine.org ADDR=168.100.189.2", "220 mx.test ESMTP"),
        ("HELO spike.porcupine.org", "250 mx.test"),
        *MESSAGE,
    ],
    "XFORWARD_README": [
        ("XFORWARD NAME=spike.porcupine.org ADDR=168.100.189.2 PROTO=ESMTP", "250 2.0.0 Ok"),
        ("XFORWARD HELO=spike.porcupine.org", "250 2.0.0 Ok"),
        *MESSAGE,
    ],
}


@pytest.mark.parametrize("name", DIALOGUES)
def test_dialogue_of_postfix(name: str) -> None:
    session = driver().begin()
    assert [(line, session.send_lines(line)[-1]) for line, _ in DIALOGUES[name]] == DIALOGUES[name]
    assert len(session.messages) == 1


# --- the client ---------------------------------------------------------------------------------------------------


def test_client_reads_the_offer() -> None:
    client = ready("XCLIENT NAME addr", "XFORWARD SOURCE")
    assert client.offered == {"XCLIENT": Xclient(("NAME", "ADDR")), "XFORWARD": Xforward(("SOURCE",))}


@pytest.mark.parametrize("command", [XclientCommand({"ADDR": "::1"}), XforwardCommand({"ADDR": "::1"})])
def test_client_sends_a_command(command: AttributeCommand) -> None:
    client = ready(*OFFERS)
    client.send_command(command)
    assert client.data_to_send() == f"{command.verb} ADDR=IPV6:::1\r\n".encode()


def test_client_forgets_what_the_server_offered() -> None:
    client = ready(*OFFERS, "SIZE 1000")
    client.send_command(XclientCommand({"ADDR": "192.0.2.1"}))
    assert [code for _, code in receive(client, b"220 mx.test ESMTP\r\n")] == [220]
    assert (client.dialogue.phase, client.offered) == (GREETED, {})


def test_client_that_is_refused_goes_on() -> None:
    client = ready(*OFFERS, "SIZE 1000")
    client.send_command(XforwardCommand({"ADDR": "192.0.2.1"}))
    receive(client, b"550 5.7.0 no\r\n")
    assert client.dialogue.phase is READY
    assert "SIZE" in client.offered
