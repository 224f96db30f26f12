"""The log: the table of its events, and how their values are written."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from string import Formatter

from attrs import Factory, field, frozen

from ..protocol.lazy import lazy_pattern
from .trace_context import trace_id

# How the log is made
#
# Everything that the package logs is an event of the table below; nothing else in the package calls a logger. An event
# has a name, a level, a logger, and a text whose placeholders are its fields. A record of an event is written in two
# formats from the same fields: as a line of text (the text with the values filled in), and as a JSON object (`as_json`)
# with a member for each field. A new field is therefore a new placeholder, and both formats have it.
#
# Clients choose many of the values: addresses, the name in EHLO, whole command lines. A reader of the log, person or
# program, must be able to tell what the server wrote and what a client sent, so:
#
# * In text a value that contains anything but visible characters other than ``"``, ``\``, ``=`` and ``,`` is written
#   in quotes, with the escapes of JSON. Such a value cannot end early and continue as another field or another line.
# * An absent value is ``-`` in text and null in JSON. The text "-" is written in quotes.
# * An address is written in angle brackets, so ``<>`` is the null reverse-path (RFC 5321 4.5.5) and nothing else.
# * JSON is ASCII. In text, characters that are printable stay, since people read it; control characters, line
#   separators, format characters (which can reverse the direction of the text) and unassigned ones are escaped.
# * Values are cut at `MAX_LENGTH` characters, and those of clients at `MAX_CLIENT_LENGTH`, with a note of how many are
#   missing.

#: The number of characters after which a value is cut.
MAX_LENGTH = 1000
#: The same for a `ClientText`. A path has at most 256 octets (RFC 5321 4.5.3.1.3).
MAX_CLIENT_LENGTH = 256
#: The same for a traceback.
MAX_TRACEBACK = 50_000
#: A value that is written as it is, if it is also printable.
BARE = lazy_pattern(r'[^\s"\\=,]+')
#: The same for ASCII. Nearly every value is of this form, which takes one search to find out.
COMMON = lazy_pattern(r"[!#-+\--<>-\[\]-~]+")

#: A value of a field. None means that it is absent.
Value = str | int | float | Sequence[str] | None


class ClientText(str):
    """A value that a client has chosen."""

    __slots__ = ()


class Address(ClientText):
    """A mailbox without its brackets; "" is the null reverse-path."""

    __slots__ = ()


def max_length(value: str) -> int:
    """Return the number of characters after which this value is cut."""
    return MAX_CLIENT_LENGTH if isinstance(value, ClientText) else MAX_LENGTH


def cut(text: str, length: int = MAX_LENGTH) -> str:
    """Return ``text``, cut after ``length`` characters, as valid Unicode."""
    if len(text) > length:
        text = f"{text[:length]}[{len(text) - length} more]"
    if text.isascii():
        return text
    return text.encode("utf-8", "backslashreplace").decode()  # surrogates, as in a file name that is not UTF-8


def escape(text: str) -> str:
    r"""Return ``text`` with every character that is not printable replaced by its escape in JSON, such as ``\u2028``."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else to_json(char)[1:-1] for char in text)


def clean(text: str) -> str:
    """Return ``text`` with characters that are unsafe on a terminal replaced by "?"."""
    return "".join(char if char.isprintable() else "?" for char in text)


def to_json(value: object) -> str:
    """Return a value as JSON of printable ASCII characters."""
    import json  # imported here because the first event that needs it may never come

    return json.dumps(value).replace("\x7f", "\\u007f")  # the one control character that JSON allows in a string


def quote(text: str) -> str:
    """Return a value as it is written in a line of text: in quotes, unless it cannot be mistaken for anything else."""
    if text != "-" and text.isprintable() and BARE.fullmatch(text):
        return text
    return '"' + escape(text.replace("\\", "\\\\").replace('"', '\\"')) + '"'


def as_text(value: Value) -> str:
    """Return the value of a field as it is written in a line of text."""
    if value is None:
        return "-"
    if isinstance(value, str):
        limit = max_length(value)
        common = len(value) <= limit and COMMON.fullmatch(value) is not None
        if isinstance(value, Address):
            return f"<{value}>" if common else quote(f"<{cut(value, limit)}>")
        return value if common and value != "-" else quote(cut(value, limit))
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, int):
        return str(value)
    return ",".join(map(as_text, value)) or "-"


def as_json(time: str, level: str, event: str, fields: Mapping[str, Value], traceback: str | None = None) -> str:
    """Return a record as a JSON object in one line."""
    values: dict[str, object] = {"time": time, "level": level, "event": event}
    for name, value in fields.items():
        if isinstance(value, str):
            values[name] = cut(value, max_length(value))
        elif isinstance(value, Sequence):
            values[name] = [cut(each, max_length(each)) for each in value]
        else:
            values[name] = value
    if traceback is not None:
        values["traceback"] = traceback
    return to_json(values)


