"""One mail transaction (RFC 5321 3.3): its flights, and what becomes of each recipient.

A flight is what is written before anybody waits. Where the server pipelines, MAIL, all RCPT and DATA are one (RFC 2920); where it
takes chunks, the message is on board too, and one round trip does for all of it (RFC 3030).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from contextlib import aclosing

from ..protocol import Command, Data, EndOfBody, Mail, Rcpt, Reply, Rset
from ..protocol.commands import END_OF_DATA
from ..protocol.dialogue import MESSAGE, READY
from ..protocol.extensions.chunking import Bdat, BdatLast
from .exchange import Exchange
from .message import Outgoing
from .results import Accepted, ConnectionLostError, Outcome, Rejected, Unknown

#: Commands that are said before an answer is waited for: so many answers fit into any socket's buffer, so that the two sides never
#: wait for each other (RFC 2920 3.1).
GROUP = 100
#: Octets of a message that go out with its envelope, before it is known whether anybody wants them.
ABOARD = 1 << 18
#: Octets of a chunk, where the size of the message is not known.
CHUNK = 1 << 20
#: Octets that are given to the network at a time, each of them with a timeout of its own.
PIECE = 1 << 16

#: What the answer to a message is an answer to.
FINAL = (EndOfBody, BdatLast)
#: RFC 5321 4.5.3.1.10: too many recipients. The rest go in a transaction of their own.
TOO_MANY = frozenset({452, 552})

#: Told of the octets of a message that were handed to the network, and of their number in all, None when that is not known.
Progress = Callable[[int, int | None], object]


class Transaction:
    """Sends one message to some recipients. ``outcomes`` are theirs, by name; ``put_off`` are those that need another."""

    def __init__(
        self,
        talk: Exchange,
        mail: Mail,
        rcpts: Mapping[str, Rcpt],
        message: Outgoing,
        *,
        progress: Progress | None = None,
        lmtp: bool = False,
    ) -> None:
        self.outcomes: dict[str, Outcome] = {}
        self.put_off: dict[str, Rejected] = {}
        #: The last octet of the message is among those that leave next …
        self.loaded: bool = False
        #: … and has left.
        self.whole: bool = False
        #: It left before the message ahead of it was answered.
        self.overlaps: bool = False
        self._talk = talk
        self._protocol = talk.protocol
        self._pipelines = "PIPELINING" in talk.protocol.offered
        #: The message goes by BDAT.
        self.chunking: bool = "CHUNKING" in talk.protocol.offered
        self._mail = mail
        self._rcpts = rcpts
        self._message = message
        self._progress = progress
        self._lmtp = lmtp
        self._asked: deque[str] = deque()  # recipients whose answer is to come
        self._willing: list[str] = []  # recipients that were accepted, and have no outcome yet
        self._open = list(rcpts)  # recipients that have no outcome yet
        self._over = False  # it has failed for everybody
        #: … in a way that leaves servers with it open.
        self.unclear: bool = False
        self._sent = 0

    @property
    def accepted(self) -> bool:
        """Somebody got the message."""
        return any(isinstance(outcome, Accepted) for outcome in self.outcomes.values())

    @property
    def in_the_dark(self) -> bool:
        """The message is whole on its way, and was not answered: if the connection is lost now, nobody knows (RFC 1047)."""
        return self.whole and bool(self._open)

    @property
    def waits(self) -> bool:
        """The server waits for the message."""
        return not self.chunking and self._protocol.dialogue.phase is MESSAGE

    @property
    def shut_out(self) -> bool:
        """The server was not ready for a MAIL."""
        outcomes = self.outcomes.values()
        return any(isinstance(o, Rejected) and isinstance(o.command, Mail) and o.reply.code == 503 for o in outcomes)

    # --- the flights ------------------------------------------------------------------------------------------------

    @property
    def light(self) -> bool:
        """Whether all of it can leave in one flight or two, with the message in one of them."""
        octets = self._message.octets
        small = octets is not None and len(octets) <= (ABOARD if self.chunking else PIECE)
        return small and self._pipelines and len(self._rcpts) < GROUP

    def embark(self) -> int:
        """Say the first flight of a light one: the envelope, and the message if it can be in it. Returns how many answers it gets."""
        octets = self._message.octets or b""
        commands: list[Command] = [
            self._mail,
            *self._rcpts.values(),
            BdatLast(len(octets)) if self.chunking else Data(),
        ]
        if self.overlaps and self.chunking:
            # RFC 3030 2: a refused BDAT may leave a transaction open, and this message would be taken for a part of it.
            commands.insert(0, Rset())
        for command in commands:
            self._protocol.send_command(command)
        self._asked.extend(self._rcpts)
        if self.chunking:
            self._load(octets)
        return len(commands)

    def follow(self) -> None:
        """Say the second flight, if there is one: the message, where it was asked for."""
        if self._protocol.dialogue.phase is MESSAGE and not self.loaded:
            # RFC 2920 3.1: a lone dot, if nobody wants it.
            self._load((self._message.octets or b"") if self._willing else b"")
            self._end()

    def _load(self, octets: bytes) -> None:
        self._protocol.send_body(octets)
        self._advance(len(octets))
        self.loaded = True

    def _end(self) -> None:
        self._protocol.end_body(max(len(self._willing), 1) if self._lmtp else 1)
        self.loaded = True

    async def run(self) -> None:
        """The whole transaction. Raises ConnectionLostError, TimedOutError or RemoteProtocolError, and what the message's iterable raises."""
        if self.light:
            for flight in (self.embark, self.follow):
                flight()
                await depart(self._talk, self)
                await self.hear()
        else:
            await self._envelope()
            if self._protocol.dialogue.phase is MESSAGE:
                await self._lines()
            elif self.chunking and self._willing:
                await self._chunks()
        if self._talk.usable and (self.unclear or self._protocol.dialogue.phase is not READY):
            await self._talk.ask(Rset())  # RFC 2920 3.1: nothing must be left of a transaction that nobody wants

    async def _envelope(self) -> None:
        """MAIL, RCPT for each, and DATA where the message goes by it."""
        self._asked.extend(self._rcpts)
        for command in (self._mail, *self._rcpts.values(), *([] if self.chunking else [Data()])):
            if not self._pipelines or len(self._protocol.dialogue.unanswered) == GROUP:
                await self.hear()
            if self._over or (isinstance(command, Data) and not (self._willing or self._protocol.dialogue.unanswered)):
                return
            self._protocol.send_command(command)
        await self.hear()

    async def _lines(self) -> None:
        """The message behind 354, and its end."""
        taken = True
        if self._willing:  # else a lone dot must do (RFC 2920 3.1)
            self._talk.disarm()
            async with aclosing(self._message.pieces()) as pieces:
                async for piece in pieces:
                    taken = await self._give(piece)
                    if not taken:
                        break
        if not taken:  # no RFC has an answer before the end, but the server has most likely said why
            reply = await self._talk.reply()
            while self._open:  # in LMTP too this holds for all: the message has no end
                self.settle(END_OF_DATA, reply)
            return
        self._end()
        await depart(self._talk, self)
        await self.hear()

    async def _chunks(self) -> None:
        """The message in chunks. One of them may be unanswered while the next goes out, where the server pipelines."""
        if self._message.octets is not None:
            await self._chunk(BdatLast(len(self._message.octets)), self._message.octets)
        else:
            held = bytearray()
            self._talk.disarm()
            async with aclosing(self._message.pieces()) as pieces:
                async for piece in pieces:
                    held += piece
                    while len(held) > CHUNK and not self._over:
                        await self._chunk(Bdat(CHUNK), bytes(held[:CHUNK]))
                        del held[:CHUNK]
                        await self.hear(leave=int(self._pipelines))
                        self._talk.disarm()
                    if self._over:  # RFC 3030 2: no more of it after the first failure
                        break
            if not self._over:
                await self._chunk(BdatLast(len(held)), bytes(held))
        await self.hear()

    async def _chunk(self, command: Bdat, octets: bytes) -> None:
        self._protocol.send_command(command)
        for start in range(0, len(octets) or 1, PIECE):
            if not await self._give(octets[start : start + PIECE], last=command.last and start + PIECE >= len(octets)):
                return

    async def _give(self, piece: bytes, *, last: bool = False) -> bool:
        """A piece of the message. False: the server takes no more of it."""
        self._protocol.send_body(piece)
        self.loaded = last
        taken = await depart(self._talk, self)
        self._advance(len(piece))
        if taken and self._protocol.awaiting_reply is None:  # has it answered before the end?
            return not (self._protocol.has_unread_input or (self._talk.wire.quick and self._talk.wire.receive_now()))
        return taken

    def _advance(self, octets: int) -> None:
        self._sent += octets
        if self._progress is not None:
            self._progress(self._sent, self._message.size)

    # --- the answers ------------------------------------------------------------------------------------------------

    async def hear(self, leave: int = 0) -> None:
        """Send what is still here, and hear the answers to what was asked, but for so many."""
        await self._talk.flush()
        asked = self._protocol.dialogue.unanswered
        while len(asked) > leave:
            command = asked[0]
            if self._lmtp and isinstance(command, BdatLast) and len(asked) == 1 and len(self._willing) > 1:
                self._protocol.expect_replies(len(self._willing) - 1)
            self.settle(command, self._talk.heard() or await self._talk.reply())
        if self._protocol.closed and self._open:
            # RFC 5321 3.8: a 421 to the message ahead of it, so nobody has looked at this one.
            self.whole = self.loaded = False
            raise ConnectionLostError(self._mail, "the server has left before it came to this message")

    def settle(self, command: Command, reply: Reply) -> None:
        """One command was answered: what does that mean, and for whom?"""
        final = isinstance(command, FINAL)
        if isinstance(command, Rcpt) and reply.code != 421:
            self._settle_recipient(self._asked.popleft(), command, reply)
        elif final and self._willing and reply.code != 421:
            self.unclear = reply.refused and isinstance(command, Bdat)
            for name in self._willing[: 1 if self._lmtp else None]:  # RFC 2033 4.2: an answer for each, in order
                self._decide(name, Accepted(name, reply) if reply.accepted else Rejected(name, command, reply))
        elif reply.refused:
            self._over = True
            # RFC 5321 4.1.1.4 has a refused DATA end the transaction. Not all servers do, nor all with a refused BDAT.
            self.unclear = isinstance(command, Data | Bdat)
            for name in tuple(self._open):
                self._decide(name, Rejected(name, command, reply))

    def _settle_recipient(self, name: str, command: Rcpt, reply: Reply) -> None:
        if name not in self._open:  # MAIL was refused: this tells nothing new
            return
        if reply.accepted:
            self._willing.append(name)
        elif reply.code in TOO_MANY and self._willing and self._message.repeatable:
            self._open.remove(name)
            self.put_off[name] = Rejected(name, command, reply)
        else:
            self._decide(name, Rejected(name, command, reply))

    def _decide(self, name: str, outcome: Outcome) -> None:
        self.outcomes[name] = outcome
        self._open.remove(name)
        if name in self._willing:
            self._willing.remove(name)

    def known(self, reason: str) -> dict[str, Outcome]:
        """The outcomes, and where the message is whole on its way, "unknown" for those that have none."""
        return {**self.outcomes, **{name: Unknown(name, reason) for name in self._open if self.whole}}


async def depart(talk: Exchange, *transactions: Transaction) -> bool:
    """Send what these transactions have said. False: the server takes no more, as `Exchange.flush` has it.

    Who is cancelled in that cannot know what has left, so the last octets have, for all we know.
    """
    taken = True
    try:
        taken = await talk.flush()
    finally:
        for transaction in transactions:
            transaction.whole |= taken and transaction.loaded
    return taken
