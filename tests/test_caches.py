"""No cache of results grows without a bound, and none keeps long input: its arguments may come from a peer."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import smtp_trio
from smtp_trio.protocol import Reply, commands, replies, syntax
from smtp_trio.protocol.strictness import NORMAL

PACKAGE = Path(smtp_trio.__file__).parent
MODULES = sorted(
    path for path in PACKAGE.rglob("*.py") if "conform" not in path.parts
)  # its caches are of its own files


def caches(tree: ast.AST) -> Iterator[tuple[str, int | None, bool]]:
    """Yield the name of each cached function, the size of its cache, and whether it has parameters."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for decorator in node.decorator_list:
                call = decorator if isinstance(decorator, ast.Call) else None
                name = ast.unparse(decorator if call is None else call.func).rpartition(".")[2]
                if name in ("cache", "lru_cache"):
                    values = [] if call is None else [*call.args, *(keyword.value for keyword in call.keywords)]
                    sizes = [value.value for value in values if isinstance(value, ast.Constant)]
                    size = sizes[0] if sizes and isinstance(sizes[0], int) else None
                    yield node.name, size, bool(node.args.args)


def test_caches_have_a_bound() -> None:
    found = {
        f"{path.relative_to(PACKAGE)}: {name}": (size, parameters)
        for path in MODULES
        for name, size, parameters in caches(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert len(found) >= 10
    assert [name for name, (size, parameters) in found.items() if parameters and not 0 < (size or 0) <= 1024] == []


@pytest.mark.parametrize("source", ["@cache\ndef f(a): pass", "@functools.lru_cache(maxsize=None)\ndef f(a): pass"])
def test_cache_without_a_bound_is_found(source: str) -> None:
    assert list(caches(ast.parse(source))) == [("f", None, True)]


def test_replies_with_many_status_codes_are_not_kept() -> None:
    for detail in range(1000):
        Reply(450, "x", f"4.{detail}.{detail}")
    assert replies._derived.cache_info().currsize <= 256


@pytest.mark.parametrize(("size", "cached"), [(200, True), (1000, False)])
def test_long_paths_are_not_kept(size: int, cached: bool) -> None:
    argument = f"TO:<{'x' * size}@mx.test>"
    first, second = (commands.Rcpt.decoder(NORMAL)(argument, {}) for _ in range(2))
    assert first == second
    assert (first is second) is cached
    before = syntax.parse_path.cache_info().currsize
    assert syntax.parse_argument(f"TO:<{'y' * size}@mx.test> X=1") is not None
    assert (syntax.parse_path.cache_info().currsize > before) is cached or before == 1024
