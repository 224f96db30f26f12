"""No password or token appears in a traceback, also if it is shown with the local variables of all frames."""

from __future__ import annotations

import base64
import re
import traceback
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
import trio
from helpers import NAME, client_tls, connected, server_tls
from scripted import CLOSE, STOP_READING, Step, ehlo_reply, hello, scripted, tls_handshake
from trio.testing import MockClock, memory_stream_pair

import smtp_trio
from smtp_trio import BearerToken, Client, Credentials, PasswordCredentials, Pool, Reply, Server, Session, standard
from smtp_trio.credentials import ScryptHash, UsersFile, set_password
from smtp_trio.credentials._format import StoredUser
from smtp_trio.protocol.extensions import Auth
from smtp_trio.protocol.extensions.auth import AuthCommand
from smtp_trio.protocol.sasl import MECHANISMS
from smtp_trio.routing import connect_domain
from smtp_trio.testing import Inbox, memory_pair, open_memory_server

#: Its base64 has parts that do not depend on what precedes it, for each alignment.
SECRET = "Tr0ub4dor.and.3-hushhush"
TESTS = str(Path(__file__).parent)


def forms(secret: str) -> set[str]:
    """Return the forms in which a secret may appear in a text."""
    octets = secret.encode()
    found = {secret, secret.encode("utf-16-le").decode("latin-1"), repr(secret.encode("utf-16-le"))[2:-1], octets.hex()}
    found |= {
        re.sub("=+$", "", base64.b64encode(b"x" * shift + octets).decode())[4 if shift else 0 : -2]
        for shift in range(3)
    }
    found.add(str(list(octets))[1:-1])
    return found


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def frames(error: BaseException) -> Iterator[TracebackType]:
    """Yield the entries of the tracebacks of an exception, and of its causes, contexts and members."""
    seen: set[int] = set()
    todo: list[BaseException | None] = [error]
    while todo:
        exc = todo.pop()
        if exc is None or id(exc) in seen:
            continue
        seen.add(id(exc))
        todo += [exc.__cause__, exc.__context__]
        if isinstance(exc, BaseExceptionGroup):
            todo += exc.exceptions
        entry = exc.__traceback__
        while entry is not None:
            yield entry
            entry = entry.tb_next


def check(error: BaseException) -> None:
    """Check that no frame outside of the tests has the secret in a variable, and the text does not have it either."""
    shown = [str(error), repr(error), *map(str, getattr(error, "__notes__", []))]
    number = 0
    for entry in frames(error):
        if not entry.tb_frame.f_code.co_filename.startswith(TESTS):
            number += 1
            summary = traceback.StackSummary.extract(
                [(entry.tb_frame, entry.tb_lineno)].__iter__(), capture_locals=True
            )
            shown += [f"{each.filename}:{each.lineno} {each.locals}" for each in summary]
    assert number or isinstance(error, TypeError)  # which Python raises for an unexpected argument
    for form in forms(SECRET):
        assert not [text for text in shown if form in text]


async def caught(call: Callable[[], Awaitable[object]]) -> None:
    """Check the exception that a call raises."""
    try:
        await call()
    except Exception as error:
        check(error)
        return
    raise AssertionError("no exception")


def test_forms_are_found() -> None:
    for text in (
        SECRET,
        repr(SECRET.encode()),
        repr(base64.b64encode(b"\0fred\0" + SECRET.encode())),
        repr(base64.b64encode(b"user=fred\x01auth=Bearer " + SECRET.encode() + b"\x01\x01")),
        repr(SECRET.encode("utf-16-le")),
    ):
        assert [form for form in forms(SECRET) if form in text], text


# --- clients ------------------------------------------------------------------------------------------------------

LOGINS: dict[str, Any] = {
    "tuple": ("fred", SECRET),
    "password": PasswordCredentials("fred", SECRET),
    "token": BearerToken("fred", SECRET),
}
INVALID: dict[str, Any] = {
    "three": ("fred", SECRET, "x"),
    "one": (SECRET,),
    "octets": ("fred", SECRET.encode()),
    "no name": ("", SECRET),
    "NUL": ("fred", SECRET + "\0"),
    "surrogate": ("fred", SECRET + "\ud800"),
    "str": f"fred:{SECRET}",
    "bytes": SECRET.encode(),
    "list": ["fred", SECRET],
    "dict": {"fred": SECRET},
}


