"""A third-party extension with a verb of its own: examples/etrn.py, between a server and a client of the package."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import pytest
import trio
from attrs import frozen
from helpers import Client as RawClient
from test_examples import load
from trio.testing import MockClock, memory_stream_pair

from smtp_trio import (
    Client,
    Command,
    Hooks,
    LocalProtocolError,
    Mail,
    NotOfferedError,
    Reply,
    ReplyError,
    Server,
    Session,
    TimedOutError,
    connect,
    standard,
)
from smtp_trio.protocol import Data, Extension, Param, Table
from smtp_trio.protocol.dialogue import READY
from smtp_trio.protocol.extension import CommandParams
from smtp_trio.protocol.extensions.auth import AuthCommand
from smtp_trio.protocol.extensions.chunking import Bdat
from smtp_trio.protocol.extensions.starttls import StartTlsCommand

example = load("etrn")
Etrn, EtrnExtension, Queues = example.Etrn, example.EtrnExtension, example.Queues


def etrn_server(hooks: Hooks | None = None, **settings: Any) -> Server:
    return Server(hooks, name="mx.test", extensions=standard(EtrnExtension()), **settings)


@asynccontextmanager
async def serving(server: Server) -> AsyncGenerator[trio.abc.Stream]:
    """Serve one session over memory streams; yield the client's end."""
    near, far = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve_stream, far)
        yield near


async def ask(server: Server, *lines: str) -> list[str]:
    """Send the lines to a server, each after the reply to the last one; return the replies to them."""
    async with serving(server) as stream:
        client = RawClient(stream)
        await client.reply()
        replies = []
        for line in (*lines, "QUIT"):
            await client.send(f"{line}\r\n".encode())
            replies.append(await client.reply())
        return replies


# --- end to end -------------------------------------------------------------------------------------------------------


async def test_hook_answers_the_command_of_a_client() -> None:
    server = etrn_server(Queues({"example.org": 2}))
    async with serving(server) as stream, Client(stream, extensions=[EtrnExtension()]) as client:
        assert isinstance(client.offered["ETRN"], EtrnExtension)
        assert (await client.command(Etrn("example.org"))).code == 253
        assert (await client.command(Etrn("example.org"))).code == 251
        with pytest.raises(ReplyError, match="ETRN was refused: 459") as caught:
            await client.command(Etrn("example.com"))
        assert caught.value.command == Etrn("example.com")


async def test_example_over_sockets(capsys: pytest.CaptureFixture[str]) -> None:
    await example.main()
    assert capsys.readouterr().out.splitlines() == [
        "253 2.0.0 OK, 2 pending messages for node example.org started",
        "251 2.1.5 OK, no messages waiting for node example.org",
        "ETRN was refused: 459 4.7.1 Node example.com not allowed",
    ]


async def test_plain_function_as_hook() -> None:
    async def etrn(session: Session, command: Command) -> Reply:
        assert command == Etrn("example.org")
        return Reply(250, f"Started for {session.peer.host}")

    server = etrn_server()
    server.on(etrn=etrn)
    async with serving(server) as stream, Client(stream, extensions=[EtrnExtension()]) as client:
        assert (await client.command(Etrn("example.org"))).code == 250


@pytest.mark.parametrize("name", ["XCLIENT", "AUTH", "BURL"])
async def test_hook_answers_a_command_with_the_verb_of_another_extension(name: str) -> None:
    """It may replace an extension of this package, which is not offered then."""

    class Own(Command):
        verb = name
        hook = "own"
        codes = frozenset({250})

    class OwnExtension(Extension):
        keyword = name
        verbs = (Own,)
        table = Table(accepted={Own: {READY: READY}})

    async def own(session: Session, command: Command) -> Reply:
        assert type(command) is Own
        return Reply(250, "Done")

    server = Server(name="mx.test", extensions=standard(OwnExtension()))
    server.on(own=own)
    async with serving(server) as stream, Client(stream, extensions=[OwnExtension()]) as client:
        assert (await client.command(Own())).text == "Done"


# --- the server -------------------------------------------------------------------------------------------------------


def test_hook_of_an_extension_that_is_not_installed_raises() -> None:
    with pytest.raises(TypeError, match="etrn"):
        Server().on(etrn=Queues({}).etrn)
    with pytest.raises(TypeError, match=r"Queues\.etrn is not a hook"):
        Server(Queues({}))


def test_hook_that_is_not_async_raises() -> None:
    class Plain(Hooks):
        def etrn(self, session: Session, command: Command) -> Reply:
            return Reply(250)

    with pytest.raises(TypeError, match="async"):
        etrn_server(Plain())
    with pytest.raises(TypeError, match="async"):
        etrn_server().on(etrn=Plain().etrn)  # type: ignore[arg-type]


def test_command_cannot_declare_a_hook_with_other_arguments() -> None:
    class XData(Command):
        verb = "XDATA"
        hook = "data"

    class XDataExtension(Extension):
        keyword = "XDATA"
        verbs = (XData,)

    with pytest.raises(ValueError, match="XDATA declares the hook 'data'"):
        Server(extensions=standard(XDataExtension()))


async def test_without_the_hook_the_command_is_not_offered() -> None:
    ehlo, etrn, _ = await ask(etrn_server(), "EHLO client.test", "ETRN example.org")
    assert "ETRN" not in ehlo
    assert etrn == "502 5.5.1 Command not implemented"


