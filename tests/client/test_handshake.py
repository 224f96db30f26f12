"""The beginning and the end of a session: greeting, EHLO and HELO, QUIT."""

from __future__ import annotations

import pytest
import trio
from scripted import (
    CLOSE,
    EXPECT_CLOSE,
    GREETING,
    ME,
    MESSAGE,
    NO_REPLY,
    OK,
    UNPIPELINED,
    YOU,
    Step,
    ehlo_reply,
    hello,
    scripted,
)
from trio.testing import MockClock, wait_all_tasks_blocked

from smtp_trio import (
    Client,
    ConnectionLostError,
    GreetingError,
    NotOfferedError,
    RemoteProtocolError,
    ReplyError,
)
from smtp_trio.protocol import Helo

# --- refused by the greeting ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [554, 521])
async def test_quit_is_sent_after_a_5yz_greeting(autojump_clock: MockClock, code: int) -> None:
    async with scripted(b"%d no mail here\r\n" % code, "QUIT", b"221 bye\r\n", EXPECT_CLOSE) as script:
        with pytest.raises(GreetingError) as caught:
            async with script.client():
                raise AssertionError("unreachable")
    assert caught.value.reply.code == code
    assert not caught.value.reply.temporary
    assert script.lines == ["QUIT"]


async def test_421_greeting(autojump_clock: MockClock) -> None:
    """The server closes the connection after 421 (RFC 5321 3.8), so the client does not send QUIT."""
    async with scripted(b"421 4.3.2 busy\r\n", EXPECT_CLOSE) as script:
        with pytest.raises(GreetingError) as caught:
            async with script.client():
                raise AssertionError("unreachable")
    assert caught.value.reply.temporary
    assert caught.value.command.verb == "CONNECT"


async def test_connection_closed_before_the_greeting(autojump_clock: MockClock) -> None:
    async with scripted(CLOSE) as script:
        with pytest.raises(ConnectionLostError) as caught:
            async with script.client():
                raise AssertionError("unreachable")
    assert caught.value.command.verb == "CONNECT"


@pytest.mark.parametrize(
    "greeting",
    [
        b"HTTP/1.1 400 Bad Request\r\n",
        b"354 go\r\n",
        b"150 x\r\n",
        b"620 x\r\n",
        b"220-a\r\n250 b\r\n",
        b"220" + b"x" * 9000,
    ],
)
async def test_invalid_greeting(autojump_clock: MockClock, greeting: bytes) -> None:
    async with scripted(greeting, EXPECT_CLOSE) as script:
        client = script.client()
        with pytest.raises(RemoteProtocolError):
            async with client:
                raise AssertionError("unreachable")
    assert not client.usable


# --- EHLO not implemented ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [451, 500, 501, 502, 503, 504, 550, 554])
async def test_helo_after_unknown_ehlo(autojump_clock: MockClock, code: int) -> None:
    refusal = b"%d what?\r\n" % code
    async with scripted(GREETING, "EHLO client.test", refusal, "HELO client.test", OK, *UNPIPELINED) as script:
        async with script.client(tls="opportunistic") as client:
            assert not client.capabilities
            result = await client.send(ME, [YOU], MESSAGE)
    assert result.complete
    assert script.lines[2] == f"MAIL FROM:<{ME}>"
    assert script.bodies == [MESSAGE]


@pytest.mark.parametrize("code", [501, 554])
async def test_refusal_of_ehlo_before_the_connection_is_closed(autojump_clock: MockClock, code: int) -> None:
    async with scripted(GREETING, "EHLO client.test", b"%d no\r\n" % code, CLOSE) as script:
        with pytest.raises(ReplyError) as caught:
            async with script.client():
                raise AssertionError("unreachable")
    assert (caught.value.command.verb, caught.value.reply.code) == ("EHLO", code)


@pytest.mark.parametrize("code", [421, 450, 452, 521, 530, 552, 571])
async def test_no_helo_after_another_refusal_of_ehlo(autojump_clock: MockClock, code: int) -> None:
    async with scripted(GREETING, "EHLO client.test", b"%d no\r\n" % code) as script:
        with pytest.raises(ReplyError) as caught:
            async with script.client():
                raise AssertionError("unreachable")
    assert (caught.value.command.verb, caught.value.reply.code) == ("EHLO", code)
    assert not any(line.startswith("HELO") for line in script.lines)


