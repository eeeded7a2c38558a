"""Sigma-zero: never below what is possible, and as few pixels where the minimum can be computed."""

from __future__ import annotations

import itertools
from functools import cache

import pytest
import torch
from attack_samples import Sample, build_classifier, build_linear_sample, train_sample
from torch import Tensor

import robustbench_local as rbl
from robustbench_local.attacks.sparse import sigma_zero
from robustbench_local.attacks.sparse.sigma_zero import SigmaZero, SigmaZeroBall
from robustbench_local.errors import ConfigError, ThreatError
from robustbench_local.threats.lp_ball import compute_norms
from robustbench_local.threats.threat_model import ThreatModel

WHOLE = ThreatModel(norm="L0", eps=64)
SHORT = SigmaZero(steps=60)
MEASURED_PIXELS = 3.17
"""Mean number of changed pixels of 12 images of the network below, with 120 steps."""


@cache
def small() -> Sample:
    return train_sample(count=24)


def count_changed(sample: Sample, candidates: Tensor) -> Tensor:
    return compute_norms(candidates.double() - sample.images.double(), "L0")


def build_linear(channels: int, seed: int = 0) -> tuple[Sample, Tensor]:
    """A linear classifier, and the fewest pixels that can change the prediction of each image."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(30, channels, 6, 6, generator=generator)
    weights = torch.randn(4, channels * 36, generator=generator)
    sample = build_linear_sample(weights, -(weights @ images.flatten(1).mean(dim=0)), images)
    logits = sample.classifier(images)
    normals = (weights[None] - weights[sample.labels][:, None]).view(30, 4, channels, 36)
    pixels = images.view(30, 1, channels, 36)
    gains = torch.maximum(normals * (1 - pixels), -normals * pixels).sum(dim=2)
    reached = gains.sort(dim=2, descending=True).values.cumsum(dim=2)
    gaps = logits.gather(1, sample.labels[:, None]) - logits
    needed = 1 + (reached <= gaps[:, :, None]).sum(dim=2)
    needed[torch.arange(30), sample.labels] = 99
    return sample, needed.amin(dim=1)


@pytest.mark.parametrize("channels", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_on_linear_models_it_changes_the_fewest_pixels_possible(channels):
    sample, least = build_linear(channels)
    threat = ThreatModel(norm="L0", eps=36)
    candidates = sample.attack(SigmaZero(steps=100), threat)
    assert sample.find_adversarial(candidates, threat).all()
    changed = count_changed(sample, candidates)
    assert (changed >= least).all()
    assert (changed == least).float().mean() >= 0.8
    assert (changed - least).max() <= 1


@pytest.mark.slow
@pytest.mark.parametrize("targets", [(), (1,)])
def test_it_depends_neither_on_the_batch_nor_on_its_order(targets):
    sample = small()
    if targets:
        sample = sample.select_images((sample.labels != 1).nonzero().flatten())
    threat = ThreatModel(norm="L0", eps=6, targets=targets)
    for attack in (SHORT, SigmaZeroBall(steps=60)):
        candidates = sample.attack(attack, threat)
        success = sample.find_adversarial(candidates, threat)
        assert count_changed(sample, candidates).max() <= 6
        assert success.sum() > 0
        order = torch.arange(len(candidates)).flip(0)
        stream = sample.build_stream(attack).select_images(order)
        with sample.classifier.evaluation_mode(), sample.classifier.use_batch_size(5):
            again = attack.perturb(
                sample.classifier, sample.images[order], sample.labels[order], threat, stream
            ).flip(0)
        assert torch.equal(sample.find_adversarial(again, threat), success)
        assert torch.equal(count_changed(sample, again), count_changed(sample, candidates))


@pytest.mark.slow
def test_in_a_ball_it_finds_what_the_minimum_allows_with_fewer_passes():
    sample = small()
    least = count_changed(sample, sample.attack(SHORT, WHOLE))
    threat = ThreatModel(norm="L0", eps=4)
    passes = []
    for attack in (SHORT, SigmaZeroBall(steps=60)):
        with sample.classifier.count_passes(24) as counter:
            candidates = sample.attack(attack, threat)
        passes.append(int(counter.forward_passes.sum()))
        assert torch.equal(sample.find_adversarial(candidates, threat), least <= 4)
        assert passes[-1] <= 24 * attack.estimate_cost(threat)[0]
    assert passes[1] < 0.9 * passes[0]


def test_two_pixels_by_trying_all_of_them():
    """A network that needs two particular pixels at once: no single one moves the gradient's winner."""
    images = 0.4 + 0.2 * torch.rand(8, 1, 3, 3, generator=torch.Generator().manual_seed(0))

    def compute_logits(pixels: Tensor) -> Tensor:
        flat = pixels.flatten(1)
        score = 4 * flat[:, 0] * flat[:, 4] + 0.3 * flat[:, 7] - 2
        return torch.stack([torch.zeros_like(score), score], dim=1)

    sample = Sample(build_classifier(compute_logits, 2), images, torch.zeros(8, dtype=torch.long))
    threat = ThreatModel(norm="L0", eps=9)
    least = torch.full((8,), 9)
    for count in (2, 1):
        for pixels in itertools.combinations(range(9), count):
            for colors in itertools.product((0.0, 1.0), repeat=count):
                tried = images.clone()
                tried.view(8, 9)[:, list(pixels)] = torch.tensor(colors)
                least[sample.find_adversarial(tried, threat)] = count
    assert torch.equal(count_changed(sample, sample.attack(SHORT, threat)).long(), least)


@pytest.mark.slow
def test_a_mask_confines_it():
    sample = small()
    masks = torch.zeros(24, 1, 8, 8, dtype=torch.bool)
    masks[..., :4, :] = True
    threat = ThreatModel(norm="L0", eps=64, region="mask")
    candidates = sample.attack(SHORT, threat, masks)
    assert not ((candidates != sample.images) & ~masks).any()
    assert sample.find_adversarial(candidates, threat).any()


def test_wrong_numbers_and_other_norms_are_refused_in_one_line():
    with pytest.raises(ConfigError, match="needs 1 or 2 paths"):
        SigmaZero(paths=3)
    with pytest.raises(ConfigError, match="SigmaZeroBall's steps must be at least 1"):
        SigmaZeroBall(steps=0)
    with pytest.raises(ThreatError, match="SigmaZero does not support the norm 'L1'"):
        SigmaZero().check_support(ThreatModel(norm="L1", eps=1), small().classifier)


def test_few_steps_are_one_path():
    costs = [SigmaZero(steps=steps).estimate_cost(WHOLE) for steps in (199, 200)]
    assert costs == [(199 + 25 + 4, 199 + 25), (200 + 2 * 13 + 6, 200 + 2 * 13)]


@pytest.mark.slow
def test_it_is_as_strong_as_it_was(monkeypatch):
    """Mean number of pixels on a shipped network: a weaker search is seen."""
    classifier, data = rbl.load_classifier("zoo:signs-plain"), rbl.load_dataset("signs", limit=12)
    sample = Sample(classifier, data.images, data.labels)
    threat = ThreatModel(norm="L0", eps=1024)

    def measure() -> float:
        candidates = sample.attack(SigmaZero(steps=120), threat)
        assert sample.find_adversarial(candidates, threat).all()
        return float(count_changed(sample, candidates).mean())

    assert measure() <= MEASURED_PIXELS + 0.5
    monkeypatch.setattr(sigma_zero, "_THRESHOLD_RATE", 0.0)  # the threshold no longer adapts
    assert measure() > MEASURED_PIXELS + 0.5
