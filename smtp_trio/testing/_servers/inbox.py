"""A store for tests: it keeps messages in memory, and wakes whoever waits for one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from email import message_from_bytes, policy
from email.message import EmailMessage
from functools import cached_property
from typing import overload

import trio
from attrs import field, frozen

from ..._server.body import Body
from ..._server.hooks import Hooks
from ..._server.session import Session
from ..._types import Envelope, Peer, TlsInfo
from ...protocol import Reply
from .._transcripts.transcript import Transcript

#: What something must be; or, with a compiled pattern, what must be found in it.
Text = str | re.Pattern[str]
#: Lines of a transcript that an account has, the last ones.
SHOWN = 60


@frozen(slots=False, eq=False, kw_only=True)  # slots and a cached_property need attrs 23.3
class ReceivedMail:
    """A message that an `Inbox` took, and what was known of its session then."""

    #: Who sends it to whom.
    envelope: Envelope
    #: The message as it came, with CRLF, its dots unstuffed.
    raw: bytes = field(repr=False)
    #: When it was taken, by Trio's clock.
    time: float
    peer: Peer
    #: What TLS agreed on; None without it.
    tls: TlsInfo | None
    #: Who the client proved to be, or None.
    user: str | None
    #: Its session, which may have gone on; None where `Inbox.connect` was not called.
    transcript: Transcript | None = field(repr=False)

    @cached_property
    def message(self) -> EmailMessage:
        """The message, parsed by `email.policy.default`, with Python's line ends: a text in it has LF, not CRLF."""
        return message_from_bytes(self.raw.replace(b"\r\n", b"\n"), policy=policy.default)

    @property
    def sender(self) -> str:
        """The reverse-path, as it was sent; "" when it is null."""
        return self.envelope.sender.raw

    @property
    def recipients(self) -> tuple[str, ...]:
        """The accepted recipients, in order, as they were sent."""
        return tuple(path.raw for path in self.envelope.recipients)

    @property
    def subject(self) -> str:
        """The subject, decoded; "" when there is none."""
        return str(self.message["subject"] or "")

    def __str__(self) -> str:
        recipients = ", ".join(f"<{each}>" for each in self.recipients)
        return f"{self.subject!r} from <{self.sender}> to {recipients}, {len(self.raw)} octets, at {self.time:g} s"


@frozen(kw_only=True)
class Wanted:
    """Which messages somebody wants."""

    to: Text | None
    subject: Text | None
    sender: Text | None
    match: Callable[[ReceivedMail], bool] | None

    def __call__(self, mail: ReceivedMail) -> bool:
        return (
            any(_fits(self.to, each, mailbox=True) for each in mail.recipients)
            and _fits(self.subject, mail.subject)
            and _fits(self.sender, mail.sender, mailbox=True)
            and (self.match is None or self.match(mail))
        )

    def __str__(self) -> str:
        named = {"to": self.to, "subject": self.subject, "sender": self.sender, "match": self.match}
        told = [f"{name}={getattr(value, 'pattern', value)!r}" for name, value in named.items() if value is not None]
        return " with " + ", ".join(told) if told else ""


def _fits(wanted: Text | None, value: str, *, mailbox: bool = False) -> bool:
    if isinstance(wanted, re.Pattern):
        return wanted.search(value) is not None
    return wanted is None or wanted == value or (mailbox and _mailbox(wanted) == _mailbox(value))


def _mailbox(raw: str) -> tuple[str, str]:
    """A mailbox, the case of whose domain means nothing (RFC 5321 2.4)."""
    local, _, domain = raw.rpartition("@")
    return local, domain.casefold()


