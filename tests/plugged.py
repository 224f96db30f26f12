"""pytest in a process of its own, with the plugin as an installed package would bring it."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
INI = "[pytest]\nfilterwarnings = error\naddopts = --strict-markers --strict-config\n"


def installed(folder: Path) -> str:
    """A PYTHONPATH with smtp_trio on it, and with the entry points that pyproject.toml has: where it is installed too, no matter."""
    info = folder / "installed" / "smtp_trio-0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: smtp-trio\nVersion: 0\n")
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    lines = [f"{name} = {module}" for name, module in groups["pytest11"].items()]
    (info / "entry_points.txt").write_text("\n".join(["[pytest11]", *lines, ""]))
    return os.pathsep.join(filter(None, [str(ROOT), str(info.parent), os.environ.get("PYTHONPATH")]))
