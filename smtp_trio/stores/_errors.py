"""The errors of stores, each with the reply for the client."""

from __future__ import annotations

from ..protocol.replies import Reply


class StoreError(Exception):
    """A store could not be opened, or could not keep a message.

    ``reply`` is the reply for the client. The message of the exception and its cause are for the log: they contain
    paths.
    """

    reply: Reply = Reply(451, "Cannot store the message now; try again later", "4.3.0")


class UnusableStoreError(StoreError):
    """The store cannot be opened before a person has changed it, the program or the settings: to wait is useless."""


class StoreFullError(StoreError):
    """The device is full, or the quota is used up."""

    reply: Reply = Reply(452, "Insufficient system storage", "4.3.1")


class MessageTooBigError(StoreError):
    """The message is larger than the store can ever keep."""

    reply: Reply = Reply(552, "Message size exceeds what the store can hold", "5.3.4")


class MessageRejectedError(StoreError):
    """The application that a store passes messages to has refused the message for good.

    ``text`` is the text of the reply, if the application has given one.
    """

    reply: Reply = Reply(550, "The application refused the message", "5.7.1")

    def __init__(self, message: str, text: str = "") -> None:
        super().__init__(message)
        if text:
            self.reply = Reply(self.reply.code, text, self.reply.status)


class MessageNotFoundError(StoreError, LookupError):
    """The store has no message with this id."""


class NotSupportedError(StoreError):
    """This kind of store does not have the operation. A store that passes messages on, for example, cannot be read."""


class LeaseExpiredError(StoreError):
    """The lease of a delivery has expired, so that the message is delivered again. Nothing was changed."""


def primary_code(error: Exception) -> int:
    """Return the primary result code of an error of SQLite: its low octet (sqlite.org/rescode.html)."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF
