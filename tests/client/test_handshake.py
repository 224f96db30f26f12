"""How a client begins and ends: greeting, EHLO and HELO, QUIT. A server that does not want it, or does not know the rules."""

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

# --- CLI-4: turned away -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [554, 521])
async def test_cli_4_turned_away_says_goodbye(autojump_clock: MockClock, code: int) -> None:
    async with scripted(b"%d no mail here\r\n" % code, "QUIT", b"221 bye\r\n", EXPECT_CLOSE) as script:
        with pytest.raises(GreetingError) as caught:
            async with script.client():
                raise AssertionError("let in")
    assert caught.value.reply.code == code
    assert not caught.value.reply.temporary
    assert script.lines == ["QUIT"]


async def test_cli_4_421_in_place_of_a_greeting(autojump_clock: MockClock) -> None:
    """Such a server closes the connection itself (RFC 5321 3.8), so nobody is there for a QUIT."""
    async with scripted(b"421 4.3.2 busy\r\n", EXPECT_CLOSE) as script:
        with pytest.raises(GreetingError) as caught:
            async with script.client():
                raise AssertionError("let in")
    assert caught.value.reply.temporary
    assert caught.value.command.verb == "CONNECT"


async def test_cli_4_the_server_closes_without_a_greeting(autojump_clock: MockClock) -> None:
    async with scripted(CLOSE) as script:
        with pytest.raises(ConnectionLostError) as caught:
            async with script.client():
                raise AssertionError("let in")
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
async def test_no_smtp_in_place_of_a_greeting(autojump_clock: MockClock, greeting: bytes) -> None:
    async with scripted(greeting, EXPECT_CLOSE) as script:
        client = script.client()
        with pytest.raises(RemoteProtocolError):
            async with client:
                raise AssertionError("let in")
    assert not client.usable


# --- CLI-5: EHLO is not understood ------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [500, 502])
async def test_cli_5_falls_back_to_helo(autojump_clock: MockClock, code: int) -> None:
    refusal = b"%d what?\r\n" % code
    async with scripted(GREETING, "EHLO client.test", refusal, "HELO client.test", OK, *UNPIPELINED) as script:
        async with script.client(tls="opportunistic") as client:
            assert not client.capabilities
            result = await client.send(ME, [YOU], MESSAGE)
    assert result.complete
    assert script.lines[2] == f"MAIL FROM:<{ME}>"
    assert script.bodies == [MESSAGE]


@pytest.mark.parametrize("code", [421, 450, 501, 504, 550])
async def test_cli_5_no_helo_behind_another_refusal(autojump_clock: MockClock, code: int) -> None:
    async with scripted(GREETING, "EHLO client.test", b"%d no\r\n" % code) as script:
        with pytest.raises(ReplyError) as caught:
            async with script.client():
                raise AssertionError("let in")
    assert (caught.value.command.verb, caught.value.reply.code) == ("EHLO", code)
    assert not any(line.startswith("HELO") for line in script.lines)


@pytest.mark.parametrize(
    "settings", [{"tls": "required", "host": "mx.test"}, {"auth": ("fred", "secret"), "host": "mx.test"}]
)
async def test_cli_5_no_helo_where_more_is_needed(autojump_clock: MockClock, settings: dict[str, object]) -> None:
    async with scripted(GREETING, "EHLO client.test", b"500 what?\r\n", "QUIT", b"221 bye\r\n") as script:
        with pytest.raises(ReplyError):
            async with script.client(**{"tls": None, **settings}):
                raise AssertionError("let in")


async def test_cli_5_helo_is_refused_too(autojump_clock: MockClock) -> None:
    async with scripted(GREETING, "EHLO .*", b"502 no\r\n", "HELO .*", b"550 no\r\n", "QUIT", b"221 x\r\n") as script:
        with pytest.raises(ReplyError) as caught:
            async with script.client():
                raise AssertionError("let in")
    assert caught.value.reply.code == 550


async def test_what_is_known(autojump_clock: MockClock) -> None:
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


# --- CLI-21: EHLO once ------------------------------------------------------------------------------------------------


async def test_cli_21_no_ehlo_behind_auth(autojump_clock: MockClock) -> None:
    """RFC 4954 4 wants it behind a security layer alone, and no mechanism here has one. Behind STARTTLS: test_client_tls."""
    async with scripted(*hello("AUTH PLAIN"), "AUTH PLAIN .*", b"235 ok\r\n", *UNPIPELINED) as script:
        async with script.client(auth=("fred", "secret"), allow_cleartext=True) as client:
            assert client.user == "fred"
            await client.send(ME, [YOU], MESSAGE)
    assert sum(line.startswith("EHLO") for line in script.lines) == 1


