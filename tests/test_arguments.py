"""Invalid host names, ports and names for EHLO raise an error that names the argument, before anything is resolved."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
import trio
from helpers import NAME, RecordingHooks, client_tls, listening, server_tls
from trio.testing import memory_stream_pair

import smtp_trio
from smtp_trio import Client, ConnectionLostError, Pool, Server

LONG = "a" * 70 + ".example"


async def connect(**arguments: Any) -> None:
    async with smtp_trio.connect(**{"host": "mx.test", **arguments}):
        raise AssertionError("unreachable")


async def send(**arguments: Any) -> None:
    await smtp_trio.send(b"x", **{"host": "mx.test", "sender": "a@b.test", "recipients": ["c@d.test"], **arguments})


async def pool(**arguments: Any) -> None:
    Pool(**{"host": "mx.test", **arguments})


async def client(**arguments: Any) -> None:
    Client(memory_stream_pair()[0], **arguments)


async def serve(**arguments: Any) -> None:
    await Server(RecordingHooks(), name=NAME).serve(**arguments)


async def open_listeners(**arguments: Any) -> None:
    await smtp_trio.open_listeners(**{"port": 0, **arguments})


async def server(**arguments: Any) -> None:
    Server(RecordingHooks(), **arguments)


CONNECTING: list[Callable[..., Awaitable[None]]] = [connect, send, pool]
CALLS = [
    *((call, name) for call in CONNECTING for name in ("host", "local_address", "server_hostname", "name")),
    (client, "host"),
    (client, "name"),
    (serve, "host"),
    (open_listeners, "host"),
    (server, "name"),
]


class NothingIsResolved(trio.abc.HostnameResolver):
    async def getaddrinfo(self, *args: object, **settings: object) -> NoReturn:
        raise AssertionError("resolved")

    async def getnameinfo(self, *args: object) -> NoReturn:
        raise AssertionError("resolved")


@pytest.mark.parametrize("value", [LONG, "a..b", "a b", "a\0b", "b\u00fc..c"])
@pytest.mark.parametrize(("call", "name"), CALLS, ids=lambda value: getattr(value, "__name__", value))
async def test_invalid_name_is_refused_before_it_is_resolved(
    call: Callable[..., Awaitable[None]], name: str, value: str
) -> None:
    trio.socket.set_custom_hostname_resolver(NothingIsResolved())
    with pytest.raises(ValueError, match=f"^{name}: invalid host name: "):
        await call(**{name: value})


@pytest.mark.parametrize("call", [*CONNECTING, serve, open_listeners])
@pytest.mark.parametrize("port", [-1, 65536])
async def test_invalid_port_is_refused(call: Callable[..., Awaitable[None]], port: int) -> None:
    trio.socket.set_custom_hostname_resolver(NothingIsResolved())
    with pytest.raises(ValueError, match=f"^port must be from . to 65535, got {port}"):
        await call(port=port)


@pytest.mark.parametrize("call", CONNECTING)
async def test_client_cannot_connect_to_port_0(call: Callable[..., Awaitable[None]]) -> None:
    with pytest.raises(ValueError, match=r"^port must be from 1 to 65535, got 0"):
        await call(port=0)


@pytest.mark.parametrize("call", CONNECTING)
async def test_invalid_path(call: Callable[..., Awaitable[None]]) -> None:
    with pytest.raises(ValueError, match=r"^host: invalid path: "):
        await call(host=Path("/run/a\0b"))


@pytest.mark.parametrize("method", ["ehlo", "helo"])
async def test_names_of_single_commands(method: str) -> None:
    async with listening(Server(hooks := RecordingHooks(), name=NAME)) as port:
        async with smtp_trio.connect("127.0.0.1", port, tls="never") as opened:
            for value in (LONG, "a b", "", "::1"):
                with pytest.raises(ValueError, match=r"^name: "):
                    await getattr(opened, method)(value)
            assert (await getattr(opened, method)("b\u00fccher.example")).code == 250
            assert hooks.sessions[0].hello is not None
            assert hooks.sessions[0].hello.domain == "xn--bcher-kva.example"


class ResolveToLoopback(trio.abc.HostnameResolver):
    """Resolves every name to 127.0.0.1, and records the names."""

    def __init__(self) -> None:
        self.names: list[object] = []

    async def getaddrinfo(
        self, host: object, port: object, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
    ) -> Any:
        self.names.append(host)
        return [(trio.socket.AF_INET, trio.socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    async def getnameinfo(self, sockaddr: object, flags: int) -> Any:
        raise NotImplementedError


async def test_u_labels_are_resolved_and_checked_in_the_certificate_as_a_labels() -> None:
    resolver = ResolveToLoopback()
    async with listening(Server(RecordingHooks(), name=NAME, tls=server_tls())) as port:
        trio.socket.set_custom_hostname_resolver(resolver)
        async with smtp_trio.connect("b\u00fccher.example", port, tls="never") as opened:
            assert opened.host == "b\u00fccher.example"
        with pytest.raises(ConnectionLostError, match=r"Hostname mismatch.*xn--strae-oqa\.example"):
            await connect(host="stra\u00dfe.example", port=port, tls="required", ssl_context=client_tls())
        async with smtp_trio.connect(NAME + ".", port, tls="required", ssl_context=client_tls()) as opened:
            assert opened.tls is not None
            assert opened.tls.verified
    names = [name.decode() if isinstance(name, bytes) else name for name in resolver.names]
    assert names == ["xn--bcher-kva.example", "xn--strae-oqa.example", NAME + "."]
