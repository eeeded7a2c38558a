"""Curves: one radius an image, found by dividing the list, as PGD at every radius would find it."""

from __future__ import annotations

import pytest
import torch
from attack_samples import Sample, build_classifier, build_linear_sample
from torch import Tensor

from robustbench_local.attacks import make_attack
from robustbench_local.attacks.minimum_norm.curve import Curve
from robustbench_local.attacks.pgd import PGD
from robustbench_local.errors import ConfigError, ThreatError
from robustbench_local.randomness import RandomStream
from robustbench_local.threats.lp_ball import compute_norms
from robustbench_local.threats.threat_model import ThreatModel

RADII = tuple(step / 255 for step in (2, 4, 6, 8, 10, 13, 16, 24))
LINF = ThreatModel(norm="Linf", eps=RADII[-1])


def reached(sample: Sample, candidates: Tensor, norm: str) -> Tensor:
    """Distance of each success, infinite where there is none."""
    size = compute_norms(candidates.double() - sample.images.double(), norm)
    return torch.where(sample.find_adversarial(candidates, ThreatModel(norm=norm, eps=1)), size, torch.inf)


@pytest.fixture(scope="module")
def walked(small: Sample) -> tuple[Tensor, Tensor]:
    """Each image's radius, and its forward passes."""
    with small.classifier.count_passes(len(small.images)) as meter:
        candidates = small.attack(Curve(radii=RADII, steps=10), LINF)
        passes = meter.forward_passes
    return reached(small, candidates, "Linf"), passes


def test_verdicts_are_those_of_runs_at_every_radius_up_to_seed_noise(small: Sample, walked):
    radius, _ = walked
    for eps in RADII:
        threat = ThreatModel(norm="Linf", eps=eps)
        alone = small.find_adversarial(small.attack(PGD(steps=10), threat), threat)
        missed, more = alone & (radius > eps), ~alone & (radius <= eps)
        assert int(missed.sum()) <= 3
        assert int(more.sum()) <= 6  # a path that goes on where another radius ended is the better one
    assert 0.05 < float((radius <= RADII[3]).double().mean()) < 0.95


def test_no_distance_lies_a_rounding_beyond_its_radius(walked):
    radius = walked[0][walked[0].isfinite()]
    ladder = torch.tensor(RADII, dtype=torch.float64)
    over = (radius[:, None] - ladder[None]) / ladder
    assert not ((over > 0) & (over < 1e-5)).any()
    assert (radius <= RADII[-1]).all()


def test_eight_radii_cost_a_fraction_of_eight_runs(small: Sample, walked):
    _, passes = walked
    attack = Curve(radii=RADII, steps=10)
    assert float(passes.double().mean()) < 0.3 * len(RADII) * 11
    assert int(passes.max()) <= attack.estimate_cost(LINF)[0] == 6 * 11


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_a_linear_classifier_breaks_at_the_first_radius_beyond_its_distance(norm: str):
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(2, 48, generator=generator)
    images = 0.5 + 0.3 * (torch.rand(40, 3, 4, 4, generator=generator) - 0.5)
    sample = build_linear_sample(weights, -(weights @ images.flatten(1).mean(dim=0)), images)
    with torch.no_grad():
        gap = (sample.classifier(images) @ torch.tensor([1.0, -1.0])).abs()
    slope = torch.linalg.vector_norm(
        weights[0] - weights[1], ord={"Linf": 1, "L2": 2, "L1": float("inf")}[norm]
    )
    exact = gap / slope
    ladder = torch.linspace(0.25, 2, 8) * float(exact.median())
    clear = ((exact[:, None] / ladder - 1).abs() > 0.05).all(dim=1)  # steps of a finite length end somewhere
    threat = ThreatModel(norm=norm, eps=float(ladder[-1]))
    attack = Curve(radii=tuple(ladder.tolist()), steps=20)
    found = reached(sample, sample.attack(attack, threat), norm)
    expected = torch.searchsorted(ladder, exact)
    place = torch.searchsorted(ladder.double() * (1 + 1e-5), found)
    assert int(clear.sum()) > 20
    assert int((place != expected)[clear].sum()) <= (6 if norm == "L1" else 0)
    assert (found >= exact * (1 - 1e-4)).all()


def test_targets_masks_and_restarts(small: Sample, walked):
    sample = small.select_images((small.labels != 1).nonzero().flatten()[:24])
    attack = Curve(radii=RADII, steps=5, restarts=2, loss="margin")
    targeted = sample.attack(attack, ThreatModel(norm="Linf", eps=RADII[-1], targets=(1,)))
    with torch.no_grad():
        moved = (targeted != sample.images).flatten(1).any(dim=1)
        assert (sample.classifier(targeted).argmax(dim=1) == 1)[moved].all()
    assert moved.any()
    masks = torch.zeros(24, 1, 8, 8, dtype=torch.bool)
    masks[..., 2:] = True
    inside = sample.attack(attack, ThreatModel(norm="Linf", eps=RADII[-1], region="mask"), masks)
    assert torch.equal(inside[..., :2], sample.images[..., :2])
    assert (inside != sample.images).flatten(1).any(dim=1).any()


def test_batches_do_not_matter(small: Sample, walked):
    rows = [70, 3, 41]
    part, attack = small.select_images(torch.tensor(rows)), Curve(radii=RADII, steps=10)
    with small.classifier.evaluation_mode():
        stream = RandomStream(0, tuple(f"image-{row}" for row in rows), repr(attack))
        found = attack.perturb(small.classifier, part.images, part.labels, LINF, stream)
    assert torch.allclose(reached(part, found, "Linf"), walked[0][rows], rtol=1e-3)


def test_the_original_comes_back_where_nothing_breaks(small: Sample):
    images = small.images[:4]
    sample = Sample(
        build_classifier(lambda x: 0 * x.flatten(1)[:, :3] + torch.eye(3)[0], 3),
        images,
        torch.zeros(4).long(),
    )
    assert torch.equal(sample.attack(Curve(), LINF), images)
    nothing = ThreatModel(norm="Linf", eps=0)
    assert torch.equal(small.attack(Curve(), nothing), small.images)
    assert Curve().estimate_cost(nothing) == (0, 0)


def test_the_ladder_ends_with_the_threat_models_radius():
    threat = ThreatModel(norm="L2", eps=1)
    assert Curve(radii=(2.0, 0.5, 0.25, 1.0)).list_radii(threat) == (0.25, 0.5, 1.0)
    assert Curve().list_radii(threat) == (1 / 32, 1 / 16, 1 / 8, 3 / 16, 1 / 4, 3 / 8, 1 / 2, 1.0)
    assert make_attack("curve", {"radii": ["1/4", 0.5]}) == Curve(radii=(0.25, 0.5))


def test_impossible_numbers_are_refused(small: Sample):
    with pytest.raises(ConfigError, match="radii must be above 0"):
        Curve(radii=(0.1, 0.0))
    with pytest.raises(ConfigError, match="steps"):
        Curve(steps=0)
    with pytest.raises(ConfigError, match="cannot read the number 'x'"):
        make_attack("curve", {"radii": ["x"]})
    with pytest.raises(ThreatError, match="DLR"):
        Curve(loss="dlr").check_support(ThreatModel(norm="L2", eps=1, targets=(0, 1)), small.classifier)
