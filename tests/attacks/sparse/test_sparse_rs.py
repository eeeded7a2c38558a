"""Sparse-RS: what it may change, its schedule, and what it finds where every choice can be tried."""

from __future__ import annotations

import itertools
from functools import cache

import pytest
import torch
from attack_samples import Sample, build_linear_sample, train_sample

from robustbench_local.attacks.sparse.sparse_rs import SparseRS, SparseRSSearch
from robustbench_local.errors import ConfigError, ThreatError
from robustbench_local.threats.lp_ball import compute_norms
from robustbench_local.threats.threat_model import ThreatModel


@cache
def small() -> Sample:
    return train_sample(count=24)


def count_changed(sample: Sample, candidates: torch.Tensor) -> torch.Tensor:
    return compute_norms(candidates.double() - sample.images.double(), "L0")


@pytest.mark.parametrize(
    "targets",
    [
        (),
        pytest.param((1,), marks=pytest.mark.slow),
        pytest.param((1, 3), marks=pytest.mark.slow),
    ],
)
def test_it_stays_in_the_ball_and_depends_neither_on_the_batch_nor_on_its_order(targets):
    sample = small()
    if targets:
        sample = sample.select_images((~torch.isin(sample.labels, torch.tensor(targets))).nonzero().flatten())
    threat, attack = ThreatModel(norm="L0", eps=3, targets=targets), SparseRS(queries=60)
    candidates = sample.attack(attack, threat)
    assert count_changed(sample, candidates).max() == 3
    assert set(candidates[candidates != sample.images].unique().tolist()) <= {0.0, 1.0}
    assert 0 < sample.find_adversarial(candidates, threat).sum() < len(candidates)
    order = torch.arange(len(candidates)).flip(0)
    stream = sample.build_stream(attack).select_images(order)
    with sample.classifier.evaluation_mode(), sample.classifier.use_batch_size(5):
        again = attack.perturb(sample.classifier, sample.images[order], sample.labels[order], threat, stream)
    assert torch.equal(again.flip(0), candidates)


@pytest.mark.parametrize("eps", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_it_finds_what_trying_every_pixel_and_corner_finds(eps):
    generator = torch.Generator().manual_seed(3)
    images = 0.3 + 0.4 * torch.rand(40, 1, 3, 3, generator=generator)
    weights = torch.randn(3, 9, generator=generator)
    leads = torch.tensor([0.9 * eps, 0.0, 0.0])
    sample = build_linear_sample(weights, leads - weights @ images.flatten(1).mean(dim=0), images)
    threat = ThreatModel(norm="L0", eps=eps)
    possible = torch.zeros(40, dtype=torch.bool)
    for pixels in itertools.combinations(range(9), eps):
        for colors in itertools.product((0.0, 1.0), repeat=eps):
            candidates = images.clone()
            candidates.view(40, 9)[:, list(pixels)] = torch.tensor(colors)
            possible |= sample.find_adversarial(candidates, threat)
    assert 2 < possible.sum() < 40
    found = sample.find_adversarial(sample.attack(SparseRS(queries=400), threat), threat)
    assert torch.equal(found, possible)


def test_a_mask_confines_it_and_where_it_has_too_few_pixels_all_are_changed():
    sample = small()
    masks = torch.zeros(24, 1, 8, 8, dtype=torch.bool)
    masks[..., :2, :2] = True
    for eps, most in ((2, 2), (4, 4), (40, 4)):
        threat = ThreatModel(norm="L0", eps=eps, region="mask")
        candidates = sample.attack(SparseRS(queries=20), threat, masks)
        assert not ((candidates != sample.images) & ~masks).any()
        assert count_changed(sample, candidates).max() == most


def test_the_share_of_exchanged_pixels_falls_as_published():
    search = SparseRSSearch(SparseRS(queries=10_000), ThreatModel(norm="L0", eps=100))
    counts = [search._count_exchanged(age) for age in (0, 49, 50, 199, 200, 1000, 5999, 6000, 8000, 9998)]
    assert counts == [15, 15, 7, 7, 6, 3, 2, 2, 1, 1]
    short = SparseRSSearch(SparseRS(queries=100, rescale=True), ThreatModel(norm="L0", eps=100))
    assert [short._count_exchanged(age) for age in (0, 1, 98)] == [15, 7, 1]


def test_wrong_numbers_and_other_norms_are_refused_in_one_line():
    with pytest.raises(ConfigError, match="exchanged_share must be above 0"):
        SparseRS(exchanged_share=0.0)
    with pytest.raises(ConfigError, match="2 queries for each"):
        SparseRS(queries=3, restarts=2)
    with pytest.raises(ThreatError, match="SparseRS does not support the norm 'L2'"):
        SparseRS().check_support(ThreatModel(norm="L2", eps=1), small().classifier)
