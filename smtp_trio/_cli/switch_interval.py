"""The interval after which a thread of a server gives way to another one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Only one thread of a process runs Python code at a time. The thread that commits messages waits for it after each call
# of the kernel, about ten times in a commit. Usually the event loop waits for clients then. But in a flood of connections
# or commands it does not wait, and gives way only after the switch interval, which is 5 ms by default: a commit that takes
# 3 ms took 25 ms, with no more than a quarter of the processor in use. With a shorter interval the loop is interrupted
# more often in a flood, and as rarely as before otherwise.

#: Seconds for which a thread waits at most until another one gives way (`sys.setswitchinterval`).
SWITCH_INTERVAL = 0.0005


@contextmanager
def short_switch_interval() -> Iterator[None]:
    """Let threads give way after `SWITCH_INTERVAL` during the block."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_INTERVAL)
    try:
        yield
    finally:
        sys.setswitchinterval(before)
