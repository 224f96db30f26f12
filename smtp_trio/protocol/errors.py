"""The exceptions of the protocol. The class identifies the side that made the mistake.

`LocalProtocolError` is raised for a mistake of the program that calls the core, `RemoteProtocolError` for a mistake of
the peer. A server answers most mistakes of its peer: those are raised as `BadCommandError`, which holds the reply.
"""

from __future__ import annotations

from typing import Any

from .replies import Reply


class SMTPError(Exception):
    """Base class of the exceptions of smtp_trio.

    ``result`` is set by the functions that send messages: the `smtp_trio.Result` of the message so far. A recipient
    without an outcome in it did not get the message. It is None for other functions.
    """

    result: Any = None
    connected: bool = True
    """False if the session with a server could not be opened. Then the error is not about a message: the server cannot be
    reached, has refused the connection or the login, or does not offer the TLS that is required.
    """

    @property
    def temporary(self) -> bool:
        """True if another attempt later may succeed and is safe (RFC 5321 4.2.1): for the recipients that have no
        outcome in ``result``, or one that is temporary itself.
        """
        return True


class ProtocolError(SMTPError):
    """A violation of the protocol. The two subclasses are for the two sides."""


class LocalProtocolError(ProtocolError):
    """The caller requested something that is not allowed in the present state. Nothing was sent and nothing changed."""

    @property
    def temporary(self) -> bool:
        """False: the same call will fail again."""
        return False


class NotOfferedError(LocalProtocolError):
    """The caller requested something that the server does not offer. Nothing was sent and nothing changed.

    ``status`` is the enhanced status code for a message that cannot be passed on because of that (RFC 3463 3).
    """

    def __init__(self, text: str, *, status: str = "5.6.3") -> None:
        super().__init__(text)
        self.status = status


class RemoteProtocolError(ProtocolError):
    """The peer sent something that is not SMTP or not in sequence."""


class BadCommandError(RemoteProtocolError):
    """A command that the core refuses. It must be answered with ``reply``: ``protocol.send_reply(exc.reply)``.

    ``close`` is true if the connection must be closed after the reply, because the end of the command is unknown or the
    peer does not speak SMTP. ``verb`` is the verb in upper case, or "" if the line has none. ``last`` is true if the
    command ends a message, so that in LMTP it has a reply for each recipient.
    """

    def __init__(self, reply: Reply, *, verb: str = "", close: bool = False, last: bool = False) -> None:
        super().__init__(f"{verb or 'line'}: {reply.code} {reply.text}")
        self.reply = reply
        self.verb = verb
        self.close = close
        self.last = last

    @property
    def temporary(self) -> bool:
        """True for a 4yz reply (RFC 5321 4.2.1)."""
        return self.reply.temporary


class BodyError(SMTPError):
    """The message that is being received cannot be accepted. What was read of it so far must be discarded.

    Reading the body raises it. A hook should let it propagate; the session then sends the right reply. ``reply`` is
    that reply, or None if the client is gone.
    """

    def __init__(self, reason: str, reply: Reply | None = None) -> None:
        super().__init__(reason)
        self.reply = reply

    @property
    def temporary(self) -> bool:
        """True for a 4yz reply (RFC 5321 4.2.1), and if the client is gone."""
        return self.reply is None or self.reply.temporary
