"""An attack that waits while a file is there, so that a run cannot end before a test interrupts it."""

from __future__ import annotations

from pathlib import Path

_CODE = """\
import time
from dataclasses import dataclass
from pathlib import Path

import robustbench_local as rbl


@dataclass(frozen=True, kw_only=True)
class Held(rbl.Attack):
    norms = frozenset({"Linf"})
    access = "labels"

    def perturb(self, classifier, images, labels, threat, stream, masks=None):
        while Path("hold").exists():
            time.sleep(0.05)
        return images

    def estimate_cost(self, threat):
        return (0, 0)
"""


def add_held_attack(workplace: Path, models: tuple[str, ...] = ("first", "second")) -> None:
    """Add an attack to the small grid that waits while the file ``hold`` is there, and make that file.

    Args:
        workplace: The folder of the grid, which is the working directory of its runs; they need --allow-code.
        models: The models that the attack runs on.
    """
    grid = workplace / "grid.yaml"
    entry = f'  - {{card: "python:held.py:Held", norm: Linf, eps: 8/255, models: [{", ".join(models)}]}}\n'
    grid.write_text(grid.read_text().replace("gates:", f"{entry}gates:"))
    (workplace / "held.py").write_text(_CODE)
    (workplace / "hold").touch()