async def use_connect(**settings: Any) -> None:
    async with smtp_trio.connect("127.0.0.1", 1, **settings):
        pass


async def use_send(**settings: Any) -> None:
    await smtp_trio.send(b"x", "127.0.0.1", 1, sender="a@b.test", recipients=["c@d.test"], **settings)


async def use_send_to_domains(**settings: Any) -> None:
    await smtp_trio.send(b"x", sender="a@b.test", recipients=["c@d.test"], **settings)


async def use_domain(**settings: Any) -> None:
    async with connect_domain("d.test", **settings):
        pass


async def use_pool(**settings: Any) -> None:
    async with Pool("127.0.0.1", 1, **settings) as pool:
        await pool.send("a@b.test", ["c@d.test"], b"x")


async def use_client(**settings: Any) -> None:
    stream, other = memory_stream_pair()
    await other.aclose()
    async with Client(stream, **{"host": "mx.test", **settings}):
        pass


async def use_memory_pair(**settings: Any) -> None:
    async with trio.open_nursery() as nursery:
        async with await memory_pair(nursery, Inbox(), **settings):
            pass


async def use_memory_server(**settings: Any) -> None:
    async with open_memory_server() as server, server.client(**settings):
        pass


ENTRIES = [
    use_connect, use_send, use_send_to_domains, use_domain, use_pool, use_client, use_memory_pair, use_memory_server,
]  # fmt: skip


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("auth", LOGINS)
@pytest.mark.parametrize(
    "settings",
    [{}, {"tls": "x"}, {"name": "a b"}, {"timeout": -1}, {"auth_mechanisms": ["FOO"]}, {"ssl_context": 3}, {"bad": 1}],
)
async def test_connection_that_fails(
    entry: Callable[..., Awaitable[None]], auth: str, settings: dict[str, Any], autojump_clock: MockClock
) -> None:
    await caught(lambda: entry(auth=LOGINS[auth], **settings))


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("auth", INVALID)
async def test_invalid_credentials(entry: Callable[..., Awaitable[None]], auth: str, autojump_clock: MockClock) -> None:
    await caught(lambda: entry(auth=INVALID[auth]))


@pytest.mark.parametrize("make", [PasswordCredentials, BearerToken])
@pytest.mark.parametrize(
    ("user", "secret"), [("", SECRET), ("fred", SECRET + "\0"), ("fred", SECRET + "\ud800"), ("fr\ned", SECRET)]
)
async def test_invalid_values_of_credentials(make: Callable[..., object], user: str, secret: str) -> None:
    async def call() -> None:
        make(user, secret)

    await caught(call)
    if make is PasswordCredentials:

        async def call_with_authzid() -> None:
            PasswordCredentials("fred", SECRET, "a\0b")

        await caught(call_with_authzid)


