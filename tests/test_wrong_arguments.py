"""Arguments of a wrong type or value, of all public functions and classes: the error comes at once and names the argument."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Awaitable, Callable, Iterator
from email.message import EmailMessage
from typing import Any

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair

import smtp_trio
from smtp_trio import Body, Client, ClientTimeouts, Hooks, Pool, Reply, ScramSecret, Server, SMTPError
from smtp_trio.conform import Target, check_server, read_cases, server_cases
from smtp_trio.protocol import ClientProtocol, Noop, ServerProtocol, extensions, lenient_mode
from smtp_trio.stores import Maildir, RecipientMaildirs, SQLite, read
from smtp_trio.testing import (
    Advertise,
    Answer,
    Close,
    Coalesce,
    Delay,
    Early,
    Entry,
    Extra,
    Faults,
    Garbage,
    Hang,
    Ignore,
    Inbox,
    Omit,
    Replace,
    Sometimes,
    Throttle,
    Transcript,
    Trickle,
    bounded_stream_pair,
    cancel_everywhere,
    deterministic,
    memory_network,
    open_inbox_thread,
    open_memory_server,
    open_test_server,
    start_everywhere,
    stop_server,
)
from smtp_trio.testing.strategies import fault_scripts, rules

MESSAGE = b"Subject: hi\r\n\r\nhello\r\n"
ENVELOPE: dict[str, Any] = {"sender": "a@b.test", "recipients": ["c@d.test"], "message": MESSAGE}

#: Values that are not a number >= 0, an integer >= 0, a str, a bool and a path.
NUMBERS: list[object] = ["1", b"1", True, None, -1, math.nan]
INTEGERS: list[object] = [*NUMBERS, 1.5, math.inf]
STRINGS: list[object] = [1, b"x", None, ["x"]]
BOOLS: list[object] = ["no", 0, None]
PATHS: list[object] = [1, b"x", None, True]

Row = tuple[Callable[..., object], dict[str, Any], str, object]


def email_message() -> EmailMessage:
    message = EmailMessage()
    message["From"], message["To"] = "a@b.test", "c@d.test"
    message.set_content("hello")
    return message


def of_client(method: str) -> Callable[..., object]:
    async def call(**arguments: Any) -> None:
        async with open_memory_server() as server, server.client() as client:
            await getattr(client, method)(**arguments)

    call.__qualname__ = f"Client.{method}"
    return call


def of_pool(method: str) -> Callable[..., object]:
    async def call(**arguments: Any) -> None:
        async with memory_network({"mx.test": Inbox()}), Pool("mx.test") as pool:
            await getattr(pool, method)(**arguments)

    call.__qualname__ = f"Pool.{method}"
    return call


def of_body(method: str) -> Callable[..., object]:
    class Reader(Hooks):
        failure: Exception | None = None

        def __init__(self, arguments: dict[str, Any]) -> None:
            self.arguments = arguments

        async def data(self, session: object, body: Body) -> None:
            try:
                await getattr(body, method)(**self.arguments)
            except (TypeError, ValueError) as exc:
                self.failure = exc
            await body.discard()

    async def call(**arguments: Any) -> None:
        hooks = Reader(arguments)
        async with open_memory_server(hooks) as server, server.client() as client:
            await client.send(**ENVELOPE)
        if hooks.failure is not None:
            raise hooks.failure

    call.__qualname__ = f"Body.{method}"
    return call


async def send(**arguments: Any) -> None:
    with pytest.raises(SMTPError):  # unless the arguments are refused first, because there is no such server
        await smtp_trio.send(**{"host": "127.0.0.1", "port": 1, **ENVELOPE, **arguments})


async def serve(**arguments: Any) -> None:
    with trio.move_on_after(1):
        await Server(Inbox(), name="mx.test").serve(**{"port": 0, "host": "127.0.0.1", **arguments})


async def serve_listeners(**arguments: Any) -> None:
    with trio.move_on_after(1):
        await Server(Inbox(), name="mx.test").serve_listeners(**{"listeners": [], **arguments})


async def serve_stream(**arguments: Any) -> None:
    with trio.move_on_after(1):
        await Server(Inbox(), name="mx.test").serve_stream(**{"stream": memory_stream_pair()[0], **arguments})


async def stop(**arguments: Any) -> None:
    await Server(Inbox(), name="mx.test").stop(**arguments)


async def open_listeners(**arguments: Any) -> None:
    for listener in await smtp_trio.open_listeners(**{"port": 0, "host": "127.0.0.1", **arguments}):
        await listener.aclose()


async def check(**arguments: Any) -> None:
    async def dial() -> trio.abc.Stream:
        raise OSError

    target = Target(host="mx.test", port=25, dial=dial)
    await check_server(**{"target": target, "requirements": server_cases()[:1], **arguments})


async def network(**arguments: Any) -> None:
    async with memory_network(**{"servers": {"mx.test": Inbox()}, **arguments}):
        pass


async def memory_server(**arguments: Any) -> None:
    async with open_memory_server(**arguments):
        pass


async def port_server(**arguments: Any) -> None:
    async with open_test_server(**arguments):
        pass


def inbox_thread(**arguments: Any) -> None:
    with open_inbox_thread(**arguments):
        pass


async def record(**arguments: Any) -> None:
    Transcript().record(**{"stream": memory_stream_pair()[0], "side": "C", **arguments})


async def scenario(attempt: object) -> None:
    await trio.lowlevel.checkpoint()


def plain(*_: object) -> None: ...


async def asynchronous(*_: object) -> None: ...


def table() -> Iterator[Row]:
    def rows(call: Callable[..., object], valid: dict[str, Any], **wrong: list[Any]) -> Iterator[Row]:
        for name, values in wrong.items():
            for value in values:
                yield call, valid, name, value

    at: list[object] = [1, b"DATA", None, ["DATA"], "", "MAIL FROM"]
    by: list[object] = ["both", "C", None, 1]
    yield from rows(Close, {"at": "DATA"}, at=at, after=INTEGERS, by=by, nth=[*INTEGERS, 0], times=INTEGERS)
    yield from rows(Delay, {"at": "DATA", "seconds": 1}, at=at, seconds=NUMBERS, by=by)
    yield from rows(Hang, {"at": "DATA"}, at=at, by=by)
    yield from rows(Early, {"at": "DATA"}, at=at)
    yield from rows(Ignore, {"at": "DATA"}, at=at)
    yield from rows(Answer, {"at": "DATA", "code": 450}, at=at, code=["450", None], text=STRINGS, status=[1, b"x", []])
    yield from rows(Advertise, {"keyword": "SIZE"}, keyword=at, value=[None, b"x", 1.5], times=INTEGERS)
    yield from rows(Omit, {"keyword": "SIZE"}, keyword=at, times=INTEGERS)
    yield from rows(Coalesce, {}, count=[*INTEGERS, 0], within=[*NUMBERS, 0], at=at, by=by)
    yield from rows(Trickle, {}, octets=[*INTEGERS, 0], seconds=NUMBERS, at=at, max_segments=INTEGERS)
    yield from rows(Throttle, {"rate": 1}, rate=[*NUMBERS, 0], max_segments=INTEGERS)
    for rule in (Extra, Replace):
        yield from rows(rule, {"at": "DATA", "octets": b""}, at=at, octets=["x", 1, None, bytearray()])
    yield from rows(Garbage, {"at": "DATA"}, octets=INTEGERS)
    hang = Hang("DATA")
    yield from rows(Sometimes, {"rule": hang}, rule=[1, Hang, Sometimes(hang)], chance=[*NUMBERS, 1.01, math.inf])
    yield from rows(Faults, {}, seed=["1", None, 1.5, b"x"])
    yield from rows(Faults().hooks, {}, hooks=[1, Inbox])
    yield from rows(Faults().install, {}, server=[1, Inbox()])
    yield from rows(Faults().wrap, {"stream": memory_stream_pair()[0], "side": "client"}, side=by, stream=[1, None])
    yield from rows(fault_scripts, {}, by=["x", 1], max_rules=INTEGERS, chance=BOOLS, exclude=[1, "Hang", ["Hang"]])
    yield from rows(rules, {}, by=["x", 1], exclude=[1, Hang, "Hang", ["Hang"]])
    yield from rows(
        Entry,
        {"time": 0.0, "side": "C"},
        time=["1", None, math.nan],
        side=["X", "client", None],
        data=["x", 1],
        event=["x"],
    )
    yield from rows(Transcript, {}, entries=[1, "x", [1]])
    yield from rows(Transcript().octets, {}, side=["client", None, 1])
    yield from rows(Transcript().follow, {}, end=[1, None, memory_stream_pair()[0]])
    yield from rows(record, {}, stream=[1, None], side=["client", None], session=[1])
    yield from rows(bounded_stream_pair, {}, max_octets=[*INTEGERS, 0])
    yield from rows(deterministic, {}, seed=["x", None, 1.5])
    options: dict[str, list[Any]] = {
        "scenario": [1, None, plain],
        "check": [1, "x"],
        "allow": [1, "x", [1], int, (ValueError, int)],
        "points": [1, "1", [1.5], ["1"], [0], [1, -1], range(3)],
        "grace": NUMBERS,
        "max_seconds": NUMBERS,
        "max_steps": [*INTEGERS, 0],
        "seed": ["x", None, 1.5],
        "inline_threads": BOOLS,
        "nonsense": [1],
    }
    yield from rows(cancel_everywhere, {"scenario": scenario}, **options)
    yield from rows(start_everywhere, {"scenario": scenario, "action": stop_server}, action=[1, None, plain])
    inbox = Inbox()
    for method in (inbox.matching, inbox.assert_delivered):
        yield from rows(method, {}, to=[1, b"x", ["x"]], subject=[1], sender=[1], match=[1, "x"])
    yield from rows(inbox.assert_delivered, {}, n=INTEGERS)
    yield from rows(inbox.wait_for, {}, n=INTEGERS)
    hooks: list[object] = [1, "x", {}, {"rcpt": asynchronous}, plain]
    yield from rows(memory_server, {}, hooks=hooks)
    yield from rows(port_server, {}, hooks=hooks)
    yield from rows(inbox_thread, {}, hooks=hooks)
    servers: list[object] = [1, [], {}, [("mx.test", inbox)], {1: inbox}, {("mx.test", 25, 1): inbox}]
    yield from rows(network, {}, servers=servers, faults=[[]], raise_hook_errors=BOOLS)

    yield from rows(Maildir, {"path": "x"}, path=PATHS, newline=["CRLF", None, []])
    yield from rows(RecipientMaildirs, {"template": "{domain}/{local}"}, template=PATHS, newline=["CRLF", None, []])
    yield from rows(SQLite, {"path": "x"}, path=PATHS)
    yield from rows(read, {"path": "x"}, path=PATHS, uid=[1, b"x"])
    yield from rows(of_body("headers"), {}, limit=INTEGERS)
    yield from rows(of_body("spool"), {}, max_size=INTEGERS, dir=[1, b"x"])
    yield from rows(serve, {}, implicit_tls=BOOLS, port=["0", True, 1.5])
    yield from rows(serve_listeners, {}, implicit_tls=BOOLS, listeners=[1, "x", [1]])
    yield from rows(serve_stream, {}, implicit_tls=BOOLS, stream=[1, None])
    yield from rows(stop, {}, grace=NUMBERS)
    yield from rows(open_listeners, {}, port=["0", None, True], reuse_port=BOOLS, backlog=["1", True, -1, 1.5])

    reporting: dict[str, list[Any]] = {"progress": [1, "x", asynchronous], "record": [1, {}, []]}
    recipients: list[object] = ["c@d.test", b"c@d.test", 1, [1], [b"c@d.test"]]
    for make in (of_client, of_pool):
        yield from rows(make("send"), ENVELOPE, recipients=[*recipients, None], **reporting)
        yield from rows(
            make("send_message"),
            {"message": email_message()},
            message=[1, "x", b"x", None],
            recipients=recipients,
            add_headers=BOOLS,
            **reporting,
        )
        yield from rows(
            make("send_many"),
            {"messages": []},
            messages=[1, None, "x", b"x", [1], ["abc"], [("a@b.test", ["c@d.test"])]],
            **reporting,
        )
    yield from rows(send, {}, recipients=recipients, add_headers=BOOLS, port=["25", True, 0.5], **reporting)
    yield from rows(of_client("vrfy"), {}, user=STRINGS)
    yield from rows(of_client("expn"), {}, name=STRINGS)
    yield from rows(of_client("help"), {}, topic=STRINGS)
    yield from rows(of_client("bdat"), {"octets": b"x"}, octets=["x", 1, None], last=BOOLS)
    yield from rows(of_client("command"), {}, command=["NOOP", b"x", Noop])
    yield from rows(of_client("auth"), {"credentials": ("a", "b")}, mechanisms=["PLAIN", 1, [1]])
    yield from rows(ClientTimeouts.all, {}, seconds=["1", b"1", -1, math.nan])

    yield from rows(Target, {"host": "mx.test", "port": 25}, host=STRINGS, port=["25", True, None, 0, 65536])
    texts = dict.fromkeys(["name", "sender", "recipient", "password"], STRINGS)
    yield from rows(Target, {"host": "mx.test", "port": 25}, unknown=[1], user=[1, b"x"], **texts)
    yield from rows(
        Target, {"host": "mx.test", "port": 25}, tls=[True, None], implicit_tls=BOOLS, timeout=[*NUMBERS, 0], dial=[1]
    )
    yield from rows(
        check, {}, target=[1, "mx.test:25"], requirements=[1, "x", ["x"]], jobs=[*INTEGERS, 0], on_result=[1]
    )
    yield from rows(read_cases, {}, text=STRINGS)


ROWS = list(table())
#: A part of the repr of an object that is not the same in two processes.
ADDRESS = re.compile(r" at 0x\w+")


def name_of(value: object) -> str:
    name = getattr(value, "__qualname__", None) or getattr(value, "__name__", None)
    return name or ADDRESS.sub("", repr(value))[:40]


@pytest.mark.parametrize(
    ("call", "valid", "name", "value"),
    ROWS,
    ids=[f"{name_of(call)}-{name}-{name_of(value)}" for call, _, name, value in ROWS],
)
async def test_error_names_the_argument(
    call: Callable[..., object], valid: dict[str, Any], name: str, value: object, autojump_clock: MockClock
) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        called = call(**{**valid, name: value})
        if isinstance(called, Awaitable):
            await called
    assert name in str(caught.value)


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        (Close, {"at": "data", "after": 3, "by": "client", "nth": 2, "times": 0}),
        (Delay, {"at": "*", "seconds": math.inf}),
        (Throttle, {"rate": 0.5}),
        (Advertise, {"keyword": "size", "value": 5}),
        (Sometimes, {"rule": Hang("DATA"), "chance": 1}),
        (fault_scripts, {"by": None, "max_rules": 0, "exclude": {Hang}}),
        (cancel_everywhere, {"scenario": scenario, "points": {1}, "allow": ValueError, "check": None}),
        (cancel_everywhere, {"scenario": scenario, "points": iter([1]), "allow": [ValueError, KeyError]}),
        (Transcript, {"entries": iter([Entry(0, "C", b"x")])}),
        (inbox_thread, {"hooks": lambda inbox: inbox}),
        (open_listeners, {"backlog": 0, "reuse_port": True}),
        (stop, {"grace": math.inf}),
        (of_client("send"), {**ENVELOPE, "recipients": iter(["c@d.test"]), "progress": plain}),
        (of_client("send_many"), {"messages": iter([["a@b.test", ("c@d.test",), MESSAGE]])}),
    ],
)
async def test_valid_arguments(call: Callable[..., object], arguments: dict[str, Any]) -> None:
    called = call(**arguments)
    if inspect.isawaitable(called):
        await called


def test_core() -> None:
    """The core, which has tests of its own for this, is checked here from outside."""
    for call in (
        lambda: ServerProtocol(limits={}),  # type: ignore[arg-type]
        lambda: ClientProtocol(["SIZE"]),  # type: ignore[list-item]
        lambda: Reply("250"),  # type: ignore[arg-type]
        lambda: extensions.Auth(mechanisms="PLAIN"),
        lambda: lenient_mode(None),  # type: ignore[arg-type]
        lambda: ScramSecret.from_password(b"x", b"salt"),  # type: ignore[arg-type]
        lambda: Client(memory_stream_pair()[0], lmtp="x"),  # type: ignore[arg-type]
    ):
        with pytest.raises(TypeError, match=r" must be "):
            call()


class BytesPath:
    def __fspath__(self) -> bytes:
        return b"x"


def test_path_of_octets() -> None:
    with pytest.raises(TypeError, match=r"^path must be a path of str, got <"):
        Maildir(BytesPath())  # type: ignore[arg-type]
