"""`SessionLog`: what is logged about one session, its messages and its commands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

import trio

from ..protocol import BadCommandError, Command, Connect, EndOfData, Mail, Path, Rcpt
from ..protocol.syntax import ARGUMENT, normalize_space
from . import log_events
from .log_events import Address, ClientText, Value
from .recipient_replies import by_reply

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._types import Counts, Envelope, Peer, TlsInfo
    from ..protocol import Hello, Reply, ServerProtocol
    from .body_reader import BodyReader

#: The key in ``Envelope.context`` under which a store leaves its own id for a message.
STORED = "smtp_trio.store_id"
#: Verbs whose refusal is logged, since it prevented a message.
LOGGED_REFUSALS = frozenset({"MAIL", "RCPT", "DATA", "BDAT", "BURL"})
#: How many refusals of a session have a record each. The number begins again with each accepted message.
MAX_REFUSALS = 50
#: What the log has in place of credentials and of the text of a message.
HIDDEN = "[hidden]"

# A postmaster has to be able to find out why a message did not arrive, and who connects to the server without sending
# any. So the log has, without debugging,
#
# - one record for each message, whether it was accepted, refused or cut off;
# - one for each MAIL, RCPT, DATA or BDAT that was refused. A refused RCPT may be one of several, so a message can have
#   records with both results, which share the id of the transaction;
# - one for each login that failed, since passwords may be guessed;
# - at least one for each session: without one about a message or a command, it is a refused connection, a failed TLS
#   handshake, a timeout, or `log_events.NO_MESSAGE`;
# - one for a session that a limit has ended, with the name of the limit.
#
# A client that is refused again and again must not fill the log, so only the first MAX_REFUSALS of a session have a record
# each, and one record has the number of the others.
#
# The counters of all these change together with the records, so that they agree.
#
# With DEBUG there is one record for each reply, with the line that it answers as it was received. Credentials must not
# be in it, nor the text of messages. AUTH and the lines of its exchange are recognized by their class. But a client
# whose AUTH was refused may go on with a password, and one whose DATA was refused with the message: those look like
# commands that do not exist. From then on, the lines of such commands are hidden.


class LoggedSession(Protocol):
    """The part of a `Session` that a `SessionLog` uses."""

    peer: Peer
    connection_peer: Peer
    tls: TlsInfo | None

    @property
    def hello(self) -> Hello | None: ...
    @property
    def user(self) -> str | None: ...
    @property
    def protocol_name(self) -> str: ...


class SessionLog:
    """Logs what happens in one session."""

    __slots__ = (
        "_began",
        "_counts",
        "_id",
        "_level",
        "_logged",
        "_protocol",
        "_refusals",
        "_reveals_text",
        "_session",
        "debug",
    )

    def __init__(self, session_id: str, session: LoggedSession, protocol: ServerProtocol, counts: Counts) -> None:
        self._id = session_id
        self._session = session
        self._protocol = protocol
        self._counts = counts
        #: Commands and replies are logged. Looked up once, since each command needs it.
        self.debug: bool = log_events.COMMAND.enabled
        self._level: int | None = None  # instead of INFO, for records about the session as a whole
        self._began = trio.current_time()
        self._logged = False  # there is a record about this session above DEBUG
        self._refusals = 0  # since the last accepted message
        self._reveals_text = False  # an unknown command may be a password or a part of a message

    @property
    def peer(self) -> str:
        """The client's address."""
        return str(self._session.peer)

    @property
    def seconds(self) -> float:
        """The time since the session began."""
        return trio.current_time() - self._began

    # --- the session ------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Log that the client has connected."""
        if log_events.CONNECTED.enabled:
            log_events.CONNECTED.log(id=self._id, peer=self.peer)

    def proxied(self, *, health_check: bool) -> None:
        """Log that a balancer has named the client, or that it names none, as for a health check.

        Such checks come every few seconds, so what is logged about each session, if nothing else is, has the level DEBUG.
        """
        if health_check:
            self._level = log_events.DEBUG
        else:
            self.address_changed("PROXY header")

    def address_changed(self, source: str) -> None:
        """Log that ``session.peer`` is not the peer of the connection any more."""
        connection_peer = str(self._session.connection_peer)
        log_events.CLIENT_ADDRESS.log(id=self._id, peer=self.peer, connection_peer=connection_peer, source=source)

    def forwarded(self, attributes: Mapping[str, str | None]) -> None:
        """Log the attributes of an XFORWARD."""
        from ..protocol.extensions.xforward import NAMES

        fields = {name.lower(): client_text(attributes.get(name)) for name in NAMES}
        log_events.FORWARDED.log(fields, id=self._id, peer=self.peer)

    def unexpected_proxy_header(self) -> None:
        """Log that the client has sent a PROXY header, which it must not."""
        log_events.UNEXPECTED_PROXY_HEADER.log(id=self._id, peer=self.peer)

    def connection_refused(self, reply: Reply) -> None:
        """Count and log that the `connect` hook has refused the client."""
        self._logged = True
        self._counts.connections_refused += 1
        self._count_refusal("connect", reply)
        log_events.CONNECTION_REFUSED.log(id=self._id, peer=self.peer, reply=str(reply))

    def auth_failed(self, mechanism: str | None, user: str | None, reply: Reply) -> None:
        """Count and log a failed login. Values that are still unknown when it ends are None."""
        self._counts.auth_failures += 1
        self._count_refusal("auth", reply)
        log_events.AUTH_FAILED.log(
            id=self._id,
            peer=self.peer,
            mechanism=mechanism,
            user=client_text(user),
            reply=str(reply),
        )

    def timed_out(self, *, in_message: bool) -> None:
        """Count and log that the client has been silent for too long. A message has a record of its own (`cut_off`)."""
        self._counts.timeouts += 1
        if not in_message:
            self._logged = True
            self._log_client(log_events.TIMED_OUT)

    def tls_failed(self, error: Exception) -> None:
        """Count and log a TLS handshake that failed."""
        self._logged = True
        self._counts.tls_failures += 1
        text = str(error.__cause__ or type(error).__name__)
        log_events.TLS_FAILED.log(id=self._id, peer=self.peer, error=text, as_level=self._level)

    def tls_started(self, version: str) -> None:
        """Count a TLS handshake."""
        self._counts.tls_versions[version] += 1

    def end(self) -> None:
        """Log that the session has ended."""
        if self._refusals:
            self._end_refusals()
        if (limit := self._protocol.ended_by) is not None:
            self._log_client(log_events.ENDED_BY_LIMIT, limit=limit)
        elif not self._logged:
            self._log_client(log_events.NO_MESSAGE)
        if log_events.DISCONNECTED.enabled:
            log_events.DISCONNECTED.log(id=self._id, peer=self.peer)

    # --- messages and refusals --------------------------------------------------------------------------------------

    def message(self, body: BodyReader, reply: Reply, replies: Sequence[Reply] = ()) -> None:
        """Count a message that was received to its end, or was refused before, and log its reply.

        With ``replies``, one for each recipient, there is a record for each different one, with its recipients.
        """
        if reply.accepted:
            self._counts.messages += 1
            self._counts.bytes += body.size
            if self._refusals:
                self._end_refusals()
        for each, recipients in by_reply(replies) if replies else ((reply, None),):
            if each.accepted:
                self._log_message(log_events.ACCEPTED, body, reply=each, recipients=recipients)
            else:
                self._counts.refused += 1
                self._count_refusal("message", each)
                self._log_message(log_events.REFUSED, body, reply=each, recipients=recipients)

    def cut_off(self, body: BodyReader) -> None:
        """Count and log a message that gets no reply, since its end was not received."""
        self._counts.incomplete += 1
        self._log_message(log_events.INCOMPLETE, body)

    def refusal(self, command: Command | BadCommandError, reply: Reply, envelope: Envelope | None) -> None:
        """Count the refusal of a command, and log it if it is one that prevents a message."""
        if command.verb in LOGGED_REFUSALS:
            self._counts.refused += 1
            self._count_refusal(command.verb.lower(), reply)
            self._log_message(log_events.REFUSED, None, command, envelope, reply)
        elif command.verb != "AUTH":  # which `auth_failed` counts
            self._count_refusal("other", reply)

    def _count_refusal(self, stage: str, reply: Reply) -> None:
        self._counts.refusals[f"{stage} {reply.code}"] += 1

    def _log_message(
        self,
        event: log_events.Event,
        body: BodyReader | None,
        command: Command | BadCommandError | None = None,
        envelope: Envelope | None = None,
        reply: Reply | None = None,
        recipients: Sequence[int] | None = None,
    ) -> None:
        """Log an event of the mail log, about the message in ``body`` or the refused ``command``.

        ``recipients`` are the numbers of those that a reply is for; None for all of them.
        """
        self._logged = True
        if event is log_events.REFUSED:
            self._refusals += 1
            if self._refusals > MAX_REFUSALS:
                return
        if not event.enabled:
            return
        fields = envelope_fields(envelope if body is None else body.envelope)
        if command is not None:
            fields |= self._refused_fields(command)
        if body is not None and recipients is not None:
            fields["to"] = [address(body.envelope.recipients[number]) for number in recipients]
        fields["id"] = fields.get("id", self._id)
        fields["size"] = 0 if body is None else body.size
        fields["seconds"] = 0.0 if body is None else round(trio.current_time() - body.began, 6)
        if reply is not None:
            fields["reply"] = str(reply)
        elif body is not None:
            fields["reason"] = body.end or "the session was cancelled"
        event.log(fields | self._client())

    def _end_refusals(self) -> None:
        """Log how many refusals have no record, and begin to count anew."""
        if self._refusals > MAX_REFUSALS:
            log_events.REFUSALS_OMITTED.log(id=self._id, peer=self.peer, count=self._refusals - MAX_REFUSALS)
        self._refusals = 0

    def _log_client(self, event: log_events.Event, **fields: Value) -> None:
        """Log an event about the whole session."""
        if event.enabled:
            event.log(self._client() | fields, id=self._id, seconds=round(self.seconds, 6), as_level=self._level)

    def _client(self) -> dict[str, Value]:
        session = self._session
        return {
            "peer": self.peer,
            "helo": None if session.hello is None else client_text(session.hello.domain or None),
            "protocol": session.protocol_name,
            "tls": None if session.tls is None else session.tls.version,
            "user": client_text(session.user),
        }

    def _refused_fields(self, command: Command | BadCommandError) -> dict[str, Value]:
        """Return what a refused command has instead of the sender and the recipients of the envelope."""
        refused: str | None = None
        if isinstance(command, Mail):
            refused = address(command.sender)
        elif isinstance(command, Rcpt):
            refused = address(command.recipient)
        elif isinstance(command, BadCommandError):
            refused = path_of(self._protocol.line)
        if command.verb == Mail.verb:
            return {"sender": refused, "to": []}
        if command.verb == Rcpt.verb:
            return {"to": [] if refused is None else [refused]}
        return {}

    # --- commands ---------------------------------------------------------------------------------------------------

    def reply(self, command: Command | BadCommandError | None) -> None:
        """Log the line of a command, and the reply that was queued last, as it is sent.

        ``command`` is None for a reply that does not answer a command.
        """
        if self.debug:
            reply = self._protocol.outbox[-1]
            line = None if command is None else self._visible_line(command)
            log_events.COMMAND.log(id=self._id, peer=self.peer, line=line, reply=decode(reply.removesuffix(b"\r\n")))
            if command is not None and (command.verb == "AUTH" or (command.verb == "DATA" and reply >= b"4")):
                self._reveals_text = True

    def _visible_line(self, command: Command | BadCommandError) -> str | None:
        """Return the line of a command as it was received, without credentials and the text of messages."""
        line = decode(self._protocol.line)
        if isinstance(command, Connect):
            return None
        if isinstance(command, EndOfData):
            return "."
        if isinstance(command, Command):
            redacted = command.redacted
            return line if redacted == command else f"{redacted.encode()} {HIDDEN}".lstrip()
        if command.verb == "AUTH":
            return f"AUTH {HIDDEN}"
        if command.verb in self._protocol.grammar.verbs:
            return line
        return HIDDEN if self._reveals_text or "AUTH" in line.upper() else line


