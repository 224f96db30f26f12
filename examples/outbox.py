"""An outbox: receive mail on this host, and forward all of it to a smarthost, for days if necessary.

    python examples/outbox.py DATABASE SMARTHOST SMARTHOST_PORT [port]

A client gets its 250 when the message is in the database. The relay forwards it from there, tries again what the smarthost
refuses temporarily, and returns to its sender what cannot be delivered. Ctrl-C stops the program after the messages in
progress; what is left in the database is forwarded the next time.
"""

import signal
import sys

import trio

from smtp_trio import Pool, Server
from smtp_trio.relay import Relay, Schedule
from smtp_trio.stores import SQLite

DAY = 86400


async def main(database: str, smarthost: str, smarthost_port: int, port: int) -> None:
    store = SQLite(database)
    schedule = Schedule(first=60, max_age=3 * DAY)
    with trio.open_signal_receiver(signal.SIGINT) as signals:
        async with store, Pool(smarthost, smarthost_port) as pool, trio.open_nursery() as nursery:
            relay = Relay(store, pool, schedule=schedule)
            await nursery.start(relay.run)
            server = Server(store, newlines="normalize")
            (listener,) = await nursery.start(server.serve, port, "127.0.0.1")
            print("listening on port", listener.socket.getsockname()[1], flush=True)
            await anext(signals)
            await server.stop()
            await relay.stop()
    print("relayed", relay.statistics().relayed)


if __name__ == "__main__":
    trio.run(main, sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]) if len(sys.argv) > 4 else 2525)