# --- CLI-12: what no client can be made of ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a b", "a\r\nRSET", "a\0", "b\xfccher.example"])
async def test_cli_12_a_name_that_is_none(autojump_clock: MockClock, name: str) -> None:
    async with scripted(EXPECT_CLOSE) as script:
        with pytest.raises(ValueError, match="name"):
            script.client(name=name)
        await trio.aclose_forcefully(script.client_stream)


@pytest.mark.parametrize("tls", ["required", "implicit"])
async def test_tls_needs_a_name_to_check(autojump_clock: MockClock, tls: str) -> None:
    async with scripted(EXPECT_CLOSE) as script:
        with pytest.raises(ValueError, match="host"):
            script.client(tls=tls)
        await trio.aclose_forcefully(script.client_stream)


async def test_without_a_name_it_is_our_address(autojump_clock: MockClock) -> None:
    async with scripted(GREETING, r"EHLO \[127\.0\.0\.1\]", OK) as script, script.client(name=None):
        pass


# --- CLI-14: QUIT -----------------------------------------------------------------------------------------------------


async def test_cli_14_quit_on_a_clean_exit(autojump_clock: MockClock) -> None:
    async with scripted(*hello(), "QUIT", b"221 2.0.0 bye\r\n", EXPECT_CLOSE) as script:
        async with script.client():
            pass
    assert script.groups[-1] == b"QUIT\r\n"


async def test_cli_14_quit_waits_five_seconds(autojump_clock: MockClock) -> None:
    async with scripted(*hello(), "QUIT", NO_REPLY) as script:
        async with script.client():
            began = trio.current_time()
        assert trio.current_time() == began + 5


@pytest.mark.parametrize(
    "answer",
    [CLOSE, b"221-a\r\n250 b\r\n", b"500 no\r\n", b"354 go\r\n", b"421 x\r\n", b"\xff\r\n", b"221 a\r\n221 b\r\n"],
)
async def test_cli_14_quit_never_raises(autojump_clock: MockClock, answer: Step) -> None:
    async with scripted(*hello(), "QUIT", answer, EXPECT_CLOSE) as script:
        async with script.client() as client:
            pass
        assert not client.usable
        await client.quit()  # twice does no harm


async def test_cli_14_quit_of_a_connection_that_is_gone(autojump_clock: MockClock) -> None:
    async with scripted(*hello(), CLOSE) as script:
        async with script.client() as client:
            await wait_all_tasks_blocked()
        assert not client.usable


async def test_cli_14_an_error_closes_without_a_word(autojump_clock: MockClock) -> None:
    async with scripted(*hello(), EXPECT_CLOSE) as script:
        began = trio.current_time()
        with pytest.raises(KeyError):
            async with script.client():
                raise KeyError
        assert trio.current_time() == began


async def test_cli_14_a_cancellation_closes_without_hanging(autojump_clock: MockClock) -> None:
    async with scripted(*hello(), NO_REPLY) as script:
        began = trio.current_time()
        with trio.move_on_after(7) as scope:
            async with script.client() as client:
                await client.noop()
        assert scope.cancelled_caught
        assert trio.current_time() == began + 7
        assert not client.usable


async def test_cli_14_quit_that_is_cancelled_still_closes(autojump_clock: MockClock) -> None:
    async with scripted(*hello(), "QUIT", EXPECT_CLOSE) as script:
        with trio.move_on_after(2) as scope:
            async with script.client() as client:
                pass
        assert scope.cancelled_caught
        assert not client.usable


async def test_aclose_says_nothing(autojump_clock: MockClock) -> None:
    async with scripted(*hello(), EXPECT_CLOSE) as script:
        async with script.client() as client:
            await client.aclose()
            with pytest.raises(trio.ClosedResourceError):
                await client.noop()


async def test_cancelled_while_it_opens(autojump_clock: MockClock) -> None:
    async with scripted(GREETING, "EHLO client.test", EXPECT_CLOSE) as script:
        with trio.move_on_after(1) as scope:
            async with script.client():
                raise AssertionError("let in")
        assert scope.cancelled_caught


async def test_what_is_required_and_not_offered(autojump_clock: MockClock) -> None:
    async with scripted(*hello(), "QUIT", b"221 bye\r\n") as script:
        with pytest.raises(NotOfferedError, match="AUTH"):
            async with script.client(auth=("fred", "secret"), allow_cleartext=True):
                raise AssertionError("let in")


async def test_negative_timeout_is_invalid(autojump_clock: MockClock) -> None:
    async with scripted(EXPECT_CLOSE) as script:
        with pytest.raises(ValueError, match="must be >= 0, got -3"):
            Client(script.client_stream, timeout=-3)
        await trio.aclose_forcefully(script.client_stream)
