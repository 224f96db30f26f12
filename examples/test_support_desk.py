"""Tests of support_desk.py, in memory and under virtual time.

python -m pip install pytest pytest-trio && python -m pytest examples/test_support_desk.py
"""

import shutil
import sqlite3
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from email import policy
from email.message import EmailMessage
from functools import partial
from pathlib import Path
from tempfile import mkdtemp

import pytest
import trio
from support_desk import ADDRESS, Database, Desk, Outbox, public, submission

from smtp_trio import Client, Pool, ReplyError, Server, SMTPError
from smtp_trio.protocol.extensions import Auth, standard
from smtp_trio.testing import (
    Answer,
    Attempt,
    Close,
    Faults,
    Hang,
    Inbox,
    Reset,
    cancel_everywhere,
    deterministic,
    fail_everywhere,
    memory_network,
    open_memory_server,
    start_everywhere,
    stop_server,
)

CUSTOMER, LOGIN = "customer@example.net", ("fred", "secret")


def mail(number: int, subject: str, attachment: bytes = b"content") -> bytes:
    message = EmailMessage(policy=policy.SMTP)
    message["Message-ID"], message["Subject"] = f"<{number}@example.net>", subject
    message.set_content("hello\n")
    message.add_attachment(attachment, "application", "octet-stream", filename="../name")
    message.set_boundary("boundary")
    return message.as_bytes()


@asynccontextmanager
async def open_desk(folder: Path, relay: Inbox, faults: Faults | None = None) -> AsyncGenerator[Desk]:
    """Run a desk with an outbox that sends to an inbox."""
    database = Database(folder)
    with closing(database.connection):
        async with memory_network({"relay.example": relay}, faults=faults):
            async with Pool("relay.example") as pool, trio.open_nursery() as nursery:
                outbox = Outbox(database, pool, nursery)
                await outbox.start()
                yield Desk(database, outbox)
                nursery.cancel_scope.cancel()


def select(folder: Path, query: str) -> list[tuple[str, ...]]:
    with closing(sqlite3.connect(folder / "desk.db")) as connection:
        return connection.execute(query).fetchall()


async def send(connect: Callable[[], AbstractAsyncContextManager[Client]], sender: str, to: str, message: bytes) -> str:
    """Send as mail servers do, which try again after a temporary error. Return the reply."""
    for _ in range(3):
        try:
            async with connect() as client:
                return (await client.send(sender, [to], message)).accepted[0].reply.text
        except SMTPError as error:
            if not error.temporary:
                raise
        await trio.sleep(300)
    raise AssertionError("not delivered")


@pytest.mark.trio
async def test_mail_becomes_tickets(tmp_path: Path, inline_threads: None, autojump_clock: object) -> None:
    async with open_desk(tmp_path, Inbox()) as desk, open_memory_server(desk) as server:
        connect = partial(server.client, hooks=public(desk))
        for sender, number, subject, ticket in (
            (CUSTOMER, 1, "It does not work", 1),
            (CUSTOMER, 1, "It does not work", 1),  # again, because the 250 was lost
            (CUSTOMER, 2, "Re: [#1] It does not work", 1),
            ("stranger@example.net", 3, "Re: [#1] It does not work", 2),
        ):
            reply = await send(connect, sender, ADDRESS, mail(number, subject, b"x" * 300_000))
            assert reply == f"Ok: ticket {ticket}"
        with pytest.raises(ReplyError, match="No such user"):
            await send(connect, CUSTOMER, "fred@example.org", mail(4, "hi"))
        with pytest.raises(ReplyError, match="cannot be parsed"):
            await send(connect, CUSTOMER, ADDRESS, mail(5, "hi", b"x").replace(b"eA==", b"eA=A="))
    folders = list((tmp_path / "files").iterdir())
    assert {folder.name for folder in folders} == {name for (name,) in select(tmp_path, "SELECT id FROM messages")}
    attachments = [path for folder in folders for path in folder.iterdir() if path.name != "message.eml"]
    assert [path.read_bytes() for path in attachments] == [b"x" * 300_000] * 3