@frozen(eq=False, repr=False)
class Entry:
    """The ``msg`` of a record: an event and its values. The text is made when a handler formats the record."""

    text: str
    fields: Mapping[str, Value]

    def __str__(self) -> str:
        return self.text.format_map({name: as_text(value) for name, value in self.fields.items()})


def placeholders(text: str) -> tuple[str, ...]:
    """Return the names of the placeholders in a text."""
    return tuple(name for _, name, _, _ in Formatter().parse(text) if name is not None)


@frozen(eq=False, repr=False)
class Event:
    """A kind of record. Its fields are the placeholders of ``text``.

    ``traceback`` is true if the record has an exception whose traceback is written too: the exception is a bug.
    """

    name: str
    level: int
    logger: logging.Logger = field(converter=logging.getLogger)
    text: str
    traceback: bool = False
    fields: tuple[str, ...] = Factory(lambda self: placeholders(self.text), takes_self=True)

    @property
    def enabled(self) -> bool:
        """True if a record of this event would be written."""
        return self.logger.isEnabledFor(self.level)

    def log(
        self,
        known: Mapping[str, Value] | None = None,
        /,
        *,
        as_level: int | None = None,
        exc_info: BaseException | None = None,
        **values: Value,
    ) -> None:
        """Log this event.

        :param known: the values of fields that are not among ``values``.
        :param as_level: the level, if it is not that of the event.
        :param exc_info: the exception whose traceback belongs to the record.
        :param values: the values of the fields, of which none may be missing.
        """
        level = self.level if as_level is None else as_level
        if self.logger.isEnabledFor(level):
            if known is not None:
                values.update(known)
            fields = {name: values[name] for name in self.fields}
            assert len(fields) == len(values), f"{self.name} has no field {', '.join(values.keys() - fields.keys())}"
            text = self.text
            if (trace := trace_id()) is not None:
                text, fields["trace"] = f"{text} trace={{trace}}", trace
            extra = {"event": self.name, "fields": fields}
            self.logger.log(level, Entry(text, fields), exc_info=exc_info, extra=extra, stacklevel=2)


# --- the events ---------------------------------------------------------------------------------------------------

DEBUG, INFO, WARNING, ERROR = logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR

CLI = "smtp_trio.cli"
LISTENING = Event("listening", INFO, CLI, "listening on {address}")
HTTP_LISTENING = Event("http_listening", INFO, CLI, "serving HTTP on {url}")
HTTP_EXPOSED = Event("http_exposed", INFO, CLI, "HTTP is open to other hosts on {address}")
INBOX_READY = Event("inbox_ready", INFO, CLI, "mail to {address} is shown at {url}")
STORING = Event("storing", INFO, CLI, "storing in {store}")
RELAYING = Event("relaying", INFO, CLI, "relaying from {store} to {destination}")
RELAY_STOPPED = Event(
    "relay_stopped",
    INFO,
    CLI,
    "relay stopped; recipients relayed: {relayed}, undelivered: {undelivered}; deferred: {deferred} times; reports: {reports}",
)
WAITING_FOR_STORE = Event("waiting_for_store", WARNING, CLI, "waiting for the store: {error}")
FEW_DESCRIPTORS = Event(
    "few_descriptors",
    WARNING,
    CLI,
    "at most {sessions} sessions, since this process may have only {descriptors} file descriptors (ulimit -n)",
)
ALL_DOMAINS_ACCEPTED = Event(
    "all_domains_accepted", WARNING, CLI, "--accept '*': mail for every domain is accepted; for development only"
)
ANY_LOGIN_ACCEPTED = Event(
    "any_login_accepted",
    WARNING,
    CLI,
    "--auth-accept-any: any password is accepted, also without TLS; for development only",
)
FAULTS_IN_USE = Event("faults_in_use", WARNING, CLI, "--fault: this server fails on purpose; for tests only")
STOPPING = Event("stopping", INFO, CLI, "{signal}: stopping")
STOPPED = Event(
    "stopped", INFO, CLI, "stopped; messages accepted: {messages}, refused: {refused}; sessions: {sessions}"
)
RELOADING = Event(
    "reloading",
    INFO,
    CLI,
    "{signal}: reloading the certificate, the auth file, the recipients and the fault rules, if configured",
)
LINES_DROPPED = Event(
    "lines_dropped", WARNING, CLI, "{count} lines of the log are missing here, because it was not read in time"
)
RELOAD_FAILED = Event("reload_failed", ERROR, CLI, "{signal}: {error}; the previous one stays in use")

