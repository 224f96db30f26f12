"""Parts that the commands of ``smtp-trio`` share: the argument parser, its error, and types of options."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NoReturn, TypeVar

NumberT = TypeVar("NumberT", int, float)


class UsageError(Exception):
    """An option, or a file or address that it names, cannot be used.

    The message is one line for the user; it names the option or file and the reason.
    """


class Parser(argparse.ArgumentParser):
    """An argument parser that raises `UsageError` instead of printing the usage and exiting."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see `{self.prog} --help`)")


def number_between(convert: Callable[[str], NumberT], maximum: int, minimum: int = 0) -> Callable[[str], NumberT]:
    """Return the type of an option whose value is a number from ``minimum`` to ``maximum``, both included."""

    def parse(text: str) -> NumberT:
        try:
            value = convert(text)
        except ValueError:
            value = None
        if value is None or not minimum <= value <= maximum:
            raise argparse.ArgumentTypeError(f"must be a number from {minimum} to {maximum}, got {text!r}")
        return value

    return parse


def describe_error(error: BaseException) -> str:
    """Return an exception's message; for an OSError only the reason, without its number and file name."""
    return (isinstance(error, OSError) and error.strerror) or str(error)
