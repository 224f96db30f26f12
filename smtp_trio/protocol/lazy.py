"""Modules of packages that are imported when they are first used (PEP 562), and regular expressions that are compiled then."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, AnyStr, cast

# Importing a class costs 0.3 to 1 ms, most of which attrs takes, so the packages of smtp_trio import none of their modules.
# Each has a table instead: the names that a user may import from it, by module. Type checkers read the same imports in the
# block under ``if TYPE_CHECKING``; tests/test_imports.py compares the two. Inside of smtp_trio, a module that only some
# servers and clients need is imported in the function that needs it. Together this saves half of the time that importing
# a server takes.


def lazy_names(package: str, modules: Mapping[str, str]) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Return the functions ``__getattr__`` and ``__dir__`` of a package.

    :param package: its ``__name__``.
    :param modules: the public names that each of its modules defines, separated by spaces.
    """
    homes = {name: module for module, names in modules.items() for name in names.split()}

    def get(name: str) -> object:
        """Import a public name when it is first used."""
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(f"{package}.{homes[name]}"), name)
        setattr(import_module(package), name, value)
        return value

    def names() -> list[str]:
        return sorted({*vars(import_module(package)), *homes})

    return get, names


# Compiling the forty expressions of a server executes 36 million instructions, 7 % of those for importing Trio, and most
# of them are for input that few clients send.


class _LazyPattern:
    """A regular expression that is compiled when one of its methods is first used."""

    def __init__(self, pattern: object, flags: int) -> None:
        self._arguments: tuple[Any, int] = pattern, flags

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._arguments  # pickle and copy would otherwise look for their methods with __getattr__

    def __getattr__(self, name: str) -> object:
        compiled = re.compile(*self._arguments)
        for method in ("fullmatch", "match", "search", "split", "sub"):  # so that this function is not called again
            setattr(self, method, getattr(compiled, method))
        return getattr(compiled, name)


def lazy_pattern(pattern: AnyStr, flags: int = 0) -> re.Pattern[AnyStr]:
    """Return an object with the methods of ``re.compile(pattern, flags)``, which it calls when it has to."""
    return cast("re.Pattern[AnyStr]", _LazyPattern(pattern, flags))
