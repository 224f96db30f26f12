"""`MessageRecord`: one message, or one refusal, in the mail log, as a line of text or as a JSON object."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attrs import asdict, frozen

from ..protocol import BadCommandError, Command, Mail, Rcpt, Reply
from ..protocol.syntax import parse_argument

if TYPE_CHECKING:
    from datetime import datetime

    from .._types import Envelope, Peer, TlsInfo
    from ..protocol import Hello

#: The key in ``Envelope.context`` under which a store leaves its own id for a message.
STORED = "smtp_trio.store_id"


def clean(text: str) -> str:
    """Return ``text`` with characters that are unsafe in a log or on a terminal replaced by "?"."""
    return "".join(char if char.isprintable() else "?" for char in text)


# There is one record for each message that was received, whether it was accepted or not, and one for each MAIL, RCPT or
# DATA that was refused: a postmaster has to be able to find out why a message did not arrive. A refused RCPT may be one
# of several, so a message can have records with both results, which share the id of the transaction.


@frozen
class MessageRecord:
    """One message, or one refusal that prevented a message. ``seconds`` is the time from DATA or BDAT to the reply.

    Control characters are removed from everything that the client sent, since it could forge lines of the log
    otherwise.
    """

    time: str
    id: str
    peer: str
    helo: str
    protocol: str
    tls: str
    user: str
    sender: str
    to: tuple[str, ...]
    size: int
    reply: str
    stored: str
    seconds: float

    @classmethod
    def of(
        cls,
        command: Command | BadCommandError,
        reply: Reply | None,
        envelope: Envelope | None,
        *,
        time: datetime,
        session_id: str,
        peer: Peer,
        hello: Hello | None,
        protocol: str,
        tls: TlsInfo | None,
        user: str | None,
        size: int = 0,
        seconds: float = 0.0,
    ) -> MessageRecord:
        """Return the record of ``command`` and its ``reply``.

        :param reply: None when the client disconnected before it was sent.
        :param envelope: the transaction, as far as it was accepted; None when MAIL was refused.
        :param size: octets of the message that were received.
        """
        recipients = envelope.recipients if envelope is not None else ()
        if isinstance(command, Rcpt):  # a refused one, so it is not in the envelope
            recipients = (command.recipient,)
        mail = command if isinstance(command, Mail) else envelope.mail if envelope is not None else None
        sender, to = mail.sender.raw if mail is not None else "", tuple(path.raw for path in recipients)
        if isinstance(command, BadCommandError) and command.argument:
            parts = parse_argument(command.argument)
            address = parts[1].strip("<>") if parts is not None else command.argument
            sender, to = (address, to) if command.verb == "MAIL" else (sender, (address,))
        return cls(
            time=time.isoformat(timespec="milliseconds"),
            id=envelope.id if envelope is not None else session_id,
            peer=str(peer),
            helo=clean(hello.domain) if hello is not None else "",
            protocol=protocol,
            tls=tls.version if tls is not None else "",
            user=clean(user or ""),
            sender=sender,
            to=to,
            size=size,
            reply=clean(str(reply)) if reply is not None else "no reply: the client disconnected",
            stored=str(envelope.context.get(STORED, "")) if envelope is not None else "",
            seconds=round(seconds, 6),
        )

    def __str__(self) -> str:
        to = ",".join(f"<{clean(address)}>" for address in self.to)
        optional = {"tls": self.tls, "user": self.user, "stored": self.stored}
        return (
            f"{self.time} {self.id} peer={self.peer} helo={self.helo or '-'} proto={self.protocol} "
            f"from=<{clean(self.sender)}> to={to or '-'} size={self.size} seconds={self.seconds:.3f} "
            + "".join(f"{key}={value} " for key, value in optional.items() if value)
            + f'reply="{self.reply}"'
        )

    def json(self) -> str:
        """Return the record as one JSON object."""
        import json  # not at the top: most logs are text, and a server without them need not load it

        fields: dict[str, Any] = asdict(self)
        return json.dumps(fields, ensure_ascii=False)
