"""The grammar of rules as text: a table of the kinds of rules, and of the words that each consists of."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from attrs import NOTHING, Factory, fields, frozen

from ...policies import (
    ConnectionRate,
    ConnectionsPerPeer,
    Greylist,
    Layer,
    MessageRate,
    MessagesPerConnection,
    RecipientsPerMessage,
    Tarpit,
)
from . import values
from .policy import Policy, defaults_of
from .rule import ANYWHERE, Rule
from .rules import (
    Advertise,
    Answer,
    Close,
    Coalesce,
    Delay,
    Early,
    Extra,
    Garbage,
    Hang,
    Ignore,
    Omit,
    Replace,
    Reset,
    Throttle,
    Trickle,
)
from .values import Kind

#: The default of a word that is required.
REQUIRED = object()


@frozen
class Word:
    """A word of a rule that is the value of an attribute.

    :param before: the keyword before it; "" for a word that is recognized by its position.
    :param unit: a word that may follow it.
    :param default: the value of an absent word, if that differs from the default of the attribute.
    :param bare: whether ``before`` may be left out.
    """

    attribute: str
    kind: Kind
    before: str = ""
    unit: str = ""
    default: Any = None
    bare: bool = False

    @property
    def usage(self) -> str:
        """The syntax of the word for the documentation."""
        return " ".join(filter(None, (self.before, self.kind.name, self.unit)))


@frozen
class Row:
    """A kind of rule: its first word, its class, and the words that may follow."""

    word: str
    cls: type[Rule | Layer]
    words: tuple[Word, ...]
    description: str
    example: str
    #: The defaults of the attributes; those without a default are absent.
    defaults: dict[str, Any] = Factory(lambda self: defaults_for(self.cls), takes_self=True)

    @property
    def make(self) -> Callable[..., Rule | Policy]:
        """A function that makes a rule from its attributes."""
        cls: Any = self.cls
        return cls if issubclass(cls, Rule) else partial(Policy, cls)

    @property
    def settable(self) -> frozenset[str]:
        """The attributes of a rule that can be set."""
        return frozenset(each.name for each in fields(self.cls) if each.init)  # type: ignore[arg-type]  # attrs classes

    @property
    def in_server(self) -> bool:
        """True if the rule can act in a server; False for faults of clients."""
        return self.cls not in (Ignore, Early)

    def default(self, word: Word) -> object:
        """Return the value of an absent word, or REQUIRED."""
        return self.defaults.get(word.attribute, REQUIRED) if word.default is None else word.default

    @property
    def usage(self) -> str:
        """The syntax of the rule, with optional words in brackets."""
        shown = (each.usage if self.default(each) is REQUIRED else f"[{each.usage}]" for each in self.words)
        return " ".join((self.word, *shown))


def defaults_for(cls: type[Rule | Layer]) -> dict[str, Any]:
    """Return the defaults of the attributes of a rule, or of the arguments of a policy."""
    if issubclass(cls, Layer):
        return defaults_of(cls)
    return {each.name: each.default for each in fields(cls) if each.default is not NOTHING}


PLACE = Word("at", values.PLACE)
AT = Word("at", values.PLACE, before="at", default=ANYWHERE, bare=True)
WHERE = Word("at", values.PLACE, before="at")
AFTER = Word("after", values.SIZE, before="after", unit="octets")
SEGMENTS = Word("max_segments", values.NUMBER, before="max", unit="segments")
ENTRIES = Word("max_entries", values.NUMBER, before="entries")
PER = Word("seconds", values.TIME, before="per")
LIMIT = Word("limit", values.NUMBER)

GRAMMAR: tuple[Row, ...] = (
    Row("answer", Answer,
        (PLACE, Word("code", values.CODE), Word("text", values.TEXT), Word("status", values.STATUS, before="status")),
        "The server refuses with this reply.", 'answer RCPT 450 "Try later" status 4.2.0 twice for bob@example.org'),
    Row("delay", Delay, (PLACE, Word("seconds", values.TIME)),
        "The reply is sent late.", "delay DATA 5s"),
    Row("hang", Hang, (AT,),
        "The reply is never sent, and neither is anything after it.", "hang at DOT"),
    Row("close", Close, (AT, AFTER),
        "The connection is closed after this number of octets at this place.", "close at body after 4k octets"),
    Row("reset", Reset, (AT, AFTER),
        "The connection is reset, so that the client gets an error.", "reset at DATA"),
    Row("trickle", Trickle, (Word("octets", values.SIZE, unit="octets"), Word("seconds", values.TIME, before="every"),
        WHERE, SEGMENTS),
        "Replies are sent in segments of this number of octets.", "trickle 1 octet every 10ms"),
    Row("throttle", Throttle, (Word("rate", values.RATE), SEGMENTS),
        "A slow line, with this number of octets a second in both directions.", "throttle 300"),
    Row("coalesce", Coalesce, (Word("count", values.NUMBER), Word("within", values.TIME, before="within"), WHERE),
        "Several replies are sent in one segment.", "coalesce 3 within 200ms"),
    Row("replace", Replace, (PLACE, Word("octets", values.OCTETS)),
        "These octets are sent instead of the reply.", r'replace RCPT "299 what\r\n"'),
    Row("extra", Extra, (PLACE, Word("octets", values.OCTETS)),
        "These octets are sent after the reply.", r'extra MAIL "250 again\r\n"'),
    Row("garbage", Garbage, (PLACE, Word("octets", values.SIZE, unit="octets")),
        "Random octets are sent instead of the reply.", "garbage MAIL 64 octets"),
    Row("omit", Omit, (Word("keyword", values.KEYWORD),),
        "The reply to EHLO does not offer this extension.", "omit CHUNKING"),
    Row("advertise", Advertise, (Word("keyword", values.KEYWORD), Word("value", values.VALUE)),
        "The reply to EHLO offers this extension, even if the server does not support it.", "advertise SIZE 1000"),
    Row("ignore", Ignore, (PLACE,),
        "A client takes a refusal for a positive reply.", "ignore RCPT"),
    Row("early", Early, (PLACE,),
        "A client does not wait for the reply.", "early DATA"),
    Row("greylist", Greylist, (Word("seconds", values.TIME), Word("forget", values.TIME, before="forget"),
        Word("remember", values.TIME, before="remember"), ENTRIES),
        "Reply 450 to each new client, sender and recipient for a time (RFC 6647).", "greylist 60s"),
    Row("message-rate", MessageRate, (LIMIT, PER, ENTRIES),
        "Reply 421 to a client that sends more messages within a time.", "message-rate 10 per 1m"),
    Row("connection-rate", ConnectionRate, (LIMIT, PER, ENTRIES),
        "Reply 421 to a client that connects more often within a time.", "connection-rate 5 per 1m"),
    Row("messages-per-connection", MessagesPerConnection, (LIMIT,),
        "Reply 421 to each further message of a connection.", "messages-per-connection 2"),
    Row("recipients-per-message", RecipientsPerMessage, (LIMIT,),
        "Reply 452 to each further recipient of a message.", "recipients-per-message 10"),
    Row("connections-per-peer", ConnectionsPerPeer, (LIMIT,),
        "Reply 421 to a client that has more connections open.", "connections-per-peer 3"),
    Row("tarpit", Tarpit, (Word("seconds", values.TIME), Word("limit", values.TIME, before="limit"),
        Word("max_sessions", values.NUMBER, before="sessions")),
        "Delay each reply by a time for each refusal before it.", "tarpit 2s limit 10s"),
)  # fmt: skip

#: The rows by their first word, and by class.
BY_WORD = {row.word: row for row in GRAMMAR}
BY_CLASS: dict[type, Row] = {row.cls: row for row in GRAMMAR}
#: The kinds of rules that act in a server.
SERVER_KINDS = tuple(row.word for row in GRAMMAR if row.in_server)
#: The modifiers that may follow the words of a rule; a policy can have only those of the scope.
ALWAYS = ", ".join(row.word for row in GRAMMAR if row.defaults.get("times") == 0)
RULE_MODIFIERS = (
    ("nth N", "The rule acts from the Nth occasion on."),
    (
        "once, twice, N times, always",
        f"The number of times that the rule acts. The default is once, and always for {ALWAYS}.",
    ),
    ("by client", "The side with the fault is the client; only for Python scripts."),
)
SCOPE_MODIFIERS = (
    ("for RECIPIENT", "The rule applies only to this recipient: an address, @DOMAIN, or a pattern with ``*``."),
    ("from CLIENT", "The rule applies only to this client: an address, a network, or its name in EHLO."),
)
