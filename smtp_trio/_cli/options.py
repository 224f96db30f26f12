"""What the commands of ``smtp-trio`` share: options, and what is said when they are wrong."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NoReturn, TypeVar

N = TypeVar("N", int, float)


class Fault(Exception):
    """What is wrong with the command or with what it finds, in one line."""


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        raise Fault(f"{message} (see `{self.prog} --help`)")


def within(convert: Callable[[str], N], most: int, least: int = 0) -> Callable[[str], N]:
    """The type of an option that is a number."""

    def parse(text: str) -> N:
        try:
            value = convert(text)
        except ValueError:
            value = None
        if value is None or not least <= value <= most:
            raise argparse.ArgumentTypeError(f"want a number from {least} to {most}, not {text!r}")
        return value

    return parse


def reason(error: BaseException) -> str:
    """What an exception says, without numbers and names that were said already."""
    return (isinstance(error, OSError) and error.strerror) or str(error)
