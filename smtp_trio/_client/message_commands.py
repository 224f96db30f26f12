"""DATA, BDAT and BURL as single commands, for an envelope that is not known; `transaction` sends whole messages."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager

import trio

from ..protocol import Data, LocalProtocolError, RemoteProtocolError, Reply
from ..protocol.commands import END_OF_DATA
from ..protocol.extensions.burl import Burl, BurlLast, check_url
from ..protocol.extensions.chunking import Bdat, BdatLast
from .exchange import Exchange, check_reply
from .in_doubt import delivery_unknown
from .message import NUL, Message, prepare_message
from .results import ConnectionLostError, PartialResult, TimedOutError


async def send_data(exchange: Exchange, message: Message) -> Reply:
    """Send DATA, the message and its end. Return the reply to the message."""
    if exchange.lmtp:
        raise LocalProtocolError("LMTP replies for each recipient: use send instead of data")
    utf8 = exchange.protocol.utf8
    ready = await prepare_message(message, eight_bit="8BITMIME" in exchange.protocol.offered, utf8=utf8, smtputf8=utf8)
    async with _end_of_message(exchange) as end:
        exchange.check_unsolicited(Data())
        check_reply(Data(), await exchange.request(Data()))
        async with aclosing(ready.pieces()) as pieces:
            async for piece in pieces:
                exchange.protocol.send_body(piece)
                await exchange.flush()
                await trio.lowlevel.checkpoint()  # a write that does not wait is not a checkpoint
        exchange.protocol.end_body()
        await _flush(exchange, end)
        return check_reply(END_OF_DATA, await exchange.receive_reply())


async def send_chunk(exchange: Exchange, octets: bytes, *, last: bool) -> Reply:
    """Send one chunk of a message by BDAT. Return its reply."""
    if exchange.lmtp and last:
        raise LocalProtocolError("LMTP replies for each recipient: use send instead of bdat")
    command = BdatLast(len(octets)) if last else Bdat(len(octets))
    if b"\0" in octets and not exchange.protocol.binary:
        raise LocalProtocolError(NUL)
    async with _end_of_message(exchange) as end:
        exchange.check_unsolicited(command)
        exchange.protocol.send_command(command)
        exchange.protocol.send_body(octets)
        await (_flush(exchange, end) if last else exchange.flush())
        return check_reply(command, await exchange.receive_reply())


async def send_url(exchange: Exchange, url: str, *, last: bool) -> Reply:
    """Send BURL. Return its reply."""
    command = (BurlLast if last else Burl)(check_url(url))
    async with _end_of_message(exchange) as end:
        exchange.check_unsolicited(command)
        exchange.protocol.send_command(command)
        await (_flush(exchange, end) if last else exchange.flush())
        return check_reply(command, await exchange.receive_reply())


@asynccontextmanager
async def _end_of_message(exchange: Exchange) -> AsyncGenerator[PartialResult]:
    """An operation that sends the end of a message, for which the envelope is not known: `data` and `bdat`."""
    partial = PartialResult("", (), exchange.tls)
    try:
        async with exchange.operation():
            yield partial
    except (ConnectionLostError, TimedOutError, RemoteProtocolError) as exc:
        if partial.sent:
            raise delivery_unknown(exc, partial) from exc
        raise


async def _flush(exchange: Exchange, end: PartialResult) -> None:
    """Send the end of the message, and note whether it may have been sent, as `transaction.flush` does."""
    end.sent = not exchange.wire.broken
    end.sent = await exchange.flush() or (end.sent and exchange.wire.in_doubt)
