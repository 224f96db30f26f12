"""The base class of stores: hooks whose ``data`` answers 250 only when the message is durable.

RFC 5321 6.1: with its 250 a server accepts responsibility for the message, and "MUST NOT lose the message for frivolous
reasons, such as because the host later crashes". A subclass defines how a message is spooled and how a group of
messages is committed.
"""

from __future__ import annotations

import errno
import sqlite3
from typing import TYPE_CHECKING, ClassVar, Generic

from attrs import Factory, evolve, field, frozen

from .._server.body import keep_start, keeper_of
from .._server.hooks import Hooks
from .._server.log_events import NOT_STORED
from .._server.session_log import STORED
from .._server.threads import run_in_thread
from ..protocol.arguments import check_items, check_type
from ..protocol.extension import Extension
from ..protocol.extensions import KNOWN
from ..protocol.params import NO_PARAMS, Params, parse_params
from ..protocol.replies import Reply
from ..protocol.syntax import PARAMETER
from ._group import GroupCommit, SpoolT

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Iterable, Sequence
    from datetime import datetime

    from .._server.body import Body
    from .._server.server import Server
    from .._server.session import Session
    from .._types import Envelope
    from ..protocol import Rcpt


@frozen
class Stored:
    """A message as it was stored, with its envelope."""

    sender: str
    """The mailbox of MAIL, as the client sent it; "" for the null reverse-path."""
    recipients: tuple[str, ...]
    """The mailboxes of the accepted RCPT commands in their order, as the client sent them."""
    message: bytes
    """The octets that the client sent, without the fields that the store or the server added."""
    received: datetime
    """The time at which the server received the message, with its UTC offset."""
    mail_params: str = ""
    """The parameters of MAIL, such as ``SIZE=100 RET=HDRS``, or "" without parameters. See `parse_stored_params`."""
    rcpt_params: tuple[str, ...] = field(default=Factory(lambda self: ("",) * len(self.recipients), takes_self=True))
    """The parameters of the RCPT command of each recipient, in the order of ``recipients``."""


class StoreError(Exception):
    """A store could not be opened, or could not keep a message.

    ``reply`` is the reply for the client. The message of the exception and its cause are for the log: they contain
    paths.
    """

    reply: ClassVar[Reply] = Reply(451, "Cannot store the message now; try again later", "4.3.0")


class StoreFullError(StoreError):
    """The device is full, or the quota is used up."""

    reply: ClassVar[Reply] = Reply(452, "Insufficient system storage", "4.3.1")


class MessageTooBigError(StoreError):
    """The message is larger than the store can ever keep."""

    reply: ClassVar[Reply] = Reply(552, "Message size exceeds what the store can hold", "5.3.4")


# Parameters are kept as text, and not by name: a store knows none of them, so that an extension which is added later, or
# by a third party, needs no change here. `Param.format` makes the text. It is checked, since a line break in it would
# add a field to a file, which a reader of the store could take for a part of the envelope.
def format_params(params: Params) -> str:
    """Return parameters as text, ``KEYWORD=value`` with single spaces between them.

    Raises `StoreError` for a `Param` whose ``format`` returns what is not the text of a parameter.
    """
    if not params:
        return ""
    words = params.words()
    for word in words:
        if not PARAMETER.fullmatch(word):
            raise StoreError(f"a parameter cannot be stored, since its text is not valid: {word!a}")
    return " ".join(words)


def parse_stored_params(text: str, extensions: Iterable[Extension] = KNOWN) -> Params:
    """Return the parameters in a text of `Stored` as typed values, by `Param`.

    Parameters that none of the ``extensions`` defines are left out.
    """
    check_type(text, "text", str)
    known = {
        param.keyword: param
        for extension in check_items(extensions, "extensions", Extension)
        for params in extension.params.values()
        for param in params
    }
    words = [word for word in text.split(" ") if word.partition("=")[0].upper() in known]
    return parse_params(" ".join(words), known) if words else NO_PARAMS


