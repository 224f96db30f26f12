"""The commands of RFC 5321 as frozen values: what a client writes with ``encode`` a server reads with ``decode``.

`Connect` and `EndOfBody` are no commands on the wire, but they are questions that the server answers with a reply, so the dialogue
treats them as such: the greeting answers the first, and the reply to a message the second.
"""

from __future__ import annotations

import functools
from collections.abc import Collection
from typing import ClassVar, Self, TypeVar

from attrs import evolve, field, frozen

from . import replies, syntax
from .errors import BadCommandError
from .params import NO_PARAMS, KnownParams, Params, parse_params
from .replies import Reply

# RFC 5321 4.3.2: any command may be told these. 530 is RFC 4954 6 and RFC 3207 4; 451 is what a server in trouble can always say.
COMMON_CODES = frozenset({421, 451, 500, 501, 530})


@frozen
class Command:
    """A question from the client to the server.

    A command that adds no fields to those of its base adds ``__slots__ = ()``, and is as frozen a value as that.
    """

    verb: ClassVar[str] = ""
    #: RFC 2920 3.2: the answer may wait for others to share a write with.
    groupable: ClassVar[bool] = False
    #: The reply codes that this command may get besides `COMMON_CODES` (RFC 5321 4.3.2 and the RFCs of the extensions).
    codes: ClassVar[frozenset[int]] = frozenset()
    #: Name of the server's hook that answers it: ``async def hook(self, session, command) -> Reply | None``. None: it has none.
    hook: ClassVar[str | None] = None
    #: Reply when the command has no hook, or its hook returned None. The default, 502, means that the hook alone serves the
    #: command: without it a server neither offers the command nor accepts it.
    default_reply: ClassVar[Reply] = replies.NOT_IMPLEMENTED
    #: RFC 2034 3: answers to this one carry an enhanced status, unless they are 3yz.
    enhanced: ClassVar[bool] = True
    #: It does no work; a session gets ``Limits.junk`` of such a message.
    junk: ClassVar[bool] = False
    #: How HELP shows it.
    usage: ClassVar[str] = ""
    #: What follows it is no longer SMTP in the clear: nothing may be waiting behind it (RFC 3207 4.2).
    starts_tls: ClassVar[bool] = False
    #: It is a `CountedCommand`.
    counted: ClassVar[bool] = False

    @classmethod
    def is_implemented(cls, hooks: Collection[str]) -> bool:
        """Return whether a server with these hooks serves the command: with its default reply, or with its hook."""
        return cls.default_reply.code != replies.NOT_IMPLEMENTED.code or cls.hook in hooks

    def encode(self) -> str:
        """The command as a line, without its CRLF."""
        return self.verb

    @property
    def redacted(self) -> Command:
        """The command without what nobody but the peer should see: what goes into exceptions."""
        return self

    def add_status(self, reply: Reply) -> Reply:
        """The reply with the status that is usual here, if it has none of its own: a 250 says 2.1.5 to RCPT, say."""
        if reply.status is None and reply.code == self.default_reply.code:
            return evolve(reply, status=self.default_reply.status)
        return reply

    @classmethod
    def decode(cls, argument: str, known_params: KnownParams) -> Command:
        """The command that this argument makes. Raises `BadCommandError` with the reply that a bad one gets."""
        # RFC 5321 4.3.2: a command that takes no argument is told 501 when it gets one. Trailing white space SHOULD be
        # tolerated (4.1.1).
        if argument.strip(" \t"):
            raise BadCommandError(Reply(501, f"{cls.verb} takes no argument", "5.5.4"))
        return cls()


@frozen
class CountedCommand(Command):
    """A command with ``size`` octets of the message behind its line, whatever its answer. ``last``: the message ends with them."""

    size: int

    counted = True
    default_reply: ClassVar[Reply] = replies.OK
    last: ClassVar[bool] = False


class Connect(Command):
    """The client has connected; the greeting is the answer (RFC 5321 3.1)."""

    __slots__ = ()

    verb = "CONNECT"
    enhanced = False
    codes: ClassVar[frozenset[int]] = frozenset({220, *range(400, 460), *range(500, 560)})
    default_reply: ClassVar[Reply] = Reply(220, "ESMTP", "")


@frozen
class Hello(Command):
    """HELO or EHLO: the client says who it is (RFC 5321 4.1.1.1).

    ``domain`` is a domain or an address literal, as sent; text behind it, which some clients send, is dropped.
    """

    domain: str
    extended: ClassVar[bool] = True
    enhanced = False
    hook = "helo"
    codes: ClassVar[frozenset[int]] = frozenset({250, 502, 504, 550})
    default_reply: ClassVar[Reply] = replies.OK

    def encode(self) -> str:
        return f"{self.verb} {self.domain}"

    @classmethod
    def decode(cls, argument: str, known_params: KnownParams) -> Self:
        words = argument.split()
        if not words:
            raise BadCommandError(Reply(501, f"{cls.verb} needs your domain or address literal: {cls.usage}", "5.5.4"))
        if not words[0].isascii():  # RFC 6531 3.7.1 has A-labels here
            raise BadCommandError(Reply(501, "Domain must be ASCII; write it with A-labels (xn--)", "5.5.4"))
        # A domain that is none is no reason for refusal (RFC 5321 4.1.4); a hook may think otherwise.
        return cls(words[0])


