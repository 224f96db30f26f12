"""The options of ``smtp-trio serve`` and ``smtp-trio inbox`` about fault rules."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from attrs import define, field

from .options import UsageError, describe_error, number_between

if TYPE_CHECKING:
    from ..testing import FaultRules

#: The character that begins a comment in a file of rules.
COMMENT = "#"
#: The maximum number of characters of such a file, which must not block the server for long when it is read on a signal.
MAX_FILE = 1 << 20


def add_fault_options(add: Callable[..., Any]) -> None:
    """Add the options."""
    # fmt: off
    add("--fault", metavar="RULE", action="append", default=[],
        help="make the server fail by this rule, such as 'answer RCPT 450 once', 'delay DATA 5s', 'close at DOT' or 'greylist 60s'; "
             "for tests of programs that send mail. Repeatable; docs/faults describes the rules. Each worker of --workers "
             "has its own rules and counts")
    add("--fault-file", metavar="FILE",
        help=f"file with such a rule on each line; empty lines and those beginning with {COMMENT} are ignored. SIGHUP reads it "
             "again, and resets the counts of its rules")
    add("--fault-seed", metavar="N", type=number_between(int, 2**63 - 1), default=0,
        help="seed of the rules with 'sometimes' and 'garbage': the same seed, rules and commands give the same faults "
             "(default: %(default)s)")
    # fmt: on


@define
class FaultFile:
    """The rules of ``--fault-file``, in a list that can have other rules as well."""

    path: str
    rules: FaultRules
    seed: int
    _ids: list[int] = field(factory=list)

    def load(self) -> None:
        """Read the file and replace its rules. Raises UsageError if it is invalid; the previous rules are kept then."""
        found = read_rules(self.path)
        for number in self._ids:
            self.rules.remove(number)
        self._ids.clear()
        for line, text in found:
            self._ids.append(add_rule(self.rules, text, self.seed, f"{self.path}, line {line}"))


def prepare_faults(options: argparse.Namespace, *, wanted: bool = False) -> tuple[FaultRules | None, list[FaultFile]]:
    """Return the fault rules of the options, and the files to read again on SIGHUP.

    :param wanted: whether to return a list even if the options have no rules, since rules can be added over HTTP.
    :raises UsageError: a rule is invalid.
    """
    if not (wanted or options.fault or options.fault_file):
        return None, []
    from ..testing import FaultRules  # imported here because it is slow to import

    rules = FaultRules()
    for text in options.fault:
        add_rule(rules, text, options.fault_seed, "--fault")
    if options.fault_file is None:
        return rules, []
    file = FaultFile(options.fault_file, rules, options.fault_seed)
    file.load()
    return rules, [file]


def add_rule(rules: FaultRules, text: str, seed: int, where: str) -> int:
    """Add a rule and return its id. Raises UsageError, which begins with ``where``, if it is invalid."""
    try:
        return rules.add(text, seed=seed).id
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from None


def read_rules(path: str) -> Sequence[tuple[int, str]]:
    """Return the rules in a file with their line numbers. Raises UsageError if one is invalid."""
    from ..testing import FaultRules

    try:
        with open(path, encoding="utf-8-sig") as file:
            text = file.read(MAX_FILE + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {describe_error(error)}") from None
    if len(text) > MAX_FILE:
        raise UsageError(f"cannot use {path}: it has more than {MAX_FILE} characters")
    lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), 1)]
    found = [(number, line) for number, line in lines if line and not line.startswith(COMMENT)]
    trial = FaultRules()
    for number, line in found:
        add_rule(trial, line, 0, f"{path}, line {number}")
    return found