def primary_code(error: Exception) -> int:
    """Return the primary result code of an error of SQLite: its low octet (sqlite.org/rescode.html)."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


class Store(Hooks, Generic[SpoolT]):
    """The base class of stores: hooks that keep every message.

    Add other hooks in a subclass of a store, or call `put` in a ``data`` hook of your own. A store is opened with the
    server that it serves, or by the first message, and can be used again after it was closed.
    """

    def __init__(self) -> None:
        self._group: GroupCommit[SpoolT] = GroupCommit(self._commit)

    # --- implemented by each store:
    #
    # These methods begin with an underscore because they are for the stores of this package: `Hooks` has public names
    # for hooks only, and a program never calls them. A store outside of the package calls nothing here either; it
    # defines a ``data`` hook. `_commit`, `_open` and `_close` run in a thread, and never concurrently.

    def _spool(self, session: Session, envelope: Envelope) -> SpoolT:
        """Return an empty spool for the message that a session is about to receive."""
        raise NotImplementedError

    def _commit(self, messages: Sequence[SpoolT]) -> dict[SpoolT, Exception]:
        """Make messages durable, and return the errors of those that cannot be stored, by message.

        An exception that is raised is the error of all of them. No other mapping or list may contain the errors: see
        `_group.py`. Nothing of a message with an error may be visible to
        readers; `Spool.discard` removes what is left. The store may not be open yet: `_open` is called by the server,
        but not by `put`.
        """
        raise NotImplementedError

    def _open(self) -> None:
        """Open the store, or raise OSError, `sqlite3.Error` or `StoreError`. The default does nothing."""

    def _close(self) -> None:
        """Close the store. The default does nothing."""

    # --- the same in every store:

    async def put(self, session: Session, body: AsyncIterable[bytes], *, rcpts: Sequence[Rcpt] | None = None) -> str:
        """Store the message that a session is receiving, for all its recipients, and return the store's id of it.

        In LMTP, ``rcpts`` can be those of ``session.envelope.rcpts`` that it is stored for; the hook has to refuse it for
        the others. Raises ValueError if ``rcpts`` is empty, or has one that is not in the envelope.

        ``body`` is the body of the session's ``data`` hook, or an iterable that yields a changed one. Returns when the
        message is durable. Raises `StoreError` when it is not stored, RuntimeError when the session is not receiving a
        message, and what iterating over ``body`` raises; then the store contains nothing of it.

        Cancellation is possible only until the body has been read.
        """
        envelope = session.envelope
        if envelope is None:
            raise RuntimeError("the session is not receiving a message: call put() in the data hook")
        if rcpts is not None:
            if not rcpts or any(rcpt not in envelope.rcpts for rcpt in rcpts):
                raise ValueError(f"rcpts must be some of the recipients of the message, got {rcpts!r}")
            envelope = evolve(envelope, rcpts=tuple(rcpts))
        spool = self._spool(session, envelope)
        keep_start(body)  # the spool adds an empty line where it can be found again
        try:
            await spool.fill(body, keeper_of(session))
        except (OSError, sqlite3.Error, StoreError) as error:
            raise self._store_error(error) from error
        failure = await self._group.submit(spool)
        if failure is not None:
            raise self._store_error(failure) from failure
        envelope.context[STORED] = spool.name
        return spool.name

    async def open(self) -> None:
        """Open the store now, not with its first message. Raises `StoreError` when it cannot be used."""
        try:
            await run_in_thread(self._open, limiter=self._group.limiter)
        except (OSError, sqlite3.Error, StoreError) as error:
            raise self._store_error(error) from error

    async def aclose(self) -> None:
        """Close the store. It is opened again when it is used again."""
        await run_in_thread(self._close, limiter=self._group.limiter)

    def _store_error(self, error: Exception) -> StoreError:
        """Return the StoreError that fits an error. Each session needs its own: a group can share one error."""
        if isinstance(error, StoreError):
            kind = type(error)
        elif isinstance(error, OSError):
            kind = StoreFullError if error.errno in (errno.ENOSPC, errno.EDQUOT) else StoreError
        else:
            kind = StoreFullError if primary_code(error) == sqlite3.SQLITE_FULL else StoreError
        return kind(f"{self!r}: {str(error) or type(error).__name__}")

    # --- hooks:

    async def start(self, server: Server) -> None:
        """Open the store with the server."""
        await self.open()

    async def stop(self, server: Server) -> None:
        """Close the store with the server."""
        await self.aclose()

    async def data(self, session: Session, body: Body) -> Reply | Sequence[Reply | None] | None:
        """Store the message. On an error log it, and return its reply.

        A subclass may store it for some of its recipients, by `put`, and in LMTP return a reply for each (see `Hooks.data`).
        """
        try:
            await self.put(session, body)
        except StoreError as error:
            NOT_STORED.log(id=body.envelope.id, peer=str(session.peer), error=str(error), exc_info=error.__cause__)
            return error.reply
        return None
