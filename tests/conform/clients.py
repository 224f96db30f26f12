"""Clients that the scenes are played to, in memory: ours, in all its shapes, and one that can be made wrong in one way each."""

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

from smtp_trio import AllRecipientsRejectedError, Client, SMTPError
from smtp_trio._client.client import ClientSettings
from smtp_trio.conform import Report, Rule
from smtp_trio.conform._client_cases import client_rules
from smtp_trio.conform._client_runner import Stage, play
from smtp_trio.conform._scene import Ending
from smtp_trio.conform._subject import Errand, Serve
from smtp_trio.conform._visit import Setting
from smtp_trio.testing import bounded_stream_pair

HOST = "mx.test"
NOTHING = Setting()
Talk = Callable[[trio.abc.Stream, Errand], Awaitable[int]]
"""A client: gives its exit code."""


@define
class Subject:
    """A client that is a function, over streams in memory. OSError and ValueError are its failures."""

    talk: Talk
    name: str = "a client in memory"
    asks: bool = True
    wait: float = 0.0

    async def run(self, errand: Errand, serve: Serve) -> Ending:
        near, far = bounded_stream_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve, far)
            try:
                code = await self.talk(near, errand)
            finally:
                await trio.aclose_forcefully(near)
        return Ending(code if self.asks else None, b"so much for that")


def ours(settings: ClientSettings) -> Talk:
    """Our client, with these settings."""

    settings.setdefault("name", "client.test")

    async def talk(stream: trio.abc.Stream, errand: Errand) -> int:
        recipients = [errand.values["to"], errand.values["to2"]]
        try:
            async with Client(stream, host=HOST, **settings) as client:
                result = await client.send(errand.values["from"], recipients, errand.text)
        except (SMTPError, AllRecipientsRejectedError, ValueError, OSError):
            return 1
        return 0 if len(result.accepted) == len(recipients) else 1

    return talk


@cache
def contexts() -> tuple[Mapping[str, ssl.SSLContext], ssl.SSLContext]:
    """TLS of servers whose certificates are good and bad, and that of a client."""
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
class Shape:
    """One of the ways in which our client is used."""

    settings: ClientSettings
    setting: Setting = NOTHING


LOGIN = ("conform", "conform-password")


def shapes() -> Mapping[str, Shape]:
    trusting = contexts()[1]
    return {
        "plain": Shape({"tls": "never"}),
        "opportunistic": Shape({"tls": "opportunistic", "ssl_context": trusting}),
        "login": Shape({"tls": "never", "auth": LOGIN, "allow_cleartext": True}, Setting(login=True)),
        "required": Shape({"tls": "required", "ssl_context": trusting}, Setting(require_tls=True)),
        "submission": Shape(
            {"tls": "required", "ssl_context": trusting, "auth": LOGIN}, Setting(require_tls=True, login=True)
        ),
    }


@cache
def report(name: str) -> Report:
    """What is said of our client; all is played once, on a clock that waits for nobody."""
    shape = shapes()[name]
    return played(ours(shape.settings), client_rules(), setting=shape.setting)


def played(talk: Talk, rules: Iterable[Rule], *, setting: Setting = NOTHING, asks: bool = True) -> Report:
    """What is said of that client."""
    stage = Stage(setting=setting, slow=True, contexts=contexts()[0])
    return trio.run(partial(play, Subject(talk, asks=asks), stage, rules), clock=MockClock(autojump_threshold=0))


@define(kw_only=True)
class Naive:
    """A client that does one thing after the other, and stops at a refusal; and that can be made wrong."""

    stream: trio.abc.Stream
    errand: Errand
    early: bytes = b""
    """What it says before the greeting."""
    hello: Sequence[bytes] = (b"EHLO client.test",)
    mail: bytes = b"MAIL FROM:<%b>"
    rcpt: bytes = b"RCPT TO:<%b>"
    data: Sequence[bytes] = (b"DATA",)
    end: bytes = b"\r\n"
    """Of each command."""
    body: Callable[[bytes], bytes] = lambda text: text.replace(b"\n.", b"\n..") + b".\r\n"
    believes: bool = False
    """Takes any answer for a yes, and one that does not come as well."""
    ahead: bool = False
    """Does not wait for answers."""
    quits: Sequence[bytes] = (b"QUIT",)
    code: int | None = None
    """What it ends with, whatever happens."""
    buffer: bytes = b""

    async def run(self) -> int:
        try:
            done = await self.send()
        except (trio.BrokenResourceError, trio.ClosedResourceError, EOFError):
            done = self.believes
        return self.code if self.code is not None else int(not done)

    async def send(self) -> bool:
        values = self.errand.values
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
            if not done and not self.believes:
                break
            done = await self.say(line) and done
        if done or self.believes:
            await self.stream.send_all(self.body(self.errand.text))
            done = await self.reply() == "2"
        for line in self.quits:
            await self.stream.send_all(line + self.end)
        if self.quits:
            await self.reply()
        return done or self.believes

    async def say(self, line: bytes) -> bool:
        await self.stream.send_all(line + self.end)
        return self.ahead or await self.reply() in "23"

    async def reply(self) -> str:
        """The first digit of the next reply."""
        while not (match := re.match(rb"(?:...-[^\n]*\n)*(.)..(?: [^\n]*)?\n", self.buffer)):
            data = await self.stream.receive_some()
            if not data:
                raise EOFError
            self.buffer += data
        self.buffer = self.buffer[match.end() :]
        return match[1].decode("latin-1")


def naive(**flaws: Any) -> Talk:
    """Such a client, with these flaws."""

    async def talk(stream: trio.abc.Stream, errand: Errand) -> int:
        return await Naive(stream=stream, errand=errand, **flaws).run()

    return talk
