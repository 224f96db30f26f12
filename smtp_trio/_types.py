"""The small values that a server hands out."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any, Literal

import trio
from attrs import define, field, frozen

from .protocol import Mail, Params, Path, Rcpt
from .protocol.extensions.eightbitmime import BODY
from .protocol.extensions.smtputf8 import SMTPUTF8

if TYPE_CHECKING:
    import ssl


@define
class Peer:
    """One end of a connection. ``port`` is None for what has none. A `Hooks.connect` hook may set ``name``, from DNS say."""

    host: str
    port: int | None
    kind: Literal["tcp", "unix", "memory"]
    name: str | None = None

    def __str__(self) -> str:
        if self.port is None:
            return self.host or self.kind
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@frozen
class TlsInfo:
    """What TLS agreed on: ``version`` is "TLSv1.3", say.

    For a client, ``verified`` tells whether the server's certificate is one for its name, and ``problem`` why not. It is no error
    where TLS is opportunistic (RFC 7435).
    """

    version: str
    cipher: str
    bits: int
    verified: bool = False
    problem: str | None = None

    @classmethod
    def of(cls, stream: trio.SSLStream[Any], *, verified: bool = False, problem: str | None = None) -> TlsInfo:
        """The facts of a stream whose handshake is done."""
        ssl_object: ssl.SSLObject = stream  # type: ignore[assignment]  # SSLStream forwards these to its SSLObject
        cipher = ssl_object.cipher() or ("", "", 0)
        return cls(ssl_object.version() or "", cipher[0], cipher[2], verified, problem)


@frozen
class Envelope:
    """Who sends one message to whom, as far as it was accepted so far.

    ``id`` names the transaction: in ``Received``, in the log, in stores, and in the reply that accepts it. ``context`` is a dict that
    is yours until it ends.
    """

    id: str
    mail: Mail
    rcpts: tuple[Rcpt, ...] = ()
    context: dict[Any, Any] = field(factory=dict, eq=False)

    @property
    def sender(self) -> Path:
        """The reverse-path; null for mail about mail."""
        return self.mail.sender

    @property
    def recipients(self) -> tuple[Path, ...]:
        """The accepted recipients, in order."""
        return tuple(rcpt.recipient for rcpt in self.rcpts)

    @property
    def params(self) -> Params:
        """The parameters of MAIL; those of RCPT are in ``rcpts``."""
        return self.mail.params

    @property
    def smtputf8(self) -> bool:
        """Mailboxes and header fields may be UTF-8 (RFC 6531)."""
        return SMTPUTF8 in self.mail.params

    @property
    def body(self) -> str:
        """What the client declared: "7BIT", "8BITMIME" or "BINARYMIME" (RFC 6152, RFC 3030)."""
        return self.mail.params.get(BODY, "7BIT")


class MessageState(enum.Enum):
    """What became of a session's last message. There is nothing in between."""

    NOT_TAKEN = "no 2yz was given for it"
    ACKNOWLEDGED = "the 2yz was handed whole to the stream"
    UNACKNOWLEDGED = "the hook has it, but the 2yz could not be written: the client may send it again (RFC 1047)"


@frozen
class Statistics:
    """What a server has done so far: a snapshot.

    ``messages`` were accepted, with ``bytes`` octets in all; ``refused`` counts messages too. ``commands`` are those that came in,
    between messages; ``errors`` are the commands that the core refused, and the failures of hooks and sessions.
    """

    sessions_open: int = 0
    sessions_total: int = 0
    messages: int = 0
    bytes: int = 0
    refused: int = 0
    commands: int = 0
    errors: int = 0


@define
class Counts:
    """What goes into `Statistics` while it is being counted."""

    sessions_total: int = 0
    messages: int = 0
    bytes: int = 0
    refused: int = 0
    commands: int = 0
    errors: int = 0


@frozen
class Drained:
    """What `Server.stop` did to the sessions that were open: ended by themselves, were idle and told 421, or had to be cancelled."""

    finished: int = 0
    idle: int = 0
    cancelled: int = 0
