"""Our minimum-norm attacks on a shipped network do not become weaker: optimality against stored distances.

The stored distances are the smallest that our attacks and those of foolbox and adv-lib found: the column
``nearest_known`` of the distances.csv of

    rbl attack-score zoo:signs-plain --norm NORM --n 12 --budget 120 --libraries adv-lib,foolbox --out FOLDER
"""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import robustbench_local as rbl
from robustbench_local.attack_score.contenders import list_own_contenders
from robustbench_local.attack_score.measurement import measure_contender
from robustbench_local.attack_score.optimality import compute_optimality
from robustbench_local.attacks.minimum_norm import fmn, pdpgd
from robustbench_local.threats.threat_model import Norm, ThreatModel

pytestmark = pytest.mark.slow

BUDGET = 120
BUDGETS = {"pdpgd": 240}
"""Of attacks that need more steps than that leaves."""
MARGIN = 0.01
"""Below the measured value by so much, an attack counts as weaker: FMN without the end of its schedule and
without refinement loses 0.016 (L2) and 0.018 (L1)."""
MAX_DISTANCES: dict[Norm, float] = {"Linf": 0.5, "L2": 0.25 * 3072**0.5, "L1": 0.25 * 3072}
MEASURED: dict[tuple[str, Norm], float] = {
    ("cw", "L2"): 0.724,
    ("ddn", "L2"): 1.000,
    ("deepfool", "L2"): 0.891,
    ("deepfool", "Linf"): 0.834,
    ("ead", "L1"): 0.816,
    ("fmn", "L1"): 0.994,
    ("fmn", "L2"): 0.987,
    ("fmn", "Linf"): 0.998,
    ("pdpgd", "L1"): 0.899,
}
"""Optimality of each attack at the budget; of foolbox's DDN 0.993, and its FMN 0.989 under L1 and 0.973 under
Linf."""


@cache
def read_nearest(norm: str) -> np.ndarray:
    """The smallest known distance of each of the 12 images."""
    with (Path(__file__).parent / "nearest_known.csv").open(encoding="utf-8", newline="") as file:
        return np.array([float(row["distance"]) for row in csv.DictReader(file) if row["norm"] == norm])


@cache
def load_subject():
    return rbl.load_classifier("zoo:signs-plain"), rbl.load_dataset("signs", limit=12)


def measure_optimality(name: str, norm: Norm) -> float:
    budget = BUDGETS.get(name, BUDGET)
    [contender] = list_own_contenders(
        [name], norm, max_distance=MAX_DISTANCES[norm], budget=budget, version="test"
    )
    classifier, data = load_subject()
    found = measure_contender(
        contender, classifier, data, ThreatModel(norm=norm, eps=MAX_DISTANCES[norm]), seed=0
    )
    assert found.failure == ""
    assert found.violations == ()
    assert found.calls <= budget
    value = compute_optimality(found.distances, read_nearest(norm))
    assert value is not None
    return value


@pytest.mark.parametrize(("name", "norm"), sorted(MEASURED))
def test_an_attack_is_as_strong_as_it_was(name: str, norm: Norm):
    assert measure_optimality(name, norm) >= MEASURED[name, norm] - MARGIN


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_a_weakened_attack_is_seen(norm: Norm, monkeypatch):
    # steps that do not shrink with the radius step over the boundary to the end
    monkeypatch.setattr(fmn, "_LAST_STEP_SHARE", 1.0)
    monkeypatch.setattr(fmn, "_LAST_GAMMA", 0.2)
    monkeypatch.setattr(fmn.FMN, "select_candidates", lambda self, engine, threat: engine.points)
    assert measure_optimality("fmn", norm) < MEASURED["fmn", norm] - MARGIN


def test_a_weakened_pdpgd_is_seen(monkeypatch):
    # without its refinement
    monkeypatch.setattr(pdpgd.PDPGD, "refine_results", lambda self, engine, threat: None)
    assert measure_optimality("pdpgd", "L1") < MEASURED["pdpgd", "L1"] - MARGIN
