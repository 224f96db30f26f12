"""The versions of Python that are compared, each in an environment of its own."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from .case import UnavailableError
from .servers import run_directory

VERSIONS = ("3.11", "3.12", "3.13")
#: What the servers of `benchmarks.server` import besides smtp_trio, which is imported from the working directory.
PACKAGES = ("trio", "attrs", "idna")


@functools.cache
def interpreter(version: str) -> str:
    """Return an interpreter of this version that has the same packages as this one.

    Raises UnavailableError if the version is not installed, or pip cannot install the packages for it.
    """
    if version == f"{sys.version_info.major}.{sys.version_info.minor}":
        return sys.executable
    directory = run_directory() / f"python{version}"
    python = str(directory / "bin/python")
    packages = [f"{name}=={metadata.version(name)}" for name in PACKAGES]
    for command in (
        [_installed(version), "-m", "venv", str(directory)],
        [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages],
    ):
        if subprocess.run(["timeout", "600", *command], capture_output=True, check=False).returncode:
            raise UnavailableError(f"pip could not install {', '.join(packages)} for Python {version}")
    return python


def _installed(version: str) -> str:
    """Return an interpreter of this version, in PATH or from pyenv, whose own commands run one version only."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    found = [shutil.which(f"python{version}"), *map(str, sorted(pyenv.glob(f"versions/{version}.*/bin/python")))]
    for python in filter(None, found):
        if subprocess.run([python, "-c", ""], capture_output=True, check=False).returncode == 0:
            return python
    raise UnavailableError(f"Python {version} is not installed")
