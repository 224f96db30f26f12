"""The commands of RFC 5321, as frozen values.

A client writes a command with ``encode``, and a server parses it with ``decode``.

`Connect` and `EndOfData` are not commands on the wire. They are defined as commands because the server answers them:
the greeting is the reply to the first, the final reply to a message is the reply to the second.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from typing import ClassVar, Self, TypeVar

from attrs import evolve, field, frozen

from . import replies, syntax
from .errors import BadCommandError
from .params import NO_PARAMS, KnownParams, Params, parse_params
from .replies import Reply
from .strictness import NORMAL, Strictness
from .values import Value

#: Parses the argument of a command, as `Command.decode` does.
Decoder = Callable[[str, KnownParams], "Command"]

#: The reply codes that are allowed for every command (RFC 5321 4.3.2). 530 is from RFC 4954 6 and RFC 3207 4. RFC 5321
#: lists 451 for some commands only; a server needs it for a local error in any of them.
COMMON_CODES = frozenset({421, 451, 500, 501, 530})


@frozen(eq=False, repr=False)
class Command(Value):
    """Base class of commands.

    A subclass without new fields must define ``__slots__ = ()``, so that its instances stay frozen.
    """

    verb: ClassVar[str] = ""
    #: Whether the reply may be held back and sent together with later ones (RFC 2920 3.2).
    groupable: ClassVar[bool] = False
    #: The reply codes that are allowed besides `COMMON_CODES` (RFC 5321 4.3.2 and the RFCs of the extensions).
    codes: ClassVar[frozenset[int]] = frozenset()
    #: The name of the server's hook for the command, ``async def hook(self, session, command) -> Reply | None``. None
    #: for commands without a hook.
    hook: ClassVar[str | None] = None
    #: The reply of a server without the hook, or whose hook returns None. 502, the default, means that the command is
    #: implemented by its hook alone: without the hook, the server neither offers nor accepts it.
    default_reply: ClassVar[Reply] = replies.NOT_IMPLEMENTED
    #: Whether replies other than 3yz carry an enhanced status code (RFC 2034 3).
    enhanced: ClassVar[bool] = True
    #: What the command counts towards ``Limits.work``: 0 for those that a message needs, which are limited otherwise.
    work: ClassVar[int] = 10
    #: What it counts in addition when the application refuses it.
    refusal_work: ClassVar[int] = 10
    #: The syntax, as HELP shows it.
    usage: ClassVar[str] = ""
    #: Whether TLS begins after the reply, so that the client must wait for it (RFC 3207 4.2).
    starts_tls: ClassVar[bool] = False
    #: Whether it is an extension's command that is allowed only after EHLO (RFC 5321 2.2.1).
    after_ehlo: ClassVar[bool] = True
    #: Whether the session begins anew after a positive reply, so that EHLO has to follow.
    restarts: ClassVar[bool] = False
    #: Whether the line states a number of octets that follow it: the class is a `CountedCommand`.
    counted: ClassVar[bool] = False

    @classmethod
    def is_implemented(cls, hooks: Collection[str]) -> bool:
        """Return whether a server with these hooks implements the command, by its default reply or by a hook."""
        return cls.default_reply.code != replies.NOT_IMPLEMENTED.code or cls.hook in hooks

    def encode(self) -> str:
        """Return the command line without its CRLF."""
        return self.verb

    @property
    def redacted(self) -> Command:
        """The command without its secrets, for exceptions and logs."""
        return self

    def add_status(self, reply: Reply) -> Reply:
        """Return ``reply`` with the enhanced status code of the default reply, if it has none and the codes are equal.

        So a hook that answers RCPT with ``Reply(250, "Welcome")`` sends the status 2.1.5 and not 2.0.0.
        """
        if reply.status is None and reply.code == self.default_reply.code:
            return evolve(reply, status=self.default_reply.status)
        return reply

    @classmethod
    def decode(cls, argument: str, known_params: KnownParams) -> Command:
        """Parse the argument. Raises `BadCommandError` with the reply to send if it is not valid.

        White space in ``argument`` has been normalized by `smtp_trio.protocol.syntax.normalize_space`: there are single
        spaces between the words.
        """
        if argument:  # RFC 5321 4.3.2
            raise BadCommandError(Reply(501, f"{cls.verb} takes no argument", "5.5.4"))
        return cls()

    @classmethod
    def decoder(cls, strictness: Strictness) -> Decoder:
        """Return the function that parses the argument in this mode: ``decode`` for commands that have no modes."""
        return cls.decode


@frozen(eq=False, repr=False)
class CountedCommand(Command):
    """A command whose line is followed by ``size`` octets of the message, whatever the reply will be.

    ``last`` is true if the message ends with them.
    """

    size: int

    counted = True
    #: Whether the application provides the octets, and none follow the line (`ServerProtocol.add_fetched`).
    fetched: ClassVar[bool] = False
    #: The reply to a part of a message that is not the last one.
    chunk_reply: ClassVar[Reply] = replies.OK
    work = 0  # small chunks are counted by `ServerProtocol`
    default_reply: ClassVar[Reply] = replies.OK
    last: ClassVar[bool] = False


class Connect(Command):
    """The client has connected. The reply is the greeting (RFC 5321 3.1)."""

    __slots__ = ()

    verb = "CONNECT"
    work = 0
    enhanced = False
    codes: ClassVar[frozenset[int]] = frozenset({220, *range(400, 460), *range(500, 560)})
    default_reply: ClassVar[Reply] = Reply(220, "ESMTP", "")


@frozen(eq=False, repr=False)
class Hello(Command):
    """HELO or EHLO (RFC 5321 4.1.1.1).

    ``domain`` is the client's domain or address literal, as sent. Further text on the line is ignored. A lenient server
    also accepts HELO without a name, or with one that is not ASCII; see `Strictness`.
    """

    domain: str
    extended: ClassVar[bool] = True
    enhanced = False
    hook: ClassVar[str | None] = "helo"
    codes: ClassVar[frozenset[int]] = frozenset({250, 502, 504, 550})
    default_reply: ClassVar[Reply] = replies.OK

    def encode(self) -> str:
        """Return the command line without its CRLF."""
        return f"{self.verb} {self.domain}"

    @classmethod
    def decode(cls, argument: str, known_params: KnownParams) -> Self:
        """Parse the argument. Raises `BadCommandError` if it is not valid."""
        return cls._decode(NORMAL, argument, known_params)

    @classmethod
    def decoder(cls, strictness: Strictness) -> Decoder:
        """Return the function that parses the argument in this mode."""
        return functools.partial(cls._decode, strictness)

    @classmethod
    def _decode(cls, strictness: Strictness, argument: str, known_params: KnownParams) -> Self:
        name, _, rest = argument.partition(" ")
        if not name and not strictness.missing_hello_name:
            raise BadCommandError(Reply(501, f"Domain or address literal missing, syntax: {cls.usage}", "5.5.4"))
        if not name.isascii():  # RFC 6531 3.7.1: only A-labels are allowed here
            if not strictness.non_ascii_hello_name:
                raise BadCommandError(Reply(501, "Domain must be ASCII; use A-labels (xn--)", "5.5.4"))
            name = syntax.parse_domain(name.rstrip(syntax.DOTS)) or ""
        # The name is not verified: RFC 5321 4.1.4 forbids refusing mail because that failed, and clients in the field
        # send all kinds of names. A hook may be stricter.
        if not strictness.invalid_hello_name and (rest or (name and not syntax.is_hello_name(name))):
            raise BadCommandError(Reply(501, f"Not a domain or an address literal, syntax: {cls.usage}", "5.5.4"))
        return cls(name)


class Ehlo(Hello):
    """EHLO: introduce the client and request the list of extensions (RFC 5321 4.1.1.1)."""

    __slots__ = ()

    verb = "EHLO"
    usage = "EHLO domain"


class Helo(Hello):
    """HELO: introduce the client without using extensions (RFC 5321 4.1.1.1)."""

    __slots__ = ()

    verb = "HELO"
    usage = "HELO domain"
    extended = False


@frozen(eq=False, repr=False)
class Mail(Command):
    """MAIL: begin a transaction with the reverse-path ``sender`` (RFC 5321 4.1.1.2)."""

    sender: syntax.Path
    params: Params = NO_PARAMS

    verb = "MAIL"
    work = 0
    hook: ClassVar[str | None] = "mail"
    usage = "MAIL FROM:<reverse-path> [parameters]"
    groupable = True
    codes: ClassVar[frozenset[int]] = frozenset({250, 450, 451, 452, 455, 503, 550, 552, 553, 555})
    default_reply: ClassVar[Reply] = replies.SENDER_OK

    def encode(self) -> str:
        """Return the command line without its CRLF."""
        line = f"MAIL FROM:<{self.sender.raw}>"
        return line if self.params is NO_PARAMS else f"{line} {self.params.encode()}".rstrip(" ")

    @classmethod
    def decode(cls, argument: str, known_params: KnownParams) -> Mail:
        """Parse the argument. Raises `BadCommandError` if it is not valid."""
        return path_decoders(NORMAL)[0](argument, known_params)

    @classmethod
    def decoder(cls, strictness: Strictness) -> Decoder:
        """Return the function that parses the argument in this mode."""
        return path_decoders(strictness)[0]


@frozen(eq=False, repr=False)
class Rcpt(Command):
    """RCPT: add the forward-path ``recipient`` to the transaction (RFC 5321 4.1.1.3)."""

    recipient: syntax.Path
    params: Params = NO_PARAMS

    verb = "RCPT"
    work = 0
    # A message to a mailing list has up to a thousand recipients, and some of them do not exist any more.
    refusal_work = 2
    hook: ClassVar[str | None] = "rcpt"
    usage = "RCPT TO:<forward-path> [parameters]"
    groupable = True
    codes: ClassVar[frozenset[int]] = frozenset({250, 251, 450, 451, 452, 455, 503, 550, 551, 552, 553, 555, 556})
    default_reply: ClassVar[Reply] = replies.RECIPIENT_OK

    def encode(self) -> str:
        """Return the command line without its CRLF."""
        line = f"RCPT TO:<{self.recipient.raw}>"
        return line if self.params is NO_PARAMS else f"{line} {self.params.encode()}".rstrip(" ")

    @classmethod
    def decode(cls, argument: str, known_params: KnownParams) -> Rcpt:
        """Parse the argument. Raises `BadCommandError` if it is not valid."""
        return path_decoders(NORMAL)[1](argument, known_params)

    @classmethod
    def decoder(cls, strictness: Strictness) -> Decoder:
        """Return the function that parses the argument in this mode."""
        return path_decoders(strictness)[1]


# MAIL and RCPT without parameters depend on nothing but their argument and the mode, so the parsed commands are cached
# and shared by all sessions: clients send from and to the same few addresses again and again. Each mode has caches of
# its own, because what one server repairs another one must refuse. With parameters, the result depends on which
# extensions are offered in the session, and only the path is cached (`syntax.parse_path`, which repairs nothing). An
# argument that ends in ">" usually has no parameters.

PathCommand = TypeVar("PathCommand", Mail, Rcpt)


@functools.lru_cache(maxsize=8)
def path_decoders(
    strictness: Strictness,
) -> tuple[Callable[[str, KnownParams], Mail], Callable[[str, KnownParams], Rcpt]]:
    """Return the functions that parse the arguments of MAIL and of RCPT in this mode."""
    return _make_decoder(Mail, strictness), _make_decoder(Rcpt, strictness)


def _make_decoder(cls: type[PathCommand], strictness: Strictness) -> Callable[[str, KnownParams], PathCommand]:
    @functools.lru_cache(maxsize=1024)
    def without_params(argument: str) -> PathCommand | None:
        """Return the command, or None if it has parameters."""
        path, params = _split_path(cls, argument, strictness)
        return None if params else cls(path)

    def decode(argument: str, known_params: KnownParams) -> PathCommand:
        cached = without_params(argument) if argument.endswith(">") and len(argument) <= syntax.CACHED_OCTETS else None
        if cached is not None:
            return cached
        path, params = _split_path(cls, argument, strictness)
        return cls(path, parse_params(params, known_params) if params else NO_PARAMS)

    return decode


def _split_path(cls: type[Mail | Rcpt], argument: str, strictness: Strictness) -> tuple[syntax.Path, str]:
    """Return the path of a MAIL or RCPT and the text of its parameters."""
    parts = syntax.parse_argument(argument)
    word, status = ("FROM", "5.1.7") if cls is Mail else ("TO", "5.1.3")
    if parts is None or parts[0] != word:
        raise BadCommandError(Reply(501, f"Syntax: {cls.usage}", "5.5.4"))
    _, sent, path, params = parts
    if not strictness.spaces_at_colon and not argument[len(word) :].startswith(f":{sent}"):
        # RFC 5321 3.3: "no space between the colon and the reverse-path"
        raise BadCommandError(Reply(501, f"No space allowed at the colon, syntax: {cls.usage}", "5.5.4"))
    if path is None or (cls is Mail and path.local and path.domain is None):
        # Only the recipient <Postmaster> has no domain (RFC 5321 4.1.1.3); the sender gets one if that is possible.
        path = strictness.repair_path(sent) or path
    if path is None or not (path.well_formed or strictness.invalid_mailbox):
        raise BadCommandError(Reply(501, f"Malformed address: {sent!a}", status))
    if not path.bracketed and not strictness.missing_brackets:
        raise BadCommandError(Reply(501, f"Angle brackets missing, syntax: {cls.usage}", "5.5.4"))
    if path.is_null and cls is Rcpt:  # RFC 5321 4.1.2: only a reverse-path can be null
        raise BadCommandError(Reply(501, "Null recipient <> is not allowed", "5.1.3"))
    return path, params


class Data(Command):
    """DATA: request to send the message, which ends with a line that holds a single dot (RFC 5321 4.1.1.4)."""

    __slots__ = ()

    verb = "DATA"
    work = 0
    usage = "DATA"
    codes: ClassVar[frozenset[int]] = frozenset({354, 450, 451, 452, 503, 550, 552, 554})
    default_reply: ClassVar[Reply] = replies.START_MAIL_INPUT


class EndOfData(Command):
    """The end of a message sent with DATA. The reply to it accepts or refuses the message (RFC 5321 4.1.1.4)."""

    __slots__ = ()

    verb = "end of data"
    work = 0
    codes: ClassVar[frozenset[int]] = frozenset({250, 450, 451, 452, 550, 552, 554})
    default_reply: ClassVar[Reply] = replies.OK

    def encode(self) -> str:
        """Return the command line without its CRLF."""
        return "."


#: The one instance that is needed. The signal for the end of a message, by DATA or BDAT, is `events.END_OF_BODY`.
END_OF_DATA = EndOfData()


class Rset(Command):
    """RSET: abort the transaction (RFC 5321 4.1.1.5)."""

    __slots__ = ()

    verb = "RSET"
    usage = "RSET"
    groupable = True
    codes: ClassVar[frozenset[int]] = frozenset({250})
    default_reply: ClassVar[Reply] = replies.OK


class Noop(Command):
    """NOOP: do nothing. An argument is ignored (RFC 5321 4.1.1.9)."""

    __slots__ = ()

    verb = "NOOP"
    usage = "NOOP [ignored]"
    codes: ClassVar[frozenset[int]] = frozenset({250})
    default_reply: ClassVar[Reply] = replies.OK

    @classmethod
    def decode(cls, argument: str, known_params: KnownParams) -> Self:
        """Return the command. The argument is ignored."""
        return cls()


class Quit(Command):
    """QUIT: close the connection after the reply (RFC 5321 4.1.1.10)."""

    __slots__ = ()

    verb = "QUIT"
    work = 0
    usage = "QUIT"
    codes: ClassVar[frozenset[int]] = frozenset({221})
    default_reply: ClassVar[Reply] = Reply(221, "Goodbye", "2.0.0")


@frozen(eq=False, repr=False)
class Query(Command):
    """VRFY or EXPN (RFC 5321 3.5). In ``argument``, single spaces are between the words, however they were sent."""

    argument: str
    params: Params = NO_PARAMS

    def encode(self) -> str:
        """Return the command line without its CRLF."""
        return f"{self.verb} {self.argument} {self.params.encode()}".rstrip(" ")

    def add_status(self, reply: Reply) -> Reply:
        """Return ``reply`` with the enhanced status code 2.1.5 if it has none and is 250: the mailbox is valid (RFC 3463 3.2)."""
        if reply.status is None and reply.code == 250:
            return evolve(reply, status="2.1.5")
        return super().add_status(reply)

    @classmethod
    def decode(cls, argument: str, known_params: KnownParams) -> Self:
        """Parse the argument. Raises `BadCommandError` if it is not valid."""
        name, params = argument, NO_PARAMS
        # RFC 6531 3.7.4.2: the only parameter is SMTPUTF8, after the argument.
        head, _, last = name.rpartition(" ")
        if head and last.upper() in known_params:
            name, params = head, parse_params(last, known_params)
        if not name:
            raise BadCommandError(Reply(501, f"Syntax: {cls.usage}", "5.5.4"))
        return cls(name, params)


class Vrfy(Query):
    """VRFY: verify a user name or mailbox (RFC 5321 4.1.1.6)."""

    __slots__ = ()

    verb = "VRFY"
    hook: ClassVar[str | None] = "vrfy"
    usage = "VRFY user or mailbox"
    codes: ClassVar[frozenset[int]] = frozenset({250, 251, 252, 502, 504, 550, 551, 553})
    default_reply: ClassVar[Reply] = replies.CANNOT_VRFY


class Expn(Query):
    """EXPN: list the members of a mailing list (RFC 5321 4.1.1.7)."""

    __slots__ = ()

    verb = "EXPN"
    hook: ClassVar[str | None] = "expn"
    usage = "EXPN list"
    codes: ClassVar[frozenset[int]] = frozenset({250, 252, 502, 504, 550})


@frozen(eq=False, repr=False)
class Help(Command):
    """HELP: list the commands, or show the syntax of one (RFC 5321 4.1.1.8)."""

    topic: str = field(default="")

    verb = "HELP"
    hook: ClassVar[str | None] = "help"
    usage = "HELP [command]"
    codes: ClassVar[frozenset[int]] = frozenset({211, 214, 502, 504})
    default_reply: ClassVar[Reply] = Reply(214, "Help", "2.0.0")

    def encode(self) -> str:
        """Return the command line without its CRLF."""
        return f"HELP {self.topic}".rstrip(" ")

    @classmethod
    def decode(cls, argument: str, known_params: KnownParams) -> Self:
        """Return the command, with the argument as its topic."""
        return cls(argument)


#: The commands of RFC 5321 itself, by verb.
VERBS: dict[str, type[Command]] = {
    cls.verb: cls for cls in (Helo, Ehlo, Mail, Rcpt, Data, Rset, Noop, Quit, Vrfy, Expn, Help)
}
#: Verbs that are recognized but not implemented, and get 502 instead of 500 (RFC 5321 4.2.4): those of RFC 821 (RFC
#: 5321 F.6), and those of extensions that are not in use. True for a verb after which the connection must be closed: a
#: BDAT is followed by message data, and without the extension its size is not parsed.
UNSUPPORTED_VERBS: dict[str, bool] = {
    verb: verb == "BDAT" for verb in ("SEND", "SOML", "SAML", "TURN", "STARTTLS", "AUTH", "BDAT")
}
