"""Print every message: a server to send to while you write a program that sends mail.

    python examples/catch_all.py [port]

Ctrl-C stops it.
"""

import signal
import sys

import trio

from smtp_trio import Body, Hooks, Server, Session


class CatchAll(Hooks):
    """Hooks that print every message with its envelope."""

    async def data(self, session: Session, body: Body) -> None:
        message = await body.read()
        print("from", body.envelope.sender, "to", *body.envelope.recipients)
        print(message.decode(errors="replace").replace("\r\n", "\n"), flush=True)


async def main(port: int) -> None:
    server = Server(CatchAll(), newlines="normalize")
    with trio.open_signal_receiver(signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:
            (listener,) = await nursery.start(server.serve, port, "127.0.0.1")
            print("listening on port", listener.socket.getsockname()[1], flush=True)
            await anext(signals)
            await server.stop()


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 2525)
