"""FGSM and PGD against what can be computed: linear models in closed form, two pixels by brute force."""

from __future__ import annotations

import itertools

import pytest
import torch
from attack_samples import Sample, build_classifier, build_linear_sample
from torch import Tensor, nn

from robustbench_local.attacks.base import Attack
from robustbench_local.attacks.core.losses import compute_margin, compute_margin_to_target_set
from robustbench_local.attacks.fgsm import FGSM
from robustbench_local.attacks.pgd import PGD
from robustbench_local.threats.threat_model import ThreatModel

DUAL = {"Linf": 1, "L2": 2}


def two_class_sample() -> Sample:
    """Images far from black and white, so that the box never binds at the radii used here."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(2, 48, generator=generator)
    images = 0.5 + 0.2 * (torch.rand(60, 3, 4, 4, generator=generator) - 0.5)
    centred = -(weights @ images.flatten(1).mean(dim=0))
    return build_linear_sample(weights, centred, images)


def signed_margins(sample: Sample, candidates: Tensor) -> Tensor:
    with torch.no_grad():
        return -compute_margin(sample.classifier(candidates), sample.labels)


@pytest.mark.parametrize("loss", ["ce", "margin"])
@pytest.mark.parametrize(("norm", "eps"), [("Linf", 0.004), ("Linf", 0.01), ("L2", 0.03), ("L2", 0.07)])
def test_linear_margins_fall_by_exactly_eps_times_the_dual_norm(norm: str, eps: float, loss: str):
    sample = two_class_sample()
    weight = sample.classifier.model[1].weight.detach()
    reach = eps * float(torch.linalg.vector_norm(weight[0] - weight[1], ord=DUAL[norm]))
    expected = signed_margins(sample, sample.images) - reach
    threat = ThreatModel(norm=norm, eps=eps)
    # on the sphere a step of eps / 2 takes a random start to the closed form by a third of the way each time
    slow = PGD(steps=30, step_size=eps / 2, restarts=2, loss=loss)
    attacks: list[Attack] = [FGSM(loss=loss), slow, PGD(steps=3, random_start=False, loss=loss)]
    assert 5 < int((expected < 0).sum()) < 55
    for attack in attacks:
        candidates = sample.attack(attack, threat)
        assert torch.equal(sample.find_adversarial(candidates, threat), expected < 0), repr(attack)
        # PGD stops at the first point across the border, so its margin is exact where it never gets there
        compared = expected > 0 if isinstance(attack, PGD) else torch.ones(60, dtype=torch.bool)
        found = signed_margins(sample, candidates)
        assert torch.allclose(found[compared], expected[compared], atol=1e-4), repr(attack)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_linear_margins_inside_a_mask_fall_by_the_dual_norm_of_the_visible_weights(norm: str):
    sample = two_class_sample()
    weight = sample.classifier.model[1].weight.detach()
    mask = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    mask[..., 1:3, :2] = True
    visible = (weight[0] - weight[1]).view(3, 4, 4) * mask[0]
    eps = 0.08
    reach = eps * float(torch.linalg.vector_norm(visible.flatten(), ord=DUAL[norm]))
    expected = signed_margins(sample, sample.images) - reach
    threat = ThreatModel(norm=norm, eps=eps, region="mask")
    for attack in (FGSM(), PGD(steps=30, step_size=eps / 2)):
        candidates = sample.attack(attack, threat, mask.expand(60, -1, -1, -1))
        assert torch.equal(sample.find_adversarial(candidates, threat), expected < 0)
        standing = expected > 0
        assert torch.allclose(signed_margins(sample, candidates)[standing], expected[standing], atol=1e-4)


def test_where_the_box_binds_the_best_point_is_its_corner():
    weights = torch.tensor([[3.0, -1.0], [0.0, 0.0]])
    sample = build_linear_sample(
        weights, torch.tensor([0.0, 0.0]), torch.tensor([[[[0.3, 0.9]]], [[[0.6, 0.5]]]])
    )
    threat = ThreatModel(norm="Linf", eps=0.5)
    for attack in (FGSM(), PGD(steps=20, random_start=False)):
        candidates = sample.attack(attack, threat)
        corner = torch.tensor([0.1, 1.0])
        assert (
            torch.allclose(candidates[1].flatten(), corner, atol=1e-6)
            or sample.find_adversarial(candidates, threat)[1]
        )
    assert torch.allclose(sample.attack(FGSM(), threat).flatten(1), torch.tensor([[0.0, 1.0], [0.1, 1.0]]))


def two_pixel_sample() -> Sample:
    """A curved three-class network on images of two pixels."""
    with torch.random.fork_rng([]):
        torch.manual_seed(3)
        model = nn.Sequential(nn.Flatten(), nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 3))
        model[1].weight.data *= 6
        model[3].weight.data *= 4
        images = torch.rand(60, 1, 1, 2)
    classifier = build_classifier(model, 3)
    with torch.no_grad():
        logits = classifier(images)
        centred = build_classifier(lambda x: model(x) - logits.mean(dim=0), 3)
        return Sample(centred, images, centred(images).argmax(dim=1))


def best_on_grid(sample: Sample, threat: ThreatModel, points: int = 81) -> Tensor:
    """The largest success margin over a grid that covers ball and box, (N,)."""
    ticks = torch.linspace(-threat.eps, threat.eps, points)
    deltas = torch.tensor(list(itertools.product(ticks.tolist(), repeat=2)))
    if threat.norm == "L2":
        deltas = deltas[deltas.norm(dim=1) <= threat.eps]
    best = []
    for image, label in zip(sample.images, sample.labels, strict=True):
        candidates = (image.flatten() + deltas).clamp(0, 1).view(-1, 1, 1, 2)
        labels = label.expand(len(candidates))
        with torch.no_grad():
            logits = sample.classifier(candidates)
        if threat.targets:
            values = compute_margin_to_target_set(logits, labels, torch.tensor(threat.targets))
        else:
            values = compute_margin(logits, labels)
        best.append(values.max())
    return torch.stack(best)


@pytest.mark.parametrize(
    "threat",
    [
        ThreatModel(norm="Linf", eps=0.1),
        pytest.param(ThreatModel(norm="L2", eps=0.12), marks=pytest.mark.slow),
        pytest.param(ThreatModel(norm="Linf", eps=0.15, targets=(2,)), marks=pytest.mark.slow),
        ThreatModel(norm="L2", eps=0.15, targets=(0, 1)),
    ],
    ids=str,
)
def test_two_pixels_exhaustive_search_agrees(threat: ThreatModel):
    sample = two_pixel_sample()
    sample = sample.select_images(
        (~torch.isin(sample.labels, torch.tensor(threat.targets, dtype=torch.int64))).nonzero().flatten()
    )
    exhaustive = best_on_grid(sample, threat)
    broken = sample.find_adversarial(sample.attack(PGD(steps=40, restarts=6, loss="margin"), threat), threat)
    breakable = exhaustive > 0
    assert 0.15 < float(breakable.float().mean()) < 0.9
    # nothing is broken that a search of the whole ball calls safe, up to the width of its grid
    assert (exhaustive[broken] > -0.1).all()
    # and PGD misses nothing that the search breaks clearly
    assert broken[exhaustive > 0.05].all()


def test_a_set_of_targets_is_reached_where_any_of_them_is():
    sample = two_pixel_sample()
    sample = sample.select_images((sample.labels == 0).nonzero().flatten())
    attack = PGD(steps=40, restarts=6, loss="margin")

    def broken(*targets: int) -> Tensor:
        threat = ThreatModel(norm="Linf", eps=0.2, targets=targets)
        return sample.find_adversarial(sample.attack(attack, threat), threat)

    union = broken(1) | broken(2)
    assert torch.equal(broken(1, 2), union)
    assert union.any()
    assert not torch.equal(broken(1), union)
