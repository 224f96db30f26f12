"""Tests of `memory_pair` and `open_test_server`, alone, with pytest plugins and in programs."""

from __future__ import annotations

import os
import smtplib
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import NoReturn

import pytest
import trio
import trio.testing
from helpers import MESSAGE, client_tls, server_tls

from smtp_trio import (
    Accepted,
    Body,
    Client,
    ClientTimeouts,
    DeliveryUnknownError,
    Hooks,
    Peer,
    Reply,
    ReplyError,
    Server,
    Session,
    Timeouts,
)
from smtp_trio.testing import Inbox, Transcript, deterministic, memory_pair, open_test_server


async def test_client_is_connected_to_a_session(autojump_clock: object) -> None:
    inbox = Inbox()
    async with trio.open_nursery() as nursery:
        async with await memory_pair(nursery, inbox) as client:
            assert isinstance(client, Client)
            result = await client.send("me@client.test", ["you@mx.test"], MESSAGE)
    assert isinstance(result.outcomes[0], Accepted)
    assert inbox[0].raw == MESSAGE


async def test_line_ends_are_normalized_only_for_hooks(autojump_clock: object) -> None:
    inbox = Inbox()
    async with trio.open_nursery() as nursery:
        async with await memory_pair(nursery, inbox) as client:
            await client.mail("me@client.test")
            await client.rcpt("you@mx.test")
            await client.bdat(b"bare\n", last=True)
        async with await memory_pair(nursery, Server(inbox)) as client:
            await client.mail("me@client.test")
            await client.rcpt("you@mx.test")
            with pytest.raises(ReplyError, match="bare LF"):
                await client.bdat(b"bare\n", last=True)
    assert [mail.raw for mail in inbox] == [b"bare\r\n"]


async def test_two_clients_of_one_server(autojump_clock: object) -> None:
    server = Server(inbox := Inbox(), **deterministic())
    async with trio.open_nursery() as nursery:
        async with (
            await memory_pair(nursery, server) as one,
            await memory_pair(nursery, server, name="two.test") as two,
        ):
            assert server.statistics().sessions_open == 2
            await one.send("me@client.test", ["you@mx.test"], MESSAGE)
            await two.send("me@client.test", ["you@mx.test"], MESSAGE)
    assert len({mail.envelope.id for mail in inbox}) == 2


async def test_stopped_server(autojump_clock: object) -> None:
    server = Server(Inbox())
    await server.stop()
    with pytest.raises(ExceptionGroup) as info:
        async with trio.open_nursery() as nursery:
            await memory_pair(nursery, server)
    assert info.group_contains(trio.ClosedResourceError)


async def test_invalid_settings_start_no_task(autojump_clock: object) -> None:
    async with trio.open_nursery() as nursery:
        with pytest.raises(ValueError, match="must be >= 0, got -1"):
            await memory_pair(nursery, Inbox(), timeout=-1)
        assert not nursery.child_tasks


async def test_hooks_see_the_given_peer(autojump_clock: object) -> None:
    peer = Peer("192.0.2.1", 50000, "tcp")
    inbox = Inbox()
    async with trio.open_nursery() as nursery:
        async with await memory_pair(nursery, inbox, peer=peer) as client:
            await client.send("me@client.test", ["you@mx.test"], MESSAGE)
    assert inbox[0].peer == peer
    assert inbox[0].peer is not peer, "a hook may give it a name"


async def test_server_timeout_in_virtual_time(autojump_clock: object) -> None:
    async with trio.open_nursery() as nursery:
        async with await memory_pair(nursery, Server(Inbox(), name="mx.test", timeout=120)) as client:
            await trio.sleep(121)
            with pytest.raises(ReplyError, match=r"421 4\.4\.2 mx\.test Timeout"):
                await client.noop()
    assert trio.current_time() == 121


class SlowReader(Hooks):
    async def data(self, session: Session, body: Body) -> Reply | None:
        async for _ in body:
            await trio.sleep(60)
        return None


