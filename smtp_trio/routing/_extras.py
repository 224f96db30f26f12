"""The packages of the extra ``dns``, which are imported when they are first used."""

from __future__ import annotations


def missing(package: str) -> ModuleNotFoundError:
    """Return the exception for a package of the extra that is not installed."""
    return ModuleNotFoundError(f"smtp_trio.routing needs {package}: install smtp-trio[dns]", name=package)
