"""An extension with an exchange of several lines: XNOTE.

A client leaves a note for the postmaster. The server asks for each line with a reply 350,
and a line with a single dot ends the note.

    python examples/xnote.py

starts a server with the two hooks that the extension declares, leaves a note, and prints
the replies.
"""

# pyright: strict

import enum
from collections.abc import Mapping
from functools import partial
from typing import ClassVar, Self

import trio
from attrs import frozen

from smtp_trio import Command, Hooks, Reply, Server, Session, connect, standard
from smtp_trio.protocol import BadCommandError, Extension, Table
from smtp_trio.protocol.dialogue import READY, PhaseEnum
from smtp_trio.protocol.params import KnownParams

LONGEST_LINE = 80
GO_ON = Reply(350, "Send the next line, or a dot")


class NotePhase(PhaseEnum):
    """The phase that XNOTE adds: the next line is not a command."""

    LINES = "during a note"


LINES = NotePhase.LINES


@frozen
class Note(Command):
    """XNOTE: begin a note."""

    verb = "XNOTE"
    usage = "XNOTE"
    hook = "note"
    codes = frozenset({350})


@frozen
class NoteLine(Command):
    """A line of a note. It has no verb on the wire."""

    text: str

    verb = "XNOTE"
    hook = "note_line"
    codes = frozenset({250, 350, 552})

    def encode(self) -> str:
        return self.text

    @classmethod
    def decode(cls, argument: str, known_params: KnownParams) -> Self:
        if len(argument) > LONGEST_LINE:
            raise BadCommandError(Reply(501, "Line too long; the note is dropped"))
        return cls(argument)


class NoteExtension(Extension):
    """Notes for the postmaster."""

    keyword = "XNOTE"
    verbs = (Note,)
    # 3yz to XNOTE leads to LINES, and 3yz to a line stays there. Any other reply to a line
    # ends the exchange.
    table = Table(
        accepted={NoteLine: {LINES: READY}},
        proceed={Note: {READY: LINES}, NoteLine: {LINES: LINES}},
        refused={NoteLine: {LINES: READY}},
    )
    continuations: ClassVar[Mapping[enum.Enum, type[Command]]] = {LINES: NoteLine}


class Notes(Hooks):
    """A server's hooks."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    async def note(self, session: Session, command: Note) -> Reply:
        session.context[NoteExtension] = []
        return GO_ON

    async def note_line(self, session: Session, command: NoteLine) -> Reply:
        lines: list[str] = session.context[NoteExtension]
        if command.text == ".":
            self.notes.append("\n".join(lines))
            return Reply(250, f"Note of {len(lines)} lines taken")
        lines.append(command.text)
        return GO_ON if len(lines) < 10 else Reply(552, "Too many lines")


async def main() -> None:
    hooks = Notes()
    server = Server(hooks, extensions=standard(NoteExtension()))
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(server.serve, 0, "127.0.0.1"))
        port = listeners[0].socket.getsockname()[1]
        async with connect("127.0.0.1", port, extensions=[NoteExtension()]) as client:
            print(await client.command(Note()))
            for text in ("Your disk is full.", "QUIT is not a command here.", "."):
                print(await client.command(NoteLine(text)))
        await server.stop()
    print(hooks.notes)


if __name__ == "__main__":
    trio.run(main)
