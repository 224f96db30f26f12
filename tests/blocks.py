"""The blocks of code in README.md and on the pages in docs/."""

from __future__ import annotations

import builtins
import dis
import re
import shlex
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import CodeType
from typing import Any

from attrs import frozen
from ports import free_port

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = sorted((ROOT / "docs").glob("*.rst"))

MARKDOWN = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
RST = re.compile(r"^( *)\.\. code-block:: (\w+)\n((?:\1   :.*\n)*)\n((?:\1   .*\n|\n)+)", re.MULTILINE)

#: One command, up to the end of the line or to what follows in the shell, and its arguments.
COMMAND = r"(?:smtp-trio|python -m smtp_trio) ((?:'[^']*'|\"[^\"]*\"|[^\n'\"&|;<>)])*)"

#: The port in the examples; :meth:`Block.run` replaces it by a free one.
PORT = "2525"


@frozen
class Block:
    """One block: its page, its number there, its language and its text."""

    page: str
    number: int
    language: str
    source: str

    def __str__(self) -> str:
        return f"{self.page}-{self.number}"

    def run(self, port: int | None = None) -> dict[str, Any]:
        """Run the block in a namespace of its own, as if it had been copied to a file; return the namespace.

        ``port`` is that of a server to connect to; without it the block gets a free port to listen on.
        """
        names: dict[str, Any] = {"__name__": "block"}
        source = self.source.replace(PORT, str(free_port() if port is None else port))
        exec(compile(source, str(self), "exec"), names)
        return names

    def commands(self) -> list[list[str]]:
        """Return the arguments of each ``smtp-trio`` or ``python -m smtp_trio`` in a block of console input."""
        lines = re.findall(COMMAND, self.source.replace("\\\n", ""), re.MULTILINE)
        return [shlex.split(line, comments=True) for line in lines]

    def undefined(self, names: dict[str, Any]) -> set[str]:
        """Return the global names that the block uses, also inside of its functions, and that ``names`` does not have."""
        return {name for name in globals_of(compile(self.source, str(self), "exec")) if name not in names}


def globals_of(code: CodeType) -> Iterator[str]:
    """Yield the global names that some code and the functions in it read, other than builtins."""
    stored = {step.argval for step in dis.get_instructions(code) if step.opname == "STORE_NAME"}
    for step in dis.get_instructions(code):
        if (
            step.opname in ("LOAD_GLOBAL", "LOAD_NAME")
            and step.argval not in stored
            and not hasattr(builtins, step.argval)
        ):
            yield step.argval
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from globals_of(constant)


def blocks(page: Path) -> list[Block]:
    """Return all blocks of README.md or of a page."""
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".md":
        found = MARKDOWN.findall(text)
    else:
        found = [(language, textwrap.dedent(source)) for _, language, _, source in RST.findall(text)]
    return [Block(page.stem, number, language, source) for number, (language, source) in enumerate(found, 1)]


ALL = [block for page in (README, *PAGES) for block in blocks(page)]
PYTHON = [block for block in ALL if block.language == "python"]
CONSOLE = [block for block in ALL if block.language == "console"]