async def test_client_waits_for_a_server_that_does_not_receive(autojump_clock: object) -> None:
    """With unlimited buffers the client would send all at once and wait only for the reply."""
    times: dict[int, float] = {}

    def progress(done: int, _: int | None) -> None:
        times[done // 10000] = trio.current_time()

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(10):
            yield b"x" * 998 + b"\r\n"

    async with trio.open_nursery() as nursery:
        server = Server(SlowReader(), timeout=Timeouts(block=0, hook=0))
        no_timeout = ClientTimeouts(block=0)
        async with await memory_pair(nursery, server, max_octets=1000, timeout=no_timeout) as client:
            await client.send("me@client.test", ["you@mx.test"], pieces(), progress=progress)
    assert times[1] >= 8 * 60
    assert trio.current_time() >= 10 * 60


async def test_client_timeout_while_a_hook_runs(autojump_clock: object) -> None:
    class Never(Hooks):
        async def data(self, session: Session, body: Body) -> Reply | None:
            await trio.sleep_forever()
            return None

    async with trio.open_nursery() as nursery:
        server = Server(Never())
        async with await memory_pair(nursery, server, timeout=100) as client:
            with pytest.raises(DeliveryUnknownError):
                await client.send("me@client.test", ["you@mx.test"], MESSAGE)
        assert trio.current_time() == 100
        nursery.cancel_scope.cancel()


# --- determinism --------------------------------------------------------------------------------------------


async def scenario(written: Transcript) -> str:
    """Run two sessions at once in many pieces, with tasks in random order; return what the server observed."""
    inbox = Inbox()
    server = Server(inbox, name="mx.test", **deterministic())

    async def run_client(client: Client) -> None:
        async with client:
            await client.send_many(("me@client.test", ["a@mx.test", "b@mx.test"], MESSAGE * k) for k in (1, 30))
            await trio.sleep(30)
            await client.mail("me@client.test")
            await client.rcpt("c@mx.test")
            await client.bdat(MESSAGE)
            await client.bdat(MESSAGE, last=True)

    async with trio.open_nursery() as nursery:
        for room in (100, 65536):
            nursery.start_soon(run_client, await memory_pair(nursery, server, transcript=written, max_octets=room))
    return "\n".join(transcript.text(pieces=True) for transcript in inbox.transcripts)


@pytest.mark.exhaustive
def test_transcripts_are_repeatable() -> None:
    """Octets, ids, times and pieces are the same although Trio shuffles tasks."""
    texts: Counter[str] = Counter()
    for _ in range(1000):
        written = Transcript()
        seen = trio.run(scenario, written, clock=trio.testing.MockClock(autojump_threshold=0))
        texts[written.text(pieces=True) + seen] += 1
    assert list(texts.values()) == [1000]
    assert next(iter(texts)).count("queued as") == 2 * 2 * 3


def test_deterministic_is_the_same_in_each_process() -> None:
    async def main() -> list[object]:
        settings = deterministic()
        values: list[object] = [settings["now"]().isoformat()]
        await trio.sleep(90)
        return [*values, settings["now"]().isoformat(), settings["token"](4).hex(), settings["token"](4).hex()]

    def run() -> list[object]:
        return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))

    assert run() == run()
    assert run()[:2] == ["2026-01-01T00:00:00+00:00", "2026-01-01T00:01:30+00:00"]
    assert deterministic(1)["token"](8) != deterministic(2)["token"](8)


# --- a port ---------------------------------------------------------------------------------------------------------


async def test_server_on_a_port() -> None:
    async with open_test_server() as server:
        async with server.client() as client:
            await client.send("me@client.test", ["you@mx.test"], MESSAGE)
        [mail] = await server.inbox.wait_for()
        assert (mail.raw, mail.tls, mail.peer.kind) == (MESSAGE, None, "tcp")
        assert "C: QUIT\n" in str(mail.transcript)
    with pytest.raises(OSError, match="all attempts to connect"):
        await trio.open_tcp_stream(server.host, server.port)


@pytest.mark.parametrize("implicit", [True, False])
async def test_server_with_a_certificate(implicit: bool) -> None:
    async with open_test_server(tls=True, implicit_tls=implicit, name="other.test", timeout=10) as server:
        async with server.client() as client:
            assert client.tls is not None
            assert client.tls.verified
            await client.send("me@client.test", ["you@mx.test"], MESSAGE)
        [mail] = await server.inbox.wait_for()
        assert mail.tls is not None
        assert "C. begins TLS\n" in str(mail.transcript)
        assert (server.server.name, server.server.timeouts.command) == ("other.test", 10)

        def send() -> None:
            with smtplib.SMTP("localhost", server.port, timeout=100) as client:
                client.starttls(context=server.client_context)
                client.sendmail("me@client.test", ["you@mx.test"], MESSAGE)

        if not implicit:
            await trio.to_thread.run_sync(send)
            await server.inbox.wait_for(2)


async def test_server_with_a_given_ssl_context() -> None:
    async with open_test_server(tls=server_tls()) as server:
        assert (server.ca, server.client_context) == (None, None)
        async with server.client(ssl_context=client_tls(), server_hostname="mx.test") as client:
            assert client.tls is not None
        with pytest.raises(trio.BrokenResourceError):
            async with server.client():
                pass