@pytest.mark.parametrize(
    "settings", [{"tls": "required", "host": "mx.test"}, {"auth": ("fred", "secret"), "host": "mx.test"}]
)
async def test_no_helo_if_tls_or_auth_is_required(autojump_clock: MockClock, settings: dict[str, object]) -> None:
    for refusal in (b"500 what?\r\n", b"550 no\r\n"):
        async with scripted(GREETING, "EHLO client.test", refusal, "QUIT", b"221 bye\r\n") as script:
            with pytest.raises(ReplyError):
                async with script.client(**{"tls": None, **settings}):
                    raise AssertionError("unreachable")


async def test_helo_refused(autojump_clock: MockClock) -> None:
    async with scripted(GREETING, "EHLO .*", b"502 no\r\n", "HELO .*", b"550 no\r\n", "QUIT", b"221 x\r\n") as script:
        with pytest.raises(ReplyError) as caught:
            async with script.client():
                raise AssertionError("unreachable")
    assert caught.value.reply.code == 550
    assert caught.value.command == Helo(script.lines[0].split()[1])


async def test_properties_of_an_open_client(autojump_clock: MockClock) -> None:
    ehlo = ehlo_reply("size 1000", "AUTH PLAIN", "AUTH=LOGIN PLAIN", "X-ODD  one two ", "8bitmime")
    async with scripted(b"220-mx.test\r\n220 hi\r\n", "EHLO client.test", ehlo) as script:
        async with script.client(host="mx.test") as client:
            assert client.greeting is not None
            assert client.greeting.text == "mx.test\nhi"
            assert client.capabilities["AUTH"] == ("PLAIN", "LOGIN")
            assert client.capabilities["X-ODD"] == ("one", "two")
            assert set(client.offered) == {"SIZE", "AUTH", "8BITMIME"}
            assert (client.tls, client.user, client.last_result, client.last_results) == (None, None, None, ())
            assert client.usable
            assert client.stream is script.client_stream
        assert not client.usable


# --- EHLO is sent once ------------------------------------------------------------------------------------------------


async def test_no_ehlo_after_auth(autojump_clock: MockClock) -> None:
    """RFC 4954 4 requires EHLO only after a mechanism with a security layer, and none of these has one."""
    async with scripted(*hello("AUTH PLAIN"), "AUTH PLAIN .*", b"235 ok\r\n", *UNPIPELINED) as script:
        async with script.client(auth=("fred", "secret"), allow_cleartext=True) as client:
            assert client.user == "fred"
            await client.send(ME, [YOU], MESSAGE)
    assert sum(line.startswith("EHLO") for line in script.lines) == 1


# --- invalid settings -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a b", "a\r\nRSET", "a\0", "b\xfccher..example"])
async def test_invalid_name(autojump_clock: MockClock, name: str) -> None:
    async with scripted(EXPECT_CLOSE) as script:
        with pytest.raises(ValueError, match="name"):
            script.client(name=name)
        await trio.aclose_forcefully(script.client_stream)


@pytest.mark.parametrize("tls", ["required", "implicit"])
async def test_tls_without_a_host_is_invalid(autojump_clock: MockClock, tls: str) -> None:
    async with scripted(EXPECT_CLOSE) as script:
        with pytest.raises(ValueError, match="host"):
            script.client(tls=tls)
        await trio.aclose_forcefully(script.client_stream)


async def test_default_name_is_the_local_address(autojump_clock: MockClock) -> None:
    async with scripted(GREETING, r"EHLO \[127\.0\.0\.1\]", OK) as script, script.client(name=None):
        pass


# --- QUIT -------------------------------------------------------------------------------------------------------------


async def test_quit_is_sent_at_the_end(autojump_clock: MockClock) -> None:
    async with scripted(*hello(), "QUIT", b"221 2.0.0 bye\r\n", EXPECT_CLOSE) as script:
        async with script.client():
            pass
    assert script.groups[-1] == b"QUIT\r\n"


