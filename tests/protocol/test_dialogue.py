"""The table: every phase, every command, every kind of answer, against one that is written out by hand from RFC 5321."""

from __future__ import annotations

import enum
from typing import Any

import pytest

from smtp_trio.protocol import (
    Command,
    Connect,
    Data,
    Ehlo,
    EndOfBody,
    Expn,
    Helo,
    Help,
    LocalProtocolError,
    Mail,
    Noop,
    Path,
    Phase,
    Quit,
    Rcpt,
    Reply,
    Rset,
    Table,
    Vrfy,
)
from smtp_trio.protocol.dialogue import BASE, Dialogue, PhaseEnum
from smtp_trio.protocol.extensions import STANDARD
from smtp_trio.protocol.extensions.auth import EXCHANGE, AuthCommand, AuthPhase, AuthResponse
from smtp_trio.protocol.extensions.chunking import CHUNK_REFUSED, CHUNKS, Bdat, BdatLast, ChunkPhase
from smtp_trio.protocol.extensions.starttls import HANDSHAKE, StartTlsCommand, TlsPhase
from smtp_trio.protocol.grammar import Grammar

CONNECTED, REJECTED, GREETED, READY, SENDER, RECIPIENT, BODY, CLOSED = Phase

A = Path("a@b", "a", "b")
COMMANDS: list[Command] = [
    Connect(), Ehlo("x"), Helo("x"), Mail(A), Rcpt(A), Data(), EndOfBody(), Rset(), Noop(), Vrfy("x"), Expn("x"), Help(), Quit(),
    StartTlsCommand(), AuthCommand("PLAIN"), AuthResponse(""), Bdat(1), BdatLast(1),
]  # fmt: skip
PHASES: list[enum.Enum] = [*Phase, *AuthPhase, *TlsPhase, *ChunkPhase]

SAME = None
# RFC 5321 4.1.4: what a client may say between greeting and goodbye that has nothing to do with a transaction.
COMMON_CODES: dict[type[Command], enum.Enum | None] = {Noop: SAME, Help: SAME, Vrfy: SAME, Expn: SAME, Quit: CLOSED}
HELLO: dict[type[Command], enum.Enum | None] = {Ehlo: READY, Helo: READY}

#: Where each phase leads when the command is accepted (2yz). What is not here is out of order.
ACCEPTED: dict[enum.Enum, dict[type[Command], enum.Enum | None]] = {
    CONNECTED: {Connect: GREETED},
    REJECTED: {Quit: CLOSED},  # 3.1
    GREETED: {**COMMON_CODES, **HELLO, Rset: GREETED},
    READY: {**COMMON_CODES, **HELLO, Rset: READY, Mail: SENDER, StartTlsCommand: HANDSHAKE, AuthCommand: READY},
    SENDER: {**COMMON_CODES, **HELLO, Rset: READY, Rcpt: RECIPIENT},
    RECIPIENT: {**COMMON_CODES, **HELLO, Rset: READY, Rcpt: RECIPIENT, Data: SAME, Bdat: CHUNKS, BdatLast: READY},
    BODY: {EndOfBody: READY},
    CLOSED: {},
    EXCHANGE: {AuthResponse: READY},  # RFC 4954 4
    HANDSHAKE: {},  # RFC 3207 4
    # RFC 3030 2: nothing but more chunks, or the end of the transaction.
    CHUNKS: {**HELLO, Noop: SAME, Quit: CLOSED, Rset: READY, Bdat: CHUNKS, BdatLast: READY},
    CHUNK_REFUSED: {**HELLO, Noop: SAME, Quit: CLOSED, Rset: READY},
}
#: Where 3yz leads. The rest stays.
PROCEED: dict[tuple[enum.Enum, type[Command]], enum.Enum] = {
    (RECIPIENT, Data): BODY, (READY, AuthCommand): EXCHANGE, (EXCHANGE, AuthResponse): EXCHANGE,
}  # fmt: skip
#: Where 4yz and 5yz lead. The rest stays.
REFUSED: dict[tuple[enum.Enum, type[Command]], enum.Enum] = {
    (CONNECTED, Connect): REJECTED,
    (RECIPIENT, Data): READY,
    (BODY, EndOfBody): READY,
    (EXCHANGE, AuthResponse): READY,
    (RECIPIENT, Bdat): CHUNK_REFUSED, (CHUNKS, Bdat): CHUNK_REFUSED,
    (RECIPIENT, BdatLast): READY, (CHUNKS, BdatLast): READY,
}  # fmt: skip


def lead(phase: enum.Enum, command: Command, code: int) -> enum.Enum:
    if code < 300:
        return ACCEPTED[phase][type(command)] or phase
    if code < 400 and type(command) not in {kind for _, kind in PROCEED}:
        return phase
    return (PROCEED if code < 400 else REFUSED).get((phase, type(command)), phase)


def standing_at(phase: enum.Enum) -> Dialogue:
    dialogue = Dialogue(Grammar(STANDARD).table)
    dialogue.enter(phase)
    return dialogue