async def test_certificates_require_trustme(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trustme", None)
    with pytest.raises(RuntimeError, match=r"pip install smtp-trio\[testing\]"):
        async with open_test_server(tls=True):
            pass


async def test_exception_of_the_block_is_not_grouped() -> None:
    with pytest.raises(ZeroDivisionError):
        async with open_test_server() as server, server.client() as client:
            await client.noop()
            raise ZeroDivisionError


async def test_exception_in_a_cancelled_block_is_not_lost() -> None:
    with pytest.raises(AssertionError, match="too late"):
        with trio.CancelScope() as scope:
            async with open_test_server():
                scope.cancel()
                try:
                    await trio.sleep_forever()
                except trio.Cancelled:
                    raise AssertionError("too late") from None


@pytest.mark.parametrize("leave", [pytest.fail, pytest.skip, sys.exit])
async def test_base_exception_of_the_block_is_not_grouped(leave: Callable[[str], NoReturn]) -> None:
    with pytest.raises((pytest.fail.Exception, pytest.skip.Exception, SystemExit), match="for good"):
        async with open_test_server():
            leave("for good")


async def test_idle_sessions_get_421_at_the_end() -> None:
    async with open_test_server() as server:
        stream = await trio.open_tcp_stream(server.host, server.port)
        assert (await stream.receive_some()).startswith(b"220 mx.test")
    assert (await stream.receive_some()).startswith(b"421 4.3.2")
    await stream.aclose()


async def test_cancelled_server_ends() -> None:
    with trio.move_on_after(0.01) as scope:
        async with open_test_server():
            await trio.sleep_forever()
    assert scope.cancelled_caught


async def test_inbox_of_other_hooks_is_an_error() -> None:
    async with open_test_server(SlowReader()) as server:
        with pytest.raises(TypeError, match="are not an Inbox"):
            server.inbox  # noqa: B018


# --- kinds of programs ---------------------------------------------------------------------------------------

TEST = """
import pytest
import trio
import trio.testing
from smtp_trio import Server
from smtp_trio.testing import Inbox, Transcript, memory_pair

{decorator}
async def test_it({fixture}):
    inbox, transcript = Inbox(), Transcript()
    async with trio.open_nursery() as nursery:
        async with await memory_pair(nursery, Server(inbox, timeout=120), transcript=transcript) as client:
            await client.send("me@client.test", ["you@mx.test"], b"Subject: hi\\r\\n\\r\\nhello\\r\\n")
            [mail] = await inbox.wait_for(subject="hi")
            with trio.move_on_after(121):
                await inbox.wait_for(2)
    assert trio.current_time() == 121
    assert "S: 421 4.4.2" in str(transcript)
    assert "@ 120\\nS: 421 4.4.2" in str(mail.transcript)
"""

CLOCK = "@pytest.fixture\ndef anyio_backend():\n    return 'trio', {'clock': trio.testing.MockClock(autojump_threshold=0)}\n"
PROGRAMS = {
    "pytest-trio": (TEST.format(decorator="@pytest.mark.trio", fixture="autojump_clock"), ["-p", "no:anyio"]),
    "anyio": (TEST.format(decorator=CLOCK + "@pytest.mark.anyio", fixture="anyio_backend"), ["-p", "no:trio"]),
}


@pytest.mark.parametrize("plugin", PROGRAMS)
@pytest.mark.slow
def test_with_a_pytest_plugin(tmp_path: Path, plugin: str) -> None:
    if plugin == "anyio":
        pytest.importorskip("anyio", reason="the plugin comes with anyio")
    source, options = PROGRAMS[plugin]
    (tmp_path / "test_it.py").write_text(source)
    (tmp_path / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    run(["-m", "pytest", "-q", *options, "test_it.py"], tmp_path, b"1 passed")


def test_without_pytest(tmp_path: Path) -> None:
    program = (
        TEST.format(decorator="", fixture="")
        + "trio.run(test_it, clock=trio.testing.MockClock(autojump_threshold=0))\n"
    )
    (tmp_path / "program.py").write_text(program.replace("import pytest\n", "") + "print('done')\n")
    run(["program.py"], tmp_path, b"done")


def run(arguments: list[str], folder: Path, wanted: bytes) -> None:
    """Run Python in a process of its own with this smtp_trio."""
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-bb", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
    assert wanted in done.stdout


def test_smtp_trio_does_not_import_testing() -> None:
    code = textwrap.dedent(
        """
        import sys, smtp_trio
        smtp_trio.Server, smtp_trio.Client
        assert not [name for name in sys.modules if name.startswith("smtp_trio.testing")]
        import smtp_trio.testing
        assert not {"pytest", "hypothesis", "trustme"} & set(sys.modules)
        """
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=240)