class Inbox(Hooks):
    """Hooks that take every message, and keep it in memory. ``Server(Inbox())``, or `memory_pair` with it.

    It is a sequence of `ReceivedMail`, in the order in which they were taken. Messages are picked by ``to`` (one of the
    accepted recipients), ``subject``, ``sender`` (the reverse-path) and ``match``, a function of a `ReceivedMail`: a
    str must be equal, but for the case of a domain, a compiled pattern must be found. What is asserted and fails shows
    what did come, and the transcripts.

    Subclass it for hooks of your own beside it; without its `connect`, there are no transcripts.
    """

    def __init__(self) -> None:
        self.mails: list[ReceivedMail] = []
        #: Of every session there was, also of those without a message.
        self.transcripts: list[Transcript] = []
        self._of: dict[Session, Transcript] = {}
        self._waiting: trio.lowlevel.ParkingLot = trio.lowlevel.ParkingLot()

    def __repr__(self) -> str:
        return f"<Inbox with {len(self.mails)} messages>"

    def __len__(self) -> int:
        return len(self.mails)

    def __iter__(self) -> Iterator[ReceivedMail]:
        return iter(self.mails)

    @overload
    def __getitem__(self, index: int) -> ReceivedMail: ...
    @overload
    def __getitem__(self, index: slice) -> list[ReceivedMail]: ...
    def __getitem__(self, index: int | slice) -> ReceivedMail | list[ReceivedMail]:
        return self.mails[index]

    def clear(self) -> None:
        """Forget the messages, and the transcripts of sessions that are over."""
        self.mails.clear()
        self.transcripts[:] = self._of.values()

    # --- what is asked ----------------------------------------------------------------------------------------------

    def matching(
        self,
        *,
        to: Text | None = None,
        subject: Text | None = None,
        sender: Text | None = None,
        match: Callable[[ReceivedMail], bool] | None = None,
    ) -> list[ReceivedMail]:
        """The messages so far that fit."""
        return list(filter(Wanted(to=to, subject=subject, sender=sender, match=match), self.mails))

    async def wait_for(
        self,
        n: int = 1,
        *,
        to: Text | None = None,
        subject: Text | None = None,
        sender: Text | None = None,
        match: Callable[[ReceivedMail], bool] | None = None,
    ) -> list[ReceivedMail]:
        """Wait until ``n`` messages that fit were taken, and return these, the oldest.

        Wakes when the message is taken, which is before the client is told. When it is cancelled, what did arrive is a
        note on the `trio.Cancelled`, and so stands in the traceback of the `trio.TooSlowError` that `trio.fail_after`
        makes of it.
        """
        wanted = Wanted(to=to, subject=subject, sender=sender, match=match)
        try:
            await trio.lowlevel.checkpoint()
            while len(found := list(filter(wanted, self.mails))) < n:
                await self._waiting.park()
        except trio.Cancelled as cancelled:
            cancelled.add_note(self._account(f"waited for {_messages(n)}{wanted}"))
            raise
        return found[:n]

    def assert_delivered(
        self,
        n: int = 1,
        *,
        to: Text | None = None,
        subject: Text | None = None,
        sender: Text | None = None,
        match: Callable[[ReceivedMail], bool] | None = None,
    ) -> list[ReceivedMail]:
        """There are ``n`` messages that fit, no more and no less; returns them. Raises AssertionError."""
        wanted = Wanted(to=to, subject=subject, sender=sender, match=match)
        found = list(filter(wanted, self.mails))
        if len(found) != n:
            raise AssertionError(self._account(f"expected {_messages(n)}{wanted}, not {len(found)}"))
        return found

    def assert_empty(self) -> None:
        """No message was taken. Raises AssertionError."""
        if self.mails:
            raise AssertionError(self._account("expected no message"))

    def _account(self, what: str) -> str:
        """What did arrive, for whoever waited for something else."""
        lines = [f"{what}; arrived: {_messages(len(self.mails)) if self.mails else 'nothing'}"]
        lines += [f"  {number}. {mail}" for number, mail in enumerate(self.mails, 1)]
        if not self.transcripts:
            lines.append("no session that this inbox saw")
        for number, transcript in enumerate(self.transcripts, 1):
            told = str(transcript).splitlines()
            lines.append(f"--- session {number} of {len(self.transcripts)}" + " (its end)" * (len(told) > SHOWN))
            lines += told[-SHOWN:]
        return "\n".join(lines)

    # --- the hooks --------------------------------------------------------------------------------------------------

    async def connect(self, session: Session) -> Reply | None:
        """Begins the transcript."""
        transcript = Transcript()
        transcript.follow(session)
        self._of[session] = transcript
        self.transcripts.append(transcript)
        return None

    async def disconnect(self, session: Session) -> None:
        """Ends it."""
        self._of.pop(session, None)

    async def data(self, session: Session, body: Body) -> Reply | None:
        """Takes the message, and wakes who waits for it."""
        raw = await body.read()
        mail = ReceivedMail(
            envelope=body.envelope,
            raw=raw,
            time=trio.current_time(),
            peer=session.peer,
            tls=session.tls,
            user=session.user,
            transcript=self._of.get(session),
        )
        self.mails.append(mail)
        self._waiting.unpark_all()
        return None


def _messages(n: int) -> str:
    return "1 message" if n == 1 else f"{n} messages"
