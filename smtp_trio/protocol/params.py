"""The parameters of MAIL, RCPT and other commands: typed values in Python, ``KEYWORD=value`` on the wire."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Generic, Literal, TypeVar, cast, overload

from attrs import frozen

from . import syntax
from .errors import BadCommandError
from .replies import Reply

T = TypeVar("T")
PassedOn = Literal["always", "if offered", "never"]


# A `Param` is compared by identity and used as a key: ``mail.params[SIZE]``. Looking a value up by its `Param` instead
# of by its keyword lets a type checker know the type of the value, and lets two extensions that share a parameter
# (8BITMIME and BINARYMIME share BODY) share the object.


@frozen(eq=False)
class Param(Generic[T]):
    """A parameter of a command that an extension adds (RFC 5321 4.1.2, esmtp-param).

    ``parse`` converts the text after "=", or None without "=", to the value; it returns None for an invalid text (501).
    ``format`` converts a value to the text, or to None for a parameter without "=". ``extra_octets`` is the number of
    octets that the parameter adds to the limit of the command line (RFC 5321 4.5.3.1.4).

    ``passed_on`` is what a client does with the parameter of an envelope that it passes on: "always", so that a message is not
    sent to a server that does not offer the parameter; "if offered"; or "never", because its value is not that of the message
    that is sent. It may be a function of the value.

    ``invalid`` is the enhanced status code of the reply to an invalid or repeated value, and ``unsupported`` that for a
    message which needs the parameter and cannot be passed on to a server that does not offer it (RFC 3463 3). ``unverified``
    is that for a server whose name is not verified by TLS, if the parameter must not be sent to one, and otherwise None.
    ``reply`` returns the reply that accepts MAIL or RCPT with such a value, or None for the usual one.

    ``aged`` returns the value to pass on after a number of seconds, or None if the parameter is not passed on then. It is None
    for a value that does not change with time.
    """

    keyword: str
    parse: Callable[[str | None], T | None]
    format: Callable[[T], str | None]
    extra_octets: int = 0
    passed_on: PassedOn | Callable[[T], PassedOn] = "always"
    invalid: str = "5.5.4"
    unsupported: str = "5.6.3"
    unverified: str | None = None
    reply: Callable[[T], Reply | None] | None = None
    aged: Callable[[T, int], T | None] | None = None

    @property
    def name(self) -> str:
        """The keyword argument of a Python function for this parameter."""
        return self.keyword.lower().replace("-", "_")

    def relay(self, value: T) -> PassedOn:
        """Return what a client does with this value of an envelope that it passes on (``passed_on``)."""
        return self.passed_on(value) if callable(self.passed_on) else self.passed_on

    def __repr__(self) -> str:
        return self.keyword


class Params(Mapping[Param[Any], Any]):
    """The parameters of one command, by `Param`. ``mail.params.get(SIZE)`` has the type ``int | None``.

    ``text`` are the parameters as they were received, for `raw`.
    """

    __slots__ = ("_text", "_values")

    def __init__(self, values: Mapping[Param[Any], Any] | None = None, text: str = "") -> None:
        self._values = dict(values) if values else {}
        self._text = text

    def __getitem__(self, param: Param[T]) -> T:
        return cast("T", self._values[param])

    @overload
    def get(self, param: Param[T]) -> T | None: ...
    @overload
    def get(self, param: Param[T], default: T) -> T: ...
    def get(self, param: Param[T], default: T | None = None) -> T | None:
        """Return the value of the parameter, or ``default`` if the command does not have it."""
        return self._values.get(param, default)

    def __contains__(self, param: object) -> bool:
        return param in self._values

    def __iter__(self) -> Iterator[Param[Any]]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __hash__(self) -> int:
        return hash(frozenset(self._values.items()))

    def __repr__(self) -> str:
        return f"<{' '.join(['Params', *self.encode().split()])}>"

    def replace(self, param: Param[T], value: T) -> Params:
        """Return parameters with another value for one of them."""
        return Params({**self._values, param: value}, self._text)

    def raw(self, param: Param[Any]) -> str | None:
        """Return the value of a parameter as the client has written it, such as ``a+2Bb`` for the ENVID ``a+b``.

        None if the parameter has no value, or was not received.
        """
        for word in self._text.split(" "):
            keyword, equals, value = word.partition("=")
            if keyword.upper() == param.keyword:
                return value if equals and param in self._values else None
        return None

    def without(self, param: Param[Any]) -> Params:
        """Return parameters without one of them."""
        if param not in self._values:
            return self
        return (
            Params({each: value for each, value in self._values.items() if each is not param}, self._text) or NO_PARAMS
        )

    @property
    def reply(self) -> Reply | None:
        """The reply that accepts a command with these parameters, or None for the usual one (`Param`)."""
        replies = (param.reply(value) for param, value in self._values.items() if param.reply is not None)
        return next(filter(None, replies), None)

    def encode(self) -> str:
        """Return the parameters as they are written in a command, such as ``SIZE=100 BODY=8BITMIME``."""
        return " ".join(self.words())

    def words(self) -> list[str]:
        """Return the text of each parameter, such as ``SIZE=100``."""
        words = []
        for param, value in self._values.items():
            text = param.format(value)
            words.append(param.keyword if text is None else f"{param.keyword}={text}")
        return words


def parse_flag(value: str | None) -> bool | None:
    """Parse a parameter that has no value, such as SMTPUTF8."""
    return True if value is None else None


def format_flag(_: bool) -> None:
    """Return the text of a parameter that has no value."""


NO_PARAMS = Params()
#: The parameters that are recognized for a command, by keyword in upper case.
KnownParams = Mapping[str, Param[Any]]


def parse_params(text: str, known_params: KnownParams) -> Params:
    """Parse parameters such as ``SIZE=100 BODY=8BITMIME``.

    Raises `BadCommandError`: 501 for a malformed, invalid or repeated parameter, 555 for an unknown one.
    """
    values: dict[Param[Any], Any] = {}
    for word in text.split(" "):
        match = syntax.PARAMETER.fullmatch(word)
        if match is None:
            param = known_params.get(word.partition("=")[0].upper())
            status = "5.5.4" if param is None else param.invalid
            raise BadCommandError(Reply(501, f"Malformed parameter: {word!a}", status))
        keyword, value = match.group("keyword", "value")
        param = known_params.get(keyword.upper())
        if param is None:  # RFC 5321 4.1.1.11
            raise BadCommandError(Reply(555, f"Parameter not recognized: {keyword}", "5.5.4"))
        if param in values:
            raise BadCommandError(Reply(501, f"Duplicate parameter: {keyword}", param.invalid))
        values[param] = parsed = param.parse(value)
        if parsed is None:
            raise BadCommandError(Reply(501, f"Invalid value for parameter: {word!a}", param.invalid))
    return Params(values, text)


def make_params(values: Mapping[str, object], known: Iterable[Param[Any]]) -> Params:
    """Make parameters from keyword arguments such as ``{"size": 100, "smtputf8": True}``. False and None omit one.

    Raises ValueError for an invalid value, TypeError for a parameter that is not among the ``known``.
    """
    by_name = {param.name: param for param in known}
    made: dict[Param[Any], Any] = {}
    for name, value in values.items():
        param = by_name.get(name)
        if param is None:
            raise TypeError(f"unknown parameter {name!r}, expected one of {', '.join(sorted(by_name))}")
        if value is None or value is False:
            continue
        # A server must read the value that the caller passed. Formatting and parsing it finds every value for which
        # that fails, without a second set of rules.
        try:
            value = frozenset(value) if isinstance(value, list | tuple | set) else value  # NOTIFY takes several values
            parsed = param.parse(param.format(value))
            valid = parsed == value and isinstance(parsed, bool) == isinstance(value, bool)  # True == 1
        except (TypeError, ValueError, AttributeError, BytesWarning):  # the last one of Python's option -bb
            valid = False
        if not valid:
            raise ValueError(f"invalid value for the parameter {param.keyword}: {name}={value!r}")
        made[param] = value
    return Params(made) if made else NO_PARAMS
