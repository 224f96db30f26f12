"""The names that ``smtp_trio`` exports, and which modules are loaded when one of them is used."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import smtp_trio

SCRIPT = """\
import sys, trio
before = set(sys.modules)
import smtp_trio
smtp_trio.{}
print(*set(sys.modules) - before)
"""


@pytest.mark.parametrize(
    ("name", "without"),
    [
        ("Server", {"email", "json", "smtp_trio._client.client"}),
        ("connect", {"email.policy", "email.generator", "json", "smtp_trio._server.server"}),
    ],
)
def test_name_loads_only_the_modules_that_it_needs(name: str, without: set[str]) -> None:
    run = subprocess.run([sys.executable, "-c", SCRIPT.format(name)], check=True, capture_output=True, text=True)
    loaded = set(run.stdout.split())
    assert "smtp_trio.protocol" in loaded
    assert not loaded & without


def test_type_checkers_see_the_names_of_the_lazy_table() -> None:
    """The imports under ``if TYPE_CHECKING`` and ``_MODULES`` list the same names, from the same modules."""
    [block] = [
        node
        for node in ast.parse(Path(smtp_trio.__file__).read_text(encoding="utf-8")).body
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    ]
    seen = {}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        assert node.level == 1
        # A type checker takes a name as exported only if it is imported as itself.
        assert [alias.name for alias in node.names] == [alias.asname for alias in node.names]
        seen[node.module] = " ".join(alias.name for alias in node.names)
    assert seen == smtp_trio._MODULES


def test_every_public_name_can_be_imported() -> None:
    assert [name for name in smtp_trio.__all__ if not hasattr(smtp_trio, name)] == []


def test_misspelt_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'smtp_trio' has no attribute 'Sevrer'"):
        getattr(smtp_trio, "Sevrer")  # noqa: B009