@pytest.mark.trio
async def test_agents_reply(tmp_path: Path, inline_threads: None, autojump_clock: object) -> None:
    relay, faults = Inbox(), Faults(Answer("RCPT", 450))  # the first recipient is refused once
    async with open_desk(tmp_path, relay, faults) as desk, open_memory_server(desk, tls=True) as server:
        await send(partial(server.client, hooks=public(desk)), CUSTOMER, ADDRESS, mail(1, "hi"))
        connect = partial(server.client, hooks=submission(desk))
        with pytest.raises(ReplyError, match="Authentication required"):
            await send(connect, ADDRESS, CUSTOMER, mail(2, "[#1] hi"))
        with pytest.raises(ReplyError, match="Wrong user name or password"):
            await send(partial(connect, auth=("fred", "wrong")), ADDRESS, CUSTOMER, mail(2, "[#1] hi"))
        with pytest.raises(ReplyError, match="Send as support"):
            await send(partial(connect, auth=LOGIN), "fred@example.org", CUSTOMER, mail(2, "[#1] hi"))
        with pytest.raises(ReplyError, match="The subject needs"):
            await send(partial(connect, auth=LOGIN), ADDRESS, CUSTOMER, mail(2, "[#2] hi"))
        for to in ["one@example.net", "two@example.net"], ["two@example.net", "three@example.net"]:  # the same message
            async with connect(auth=LOGIN) as client:
                await client.send(ADDRESS, to, mail(2, "Re: [#1] hi"))
            await trio.sleep(3600)
    assert sorted(recipient for each in relay for recipient in each.recipients) == [
        "one@example.net",
        "three@example.net",
        "two@example.net",
    ]


@pytest.mark.trio
@pytest.mark.parametrize("faults", [Faults(Hang(".")), Faults(Close(".")), Faults(Reset("."))], ids=repr)
async def test_message_that_may_have_arrived_is_not_sent_again(
    faults: Faults, tmp_path: Path, inline_threads: None, autojump_clock: object
) -> None:
    relay = Inbox()
    async with open_desk(tmp_path, relay, faults) as desk, open_memory_server(desk, tls=True) as server:
        await send(partial(server.client, hooks=public(desk)), CUSTOMER, ADDRESS, mail(1, "hi"))
        await send(partial(server.client, hooks=submission(desk), auth=LOGIN), ADDRESS, CUSTOMER, mail(2, "[#1] hi"))
        await trio.sleep(7 * 86400)
    assert len(relay) <= 1
    assert select(tmp_path, "SELECT state FROM outbox") == [("unknown",)]


async def kill(attempt: Attempt) -> None:
    """Keep what would be left if the process was killed at this step: an action for `start_everywhere`."""
    if "state" in attempt.context:
        folder, sent, accepted = attempt.context["state"]
        attempt.context["killed"] = shutil.copytree(folder, folder.with_suffix(".killed")), list(sent), list(accepted)


@pytest.mark.parametrize(
    "sweep",
    [
        cancel_everywhere,
        fail_everywhere,
        partial(start_everywhere, action=stop_server),
        partial(start_everywhere, action=kill),
    ],
    ids=["cancel", "fail", "stop", "kill"],
)
def test_nothing_is_sent_twice_or_half_stored(sweep: Callable[..., object], tmp_path: Path) -> None:
    question, answer = mail(1, "It does not work"), mail(2, "Re: [#1] It does not work")

    async def scenario(attempt: Attempt) -> None:
        folder, relay, accepted = Path(mkdtemp(dir=tmp_path)), Inbox(), list[bytes]()
        attempt.context["state"] = folder, relay.mails, accepted
        async with open_desk(folder, relay) as desk:
            # AUTH without TLS has fewer steps.
            server = Server(desk, extensions=standard(Auth(cleartext=True)), **deterministic())
            async with open_memory_server(server) as memory:
                outside = partial(memory.client, hooks=public(desk))
                await send(outside, CUSTOMER, ADDRESS, question)
                accepted.append(question)
                agents = partial(memory.client, hooks=submission(desk), auth=LOGIN, tls="never", allow_cleartext=True)
                await send(agents, ADDRESS, CUSTOMER, answer)
                accepted.append(answer)
                await trio.sleep(3600)

    async def check(attempt: Attempt) -> None:
        folder, sent, accepted = attempt.context.get("killed", attempt.context["state"])
        relay = Inbox()
        async with open_desk(folder, relay):  # the next process
            await trio.sleep(3600)
        names = {name for (name,) in select(folder, "SELECT id FROM messages")}
        assert {path.name for path in (folder / "files").iterdir()} == names
        files = [sorted(path.read_bytes() for path in (folder / "files" / name).iterdir()) for name in names]
        assert sorted(files) in ([], [[question, b"content"]], [[question, b"content"], [answer, b"content"]])
        assert len(accepted) <= len(files)
        for (state,) in select(folder, "SELECT state FROM outbox"):
            assert (state, len(sent) + len(relay)) in [("sent", 1), ("unknown", 0), ("unknown", 1)]

    sweep(scenario, check=check)
