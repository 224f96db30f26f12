"""Arguments of a wrong type or value raise at once, in errors that name the argument."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from helpers import NAME, RecordingHooks
from trio.testing import memory_stream_pair

import smtp_trio
from smtp_trio import BearerToken, Client, ClientTimeouts, Peer, Pool, Server, Timeouts
from smtp_trio.testing import Faults, Inbox, memory_pair, open_memory_server

Call = Callable[..., Awaitable[Any]]


async def connect(**arguments: Any) -> None:
    async with smtp_trio.connect("mx.test", **arguments):
        raise AssertionError("unreachable")


async def send(**arguments: Any) -> None:
    await smtp_trio.send(b"x", "mx.test", sender="a@b.test", recipients=["c@d.test"], **arguments)


async def pool(**arguments: Any) -> None:
    Pool("mx.test", **arguments)


async def client(**arguments: Any) -> None:
    Client(memory_stream_pair()[0], host="mx.test", **arguments)


@asynccontextmanager
async def nursery() -> AsyncIterator[trio.Nursery]:
    async with trio.open_nursery() as opened:
        yield opened
        opened.cancel_scope.cancel()


async def pair(**arguments: Any) -> None:
    async with nursery() as opened:
        try:
            await memory_pair(opened, **{"server": Inbox(), **arguments})
        except (TypeError, ValueError) as exc:
            error = exc
        else:
            return
    raise error


async def memory_server(**arguments: Any) -> None:
    async with open_memory_server(**arguments):
        pass


async def server(**arguments: Any) -> None:
    Server(**{"hooks": RecordingHooks(), "name": NAME, **arguments})


CLIENTS: list[Call] = [connect, send, pool, client, pair]


@pytest.fixture(autouse=True)
def no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(trio, "open_tcp_stream", refuse)


@pytest.mark.parametrize("call", CLIENTS)
@pytest.mark.parametrize("value", [True, False, "", "starttls", "Required", "none", b"required", 1, ["required"]])
async def test_unknown_tls_mode_does_not_mean_cleartext(call: Call, value: object) -> None:
    with pytest.raises(
        ValueError, match=r'^tls must be "opportunistic", "required", "implicit", "never" or None, got '
    ):
        await call(tls=value)


SERVER_CONTEXT = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
CLIENT_CONTEXT = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@pytest.mark.parametrize("call", CLIENTS)
@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("ssl_context", True, TypeError),
        ("ssl_context", "ca.pem", TypeError),
        ("ssl_context", SERVER_CONTEXT, ValueError),
        ("auth", "fred:secret", TypeError),
        ("auth", ("fred",), TypeError),
        ("auth", ("fred", b"secret"), TypeError),
        ("auth", ["fred", "secret"], TypeError),
        ("auth_mechanisms", "PLAIN", TypeError),
        ("auth_mechanisms", ["NONSENSE"], ValueError),
        ("allow_cleartext", "no", TypeError),
        ("lmtp", "yes", TypeError),
        ("timeout", "30", TypeError),
        ("timeout", True, TypeError),
        ("timeout", -1, ValueError),
        ("timeout", float("nan"), ValueError),
        ("timeout", Timeouts(), TypeError),
        ("extensions", "SIZE", TypeError),
        ("extensions", [smtp_trio.protocol.extensions.Size], TypeError),
    ],
)
async def test_argument_of_a_client(call: Call, name: str, value: object, error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        await call(**{name: value})
    assert name.removeprefix("auth_").removesuffix("s") in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("call", [connect, send, pool])
async def test_unknown_keyword(call: Call) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument: starttls"):
        await call(starttls=True)


@pytest.mark.parametrize("call", CLIENTS)
async def test_valid_arguments(call: Call) -> None:
    valid: list[dict[str, Any]] = [
        {"tls": None, "ssl_context": None, "auth": None, "timeout": None},
        {"tls": "required", "ssl_context": CLIENT_CONTEXT, "auth": ("fred", "secret"), "timeout": 0},
        {"auth": BearerToken("fred", "token"), "auth_mechanisms": ("xoauth2",), "timeout": ClientTimeouts(mail=1)},
        {"extensions": iter(smtp_trio.standard()), "lmtp": False, "allow_cleartext": True, "timeout": 2.5},
    ]
    for arguments in valid:
        if call in (connect, send):
            with pytest.raises(AssertionError, match="a connection was opened"):
                await call(**arguments)
        else:
            await call(**arguments)


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("size", "10MB", TypeError),
        ("size", 1e7, TypeError),
        ("size", None, TypeError),
        ("size", -1, ValueError),
        ("timeout", "30", TypeError),
        ("timeout", None, TypeError),
        ("timeout", -1, ValueError),
        ("timeout", ClientTimeouts(), TypeError),
        ("tls", "cert.pem", TypeError),
        ("tls", True, TypeError),
        ("tls", CLIENT_CONTEXT, ValueError),
        ("limits", {"sessions": 10}, TypeError),
        ("limits", None, TypeError),
        ("newlines", "keep", ValueError),
        ("newlines", None, ValueError),
        ("extensions", ["SIZE"], TypeError),
        ("extensions", smtp_trio.protocol.extensions.Size(), TypeError),
        ("strict", "yes", TypeError),
        ("lenient", 1, TypeError),
        ("lenient", "a b", ValueError),
        ("now", 0, TypeError),
        ("token", b"abc", TypeError),
        ("hooks", Inbox, TypeError),
        ("timeouts", 30, TypeError),
        ("name", 7, TypeError),
    ],
)
async def test_argument_of_a_server(name: str, value: object, error: type[Exception]) -> None:
    with pytest.raises(error, match=name):
        await server(**{name: value})


@pytest.mark.parametrize("kind", [Timeouts, ClientTimeouts])
@pytest.mark.parametrize(("value", "error"), [("5", TypeError), (None, TypeError), (-1, ValueError), (True, TypeError)])
def test_timeouts(kind: Any, value: object, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"^a timeout must be "):
        kind(block=value)


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        *(
            (name, value, error)
            for name in ("size", "max_messages")
            for value, error in ((0, ValueError), ("4", TypeError))
        ),
        *((name, "1", TypeError) for name in ("max_age", "max_idle", "probe_after")),
        *((name, -1, ValueError) for name in ("max_age", "max_idle", "probe_after")),
        ("max_age", 0, ValueError),
        ("size", 2.5, TypeError),
    ],
)
async def test_argument_of_a_pool(name: str, value: object, error: type[Exception]) -> None:
    with pytest.raises(error, match=f"^{name} must be "):
        await pool(**{name: value})


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("peer", "1.2.3.4", TypeError),
        ("faults", [smtp_trio.testing.Trickle()], TypeError),
        ("transcript", "log.txt", TypeError),
        ("server", Inbox, TypeError),
        ("implicit_tls", 1, TypeError),
        ("max_octets", 0, ValueError),
        ("max_octets", "64K", TypeError),
    ],
)
async def test_argument_of_a_pair(name: str, value: object, error: type[Exception]) -> None:
    with pytest.raises(error, match=f"^{name} must be "):
        await pair(**{name: value})


async def test_argument_of_a_memory_server() -> None:
    with pytest.raises(TypeError, match=r"^faults must be Faults or None"):
        await memory_server(faults=[])
    with pytest.raises(TypeError, match=r"^tls must be bool, SSLContext or None"):
        await memory_server(tls="cert.pem")
    with pytest.raises(TypeError, match=r"^each rule must be Rule or Sometimes, got \[\]"):
        Faults([])  # type: ignore[arg-type]
    async with open_memory_server() as opened:
        with pytest.raises(TypeError, match=r"^peer must be Peer or None"):
            async with opened.client(peer="1.2.3.4"):  # type: ignore[arg-type]
                raise AssertionError("unreachable")
        async with opened.client(peer=Peer("192.0.2.1", 5, "tcp")):
            pass
