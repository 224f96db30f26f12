"""`Value`: the methods that all values of attrs share."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any

from attrs import Attribute, fields

# attrs writes and compiles methods for each class. Those of `Value` do the same for any class, so that a class with
# ``eq=False, repr=False`` and this base is made with 1.2 million instructions instead of 2.8: for the 30 classes of a server
# this is a tenth of the time that importing Trio takes. They are two to three times as slow as those of attrs, so a class
# whose hash is needed for each session or command, such as `Path`, has that of attrs.


class Value:
    """Base class of values that are compared, hashed and shown by their fields."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        if other.__class__ is not self.__class__:
            return NotImplemented
        compared, _ = _getters(self.__class__)
        return bool(compared(self) == compared(other))

    def __hash__(self) -> int:
        _, hashed = _getters(self.__class__)
        return hash((self.__class__, hashed(self)))

    def __repr__(self) -> str:
        shown = ", ".join(f"{each.name}={getattr(self, each.name)!r}" for each in _fields(self.__class__) if each.repr)
        return f"{self.__class__.__qualname__.rpartition('>.')[2]}({shown})"


Getter = Callable[[object], Any]
#: For each class, functions that get the fields that are compared, and those that are hashed.
_GETTERS: dict[type[Any], tuple[Getter, Getter]] = {}


def _getters(cls: type[Any]) -> tuple[Getter, Getter]:
    found = _GETTERS.get(cls)
    if found is None:
        compared = [each.name for each in _fields(cls) if each.eq]
        hashed = [each.name for each in _fields(cls) if (each.eq if each.hash is None else each.hash)]
        found = _GETTERS[cls] = _getter(compared), _getter(hashed)
    return found


def _fields(cls: type[Any]) -> tuple[Attribute[Any], ...]:
    found: tuple[Attribute[Any], ...] = fields(cls)
    return found


def _getter(names: list[str]) -> Getter:
    return attrgetter(*names) if names else lambda _: None
