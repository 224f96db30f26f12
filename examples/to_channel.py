"""Hands each message to another task of the program, over a memory channel.

    python examples/to_channel.py [port]

The channel has room for one. While it is full the `data` hook waits, and with it the client for its 250; after `timeouts.hook`, five
minutes, it is told to try again later. So no queue grows anywhere. Here a 250 says that the message is in the channel. Where this is
too early, have the worker tell when it is done, and wait for that.
"""

import signal
import sys
from email import message_from_bytes, policy

import trio

from smtp_trio import Body, Envelope, Hooks, Server, Session

Letter = tuple[Envelope, bytes]


class Handover(Hooks):
    def __init__(self, letters: trio.MemorySendChannel[Letter]) -> None:
        self.letters = letters

    async def data(self, session: Session, body: Body) -> None:
        message = await body.read()
        await self.letters.send((body.envelope, message))


async def work(letters: trio.MemoryReceiveChannel[Letter]) -> None:
    """The rest of the program: takes one message after another, at its own pace."""
    async for envelope, octets in letters:
        message = message_from_bytes(octets, policy=policy.default)
        print(f"{envelope.sender}: {message['subject']}", flush=True)


async def main(port: int) -> None:
    sending, receiving = trio.open_memory_channel[Letter](1)
    server = Server(Handover(sending), newlines="normalize")
    with trio.open_signal_receiver(signal.SIGINT) as interrupts:
        async with trio.open_nursery() as nursery, sending:  # to close the sending end is to end the work
            nursery.start_soon(work, receiving)
            (listener,) = await nursery.start(server.serve, port, "127.0.0.1")
            print("listening on port", listener.socket.getsockname()[1], flush=True)
            await anext(interrupts)
            await server.stop()


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 2525)
