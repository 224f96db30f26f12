"""What other servers have got wrong must not come back: sixteen defects of mbr-smtp, each a test that names it.

The numbers are those of the list. 11 (an error that never settled a client's command, a failed connect that never failed), 12 (a
segment taken for a whole reply), 14 (no dot-stuffing unless asked) and 15 (MX only, no address record) are a client's: their tests
are in test_seed_client.py, but for 15, for nothing here asks the DNS.
"""

from __future__ import annotations

import math
import socket
from typing import Any

import pytest
import trio
from helpers import MESSAGE, SECRET, START, Client, Taker, call, listening, server_tls, talk, unbuffered
from protocol.driver import HELLO, RECIPIENT, SENDER, ServerDriver, codes
from trio.testing import MockClock

from smtp_trio import Body, Hooks, Limits, Reply, Server, Session, Timeouts
from smtp_trio.protocol import EndOfBody, Mail, Rcpt
from smtp_trio.protocol.extensions.auth import Credentials


def with_recipient(**settings: Any) -> ServerDriver:
    return ServerDriver(**settings).begin(SENDER, RECIPIENT)


# --- in the core ----------------------------------------------------------------------------------------------------


def test_seed_defect_01_a_segment_is_not_a_command() -> None:
    octets = f"{HELLO}\r\n{SENDER}\r\n{RECIPIENT}\r\nDATA\r\nx\r\n.\r\nQUIT\r\n".encode()
    merged = codes(ServerDriver().send(octets))
    assert merged == ["220", "250", "250 2.1.0", "250 2.1.5", "354", "250 2.0.0", "221 2.0.0"]
    split = ServerDriver()
    assert codes([reply for octet in octets for reply in split.send(bytes([octet]))]) == merged


@pytest.mark.parametrize("tail", [b".", b" . ", b"\r\n . ", b"\n.\n", b"\r\n.x", b"x.\r\n", b"\r\n\t.", b"  \r\n  "])
def test_seed_defect_02_the_end_of_data_is_exact_and_nothing_is_trimmed(tail: bytes) -> None:
    body = b"  leading and trailing  " + tail + b"\r\n"
    talk = with_recipient(newlines="preserve")
    assert codes(talk.send(b"DATA\r\n")) == ["354"]
    for octet in body:
        assert talk.send(bytes([octet])) == []
    assert codes(talk.send(b".\r\n")) == ["250 2.0.0"]
    assert talk.messages == [body.replace(b"\r\n.x", b"\r\nx")]


def test_seed_defect_03_the_rest_of_a_message_that_is_too_big_is_not_commands() -> None:
    talk = with_recipient(size=20)
    smuggled = b"MAIL FROM:<evil@x>\r\nRCPT TO:<you@mx.test>\r\nDATA\r\nQUIT\r\n"
    assert codes(talk.send(b"DATA\r\n" + b"x" * 30 + b"\r\n" + smuggled + b".\r\n")) == ["354", "552 5.3.4"]
    assert codes(talk.send_lines("NOOP", "DATA")) == ["250 2.0.0", "503 5.5.1"]


def test_seed_defect_04_the_envelope_does_not_survive_its_message() -> None:
    talk = with_recipient()
    assert codes(talk.send_lines("DATA", "x", ".", "DATA", RECIPIENT)) == ["354", "250 2.0.0", "503 5.5.1", "503 5.5.1"]


def test_seed_defect_05_mail_within_mail() -> None:
    assert codes(with_recipient().send_lines(SENDER)) == ["503 5.5.1"]


def test_seed_defect_06_rset_does_not_forget_the_ehlo() -> None:
    assert codes(with_recipient().send_lines("RSET", f"{SENDER} SIZE=5")) == ["250 2.0.0", "250 2.1.0"]


def test_seed_defect_07_vrfy_is_known() -> None:
    assert codes(ServerDriver().send_lines("VRFY someone")) == ["220", "252 2.5.0"]


def test_seed_defect_08_a_path_is_a_path_and_a_parameter_is_known() -> None:
    talk = ServerDriver().begin()
    lines = ("MAIL junk from:<a> X=<b>", "MAIL FROM:<a> X=<b>", "MAIL FROM:<a@b> X=1", "MAIL FROM:<a@b> X=<b>")
    assert codes(talk.send_lines(*lines)) == [
        "501 5.5.4", "501 5.1.7", "555 5.5.4", "555 5.5.4",
    ]  # fmt: skip


def test_seed_defect_13_nothing_is_left_of_a_failed_message() -> None:
    failing = with_recipient(
        answer=lambda command: Reply(451, "Later", "4.3.0") if isinstance(command, EndOfBody) else None
    )
    assert codes(failing.send_lines("DATA", "one", ".")) == ["354", "451 4.3.0"]
    state = failing.protocol.state
    assert (state.mail, state.rcpts, failing.protocol.body, failing.protocol.fault) == (None, [], None, None)
    bare = with_recipient()
    assert codes(bare.send(b"DATA\r\na\nb\r\n.\r\n")) == ["354", "550 5.5.2"]
    assert codes(bare.send_lines(SENDER, RECIPIENT, "DATA", "two", ".")) == [
        "250 2.1.0",
        "250 2.1.5",
        "354",
        "250 2.0.0",
    ]
    assert bare.messages == [b"two\r\n"]


# --- in a session, where a hook is involved -------------------------------------------------------------------------


class Forgetful(Taker):
    """Its hooks never return."""

    async def rcpt(self, session: Session, rcpt: Rcpt) -> Reply | None:
        await trio.sleep_forever()
        raise AssertionError


