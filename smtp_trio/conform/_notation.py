r"""Read cases from text files, in the notation of transcripts.

A file is a chapter. It begins with ``chapter: Title``; after that, each case begins with ``== id: title``:

.. code-block:: none

   == rcpt.unknown: a refused recipient does not affect the others
   MUST RFC 5321 3.3: If accepted, the SMTP server returns a "250 OK" reply and stores the forward-path.
   after: RCPT
   needs: --unknown
   C: RCPT TO:<{unknown}>
   S: 55.|45.

This module knows what all cases have in common: the level, section and sentence of the RFC, ``key: value`` lines,
tables, indented blocks, and the octets of a line. `_server_cases` and `_client_cases` give the lines their meaning.
docs/conformance.rst describes the notation.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from attrs import define, field, frozen

from ._case import Level

HEAD = re.compile(r"== ([a-z]+\.[a-z0-9$-]+): (.+)")
REQUIREMENT = re.compile(r"(MUST|SHOULD|RECOMMENDED) (RFC [0-9]+ [\w.]+)(?:: (.+))?")
BLOCK = re.compile(r"(if|on|repeat) (.+):|(else)():")
KEY = re.compile(r"([a-z][a-z ]*|[a-z][a-zA-Z ]* TLS): ?(.*)")
OCTETS = re.compile(r"([CS])(?:\*([0-9]+))?([:>])(?: (.*))?")
REPEATED = re.compile(r"\{((?:[^{}]|\{\w+\})*)\*([0-9]+)\}")
COLUMN = re.compile(r"\$(?:([a-z]+)|\{([a-z]+)\})")
BAR = re.compile(r"(?<!\S)\|(?!\S)")
REMARK = re.compile(r"\s+# ")


@frozen
class Line:
    """One line of a file, and where it stands."""

    file: str
    number: int
    text: str

    def error(self, problem: str) -> NotationError:
        """Return an error about this line."""
        return NotationError(f"{self.file}:{self.number}: {problem}: {self.text!r}")


class NotationError(ValueError):
    """A line of a case is invalid. The text begins with the file and the line's number."""


@frozen
class Block:
    """Indented lines, and the line above them: ``if 354:``, ``else:``, ``repeat 100:`` or ``on MAIL:``."""

    line: Line
    keyword: str
    argument: str
    body: list[Line] = field(factory=list)


@define
class Definition:
    """One case, divided into its parts, which are not interpreted."""

    line: Line
    id: str
    title: str
    level: Level = Level.MUST
    section: str = ""
    sentence: str = ""
    keys: list[tuple[str, str, Line]] = field(factory=list)
    body: list[Line | Block] = field(factory=list)

    def check(self, known: Collection[str]) -> None:
        """Raise NotationError for a case without an RFC section, and for a key that is not one of `known`."""
        if not self.section:
            raise self.line.error("no line with the level and the RFC section, such as 'MUST RFC 5321 4.2: ...'")
        for key, _, line in self.keys:
            if key not in known:
                raise line.error(f"unknown key {key!r}, expected one of {', '.join(known)}")

    def value(self, key: str, default: str = "") -> str:
        """Return the value of a key."""
        return next((value for name, value, _ in self.keys if name == key), default)

    def values(self, key: str) -> tuple[str, ...]:
        """Return the values of a key that are separated by commas. ``nothing`` stands for no value."""
        value = self.value(key)
        return tuple(part.strip() for part in value.split(",")) if value not in ("", "nothing") else ()

    def all(self, key: str) -> Iterator[tuple[str, Line]]:
        """Yield the values of a key that may be repeated, with their lines."""
        return ((value, line) for name, value, line in self.keys if name == key)


def split_remark(text: str) -> tuple[str, str]:
    """Return the text before ``#``, and the remark after it, which explains a failure."""
    text, _, remark = REMARK.sub("\0", text, count=1).partition("\0")
    return text, remark


