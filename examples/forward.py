"""Takes mail in, and hands each message to another server before it is answered: a 250 here is a 250 there.

    python examples/forward.py [port] --to HOST:PORT

Nothing is queued: who is refused there is refused here, and when nobody is there the client is told to try again. Ctrl-C ends it.
"""

import argparse
import signal

import trio

from smtp_trio import AllRecipientsRejectedError, Body, Hooks, Pool, Reply, Server, Session, SMTPError
from smtp_trio.protocol import Rcpt

LATER = Reply(451, "The server behind this one cannot be reached", "4.4.1")
ONE = Reply(452, "One recipient at a time", "4.5.3")


class Forward(Hooks):
    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    async def rcpt(self, session: Session, rcpt: Rcpt) -> Reply | None:
        # The one answer to a message could not tell what became of several recipients. Clients bring the others by themselves.
        return ONE if session.envelope is not None and session.envelope.recipients else None

    async def data(self, session: Session, body: Body) -> Reply | None:
        envelope = body.envelope
        message = await body.read()
        try:
            result = await self.pool.send(envelope.sender.raw, [envelope.recipients[0].raw], message)
        except AllRecipientsRejectedError as refusal:
            return Reply(451 if refusal.reply.temporary else 554, str(refusal.reply))
        except SMTPError:
            return LATER
        return Reply(250, result.accepted[0].reply.text, "2.0.0")


async def main(port: int, to: str) -> None:
    host, _, there = to.rpartition(":")
    with trio.open_signal_receiver(signal.SIGINT) as interrupts:
        async with Pool(host, int(there)) as pool, trio.open_nursery() as nursery:
            server = Server(Forward(pool), newlines="normalize")
            (listener,) = await nursery.start(server.serve, port, "127.0.0.1")
            print("listening on port", listener.socket.getsockname()[1], flush=True)
            await anext(interrupts)
            await server.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int, nargs="?", default=2525)
    parser.add_argument("--to", required=True)
    trio.run(main, *vars(parser.parse_args()).values())
