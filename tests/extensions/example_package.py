"""The example package, and how a distribution is put where Python finds it, without a network."""

from __future__ import annotations

import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "robustbench_example"


def write_distribution(site: Path, name: str, groups: dict[str, dict[str, str]]) -> None:
    """The metadata of a distribution, as an installer writes them."""
    folder = site / f"{name.replace('-', '_')}-0.1.0.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.0\n")
    lines = [
        f"[{group}]\n" + "".join(f"{key} = {value}\n" for key, value in held.items())
        for group, held in groups.items()
    ]
    (folder / "entry_points.txt").write_text("\n".join(lines))


def forget(prefix: str) -> None:
    """Let modules be imported again."""
    for name in [name for name in sys.modules if name.partition(".")[0] == prefix]:
        del sys.modules[name]