WORKERS = "smtp_trio.workers"
START_FAILED = Event("start_failed", ERROR, WORKERS, "cannot start: {error}")
WORKER_STARTED = Event("worker_started", INFO, WORKERS, "worker {worker}: process {pid}")
WORKER_ENDED = Event(
    "worker_ended", WARNING, WORKERS, "worker {worker} ended: signal={signal} exit_code={exit_code} error={error}"
)
WORKER_KILLED = Event("worker_killed", ERROR, WORKERS, "worker {worker}: killed, because it did not end in time")
WORKER_FAILED = Event(
    "worker_failed", ERROR, WORKERS, "worker {worker}: ended {times} times in a row just after its start; stopping"
)

SERVER = "smtp_trio.server"
NO_DATA_HOOK = Event(
    "no_data_hook", WARNING, SERVER, "{server}: no data hook is installed, so every message will be refused"
)
ACCEPT_FAILED = Event("accept_failed", ERROR, SERVER, "cannot accept connections: {error}; trying again every 0.1 s")
TOO_MANY_CONNECTIONS = Event("too_many_connections", INFO, SERVER, "peer={peer} refused: too many connections")
CONNECTIONS_OMITTED = Event(
    "connections_omitted", INFO, SERVER, "peer={peer} further refused connections, without a record each: {count}"
)
CONNECTIONS_IGNORED = Event(
    "connections_ignored", INFO, SERVER, "peer={peer} ignored until the end of the minute: it goes on connecting"
)
NO_PROXY_HEADER = Event(
    "no_proxy_header", INFO, SERVER, "peer={peer} closed, PROXY header: {error}; others since the last record: {count}"
)
UNEXPECTED_PROXY_HEADER = Event(
    "unexpected_proxy_header", INFO, SERVER, "{id} peer={peer} closed: a PROXY header is not expected from this address"
)
CONNECTED = Event("connected", DEBUG, SERVER, "{id} peer={peer} connected")
DISCONNECTED = Event("disconnected", DEBUG, SERVER, "{id} peer={peer} disconnected")
HOOK_FAILED = Event("hook_failed", ERROR, SERVER, "{id} peer={peer} {hook} hook failed: {error}", traceback=True)
HOOK_CANCELLED = Event(
    "hook_cancelled", ERROR, SERVER, "{id} peer={peer} {hook} hook did not end in time and was cancelled"
)
SESSION_FAILED = Event("session_failed", ERROR, SERVER, "{id} peer={peer} session failed: {error}", traceback=True)

SESSION = "smtp_trio.session"
COMMAND = Event("command", DEBUG, SESSION, "{id} peer={peer} line={line} reply={reply}")
TLS_FAILED = Event("tls_failed", INFO, SESSION, "{id} peer={peer} TLS handshake failed: {error}")
CLIENT_TEXT = "peer={peer} helo={helo} proto={protocol} tls={tls} user={user} seconds={seconds}"
CLIENT_ADDRESS = Event(
    "client_address", INFO, SESSION, "{id} peer={peer} connection_peer={connection_peer} address from {source}"
)
FORWARDED = Event(
    "forwarded",
    INFO,
    SESSION,
    "{id} peer={peer} forwards for name={name} addr={addr} port={port} proto={proto} helo={helo} ident={ident} source={source}",
)
CONNECTION_REFUSED = Event("connection_refused", INFO, SESSION, "{id} peer={peer} connection refused: reply={reply}")
TIMED_OUT = Event("timed_out", INFO, SESSION, "{id} timed out: " + CLIENT_TEXT)
LINE_ENDS_REPLACED = Event(
    "line_ends_replaced", INFO, SESSION, "{id} peer={peer} bare CR or LF in the message was replaced by CRLF"
)
REFUSALS_OMITTED = Event(
    "refusals_omitted", INFO, SESSION, "{id} peer={peer} further refusals, without a record each: {count}"
)
ENDED_BY_LIMIT = Event("ended_by_limit", INFO, SESSION, "{id} ended by a limit: " + CLIENT_TEXT + " limit={limit}")
NO_MESSAGE = Event("no_message", INFO, SESSION, "{id} no message: " + CLIENT_TEXT)

FAULT_ACTED = Event(
    "fault_acted", INFO, "smtp_trio.faults", "{id} peer={peer} fault {number} acts: rule={rule} times={times}"
)

MESSAGE = "smtp_trio.message"
MESSAGE_TEXT = (
    "peer={peer} helo={helo} proto={protocol} from={sender} to={to} size={size} seconds={seconds} tls={tls} "
    "user={user} stored={stored}"
)
ACCEPTED = Event("accepted", INFO, MESSAGE, "{id} accepted: " + MESSAGE_TEXT + " reply={reply}")
REFUSED = Event("refused", INFO, MESSAGE, "{id} refused: " + MESSAGE_TEXT + " reply={reply}")
INCOMPLETE = Event("incomplete", INFO, MESSAGE, "{id} incomplete: " + MESSAGE_TEXT + " reason={reason}")

