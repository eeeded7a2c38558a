"""One template for all attacks inside a ball: what they begin with, and which parts they bring."""

from __future__ import annotations

import pytest
import torch
from attack_samples import Sample

from robustbench_local.attacks import ATTACKS
from robustbench_local.attacks.adapters.libraries import ReferenceAutoAttack, TorchattacksAttack
from robustbench_local.attacks.base import AttackInputs, BallAttack
from robustbench_local.attacks.core.engine_attack import EngineAttack
from robustbench_local.errors import ThreatError
from robustbench_local.threats.threat_model import ThreatModel

OTHER_RESULTS = {"corruption", "patch", "spatial", "sticker"}
"""Attacks whose results are parameters or objects, not images in a ball."""
LINF = ThreatModel(norm="Linf", eps=0.1)


class Midpoint(BallAttack):
    """Moves every pixel that it may by half of eps towards grey, and remembers what it was given."""

    given: AttackInputs | None = None

    def find_candidates(self, inputs: AttackInputs):
        type(self).given = inputs
        step = inputs.threat.eps / 2 * (0.5 - inputs.images).sign()
        return inputs.images + (step if inputs.masks is None else step * inputs.masks)

    def estimate_cost(self, threat: ThreatModel):
        return 0, 0


def test_every_attack_in_a_ball_begins_alike():
    kinds = {name: ATTACKS[name] for name in ATTACKS}
    assert {name for name, kind in kinds.items() if not issubclass(kind, BallAttack)} == OTHER_RESULTS
    for kind in (*kinds.values(), ReferenceAutoAttack, TorchattacksAttack):
        if issubclass(kind, BallAttack):
            assert kind.perturb is BallAttack.perturb, kind
        if issubclass(kind, EngineAttack):
            assert kind.find_candidates is EngineAttack.find_candidates, kind


@pytest.mark.parametrize("count", [0, 3])
def test_without_images_or_a_radius_nothing_is_searched(small: Sample, count: int):
    attack, some = Midpoint(), small.select_images(torch.arange(count))
    Midpoint.given = None
    threat = ThreatModel(norm="Linf", eps=0.0) if count else LINF
    candidates = some.attack(attack, threat)
    assert torch.equal(candidates, some.images)
    assert candidates is not some.images
    assert Midpoint.given is None


def test_masks_are_handed_on_only_where_the_threat_has_them(small: Sample):
    attack, some = Midpoint(), small.select_images(torch.arange(3))
    masks = torch.zeros(3, 1, 8, 8, dtype=torch.bool)
    masks[:, :, :4] = True
    some.attack(attack, LINF, masks)
    assert Midpoint.given.masks is None
    masked = ThreatModel(norm="Linf", eps=0.1, region="mask")
    candidates = some.attack(attack, masked, masks)
    assert Midpoint.given.masks is masks
    assert torch.equal(candidates[:, :, 4:], some.images[:, :, 4:])
    assert not torch.equal(candidates, some.images)
    with pytest.raises(ThreatError, match="no masks"):
        some.attack(attack, masked)
