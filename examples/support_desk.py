"""A support desk: mail to support@example.org becomes tickets, and an outbox sends the replies of agents.

    python examples/support_desk.py FOLDER RELAY [port] [submission port] --cert cert.pem --key key.pem

Mail from the internet arrives on one port. On the other, agents log in with their mail programs; the subject of a reply
has the [#number] of its ticket, and the server RELAY (HOST:PORT) gets it. FOLDER has the database, and a folder for each
message with its attachments. Only one process may use it. Ctrl-C stops the program. See test_support_desk.py, too.
"""

import argparse
import hmac
import os
import re
import shutil
import signal
import sqlite3
import ssl
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import trio
from attachments import save_attachments

from smtp_trio import (
    Accepted,
    Body,
    Credentials,
    DeliveryRecord,
    DeliveryUnknownError,
    Hooks,
    Outcome,
    Pool,
    Rejected,
    Server,
    Session,
)
from smtp_trio.policies import ConnectionRate, Greylist, Layer, MessageRate
from smtp_trio.protocol import Mail, Rcpt, Reply, SMTPError

T = TypeVar("T")

ADDRESS = "support@example.org"
RECIPIENTS = {ADDRESS, "postmaster@example.org", "postmaster"}
PASSWORDS = {"fred": "secret", "wilma": "confidential"}
DELAYS = [60 * 2**n for n in range(12)]  # seconds until the next attempt to send a message; almost three days in all

SCHEMA = """
PRAGMA journal_mode = WAL;
BEGIN;
CREATE TABLE IF NOT EXISTS tickets (id INTEGER PRIMARY KEY, customer TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS messages (  -- the id is that of the envelope, and the name of the message's folder
    id TEXT PRIMARY KEY, ticket INTEGER NOT NULL, sender TEXT NOT NULL, message_id TEXT NOT NULL,
    UNIQUE (sender, message_id));
CREATE TABLE IF NOT EXISTS outbox (  -- the state is queued, sending, sent, failed or unknown
    message TEXT NOT NULL, recipient TEXT NOT NULL, state TEXT NOT NULL, PRIMARY KEY (message, recipient));
UPDATE outbox SET state = 'unknown' WHERE state = 'sending';  -- the process was killed meanwhile
COMMIT;
"""


class Database:
    """The tickets, the outbox, and the files of all messages."""

    def __init__(self, folder: Path) -> None:
        self.files = folder / "files"
        self.files.mkdir(parents=True, exist_ok=True)
        self.connection = sqlite3.connect(folder / "desk.db", check_same_thread=False)
        self.connection.executescript(SCHEMA)
        known = {name for (name,) in self.connection.execute("SELECT id FROM messages")}
        for path in self.files.iterdir():
            if path.name not in known:  # the process was killed before the commit
                shutil.rmtree(path)
        self._limiter = trio.CapacityLimiter(1)

    async def execute(self, query: str, *parameters: object) -> list[Any]:
        """Run a query as a transaction of its own, and return its rows."""
        return await self.run(lambda: self.connection.execute(query, parameters).fetchall())

    async def run(self, transaction: Callable[[], T]) -> T:
        """Run a transaction in a thread, one at a time. A call that is cancelled has no effect, or returns normally."""

        def commit() -> T:
            with self.connection:  # rolls back after an exception
                return transaction()

        return await trio.to_thread.run_sync(commit, limiter=self._limiter)


class Outbox:
    """Sends messages of the database, each at most once to each recipient."""

    def __init__(self, database: Database, pool: Pool, nursery: trio.Nursery) -> None:
        self.database, self.pool, self.nursery = database, pool, nursery

    async def start(self) -> None:
        """Send what an earlier process has left."""
        for (message,) in await self.database.execute("SELECT DISTINCT message FROM outbox WHERE state = 'queued'"):
            self.add(message)

    def add(self, message: str) -> None:
        """Send a message to the recipients that are queued in the database."""
        self.nursery.start_soon(self._deliver, message)

    async def _deliver(self, message: str) -> None:
        for delay in DELAYS:
            if not await self._send(message):
                return
            await trio.sleep(delay)
        query = "UPDATE outbox SET state = 'failed' WHERE message = ? AND state = 'queued'"
        await self.database.execute(query, message)

    async def _send(self, message: str) -> bool:
        """Send a message, and return whether another attempt is necessary."""
        # This is committed before the first octet is sent. A recipient who has this state after a crash gets nothing more.
        query = "UPDATE outbox SET state = 'sending' WHERE message = ? AND state = 'queued' RETURNING recipient"
        recipients = [recipient for (recipient,) in await self.database.execute(query, message)]
        if not recipients:
            return False
        states = dict.fromkeys(recipients, "queued")  # those without an outcome did not get the message
        record = DeliveryRecord()
        try:
            await self.pool.send(ADDRESS, recipients, self.database.files / message / "message.eml", record=record)
        except SMTPError as error:
            if not (error.temporary or isinstance(error, DeliveryUnknownError)):
                states = dict.fromkeys(recipients, "failed")
        finally:  # also after a cancellation
            states |= {each.recipient: state(each) for each in (record.result.outcomes if record.result else ())}
            with trio.move_on_after(10, shield=True):
                for recipient, each in states.items():
                    query = "UPDATE outbox SET state = ? WHERE message = ? AND recipient = ?"
                    await self.database.execute(query, each, message, recipient)
                    print(f"message {message} to {recipient}: {each}", flush=True)
        return "queued" in states.values()


