"""The state table: every phase, command and kind of reply, compared with a second table written from RFC 5321."""

from __future__ import annotations

import enum
from typing import Any

import pytest

from smtp_trio.protocol import (
    Command,
    Connect,
    Data,
    Ehlo,
    EndOfData,
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

CONNECTED, REJECTED, GREETED, READY, SENDER, RECIPIENT, MESSAGE, CLOSED = Phase

A = Path("a@b", "a", "b")
COMMANDS: list[Command] = [
    Connect(), Ehlo("x"), Helo("x"), Mail(A), Rcpt(A), Data(), EndOfData(), Rset(), Noop(), Vrfy("x"), Expn("x"), Help(), Quit(),
    StartTlsCommand(), AuthCommand("PLAIN"), AuthResponse(""), Bdat(1), BdatLast(1),
]  # fmt: skip
PHASES: list[enum.Enum] = [*Phase, *AuthPhase, *TlsPhase, *ChunkPhase]

SAME = None
# RFC 5321 4.1.4: the commands that do not depend on a transaction.
ALWAYS_ALLOWED: dict[type[Command], enum.Enum | None] = {Noop: SAME, Help: SAME, Vrfy: SAME, Expn: SAME, Quit: CLOSED}
HELLO: dict[type[Command], enum.Enum | None] = {Ehlo: READY, Helo: READY}

#: The phase after a 2yz reply, by phase and command. Commands that are missing are not allowed.
ACCEPTED: dict[enum.Enum, dict[type[Command], enum.Enum | None]] = {
    CONNECTED: {Connect: GREETED},
    REJECTED: {Quit: CLOSED},  # 3.1
    GREETED: {**ALWAYS_ALLOWED, **HELLO, Rset: GREETED},
    READY: {**ALWAYS_ALLOWED, **HELLO, Rset: READY, Mail: SENDER, StartTlsCommand: HANDSHAKE, AuthCommand: READY},
    SENDER: {**ALWAYS_ALLOWED, **HELLO, Rset: READY, Rcpt: RECIPIENT},
    RECIPIENT: {**ALWAYS_ALLOWED, **HELLO, Rset: READY, Rcpt: RECIPIENT, Data: SAME, Bdat: CHUNKS, BdatLast: READY},
    MESSAGE: {EndOfData: READY},
    CLOSED: {},
    EXCHANGE: {AuthResponse: READY},  # RFC 4954 4
    HANDSHAKE: {},  # RFC 3207 4
    # RFC 3030 2: only further chunks, or commands that end the transaction.
    CHUNKS: {**HELLO, Noop: SAME, Quit: CLOSED, Rset: READY, Bdat: CHUNKS, BdatLast: READY},
    CHUNK_REFUSED: {**HELLO, Noop: SAME, Quit: CLOSED, Rset: READY},
}
#: The phase after a 3yz reply; otherwise it does not change.
PROCEED: dict[tuple[enum.Enum, type[Command]], enum.Enum] = {
    (RECIPIENT, Data): MESSAGE, (READY, AuthCommand): EXCHANGE, (EXCHANGE, AuthResponse): EXCHANGE,
}  # fmt: skip
#: The phase after a 4yz or 5yz reply; otherwise it does not change.
REFUSED: dict[tuple[enum.Enum, type[Command]], enum.Enum] = {
    (CONNECTED, Connect): REJECTED,
    (RECIPIENT, Data): READY,
    (MESSAGE, EndOfData): READY,
    (EXCHANGE, AuthResponse): READY,
    (RECIPIENT, Bdat): CHUNK_REFUSED, (CHUNKS, Bdat): CHUNK_REFUSED,
    (RECIPIENT, BdatLast): READY, (CHUNKS, BdatLast): READY,
}  # fmt: skip


def phase_after(phase: enum.Enum, command: Command, code: int) -> enum.Enum:
    if code < 300:
        return ACCEPTED[phase][type(command)] or phase
    if code < 400 and type(command) not in {kind for _, kind in PROCEED}:
        return phase
    return (PROCEED if code < 400 else REFUSED).get((phase, type(command)), phase)


def dialogue_in(phase: enum.Enum) -> Dialogue:
    dialogue = Dialogue(Grammar(STANDARD).table)
    dialogue.enter(phase)
    return dialogue


def test_reference_is_complete() -> None:
    table = Grammar(STANDARD).table
    assert set(ACCEPTED) == set(PHASES)
    assert {type(command) for command in COMMANDS} == set(table.allowed)
    assert len({*PHASES}) == len(PHASES) == 12


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: type(command).__name__)
@pytest.mark.parametrize("phase", PHASES, ids=lambda phase: phase.name)
def test_every_phase_and_command(phase: enum.Enum, command: Command) -> None:
    allowed = type(command) in ACCEPTED[phase]
    assert dialogue_in(phase).allows(type(command)) == allowed
    if not allowed:
        dialogue = dialogue_in(phase)
        with pytest.raises(LocalProtocolError, match="is not allowed"):
            dialogue.add_command(command)
        assert (dialogue.phase, len(dialogue.unanswered)) == (phase, 0)
        return
    for code in (220, 250, 300, 334, 354, 400, 421, 450, 503, 550, 559):
        dialogue = dialogue_in(phase)
        dialogue.add_command(command)
        assert dialogue.phase is phase
        assert dialogue.add_reply(Reply(code)) is command
        assert dialogue.phase is phase_after(phase, command, code)
        assert dialogue.expected_phase is dialogue.phase


