"""The same octets are sent to several servers: each sees as many messages in them as it is documented to, and the same.

SMTP_TRIO_BOUNDARIES is the number of sessions (default: 150), and SMTP_TRIO_BOUNDARIES_SEED selects others.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
import trio

import smtp_trio
from smtp_trio.protocol import framing

from .boundaries import KINDS, messages, segments, session
from .programs import HOST

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .servers import Server

pytestmark = pytest.mark.interop

SESSIONS = int(os.environ.get("SMTP_TRIO_BOUNDARIES", "150"))
SEED = int(os.environ.get("SMTP_TRIO_BOUNDARIES_SEED", "1"))
#: The documented differences of each server from the strictest reading: kinds of KINDS. Everything else is an error.
#: Our server does not always close the connection: it does if the octets arrive before its reply.
DOCUMENTED: Mapping[str, Sequence[tuple[str, ...]]] = {
    "smtp-trio": [("refuses", "closes"), ("refuses",)],
    "aiosmtpd": [("command-lf",)],
    "postfix": [
        ("command-lf", "line-lf", "cr-space", "leading-cr")
    ],  # 3.7, and newer ones with smtpd_forbid_bare_newline = no
}
ACCEPTED = re.compile(rb"^250 2\.0\.0 (?:Ok: (?:\d+ bytes )?queued|stored)", re.MULTILINE)
START = re.compile(rb"\r\n(\d+)\r")


def sessions(name: str) -> list[bytes]:
    """Return the sessions for a server. aiosmtpd does not offer CHUNKING, and would take a chunk for commands."""
    return [session(SEED, number, chunking=name != "aiosmtpd") for number in range(SESSIONS)]


async def send(port: int, octets: bytes) -> bytes:
    """Send the octets in segments, without waiting for replies, and return the replies."""
    replies = b""
    async with await trio.open_tcp_stream(HOST, port) as stream:
        # The server may close the connection before it has read everything. Its replies until then can still be read.
        with suppress(trio.BrokenResourceError):
            for segment in segments(SEED, octets):
                await stream.send_all(segment)
        with suppress(trio.BrokenResourceError):
            async for received in stream:
                replies += received
    return replies


async def send_all(port: int, streams: Sequence[bytes]) -> int:
    """Send each of the streams in a session of its own, and return how many messages the replies accept."""
    limiter = trio.CapacityLimiter(4)
    accepted = 0

    async def send_one(octets: bytes) -> None:
        nonlocal accepted
        async with limiter:
            with trio.move_on_after(120) as scope:
                replies = await send(port, octets)
                accepted += len(ACCEPTED.findall(replies))
        assert not scope.cancelled_caught, f"the server does not close the connection after {octets!r}"

    async with trio.open_nursery() as nursery:
        for octets in streams:
            nursery.start_soon(send_one, octets)
    return accepted


def check(name: str, streams: Sequence[bytes], received: Sequence[bytes]) -> Counter[str]:
    """Check the messages that a server has received, and return how many sessions show each documented difference."""
    by_session: dict[int, list[bytes]] = {}
    for message in received:
        start = START.match(message)
        assert start, f"{name}: a message that does not begin as those of the sessions: {message!r}"
        by_session.setdefault(int(start[1]), []).append(message)
    shown: Counter[str] = Counter()
    for number, octets in enumerate(streams):
        seen = sorted(by_session.get(number, ()))
        kinds = next((kinds for kinds in DOCUMENTED[name] if seen == messages(octets, kinds)), None)
        assert kinds is not None, (
            f"{name}: a difference that is not documented, seed {SEED}, session {number}\n"
            f"sent:     {octets!r}\nreceived: {seen}\n"
            f"expected: {[messages(octets, kinds) for kinds in DOCUMENTED[name]]}\n"
            f"strict:   {messages(octets)}"
        )
        if seen != messages(octets):
            # A kind is shown if the messages would be others without it.
            shown.update(k for k in kinds if seen != messages(octets, {*kinds} - {k}))
    print(f"{name}: {len(received)} messages in {len(streams)} sessions")
    for kind, count in shown.items():
        print(f"  {count:4} sessions: {KINDS[kind]}")
    return shown


class Collect(smtp_trio.Hooks):
    """Hooks that keep all messages."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []

    async def data(self, session: smtp_trio.Session, body: smtp_trio.Body) -> None:
        self.messages.append(await body.read())


async def collect(streams: Sequence[bytes]) -> list[bytes]:
    """Send the streams to our server, and return the messages that it has received."""
    hooks = Collect()
    server = smtp_trio.Server(hooks, name="localhost")
    async with trio.open_nursery() as nursery:
        listeners: list[trio.SocketListener] = await nursery.start(server.serve, 0, HOST)
        await send_all(listeners[0].socket.getsockname()[1], streams)
        await server.stop()
    return hooks.messages


async def test_our_server_sees_no_message_that_the_strict_reading_does_not_have() -> None:
    streams = sessions("smtp-trio")

    received = await collect(streams)

    shown = check("smtp-trio", streams, received)
    assert not Counter(received) - Counter(message for octets in streams for message in messages(octets))
    assert received
    assert shown["refuses"]


@pytest.mark.parametrize("server", ["aiosmtpd", "postfix"], indirect=True)
async def test_other_servers_differ_as_documented(server: Server) -> None:
    streams = sessions(server.name)

    accepted = await send_all(server.port, streams)

    shown = check(server.name, streams, server.received(accepted))
    if SEED == 1 and SESSIONS >= 150:  # a few sessions of another seed may not show the rarest kind
        assert {*shown} == {kind for kinds in DOCUMENTED[server.name] for kind in kinds}


class LenientReader(framing.DotTerminatedReader):
    """A reader with the fault that makes SMTP smuggling possible: a dot between bare LFs ends a message too."""

    __slots__ = ()

    def read(self) -> bytes:
        self._buffer.data = re.sub(rb"(?<!\r)\n\.\n", b"\r\n.\r\n", self._buffer.data)
        return super().read()


async def test_a_server_that_takes_lf_for_the_end_of_a_message_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smtp_trio.protocol.server.DotTerminatedReader", LenientReader)
    streams = sessions("smtp-trio")

    received = await collect(streams)

    assert Counter(received) - Counter(message for octets in streams for message in messages(octets))
    with pytest.raises(
        AssertionError, match=r"a difference that is not documented, seed \d+, session \d+\n *sent: +b'EHLO"
    ):
        check("smtp-trio", streams, received)