def decode(octets: bytes) -> str:
    r"""Return a line as text. Octets that are not UTF-8 become ``\x`` and two digits."""
    return octets.decode("utf-8", "backslashreplace")


def client_text(value: str | None) -> ClientText | None:
    """Return a value that a client has chosen; None if it is absent."""
    return None if value is None else ClientText(value)


def address(path: Path) -> Address:
    """Return the mailbox of a path, as the client sent it."""
    return Address(path.raw)


def path_of(line: bytes) -> str | None:
    """Return the path in a line with a MAIL or RCPT that the core refused.

    Return the whole argument if it has no path that can be recognized, and None without an argument.
    """
    argument = normalize_space(decode(line)).partition(" ")[2]
    match = ARGUMENT.fullmatch(argument)
    if match is None:
        return client_text(argument or None)
    return Address(match["path"].removeprefix("<").removesuffix(">"))


def envelope_fields(envelope: Envelope | None) -> dict[str, Value]:
    """Return the fields of a transaction, as far as it was accepted. Without a transaction they are empty or None."""
    if envelope is None:
        return {"sender": None, "to": [], "stored": None}
    return {
        "id": envelope.id,
        "sender": address(envelope.sender),
        "to": list(map(address, envelope.recipients)),
        "stored": envelope.context.get(STORED),
    }
