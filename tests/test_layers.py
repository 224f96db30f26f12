"""The packages of smtp_trio form layers: an import points down, and modules do not import each other in a circle.

The imports are read from the source with :mod:`ast`. An import under ``if TYPE_CHECKING`` or inside a function counts like any
other one: a module that needs the name of a class of a higher layer, if only for an annotation, cannot be understood without it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

import smtp_trio

PACKAGE = Path(smtp_trio.__file__).parent

Graph = dict[str, set[str]]

#: From the bottom to the top. Modules of the second row may import each other; `_server` and `_client` may not.
LAYERS: list[list[str]] = [
    ["protocol"],
    ["_types", "_timeouts", "_wire", "_instrument", "_groups"],
    ["_server", "_client"],
    ["policies", "routing", "credentials"],
    ["recipients"],
    ["stores", "tracing"],
    ["dsn"],
    ["relay"],
    ["testing"],
    ["conform", "web"],
    ["_cli"],
    ["__main__"],
]

#: Parts that stand outside of the layers, each with the reason.
OUTSIDE = {
    "__init__": "exports the public names of every layer; it imports them when they are first used",
    "_pytest_plugin": "the entry point that pytest loads; its fixtures import smtp_trio.testing when a test uses them",
}

#: Imports that point up or sideways, each with the reason.
UPWARD: dict[tuple[str, str], str] = {
    ("_cli.main", "__init__"): "`--version` prints `__version__`",
    ("web._openapi", "__init__"): "the description has `__version__`",
    ("web._metrics", "__init__"): "the metrics have the version as well",
    ("web._statistics_api", "__init__"): "the statistics have it too",
    (
        "_client.connect",
        "routing._send",
    ): "`send` without a host finds the exchangers; it imports the module when called so",
}

#: Groups of modules in one package that import each other in a circle, each with the reason.
CYCLES: dict[frozenset[str], str] = {
    frozenset({"_server.server", "_server.session_task", "_server.session", "_server.hooks"}): (
        "hooks receive the `Session`, a `Session` names its `Server`, and a `Server` runs a `SessionTask` for each"
    ),
}


def modules() -> dict[str, Path]:
    """Return every module of the package under its dotted name within ``smtp_trio``; a package under its own name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def targets(node: ast.AST, folder: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Yield what an import statement of a module in ``folder`` may refer to, as paths from the root of the package."""
    match node:
        case ast.Import(names=names):
            for alias in names:
                top, *rest = alias.name.split(".")
                if top == "smtp_trio":
                    yield tuple(rest)
        case ast.ImportFrom(module=module, names=names, level=level):
            path = tuple(module.split(".")) if module else ()
            if level:
                path = folder[: len(folder) - (level - 1)] + path
            elif path[:1] == ("smtp_trio",):
                path = path[1:]
            else:
                return
            for alias in names:
                yield (*path, alias.name)


def imports(name: str) -> set[str]:
    """Return the modules of smtp_trio that the module ``name`` imports, anywhere in its source."""
    path = MODULES[name]
    folder = path.relative_to(PACKAGE).parent.parts
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        for target in targets(node, folder):
            # ``from .body import Body`` names the module and a member of it; ``from . import body`` names the module.
            paths = (".".join(target[:length]) for length in range(len(target), 0, -1))
            found.add(next((path for path in paths if path in MODULES), "__init__"))
    return found - {name}


GRAPH: Graph = {name: imports(name) for name in MODULES}


def circles(graph: Graph) -> set[frozenset[str]]:
    """Return the groups of nodes that can each reach every other one of their group (Tarjan's strongly connected components)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: set[frozenset[str]] = set()

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in sorted(graph.get(node, ())):
            if target not in index:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], index[target])
        if low[node] == index[node]:
            group = set()
            while node not in group:
                group.add(stack.pop())
            if len(group) > 1:
                found.add(frozenset(group))

    for node in graph:
        if node not in index:
            visit(node)
    return found


def part(name: str) -> str:
    """Return the part of the package that a module belongs to: a subpackage, or a module beside them."""
    return name.partition(".")[0]


def layer(name: str) -> int:
    return next(number for number, row in enumerate(LAYERS) if name in row)


def between(names: Iterable[str]) -> set[tuple[str, str]]:
    """Return the imports between different parts, as pairs of modules, for the modules given."""
    return {(name, target) for name in names for target in GRAPH[name] if part(target) != part(name)}


def test_every_part_has_a_layer() -> None:
    assert {part(name) for name in MODULES} == {*(name for row in LAYERS for name in row), *OUTSIDE}


def test_imports_point_down() -> None:
    upward = {
        (source, target)
        for source, target in between(MODULES)
        if part(source) not in OUTSIDE
        and (
            part(target) in OUTSIDE
            or layer(part(target)) > layer(part(source))
            or {part(source), part(target)} == {"_server", "_client"}
        )
    }
    assert upward == set(UPWARD)


def test_parts_have_no_cycles() -> None:
    graph: Graph = {part(name): set() for name in MODULES if part(name) not in OUTSIDE}
    for source, target in between(MODULES):
        if not {part(source), part(target)} & OUTSIDE.keys() and (source, target) not in UPWARD:
            graph[part(source)].add(part(target))
    assert circles(graph) == set()


@pytest.mark.parametrize(
    "package",
    [
        "protocol",
        "_server",
        "_client",
        "policies",
        "routing",
        "credentials",
        "recipients",
        "stores",
        "relay",
        "testing",
        "conform",
        "web",
        "_cli",
    ],
)
def test_modules_of_a_package_have_no_cycles(package: str) -> None:
    graph = {
        name: {target for target in GRAPH[name] if part(target) == package and target != package}
        for name in MODULES
        if part(name) == package and name != package
    }
    assert circles(graph) == {group for group in CYCLES if part(min(group)) == package}


def test_modules_do_not_import_their_own_package() -> None:
    """A module that imports names from the ``__init__`` of its own package is in a circle with it."""
    assert {(name, target) for name in MODULES for target in GRAPH[name] if name.startswith(f"{target}.")} == set()


def test_package_has_few_private_modules() -> None:
    """`ls smtp_trio` shows packages and at most six private modules."""
    private = [path.name for path in PACKAGE.glob("_*.py") if not path.name.startswith("__")]
    assert len(private) <= 6
    assert {path.name for path in PACKAGE.glob("*.py")} - set(private) == {"__init__.py", "__main__.py"}
