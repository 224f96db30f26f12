"""An extension with an exchange of several lines: XNOTE.

A client leaves a note for the postmaster. The server asks for each line with 350, and a
line with a single dot ends the note.

    python examples/xnote.py
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

GO_ON = Reply(350, "Send the next line, or a dot")


class Phase(PhaseEnum):
    LINES = "during a note"  # the next line is not a command


@frozen
class Note(Command):
    verb = "XNOTE"
    hook = "note"
    codes = frozenset({350})


@frozen
class NoteLine(Command):
    text: str

    verb = "XNOTE"
    hook = "note_line"
    codes = frozenset({250, 350, 552})

    def encode(self) -> str:
        return self.text

    @classmethod
    def decode(cls, argument: str, known_params: KnownParams) -> Self:
        if len(argument) > 80:
            raise BadCommandError(Reply(501, "Line too long; the note is dropped"))
        return cls(argument)


class NoteExtension(Extension):
    """Notes for the postmaster."""

    keyword = "XNOTE"
    verbs = (Note,)
    # A reply 3yz leads to LINES, or stays there; any other ends the exchange.
    table = Table(
        accepted={NoteLine: {Phase.LINES: READY}},
        proceed={Note: {READY: Phase.LINES}, NoteLine: {Phase.LINES: Phase.LINES}},
        refused={NoteLine: {Phase.LINES: READY}},
    )
    continuations: ClassVar[Mapping[enum.Enum, type[Command]]] = {Phase.LINES: NoteLine}


class Notes(Hooks):
    async def note(self, session: Session, command: Note) -> Reply:
        session.context[NoteExtension] = []
        return GO_ON

    async def note_line(self, session: Session, command: NoteLine) -> Reply:
        lines: list[str] = session.context[NoteExtension]
        if command.text != ".":
            lines.append(command.text)
            return GO_ON if len(lines) < 10 else Reply(552, "Too many lines")
        print(*lines, sep="\n")
        return Reply(250, f"Note of {len(lines)} lines taken")


async def main() -> None:
    server = Server(Notes(), extensions=standard(NoteExtension()))
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(server.serve, 0, "127.0.0.1"))
        port = listeners[0].socket.getsockname()[1]
        async with connect("127.0.0.1", port, extensions=[NoteExtension()]) as client:
            print(await client.command(Note()))
            for text in ("Your disk is full.", "QUIT is not a command here.", "."):
                print(await client.command(NoteLine(text)))
        await server.stop()


if __name__ == "__main__":
    trio.run(main)
