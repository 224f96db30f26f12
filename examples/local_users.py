"""Accept mail for the users of one domain, over TLS only, and store it in a Maildir.

    python examples/local_users.py [port] --cert cert.pem --key key.pem

Ctrl-C stops it after the messages in progress.
"""

import argparse
import signal
import ssl

import trio

from smtp_trio import Rcpt, Reply, Server, Session, standard
from smtp_trio.protocol.extensions import StartTls
from smtp_trio.stores import Maildir

DOMAIN = "example.org"
USERS = {"fred", "wilma", "postmaster"}


class UserMaildir(Maildir):
    """A store that checks recipients."""

    async def rcpt(self, session: Session, rcpt: Rcpt) -> Reply | None:
        path = rcpt.recipient
        if path.domain not in (DOMAIN, None):  # None means <Postmaster> without a domain (RFC 5321 4.5.1)
            return Reply(550, "Mail for this domain is not accepted here", "5.7.1")
        if path.user.lower() not in USERS:  # the user of fred+lists@example.org is fred
            return Reply(550, "No such user here", "5.1.1")
        return None


async def main(port: int, cert: str, key: str) -> None:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(cert, key)
    server = Server(
        UserMaildir("Maildir"),
        name=f"mx.{DOMAIN}",
        tls=tls,
        extensions=standard(StartTls(required=True)),
        newlines="normalize",  # accept bare LF, which programs that send Unix files use
    )
    with trio.open_signal_receiver(signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:
            (listener,) = await nursery.start(server.serve, port, "127.0.0.1")
            print("listening on port", listener.socket.getsockname()[1], flush=True)
            await anext(signals)
            print("stopped:", await server.stop(), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int, nargs="?", default=2525)
    parser.add_argument("--cert", required=True)
    parser.add_argument("--key", required=True)
    trio.run(main, *vars(parser.parse_args()).values())
