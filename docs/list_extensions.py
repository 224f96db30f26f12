"""Write the table of extensions, from the extensions themselves, into README.md and ``extensions.inc``.

python docs/list_extensions.py
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from attrs import frozen

from smtp_trio.protocol import Extension
from smtp_trio.protocol.extensions import KNOWN, STANDARD

README = Path(__file__).parent.parent / "README.md"
PAGE = Path(__file__).with_name("extensions.inc")
BEGIN, END = "<!-- Written by `python docs/list_extensions.py`. -->\n", "<!-- The end of the table. -->\n"
RST_HEADER = ".. Written by ``python docs/list_extensions.py``.\n\n.. list-table::\n   :header-rows: 1\n\n"


@frozen
class Row:
    """One extension."""

    keyword: str
    rfc: int
    #: What it is for: the first sentence of the docstring, without the number of the RFC.
    title: str
    #: What a client can send because of it.
    adds: tuple[str, ...]
    #: The hooks of the server that its commands need.
    hooks: tuple[str, ...]
    default: bool
    name: str


def row(extension: Extension) -> Row:
    """Return the row of an extension. Those that are described elsewhere than in an RFC have none."""
    adds = [
        f"{', '.join(param.keyword for param in params)} of {command.verb}"
        for command, params in extension.params.items()
    ]
    hooks = [verb.hook for verb in extension.verbs if verb.hook is not None and not verb.is_implemented(())]
    return Row(
        extension.keyword,
        extension.rfc,
        re.split(r" \((?:RFC|Postfix)|\.", inspect.getdoc(extension) or "")[0],
        (*(verb.verb for verb in extension.verbs), *adds),
        tuple(hooks),
        any(type(extension) is type(other) for other in STANDARD),
        type(extension).__name__,
    )


def markdown(rows: list[Row]) -> str:
    """Return the table of README.md."""
    lines = ["| EHLO | | Server |", "| --- | --- | --- |"]
    for item in rows:
        link = f"[{item.keyword}](https://www.rfc-editor.org/rfc/rfc{item.rfc})" if item.rfc else item.keyword
        lines.append(f"| {link} | {item.title} | {'default' if item.default else 'on request'} |")
    return "\n".join(lines) + "\n"


def rst(rows: list[Row]) -> str:
    """Return the table of ``extensions.rst``."""
    cells = [["EHLO", "RFC", "Purpose", "Commands and parameters", "Server", "Class"]]
    for item in rows:
        server = ", ".join(["default" if item.default else "on request", *(f"hook ``{hook}``" for hook in item.hooks)])
        adds = ", ".join(item.adds)
        name = f":class:`~smtp_trio.protocol.extensions.{item.name}`"
        cells.append([item.keyword, f":rfc:`{item.rfc}`" if item.rfc else "none", item.title, adds, server, name])
    lines = ["\n".join(f"   {'  ' if i else '* '}- {cell}".rstrip() for i, cell in enumerate(line)) for line in cells]
    return RST_HEADER + "\n".join(lines) + "\n"


def pages() -> dict[Path, str]:
    """Return the text that each file should have."""
    rows = [row(extension) for extension in KNOWN]
    before, _, rest = README.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    return {README: f"{before}{BEGIN}{markdown(rows)}{END}{after}", PAGE: rst(rows)}


if __name__ == "__main__":
    for file, text in pages().items():
        file.write_text(text, encoding="utf-8")
