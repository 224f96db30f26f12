"""Whose fault was it? The exception's type says so.

``LocalProtocolError`` is a mistake of the program that calls the core; ``RemoteProtocolError`` is a mistake of the peer. A server
answers its peer's mistakes, so those it can answer arrive as `BadCommandError`, with the reply in hand.
"""

from __future__ import annotations

from .replies import Reply


class SMTPError(Exception):
    """The root of everything that smtp_trio raises on its own account."""


class ProtocolError(SMTPError):
    """Somebody broke the rules of the protocol; one of the two subclasses says who."""


class LocalProtocolError(ProtocolError):
    """The caller asked for something that is out of order here. Nothing was sent, nothing changed."""


class NotOfferedError(LocalProtocolError):
    """The caller asked for something that this server does not offer. Nothing was sent, nothing changed."""


class RemoteProtocolError(ProtocolError):
    """The peer sent something that is not SMTP, or not in order."""


class BadCommandError(RemoteProtocolError):
    """A command that the core refuses by itself. ``reply`` is what it must be answered with, by ``protocol.send(exc.reply)``.

    ``close`` is true when the connection cannot go on after the reply: framing is lost, or the peer does not speak SMTP at all.
    ``verb`` is the command's verb in upper case, or "" when the line held none. ``argument`` is the argument of a MAIL or RCPT, so
    that a log can say who was refused; "" for all others, which may hold secrets.
    """

    def __init__(self, reply: Reply, *, verb: str = "", close: bool = False) -> None:
        super().__init__(f"{verb or 'line'}: {reply.code} {reply.text}")
        self.reply = reply
        self.verb = verb
        self.argument = ""
        self.close = close


class BodyError(SMTPError):
    """The message that was under way will not end well, so what was read of it so far must not be kept.

    It is raised from a pull of the body. A hook lets it pass: the session knows the right answer, and gives it.
    ``reply`` is that answer, or None when nobody is left to be answered.
    """

    def __init__(self, reason: str, reply: Reply | None = None) -> None:
        super().__init__(reason)
        self.reply = reply
