"""Handle the messages of a store in a program of its own, each at least once.

    smtp-trio serve --store sqlite:mail.db &
    python examples/consumer.py sqlite:mail.db

It also takes ``redis://localhost`` and ``postgresql://localhost/mail``, where several consumers share the messages and can run
on other machines than the intake. A message whose handling fails is delivered again later, and is a dead letter in the end:
``smtp-trio mail dead`` lists those. Ctrl-C stops the program; a message that it is handling goes to another consumer.
"""

import signal
import sys
from email import message_from_bytes, policy

import trio

from smtp_trio import stores


async def consume(url: str) -> None:
    """Print the sender, the recipients and the subject of each message."""
    async with stores.open(url) as store:
        async for delivery in store.consume("printer"):
            async with delivery:
                message = message_from_bytes(delivery.stored.message, policy=policy.default)
                print(delivery.stored.sender, *delivery.stored.recipients, message["subject"], flush=True)


async def main(url: str) -> None:
    """Consume until Ctrl-C."""
    with trio.open_signal_receiver(signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(consume, url)
            await anext(signals)
            nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, sys.argv[1] if len(sys.argv) > 1 else "sqlite:mail.db")