async def test_argument_sequence_and_help_are_as_for_other_commands() -> None:
    lines = ["ETRN x", "EHLO client.test", "ETRN", "ETRN a b", "etrn x", "HELP ETRN", "MAIL FROM:<a@b.test>", "ETRN x"]
    replies = await ask(etrn_server(Queues({"x": 0})), *lines)
    assert [reply.split()[0] for reply in replies] == [
        "503",
        "250-mx.test",
        "501",
        "501",
        "251",
        "214",
        "250",
        "503",
        "221",
    ]
    assert "ETRN" in replies[1].replace("-", " ").split()
    assert replies[5] == "214 2.0.0 Syntax: ETRN host"


async def test_code_that_the_command_cannot_have_is_an_error_of_the_hook() -> None:
    errors: list[Exception] = []

    class Wrong(Hooks):
        async def etrn(self, session: Session, command: Command) -> Reply:
            return Reply(354, "Go ahead")

        async def error(self, server: Server, error: Exception) -> None:
            errors.append(error)

    assert (await ask(etrn_server(Wrong()), "EHLO client.test", "ETRN x"))[1][:3] == "451"
    assert "354" in str(errors[0])


async def test_message_hook_may_answer_the_command() -> None:
    class All(Hooks):
        async def message(self, session: Session, command: Command) -> Reply | None:
            return Reply(250, "Started") if isinstance(command, Etrn) else None

        async def etrn(self, session: Session, command: Command) -> Reply:
            raise AssertionError

    assert (await ask(etrn_server(All()), "EHLO client.test", "ETRN x"))[1] == "250 2.0.0 Started"


async def test_success_in_the_hook_is_250() -> None:
    class Success(Hooks):
        async def etrn(self, session: Session, command: Command) -> None:
            session.success("Started")

    assert (await ask(etrn_server(Success()), "EHLO client.test", "ETRN x"))[1] == "250 2.0.0 Started"


# --- the client -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("supported", [False, True])
async def test_command_that_is_not_offered_is_not_sent(supported: bool) -> None:
    server = etrn_server() if supported else etrn_server(Queues({}))
    extensions = [EtrnExtension()] if supported else []
    async with serving(server) as stream, Client(stream, extensions=extensions) as client:
        # The package has a command ETRN too, so that the keyword alone is no reason.
        with pytest.raises(NotOfferedError if supported else LocalProtocolError, match="ETRN"):
            await client.command(Etrn("x"))
        await client.noop()


async def test_reply_is_waited_for_with_a_timeout(autojump_clock: MockClock) -> None:
    class Slow(Hooks):
        async def etrn(self, session: Session, command: Command) -> None:
            await trio.sleep(200)

    async with (
        serving(etrn_server(Slow())) as stream,
        Client(stream, extensions=[EtrnExtension()], timeout=30) as client,
    ):
        with pytest.raises(TimedOutError, match="ETRN"):
            await client.command(Etrn("x"))


async def test_command_out_of_order_is_not_sent() -> None:
    async with serving(etrn_server(Queues({}))) as stream, Client(stream, extensions=[EtrnExtension()]) as client:
        await client.mail("me@client.test")
        with pytest.raises(LocalProtocolError, match="ETRN"):
            await client.command(Etrn("x"))


@pytest.mark.parametrize("command", [Data(), Bdat(1), StartTlsCommand(), AuthCommand("PLAIN")], ids=lambda c: c.verb)
async def test_commands_with_a_method_of_their_own(command: Command) -> None:
    async with serving(etrn_server()) as stream, Client(stream) as client:
        with pytest.raises(ValueError, match=f"{command.verb} .* method"):
            await client.command(command)


@frozen
class Colours(Extension):
    """An extension with parameters in the reply to EHLO."""

    colours: tuple[str, ...] = ()
    keyword = "XCOLOURS"

    def advertise(self, state: object) -> str:
        return f"XCOLOURS {' '.join(self.colours)}"

    def parse_offer(self, words: Sequence[str]) -> Colours:
        return Colours(tuple(words))


async def test_parameters_of_the_ehlo_line_are_typed() -> None:
    server = Server(extensions=standard(Colours(("red", "green"))))
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(server.serve, 0, "127.0.0.1")
        port = listeners[0].socket.getsockname()[1]
        async with connect("127.0.0.1", port, extensions=[Colours()]) as client:
            assert client.offered["XCOLOURS"] == Colours(("red", "green"))
        await server.stop()


COLOUR = Param[str]("COLOUR", lambda value: value if value in ("red", "green") else None, str)


class ColourOfMail(Extension):
    """An extension with a parameter of MAIL."""

    keyword = "XCOLOUR"
    params: ClassVar[CommandParams] = {Mail: (COLOUR,)}


async def test_parameters_of_mail_are_keyword_arguments() -> None:
    colours: list[str | None] = []

    async def mail(session: Session, mail: Mail) -> None:
        colours.append(mail.params.get(COLOUR))

    server = Server(extensions=standard(ColourOfMail()))
    server.on(mail=mail)
    async with serving(server) as stream, Client(stream, extensions=[ColourOfMail()]) as client:
        await client.mail("me@client.test", colour="red")
        with pytest.raises(ValueError, match="COLOUR"):
            await client.mail("me@client.test", colour="blue")
    async with serving(Server()) as stream, Client(stream, extensions=[ColourOfMail()]) as client:
        with pytest.raises(NotOfferedError, match="COLOUR"):
            await client.mail("me@client.test", colour="red")
    assert colours == ["red"]
