"""`RecipientFile`: recipients and aliases in a text file."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from attrs import frozen

from .._server.threads import run_in_thread
from ..protocol.arguments import check_type
from ._addresses import fold, parse_address, parse_key, split_addresses
from ._source import Source, SourceError

# Nearly every line has only addresses of this form, whose key is the address in lower case. To see that takes a tenth of
# the time that the parser of paths takes.
PLAIN: Final = r"[a-z0-9_+-]+(?:\.[a-z0-9_+-]+)*+@[a-z0-9-]+(?:\.[a-z0-9-]+)*+"
PLAIN_ENTRY: Final = re.compile(rf"({PLAIN})\s*+(?::\s*+({PLAIN}(?:\s*+,\s*+{PLAIN})*+))?", re.ASCII | re.IGNORECASE)
COMMA: Final = re.compile(r"\s*,\s*")
#: A comment, after white space; or a quoted string, which can contain the same characters.
COMMENT: Final = re.compile(r'("(?:[^"\\]|\\.)*+")|\s#.*')
#: What precedes the colon of an alias: a quoted string and an address literal can contain one.
KEY: Final = re.compile(r'(?:"(?:[^"\\]|\\.)*+"|\[[^\]]*+\]|[^:])*')
NO_TARGETS: Final[tuple[str, ...]] = ()


@frozen
class Table:
    """The content of a file: the targets by key, and the domains of the keys."""

    entries: dict[str, tuple[str, ...]]
    domains: frozenset[str]


class RecipientFile(Source):
    """Recipients and aliases in a text file. It is read when it is first used; `load` reads it again.

    :param path: the file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        check_type(path, "path", (str, os.PathLike))
        self.path: str = os.fspath(path)
        self._table: Table | None = None

    def __str__(self) -> str:
        return self.path

    def load(self) -> None:
        """Read the file, the first time or again. Blocks: about half a second for 100,000 addresses.

        :raises SourceError: the file cannot be read or is invalid; the text has the number of the line. What was read
            before stays in use.
        """
        try:
            with open(self.path, encoding="utf-8-sig") as file:
                text = file.read()
        except UnicodeDecodeError:
            raise SourceError(f"{self.path}: not text in UTF-8") from None
        except OSError as error:
            raise SourceError(f"{self.path}: {error.strerror or error}") from error
        try:
            self._table = parse(text)
        except ValueError as error:
            raise SourceError(f"{self.path}, {error}") from None

    async def look_up(self, keys: Sequence[str]) -> Mapping[str, Sequence[str]]:
        entries = (await self._loaded()).entries
        return {key: entries[key] for key in keys if key in entries}

    async def has_domain(self, domains: Sequence[str]) -> bool:
        return not (await self._loaded()).domains.isdisjoint(domains)

    async def _loaded(self) -> Table:
        if self._table is None:
            await run_in_thread(self.load)
            assert self._table is not None
        return self._table


def parse(text: str) -> Table:
    """Return the content of a file. Raises ValueError with the number of the invalid line."""
    entries: dict[str, tuple[str, ...]] = {}
    lines: dict[str, int] = {}
    for number, line in logical_lines(text):
        if match := PLAIN_ENTRY.fullmatch(line):
            key = match[1].lower()
            targets = tuple(COMMA.split(match[2])) if match[2] else NO_TARGETS
        else:
            try:
                key, targets = parse_entry(line)
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from None
        if key in entries:
            raise ValueError(f"line {number}: {key} is listed in line {lines[key]} already")
        entries[key] = targets
        lines[key] = number
    check_circles(entries, lines)
    if not entries:  # an empty file is more probably an accident than a server without recipients
        raise ValueError("line 1: no recipients in file")
    return Table(entries, frozenset(key.rpartition("@")[2] for key in entries if "@" in key))


def check_circles(entries: Mapping[str, tuple[str, ...]], lines: Mapping[str, int]) -> None:
    """Raise ValueError for an alias whose targets are aliases that lead to each other only.

    Details and catch-alls are not considered here; `Recipients` finds all circles.
    """
    aliases = {key: {fold(target) for target in targets} for key, targets in entries.items() if targets}
    ends = [key for key, addresses in aliases.items() if key in addresses or not addresses <= aliases.keys()]
    users: dict[str, list[str]] = {}
    for key, addresses in aliases.items():
        for target in addresses & aliases.keys():
            users.setdefault(target, []).append(key)
    remaining = dict.fromkeys(aliases)
    while ends:
        key = ends.pop()
        if key in remaining:
            del remaining[key]
            ends += users.get(key, ())
    for key in remaining:
        targets = ", ".join(sorted(aliases[key]))[:200]
        raise ValueError(f"line {lines[key]}: the alias {key} leads to aliases only, and to no mailbox: {targets}")


def logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not empty, with their numbers, without comments, and joined with their continuations.

    A line that begins with white space continues the one before.
    """
    first, joined = 0, ""
    for number, line in enumerate(text.split("\n"), 1):
        if line.startswith("#"):
            continue
        if "#" in line:
            line = COMMENT.sub(lambda match: match[1] or "", line)
        stripped = line.strip()
        if not stripped:
            continue
        if line[0] not in " \t":
            if joined:
                yield first, joined
            first, joined = number, stripped
        elif not joined:
            raise ValueError(f"line {number}: begins with white space, but there is no line that it continues")
        else:
            joined += f" {stripped}"
    if joined:
        yield first, joined


def parse_entry(line: str) -> tuple[str, tuple[str, ...]]:
    """Return the key and the targets of an entry. Raises ValueError for an invalid one."""
    match = KEY.match(line)
    name, colon, rest = line[: match.end()].strip() if match else "", "", ""
    if match and match.end() < len(line):
        colon, rest = ":", line[match.end() + 1 :]
    key = parse_key(name)
    if key is None:
        raise ValueError(f"expected an address, @domain, @.domain or postmaster, got {name[:100]!r}")
    targets = split_addresses(rest)
    if colon and not targets:
        raise ValueError(f"expected addresses after the colon of {key}")
    for target in targets:
        if parse_address(target) is None:
            raise ValueError(f"invalid target of {key}: {target[:100]!r}")
    return key, tuple(targets) or NO_TARGETS
