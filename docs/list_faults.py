"""Write the tables of ``faults.rst`` from the grammar of rules into ``faults.inc``.

python docs/list_faults.py
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from smtp_trio.policies import Layer
from smtp_trio.testing._faults.grammar import GRAMMAR, RULE_MODIFIERS, SCOPE_MODIFIERS
from smtp_trio.testing._faults.values import KINDS, PLACES

PAGE = Path(__file__).with_name("faults.inc")
HEADER = ".. Written by ``python docs/list_faults.py``.\n\n"


def table(title: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table."""
    lines = ["\n".join(f"   {'  ' if i else '* '}- {cell}" for i, cell in enumerate(row)) for row in (title, *rows)]
    return ".. list-table::\n   :header-rows: 1\n\n" + "\n".join(lines) + "\n"


def code(text: str) -> str:
    """Return a text as a literal."""
    return f"``{text}``"


def name_of(cls: type) -> str:
    """Return the name of a class for a reference."""
    return f"~smtp_trio.policies.{cls.__name__}" if issubclass(cls, Layer) else cls.__name__


def pages() -> dict[Path, str]:
    """Return the text that the file should have."""
    kinds = [
        (code(row.usage), f":class:`{name_of(row.cls)}`", row.description, code(row.example))
        for row in GRAMMAR
        if row.in_server
    ]
    tables = [
        table(("Rule", "Class", "Effect", "Example"), kinds),
        table(("Word", "Meaning"), [(code(kind.name), kind.description) for kind in KINDS]),
        table(
            ("After the rule", "Meaning"), [(code(usage), text) for usage, text in (*RULE_MODIFIERS, *SCOPE_MODIFIERS)]
        ),
    ]
    places = f"The places are {', '.join(map(code, PLACES))}, and any other verb in quotes.\n"
    return {PAGE: HEADER + "\n".join((*tables, places))}


if __name__ == "__main__":
    for file, text in pages().items():
        file.write_text(text, encoding="utf-8")
