"""The relay: a consumer that forwards the messages of a store, and tries again until each is delivered or reported.

`Relay` takes messages from a store (`smtp_trio.stores`) and sends them to one server, through a `smtp_trio.Pool`, or to the
exchangers of their recipients' domains, through a `smtp_trio.routing.DomainPool`. `Schedule` has the times of the attempts.

`_relay.py` takes messages and settles them, `_forward.py` makes one attempt, `_state.py` has what is known about a message
after it, `_schedule.py` the times of attempts, `_backoff.py` those after the server could not be reached, and `_trace.py` the
``Received:`` field and the detection of loops.
"""

from __future__ import annotations

from ._relay import Relay, RelayStatistics
from ._schedule import Schedule

__all__ = ["Relay", "RelayStatistics", "Schedule"]
