"""An image's result depends on the image, not on its company (V8, V9)."""

from __future__ import annotations

import pytest
import torch
from attack_samples import Sample
from torch import Tensor

from robustbench_local.attacks.base import Attack
from robustbench_local.attacks.fgsm import FGSM
from robustbench_local.attacks.pgd import PGD
from robustbench_local.classifier import Classifier
from robustbench_local.randomness import RandomStream
from robustbench_local.threats.lp_ball import compute_norms
from robustbench_local.threats.threat_model import ThreatModel

ATTACKS: list[Attack] = [FGSM(), PGD(steps=4, restarts=2), PGD(steps=4, loss="margin")]
THREATS = [ThreatModel(norm="Linf", eps="12/255"), ThreatModel(norm="L2", eps=0.55)]
IDS = tuple(f"image-{row}" for row in range(96))


def attacked(sample: Sample, attack: Attack, threat: ThreatModel, order: list[int], size: int) -> Tensor:
    """Candidates for the images in ``order``, in batches of ``size``, put back into the order of the data."""
    found = torch.full_like(sample.images, torch.nan)
    with sample.classifier.evaluation_mode():
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            stream = RandomStream(0, tuple(IDS[row] for row in rows), repr(attack))
            found[rows] = attack.perturb(
                sample.classifier, sample.images[rows], sample.labels[rows], threat, stream
            )
    return found


@pytest.mark.parametrize("threat", THREATS, ids=str)
@pytest.mark.parametrize("attack", ATTACKS, ids=repr)
def test_verdicts_do_not_depend_on_batch_size_or_order(small: Sample, attack: Attack, threat: ThreatModel):
    order = list(range(96))
    reference = attacked(small, attack, threat, order, 96)
    verdicts = small.find_adversarial(reference, threat)
    assert 0.1 < float(verdicts.float().mean()) < 0.9
    shuffled = torch.randperm(96, generator=torch.Generator().manual_seed(0)).tolist()
    for size, chosen in ((1, order[:8]), (64, order), (7, shuffled), (96, shuffled)):
        found = attacked(small, attack, threat, chosen, size)
        assert torch.equal(small.find_adversarial(found, threat)[chosen], verdicts[chosen]), (
            size,
            chosen[:3],
        )
        # the pictures agree too, but for floating-point sums that depend on the shape of the batch
        apart = compute_norms((found - reference)[chosen], "Linf") > 1e-3
        assert int(apart.sum()) <= 2


@pytest.mark.parametrize("attack", ATTACKS, ids=repr)
def test_a_subset_gives_the_subset_of_the_results(small: Sample, attack: Attack):
    threat, chosen = THREATS[0], [90, 3, 41, 42, 17]
    whole = attacked(small, attack, threat, list(range(96)), 96)
    part = attacked(small, attack, threat, chosen, 5)
    assert torch.equal(
        small.find_adversarial(part, threat)[chosen], small.find_adversarial(whole, threat)[chosen]
    )
    assert compute_norms((part - whole)[chosen], "Linf").median() < 1e-6


@pytest.mark.parametrize("threat", THREATS, ids=str)
def test_random_starts_are_the_same_bits_in_any_batch(small: Sample, threat: ThreatModel):
    starts: list[Tensor] = []

    class Watched(Classifier):
        def compute_gradient(self, images, loss, rows=None):
            starts.append(images.clone())
            return super().compute_gradient(images, loss, rows)

    watched = Sample(Watched(small.classifier.model, num_classes=5), small.images, small.labels)
    attack = PGD(steps=1)
    attacked(watched, attack, threat, list(range(20)), 1)
    alone = torch.cat(starts)
    starts.clear()
    attacked(watched, attack, threat, list(reversed(range(20))), 20)
    assert torch.equal(starts[0].flip(0), alone)
    assert (compute_norms(alone - small.images[:20], threat.norm) > 0.5 * threat.eps).all()


def test_seeds_and_restarts_start_elsewhere(small: Sample):
    threat, attack = THREATS[0], PGD(steps=1, step_size=1e-9)
    with small.classifier.evaluation_mode():
        first, second = (
            attack.perturb(
                small.classifier, small.images, small.labels, threat, RandomStream(seed, IDS, repr(attack))
            )
            for seed in (0, 1)
        )
    assert (compute_norms(first - second, "Linf") > 0.01).all()
    again = attacked(small, attack, threat, list(range(96)), 96)
    assert torch.equal(first, again)
