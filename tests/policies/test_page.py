"""The programs of docs/policies.rst that wait for connections."""

from __future__ import annotations

from pathlib import Path

import blocks
import pytest
import trio
from helpers import SECRET, START, Client, connect_tcp, server_tls
from ports import free_port

[TWO_PORTS] = [block for block in blocks.PYTHON if block.page == "policies" and "submission_port" in block.source]


async def test_two_ports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Greylisting on one, AUTH on the other, and a message that both could store."""
    monkeypatch.chdir(tmp_path)
    ports = free_port(), free_port()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(TWO_PORTS.run()["main"], *ports, server_tls())
        await wait_for_port(ports[1])
        async with connect_tcp(ports[0]) as client:
            assert "AUTH" not in await greeted(client)
            await client.starttls()
            assert "AUTH" not in await greeted(client)
            await client.send(START)
            await client.expect("250 2.1.0", "450 4.7.1 Greylisted")
        async with connect_tcp(ports[1]) as client:
            await greeted(client)
            await client.starttls()
            assert "AUTH PLAIN" in await greeted(client)
            await client.command("MAIL FROM:<fred@example.org>", "530 5.7.0")
            await client.command("AUTH PLAIN AGZyZWQAd3Jvbmc=", "535 5.7.8")
            await client.command(f"AUTH PLAIN {SECRET}", "235")
            await client.deliver()
        nursery.cancel_scope.cancel()
    assert len(list((tmp_path / "Maildir" / "new").iterdir())) == 1


async def wait_for_port(port: int) -> None:
    """Wait until the program listens; it has no other means to report it."""
    with trio.fail_after(100):
        while True:
            try:
                await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
            except OSError:
                await trio.lowlevel.checkpoint()
            else:
                return


async def greeted(client: Client) -> str:
    """Read the greeting, if it was not read yet, and send EHLO; return the reply."""
    if not client.replies:
        await client.expect("220 mx.example.org ESMTP")
    return await client.command("EHLO client.test", "250-mx.example.org")
