"""A store in memory whose messages can be consumed, for tests in virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterable, Sequence
from datetime import UTC, datetime

import trio
from attrs import define

from smtp_trio.stores import DeadLetter, Store, Stored, StoreError
from smtp_trio.stores._consumer import Claim, Outcome

#: The time of the system at the beginning of Trio's virtual time.
EPOCH = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)


@define(eq=False)
class Queued:
    """A message in the store."""

    stored: Stored
    due: float
    attempts: int = 0
    state: str = ""
    lease: float = 0.0
    token: str = ""


class MemoryStore(Store[None]):  # type: ignore[type-var]  # it has no spool
    """A store for one group. Its clock is that of Trio."""

    url = "memory:"

    def __init__(self) -> None:
        super().__init__()
        self.queue: list[Queued] = []
        self.dead: list[DeadLetter] = []
        self.done: list[str] = []
        self.claims = 0
        self.problem: StoreError | None = None
        """The error of `add`."""
        self.unsettled = 0
        """The number of results that are lost, as if the process died before each."""
        self._changed = trio.Event()

    @staticmethod
    def clock() -> float:
        return EPOCH.timestamp() + trio.current_time()

    async def add(
        self,
        message: bytes | AsyncIterable[bytes],
        sender: str,
        recipients: Sequence[str],
        *,
        mail_params: str = "",
        rcpt_params: Sequence[str] | None = None,
        received: datetime | None = None,
    ) -> str:
        assert isinstance(message, bytes)
        await trio.lowlevel.checkpoint()
        if self.problem is not None:
            raise self.problem
        number = str(len(self.queue) + len(self.done) + len(self.dead) + 1)
        stored = Stored(
            id=f"m{number}",
            received=received or datetime.fromtimestamp(self.clock(), UTC),
            sender=sender,
            recipients=tuple(recipients),
            mail_params=mail_params,
            rcpt_params=tuple(rcpt_params or ("",) * len(recipients)),
            peer="192.0.2.7",
            helo="client.test",
            protocol="ESMTPS",
            message=message,
        )
        self.queue.append(Queued(stored, trio.current_time()))
        self._change()
        return stored.id

    def _change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def _claim(self, group: str, name: str, *, lease: float, max_attempts: int) -> Claim | None:
        await trio.lowlevel.checkpoint()
        now = trio.current_time()
        due = [each for each in self.queue if each.due <= now and each.lease <= now]
        if not due:
            return None
        chosen = min(due, key=lambda each: each.due)
        self.claims += 1
        chosen.attempts += 1
        chosen.lease, chosen.token = now + lease, str(self.claims)
        return Claim(stored=chosen.stored, group=group, token=chosen.token, attempt=chosen.attempts, state=chosen.state)

    async def _settle(self, claim: Claim, outcome: Outcome) -> bool:
        await trio.lowlevel.checkpoint()
        if self.unsettled:
            self.unsettled -= 1
            raise StoreError("not recorded")
        [queued] = [each for each in self.queue if each.stored.id == claim.stored.id]
        if queued.token != claim.token:
            return False
        if outcome.kind == "retry":
            queued.due, queued.state, queued.lease = trio.current_time() + outcome.after, outcome.state, 0.0
            queued.attempts -= outcome.uncounted
        else:
            self.queue.remove(queued)
            if outcome.kind == "dead":
                entry = queued.stored
                self.dead.append(
                    DeadLetter(
                        entry=entry,
                        group=claim.group,
                        reason=outcome.reason,
                        attempts=claim.attempt,
                        state=outcome.state,
                    )
                )
            else:
                self.done.append(claim.stored.id)
        self._change()
        return True

    async def _wait_for_message(self, group: str, longest: float) -> None:
        now = trio.current_time()
        times = [max(each.due, each.lease) - now for each in self.queue]
        # Time is virtual, so days of waiting cost nothing only if there is no polling.
        until = min((each for each in times if each > 0), default=float("inf"))
        changed = self._changed
        with trio.move_on_after(until):
            await changed.wait()
