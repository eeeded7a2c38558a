"""Our minimum-norm attacks on a shipped network do not become weaker: optimality against stored distances.

The stored distances are the smallest that our attacks and those of torchattacks, foolbox, ART, adv-lib and
secml-torch found with 400 passes per image: the column ``nearest_known`` of

    rbl attack-score zoo:signs-plain --norm NORM --n 16 --budget 400 --out FOLDER
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
from robustbench_local.attacks import make_attack
from robustbench_local.attacks.minimum_norm import fmn
from robustbench_local.threats.threat_model import ThreatModel

pytestmark = pytest.mark.slow

BUDGET = 120
MARGIN = 0.03
"""Below the measured value by so much, an attack counts as weaker: two images of 16 half as far again."""
MAX_DISTANCES = {"L2": 13.86, "L1": 768.0, "Linf": 0.5}
MEASURED: dict[tuple[str, str], float] = {}
"""Optimality of each attack at the budget."""


@cache
def read_nearest(norm: str) -> np.ndarray:
    """The smallest known distance of each of the 16 images."""
    with (Path(__file__).parent / "nearest_known.csv").open(encoding="utf-8", newline="") as file:
        return np.array([float(row["distance"]) for row in csv.DictReader(file) if row["norm"] == norm])


@cache
def load_subject():
    return rbl.load_classifier("zoo:signs-plain"), rbl.load_dataset("signs", limit=16)


def measure_optimality(name: str, norm: str) -> float:
    [contender] = list_own_contenders(
        [name], norm, max_distance=MAX_DISTANCES[norm], budget=BUDGET, version="test"
    )
    classifier, data = load_subject()
    found = measure_contender(
        contender, classifier, data, ThreatModel(norm=norm, eps=MAX_DISTANCES[norm]), seed=0
    )
    assert found.failure == ""
    assert found.violations == ()
    assert found.calls <= BUDGET
    value = compute_optimality(found.distances, read_nearest(norm))
    assert value is not None
    return value


@pytest.mark.parametrize(("name", "norm"), sorted(MEASURED))
def test_an_attack_is_as_strong_as_it_was(name: str, norm: str):
    assert measure_optimality(name, norm) >= MEASURED[name, norm] - MARGIN


@pytest.mark.parametrize("norm", ["L2", "L1", "Linf"])
def test_a_weakened_attack_is_seen(norm: str, monkeypatch):
    # steps that do not shrink with the radius step over the boundary to the end
    monkeypatch.setattr(fmn, "_LAST_STEP_SHARE", 1.0)
    monkeypatch.setattr(fmn, "_LAST_GAMMA", 0.2)
    monkeypatch.setattr(fmn.FMN, "select_candidates", lambda self, engine, threat: engine.points)
    assert measure_optimality("fmn", norm) < MEASURED["fmn", norm] - MARGIN


def test_every_minimum_norm_attack_has_a_measured_value():
    names = {name for name, norm in MEASURED}
    assert names >= {"fmn", "ddn", "deepfool", "pdpgd", "cw", "ead", "curve"}
    for name, norm in MEASURED:
        assert norm in make_attack(name).norms
