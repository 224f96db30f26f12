"""The timeouts of a server (RFC 5321 4.5.3.2), and what the timeouts of a client have in common with them."""

from __future__ import annotations

import math

import trio
from attrs import field, frozen

from .protocol.arguments import check_number
from .protocol.values import Value

#: The part of a timeout by which it may be too short, and the largest such time in seconds. Moving the deadline of a cancel
#: scope costs about as much as parsing a command, so a deadline that is already right to within this much is left alone.
DEADLINE_SLACK, LARGEST_SLACK = 0.01, 5.0


def seconds_or_infinity(value: float) -> float:
    """Convert a timeout as a user writes it, where 0 means no limit, to seconds; return infinity for 0.

    Raises TypeError if it is not a number, and ValueError for a negative one.
    """
    check_number(value, "a timeout", note=" (0: no limit)")
    return value or math.inf


@frozen(kw_only=True, eq=False, repr=False)
class Timeouts(Value):
    """The timeouts of a server, in seconds; 0 means no limit.

    Raises TypeError for what is not a number, and ValueError for a negative one.

    :param command: how long the server waits for the next command (RFC 5321 4.5.3.2.7 requires at least five minutes).
    :param block: how long it waits for the next part of a message.
    :param stress: how long it waits for either when the server is nearly full: from more than three quarters of
        ``limits.sessions`` until less than half of them are open, if that is shorter. Sessions that are waiting for a
        command at that time wait no longer than this either.
    :param hook: how long a hook may run before it returns or receives something from the peer. The limit starts anew then.
        The `Hooks.message` hook of DATA or BDAT and the `Hooks.data` hook share it.
        Clients wait two minutes for the reply to DATA, and five for those to MAIL and RCPT (RFC 5321 4.5.3.2).
    :param end: the limit instead of ``hook`` for the `Hooks.data` hook when it has read the whole message, if it is
        longer: how long the hook may run after its last wait for the client. Clients wait ten minutes for the reply to a
        message (RFC 5321 4.5.3.2.6). `Hooks.mail`, `Hooks.rcpt` and `Hooks.data` may be cancelled
        up to a hundredth of their limit early, and at most 10 s.
    :param tls: how long a TLS handshake may take.
    :param proxy: how long a connection from ``proxy_from`` may take to send its PROXY header.
    :param write: how long the peer may take to accept a reply that does not fit into the send buffer.
    :param disconnect: how long the last hooks of a session may take, which run shielded from cancellation:
        `Hooks.disconnect`, and before it `Hooks.reset`, which may use half of the time. Also how long `Hooks.stop` may
        take. After the grace period of `Server.stop` it is the limit for all of them together.
    """

    command: float = field(default=300, converter=seconds_or_infinity)
    block: float = field(default=180, converter=seconds_or_infinity)
    stress: float = field(default=10, converter=seconds_or_infinity)
    hook: float = field(default=100, converter=seconds_or_infinity)
    end: float = field(default=540, converter=seconds_or_infinity)
    tls: float = field(default=30, converter=seconds_or_infinity)
    proxy: float = field(default=5, converter=seconds_or_infinity)
    write: float = field(default=300, converter=seconds_or_infinity)
    disconnect: float = field(default=5, converter=seconds_or_infinity)


def server_timeouts(timeout: float | Timeouts) -> Timeouts:
    """Return the timeouts for a server's ``timeout`` argument: seconds that a client may be silent, or all of them.

    Raises TypeError and ValueError for any other value.
    """
    if isinstance(timeout, Timeouts):
        return timeout
    seconds = check_timeout(timeout, Timeouts)
    return Timeouts(command=seconds, block=seconds)


def check_timeout(timeout: float, kind: type) -> float:
    """Return ``timeout`` if it is a number of seconds; raise TypeError, which also names ``kind``, or ValueError."""
    if isinstance(timeout, bool) or not isinstance(timeout, int | float):
        raise TypeError(f"timeout must be a number of seconds or a {kind.__name__}, got {timeout!r}")
    check_number(timeout, "timeout", note=" (0: no limit)")
    return timeout


def clock_jumps() -> bool:
    """Return whether the clock of this run jumps to the next deadline when all tasks are blocked, as a MockClock can.

    For such a clock a task that waits for a thread is blocked, so timeouts expire while the thread works.
    """
    return getattr(trio.lowlevel.current_clock(), "autojump_threshold", math.inf) != math.inf


def mention_threads(error: trio.TooSlowError) -> None:
    """Add a note about threads to the error of a timeout, if the clock of this run jumps."""
    if clock_jumps():
        error.add_note(
            "The clock of this run is a MockClock that jumps whenever all tasks are blocked, also while they wait for a "
            "thread or a socket. If a hook uses threads, such as those of trio.open_file or of a store, see "
            "smtp_trio.testing.inline_threads."
        )