NAMES = ["PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-256", "SCRAM-SHA-1", "OAUTHBEARER", "XOAUTH2"]
ENDINGS: dict[str, tuple[Step, ...]] = {
    "refused": ("AUTH .*", b"535 no\r\n"),
    "closed": ("AUTH .*", CLOSE),
    "421": ("AUTH .*", b"421 bye\r\n", CLOSE),
    "silent": ("AUTH .*", STOP_READING),
    "malformed": ("AUTH .*", b"nonsense\r\n"),
    "premature": ("AUTH .*", b"235 ok\r\n", CLOSE),
    "not base64": ("AUTH .*", b"334 ###\r\n", ".*", b"501 no\r\n"),
    "challenges": ("AUTH .*", *[step for _ in range(4) for step in (b"334 PDFAeD4=\r\n", ".*")], CLOSE),
    "challenge and end": ("AUTH .*", b"334 PDFAeD4=\r\n", ".*", CLOSE),
    "challenge and refusal": ("AUTH .*", b"334 PDFAeD4=\r\n", ".*", b"535 no\r\n"),
    "two challenges and end": ("AUTH .*", b"334 PDFAeD4=\r\n", ".*", b"334 PDFAeD4=\r\n", ".*", CLOSE),
    "too many replies": ("AUTH .*", b"535 no\r\n250 x\r\n"),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("long", [False, True])
async def test_login_that_fails(name: str, ending: str, long: bool, autojump_clock: MockClock) -> None:
    secret = SECRET * (20 if long else 1)
    plain = MECHANISMS[name].credentials is PasswordCredentials
    auth = ("fred", secret) if plain else BearerToken("fred", secret)
    steps = ENDINGS[ending]

    async def at_entry() -> None:
        async with scripted(*hello(f"AUTH {name}"), *steps, STOP_READING) as script:
            async with script.client(auth=auth, allow_cleartext=True) as client:
                await client.noop()

    async def later() -> None:
        async with scripted(*hello(f"AUTH {name}"), *steps, STOP_READING) as script:
            async with script.client(allow_cleartext=True) as client:
                await client.auth(auth)
                await client.noop()

    await caught(at_entry)
    await caught(later)


class FailingStream(trio.abc.HalfCloseableStream):
    """A stream that raises an exception when a line that begins with AUTH PLAIN, or is base64, is sent."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    async def send_all(self, data: Any) -> None:
        if re.match(rb"AUTH PLAIN|[A-Za-z0-9+/]{20,}", bytes(data)):
            raise ZeroDivisionError
        await self.stream.send_all(data)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return bytes(await self.stream.receive_some(max_bytes))

    async def wait_send_all_might_not_block(self) -> None:
        await self.stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        await self.stream.send_eof()

    async def aclose(self) -> None:
        await self.stream.aclose()


@pytest.mark.parametrize("name", ["PLAIN", "LOGIN"])
async def test_stream_that_fails_during_the_login(name: str, autojump_clock: MockClock) -> None:
    steps: tuple[Step, ...] = ("AUTH LOGIN", b"334 eA==\r\n", b64("fred"), b"334 eA==\r\n") if name == "LOGIN" else ()
    async with scripted(*hello(f"AUTH {name}"), *steps, STOP_READING) as script:
        stream = FailingStream(script.client_stream)
        client = Client(stream, name="client.test", tls="never", allow_cleartext=True, auth=("fred", SECRET))
        await caught(client.__aenter__)


@pytest.mark.parametrize("offer", [("STARTTLS",), ("STARTTLS", "AUTH NTLM"), ("AUTH PLAIN",)])
async def test_login_that_is_not_begun(offer: tuple[str, ...], autojump_clock: MockClock) -> None:
    steps: list[Step] = [*hello(*offer)]
    if "STARTTLS" in offer:
        steps += ["STARTTLS", b"220 go\r\n", tls_handshake(), "EHLO client.test", ehlo_reply(*offer[1:])]

    async def call() -> None:
        async with scripted(*steps, STOP_READING) as script:
            async with script.client(host="mx.test", tls="required", ssl_context=client_tls(), auth=("fred", SECRET)):
                pass

    await caught(call)


# --- servers --------------------------------------------------------------------------------------------------------


def exchange(name: str) -> list[str]:
    """Return the lines of a client that logs in."""
    lines = {
        "PLAIN": [f"AUTH PLAIN {b64(f'{chr(0)}fred{chr(0)}{SECRET}')}"],
        "PLAIN in a line": ["AUTH PLAIN", b64(f"\0fred\0{SECRET}")],
        "LOGIN": ["AUTH LOGIN", b64("fred"), b64(SECRET)],
        "OAUTHBEARER": ["AUTH OAUTHBEARER", b64(f"n,a=fred,\x01auth=Bearer {SECRET}\x01\x01")],
        "XOAUTH2": [f"AUTH XOAUTH2 {b64(f'user=fred{chr(1)}auth=Bearer {SECRET}{chr(1)}{chr(1)}')}"],
        "CRAM-MD5": ["AUTH CRAM-MD5", b64("fred 00")],
        "SCRAM-SHA-256": [f"AUTH SCRAM-SHA-256 {b64('n,,n=fred,r=abc')}", b64("c=biws,r=abc,p=AAAA"), ""],
    }
    return lines[name]


async def fail(*_: object) -> Reply:
    raise ZeroDivisionError


async def be_late(*_: object) -> Reply:
    await trio.sleep_forever()
    raise AssertionError


async def reply_wrongly(*_: object) -> Any:
    return Reply(354)


WITH_SECRETS = ["CRAM-MD5", "SCRAM-SHA-256"]


@pytest.mark.parametrize("hook", ["auth", "response", "message", "timeout", "disconnect"])
@pytest.mark.parametrize("function", [fail, be_late, reply_wrongly])
@pytest.mark.parametrize("name", ["PLAIN", "PLAIN in a line", "LOGIN", "OAUTHBEARER", "XOAUTH2"])
async def test_hook_that_fails_during_a_login(
    hook: str, function: Callable[..., Awaitable[Any]], name: str, autojump_clock: MockClock
) -> None:

    async def in_auth(session: Session, *arguments: object) -> object:
        began = bool(arguments) and isinstance(arguments[0], AuthCommand)
        return await function() if hook != "message" or began else None

    await log_in_with(name, {"auth": reply_wrongly, hook: in_auth})


@pytest.mark.parametrize("name", WITH_SECRETS)
@pytest.mark.parametrize(
    "secret", [SECRET.encode(), [SECRET], ("fred", SECRET), {SECRET: 1}, f"{SECRET}\ud800", SECRET]
)
async def test_secret_hook_that_returns_something_else(name: str, secret: object, autojump_clock: MockClock) -> None:
    async def return_secret(session: Session, user: str, mechanism: str) -> Any:
        return secret

    await log_in_with(name, {"secret": return_secret, "response": fail})


async def log_in_with(name: str, hooks: dict[str, Any]) -> None:
    """Log in; check what is reported to the `error` hook."""
    errors: list[Exception] = []

    async def error(server: Server, exc: Exception) -> None:
        errors.append(exc)

    server = Server(name=NAME, extensions=standard(Auth(mechanisms=tuple(MECHANISMS), cleartext=True)))
    server.on(error=error, **hooks)
    async with connected(server) as client:
        await client.hello()
        for line in exchange(name):
            await client.send(line.encode() + b"\r\n")
            await client.reply()
        await client.send(b"AUTH PLAIN\r\n")
        await client.reply()
        await trio.sleep(10000)
    assert errors
    for each in errors:
        check(each)


async def test_accounts_whose_hash_cannot_be_computed(tmp_path: Path, autojump_clock: MockClock) -> None:
    path = tmp_path / "accounts"
    path.write_text(f"fred:{ScryptHash(bytes(16), bytes(32), ln=1, p=1).encode()}\nwilma:{SECRET}\n")
    accounts = UsersFile(path, interval=None)
    accounts.load()
    invalid = ScryptHash(bytes(16), bytes(32), ln=1, p=0)
    accounts._users.users["fred"], accounts._each_cost = StoredUser(scrypt=invalid), (invalid,)
    errors: list[Exception] = []

    async def auth(session: Session, credentials: Credentials) -> Reply | None:
        try:
            return await accounts.auth(session, credentials)
        except ValueError as exc:
            errors.append(exc)
            return Reply(535)

    server = Server(name=NAME, tls=server_tls())
    server.on(auth=auth)
    for user in ("fred", "wilma"):
        async with connected(server, implicit_tls=True) as client:
            await client.handshake()
            await client.hello()
            await client.command(b"AUTH PLAIN " + base64.b64encode(f"\0{user}\0{SECRET}".encode()), "535")
    assert len(errors) == 2
    for each in errors:
        check(each)


async def test_users_file_that_cannot_be_read(tmp_path: Path) -> None:
    """Neither the content of the file nor a new password is in a traceback."""
    path = tmp_path / "accounts"
    path.write_text(f"fred:{SECRET}\nwilma\n")

    async def load() -> None:
        UsersFile(path).load()

    async def change() -> None:
        set_password(path, "fred", SECRET)

    async def store_a_password_that_saslprep_forbids() -> None:
        set_password(tmp_path / "new", "fred", f"{SECRET}\u00ad\x01", kind="scram")

    for function in (load, change, store_a_password_that_saslprep_forbids):
        await caught(function)
