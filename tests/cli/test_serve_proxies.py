"""``smtp-trio serve`` behind load balancers and mail proxies, in a process of its own."""

from __future__ import annotations

import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio
from processes import HOST, Program, run, serving

import smtp_trio
from smtp_trio import ProxyHeader

MESSAGE = b"Subject: hi\r\n\r\nhello\r\n"
ME, YOU = "me@example.net", "you@example.org"
CLIENT, SERVER = ("192.0.2.9", 4242), ("192.0.2.1", 25)
#: Networks with the address from which the tests connect, and others without it.
WITH, WITHOUT = ["127.0.0.1", "127.0.0.0/8", "::ffff:127.0.0.0/104"], ["127.0.0.2", "10.0.0.0/8", "::/0", "unix"]


async def deliver(port: int, **settings: Any) -> None:
    async with smtp_trio.connect(HOST, port, timeout=60, **settings) as client:
        await client.send(ME, [YOU], MESSAGE)


async def received(port: int, octets: bytes) -> bytes:
    """Send octets and end the input; return everything that the server sends."""
    stream = await trio.open_tcp_stream(HOST, port)
    async with stream:
        await stream.send_all(octets)
        reply = b""
        # The server may have closed the connection without reading all octets. What it has sent before arrives.
        with suppress(OSError, trio.BrokenResourceError):
            await stream.send_eof()
        with suppress(OSError, trio.BrokenResourceError):
            async for data in stream:
                reply += data
        return reply


async def log_of(program: Program, pattern: str) -> str:
    return (await program.out.wait_for(pattern))[0]


@pytest.mark.parametrize("network", WITH)
async def test_header_of_a_balancer(network: str, tmp_path: Path) -> None:
    async with serving("--proxy-protocol", "10.0.0.0/8", "--proxy-protocol", network, cwd=tmp_path) as program:
        for version in (1, 2):
            header = ProxyHeader(CLIENT, SERVER, version=version)
            await deliver(program.port, proxy_header=header)
        await program.out.wait_for_count(2, r" accepted: peer=192\.0\.2\.9:4242 ")
        assert await received(program.port, b"EHLO client.test\r\n") == b""
        await log_of(program, r"peer=127\.0\.0\.1:\d+ closed, PROXY header: \"no PROXY header\";")
        for header in (ProxyHeader(version=1), ProxyHeader(local=True)):
            reply = await received(program.port, header.encode() + b"QUIT\r\n")
            assert [line[:4] for line in reply.splitlines()] == [b"220 ", b"221 "]


@pytest.mark.parametrize("network", WITHOUT)
async def test_header_of_another_host(network: str, tmp_path: Path) -> None:
    async with serving("--proxy-protocol", network, cwd=tmp_path) as program:
        await deliver(program.port)
        await log_of(program, r" accepted: peer=127\.0\.0\.1:\d+ ")
        for header in (ProxyHeader(CLIENT, SERVER, version=1), ProxyHeader(CLIENT, SERVER), ProxyHeader(local=True)):
            reply = await received(program.port, header.encode() + b"EHLO client.test\r\n")
            assert [line[:4] for line in reply.splitlines()] == [b"220 "]
        await program.out.wait_for_count(3, r"closed: a PROXY header is not expected from this address")
        assert "192.0.2.9" not in program.out.text


async def test_header_of_a_balancer_that_resets_the_connection(tmp_path: Path) -> None:
    """Nothing is believed that came from a network that is not configured."""
    async with serving("--proxy-protocol", "10.0.0.0/8", cwd=tmp_path) as program:
        for _ in range(20):
            with socket.create_connection((HOST, program.port)) as sock:
                sock.send(ProxyHeader(CLIENT, SERVER).encode() + b"EHLO client.test\r\nMAIL FROM:<a@b.test>\r\n")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        await deliver(program.port)
        await log_of(program, r" accepted: peer=127\.0\.0\.1:\d+ ")
        assert "192.0.2.9" not in program.out.text


@pytest.mark.parametrize("network", WITH)
async def test_xclient_and_xforward_of_a_proxy(network: str, tmp_path: Path) -> None:
    async with serving("--xclient", network, "--xforward", network, cwd=tmp_path) as program:
        async with smtp_trio.connect(HOST, program.port, timeout=60) as client:
            await client.xforward(addr="192.0.2.10", source="REMOTE")
            await log_of(program, r" forwards for name=- addr=192\.0\.2\.10 .* source=REMOTE\n")
            await client.xclient(login="fred")
            await client.xclient(addr="192.0.2.9", name="mail.example.net", helo="client.example.net")
            assert not {"XCLIENT", "XFORWARD"} & client.offered.keys()
            await client.send(ME, [YOU], MESSAGE)
        line = await log_of(program, r"^.* accepted: peer=192\.0\.2\.9 .*\n")
        assert "helo=client.example.net" in line
        assert "fred" in line


@pytest.mark.parametrize("network", WITHOUT)
async def test_xclient_and_xforward_of_another_host(network: str, tmp_path: Path) -> None:
    async with serving("--xclient", network, "--xforward", network, cwd=tmp_path) as program:
        async with smtp_trio.connect(HOST, program.port, timeout=60) as client:
            assert not {"XCLIENT", "XFORWARD"} & client.offered.keys()
        reply = await received(
            program.port, b"XCLIENT ADDR=192.0.2.9\r\nEHLO a.test\r\nXFORWARD ADDR=192.0.2.9\r\nQUIT\r\n"
        )
        codes = [line[:4] for line in reply.splitlines() if line[3:4] == b" "]
        assert codes == [b"220 ", b"550 ", b"250 ", b"550 ", b"221 "]
        assert "192.0.2.9" not in program.out.text


async def test_proxy_behind_a_balancer(tmp_path: Path) -> None:
    """The address of the header has to be that of the proxy."""
    options = ("--proxy-protocol", HOST, "--xclient", "10.0.0.3")
    async with serving(*options, cwd=tmp_path) as program:
        settings: dict[str, Any] = {"timeout": 60, "proxy_header": ProxyHeader(("10.0.0.3", 4242), SERVER)}
        async with smtp_trio.connect(HOST, program.port, **settings) as client:
            await client.xclient(addr="192.0.2.9")
            await client.send(ME, [YOU], MESSAGE)
        await log_of(program, r" accepted: peer=192\.0\.2\.9 ")
        settings["proxy_header"] = ProxyHeader(CLIENT, SERVER)
        async with smtp_trio.connect(HOST, program.port, **settings) as client:
            assert "XCLIENT" not in client.offered


@pytest.mark.parametrize("option", ["--proxy-protocol", "--xclient", "--xforward"])
@pytest.mark.parametrize(
    ("network", "problem"),
    [
        ("mx.test", "'mx.test' does not appear to be an IPv4 or IPv6 network"),
        ("10.0.0.1/8", "10.0.0.1/8 has host bits set"),
        ("10.0.0.0/33", "'10.0.0.0/33' does not appear to be an IPv4 or IPv6 network"),
        ("", "'' does not appear to be an IPv4 or IPv6 network"),
    ],
)
async def test_invalid_network(option: str, network: str, problem: str, tmp_path: Path) -> None:
    code, out, error = await run("-m", "smtp_trio", "serve", "--port", "0", f"{option}={network}", cwd=tmp_path)
    assert (code, out) == (2, "")
    assert f"argument {option}: {problem}" in error
