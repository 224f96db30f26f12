"""Accept mail from other servers on one port, and from users that log in on another, with a policy for each.

    python examples/two_ports.py [port] [submission port] --cert cert.pem --key key.pem

Ctrl-C stops both after the messages in progress.
"""

import argparse
import hmac
import signal
import ssl
from functools import partial

import trio

from smtp_trio import Credentials, Mail, Rcpt, Reply, Server, Session
from smtp_trio.policies import ConnectionRate, ConnectionsPerPeer, Greylist, Layer, MessageRate, Tarpit
from smtp_trio.stores import Maildir

DOMAIN = "example.org"
PASSWORDS = {"fred": "secret", "wilma": "confidential"}


class Public(Layer):
    """Mail from anyone, for the users of the domain."""

    async def rcpt(self, session: Session, rcpt: Rcpt) -> Reply | None:
        path = rcpt.recipient
        if path.domain not in (DOMAIN, None) or path.user.lower() not in {*PASSWORDS, "postmaster"}:
            return Reply(550, "No such user here", "5.1.1")
        return await self.under.rcpt(session, rcpt)


class Submission(Layer):
    """Mail from users, for anyone."""

    async def auth(self, session: Session, credentials: Credentials) -> Reply | None:
        expected = PASSWORDS.get(credentials.user, "")
        if hmac.compare_digest(expected.encode(), credentials.password.encode()) and expected:
            return None if credentials.authzid in ("", credentials.user) else Reply(535, "Not permitted", "5.7.8")
        return Reply(535, "Wrong user name or password", "5.7.8")

    async def mail(self, session: Session, mail: Mail) -> Reply | None:
        if session.user is None:
            return Reply(530, "Authentication required", "5.7.0")
        return await self.under.mail(session, mail)


async def main(port: int, submission_port: int, cert: str, key: str) -> None:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(cert, key)
    store = Maildir("Maildir")
    server = Server(store, name=f"mx.{DOMAIN}", tls=tls)
    public = ConnectionRate(ConnectionsPerPeer(MessageRate(Tarpit(Public(Greylist(store))), limit=100, seconds=3600)))
    submission = Submission(MessageRate(store, limit=500, seconds=86400))
    with trio.open_signal_receiver(signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:
            for number, hooks in ((port, public), (submission_port, submission)):
                (listener,) = await nursery.start(partial(server.serve, number, "127.0.0.1", hooks=hooks))
                print("listening on port", listener.socket.getsockname()[1], flush=True)
            await anext(signals)
            print("stopped:", await server.stop(), server.statistics(), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int, nargs="?", default=2525)
    parser.add_argument("submission_port", type=int, nargs="?", default=2587)
    parser.add_argument("--cert", required=True)
    parser.add_argument("--key", required=True)
    trio.run(main, *vars(parser.parse_args()).values())