class Ehlo(Hello):
    """EHLO: hello, and which extensions do you have? (RFC 5321 4.1.1.1)"""

    __slots__ = ()

    verb = "EHLO"
    usage = "EHLO domain"


class Helo(Hello):
    """HELO: hello, without extensions (RFC 5321 4.1.1.1)."""

    __slots__ = ()

    verb = "HELO"
    usage = "HELO domain"
    extended = False


@frozen
class Mail(Command):
    """MAIL FROM: begins a transaction and names its sender, the reverse-path (RFC 5321 4.1.1.2)."""

    sender: syntax.Path
    params: Params = NO_PARAMS

    verb = "MAIL"
    hook = "mail"
    usage = "MAIL FROM:<reverse-path> [parameters]"
    groupable = True
    codes: ClassVar[frozenset[int]] = frozenset({250, 450, 451, 452, 455, 503, 550, 552, 553, 555})
    default_reply: ClassVar[Reply] = replies.SENDER_OK

    def encode(self) -> str:
        return f"MAIL FROM:<{self.sender.raw}> {self.params.encode()}".rstrip(" ")

    @classmethod
    def decode(cls, argument: str, known_params: KnownParams) -> Mail:
        known = _plain_mail(argument) if argument.endswith(">") else None
        return known or _decode_path(cls, argument, known_params)


@frozen
class Rcpt(Command):
    """RCPT TO: adds a recipient, a forward-path (RFC 5321 4.1.1.3)."""

    recipient: syntax.Path
    params: Params = NO_PARAMS

    verb = "RCPT"
    hook = "rcpt"
    usage = "RCPT TO:<forward-path> [parameters]"
    groupable = True
    codes: ClassVar[frozenset[int]] = frozenset({250, 251, 450, 451, 452, 455, 503, 550, 551, 552, 553, 555, 556})
    default_reply: ClassVar[Reply] = replies.RECIPIENT_OK

    def encode(self) -> str:
        return f"RCPT TO:<{self.recipient.raw}> {self.params.encode()}".rstrip(" ")

    @classmethod
    def decode(cls, argument: str, known_params: KnownParams) -> Rcpt:
        known = _plain_rcpt(argument) if argument.endswith(">") else None
        return known or _decode_path(cls, argument, known_params)


PathCommand = TypeVar("PathCommand", Mail, Rcpt)


def _decode_path(cls: type[PathCommand], argument: str, known_params: KnownParams) -> PathCommand:
    path, params = _split_path(cls, argument)
    return cls(path, parse_params(params, known_params) if params else NO_PARAMS)


def _without_params(cls: type[PathCommand], argument: str) -> PathCommand | None:
    path, params = _split_path(cls, argument)
    return None if params else cls(path)


@functools.lru_cache(maxsize=1024)
def _plain_mail(argument: str) -> Mail | None:
    """The command, if it has a path and no more. It is remembered: clients send from and to few addresses, again and again."""
    return _without_params(Mail, argument)


@functools.lru_cache(maxsize=1024)
def _plain_rcpt(argument: str) -> Rcpt | None:
    """As `_plain_mail`."""
    return _without_params(Rcpt, argument)


def _split_path(cls: type[Mail | Rcpt], argument: str) -> tuple[syntax.Path, str]:
    """The path of a MAIL or RCPT, and the text of its parameters."""
    parts = syntax.parse_argument(argument.rstrip(" \t"))
    word, status = ("FROM", "5.1.7") if cls is Mail else ("TO", "5.1.3")
    if parts is None or parts[0] != word:
        raise BadCommandError(Reply(501, f"Syntax: {cls.usage}", "5.5.4"))
    _, sent, path, params = parts
    if path is None:
        raise BadCommandError(Reply(501, f"Malformed address: {sent!a}", status))
    if path.is_null and cls is Rcpt:  # RFC 5321 4.1.1.3: Forward-path = Path; the null path is for senders
        raise BadCommandError(Reply(501, "A recipient cannot be <>", "5.1.3"))
    return path, params


class Data(Command):
    """DATA: the message follows, up to a line with a dot alone (RFC 5321 4.1.1.4)."""

    __slots__ = ()

    verb = "DATA"
    usage = "DATA"
    codes: ClassVar[frozenset[int]] = frozenset({354, 450, 451, 452, 503, 550, 552, 554})
    default_reply: ClassVar[Reply] = replies.START_MAIL_INPUT


