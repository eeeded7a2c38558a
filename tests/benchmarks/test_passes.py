"""What an image costs, exactly: passes and operations, so that nobody slows the engine down unseen."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from benchmarks.operations import count_operations
from robustbench_local import Classifier
from robustbench_local.attacks import make_attack
from robustbench_local.attacks.base import Attack
from robustbench_local.randomness import RandomStream
from robustbench_local.threats.threat_model import ThreatModel

THREAT = ThreatModel(norm="Linf", eps=0.03)
LABELS = torch.zeros(3, dtype=torch.int64)
IMAGES = torch.rand((3, 3, 8, 8), generator=torch.Generator().manual_seed(0))


def classifier(lead: float, classes: int = 10) -> Classifier:
    """Linear in the pixels, and that many logits surer of class 0 than its weights alone would be."""
    torch.manual_seed(0)
    layer = nn.Linear(192, classes)
    nn.init.normal_(layer.weight, std=0.05)
    nn.init.zeros_(layer.bias)
    with torch.no_grad():
        layer.bias[0] = lead
    return Classifier(nn.Sequential(nn.Flatten(), layer).eval(), num_classes=classes)


SURE, UNSURE = classifier(lead=50.0), classifier(lead=-50.0)
"""No image of the first can be broken; those of the second are broken from the start."""


def passes(attack: Attack, model: Classifier, threat: ThreatModel = THREAT) -> tuple[list[int], list[int]]:
    with model.evaluation_mode(), model.count_passes(len(IMAGES)) as meter:
        attack.perturb(model, IMAGES, LABELS, threat, RandomStream(0, ("a", "b", "c"), repr(attack)))
    return meter.forward_passes.tolist(), meter.backward_passes.tolist()


@pytest.mark.parametrize(
    ("name", "parameters", "forward", "backward"),
    [
        ("fgsm", {}, 1, 1),
        ("pgd", {"steps": 20}, 21, 20),
        ("pgd", {"steps": 20, "early_stop": False}, 21, 20),
        ("pgd", {"steps": 5, "restarts": 3}, 18, 15),
        ("apgd", {}, 101, 100),
        ("apgd-t", {"steps": 10}, 1 + 9 * 11, 9 * 10),
        ("square", {"queries": 200}, 200, 0),
    ],
)
def test_a_survivor_costs_exactly(name: str, parameters: dict[str, object], forward: int, backward: int):
    attack = make_attack(name, parameters)
    assert passes(attack, SURE) == ([forward] * 3, [backward] * 3)
    assert attack.estimate_cost(THREAT) == (forward, backward)


def test_an_average_over_draws_confirms_its_candidates_within_the_estimate():
    """Fifty fresh draws judge the best and the last point of a path; the estimate counts refuted ones too."""
    attack = make_attack("apgd", {"steps": 10, "draws": 4})
    assert passes(attack, SURE) == ([44 + 2 * 50] * 3, [40] * 3)
    assert attack.estimate_cost(THREAT) == (44 + 6 * 50, 40)


@pytest.mark.parametrize(
    ("name", "forward", "backward"),
    [
        ("pgd", 1, 1),
        ("apgd", 1, 1),
        ("autoattack", 1, 1),
        ("square", 1, 0),
        ("apgd-t", 10, 9),
        ("fab-t", 10, 9),
    ],
)
def test_an_image_that_breaks_at_once_costs_that_look(name: str, forward: int, backward: int):
    """And the look that ranks the classes, and the siblings in the same batch, where there are targets."""
    assert passes(make_attack(name), UNSURE) == ([forward] * 3, [backward] * 3)


@pytest.mark.slow
def test_a_survivor_of_autoattack_costs_the_sum_of_its_parts():
    """And the looks of Square that were ahead of their time and in vain: at most a quarter of its steps."""
    attack = make_attack("autoattack")
    forward, backward = passes(attack, SURE)
    apgd_ce, ranking, apgd_t, fab_t, square = (101, 100), (1, 0), (9 * 101, 900), (9 * 101, 900), (5001, 0)
    parts = (apgd_ce, ranking, apgd_t, fab_t, square)
    least, spare = sum(part[0] for part in parts), 5000 // 4
    assert all(least <= spent <= least + spare for spent in forward)
    assert attack.estimate_cost(THREAT)[0] == least + spare
    assert backward == [sum(part[1] for part in parts)] * 3


@pytest.mark.parametrize(
    ("name", "parameters", "most"),
    [("pgd", {"steps": 20}, 48), ("apgd", {"steps": 50}, 72), ("square", {"queries": 100}, 65)],
)
def test_operations_beside_the_network_stay_few(name: str, parameters: dict[str, object], most: int):
    attack = make_attack(name, parameters)

    def run() -> Tensor:
        return attack.perturb(SURE, IMAGES, LABELS, THREAT, RandomStream(0, ("a", "b", "c"), repr(attack)))

    with SURE.evaluation_mode():
        run()  # the very first look also examines the model
        tally = count_operations(run, SURE.module)
    assert tally.forward_calls == attack.estimate_cost(THREAT)[0]
    assert tally.operations / tally.forward_calls < most


def test_operations_of_the_network_are_left_out_and_views_are_free():
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 10))

    def run() -> None:
        images = IMAGES.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(model(images).sum(), images)
        gradient.view(-1).max().item()

    tally = count_operations(run, model)
    # clone, sum, ones_like for the backward pass, max, item
    assert (tally.operations, tally.synchronizations, tally.forward_calls) == (5, 1, 1)
    assert count_operations(run).operations > 5
