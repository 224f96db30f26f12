"""Notifications to the service manager about the state of the server: the protocol of sd_notify(3)."""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress

import trio
from attrs import frozen

#: The environment variables in which systemd passes its socket, and the interval of the watchdog in microseconds.
SOCKET, WATCHDOG, WATCHDOG_PID = "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"


@frozen
class ServiceManager:
    """The service manager that has started this process; ``address`` is None without one.

    ``watchdog`` is the number of seconds after which it takes a process that has sent nothing for hung; None for never.
    """

    address: str | None = None
    watchdog: float | None = None

    @classmethod
    def from_environment(cls) -> ServiceManager:
        """Return the service manager of this process, and remove it from the environment that children inherit."""
        address = os.environ.pop(SOCKET, None)
        interval = os.environ.pop(WATCHDOG, "")
        mine = os.environ.pop(WATCHDOG_PID, str(os.getpid())) == str(os.getpid())
        watchdog = int(interval) / 1e6 if mine and interval.isdecimal() and int(interval) else None
        return cls(address, watchdog)

    def notify(self, *assignments: str) -> None:
        """Send assignments such as ``READY=1``. Nothing happens if that fails: the server does not depend on it."""
        if self.address is not None:
            # An address that begins with "@" is an abstract one (unix(7)).
            address = f"\0{self.address[1:]}" if self.address.startswith("@") else self.address
            with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.sendto("\n".join(assignments).encode(), socket.MSG_DONTWAIT, address)

    def ready(self) -> None:
        """Report that the server is listening, or that it has finished reloading."""
        self.notify("READY=1")

    def reloading(self) -> None:
        """Report that the server has begun to read its files again."""
        self.notify("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        """Report that the server has begun to stop."""
        self.notify("STOPPING=1")

    async def feed_watchdog(self) -> None:
        """Report twice in each interval of the watchdog that the event loop runs; return without a watchdog."""
        while self.address is not None and self.watchdog is not None:
            self.notify("WATCHDOG=1")
            await trio.sleep(self.watchdog / 2)
