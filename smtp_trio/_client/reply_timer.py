"""The time limits of waits for replies: on plain sockets, one task watches them for all clients of a `trio.run`."""

from __future__ import annotations

import math

import trio

from .._wire import Wire

#: The name of the system task.
TASK_NAME = "smtp_trio reply timer"
_timer: trio.lowlevel.RunVar[ReplyTimer] = trio.lowlevel.RunVar("smtp_trio reply timer")


# Why a task watches the deadlines
#
# A reply nearly always arrives long before its deadline, minutes away, so what counts is the cost of setting a deadline that
# never comes. A cancel scope costs 50,000 instructions to enter and to leave, and 23,000 each time its deadline is
# moved. With one scope for each message, that was 105,000 of the 600,000 instructions of `Client.send`, and nearly as
# much as its two waits in Trio's scheduler.
#
# Therefore a deadline is an item of a dict here. A system task sleeps until the earliest of them. Deadlines that were met
# by then are gone, so it wakes up every few minutes only, whatever the number of messages. A wait whose deadline has
# come is ended by `Wire.interrupt`, one step of the scheduler later than a cancel scope would have ended it. The
# connection is closed after that in any case, since the reply would be taken for that of a later command.
#
# This needs a wait for a descriptor. Other streams (TLS, in memory) have a cancel scope for each wait. So have all waits
# after the end of the main task, when Trio has cancelled the system task: those in the finalizer of an asynchronous
# generator, and those of a client that is used in another `trio.run`.
#
# Octets that arrive in the step in which the deadline passes count, as with a cancel scope.
class ReplyTimer:
    """The deadlines of those wires on which a task is waiting."""

    __slots__ = ("_deadlines", "_ended", "_scope", "_wakes_at")

    def __init__(self) -> None:
        self._deadlines: dict[Wire, float] = {}
        #: When `watch` wakes up: not later than the earliest deadline.
        self._wakes_at = math.inf
        self._scope = trio.CancelScope()
        self._ended = False

    @classmethod
    def current(cls) -> ReplyTimer:
        """Return the timer of this `trio.run`. Its task is started on first use."""
        try:
            return _timer.get()
        except LookupError:
            timer = cls()
            _timer.set(timer)
            try:
                trio.lowlevel.spawn_system_task(timer.watch, name=TASK_NAME)
            except RuntimeError:  # the main task has ended
                timer._ended = True
            return timer

    async def receive(self, wire: Wire, deadline: float) -> bool:
        """Wait for octets as `Wire.receive` does; return False if the deadline came first. The wire is broken then."""
        if not wire.quick or self._ended:
            with trio.CancelScope(deadline=deadline) as scope:
                await wire.receive()
            expired = scope.cancelled_caught
        else:
            self._deadlines[wire] = deadline
            if deadline < self._wakes_at:
                self._wakes_at = self._scope.deadline = deadline
            try:
                await wire.receive()
            finally:
                expired = self._deadlines.pop(wire, None) is None and wire.broken  # not so if octets have arrived
        if expired:
            wire.broken = True
        return not expired

    async def watch(self) -> None:
        """Interrupt each wait whose deadline has come. This is the system task."""
        try:
            while True:
                with trio.CancelScope(deadline=self._wakes_at) as self._scope:
                    await trio.sleep_forever()
                now = trio.current_time()
                for wire in [wire for wire, deadline in self._deadlines.items() if deadline <= now]:
                    del self._deadlines[wire]
                    wire.interrupt()
                self._wakes_at = min(self._deadlines.values(), default=math.inf)
        finally:
            self._ended = True