async def test_quit_waits_five_seconds_for_its_reply(autojump_clock: MockClock) -> None:
    async with scripted(*hello(), "QUIT", NO_REPLY) as script:
        async with script.client():
            began = trio.current_time()
        assert trio.current_time() == began + 5


@pytest.mark.parametrize(
    "answer",
    [CLOSE, b"221-a\r\n250 b\r\n", b"500 no\r\n", b"354 go\r\n", b"421 x\r\n", b"\xff\r\n", b"221 a\r\n221 b\r\n"],
)
async def test_quit_ignores_errors(autojump_clock: MockClock, answer: Step) -> None:
    async with scripted(*hello(), "QUIT", answer, EXPECT_CLOSE) as script:
        async with script.client() as client:
            pass
        assert not client.usable
        await client.quit()  # a second call has no effect


async def test_quit_on_a_closed_connection(autojump_clock: MockClock) -> None:
    async with scripted(*hello(), CLOSE) as script:
        async with script.client() as client:
            await wait_all_tasks_blocked()
        assert not client.usable


async def test_exception_closes_without_quit(autojump_clock: MockClock) -> None:
    async with scripted(*hello(), EXPECT_CLOSE) as script:
        began = trio.current_time()
        with pytest.raises(KeyError):
            async with script.client():
                raise KeyError
        assert trio.current_time() == began


async def test_cancellation_closes_at_once(autojump_clock: MockClock) -> None:
    async with scripted(*hello(), NO_REPLY) as script:
        began = trio.current_time()
        with trio.move_on_after(7) as scope:
            async with script.client() as client:
                await client.noop()
        assert scope.cancelled_caught
        assert trio.current_time() == began + 7
        assert not client.usable


async def test_cancelled_quit_closes(autojump_clock: MockClock) -> None:
    async with scripted(*hello(), "QUIT", EXPECT_CLOSE) as script:
        with trio.move_on_after(2) as scope:
            async with script.client() as client:
                pass
        assert scope.cancelled_caught
        assert not client.usable


async def test_aclose_does_not_send_quit(autojump_clock: MockClock) -> None:
    async with scripted(*hello(), EXPECT_CLOSE) as script:
        async with script.client() as client:
            await client.aclose()
            with pytest.raises(trio.ClosedResourceError):
                await client.noop()


async def test_cancelled_during_the_handshake(autojump_clock: MockClock) -> None:
    async with scripted(GREETING, "EHLO client.test", EXPECT_CLOSE) as script:
        with trio.move_on_after(1) as scope:
            async with script.client():
                raise AssertionError("unreachable")
        assert scope.cancelled_caught


async def test_auth_required_and_not_offered(autojump_clock: MockClock) -> None:
    async with scripted(*hello(), "QUIT", b"221 bye\r\n") as script:
        with pytest.raises(NotOfferedError, match="AUTH"):
            async with script.client(auth=("fred", "secret"), allow_cleartext=True):
                raise AssertionError("unreachable")


async def test_negative_timeout_is_invalid(autojump_clock: MockClock) -> None:
    async with scripted(EXPECT_CLOSE) as script:
        with pytest.raises(ValueError, match="must be >= 0, got -3"):
            Client(script.client_stream, timeout=-3)
        await trio.aclose_forcefully(script.client_stream)


async def test_replies_in_single_octets(autojump_clock: MockClock) -> None:
    """A segment is not a reply."""
    greeting, keywords = b"220-mx\r\n220 at your service\r\n", b"250-mx\r\n250-SIZE 100\r\n250 PIPELINING\r\n"

    def single(octets: bytes) -> list[bytes]:
        return [octets[at : at + 1] for at in range(len(octets))]

    async with scripted(*single(greeting), "EHLO client.test", *single(keywords)) as script:
        async with script.client() as client:
            assert client.greeting is not None
            assert client.greeting.text.split() == ["mx", "at", "your", "service"]
            assert set(client.offered) == {"SIZE", "PIPELINING"}