async def test_seed_defect_09_a_hook_that_never_answers_is_cut_off(autojump_clock: MockClock) -> None:
    hooks = Forgetful()
    async with talk(Server(hooks, name="mx.test", timeout=Timeouts(hook=60))) as client:
        await client.hello()
        await client.send(START)
        await client.expect("250 2.1.0", "451 4.3.0")
        assert trio.current_time() == pytest.approx(60, abs=1)
        await client.quit()
    assert [type(error) for error in hooks.errors] == [trio.TooSlowError]


def test_seed_defect_09_nothing_is_waited_for_without_end_by_default() -> None:
    timeouts = Timeouts()
    for patience in (
        timeouts.command,
        timeouts.block,
        timeouts.hook,
        timeouts.tls,
        timeouts.write,
        timeouts.disconnect,
    ):
        assert 0 < patience < math.inf


class Throwing(Taker):
    """Its hooks raise, one after the other."""

    async def mail(self, session: Session, mail: Mail) -> Reply | None:
        raise LookupError("a secret of the program")

    async def rcpt(self, session: Session, rcpt: Rcpt) -> Reply | None:
        raise LookupError("a secret of the program")

    async def auth(self, session: Session, credentials: Credentials) -> Reply | None:
        raise LookupError("a secret of the program")


async def test_seed_defect_10_a_hook_that_throws_lets_nothing_succeed() -> None:
    hooks = Throwing()
    async with talk(Server(hooks, name="mx.test")) as client:
        await client.hello()
        await client.say(SENDER, "451 4.3.0")
        await client.say(RECIPIENT, "503 5.5.1")
        await client.say("DATA", "503 5.5.1")
        await client.quit()
        assert not [reply for reply in client.replies if "secret" in reply]
    assert len(hooks.errors) == 1
    assert hooks.messages == []


async def test_seed_defect_10_neither_a_recipient_nor_a_message() -> None:
    class Throws(Taker):
        async def rcpt(self, session: Session, rcpt: Rcpt) -> Reply | None:
            raise LookupError("a secret of the program")

        async def data(self, session: Session, body: Body) -> Reply | None:
            await body.read()
            raise OSError("a secret of the program")

    server = Server(Throws(), name="mx.test")
    async with talk(server) as client:
        await client.hello()
        await client.send(START + b"DATA\r\n")
        await client.expect("250 2.1.0", "451 4.3.0", "554 5.5.1")
    assert server.statistics().messages == 0
    server = Server(name="mx.test")
    server.on(data=Throws().data)
    async with talk(server) as client:
        await client.hello()
        await client.deliver(MESSAGE, "451 4.3.0")
        await client.deliver(MESSAGE, "451 4.3.0")


async def test_seed_defect_10_nobody_is_let_in() -> None:
    async with talk(Server(Throwing(), name="mx.test", tls=server_tls())) as client:
        await client.hello()
        await client.starttls()
        await client.hello()
        await client.say(f"AUTH PLAIN {SECRET}", "454 4.7.0")
        await client.say(f"AUTH PLAIN {SECRET}", "454 4.7.0")


class Gate(Hooks):
    async def auth(self, session: Session, credentials: Credentials) -> Reply | None:
        return None if credentials.password == "secret" else Reply(535, "No", "5.7.8")

    async def data(self, session: Session, body: Body) -> Reply | None:
        await body.read()
        return None


async def test_seed_defect_16_tls_and_auth() -> None:
    async with talk(Server(Gate(), name="mx.test", tls=server_tls())) as client:
        assert "250-STARTTLS" in (await client.hello()).split("\n")
        await client.starttls()
        assert "250-AUTH PLAIN LOGIN" in (await client.hello()).split("\n")
        await client.say(f"AUTH PLAIN {SECRET}", "235 2.7.0")
        await client.deliver()


async def test_seed_defect_16_ipv6() -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    server = Server(Taker(), name="mx.test")
    async with trio.open_nursery() as nursery:
        try:
            listeners = await nursery.start(lambda task_status: server.serve(0, "::1", task_status=task_status))
        except OSError:
            pytest.skip("no IPv6 on loopback")
        async with await trio.open_tcp_stream("::1", listeners[0].socket.getsockname()[1]) as stream:
            client = Client(stream)
            await client.hello()
            await client.deliver()
            await client.quit()
        await server.stop(0)


async def test_seed_defect_16_a_hook_that_does_not_pull_is_felt_by_the_client(autojump_clock: MockClock) -> None:
    class Slow(Taker):
        async def data(self, session: Session, body: Body) -> Reply | None:
            async for _ in body:
                await trio.sleep(10)
            return None

    async with talk(Server(Slow(), name="mx.test"), pair=unbuffered) as client:
        await client.open()
        await client.say("DATA", "354")
        began = trio.current_time()
        for _ in range(20):
            await client.send(b"x" * 70000)
        assert trio.current_time() - began >= 190
        await client.send(b"\r\n.\r\n")
        await client.expect("250 2.0.0")


async def test_seed_defect_16_limits() -> None:
    limits = Limits(sessions=1, recipients=100, errors=3, line=600)
    server = Server(Taker(), name="mx.test", size=100, limits=limits)
    async with listening(server) as port, call(port) as client:
        assert "250-SIZE 100" in (await client.hello()).split("\n")
        async with call(port) as other:
            await other.expect("421 mx.test")
            await other.end()
        await client.say("MAIL FROM:<a@b> SIZE=101", "552 5.3.4")
        await client.say("NOOP ".ljust(2000, "x"), "500 5.5.2")
        await client.say("FOO", "421 4.7.0")
        await client.end()