CONSUMER_FAILED = Event(
    "consumer_failed", ERROR, "smtp_trio.stores", "{id} group={group} attempt={attempt} not handled: {error}"
)
CONSUMER_LATE = Event("consumer_late", WARNING, "smtp_trio.stores", "{id} group={group} result not recorded: {error}")
CONSUMER_INTERRUPTED = Event(
    "consumer_interrupted", ERROR, "smtp_trio.stores", "group={group} waits for the store: {error}"
)
CONSUMER_RESUMED = Event(
    "consumer_resumed", INFO, "smtp_trio.stores", "group={group} goes on: the store responds again"
)
STORE_OPENED = Event("store_opened", INFO, "smtp_trio.stores", "{store} opened: {guarantee}")
STORE_SETTING = Event("store_setting", WARNING, "smtp_trio.stores", "{store}: {warning}")
STORE_INTERRUPTED = Event(
    "store_interrupted",
    ERROR,
    "smtp_trio.stores",
    "{store} does not respond, so messages get 451 until it does: {error}",
)
STORE_RESUMED = Event("store_resumed", INFO, "smtp_trio.stores", "{store} responds again")
NOT_CONSUMED = Event("not_consumed", WARNING, "smtp_trio.stores", "{path} not delivered to a consumer: {error}")
FILE_SKIPPED = Event("file_skipped", WARNING, "smtp_trio.stores", "{path} skipped: {error}")
NOT_STORED = Event("not_stored", ERROR, "smtp_trio.stores", "{id} peer={peer} not stored: {error}")
WATCHER_FAILED = Event(
    "watcher_failed", ERROR, "smtp_trio.stores", "{id} stored, but a watcher failed: {error}", traceback=True
)
MESSAGES_DROPPED = Event(
    "messages_dropped",
    INFO,
    "smtp_trio.stores",
    "{store} is full; the oldest messages were dropped: {messages}, with {octets} octets",
)
RECIPIENTS = "smtp_trio.recipients"
RECIPIENTS_FAILED = Event(
    "recipients_failed", ERROR, RECIPIENTS, "cannot look up recipients, which get 451 until this works: {error}"
)
RECIPIENTS_RESTORED = Event("recipients_restored", INFO, RECIPIENTS, "recipients can be looked up again: {source}")
ALIAS_FAILED = Event("alias_failed", ERROR, RECIPIENTS, "recipients get 451: {error}")

RELAY = "smtp_trio.relay"
RELAY_TEXT = "from={sender} to={to} attempt={attempt} age={age}"
RELAYED = Event("relayed", INFO, RELAY, "{id} relayed: " + RELAY_TEXT + " host={host} reply={reply}")
DEFERRED = Event(
    "deferred", INFO, RELAY, "{id} deferred: " + RELAY_TEXT + " host={host} retry_in={retry_in} reason={reason}"
)
UNDELIVERED = Event("undelivered", INFO, RELAY, "{id} undelivered: " + RELAY_TEXT + " host={host} reason={reason}")
REPORTED = Event("reported", INFO, RELAY, "{id} reported to its sender: report={report} actions={actions}")
NOT_REPORTED = Event("not_reported", ERROR, RELAY, "{id} report not stored, trying again: {error}")
GIVEN_UP = Event("given_up", WARNING, RELAY, "{id} is a dead letter: from={sender} reason={reason}")
RELAY_FAILED = Event(
    "relay_failed", ERROR, RELAY, "{id} attempt failed, trying again in {retry_in} s: {error}", traceback=True
)
DESTINATION_DOWN = Event("destination_down", ERROR, RELAY, "{destination} cannot be used: {error}; messages wait")
DESTINATION_UP = Event("destination_up", INFO, RELAY, "{destination} can be used again")
AUTH_FAILED = Event(
    "auth_failed",
    INFO,
    "smtp_trio.auth",
    "{id} peer={peer} authentication failed for {user}: mechanism={mechanism} reply={reply}",
)

HTTP = "smtp_trio.web"
HTTP_FAILED = Event("http_failed", ERROR, HTTP, "HTTP {request} failed: {error}", traceback=True)
HTTP_AUTH_FAILED = Event("http_auth_failed", INFO, HTTP, "peer={peer} HTTP authentication failed for {user}")
HTTP_ENDED = Event("http_ended", ERROR, HTTP, "HTTP is not served any more, mail is: {error}", traceback=True)

#: The events by name.
EVENTS: dict[str, Event] = {event.name: event for event in list(globals().values()) if isinstance(event, Event)}
