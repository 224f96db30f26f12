"""What the log says of a message: one line, or one JSON object. Whatever a peer said of itself is cleared of controls first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attrs import asdict, frozen

from ..protocol import BadCommandError, Command, Mail, Rcpt, Reply
from ..protocol.syntax import parse_argument

if TYPE_CHECKING:
    from .._types import Envelope
    from .session import Session

#: Where a store leaves its own id for a message, in ``Envelope.context``.
STORED = "smtp_trio.store_id"


def clean(text: str) -> str:
    """Text that does no harm in a log or on a terminal."""
    return "".join(char if char.isprintable() else "?" for char in text)


@frozen
class MessageRecord:
    """One message, or one refusal on the way to it. ``seconds`` is what its data took."""

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
        session: Session,
        command: Command | BadCommandError,
        reply: Reply | None,
        envelope: Envelope | None,
        size: int,
        seconds: float,
    ) -> MessageRecord:
        """The note about a session's command, answered so; None: the peer was gone before it could be."""
        recipients = envelope.recipients if envelope is not None else ()
        if isinstance(command, Rcpt):  # the one that was refused
            recipients = (command.recipient,)
        mail = command if isinstance(command, Mail) else envelope.mail if envelope is not None else None
        sender, to = mail.sender.raw if mail is not None else "", tuple(path.raw for path in recipients)
        if isinstance(command, BadCommandError) and command.argument:
            parts = parse_argument(command.argument)
            address = parts[1].strip("<>") if parts is not None else command.argument
            sender, to = (address, to) if command.verb == "MAIL" else (sender, (address,))
        return cls(
            time=session.server.now().isoformat(timespec="milliseconds"),
            id=envelope.id if envelope is not None else session.id,
            peer=str(session.peer),
            helo=clean(session.hello.domain) if session.hello is not None else "",
            protocol=session.protocol_name,
            tls=session.tls.version if session.tls is not None else "",
            user=clean(session.user or ""),
            sender=sender,
            to=to,
            size=size,
            reply=clean(str(reply)) if reply is not None else "no answer: the client is gone",
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
        """The note as one JSON object."""
        import json  # here, since most logs are for people

        fields: dict[str, Any] = asdict(self)
        return json.dumps(fields, ensure_ascii=False)
