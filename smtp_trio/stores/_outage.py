"""`Outage`: the records of a store whose engine does not respond, one when that begins and one when it ends."""

from __future__ import annotations

import math
import threading
import time
from typing import TYPE_CHECKING, final

from .._server.log_events import STORE_INTERRUPTED, STORE_RESUMED
from ._errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable


class StoreUnavailableError(StoreError):
    """The engine of a store does not respond, which the log has once for all messages that are refused meanwhile."""


@final
class Outage:
    """A record of whether the engine of a store responds.

    ``name()`` returns the name of the store for the log; it has no password. The methods can be called in any thread.
    """

    # A store can make several attempts at the same time. One that began before another has failed may still succeed, which
    # does not mean that the engine responds again. Otherwise the log would have two pairs of records for one outage.

    def __init__(self, name: Callable[[], str]) -> None:
        self._name = name
        self.active: bool = False
        """True if no attempt that began after the last failure has succeeded."""
        self._failed = -math.inf  # when the last attempt failed
        self._lock = threading.Lock()

    def error(self, error: BaseException) -> StoreUnavailableError:
        """Return the error for one message after a failed attempt, and log the beginning of the outage."""
        text = str(error) or type(error).__name__
        with self._lock:
            self._failed = time.monotonic()
            if not self.active:
                self.active = True
                STORE_INTERRUPTED.log(store=self._name(), error=text, exc_info=error)
        return StoreUnavailableError(text)

    def end(self, began: float) -> None:
        """Note an attempt that succeeded, and log the end of the outage, if there was one.

        ``began`` is the `time.monotonic` at which the attempt began.
        """
        if self.active:
            with self._lock:
                if self.active and began >= self._failed:
                    self.active = False
                    STORE_RESUMED.log(store=self._name())
