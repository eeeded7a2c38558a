"""One case as a user would run it: a grid in a folder of its own, which is also the checkpoint."""

from __future__ import annotations

import re
import resource
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

import robustbench_local as rbl
from benchmarks.broken_models.case import ModelCase
from benchmarks.broken_models.registry import find_model
from robustbench_local.classifier.package_code import digest_code
from robustbench_local.errors import RobustbenchError
from robustbench_local.evaluation.planning.environment import VERDICT_MODULES

CELL_SECONDS = 600.0
"""Seconds that one attack may take on one case."""
_MODEL_FILE = """\
from benchmarks.broken_models.registry import find_model


def build():
    return find_model({name!r}).build()
"""


def find_case_folder(case: ModelCase, folder: Path) -> Path:
    """The folder of a case."""
    return folder / re.sub(r"[^a-z0-9.]+", "-", case.name.lower()).strip("-")


def run_case(name: str, folder: Path, attacks: Sequence[str], n: int) -> str:
    """Run the attacks on a case unless the folder holds the finished run of this code.

    Args:
        name: The case.
        folder: Where all cases have their folders.
        attacks: Cards, whose radius is replaced by that of the case.
        n: How many images.

    Returns:
        One line: what was done, and the CPU seconds.
    """
    torch.set_num_threads(1)
    case = find_model(name)
    place = find_case_folder(case, folder)
    state = f"{digest_code(VERDICT_MODULES)} {n} {' '.join(attacks)}"
    mark = place / "state.txt"
    if mark.exists() and mark.read_text(encoding="utf-8") == state:
        return f"{case.name}: known"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    before = _measure_cpu_seconds()
    try:
        rbl.run_grid(
            _write_grid(case, place, attacks, n),
            out=place / "run",
            options=rbl.Options(allow_code=True, workers=1, device="cpu", cell_timeout=CELL_SECONDS),
        )
    except RobustbenchError as problem:
        (place / "refused.txt").write_text(str(problem), encoding="utf-8")
    seconds = _measure_cpu_seconds() - before
    (place / "seconds.txt").write_text(f"{seconds:.0f}", encoding="utf-8")
    mark.write_text(state, encoding="utf-8")
    return f"{case.name}: {seconds:.0f} s of CPU time"


def _write_grid(case: ModelCase, place: Path, attacks: Sequence[str], n: int) -> dict[str, object]:
    """The grid, with its files beside it."""
    images, labels = case.data(n)
    pixels = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    np.savez(place / "images.npz", x=pixels[..., 0] if pixels.shape[-1] == 1 else pixels, y=labels.numpy())
    (place / "model.py").write_text(_MODEL_FILE.format(name=case.name), encoding="utf-8")
    return {
        "schema": 1,
        "name": "study",
        "seed": 0,
        "data": {"source": f"npz:{place / 'images.npz'}"},
        "models": [{"id": "model", "source": f"python:{place / 'model.py'}:build"}],
        "attacks": [{"card": card, "eps": case.eps} for card in attacks],
    }


def _measure_cpu_seconds() -> float:
    """Of this process and of its ended children."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)
