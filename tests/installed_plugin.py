"""Support for tests that run pytest in a process of its own, with the plugin installed as by a package."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
INI = "[pytest]\nfilterwarnings = error\naddopts = --strict-markers --strict-config\n"


def installed(folder: Path) -> str:
    """Return a PYTHONPATH with smtp_trio and the entry points of pyproject.toml, whether it is installed or not."""
    info = folder / "installed" / "smtp_trio-0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: smtp-trio\nVersion: 0\n")
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    lines = [f"{name} = {module}" for name, module in groups["pytest11"].items()]
    (info / "entry_points.txt").write_text("\n".join(["[pytest11]", *lines, ""]))
    return os.pathsep.join(filter(None, [str(ROOT), str(info.parent), os.environ.get("PYTHONPATH")]))
