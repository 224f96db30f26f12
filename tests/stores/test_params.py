"""The parameters of MAIL and RCPT in every store: whichever extension defines them, they can be read again."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import aclosing
from email import policy
from email.parser import BytesParser
from typing import TYPE_CHECKING, Any

import pytest
import trio
from extension_params import CASES, COMMANDS, EVERY_EXTENSION, IDS as CASE_IDS, MIDNIGHT
from helpers import NAME, SECRET, connected, server_tls

from smtp_trio import Credentials, Mail, Rcpt, Server, Session, standard
from smtp_trio.protocol import Extension, Param, Params
from smtp_trio.protocol.commands import Command
from smtp_trio.protocol.extensions import KNOWN, Dsn
from smtp_trio.protocol.extensions.dsn import ENVID, ORCPT, RET
from smtp_trio.protocol.extensions.mtrk import MTRK
from smtp_trio.protocol.extensions.size import SIZE
from smtp_trio.stores import Maildir, SQLite, Store as AnyStore, Stored, StoreError, parse_stored_params, read

from .sessions import body, transaction

if TYPE_CHECKING:
    from pathlib import Path

Store = AnyStore[Any]

#: A parameter that no extension of this package has, on both commands.
NOTE: Param[str] = Param("NOTE", lambda text: text, lambda text: text)

#: Values of each parameter of an extension, and further ones, by command, with the text that is stored.
SAMPLES: list[tuple[type[Command], Param[Any], object, str]] = [
    *((COMMANDS[param], param, value, text) for param, value, text in CASES),
    (Mail, SIZE, 12345678901234567890, "SIZE=12345678901234567890"),
    (Rcpt, ORCPT, "utf-8;" + "\u3000" * 100, "ORCPT=utf-8;" + "\u3000" * 100),
    (Mail, NOTE, "x" * 900, f"NOTE={'x' * 900}"),
    (Rcpt, NOTE, "é", "NOTE=é"),
]
IDS = [f"{command.verb}-{param}-{n}" for n, (command, param, *_) in enumerate(SAMPLES)]


class NoteExtension(Extension):
    """An extension of a third party."""

    keyword = "NOTE"
    params = {Mail: (NOTE,), Rcpt: (NOTE,)}


@pytest.fixture(params=["maildir", "maildir-lf", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[Store]:
    if request.param == "sqlite":
        made: Store = SQLite(tmp_path / "store.db")
    else:
        made = Maildir(tmp_path / "box", newline="lf" if request.param == "maildir-lf" else "crlf")
    async with aclosing(made):
        yield made


def place(store: Store, name: str) -> tuple[Any, ...]:
    """Return the arguments of `read` for a message."""
    return (store.path, name) if isinstance(store, SQLite) else (os.path.join(store.new, name),)  # type: ignore[attr-defined]


@pytest.mark.parametrize(("command", "param", "value", "text"), SAMPLES, ids=IDS)
async def test_each_parameter(
    store: Store, command: type[Command], param: Param[Any], value: object, text: str
) -> None:
    params = Params({param: value})
    on_mail, on_rcpt = (params, Params()) if command is Mail else (Params(), params)
    session = transaction("me@client.test", "a@mx.test", "b@mx.test", params=on_mail, rcpt_params=on_rcpt)
    stored = read(*place(store, await store.put(session, body(b"Subject: x\r\n\r\nhello\r\n"))))

    expected = (text, ("", "")) if command is Mail else ("", ("", text))
    assert (stored.mail_params, stored.rcpt_params) == expected
    assert (stored.recipients, stored.message.splitlines()) == (
        ("a@mx.test", "b@mx.test"),
        [b"Subject: x", b"", b"hello"],
    )
    assert parse_stored_params(text, [*KNOWN, NoteExtension()]) == params


async def test_all_parameters_at_once(store: Store) -> None:
    by_command: dict[type[Command], dict[Param[Any], object]] = {Mail: {}, Rcpt: {}}
    for command, param, value, _ in SAMPLES:
        by_command[command][param] = value
    params, rcpt_params = Params(by_command[Mail]), Params(by_command[Rcpt])
    name = await store.put(transaction(params=params, rcpt_params=rcpt_params), body(b" not a field\r\n"))
    stored = read(*place(store, name))

    extensions = [*KNOWN, NoteExtension()]
    assert parse_stored_params(stored.mail_params, extensions) == params
    assert parse_stored_params(stored.rcpt_params[0], extensions) == rcpt_params
    assert stored.message.strip() == b"not a field"
    if isinstance(store, Maildir):
        with open(place(store, name)[0], "rb") as file:
            content = file.read()
        assert max(map(len, content.splitlines())) <= 998  # RFC 5322 2.1.1
        message = BytesParser(policy=policy.default).parsebytes(content)
        assert message.keys() == [
            "Return-Path",
            "X-Envelope-Parameters",
            "Envelope-To",
            "X-Envelope-Parameters",
            "Received",
        ]


async def test_parameters_of_a_session(store: Store) -> None:
    server = Server(store, name=NAME, extensions=[*standard(Dsn()), NoteExtension()])
    async with connected(server) as client:
        await client.hello()
        for line in (
            "MAIL FROM:<me@client.test> RET=full NOTE=a ENVID=QQ+2B1",
            "RCPT TO:<a@mx.test> NOTIFY=failure,SUCCESS ORCPT=rfc822;a+2Bx@mx.test",
            "RCPT TO:<b@mx.test>",
        ):
            await client.command(line, "250")
        await client.command("DATA", "354")
        reply = await client.command("Subject: x\r\n\r\nX-Envelope-Parameters: NOTE=forged\r\n.", "250")
    stored = await stored_with(store, reply)

    assert stored.mail_params == "RET=FULL NOTE=a ENVID=QQ+2B1"
    assert stored.rcpt_params == ("NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;a+2Bx@mx.test", "")
    assert parse_stored_params(stored.mail_params) == Params({RET: "FULL", ENVID: "QQ+1"})  # NOTE is not known


async def stored_with(store: Store, reply: str) -> Stored:
    """Return the message whose reply this is."""
    if isinstance(store, SQLite):
        return read(store.path, reply.split()[-1])
    assert isinstance(store, Maildir)
    [name] = await trio.to_thread.run_sync(os.listdir, store.new)
    return read(os.path.join(store.new, name))


@pytest.mark.parametrize(("param", "value", "text"), CASES, ids=CASE_IDS)
async def test_each_parameter_of_a_session(store: Store, param: Param[Any], value: object, text: str) -> None:
    """From a client that may use every parameter to a program that reads the store."""

    async def accept(session: Session, credentials: Credentials) -> None:
        assert credentials.user == "fred"

    server = Server(store, name=NAME, extensions=EVERY_EXTENSION, tls=server_tls(), now=lambda: MIDNIGHT)
    server.on(auth=accept)
    on_mail = text if COMMANDS[param] is Mail else ""
    if param is MTRK:  # RFC 3885 3.2
        on_mail += " ENVID=a"
    on_rcpt = text if COMMANDS[param] is Rcpt else ""
    message = b"Subject: x\r\n\r\nhello\r\n"
    async with connected(server, implicit_tls=True) as client:
        await client.handshake()
        await client.hello()
        await client.command(f"AUTH PLAIN {SECRET}", "235")
        await client.command(f"MAIL FROM:<me@client.test> {on_mail}", "250 2.1.0")
        await client.command(f"RCPT TO:<a@mx.test> {on_rcpt}", "250 2.1.5")
        await client.send(b"BDAT %d LAST\r\n%s" % (len(message), message))
        stored = await stored_with(store, await client.expect("250 2.0.0"))

    assert (stored.mail_params, stored.rcpt_params) == (on_mail, (on_rcpt,))
    params = parse_stored_params(on_mail if COMMANDS[param] is Mail else on_rcpt)
    assert params[param] == value


@pytest.mark.parametrize("text", ["x\r\nSubject: forged", "a b", "\0", "=", "\x85"])
async def test_text_of_a_parameter_cannot_add_a_field(store: Store, text: str) -> None:
    bad: Param[str] = Param("BAD", lambda value: value, lambda value: value)
    for session in (transaction(params=Params({bad: text})), transaction(rcpt_params=Params({bad: text}))):
        with pytest.raises(StoreError, match="its text is not valid"):
            await store.put(session, body(b"hello\r\n"))
    if isinstance(store, Maildir):
        assert not await trio.Path(store.new).exists()
