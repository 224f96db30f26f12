"""Clients in memory to try the cases with: configurations of `smtp_trio.Client`, and a simple one with defects."""

from __future__ import annotations

import re
import ssl
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from typing import Any

import trio
import trustme
from attrs import define, frozen
from trio.testing import MockClock

from smtp_trio import AllRecipientsRejectedError, Client, ClientSettings, SMTPError
from smtp_trio.conform import Report, Requirement
from smtp_trio.conform._client_case import ClientExit
from smtp_trio.conform._client_cases import client_cases
from smtp_trio.conform._client_runner import ClientOptions, check_client
from smtp_trio.conform._client_under_test import SendRequest, Serve
from smtp_trio.testing import bounded_stream_pair

HOST = "mx.test"
#: A client: sends the message, and returns its exit code.
SendFunction = Callable[[trio.abc.Stream, SendRequest], Awaitable[int]]


@define
class FunctionClient:
    """A client that is a function, over streams in memory."""

    send: SendFunction
    name: str = "a client in memory"
    takes_requests: bool = True
    wait: float = 0.0

    async def run(self, request: SendRequest, serve: Serve) -> ClientExit:
        near, far = bounded_stream_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve, far)
            try:
                code = await self.send(near, request)
            finally:
                await trio.aclose_forcefully(near)
        return ClientExit(code if self.takes_requests else None, b"done")


def smtp_trio_client(settings: ClientSettings) -> SendFunction:
    """Return `smtp_trio.Client` with these settings."""

    settings.setdefault("name", "client.test")

    async def send(stream: trio.abc.Stream, request: SendRequest) -> int:
        recipients = [request.values["to"], request.values["to2"]]
        try:
            async with Client(stream, host=HOST, **settings) as client:
                result = await client.send(request.values["from"], recipients, request.message)
        except (SMTPError, AllRecipientsRejectedError, ValueError, OSError):
            return 1
        return 0 if len(result.accepted) == len(recipients) else 1

    return send


@cache
def contexts() -> tuple[Mapping[str, ssl.SSLContext], ssl.SSLContext]:
    """Return TLS for servers with valid and invalid certificates, and for a client."""
    authority, other = trustme.CA(), trustme.CA()
    past = datetime.now(UTC) - timedelta(days=1)
    certificates = {
        "good": authority.issue_cert(HOST),
        "name": authority.issue_cert("other.test"),
        "authority": other.issue_cert(HOST),
        "expired": authority.issue_cert(HOST, not_after=past),
    }
    servers = {}
    for name, certificate in certificates.items():
        servers[name] = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        certificate.configure_cert(servers[name])
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return servers, client


@frozen
class Configuration:
    """The settings of the client, and what `check_client` must know of them."""

    settings: ClientSettings
    require_tls: bool = False
    login: bool = False


LOGIN = ("conform", "conform-password")


def configurations() -> Mapping[str, Configuration]:
    """Return all configurations by name."""
    trusting = contexts()[1]
    return {
        "plain": Configuration({"tls": "never"}),
        "opportunistic": Configuration({"tls": "opportunistic", "ssl_context": trusting}),
        "login": Configuration({"tls": "never", "auth": LOGIN, "allow_cleartext": True}, login=True),
        "required": Configuration({"tls": "required", "ssl_context": trusting}, require_tls=True),
        "submission": Configuration(
            {"tls": "required", "ssl_context": trusting, "auth": LOGIN}, require_tls=True, login=True
        ),
    }


@cache
def report(name: str) -> Report:
    """Return the report about a configuration. The cases are tried once, on a virtual clock."""
    each = configurations()[name]
    send = smtp_trio_client(each.settings)
    return run_client_cases(send, client_cases(), require_tls=each.require_tls, login=each.login)


def run_client_cases(
    send: SendFunction, requirements: Iterable[Requirement], *, require_tls: bool = False, login: bool = False
) -> Report:
    """Return the report about a client."""
    options = ClientOptions(require_tls=require_tls, login=login, slow=True, contexts=contexts()[0])
    return trio.run(
        partial(check_client, FunctionClient(send), options, requirements), clock=MockClock(autojump_threshold=0)
    )


@define(kw_only=True)
class SimpleClient:
    """A client that sends command by command and stops at a refusal. Its attributes give it defects."""

    stream: trio.abc.Stream
    request: SendRequest
    early: bytes = b""
    """Octets to send before the greeting."""
    hello: Sequence[bytes] = (b"EHLO client.test",)
    mail: bytes = b"MAIL FROM:<%b>"
    rcpt: bytes = b"RCPT TO:<%b>"
    data: Sequence[bytes] = (b"DATA",)
    end: bytes = b"\r\n"
    """The line end of commands."""
    body: Callable[[bytes], bytes] = lambda text: text.replace(b"\n.", b"\n..") + b".\r\n"
    ignores_refusals: bool = False
    """Regards every reply as a success, and a missing one too."""
    does_not_wait: bool = False
    """Sends the next command before the reply."""
    last: Sequence[bytes] = (b"QUIT",)
    code: int | None = None
    """A fixed exit code."""
    buffer: bytes = b""

    async def run(self) -> int:
        try:
            done = await self.send()
        except (trio.BrokenResourceError, trio.ClosedResourceError, EOFError):
            done = self.ignores_refusals
        return self.code if self.code is not None else int(not done)

    async def send(self) -> bool:
        values = self.request.values
        if self.early:
            await self.stream.send_all(self.early)
        lines = [
            *self.hello,
            self.mail % values["from"].encode() if b"%" in self.mail else self.mail,
            *[self.rcpt % values[to].encode() for to in ("to", "to2")],
            *self.data,
        ]
        done = await self.reply() == "2"
        for line in lines:
            if not done and not self.ignores_refusals:
                break
            done = await self.command(line) and done
        if done or self.ignores_refusals:
            await self.stream.send_all(self.body(self.request.message))
            done = await self.reply() == "2"
        for line in self.last:
            await self.stream.send_all(line + self.end)
        if self.last:
            await self.reply()
        return done or self.ignores_refusals

    async def command(self, line: bytes) -> bool:
        await self.stream.send_all(line + self.end)
        return self.does_not_wait or await self.reply() in "23"

    async def reply(self) -> str:
        """Return the first digit of the next reply."""
        while not (match := re.match(rb"(?:...-[^\n]*\n)*(.)..(?: [^\n]*)?\n", self.buffer)):
            data = await self.stream.receive_some()
            if not data:
                raise EOFError
            self.buffer += data
        self.buffer = self.buffer[match.end() :]
        return match[1].decode("latin-1")


def simple_client(**defects: Any) -> SendFunction:
    """Return a simple client with these defects."""

    async def send(stream: trio.abc.Stream, request: SendRequest) -> int:
        return await SimpleClient(stream=stream, request=request, **defects).run()

    return send
