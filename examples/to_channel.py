"""Pass each message to another task of the program over a memory channel.

    python examples/to_channel.py [port]

The channel has room for one message. While it is full, the `data` hook waits, and the client waits for its reply; after
the timeout for hooks (five minutes) the client gets 451 and tries again later. No queue can grow without limit. A 250
means that the message is in the channel. To send it only when the message was processed, let the other task report
that, and wait for it in the hook. Ctrl-C stops it.
"""

import signal
import sys
from email import message_from_bytes, policy

import trio

from smtp_trio import Body, Envelope, Hooks, Server, Session

Delivery = tuple[Envelope, bytes]


class ToChannel(Hooks):
    """Hooks that send each message, with its envelope, into a channel."""

    def __init__(self, channel: trio.MemorySendChannel[Delivery]) -> None:
        self.channel = channel

    async def data(self, session: Session, body: Body) -> None:
        message = await body.read()
        await self.channel.send((body.envelope, message))


async def process(channel: trio.MemoryReceiveChannel[Delivery]) -> None:
    """Process the messages one after the other: the other part of the program."""
    async for envelope, octets in channel:
        message = message_from_bytes(octets, policy=policy.default)
        print(f"{envelope.sender}: {message['subject']}", flush=True)


async def main(port: int) -> None:
    send_channel, receive_channel = trio.open_memory_channel[Delivery](1)
    server = Server(ToChannel(send_channel), newlines="normalize")
    with trio.open_signal_receiver(signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery, send_channel:  # closing this end lets process() return
            nursery.start_soon(process, receive_channel)
            (listener,) = await nursery.start(server.serve, port, "127.0.0.1")
            print("listening on port", listener.socket.getsockname()[1], flush=True)
            await anext(signals)
            await server.stop()


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 2525)
