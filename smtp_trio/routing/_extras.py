"""The packages of the extra ``dns``, which are imported when they are first used."""

from __future__ import annotations

from importlib import import_module


def missing(package: str) -> ModuleNotFoundError:
    """Return the exception for a package of the extra that is not installed."""
    return ModuleNotFoundError(f"smtp_trio.routing needs {package}: install smtp-trio[dns]", name=package)


def check_installed(packages: dict[str, str]) -> None:
    """Raise ModuleNotFoundError unless the packages are installed; ``packages`` are their names by that of a module."""
    for module, package in packages.items():
        try:
            import_module(module)
        except ModuleNotFoundError as exc:
            raise missing(package) from exc
