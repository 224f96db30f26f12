"""One mail transaction (RFC 5321 3.3): its commands, the message, and the outcome for each recipient."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from contextlib import aclosing

import trio

from ..protocol import Command, Data, EndOfData, Mail, Rcpt, Reply, Rset
from ..protocol.arguments import check_plain_function, check_type
from ..protocol.commands import END_OF_DATA
from ..protocol.dialogue import MESSAGE, READY
from ..protocol.extensions.chunking import Bdat, BdatLast
from .exchange import Exchange
from .message import PIECE, PreparedMessage
from .results import Accepted, ConnectionLostError, DeliveryRecord, PartialResult, Rejected

#: The most commands in one pipelined group. So many replies fit into the buffers of any socket, so that client and
#: server cannot both wait for the other side to read (RFC 2920 3.1).
GROUP = 100
#: Octets of a message that are sent by BDAT in one group with the envelope, before it is known whether a recipient is
#: accepted. With this limit and that of GROUP, the octets fit into the buffers of a connection. A server that is slow to
#: answer RCPT does not read the message before that, so the write of a larger one might wait for longer than
#: ``timeouts.block``.
GROUP_BODY = 1 << 15
#: Octets of a BDAT chunk if the message is not in memory.
CHUNK = 1 << 20
#: Octets of a message that are sent before other tasks run. If the server reads as fast as the client writes, no write
#: has to wait, so that a large message in memory would be sent without a checkpoint.
TURN_OCTETS = 1 << 20

#: The one instance that is needed.
DATA = Data()
#: The commands whose reply accepts or rejects the message.
FINAL = (EndOfData, BdatLast)
#: RFC 5321 4.5.3.1.10: too many recipients. The others are sent in a further transaction.
TOO_MANY_RECIPIENTS = frozenset({452, 552})

#: A function that is called with the number of octets of the message that were sent so far, and of the whole message
#: (None if that is not known).
Progress = Callable[[int, int | None], object]


def check_reporting(progress: object, record: object) -> None:
    """Raise TypeError for a ``progress`` or a ``record`` that cannot be used."""
    if progress is not None:
        check_plain_function(progress, "progress")
    if record is not None:
        check_type(record, "record", DeliveryRecord, optional=True)


# One transaction as pipelined groups, and how it recovers from a refusal
#
# A group is what is sent before the client waits for a reply (RFC 2920). How few groups a message needs depends on the
# server:
#
#   PIPELINING and CHUNKING     MAIL RCPT... BDAT with the message                         one round trip (RFC 3030 4.2)
#   PIPELINING                  MAIL RCPT... DATA | the message and its end                two
#   neither                     MAIL | RCPT | ... | DATA | the message and its end         one for each command
#
# `fits_group` is True for the first two rows: a small message in memory and fewer than GROUP recipients.
# `send_group` queues the first group and `send_body` the second one. They only queue, so that `send_many` can put the
# group of the next message into the same write (see pipeline.py). Everything else (a large message, a file, an
# iterable, many recipients) goes through `_send_envelope` and then `_send_data` or `_send_chunks`, which send one piece
# at a time.
#
# In LMTP a message is not sent by BDAT before all replies to the commands before it are known. With no accepted recipient
# BDAT LAST has no reply (RFC 2033 4.3), and some servers send one all the same; likewise after a chunk that was refused.
#
# In a group, commands are sent before it is known whether the earlier ones succeed. Each reply is settled by the
# command it belongs to, in `settle`:
#
# * RCPT decides about its own recipient only. 452 and 552 postpone it to a further transaction, if at least one
#   recipient was accepted and the message can be read again.
# * A refused MAIL or DATA, or a refused BDAT that is not the last, decides about all recipients. The replies to the
#   RCPT commands after a refused MAIL have no effect.
# * The reply to the end of the message decides about all accepted recipients, and in LMTP about the first of them that
#   has no outcome yet (RFC 2033 4.2).
# * 421 may take the place of any reply (RFC 5321 3.8); it decides about all recipients, since the server closes the
#   connection.
#
# After a refusal client and server may disagree on whether the transaction has ended:
#
# * 354 although no recipient was accepted: the client must send the end of a message without content (RFC 2920 3.1).
# * MAIL was accepted and every RCPT refused: the transaction is still open, and RSET ends it.
# * Refused DATA: RFC 5321 4.1.1.4 ends the transaction, but some servers (Postfix, for one) keep it. The same is true
#   of a refused BDAT (RFC 3030 2). A MAIL after that would be refused as nested, or worse, the recipients of the next
#   message would be added to the old ones. `needs_rset` remembers this, and RSET is sent before the next MAIL.
#
# An outcome is stored once, in the PartialResult that `Client.last_results` reads too. Its flag `sent` decides whether
# a lost connection makes the pending recipients Unknown. It is set when the last octet was handed to the network, and
# also when a write of that octet was cancelled or has failed, unless it is known that the octet was not sent (`flush`).
class Transaction:
    """One transaction, which sends a message to some of its recipients and stores their outcomes in ``partial``."""

    def __init__(
        self,
        exchange: Exchange,
        mail: Mail,
        rcpts: Mapping[str, Rcpt],
        message: PreparedMessage,
        partial: PartialResult,
        progress: Progress | None = None,
    ) -> None:
        self.partial: PartialResult = partial
        #: Recipients that need another transaction.
        self.postponed: list[str] = []
        #: The message is sent by BDAT (RFC 3030), otherwise by DATA.
        self.chunking: bool = "CHUNKING" in exchange.protocol.offered
        #: This transaction was queued before the previous message had its reply.
        self.overlapping: bool = False
        #: The server refused the MAIL of an overlapping transaction with 503: it has to be sent again, after the
        #: previous reply.
        self.out_of_sequence: bool = False
        #: A refusal may have left the transaction open on the server: RSET must come before the next MAIL.
        self.needs_rset: bool = False
        self._exchange = exchange
        self._protocol = exchange.protocol
        self._pipelining = "PIPELINING" in exchange.protocol.offered
        self._mail = mail
        self._rcpts = rcpts
        self._message = message
        self._progress = progress
        self._rcpt_queue: deque[str] = deque()  # recipients whose RCPT has no reply yet
        self._accepted: list[str] = []  # recipients whose RCPT was accepted, and that have no outcome yet
        self._end_queued = False  # the last octet of the message is among those that are sent next, or was sent
        self._octets_sent = 0
        partial.begin(rcpts)

    @property
    def awaiting_body(self) -> bool:
        """True if the server has sent 354 and waits for the message."""
        return not self.chunking and self._protocol.dialogue.phase is MESSAGE

    # --- small messages: one group, or two --------------------------------------------------------------------------

    @property
    def fits_group(self) -> bool:
        """True if the commands fit into one pipelined group, and the message into it (BDAT) or a second one (DATA)."""
        octets = self._message.octets
        small = octets is not None and len(octets) <= (GROUP_BODY if self.chunking else PIECE)
        return small and self._pipelining and len(self._rcpts) < GROUP and not (self.chunking and self._exchange.lmtp)

    def send_group(self) -> int:
        """Queue MAIL, RCPT... and DATA or BDAT as one pipelined group; return the number of replies to expect."""
        octets = self._message.octets or b""
        commands: list[Command] = [
            self._mail,
            *self._rcpts.values(),
            BdatLast(len(octets)) if self.chunking else DATA,
        ]
        if self.overlapping and self.chunking:
            # RFC 3030 2: if the previous BDAT is refused, its transaction may stay open; this message would become a
            # part of it.
            commands.insert(0, Rset())
        for command in commands:
            self._protocol.send_command(command)
        self._rcpt_queue.extend(self._rcpts)
        if self.chunking:
            self._protocol.send_body(octets)
            self._report(len(octets))
            self._end_queued = True
        return len(commands)

    def send_body(self) -> bool:
        """Queue the message and its end if the server waits for them after 354; return whether it does."""
        if self._protocol.dialogue.phase is not MESSAGE or self._end_queued:
            return False
        # RFC 2920 3.1: no content without a recipient
        octets = (self._message.octets or b"") if self._accepted else b""
        self._protocol.send_body(octets)
        self._report(len(octets))
        self._queue_end()
        return True

    def _queue_end(self) -> None:
        self._protocol.end_body(max(len(self._accepted), 1) if self._exchange.lmtp else 1)
        self._end_queued = True

    # --- the whole transaction --------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Send the whole transaction and receive its replies.

        Raises `ConnectionLostError`, `TimedOutError` and RemoteProtocolError, and the exceptions of the message's
        iterable.
        """
        if self.fits_group:
            self.send_group()
            await flush(self._exchange, self)
            await self.receive_replies()
            if self.send_body():
                await flush(self._exchange, self)
                await self.receive_replies()
        else:
            await self._send_envelope()
            if self._protocol.dialogue.phase is MESSAGE:
                await self._send_data()
            elif self.chunking and self._accepted:
                await self._send_chunks()
        if (self.needs_rset or self._protocol.dialogue.phase is not READY) and self._exchange.usable:
            await self._exchange.request(Rset())

    async def _send_envelope(self) -> None:
        """Send MAIL and RCPT, and DATA if the message is sent by it, in groups or one by one; receive the replies."""
        asked = self._protocol.dialogue.unanswered
        self._rcpt_queue.extend(self._rcpts)
        for command in (self._mail, *self._rcpts.values(), *([] if self.chunking else [DATA])):
            if asked and (not self._pipelining or len(asked) == GROUP):
                await self._exchange.flush()
                await self.receive_replies()
            if not self.partial.pending or (isinstance(command, Data) and not (self._accepted or asked)):
                return
            self._protocol.send_command(command)
        await self._exchange.flush()
        await self.receive_replies()

    async def _send_data(self) -> None:
        """Send the message and its end after 354, and receive the reply."""
        writable = True
        if self._accepted:  # otherwise only the end is sent (RFC 2920 3.1)
            async with aclosing(self._message.pieces()) as pieces:
                async for piece in pieces:
                    writable = await self._send_piece(piece)
                    if not writable:
                        break
        if not writable:
            # RFC 5321 has no reply before the end of the message, but a server that stops reading has most likely sent
            # one. Its reply is for all recipients, in LMTP too, since the message has no end.
            reply = await self._exchange.receive_reply()
            for name in tuple(self.partial.pending):
                self.partial.decide(name, Rejected(name, END_OF_DATA, reply))
            self._accepted.clear()
            return
        self._queue_end()
        await flush(self._exchange, self)
        await self.receive_replies()

    async def _send_chunks(self) -> None:
        """Send the message in chunks; with PIPELINING each before the reply to the previous one (RFC 3030 4.2)."""
        if self._message.octets is not None:
            await self._send_chunk(BdatLast(len(self._message.octets)), self._message.octets)
        else:
            buffer = bytearray()
            async with aclosing(self._message.pieces()) as pieces:
                async for piece in pieces:
                    buffer += piece
                    while len(buffer) > CHUNK and self.partial.pending:
                        await self._send_chunk(Bdat(CHUNK), bytes(buffer[:CHUNK]))
                        del buffer[:CHUNK]
                        await self.receive_replies(leave=int(self._pipelining and not self._exchange.lmtp))
                    if not self.partial.pending:  # RFC 3030 2: no more chunks after the first one that is refused
                        break
            if self.partial.pending:
                await self._send_chunk(BdatLast(len(buffer)), bytes(buffer))
        await self.receive_replies()

    async def _send_chunk(self, command: Bdat, octets: bytes) -> None:
        self._protocol.send_command(command)
        for start in range(0, len(octets) or 1, PIECE):
            last = command.last and start + PIECE >= len(octets)
            if not await self._send_piece(octets[start : start + PIECE], last=last):
                return

    async def _send_piece(self, piece: bytes, *, last: bool = False) -> bool:
        """Send a piece of the message; return False if the server does not accept more of it."""
        self._protocol.send_body(piece)
        self._end_queued = last
        writable = await flush(self._exchange, self)
        turn = self._octets_sent // TURN_OCTETS
        self._report(len(piece))
        if self._octets_sent // TURN_OCTETS > turn:
            await trio.lowlevel.checkpoint()
        if writable and self._protocol.awaiting_reply is None:  # sending after 354: is there a reply already?
            wire = self._exchange.wire
            return not (self._protocol.has_unread_input or (wire.quick and wire.receive_now()))
        return writable

    def _report(self, octets: int) -> None:
        self._octets_sent += octets
        if self._progress is not None:
            self._progress(self._octets_sent, self._message.size)

    # --- replies ----------------------------------------------------------------------------------------------------

    async def receive_replies(self, leave: int = 0) -> None:
        """Receive the replies to the commands sent so far, except for the last ``leave`` of them."""
        exchange, partial = self._exchange, self.partial
        asked = self._protocol.dialogue.unanswered
        while len(asked) > leave:
            command = asked[0]
            if exchange.lmtp and isinstance(command, BdatLast) and len(asked) == 1 and len(self._accepted) > 1:
                self._protocol.expect_replies(len(self._accepted) - 1)
            try:
                # Most replies of a group arrive together. A coroutine for each of them cost 6,000 instructions for a message.
                reply = exchange.received_reply(command)
                if reply is None:
                    reply = await exchange.wait_for_reply()
            except ConnectionLostError as exc:
                # 221: as 421, the server has not processed what follows this command, although it was sent.
                if exc.reply is not None and not isinstance(command, FINAL):
                    partial.sent = self._end_queued = False
                raise
            self.settle(command, reply)
        if partial.pending and self._protocol.closed:
            # RFC 5321 3.8: 421 to the previous message, so the server has not processed this one, although it was sent.
            partial.sent = self._end_queued = False
            raise ConnectionLostError(self._mail, "the server closed the connection before it processed this message")

    def settle(self, command: Command, reply: Reply) -> None:
        """Store what the reply to one command means for the recipients."""
        partial = self.partial
        if isinstance(command, Rcpt) and reply.code != 421:
            self._settle_rcpt(self._rcpt_queue.popleft(), command, reply)
        elif isinstance(command, FINAL) and self._accepted and reply.code != 421:
            self.needs_rset = reply.refused and isinstance(command, Bdat)
            count = 1 if self._exchange.lmtp else len(self._accepted)
            for name in self._accepted[:count]:
                partial.decide(name, Accepted(name, reply) if reply.accepted else Rejected(name, command, reply))
            del self._accepted[:count]
        elif reply.refused:
            self.needs_rset = isinstance(command, Data | Bdat)
            self.out_of_sequence |= self.overlapping and reply.code == 503 and isinstance(command, Mail)
            for name in tuple(partial.pending):
                partial.decide(name, Rejected(name, command, reply))
            self._accepted.clear()

    def _settle_rcpt(self, name: str, command: Rcpt, reply: Reply) -> None:
        if name not in self.partial.pending:  # MAIL was refused, and the outcome is known already
            return
        if reply.accepted:
            self._accepted.append(name)
            return
        self.partial.decide(name, Rejected(name, command, reply))
        if reply.code in TOO_MANY_RECIPIENTS and self._accepted and self._message.repeatable:
            self.postponed.append(name)


async def flush(exchange: Exchange, *transactions: Transaction) -> bool:
    """Send what these transactions have queued; return False if the connection cannot be written to any more.

    Afterwards a transaction whose message is complete counts as sent. This includes a write that was cancelled: the last
    octet may have been sent. A write that failed may have sent everything except on some streams (`fails_short`), where
    it has not sent the end of the last transaction, but perhaps those of the others, which precede it.
    """
    open_before = writable = not exchange.wire.broken  # otherwise nothing is written
    end_in_doubt = True
    try:
        writable = await exchange.flush()
        end_in_doubt = exchange.wire.in_doubt
    finally:
        for transaction in transactions:
            sent = writable or (open_before and (end_in_doubt or transaction is not transactions[-1]))
            transaction.partial.sent |= sent and transaction._end_queued
    return writable
