"""An inbox for tests: hooks that keep messages in memory, and let a test wait for them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from email import message_from_bytes, policy
from email.message import EmailMessage
from functools import cached_property
from typing import TypedDict, Unpack, overload

import trio
from attrs import field, frozen

from ..._server.body import Body
from ..._server.hooks import Hooks
from ..._server.session import Session
from ..._types import Envelope, Peer, TlsInfo
from ...protocol import Reply
from ...protocol.arguments import argument, check_callable, check_number, check_type
from .._transcripts.transcript import Transcript

#: A text that must be equal, or a compiled pattern that must be found.
Text = str | re.Pattern[str]
#: The number of lines at the end of a transcript that an error message shows.
MAX_LINES = 60


@frozen(slots=False, eq=False, kw_only=True)  # slots and a cached_property need attrs 23.3
class ReceivedMail:
    """A message that an `Inbox` received, with properties of its session."""

    #: The reverse-path and the recipients.
    envelope: Envelope
    #: The message as it was received, with CRLF and without dot-stuffing.
    raw: bytes = field(repr=False)
    #: The time when it was received, by Trio's clock.
    time: float
    #: The client's address.
    peer: Peer
    #: The properties of the TLS connection; None without TLS.
    tls: TlsInfo | None
    #: The user that the client has authenticated as, or None.
    user: str | None
    #: The transcript of its session, which may have continued; None if `Inbox.connect` was not called.
    transcript: Transcript | None = field(repr=False)

    @cached_property
    def message(self) -> EmailMessage:
        """The message, parsed with `email.policy.default`.

        Lines of its text end with LF, as in Python, and not with CRLF.
        """
        return message_from_bytes(self.raw.replace(b"\r\n", b"\n"), policy=policy.default)

    @property
    def sender(self) -> str:
        """The reverse-path as it was sent; "" for the null reverse-path."""
        return self.envelope.sender.raw

    @property
    def recipients(self) -> tuple[str, ...]:
        """The accepted recipients as they were sent, in order."""
        return tuple(path.raw for path in self.envelope.recipients)

    @property
    def subject(self) -> str:
        """The decoded subject; "" without a subject."""
        return str(self.message["subject"] or "")

    def __str__(self) -> str:
        recipients = ", ".join(f"<{each}>" for each in self.recipients)
        return f"{self.subject!r} from <{self.sender}> to {recipients}, {len(self.raw)} octets, at {self.time:g} s"


class MailFilter(TypedDict, total=False):
    """Criteria for messages. A str must be equal, except for the case of a domain; a compiled pattern must be found.

    ``to`` is compared with each accepted recipient, ``subject`` with the subject and ``sender`` with the reverse-path.
    ``match`` is a function of a `ReceivedMail`.
    """

    to: Text | None
    subject: Text | None
    sender: Text | None
    match: Callable[[ReceivedMail], bool] | None


@frozen(kw_only=True)
class Criteria:
    """A `MailFilter` as a function of a `ReceivedMail`."""

    to: Text | None = field(default=None, validator=argument(check_type, (str, re.Pattern), optional=True))
    subject: Text | None = field(default=None, validator=argument(check_type, (str, re.Pattern), optional=True))
    sender: Text | None = field(default=None, validator=argument(check_type, (str, re.Pattern), optional=True))
    match: Callable[[ReceivedMail], bool] | None = field(
        default=None, validator=argument(check_callable, optional=True)
    )

    def __call__(self, mail: ReceivedMail) -> bool:
        return (
            any(_fits(self.to, each, mailbox=True) for each in mail.recipients)
            and _fits(self.subject, mail.subject)
            and _fits(self.sender, mail.sender, mailbox=True)
            and (self.match is None or self.match(mail))
        )

    def __str__(self) -> str:
        named = {"to": self.to, "subject": self.subject, "sender": self.sender, "match": self.match}
        parts = [f"{name}={getattr(value, 'pattern', value)!r}" for name, value in named.items() if value is not None]
        return " with " + ", ".join(parts) if parts else ""


def _fits(wanted: Text | None, value: str, *, mailbox: bool = False) -> bool:
    if isinstance(wanted, re.Pattern):
        return wanted.search(value) is not None
    return wanted is None or wanted == value or (mailbox and _mailbox(wanted) == _mailbox(value))


def _mailbox(raw: str) -> tuple[str, str]:
    """Return a mailbox for comparisons: the case of its domain is ignored (RFC 5321 2.4)."""
    local, _, domain = raw.rpartition("@")
    return local, domain.casefold()


class Inbox(Hooks):
    """Hooks that accept every message and keep it in memory: ``Server(Inbox())``.

    An inbox is a sequence of `ReceivedMail`, in the order in which they were received. The criteria of its methods are
    those of `MailFilter`. When an assertion fails, its message lists what was received, with the transcripts.

    Subclass it to add other hooks. A subclass that replaces `connect` gets no transcripts.
    """

    def __init__(self) -> None:
        self.mails: list[ReceivedMail] = []
        #: The transcripts of all sessions, including those without a message.
        self.transcripts: list[Transcript] = []
        self._current: dict[Session, Transcript] = {}
        self._waiting: trio.lowlevel.ParkingLot = trio.lowlevel.ParkingLot()

    def __repr__(self) -> str:
        return f"<Inbox with {_count(len(self.mails))}>"

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
        """Discard the messages, and the transcripts of sessions that have ended."""
        self.mails.clear()
        self.transcripts[:] = self._current.values()

    # --- for tests ----------------------------------------------------------------------------------------------

    def matching(self, **criteria: Unpack[MailFilter]) -> list[ReceivedMail]:
        """Return the messages so far that meet the criteria."""
        return list(filter(Criteria(**criteria), self.mails))

    async def wait_for(self, n: int = 1, **criteria: Unpack[MailFilter]) -> list[ReceivedMail]:
        """Wait until ``n`` messages that meet the criteria were received; return the oldest ``n``.

        It returns when the message was received, which is before the client gets its reply. When it is cancelled, the
        `trio.Cancelled` gets a note that lists what was received, so the traceback of a `trio.TooSlowError` from
        `trio.fail_after` shows it.
        """
        check_number(n, "n", integer=True)
        wanted = Criteria(**criteria)
        try:
            await trio.lowlevel.checkpoint()
            while len(found := list(filter(wanted, self.mails))) < n:
                await self._waiting.park()
        except trio.Cancelled as cancelled:
            cancelled.add_note(self._account(f"waited for {_count(n)}{wanted}"))
            raise
        return found[:n]

    def assert_delivered(self, n: int = 1, **criteria: Unpack[MailFilter]) -> list[ReceivedMail]:
        """Check that exactly ``n`` messages so far meet the criteria, and return them. Raises AssertionError."""
        check_number(n, "n", integer=True)
        wanted = Criteria(**criteria)
        found = list(filter(wanted, self.mails))
        if len(found) != n:
            raise AssertionError(self._account(f"expected {_count(n)}{wanted}, got {len(found)}"))
        return found

    def assert_empty(self) -> None:
        """Check that no message was received. Raises AssertionError."""
        if self.mails:
            raise AssertionError(self._account("expected no message"))

    def _account(self, what: str) -> str:
        """Return ``what`` with a list of the messages and the transcripts."""
        lines = [f"{what}; received {_count(len(self.mails)) if self.mails else 'nothing'}"]
        lines += [f"  {number}. {mail}" for number, mail in enumerate(self.mails, 1)]
        if not self.transcripts:
            lines.append("no client has connected")
        for number, transcript in enumerate(self.transcripts, 1):
            text = str(transcript).splitlines()
            lines.append(f"--- session {number} of {len(self.transcripts)}" + " (last lines)" * (len(text) > MAX_LINES))
            lines += text[-MAX_LINES:]
        return "\n".join(lines)

    # --- hooks --------------------------------------------------------------------------------------------------

    async def connect(self, session: Session) -> Reply | None:
        """Begin the transcript of a session."""
        transcript = Transcript()
        transcript.follow(session)
        self._current[session] = transcript
        self.transcripts.append(transcript)
        return None

    async def disconnect(self, session: Session) -> None:
        """End the transcript of a session."""
        self._current.pop(session, None)

    async def data(self, session: Session, body: Body) -> Reply | Sequence[Reply | None] | None:
        """Accept the message, and wake the tasks that wait for messages.

        A subclass may refuse it, in LMTP also for some of its recipients (see `Hooks.data`).
        """
        raw = await body.read()
        mail = ReceivedMail(
            envelope=body.envelope,
            raw=raw,
            time=trio.current_time(),
            peer=session.peer,
            tls=session.tls,
            user=session.user,
            transcript=self._current.get(session),
        )
        self.mails.append(mail)
        self._waiting.unpark_all()
        return None


def _count(n: int) -> str:
    return "1 message" if n == 1 else f"{n} messages"
