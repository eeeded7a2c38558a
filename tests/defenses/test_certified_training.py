"""IBP and CROWN-IBP: the schedules, the losses, and networks that can be verified afterwards."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small_training import (
    COMMON_PARAMETERS,
    TRAINING,
    VALIDATION,
    build_batch,
    build_context,
    build_network,
    compute_accuracy,
)
from torch import nn
from torch.nn import functional as F  # noqa: N812

from robustbench_local.certification.bound_propagation.bounds import (
    compute_crown_ibp_margins,
    compute_ibp_margins,
)
from robustbench_local.defenses.recipes.crown_ibp import CrownIBP
from robustbench_local.defenses.recipes.ibp_training import IBPTraining
from robustbench_local.defenses.recipes.standard import Standard
from robustbench_local.defenses.recipes.training_pgd import build_linf_examples
from robustbench_local.defenses.training.training_loop import train
from robustbench_local.errors import CardError, ModelError
from robustbench_local.threats.threat_model import ThreatModel

EPS = 0.08
SCHEDULE = COMMON_PARAMETERS | {
    "epochs": 6,
    "learning_rate": 0.02,
    "optimizer": "adamw",
    "threat": ThreatModel(norm="Linf", eps=EPS),
    "kappa": 0.5,
    "clean_epochs": 1,
    "ramp_epochs": 3,
}
INTERVALS = IBPTraining(**SCHEDULE)
LINES = CrownIBP(**SCHEDULE, beta=0.0)


def _box(images, eps):
    return (images - eps).clamp(min=0), (images + eps).clamp(max=1)


def test_the_ramp_is_a_straight_line():
    found = [INTERVALS.compute_ramp(progress) for progress in (0, 1, 1.75, 2.5, 3.7, 4, 6)]
    assert found == pytest.approx([0, 0, 0.25, 0.5, 0.9, 1, 1])


def test_a_linear_network_s_worst_logits_have_the_closed_form():
    """The margin of a linear classifier falls by eps times the L1 norm of the difference of its weights."""
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    objective = INTERVALS.build_objective(build_context(module))
    step = build_batch(progress=2.5)  # half way up: eps / 2, kappa 3/4
    images = 0.2 + 0.6 * step.images
    logits, weight = module(images), module[1].weight
    apart = (weight[step.labels][:, None] - weight[None]).abs().sum(dim=2)
    margins = logits.gather(1, step.labels[:, None]) - logits - EPS / 2 * apart
    expected = 0.75 * F.cross_entropy(logits, step.labels) + 0.25 * F.cross_entropy(-margins, step.labels)
    torch.testing.assert_close(objective.compute_loss(replace(step, images=images)), expected)


@pytest.mark.parametrize("recipe", [INTERVALS, LINES], ids=lambda recipe: recipe.method)
def test_before_the_ramp_it_is_ordinary_training(recipe):
    module, step = build_network(norm=False), build_batch(progress=0.5)
    found = recipe.build_objective(build_context(module)).compute_loss(step)
    assert found == F.cross_entropy(module(step.images), step.labels)


@pytest.mark.parametrize(("progress", "beta"), [(1.75, 0.75), (3.25, 0.25), (5.0, 0.0)])
def test_crown_ibp_goes_over_to_intervals(progress, beta):
    module, step = build_network(norm=False), build_batch(progress=progress)
    ramp = LINES.compute_ramp(progress)
    box = _box(step.images, ramp * EPS)
    lines, intervals = (
        bounds(module, *box, step.labels) for bounds in (compute_crown_ibp_margins, compute_ibp_margins)
    )
    mixed = beta * lines + (1 - beta) * intervals
    kappa = 1 - 0.5 * ramp
    expected = kappa * F.cross_entropy(module(step.images), step.labels) + (1 - kappa) * F.cross_entropy(
        -mixed, step.labels
    )
    torch.testing.assert_close(LINES.build_objective(build_context(module)).compute_loss(step), expected)


def test_the_bounds_follow_the_weights_as_they_change():
    module, step = build_network(norm=False), build_batch(progress=5.0)
    objective = INTERVALS.build_objective(build_context(module))
    before = objective.compute_loss(step)
    with torch.no_grad():
        module[-1].weight.mul_(3)
    assert not torch.isclose(objective.compute_loss(step), before)


@pytest.fixture(scope="module")
def ordinary():
    module = build_network(norm=False)
    module.load_state_dict(train(module, Standard(**COMMON_PARAMETERS), TRAINING, VALIDATION).state)
    return module


@pytest.mark.parametrize("recipe", [INTERVALS, LINES], ids=lambda recipe: recipe.method)
def test_what_it_trains_can_be_verified_and_withstands_attacks(recipe, ordinary):
    lines: list[str] = []
    module = build_network(norm=False)
    trained = train(module, recipe, TRAINING, VALIDATION, report=lines.append)
    module.load_state_dict(trained.state)
    assert f"verified {trained.best.robust:.1%}" in lines[trained.best.epoch - 1]
    images, labels = VALIDATION.images, VALIDATION.labels
    verified = []
    for each in (module, ordinary):
        proven = recipe.build_objective(build_context(each)).is_robust(each, images, labels)
        verified.append(int(proven.sum()) / len(images))
        examples = build_linf_examples(each, images, labels, eps=EPS, steps=20, step_size=EPS / 4)
        assert not (proven & (each(examples).argmax(dim=1) != labels)).any()
    assert verified[0] == trained.best.robust >= 0.7
    assert verified[1] < verified[0]
    assert compute_accuracy(module, images, labels) >= 0.9


def test_a_network_without_bounds_is_refused():
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(18, 2))
    with pytest.raises(ModelError, match="MaxPool2d"):
        INTERVALS.build_objective(build_context(module))


@pytest.mark.parametrize(
    ("recipe", "change", "message"),
    [
        (INTERVALS, {"threat": ThreatModel(norm="L2", eps=0.5)}, "Linf only, not L2"),
        (INTERVALS, {"kappa": 1.0}, "kappa must be in"),
        (INTERVALS, {"ramp_epochs": 0}, "ramp_epochs at least 1"),
        (INTERVALS, {"ramp_epochs": 6}, "the ramp must end before"),
        (LINES, {"beta": 2.0}, "beta must be in"),
    ],
)
def test_what_makes_no_sense_is_refused(recipe, change, message):
    with pytest.raises(CardError, match=message):
        replace(recipe, **change)