def state(outcome: Outcome) -> str:
    """Return the state of a recipient with this outcome."""
    if isinstance(outcome, Accepted):
        return "sent"
    if isinstance(outcome, Rejected):
        return "queued" if outcome.temporary else "failed"
    return "unknown"  # a person has to decide whether the message may arrive twice


def save_files(file: BinaryIO, folder: Path) -> None:
    """Write a message and its attachments to the disk. Called in a thread."""
    folder.mkdir()
    save_attachments(file, folder)
    file.seek(0)
    with open(folder / "message.eml", "xb") as copy:
        shutil.copyfileobj(file, copy)
    for path in (*folder.iterdir(), folder, folder.parent):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


class Desk(Hooks):
    """Stores messages. Those of agents, who have logged in, go to the outbox, too."""

    def __init__(self, database: Database, outbox: Outbox) -> None:
        self.database, self.outbox = database, outbox

    async def data(self, session: Session, body: Body) -> Reply:
        header, envelope, agent = await body.headers(), body.envelope, session.user is not None
        sender, message_id = envelope.sender.lower(), str(header.get("Message-ID", "")).strip() or envelope.id
        number = re.search(r"\[#([0-9]{1,9})\]", str(header.get("Subject", "")))

        def add() -> tuple[int | None, str]:
            """Add the message to the database, and return its ticket and id."""
            db = self.database.connection
            # A client that did not get the 250 sends the message again (RFC 1047). It is kept once, for all its recipients.
            query = "SELECT ticket, id FROM messages WHERE sender = ? AND message_id = ?"
            ticket, message = db.execute(query, (sender, message_id)).fetchone() or (None, envelope.id)
            if ticket is None:
                query = "SELECT id FROM tickets WHERE id = ? AND (customer = ? OR ?)"
                found = db.execute(query, (number and int(number[1]), sender, agent)).fetchone()
                if not found and agent:
                    return None, ""
                new = "INSERT INTO tickets (customer) VALUES (?) RETURNING id"
                (ticket,) = found or db.execute(new, (sender,)).fetchone()
                db.execute("INSERT INTO messages VALUES (?, ?, ?, ?)", (message, ticket, sender, message_id))
            if agent:
                rows = [(message, path.raw) for path in envelope.recipients]
                db.executemany("INSERT OR IGNORE INTO outbox VALUES (?, ?, 'queued')", rows)
            return ticket, message

        folder, message = self.database.files / envelope.id, ""
        try:
            with await body.spool() as file:
                await trio.to_thread.run_sync(save_files, file, folder)
            ticket, message = await self.database.run(add)
        except ValueError:  # raised by save_attachments
            return Reply(554, "The message cannot be parsed", "5.6.0")
        finally:
            if message != envelope.id:
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(partial(shutil.rmtree, folder, ignore_errors=True))
        if ticket is None:
            return Reply(550, "The subject needs the [#number] of a ticket", "5.6.0")
        if agent:
            self.outbox.add(message)
        return Reply(250, f"Ok: ticket {ticket}", "2.0.0")


class Public(Layer):
    """Mail from anyone to the desk."""

    async def rcpt(self, session: Session, rcpt: Rcpt) -> Reply | None:
        if rcpt.recipient.lower() not in RECIPIENTS:
            return Reply(550, "No such user here", "5.1.1")
        return await self.under.rcpt(session, rcpt)


class Submission(Layer):
    """Mail from agents to anyone."""

    async def auth(self, session: Session, credentials: Credentials) -> Reply | None:
        expected = PASSWORDS.get(credentials.user, "")
        right = hmac.compare_digest(expected.encode(), credentials.password.encode())
        if expected and right and credentials.authzid in ("", credentials.user):
            return None
        return Reply(535, "Wrong user name or password", "5.7.8")

    async def mail(self, session: Session, mail: Mail) -> Reply | None:
        if session.user is None:
            return Reply(530, "Authentication required", "5.7.0")
        if mail.sender.lower() != ADDRESS:
            return Reply(550, f"Send as {ADDRESS}", "5.7.1")
        return await self.under.mail(session, mail)


def public(desk: Desk) -> Hooks:
    return ConnectionRate(MessageRate(Public(Greylist(desk)), limit=100, seconds=3600))


def submission(desk: Desk) -> Hooks:
    return Submission(MessageRate(desk, limit=500, seconds=86400))


async def main(folder: Path, relay: str, port: int, submission_port: int, cert: str, key: str) -> None:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(cert, key)
    host, _, relay_port = relay.rpartition(":")
    database = Database(folder)
    with closing(database.connection), trio.open_signal_receiver(signal.SIGINT) as signals:
        async with Pool(host, int(relay_port)) as pool, trio.open_nursery() as nursery:
            outbox = Outbox(database, pool, nursery)
            desk = Desk(database, outbox)
            server = Server(desk, name="mx.example.org", tls=tls)
            await outbox.start()
            for number, hooks in (port, public(desk)), (submission_port, submission(desk)):
                (listener,) = await nursery.start(partial(server.serve, number, "127.0.0.1", hooks=hooks))
                print("listening on port", listener.socket.getsockname()[1], flush=True)
            await anext(signals)
            await server.stop()
            nursery.cancel_scope.cancel()  # the outbox; what it has not sent is sent after the next start


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("relay")
    parser.add_argument("port", type=int, nargs="?", default=2525)
    parser.add_argument("submission_port", type=int, nargs="?", default=2587)
    parser.add_argument("--cert", required=True)
    parser.add_argument("--key", required=True)
    trio.run(main, *vars(parser.parse_args()).values())
