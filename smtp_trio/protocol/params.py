"""Parameters of MAIL and RCPT, which extensions bring along: typed values on one side, ``KEYWORD=value`` on the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Generic, TypeVar, cast, overload

from attrs import frozen

from . import syntax
from .errors import BadCommandError
from .replies import Reply

T = TypeVar("T")


@frozen(eq=False)
class Param(Generic[T]):
    """A parameter of MAIL or RCPT that an extension brings along (RFC 5321 4.1.2, esmtp-param).

    ``parse`` gets the value, or None when there is no "=value", and gives None for one that is not allowed (501). ``format`` turns
    the value back, into None for no "=value". ``room`` is how many octets the extension adds to the command line's limit.
    """

    keyword: str
    parse: Callable[[str | None], T | None]
    format: Callable[[T], str | None]
    extra_octets: int = 0

    @property
    def name(self) -> str:
        """How it is called as a keyword of a Python function."""
        return self.keyword.lower().replace("-", "_")

    def __repr__(self) -> str:
        return self.keyword


class Params(Mapping[Param[Any], Any]):
    """The parameters of one command, by `Param`: ``mail.params.get(SIZE)`` is an int or None to a type checker too."""

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[Param[Any], Any] | None = None) -> None:
        self._values = dict(values) if values else {}

    def __getitem__(self, param: Param[T]) -> T:
        return cast("T", self._values[param])

    @overload
    def get(self, param: Param[T]) -> T | None: ...
    @overload
    def get(self, param: Param[T], default: T) -> T: ...
    def get(self, param: Param[T], default: T | None = None) -> T | None:
        """The parameter's value, or the default when it was not given."""
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

    def encode(self) -> str:
        """The parameters as they stand in a command: ``SIZE=100 BODY=8BITMIME``; "" when there are none."""
        words = []
        for param, value in self._values.items():
            text = param.format(value)
            words.append(param.keyword if text is None else f"{param.keyword}={text}")
        return " ".join(words)


NO_PARAMS = Params()
#: The parameters that may be given now, by keyword in upper case.
KnownParams = Mapping[str, Param[Any]]


def parse_params(text: str, known_params: KnownParams) -> Params:
    """Read ``SIZE=100 BODY=8BITMIME``. Raises `BadCommandError`: 501 for what is malformed or given twice, 555 for the unknown."""
    values: dict[Param[Any], Any] = {}
    for word in text.split(" "):
        if not word:  # two spaces in a row: strictly not allowed, harmless
            continue
        match = syntax.PARAMETER.fullmatch(word)
        if match is None:
            raise BadCommandError(Reply(501, f"Malformed parameter: {word!a}", "5.5.4"))
        keyword, value = match.group("keyword", "value")
        param = known_params.get(keyword.upper())
        if param is None:  # RFC 5321 4.1.1.11
            raise BadCommandError(Reply(555, f"Parameter not recognized: {keyword}", "5.5.4"))
        if param in values:
            raise BadCommandError(Reply(501, f"Parameter given twice: {keyword}", "5.5.4"))
        values[param] = parsed = param.parse(value)
        if parsed is None:
            raise BadCommandError(Reply(501, f"Bad value for parameter: {word!a}", "5.5.4"))
    return Params(values)


def make_params(values: Mapping[str, object], known: Iterable[Param[Any]]) -> Params:
    """The parameters that a caller gave as keyword values: ``{"size": 100, "smtputf8": True}``. False and None leave one out.

    Raises ValueError for a value that its parameter cannot have, TypeError for a parameter that is not among the ``known``.
    """
    by_name = {param.name: param for param in known}
    made: dict[Param[Any], Any] = {}
    for name, value in values.items():
        param = by_name.get(name)
        if param is None:
            raise TypeError(f"there is no parameter {name!r} here; known are {', '.join(sorted(by_name))}")
        if value is None or value is False:
            continue
        value = frozenset(value) if isinstance(value, list | tuple | set) else value  # words, as NOTIFY has them
        # What comes back from the wire must be what went there: a value that is read in another way would say something else.
        try:
            right = param.parse(param.format(value)) == value
        except (TypeError, ValueError, AttributeError):
            right = False
        if not right:
            raise ValueError(f"{name}={value!r} is no value for the parameter {param.keyword}")
        made[param] = value
    return Params(made) if made else NO_PARAMS
