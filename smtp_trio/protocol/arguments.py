"""Checks of arguments, where an object is created: a wrong one raises at once, and not at its first use.

``what`` of each function is the name of the argument, for error messages, which also have the value that was given and
those that are allowed. None is accepted if ``optional``. `argument` makes validators of attrs from them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable
from typing import Any, TypeVar

from attrs import Attribute

T = TypeVar("T")
Validator = Callable[[object, "Attribute[Any]", Any], object]


def argument(check: Callable[..., object], *details: object, **options: object) -> Validator:
    """Return a validator of attrs that calls one of the functions below with the value and the name of an attribute."""

    def validate(_: object, attribute: Attribute[Any], value: object) -> None:
        check(value, attribute.name, *details, **options)

    return validate


def check_type(
    value: object, what: str, kinds: type[Any] | tuple[type[Any], ...], *, optional: bool = False, shown: bool = True
) -> None:
    """Raise TypeError if ``value`` is not an instance of ``kinds``. ``shown=False``: it may be a secret; name its type."""
    kinds = kinds if isinstance(kinds, tuple) else (kinds,)
    if isinstance(value, kinds) or (optional and value is None):
        return
    names = [kind.__name__ for kind in kinds] + ["None"] * optional
    given = f"got {value!r}" if shown else f"not {type(value).__name__}"
    raise TypeError(f"{what} must be {_alternatives(names)}, {given}")


def check_choice(value: object, what: str, choices: Collection[str], *, optional: bool = False) -> None:
    """Raise ValueError if ``value`` is not one of these strings."""
    if not (isinstance(value, str) and value in choices) and not (optional and value is None):
        names = [f'"{choice}"' for choice in choices] + ["None"] * optional
        raise ValueError(f"{what} must be {_alternatives(names)}, got {value!r}")


def check_number(
    value: object,
    what: str,
    minimum: float = 0,
    *,
    maximum: float | None = None,
    above: bool = False,
    integer: bool = False,
    optional: bool = False,
    note: str = "",
) -> None:
    """Raise TypeError if ``value`` is not a number, or not an integer, and ValueError if it is less than ``minimum``
    or more than ``maximum``.

    With ``above`` it must be more than ``minimum``. True and False are not numbers here. ``note`` is added to the text
    of the ValueError.
    """
    if optional and value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int if integer else int | float):
        raise TypeError(f"{what} must be {'an integer' if integer else 'a number'}, got {value!r}")
    if not (value > minimum if above else value >= minimum):  # not so for NaN either
        raise ValueError(f"{what} must be {'>' if above else '>='} {minimum:.15g}, got {value}{note}")
    if maximum is not None and value > maximum:
        raise ValueError(f"{what} must be <= {maximum:.15g}, got {value}{note}")


def check_items(values: Iterable[T], what: str, *kinds: type[T]) -> tuple[T, ...]:
    """Return ``values`` as a tuple. Raises TypeError if it is not an iterable of instances of ``kinds``."""
    if not isinstance(values, list) and (isinstance(values, str | bytes) or not isinstance(values, Iterable)):
        raise TypeError(
            f"{what} must be an iterable of {_alternatives([kind.__name__ for kind in kinds])}, got {values!r}"
        )
    found = tuple(values)
    for value in found:
        if not isinstance(value, kinds):
            check_type(value, f"each item of {what}", kinds)
    return found


def check_callable(value: object, what: str, *, optional: bool = False) -> None:
    """Raise TypeError if ``value`` cannot be called."""
    if not callable(value) and not (optional and value is None):
        raise TypeError(f"{what} must be callable{' or None' if optional else ''}, got {value!r}")


def check_plain_function(value: object, what: str) -> None:
    """Raise TypeError if ``value`` is neither None nor can be called without ``await``."""
    check_callable(value, what, optional=True)
    if value is not None and inspect.iscoroutinefunction(value):
        raise TypeError(f"{what} must be a plain function, since it is not awaited, got {value!r}")


def _alternatives(names: list[str]) -> str:
    return ", ".join(names[:-1]) + (" or " if names[1:] else "") + names[-1]
