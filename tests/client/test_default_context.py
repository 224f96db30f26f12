"""The TLS context of clients without ``ssl_context`` is made once, and again when other authorities are trusted."""

from __future__ import annotations

import os
import ssl
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
import trustme
from helpers import NAME, RecordingHooks, authority, listening, server_tls
from trio.testing import MockClock

import smtp_trio
from smtp_trio import Server, TlsHandshakeError
from smtp_trio._client.default_context import default_context

HOST = "127.0.0.1"


@pytest.fixture
def ca_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of the authorities that the process trusts; at first those of the tests."""
    path = tmp_path / "ca.pem"
    authority().cert_pem.write_to_path(path)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    return path


async def test_contexts_are_made_once(ca_file: Path) -> None:
    verified, unverified = await default_context(verify=True), await default_context(verify=False)
    assert (verified.verify_mode, verified.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert (unverified.verify_mode, unverified.check_hostname) == (ssl.CERT_NONE, False)
    assert await default_context(verify=True) is verified
    assert await default_context(verify=False) is unverified


async def test_keys_without_verification_are_logged(tmp_path: Path) -> None:
    """As `ssl.create_default_context` does it. In a process of its own, because the context is made once."""
    program = (
        "import trio\nfrom functools import partial\nfrom smtp_trio._client.default_context import default_context\n"
        "print(trio.run(partial(default_context, verify=False)).keylog_filename)"
    )
    path = tmp_path / "keys"
    done = await trio.run_process(
        [sys.executable, "-c", program], capture_stdout=True, env={**os.environ, "SSLKEYLOGFILE": str(path)}
    )
    assert done.stdout.decode().strip() == str(path)


async def test_tasks_that_need_a_context_at_the_same_time_share_it(ca_file: Path) -> None:
    found = []

    async def get() -> None:
        found.append(await default_context(verify=True))

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(get)
    assert found == [found[0]] * 20


def other_authority(path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(path)


def no_file(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("change", [other_authority, no_file])
async def test_changed_authorities_hold_for_the_next_connection(change: Callable[[Path], None], ca_file: Path) -> None:
    async with listening(Server(RecordingHooks(), name=NAME, tls=server_tls())) as port:
        for _ in range(2):
            async with smtp_trio.connect(HOST, port, server_hostname=NAME, tls="required") as client:
                assert client.tls is not None
                assert client.tls.verified
        change(ca_file)
        with pytest.raises(TlsHandshakeError):
            async with smtp_trio.connect(HOST, port, server_hostname=NAME, tls="required"):
                raise AssertionError("unreachable")


async def test_replaced_function_is_called(ca_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packages that let Python use the certificates of the system replace it."""
    before = await default_context(verify=True)
    mine = ssl.create_default_context()
    monkeypatch.setattr(ssl, "create_default_context", lambda: mine)
    assert await default_context(verify=True) is mine
    monkeypatch.undo()
    monkeypatch.setenv("SSL_CERT_FILE", str(ca_file))
    assert await default_context(verify=True) not in (before, mine)


async def test_loading_does_not_let_a_clock_jump(ca_file: Path, autojump_clock: MockClock) -> None:
    start = trio.current_time()
    await default_context(verify=True)
    assert trio.current_time() == start


async def test_cancelled_while_it_is_loaded(ca_file: Path) -> None:
    """The next call loads it again, or waits for the thread that does so."""
    with trio.CancelScope() as scope:
        scope.cancel()
        await default_context(verify=True)
    assert scope.cancelled_caught
    assert (await default_context(verify=True)).verify_mode == ssl.CERT_REQUIRED