def test_command_is_answered_once() -> None:
    dialogue = Dialogue()
    with pytest.raises(LocalProtocolError, match="no command is waiting for a reply, got 250"):
        dialogue.add_reply(Reply(250))
    dialogue.add_command(Connect())
    dialogue.add_reply(Reply(220))
    with pytest.raises(LocalProtocolError):
        dialogue.add_reply(Reply(220))


def test_pipelined_commands_use_the_expected_phase() -> None:
    dialogue = dialogue_in(READY)
    group: list[Command] = [Mail(A), Rcpt(A), Rcpt(A), Data()]
    expected_phases = []
    for command in group:
        dialogue.add_command(command)
        expected_phases.append(dialogue.expected_phase)
    assert expected_phases == [SENDER, RECIPIENT, RECIPIENT, MESSAGE]
    assert dialogue.phase is READY
    assert not dialogue.allows(Mail)
    assert [dialogue.add_reply(Reply(code)) for code in (250, 550, 250, 354)] == group
    assert dialogue.phase is MESSAGE


def test_command_after_a_part_of_a_group_is_answered() -> None:
    dialogue = dialogue_in(READY)
    for command in (Mail(A), Rcpt(A)):
        dialogue.add_command(command)
    dialogue.add_reply(Reply(250))
    with pytest.raises(LocalProtocolError, match="MAIL is not allowed"):
        dialogue.add_command(Mail(A))
    dialogue.add_command(Data())
    assert (dialogue.phase, dialogue.expected_phase) == (SENDER, MESSAGE)


def test_refused_command_in_a_group() -> None:
    dialogue = dialogue_in(READY)
    for command in (Mail(A), Rcpt(A), Data()):
        dialogue.add_command(command)
    dialogue.add_reply(Reply(550))
    # The remaining commands have no row in this phase, so the expected phase is the same.
    assert (dialogue.phase, dialogue.expected_phase) == (READY, READY)
    dialogue.add_reply(Reply(503))
    dialogue.add_reply(Reply(503))
    assert dialogue.phase is READY


def test_expected_phase_prefers_3yz() -> None:
    """AUTH and DATA are expected to get 3yz, BDAT 2yz."""
    dialogue = dialogue_in(READY)
    dialogue.add_command(AuthCommand("PLAIN"))
    assert dialogue.expected_phase is EXCHANGE
    dialogue = dialogue_in(RECIPIENT)
    for command, phase in ((Bdat(1), CHUNKS), (BdatLast(1), READY), (Mail(A), SENDER)):
        dialogue.add_command(command)
        assert dialogue.expected_phase is phase


def test_enter_drops_unanswered_commands() -> None:
    dialogue = dialogue_in(READY)
    dialogue.add_command(StartTlsCommand())
    dialogue.enter(GREETED)
    assert (dialogue.phase, len(dialogue.unanswered)) == (GREETED, 0)


class OtherPhase(PhaseEnum):
    SOMEWHERE = "somewhere"


def test_merge() -> None:
    other = Table({Noop: {OtherPhase.SOMEWHERE: CLOSED}, Mail: {READY: SENDER}}, {}, {})
    merged = BASE.merge([other])
    assert merged.allowed[Noop] == BASE.allowed[Noop] | {OtherPhase.SOMEWHERE}
    assert merged.allowed[Mail] == BASE.allowed[Mail]
    assert OtherPhase.SOMEWHERE not in BASE.allowed[Noop]


@pytest.mark.parametrize("kind", ["accepted", "proceed", "refused"])
def test_merge_conflict(kind: str) -> None:
    rows: dict[str, Any] = {"accepted": {}, "proceed": {}, "refused": {}}
    here = Table(**{**rows, kind: {Noop: {READY: READY}}})
    there = Table(**{**rows, kind: {Noop: {READY: CLOSED}}})
    with pytest.raises(ValueError, match="conflicting rows for Noop in phase READY"):
        here.merge([there])


def test_phases_hash_by_identity() -> None:
    assert len({hash(phase) for phase in PHASES}) == len(PHASES)
    assert {READY: 1}[Phase["READY"]] == 1
