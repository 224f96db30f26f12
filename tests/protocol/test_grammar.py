"""`Grammar`: merged extensions, conflicts, and what is offered in which state."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from smtp_trio.protocol import Command, Extension, Mail, Noop, Param, Path, Reply, ServerProtocol, SessionState, Table
from smtp_trio.protocol.dialogue import CLOSED, READY, Phase
from smtp_trio.protocol.extensions import (
    STANDARD,
    Auth,
    BinaryMime,
    Chunking,
    EightBitMime,
    Pipelining,
    Size,
    StartTls,
    standard,
)
from smtp_trio.protocol.extensions.eightbitmime import BODY
from smtp_trio.protocol.extensions.size import SIZE
from smtp_trio.protocol.grammar import Grammar
from smtp_trio.protocol.params import KnownParams
from smtp_trio.protocol.sasl import Mechanism

from .driver import HELLO, RECIPIENT, SENDER, ServerDriver, codes

COLOUR: Param[str] = Param("COLOUR", lambda value: value, str, extra_octets=20)


class XNoop(Noop):
    verb = "XNOOP"
    usage = "XNOOP"


class Colour(Extension):
    """An extension that overrides most members."""

    keyword = "COLOUR"
    params = {Mail: (COLOUR,)}
    verbs = (XNoop,)
    checks = (Mail,)
    table = Table(accepted={XNoop: {READY: READY}})

    def advertise(self, state: SessionState) -> str | None:
        return "COLOUR RED GREEN" if state.secure else None

    def check_command(self, command: Command, state: SessionState) -> Reply | None:
        assert isinstance(command, Mail)
        return Reply(550, "Not blue", "5.7.1") if command.params.get(COLOUR) == "BLUE" else None


def test_third_party_extension() -> None:
    driver = ServerDriver(extensions=standard(Colour()), secure=True)
    assert driver.send_lines("XNOOP", HELLO)[-1].endswith("\n250 COLOUR RED GREEN")
    assert codes(driver.send_lines("XNOOP", "MAIL FROM:<a@b> COLOUR=BLUE", "MAIL FROM:<a@b> colour=RED", "XNOOP", RECIPIENT)) == [
        "250 2.0.0", "550 5.7.1", "250 2.1.0", "503 5.5.1", "250 2.1.5",
    ]  # fmt: skip
    assert codes(driver.send_lines("HELP XNOOP")) == ["214 2.0.0"]


def test_extension_verbs_need_ehlo() -> None:
    assert codes(ServerDriver(extensions=standard(Colour()), secure=True).send_lines("HELO x", "XNOOP")) == [
        "220",
        "250",
        "503 5.5.1",
    ]


def test_parameter_needs_advertised_extension() -> None:
    driver = ServerDriver(extensions=standard(Colour()))
    assert "COLOUR" not in driver.send_lines(HELLO)[1]
    assert codes(driver.send_lines("MAIL FROM:<a@b> COLOUR=RED")) == ["555 5.5.4"]


def test_extension_defaults() -> None:
    extension, state = Extension(), SessionState()
    assert extension.advertise(state) == ""
    assert extension.parse_offer(["x"]) is extension
    assert extension.check_verb("NOOP", state) is None
    assert extension.check_command(Noop(), state) is None


def test_parse_offer() -> None:
    assert Auth().parse_offer(["plain", "SCRAM-SHA-256"]).mechanisms == ("PLAIN", "SCRAM-SHA-256")
    assert Pipelining().parse_offer([]).keyword == "PIPELINING"
    assert StartTls(required=True).parse_offer([]) == StartTls(required=True)


class DuplicateParameter(Extension):
    keyword = "DUPLICATE"
    params = {Mail: (Param("SIZE", str, str),)}


class DuplicateVerb(Extension):
    keyword = "DUPLICATE"
    verbs = (type("NoopTwo", (Noop,), {}),)


class ConflictingRow(Extension):
    keyword = "CONFLICTING"
    table = Table(accepted={Noop: {READY: CLOSED}})


@pytest.mark.parametrize(
    ("extensions", "why"),
    [
        ([Size(), DuplicateParameter()], "duplicate parameter SIZE of MAIL"),
        ([DuplicateVerb()], "DUPLICATE defines the verb NOOP, which is already defined"),
        ([ConflictingRow()], "conflicting rows for Noop in phase READY"),
        ([Size(), Size(5)], "duplicate extension SIZE"),
        ([Chunking(), BinaryMime()], "BINARYMIME requires 8BITMIME"),
    ],
)
def test_conflicting_extensions(extensions: list[Extension], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Grammar(extensions)
    with pytest.raises(ValueError, match=why):
        ServerProtocol(extensions=extensions)


class SharedParameter(Extension):
    keyword = "SHARED"
    params = {Mail: (BODY,)}


def test_extensions_may_share_a_parameter() -> None:
    grammar = Grammar([EightBitMime(), SharedParameter()])
    assert grammar.line_limit == 512 + BODY.extra_octets
    assert (grammar.has("SHARED"), grammar.has("SIZE")) == (True, False)


def test_grammar_is_shared_by_sessions() -> None:
    grammar = Grammar(STANDARD)
    one, other = ServerProtocol("a", extensions=grammar), ServerProtocol("b", size=5, extensions=grammar)
    assert one.grammar is other.grammar is grammar
    assert grammar.offer(one.state) is grammar.offer(one.state)
    assert grammar.offer(one.state).reply.text.startswith("a\n")
    assert "SIZE 5" in grammar.offer(other.state).reply.text
    assert grammar.offer(other.state).params[Mail]["SIZE"] is SIZE


def test_standard_with_changes() -> None:
    keywords = [extension.keyword for extension in STANDARD]
    assert [extension.keyword for extension in standard()] == keywords
    strict = standard(StartTls(required=True), BinaryMime(), without=(Chunking,))
    assert [extension.keyword for extension in strict] == [
        *(word for word in keywords if word != "CHUNKING"),
        "BINARYMIME",
    ]
    assert StartTls(required=True) in strict


def test_session_state_of_a_transaction() -> None:
    driver = ServerDriver().begin(SENDER, RECIPIENT)
    state = driver.protocol.state
    assert state.mail == Mail(Path("me@client.test", "me", "client.test"))
    assert len(state.rcpts) == 1
    state.clear_transaction()
    assert state.mail is None
    assert (len(state.rcpts), state.rejected_rcpts) == (0, 0)
    assert state.extended
    state.reset()
    assert not state.extended


# --- what may be cached ---------------------------------------------------------------------------------------------


class Gate(Extension):
    """An extension that asks a function about each verb."""

    keyword = "X-GATE"

    def __init__(self, check: Callable[[str, SessionState], bool]) -> None:
        self.check = check

    def check_verb(self, verb: str, state: SessionState) -> Reply | None:
        return Reply(550, "Blocked", "5.7.1") if self.check(verb, state) else None


class GatedAuth(Auth):
    """A subclass of an extension of this package."""

    def usable(self, state: SessionState, *, secure: bool) -> dict[str, Mechanism]:
        return {} if state.hello is None or state.hello.domain == "bad.test" else super().usable(state, secure=secure)


def talk(grammar: Grammar, domain: str, *lines: str, **settings: Any) -> list[str]:
    driver = ServerDriver(extensions=grammar, **settings)
    return codes(driver.send_lines(f"EHLO {domain}", *lines))[2:]


@pytest.mark.parametrize("order", [["bad", "good", "bad"], ["good", "bad", "good", "bad", "bad"]])
def test_check_verb_of_one_client_does_not_hold_for_another(order: list[str]) -> None:
    grammar = Grammar(standard(Gate(lambda verb, state: verb == "MAIL" and "bad" in str(state.hello))))
    for name in order:
        expected = ["550 5.7.1", "250 2.0.0"] if name == "bad" else ["250 2.1.0", "250 2.0.0"]
        assert talk(grammar, f"{name}.test", SENDER, "RSET") == expected


def test_check_verb_is_called_for_every_command() -> None:
    verbs: list[str] = []

    def record(verb: str, state: SessionState) -> bool:
        verbs.append(verb)
        return False

    grammar = Grammar(standard(Gate(record)))
    lines = ["NOOP", SENDER, RECIPIENT, RECIPIENT, "RSET", "BDAT 0", "VRFY a"]
    for _ in range(2):
        talk(grammar, "x", *lines)
    assert verbs == ["EHLO", *(line.split()[0] for line in lines)] * 2


def test_check_verb_may_depend_on_the_transaction_and_the_user() -> None:
    grammar = Grammar(standard(Gate(lambda verb, state: verb == "RCPT" and len(state.rcpts) >= 2)))
    assert talk(grammar, "x", SENDER, RECIPIENT, RECIPIENT, RECIPIENT)[1:] == ["250 2.1.5", "250 2.1.5", "550 5.7.1"]
    plain = "AUTH PLAIN AGZyZWQAc2VjcmV0"
    replies = talk(grammar, "x", plain, SENDER, RECIPIENT, RECIPIENT, RECIPIENT, secure=True, hooks={"auth"})
    assert replies == ["235 2.7.0", "250 2.1.0", "250 2.1.5", "250 2.1.5", "550 5.7.1"]


def test_subclass_of_an_extension_is_asked_in_every_session() -> None:
    grammar = Grammar(standard(GatedAuth()))
    for domain, expected in [("bad.test", "502 5.5.1"), ("good.test", "334"), ("bad.test", "502 5.5.1")]:
        assert talk(grammar, domain, "AUTH PLAIN", secure=True, hooks={"auth"}) == [expected]


class Announced(Colour):
    """An extension that is only offered to some clients."""

    def __init__(self, offered: Iterator[bool]) -> None:
        self.offered = offered

    def advertise(self, state: SessionState) -> str | None:
        return self.keyword if next(self.offered) else None


def test_offer_of_one_session_does_not_hold_for_another() -> None:
    # Each session makes the offer twice: for the reply to EHLO, and for what is accepted after it.
    grammar = Grammar(standard(Announced(iter([True, True, False, False, True, True]))))
    for expected in ("250 2.1.0", "555 5.5.4", "250 2.1.0"):
        assert talk(grammar, "x", "MAIL FROM:<a@b> COLOUR=RED") == [expected]


class Welcome(Colour):
    """An extension that is offered to one client only."""

    def advertise(self, state: SessionState) -> str | None:
        return self.keyword if state.hello is not None and state.hello.domain == "good.test" else None


def test_reply_to_ehlo_offers_what_is_accepted_after_it() -> None:
    driver = ServerDriver(extensions=standard(Welcome()))
    for domain, offered in [("bad.test", False), ("good.test", True), ("good.test", True), ("bad.test", False)]:
        [reply] = driver.send_lines(f"EHLO {domain}")[-1:]
        assert ("COLOUR" in reply) is offered
        assert codes(driver.send_lines("MAIL FROM:<a@b> COLOUR=RED")) == ["250 2.1.0" if offered else "555 5.5.4"]
        driver.send_lines("RSET")


class Begin(Noop):
    """X-RUN BEGIN, which is allowed between transactions."""

    verb = "X-RUN"

    @classmethod
    def decode(cls, argument: str, known_params: KnownParams) -> Begin:
        return Begin() if argument == "BEGIN" else End()


class End(Begin):
    """X-RUN with another argument, which is allowed after MAIL."""


class Runs(Extension):
    """A verb with two classes of commands."""

    keyword = "X-RUN"
    verbs = (Begin,)
    table = Table(accepted={Begin: {READY: READY}, End: {Phase.SENDER: Phase.SENDER}})


def test_sequence_is_checked_for_each_class_of_a_verb() -> None:
    for _ in range(2):
        grammar = Grammar(standard(Runs()))
        lines = ["X-RUN BEGIN", "X-RUN END", "X-RUN BEGIN", SENDER, "X-RUN END", "X-RUN BEGIN"]
        assert talk(grammar, "x", *lines) == [
            "250 2.0.0", "503 5.5.1", "250 2.0.0", "250 2.1.0", "250 2.0.0", "503 5.5.1",
        ]  # fmt: skip


def test_extensions_of_this_package_are_cached() -> None:
    grammar = Grammar(standard(Auth(required=True), StartTls(required=True), BinaryMime()))
    assert grammar.caches_verbs
    state = SessionState("mx.test")
    assert grammar.offer(state) is grammar.offer(state)
