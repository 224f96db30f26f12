"""Forward each message to another server before replying to it.

    python examples/forward.py [port] --to HOST:PORT

Nothing is queued. A 250 means that the other server has sent a 250; its refusals are passed on, and when it cannot be
reached the client gets 451 and tries again later. The parameters of MAIL and RCPT are passed on too. If the sender wants a
report of success, and the other server does not offer DSN, the sender gets a report that the message was relayed. Ctrl-C
stops it.
"""

import argparse
import signal
from contextlib import suppress

import trio

from smtp_trio import AllRecipientsRejectedError, Body, Hooks, Pool, Rcpt, Reply, Server, Session, SMTPError
from smtp_trio.dsn import Original, build_report, report_statuses

UNREACHABLE = Reply(451, "The next server cannot be reached", "4.4.1")
TOO_MANY = Reply(452, "One recipient at a time", "4.5.3")


class Forward(Hooks):
    """Hooks that send each message on over a pool of connections."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    async def rcpt(self, session: Session, rcpt: Rcpt) -> Reply | None:
        # A message has one reply, which cannot report different outcomes for several recipients. After 452 a client
        # sends the message to the other recipients in further transactions (RFC 5321 4.5.3.1.10).
        return TOO_MANY if session.envelope is not None and session.envelope.recipients else None

    async def data(self, session: Session, body: Body) -> Reply | None:
        envelope = body.envelope
        message = await body.read()
        recipient, params = envelope.recipients[0].raw, envelope.rcpts[0].params
        try:
            result = await self.pool.send(
                envelope.sender.raw,
                [recipient],
                message,
                mail_params=envelope.params,
                rcpt_params={recipient: params},
            )
        except AllRecipientsRejectedError as refusal:
            return Reply(451 if refusal.reply.temporary else 554, str(refusal.reply))
        except SMTPError:
            return UNREACHABLE
        original = Original.from_envelope(envelope, message, session.server.now())
        report = build_report(original, report_statuses(result), reporting_mta=session.server.name)
        if report is not None:
            with suppress(SMTPError):  # the message was accepted, whatever happens to the report
                await self.pool.send("", [report.recipient], report.message, mail_params=report.mail_params)
        return Reply(250, result.accepted[0].reply.text, "2.0.0")


async def main(port: int, to: str) -> None:
    host, _, to_port = to.rpartition(":")
    with trio.open_signal_receiver(signal.SIGINT) as signals:
        async with Pool(host, int(to_port)) as pool, trio.open_nursery() as nursery:
            server = Server(Forward(pool), newlines="normalize")
            (listener,) = await nursery.start(server.serve, port, "127.0.0.1")
            print("listening on port", listener.socket.getsockname()[1], flush=True)
            await anext(signals)
            await server.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int, nargs="?", default=2525)
    parser.add_argument("--to", required=True)
    trio.run(main, *vars(parser.parse_args()).values())
