"""The table of renamed names in the changelog and on the page on migrating."""

from __future__ import annotations

import re
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
Rows = list[tuple[str, str]]

#: Modules whose names the table uses without the name of the module.
MODULES = [
    import_module(f"smtp_trio{name}")
    for name in (
        "",
        ".protocol",
        ".protocol.sasl",
        ".protocol.dialogue",
        ".protocol.extensions.auth",
        ".testing",
        ".conform",
    )
]
#: Names of instances: their attributes are not those of a class.
INSTANCES = ("server", "record")


def read_fragment() -> Rows:
    """Return the rows of the changelog. A release moves them to CHANGELOG.md."""
    fragment = ROOT / "changelog.d" / "10.breaking.md"
    text = (fragment if fragment.exists() else ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    table = text.partition("| before | now |\n")[2].partition("| --- | --- |\n")[2]
    rows = re.match(r"(?: *\|.*\n)+", table)
    assert rows is not None
    return re.findall(r"\| (.+?) \| (.+) \|\n", rows[0])


def read_page() -> Rows:
    """Return the rows of docs/migrating.rst, with the quotes of Markdown."""
    text = (ROOT / "docs" / "migrating.rst").read_text(encoding="utf-8")
    table = text.partition("   * - before\n     - now\n")[2]
    return re.findall(r"   \* - (.+)\n     - (.+)\n", table.replace("``", "`"))


ROWS = read_fragment()


def exists(name: str) -> bool:
    """Return whether a name of the table is that of a module, a class, a function or an attribute."""
    if resolves("smtp_trio", name):
        return True
    return any(resolves(module.__name__, name) for module in MODULES)


def resolves(module: str, name: str) -> bool:
    """Return whether ``name`` exists in a module, or is that of a module in it."""
    found: object = import_module(module)
    for attribute in name.removeprefix("smtp_trio.").split("."):
        module = f"{module}.{attribute}"
        if hasattr(found, attribute):
            found = getattr(found, attribute)
        elif isinstance(found, ModuleType) and hasattr(found, "__path__") and find_spec(module):
            found = import_module(module)
        else:
            return False
    return True


def names(cell: str) -> list[str]:
    """Return the public names in a cell. The owner of ``.name`` is that of the name before it."""
    found: list[str] = []
    for name in re.findall(r"`(\.?[A-Za-z][\w.]*)(?:\([^`]*\))?`", cell):
        if name.startswith("."):
            found.append(found[-1].rpartition(".")[0] + name)
        elif ("." in name or name[0].isupper()) and name.partition(".")[0] not in INSTANCES:
            found.append(name)
    return found


def test_both_tables_are_equal() -> None:
    assert read_page() == ROWS
    assert len(ROWS) > 80


@pytest.mark.parametrize("now", [now for _, now in ROWS])
def test_new_names_exist(now: str) -> None:
    assert [name for name in names(now) if not exists(name)] == []


def test_no_name_has_two_rows() -> None:
    before = [cell for cell, _ in ROWS]
    assert len(before) == len(set(before))