def test_the_reference_speaks_of_everything() -> None:
    table = Grammar(STANDARD).table
    assert set(ACCEPTED) == set(PHASES)
    assert {type(command) for command in COMMANDS} == set(table.allowed)
    assert len({*PHASES}) == len(PHASES) == 12


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: type(command).__name__)
@pytest.mark.parametrize("phase", PHASES, ids=lambda phase: phase.name)
def test_every_phase_and_command(phase: enum.Enum, command: Command) -> None:
    legal = type(command) in ACCEPTED[phase]
    assert standing_at(phase).allows(type(command)) == legal
    if not legal:
        dialogue = standing_at(phase)
        with pytest.raises(LocalProtocolError, match="is not allowed"):
            dialogue.add_command(command)
        assert (dialogue.phase, len(dialogue.unanswered)) == (phase, 0)
        return
    for code in (220, 250, 300, 334, 354, 400, 421, 450, 503, 550, 559):
        dialogue = standing_at(phase)
        dialogue.add_command(command)
        assert dialogue.phase is phase
        assert dialogue.add_reply(Reply(code)) is command
        assert dialogue.phase is lead(phase, command, code)
        assert dialogue.expected_phase is dialogue.phase


def test_a_question_is_answered_once() -> None:
    dialogue = Dialogue()
    with pytest.raises(LocalProtocolError, match="no command is waiting for a reply, got 250"):
        dialogue.add_reply(Reply(250))
    dialogue.add_command(Connect())
    dialogue.add_reply(Reply(220))
    with pytest.raises(LocalProtocolError):
        dialogue.add_reply(Reply(220))


def test_a_client_that_sends_ahead_goes_by_what_it_hopes_for() -> None:
    dialogue = standing_at(READY)
    group: list[Command] = [Mail(A), Rcpt(A), Rcpt(A), Data()]
    expected_phase = []
    for command in group:
        dialogue.add_command(command)
        expected_phase.append(dialogue.expected_phase)
    assert expected_phase == [SENDER, RECIPIENT, RECIPIENT, BODY]
    assert dialogue.phase is READY
    assert not dialogue.allows(Mail)
    assert [dialogue.add_reply(Reply(code)) for code in (250, 550, 250, 354)] == group
    assert dialogue.phase is BODY


def test_a_refusal_in_a_group_is_followed_by_others() -> None:
    dialogue = standing_at(READY)
    for command in (Mail(A), Rcpt(A), Data()):
        dialogue.add_command(command)
    dialogue.add_reply(Reply(550))
    # Hope is for the questions that are left, from where we are now: they have no row, and change nothing.
    assert (dialogue.phase, dialogue.expected_phase) == (READY, READY)
    dialogue.add_reply(Reply(503))
    dialogue.add_reply(Reply(503))
    assert dialogue.phase is READY


def test_hope_prefers_going_on() -> None:
    """AUTH and DATA are expected_phase to be answered 3yz, chunks 2yz."""
    dialogue = standing_at(READY)
    dialogue.add_command(AuthCommand("PLAIN"))
    assert dialogue.expected_phase is EXCHANGE
    dialogue = standing_at(RECIPIENT)
    for command, phase in ((Bdat(1), CHUNKS), (BdatLast(1), READY), (Mail(A), SENDER)):
        dialogue.add_command(command)
        assert dialogue.expected_phase is phase


def test_entering_a_phase_drops_what_was_asked() -> None:
    dialogue = standing_at(READY)
    dialogue.add_command(StartTlsCommand())
    dialogue.enter(GREETED)
    assert (dialogue.phase, len(dialogue.unanswered)) == (GREETED, 0)


class Elsewhere(PhaseEnum):
    SOMEWHERE = "somewhere"


def test_tables_that_agree_are_merged() -> None:
    other = Table({Noop: {Elsewhere.SOMEWHERE: CLOSED}, Mail: {READY: SENDER}}, {}, {})
    merged = BASE.merge([other])
    assert merged.allowed[Noop] == BASE.allowed[Noop] | {Elsewhere.SOMEWHERE}
    assert merged.allowed[Mail] == BASE.allowed[Mail]
    assert Elsewhere.SOMEWHERE not in BASE.allowed[Noop]


@pytest.mark.parametrize("kind", ["accepted", "proceed", "refused"])
def test_tables_that_disagree_are_an_error(kind: str) -> None:
    rows: dict[str, Any] = {"accepted": {}, "proceed": {}, "refused": {}}
    here = Table(**{**rows, kind: {Noop: {READY: READY}}})
    there = Table(**{**rows, kind: {Noop: {READY: CLOSED}}})
    with pytest.raises(ValueError, match="conflicting rows for Noop in phase READY"):
        here.merge([there])


def test_phases_are_found_by_identity() -> None:
    assert len({hash(phase) for phase in PHASES}) == len(PHASES)
    assert {READY: 1}[Phase["READY"]] == 1
