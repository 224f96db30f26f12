"""A store for tests: it keeps messages in memory, and wakes whoever waits for one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from email import message_from_bytes, policy
from email.message import EmailMessage
from functools import cached_property

import trio
from attrs import define

from .._body import Body
from .._hooks import Hooks
from .._session import Session
from .._values import Envelope, Peer, TlsInfo
from ..protocol import Reply
from ._transcript import Transcript


@define(slots=False, eq=False, kw_only=True)
class ReceivedMail:
    """A message that an `Inbox` took, and what was known of its session then."""

    envelope: Envelope
    raw: bytes
    time: float
    peer: Peer
    tls: TlsInfo | None
    user: str | None
    transcript: Transcript | None

    @cached_property
    def message(self) -> EmailMessage:
        """The message, parsed by the rules of today."""
        return message_from_bytes(self.raw, policy=policy.default)

    @property
    def sender(self) -> str:
        return self.envelope.sender.raw

    @property
    def recipients(self) -> tuple[str, ...]:
        return tuple(path.raw for path in self.envelope.recipients)

    @property
    def subject(self) -> str:
        return str(self.message["subject"] or "")


class Inbox(Hooks):
    """Hooks that keep every message in memory."""

    def __init__(self) -> None:
        self.mails: list[ReceivedMail] = []
        self._news = trio.lowlevel.ParkingLot()

    def __len__(self) -> int:
        return len(self.mails)

    def __iter__(self) -> Iterator[ReceivedMail]:
        return iter(self.mails)

    def __getitem__(self, index: int) -> ReceivedMail:
        return self.mails[index]

    def clear(self) -> None:
        """Forget all messages."""
        self.mails.clear()

    def matching(
        self,
        *,
        to: str | None = None,
        subject: str | None = None,
        sender: str | None = None,
        match: Callable[[ReceivedMail], bool] | None = None,
    ) -> list[ReceivedMail]:
        """The messages that fit, in the order in which they came."""
        return [
            mail
            for mail in self.mails
            if (to is None or to in mail.recipients)
            and (subject is None or subject in mail.subject)
            and (sender is None or sender == mail.sender)
            and (match is None or match(mail))
        ]

    async def wait_for(
        self,
        n: int = 1,
        *,
        to: str | None = None,
        subject: str | None = None,
        sender: str | None = None,
        match: Callable[[ReceivedMail], bool] | None = None,
    ) -> list[ReceivedMail]:
        """Wait until so many messages that fit are here, and return them."""
        await trio.lowlevel.checkpoint()
        while len(found := self.matching(to=to, subject=subject, sender=sender, match=match)) < n:
            await self._news.park()
        return found[:n]

    async def data(self, session: Session, body: Body) -> Reply | None:
        raw = await body.read()
        self.mails.append(
            ReceivedMail(
                envelope=body.envelope,
                raw=raw,
                time=trio.current_time(),
                peer=session.peer,
                tls=session.tls,
                user=session.user,
                transcript=None,
            )
        )
        self._news.unpark_all()
        return None