class EndOfBody(Command):
    """The message has ended; the reply to this takes it over or refuses it (RFC 5321 4.1.1.4)."""

    __slots__ = ()

    verb = "end of data"
    codes: ClassVar[frozenset[int]] = frozenset({250, 450, 451, 452, 550, 552, 554})
    default_reply: ClassVar[Reply] = replies.OK

    def encode(self) -> str:
        return "."


END_OF_DATA = EndOfBody()


class Rset(Command):
    """RSET: forget the transaction, keep the session (RFC 5321 4.1.1.5)."""

    __slots__ = ()

    verb = "RSET"
    junk = True
    usage = "RSET"
    groupable = True
    codes: ClassVar[frozenset[int]] = frozenset({250})
    default_reply: ClassVar[Reply] = replies.OK


class Noop(Command):
    """NOOP: say that you are there; an argument is ignored (RFC 5321 4.1.1.9)."""

    __slots__ = ()

    verb = "NOOP"
    junk = True
    usage = "NOOP [ignored]"
    codes: ClassVar[frozenset[int]] = frozenset({250})
    default_reply: ClassVar[Reply] = replies.OK

    @classmethod
    def decode(cls, argument: str, known_params: KnownParams) -> Self:
        return cls()


class Quit(Command):
    """QUIT: say goodbye, and close (RFC 5321 4.1.1.10)."""

    __slots__ = ()

    verb = "QUIT"
    usage = "QUIT"
    codes: ClassVar[frozenset[int]] = frozenset({221})
    default_reply: ClassVar[Reply] = Reply(221, "Goodbye", "2.0.0")


@frozen
class Query(Command):
    """VRFY or EXPN: ask about a user or a list (RFC 5321 3.5). ``argument`` is as sent; ``params`` is what stands behind it."""

    argument: str
    params: Params = NO_PARAMS

    junk = True

    def encode(self) -> str:
        return f"{self.verb} {self.argument} {self.params.encode()}".rstrip(" ")

    @classmethod
    def decode(cls, argument: str, known_params: KnownParams) -> Self:
        name, params = argument.strip(" \t"), NO_PARAMS
        # RFC 6531 3.7.4.2: SMTPUTF8 is the one parameter there is, and it stands last.
        head, _, last = name.rpartition(" ")
        if head and last.upper() in known_params:
            name, params = head.rstrip(), parse_params(last, known_params)
        if not name:
            raise BadCommandError(Reply(501, f"Syntax: {cls.usage}", "5.5.4"))
        return cls(name, params)


class Vrfy(Query):
    """VRFY: is this a user of yours? (RFC 5321 4.1.1.6)"""

    __slots__ = ()

    verb = "VRFY"
    hook = "vrfy"
    usage = "VRFY user or mailbox"
    codes: ClassVar[frozenset[int]] = frozenset({250, 251, 252, 502, 504, 550, 551, 553})
    default_reply: ClassVar[Reply] = replies.CANNOT_VRFY


class Expn(Query):
    """EXPN: who is on this list? (RFC 5321 4.1.1.7)"""

    __slots__ = ()

    verb = "EXPN"
    hook = "expn"
    usage = "EXPN list"
    codes: ClassVar[frozenset[int]] = frozenset({250, 252, 502, 504, 550})


@frozen
class Help(Command):
    """HELP: what can you do, or how does this command go? (RFC 5321 4.1.1.8)"""

    topic: str = field(default="")

    verb = "HELP"
    hook = "help"
    junk = True
    usage = "HELP [command]"
    codes: ClassVar[frozenset[int]] = frozenset({211, 214, 502, 504})
    default_reply: ClassVar[Reply] = Reply(214, "Help", "2.0.0")

    def encode(self) -> str:
        return f"HELP {self.topic}".rstrip(" ")

    @classmethod
    def decode(cls, argument: str, known_params: KnownParams) -> Self:
        return cls(argument.strip(" \t"))


#: The verbs of RFC 5321 itself; extensions add theirs.
VERBS: dict[str, type[Command]] = {
    cls.verb: cls for cls in (Helo, Ehlo, Mail, Rcpt, Data, Rset, Noop, Quit, Vrfy, Expn, Help)
}
#: What is recognized and not served gets 502, not 500 (RFC 5321 4.2.4): verbs of old (F.6), and those of extensions that are off.
#: True: the connection ends there, since the octets of a BDAT that nobody reads the size of would be taken for commands.
UNSUPPORTED_VERBS: dict[str, bool] = {
    verb: verb == "BDAT" for verb in ("SEND", "SOML", "SAML", "TURN", "STARTTLS", "AUTH", "BDAT")
}
