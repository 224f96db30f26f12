"""An extension in one file: ETRN (RFC 1985).

With this command a client asks a server to send the mail that it holds for a host.

    python examples/etrn.py

starts a server with the hook that the extension declares, sends it ETRN commands, and
prints the replies.
"""

# pyright: strict

import re
from functools import partial
from typing import Self

import trio
from attrs import frozen

from smtp_trio import (
    Command,
    Hooks,
    Reply,
    ReplyError,
    Server,
    Session,
    connect,
    standard,
)
from smtp_trio.protocol import BadCommandError, Extension, Table
from smtp_trio.protocol.dialogue import READY
from smtp_trio.protocol.params import KnownParams


@frozen
class Etrn(Command):
    """ETRN: send the mail that is queued for ``host`` (RFC 1985 5)."""

    host: str

    verb = "ETRN"
    usage = "ETRN host"
    hook = "etrn"
    codes = frozenset({250, 251, 252, 253, 458, 459})  # RFC 1985 5.3

    def encode(self) -> str:
        return f"ETRN {self.host}"

    @classmethod
    def decode(cls, argument: str, known_params: KnownParams) -> Self:
        host = argument.strip(" \t")
        if re.fullmatch(r"[A-Za-z0-9.-]+", host) is None:
            raise BadCommandError(Reply(501, f"Syntax: {cls.usage}", "5.5.4"))
        return cls(host)


class EtrnExtension(Extension):
    """Remote queue starting (RFC 1985)."""

    keyword = "ETRN"
    verbs = (Etrn,)
    # RFC 1985 5: not during a transaction.
    table = Table(accepted={Etrn: {READY: READY}})


class Queues(Hooks):
    """A server's hooks. ``waiting`` is the number of messages for each host."""

    def __init__(self, waiting: dict[str, int]) -> None:
        self.waiting = waiting

    async def etrn(self, session: Session, command: Etrn) -> Reply:
        count = self.waiting.get(command.host)
        if count is None:
            return Reply(459, f"Node {command.host} not allowed", "4.7.1")
        if count == 0:
            return Reply(251, f"OK, no messages waiting for node {command.host}")
        self.waiting[command.host] = 0  # here a real server would start its deliveries
        text = f"OK, {count} pending messages for node {command.host} started"
        return Reply(253, text)


async def main() -> None:
    server = Server(Queues({"example.org": 2}), extensions=standard(EtrnExtension()))
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(server.serve, 0, "127.0.0.1"))
        port = listeners[0].socket.getsockname()[1]
        async with connect("127.0.0.1", port, extensions=[EtrnExtension()]) as client:
            for host in ("example.org", "example.org", "example.com"):
                try:
                    print(await client.command(Etrn(host)))
                except ReplyError as error:
                    print(error)
        await server.stop()


if __name__ == "__main__":
    trio.run(main)
