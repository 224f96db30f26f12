"""`Engine`: the connections of a `Redis` store, the errors of the server, and the settings on which a 250 depends."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Protocol, cast

import coredis
import trio
from coredis.exceptions import RedisError, ResponseError
from coredis.retry import NoRetryPolicy

from .._server.log_events import STORE_OPENED, STORE_SETTING
from ._errors import StoreError, UnusableStoreError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from coredis.commands import CommandRequest
    from coredis.connection import BaseConnection

    from ._redis_url import Settings

# How the library is used
# -----------------------
#
# A client of coredis has a pool of connections, which is a nursery: it has to be entered and left by one task. When that
# nursery is cancelled, its connections are lost at once, also for a command that is shielded. So a store starts a task of its
# own for it, `hold_open`, which no cancellation from outside of the store reaches: it ends with the block of the store.
#
# A pool of coredis 6.9 that has lent a connection, for a blocking command or a pipeline, never gets its place back if the
# connection is lost or the command is cancelled meanwhile; when no place is left, every further command waits for ever. A
# connection that was returned before the replies are awaited does not have the problem. So `Engine.run` takes a connection,
# returns it, and then sends its commands on it, as a batch. All commands of an engine usually share one connection in this
# way, and a store has an engine for commits, another for everything else, and a third for the one command that blocks, so
# that none of them waits for another.
#
# `Engine.run` is shielded from cancellation, since a connection that is shared cannot be closed for one session, and since
# it would be unknown whether a command that was sent has been executed. Its timeouts limit how long that takes. Nothing is
# sent a second time, which the library does by default: the first attempt may have been executed.
#
# Before an engine that writes uses a new connection, it checks the settings of the server. After a failover that is another
# server, and it may have other settings.

#: The settings on which a 250 depends, with the values that it needs.
REQUIRED = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction"}
#: The oldest version that has XAUTOCLAIM and exclusive ranges.
OLDEST_VERSION = (6, 2)
#: Places in a pool. One connection is used; see above.
PLACES = 1000

Command = tuple[Any, ...]


def new_client(settings: Settings) -> coredis.Redis[bytes]:
    """Return a client that has not been entered."""
    return coredis.Redis(
        settings.host,
        settings.port,
        settings.db,
        username=settings.username,
        password=settings.password,
        ssl=settings.tls,
        ssl_check_hostname=settings.tls or None,
        ssl_cert_reqs="required" if settings.tls else None,
        connect_timeout=settings.timeout,
        stream_timeout=settings.timeout,
        max_connections=PLACES,
        retry_policy=NoRetryPolicy(),
    )


async def hold_open(clients: Iterable[coredis.Redis[bytes]], opened: trio.Event, released: trio.Event) -> None:
    """Enter clients, and leave them when ``released`` is set."""
    with trio.CancelScope(shield=True):
        async with AsyncExitStack() as stack:
            for client in clients:
                await stack.enter_async_context(client)
            opened.set()
            await released.wait()


class Run(Protocol):
    """A function that runs commands and returns their replies."""

    async def __call__(self, *commands: Command) -> list[Any]: ...


class Request:
    """The part of a `coredis.commands.CommandRequest` that a connection uses for a batch.

    It takes a fifth of the time, since it does not find out to which server of a cluster the command goes.
    """

    __slots__ = ("name", "serialized_arguments")
    decode = None

    def __init__(self, name: bytes, arguments: Sequence[Any]) -> None:
        self.name = name
        self.serialized_arguments = arguments


class Engine:
    """A client of the server on one connection.

    ``check(run)`` is awaited for each new connection, before it is used, with a function that runs commands on it.
    """

    def __init__(
        self, client: coredis.Redis[bytes], timeout: float, check: Callable[[Run], Awaitable[None]] | None = None
    ) -> None:
        self._client = client
        self._timeout = timeout
        self._check = check
        self._checked: object = None

    async def run(self, *commands: Command, longer: float = 0, shield: bool = True) -> list[Any]:
        """Send commands and return their replies, of which some can be errors of the server. This cannot be cancelled.

        ``longer`` are seconds that the replies may take besides the timeout. With ``shield=False`` it can be cancelled; then
        the engine must not be used any more. Raises RedisError, OSError or TimeoutError if not all replies were received.
        """
        with trio.CancelScope(shield=shield):
            async with self._client.connection_pool.acquire() as connection:
                pass
            if self._check is not None and connection is not self._checked:

                async def run(*commands: Command) -> list[Any]:
                    return await self._send(connection, commands, 0)

                await self._check(run)
                self._checked = connection
            replies = await self._send(connection, commands, longer)
        return replies

    async def run_together(self, commands: Sequence[Command], then: Sequence[Command], *, longer: float) -> list[Any]:
        """Run commands as one transaction, and others after it, as `run` does. Return the replies of all of them.

        A command that fails while the transaction is executed does not affect the others. If the server refuses to execute
        it, or does not allow transactions, they are run one by one.
        """
        if len(commands) == 1:  # it is flushed at once in any case
            return await self.run(*commands, *then, longer=longer)
        began, *replies = await self.run((b"MULTI",), *commands, (b"EXEC",), *then, longer=longer)
        queued, executed, after = replies[: len(commands)], replies[len(commands)], replies[len(commands) + 1 :]
        # Without a transaction they were executed. With one, each of them was refused when it was queued.
        if isinstance(began, Exception) or all(isinstance(each, Exception) for each in queued):
            return queued + after
        if isinstance(executed, Exception):  # none of them was executed
            return await self.run(*commands, *then, longer=longer)
        return [*executed, *after]

    async def _send(self, connection: BaseConnection, commands: Sequence[Command], longer: float) -> list[Any]:
        requests = cast("list[CommandRequest[Any]]", [Request(name, arguments) for name, *arguments in commands])
        results: list[Any] = await connection.create_request_batch(requests, timeout=self._timeout + longer)
        for result in results:
            if isinstance(result, Exception) and not isinstance(result, ResponseError):
                raise result
        return results


#: What can be raised by `Engine.run`.
ENGINE_ERRORS = (RedisError, OSError, TimeoutError)


def is_full(error: BaseException) -> bool:
    """Return whether the server has refused to store something because its memory or its disk is full."""
    text = str(error)
    return text.startswith("OOM") or "No space left" in text


def first_error(results: Sequence[Any]) -> Exception | None:
    """Return the first reply that is an error."""
    return next((result for result in results if isinstance(result, Exception)), None)


# --- the settings on which a 250 depends


async def check_server(run: Run, settings: Settings, name: str) -> None:
    """Check the settings of a server, and log what a 250 guarantees. Raises `StoreError` if it would guarantee too little."""
    info_reply, config_reply = await run((b"INFO",), (b"CONFIG GET", *REQUIRED, "min-replicas-to-write", "maxmemory"))
    if isinstance(info_reply, Exception):
        raise StoreError(f"INFO fails: {info_reply}")
    info = parse_info(info_reply)
    version = info.get("redis_version", "0")
    if tuple(int(each) for each in version.split(".")[:2] if each.isdigit()) < OLDEST_VERSION:
        raise UnusableStoreError(f"version {version} is too old: 6.2 or newer is needed")
    if info.get("role") != "master":
        raise StoreError("it is a replica; messages are stored by its primary")
    replicas = int(info.get("connected_slaves", "0"))
    if replicas < settings.replicas:
        raise StoreError(
            f"it has {replicas} replicas, and a 250 needs {settings.replicas} (replicas={settings.replicas})"
        )

    warnings = []
    if isinstance(config_reply, Exception):
        warnings.append(f"{', '.join(REQUIRED)} cannot be checked, as CONFIG GET is not permitted: {config_reply}")
        flushed = "was written by the server; whether it was flushed to its disk is not known"
    else:
        config = {key.decode(): value.decode() for key, value in config_reply.items()}
        wrong = {key: config[key] for key, value in REQUIRED.items() if config.get(key, value) != value}
        if wrong and settings.durability == "disk":
            got = ", ".join(f"{key} is {value} and must be {REQUIRED[key]}" for key, value in wrong.items())
            raise UnusableStoreError(f"{got}; or set durability=memory")
        if int(config.get("min-replicas-to-write", "0")) < settings.replicas:
            warnings.append(
                f"min-replicas-to-write is less than {settings.replicas}: while replicas are missing, a message can be "
                "visible before it is refused and removed"
            )
        if wrong:
            got = ", ".join(f"{key} is {value}" for key, value in wrong.items())
            flushed = f"can be lost when the server stops, since {got}"
        else:
            flushed = "is on the disk of the server"
    acknowledged = f", and was acknowledged by {settings.replicas} of {replicas} replicas" if settings.replicas else ""
    for warning in warnings:
        STORE_SETTING.log(store=name, warning=warning)
    STORE_OPENED.log(store=name, guarantee=f"a message with a 250 {flushed}{acknowledged}")


def parse_info(text: bytes) -> dict[str, str]:
    """Return the fields of a reply to INFO."""
    lines = (line.partition(":") for line in text.decode("utf-8", "replace").splitlines())
    return {key: value for key, colon, value in lines if colon}


# --- errors


def describe(error: BaseException) -> str:
    """Return the text of an error and of its first cause: the library only has general texts for those in between."""
    text, first = str(error) or type(error).__name__, error
    while first.__cause__ is not None:
        first = first.__cause__
    if first is error:
        return text
    return f"{text}: {'no answer in time' if isinstance(first, TimeoutError) else first}"


async def leave(stack: AsyncExitStack, error: BaseException | None) -> None:
    """Close nurseries after a block that has raised ``error``, or nothing.

    The caller raises ``error``. The nurseries would put it into groups; those are dropped here. What they raise besides is
    raised, without a group if it is one exception.
    """
    try:
        await stack.__aexit__(None if error is None else type(error), error, None)
    except BaseException as raised:
        others = [each for each in leaves(raised) if each is not error and not isinstance(each, trio.Cancelled)]
        if others:
            raise (others[0] if len(others) == 1 else raised) from None
        if error is None:
            raise


def leaves(error: BaseException) -> list[BaseException]:
    """Return the exceptions that are in a group, at any depth."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for each in error.exceptions for leaf in leaves(each)]
    return [error]
