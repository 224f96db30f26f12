"""Connections that begin with a PROXY header, for a client that connects in place of another one."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from helpers import NAME, RecordingHooks, client_tls, listening, server_tls

import smtp_trio
from smtp_trio import Peer, ProxyHeader, ProxyTls, Server

ENDS = ("192.0.2.9", 4242), ("192.0.2.1", 25)
HEADERS = [ProxyHeader(*ENDS, version=1), ProxyHeader(*ENDS, tls=ProxyTls(), checksum=True)]


@pytest.mark.parametrize("tls", ["implicit", "opportunistic", "never"])
@pytest.mark.parametrize("header", HEADERS)
async def test_header_is_sent_first(header: ProxyHeader, tls: Any) -> None:
    hooks = RecordingHooks()
    server = Server(hooks, name=NAME, proxy_from=["127.0.0.1"], tls=server_tls())
    options: dict[str, Any] = {} if tls == "never" else {"ssl_context": client_tls(), "server_hostname": NAME}
    async with listening(server, implicit_tls=tls == "implicit") as port:
        async with smtp_trio.connect("127.0.0.1", port, tls=tls, proxy_header=header, **options) as client:
            await client.noop()
    assert [session.peer for session in hooks.sessions] == [Peer("192.0.2.9", 4242, "tcp")]
    assert hooks.sessions[0].proxy_header == header


async def test_each_connection_of_an_attempt_has_the_header() -> None:
    """The certificate is not valid, so opportunistic TLS connects a second time."""
    hooks = RecordingHooks()
    server = Server(hooks, name=NAME, proxy_from=["127.0.0.1"], tls=server_tls())
    async with listening(server) as port, smtp_trio.connect("127.0.0.1", port, proxy_header=HEADERS[0]) as client:
        assert client.tls is not None
    assert {session.peer.host for session in hooks.sessions} == {"192.0.2.9"}
    assert len(hooks.sessions) == 2


async def test_pool_sends_the_header() -> None:
    hooks = RecordingHooks()
    server = Server(hooks, name=NAME, proxy_from=["127.0.0.1"])
    async with listening(server) as port, smtp_trio.Pool("127.0.0.1", port, proxy_header=HEADERS[1]) as pool:
        await pool.send("a@b.test", ["c@mx.test"], b"x\r\n")
    assert hooks.sessions[0].peer.host == "192.0.2.9"


class Broken(trio.abc.HalfCloseableStream):
    """A stream that cannot be written to."""

    def __init__(self, error: BaseException | None) -> None:
        self.error, self.closed = error, False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self.error is not None:
            raise self.error
        await trio.sleep_forever()

    async def aclose(self) -> None:
        self.closed = True

    async def wait_send_all_might_not_block(self) -> None: ...
    async def send_eof(self) -> None: ...
    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return b""


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (trio.BrokenResourceError(), smtp_trio.ConnectionLostError),
        (None, smtp_trio.TimedOutError),
        (ZeroDivisionError(), ZeroDivisionError),
    ],
)
async def test_header_that_cannot_be_sent(
    error: Exception | None,
    raised: type[Exception],
    monkeypatch: pytest.MonkeyPatch,
    autojump_clock: trio.testing.MockClock,
) -> None:
    stream = Broken(error)

    async def open_stream(*_: object, **__: object) -> Broken:
        return stream

    monkeypatch.setattr(trio, "open_tcp_stream", open_stream)
    with pytest.raises(raised):
        await smtp_trio.send(b"x\r\n", "mx.test", sender="a@b.test", recipients=["c@mx.test"], proxy_header=HEADERS[0])
    assert stream.closed


async def test_header_of_a_wrong_type() -> None:
    with pytest.raises(TypeError, match="proxy_header must be ProxyHeader or None, got b'PROXY UNKNOWN"):
        async with smtp_trio.connect("mx.test", proxy_header=b"PROXY UNKNOWN\r\n"):  # type: ignore[arg-type]
            pass