def read(text: str, file: str) -> tuple[str, list[Definition]]:
    """Return the title of a chapter and its cases.

    Raises:
        NotationError: A line is invalid.
    """
    title = ""
    cases: list[list[Line]] = []
    for number, content in enumerate(text.split("\n"), 1):
        line = Line(file, number, content.rstrip())
        if not line.text or line.text.startswith("#"):
            continue
        if line.text.startswith("== "):
            cases.append([line])
        elif cases:
            cases[-1].append(line)
        elif line.text.startswith("chapter: "):
            title = line.text.removeprefix("chapter: ")
        else:
            raise line.error("expected '== id: title'")
    return title, [definition(lines) for case in cases for lines in expanded(case)]


def expanded(lines: Sequence[Line]) -> Iterator[Sequence[Line]]:
    """Yield the lines of each case that a table stands for: ``$name`` is replaced by the cell below ``name``."""
    rows = [line for line in lines if line.text.startswith("|")]
    others = [line for line in lines if not line.text.startswith("|")]
    if not rows:
        yield others
        return
    head, *values = ([cell.strip() for cell in BAR.split(row.text)[1:-1]] for row in rows)
    for row, cells in zip(rows[1:], values, strict=True):
        if len(cells) != len(head):
            raise row.error(f"expected {len(head)} cells, got {len(cells)}")
        yield [filled(line, dict(zip(head, cells, strict=True))) for line in others]


def filled(line: Line, cells: Mapping[str, str]) -> Line:
    """Replace the names of columns in a line."""

    def cell(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if name not in cells:
            raise line.error(f"the table has no column {name!r}")
        return cells[name]

    return Line(line.file, line.number, COLUMN.sub(cell, line.text))


def definition(lines: Sequence[Line]) -> Definition:
    """Divide a case into its parts."""
    match = HEAD.fullmatch(lines[0].text)
    if match is None:
        raise lines[0].error("expected '== id: title'")
    case = Definition(lines[0], match[1], match[2])
    # An indented line belongs to the block above it, or it continues a key or the sentence of the RFC.
    block: Block | None = None
    for line in lines[1:]:
        if line.text.startswith(" "):
            if block is not None:
                block.body.append(Line(line.file, line.number, line.text.strip()))
            elif case.keys and not case.body:
                key, value, first = case.keys.pop()
                case.keys.append((key, f"{value} {line.text.strip()}", first))
            elif case.section and not case.body:
                case.sentence += " " + line.text.strip()
            else:
                raise line.error("unexpected indentation")
            continue
        block = None
        if match := REQUIREMENT.fullmatch(line.text):
            case.level, case.section, case.sentence = Level[match[1]], match[2], match[3] or ""
        elif match := BLOCK.fullmatch(line.text):
            block = Block(line, match[1] or match[3], match[2] or "")
            case.body.append(block)
        elif match := KEY.fullmatch(line.text):
            case.keys.append((match[1], match[2], line))
        else:
            case.body.append(line)
    return case


def octets(line: Line) -> tuple[str, bytes, int] | None:
    r"""Return the side, the octets and how often they are sent, or None for another kind of line.

    ``C: text`` stands for a line, with CRLF. In ``C> text`` CRLF and other control characters are written as Python
    escapes, and nothing is added. ``{x*998}`` repeats a text in a line, and ``C*64> text`` sends the octets 64 times.
    """
    match = OCTETS.fullmatch(line.text)
    if match is None:
        return None
    text = match[4] or ""
    while REPEATED.search(text):
        text = REPEATED.sub(lambda repeated: repeated[1] * int(repeated[2]), text)
    try:
        data = text.encode() + b"\r\n" if match[3] == ":" else unescaped(text)
    except UnicodeError:
        raise line.error("invalid escape") from None
    return match[1], data, int(match[2] or 1)


def unescaped(text: str) -> bytes:
    r"""Return octets that are written as in a Python literal: ``\r\n``, ``\xff``."""
    return text.encode("latin-1").decode("unicode_escape").encode("latin-1")


def joined(blocks: Iterable[Line | Block]) -> Iterator[tuple[Line | Block, Block | None]]:
    """Yield each line and block, with the ``else`` block that follows it."""
    items = list(blocks)
    for at, item in enumerate(items):
        if isinstance(item, Block) and item.keyword == "else":
            if not at or not isinstance(before := items[at - 1], Block) or before.keyword != "if":
                raise item.line.error("'else' without 'if'")
            continue
        after = items[at + 1] if at + 1 < len(items) else None
        yield item, after if isinstance(after, Block) and after.keyword == "else" else None
