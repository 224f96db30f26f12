"""The names that ``smtp_trio`` exports, and which modules are loaded when one of them is used."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import smtp_trio
import smtp_trio.protocol.extensions
import smtp_trio.protocol.sasl

SCRIPT = """\
import sys, trio
before = set(sys.modules)
import smtp_trio
smtp_trio.{}
print(*set(sys.modules) - before)
"""
COMPILED = """\
import re, sys
from smtp_trio import Server
for name, module in sys.modules.items():
    if name.startswith("smtp_trio."):
        print(*(key for key, value in vars(module).items() if isinstance(value, re.Pattern)), end=" ")
"""


PACKAGES = pytest.mark.parametrize(
    "package",
    [smtp_trio, smtp_trio.protocol, smtp_trio.protocol.extensions, smtp_trio.protocol.sasl],
    ids=lambda each: each.__name__,
)
PROTOCOL = Path(smtp_trio.__file__).parent / "protocol"
#: The modules of the extensions that a server has by default. The others are imported by those that use them.
STANDARD = {type(extension).__module__ for extension in smtp_trio.standard()}
OPTIONAL = {f"smtp_trio.protocol.extensions.{path.stem}" for path in (PROTOCOL / "extensions").glob("[a-z]*.py")} - {
    *STANDARD,
    "smtp_trio.protocol.extensions.defaults",
}
MECHANISMS = {f"smtp_trio.protocol.sasl.{path.stem}" for path in (PROTOCOL / "sasl").glob("[a-z]*.py")}


def loaded_by(name: str) -> set[str]:
    """Return the modules that the use of a public name loads, without those of Trio."""
    run = subprocess.run([sys.executable, "-c", SCRIPT.format(name)], check=True, capture_output=True, text=True)
    return set(run.stdout.split())


def test_server_loads_only_what_every_server_needs() -> None:
    """A program that serves mail starts quickly: what depends on settings or clients is loaded when it is needed."""
    loaded = loaded_by("Server")
    ours = {name for name in loaded if name.partition(".")[0] == "smtp_trio"}
    assert loaded - ours <= {"datetime", "_datetime"}
    assert loaded >= STANDARD
    assert not ours & OPTIONAL
    assert not ours & MECHANISMS
    assert not ours & {
        "smtp_trio._server.handshake",
        "smtp_trio._server.measurements",
        "smtp_trio._server.tls_files",
        "smtp_trio.protocol.client",
        "smtp_trio.protocol.proxy_header",
    }
    assert {".".join(name.split(".")[:2]) for name in ours} == {
        "smtp_trio",
        "smtp_trio._groups",
        "smtp_trio._instrument",
        "smtp_trio._server",
        "smtp_trio._timeouts",
        "smtp_trio._types",
        "smtp_trio._wire",
        "smtp_trio.protocol",
    }


def test_server_compiles_no_regular_expression_that_it_may_not_need() -> None:
    """`lazy_pattern` makes those that a message needs, and the expression for status codes is needed for every `Reply`."""
    run = subprocess.run([sys.executable, "-c", COMPILED], check=True, capture_output=True, text=True)
    assert run.stdout.split() == ["STATUS"]


def test_client_does_not_load_the_server_nor_a_parser_of_messages() -> None:
    assert not loaded_by("connect") & {"email.policy", "email.generator", "json", "smtp_trio._server.server"}


@PACKAGES
def test_type_checkers_see_the_names_of_the_lazy_table(package: ModuleType) -> None:
    """The imports under ``if TYPE_CHECKING`` and ``_MODULES`` list the same names, from the same modules."""
    [block] = [
        node
        for node in ast.parse(Path(str(package.__file__)).read_text(encoding="utf-8")).body
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    ]
    seen = {}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        assert node.level == 1
        # A type checker takes a name as exported only if it is imported as itself.
        assert [alias.name for alias in node.names] == [alias.asname for alias in node.names]
        seen[node.module] = " ".join(alias.name for alias in node.names)
    assert seen == package._MODULES


@PACKAGES
def test_every_public_name_can_be_imported(package: ModuleType) -> None:
    assert [name for name in package.__all__ if not hasattr(package, name)] == []
    assert set(package.__all__) <= set(dir(package))


def test_misspelt_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'smtp_trio' has no attribute 'Sevrer'"):
        getattr(smtp_trio, "Sevrer")  # noqa: B009
