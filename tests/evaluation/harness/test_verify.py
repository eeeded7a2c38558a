"""The harness must catch every way in which an attack can be wrong or lie."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from robustbench_local.classifier import Classifier
from robustbench_local.evaluation.harness.verify import find_ball_violations, predict, verify
from robustbench_local.threats.threat_model import ThreatModel

LINF = ThreatModel(norm="Linf", eps="8/255")
L2 = ThreatModel(norm="L2", eps=0.5)


@pytest.fixture
def correct(linear, data):
    """Images that the linear model reads correctly, and their labels."""
    with linear.evaluation_mode():
        reading = predict(linear, data.images, data.labels)
    return data.images[reading.correct], data.labels[reading.correct]


def worst_corner(linear, images, labels, eps):
    """The strongest Linf perturbation of a linear model towards its nearest wrong class, without the box."""
    weight = linear.model.weight.detach()
    margins = torch.full((len(images), len(weight)), math.inf)
    for wrong in range(len(weight)):
        gap = weight[labels] - weight[wrong]
        margins[:, wrong] = ((images - 0.5).flatten(1) * gap).sum(1) - eps * gap.abs().sum(1)
    margins[torch.arange(len(images)), labels] = math.inf
    nearest = margins.argmin(1)
    step = eps * (weight[nearest] - weight[labels]).sign().view_as(images)
    return images + step, margins.amin(1)


def test_a_linear_model_falls_exactly_where_its_closed_form_says(linear, correct):
    images, labels = correct
    candidates, margin = worst_corner(linear, images, labels, LINF.eps)
    with linear.evaluation_mode():
        verdict = verify(linear, images, labels, candidates, LINF)
    assert verdict.broken.tolist() == (margin < 0).tolist()
    assert 0 < int(verdict.broken.sum()) < len(images)
    assert torch.allclose(verdict.predictions.margin, margin, atol=1e-4)
    assert verdict.linf.max().item() == pytest.approx(LINF.eps, abs=1e-6)


MUTANTS = {
    "leaves the ball": lambda x: (x + 0.06).clamp(0, 1),
    "leaves the box": lambda x: x - x - 0.01,
    "eps in 0..255 units": lambda x: (x + 8.0).clamp(0, 1),
    "has NaN": lambda x: x.masked_fill(torch.ones_like(x, dtype=torch.bool), torch.nan),
    "other shape": lambda x: x[:, :1],
    "other dtype": lambda x: x.double(),
}


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_a_wrong_attack_is_rejected_and_never_a_success(linear, correct, mutant):
    images, labels = correct
    with linear.evaluation_mode():
        verdict = verify(linear, images, labels, MUTANTS[mutant](images), LINF)
    assert all(verdict.rejection_reasons)
    assert not verdict.broken.any()
    assert torch.equal(verdict.candidates, images)


def test_candidates_are_predicted_in_other_batches_and_another_order(linear, correct):
    images, labels = (part[:9] for part in correct)
    candidates, _ = worst_corner(linear, images, labels, LINF.eps)
    candidates, batches = candidates.clamp(0, 1), []

    class Watched(nn.Module):
        def forward(self, batch):
            batches.append(batch.clone())
            return linear.module(batch)

    classifier = Classifier(Watched(), num_classes=4)
    with classifier.evaluation_mode():
        verify(classifier, images, labels, candidates, LINF)
    first, second = batches[:2]
    assert (len(first), len(second)) == (6, 3)
    assert torch.equal(torch.cat([first, second]), candidates.roll(-3, dims=0))


def test_shuffled_candidates_are_rejected_because_distance_is_to_the_original(linear, correct):
    images, labels = correct
    with linear.evaluation_mode():
        verdict = verify(linear, images, labels, images.roll(1, 0), LINF)
    assert all(verdict.rejection_reasons)


def test_one_bad_candidate_does_not_spoil_the_others(linear, correct):
    images, labels = correct
    candidates, margin = worst_corner(linear, images, labels, LINF.eps)
    candidates[0, 0, 0, 0] = torch.nan
    with linear.evaluation_mode():
        verdict = verify(linear, images, labels, candidates, LINF)
    assert [place for place, reason in enumerate(verdict.rejection_reasons) if reason] == [0]
    assert verdict.broken[1:].tolist() == (margin[1:] < 0).tolist()


def test_fp32_rounding_of_x_plus_eps_is_within_the_ball():
    images = torch.rand(2000, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    assert not any(find_ball_violations((images + LINF.eps).clamp(0, 1), images, LINF))


@pytest.mark.parametrize(("excess", "refused"), [(0.8e-6, False), (1.2e-6, True)])
def test_the_linf_ball_has_a_slack_of_1e_6(excess, refused):
    images = torch.full((1, 1, 2, 2), 0.5)
    candidates = (images.double() + LINF.eps + excess).float()
    assert bool(find_ball_violations(candidates, images, LINF)[0]) is refused


@pytest.mark.parametrize(("share", "fragile"), [(0.9e-4, True), (1.1e-4, False)])
def test_a_margin_is_fragile_below_a_ten_thousandth_of_the_range(share, fragile):
    logits = torch.tensor([[1.0, 1.0 - 20 * share, -19.0]])
    classifier = Classifier(lambda images: logits.double()[: len(images)], num_classes=3)
    for label in (0, 1):  # on either side of the border
        reading = predict(classifier, torch.rand(1, 1, 2, 2), torch.tensor([label]))
        assert reading.fragile.tolist() == [fragile]


@pytest.mark.parametrize(("excess", "refused"), [(1.000008, False), (1.000012, True)])
def test_the_l2_ball_has_a_relative_slack_of_1e_5(excess, refused):
    images = torch.full((1, 1, 4, 4), 0.5)
    delta = torch.zeros_like(images)
    delta[0, 0, 0, :2] = L2.eps * excess / math.sqrt(2)
    assert bool(find_ball_violations(images + delta, images, L2)[0]) is refused


def test_nothing_outside_the_mask_may_change_by_a_bit():
    images = torch.full((2, 3, 4, 4), 0.5)
    masks = torch.zeros(2, 1, 4, 4, dtype=torch.bool)
    masks[:, :, :2] = True
    threat = ThreatModel(norm="Linf", eps=0.1, region="mask")
    candidates = images.clone()
    candidates[0, :, 0, 0] += 0.05
    candidates[1, 2, 3, 3] = torch.nextafter(candidates[1, 2, 3, 3], torch.tensor(1.0))
    assert [bool(reason) for reason in find_ball_violations(candidates, images, threat, masks)] == [
        False,
        True,
    ]


def test_nan_and_ties_are_never_correct():
    logits = torch.tensor(
        [[torch.nan, 1.0, 0.0], [1.0, 1.0, 0.0], [2.0, 1.0, 0.0], [torch.inf, 0.0, 0.0], [0.0] * 3]
    )
    classifier = Classifier(lambda images: logits[: len(images)], num_classes=3)
    reading = predict(classifier, torch.rand(5, 1, 2, 2), torch.zeros(5, dtype=torch.int64))
    assert reading.correct.tolist() == [False, False, True, False, False]
    assert reading.prediction.tolist()[0] == -1
    assert reading.fragile.tolist() == [False, True, False, False, True]


def test_an_answer_that_turns_nan_counts_as_broken():
    def answer(images):
        return torch.where(images.mean(dim=(1, 2, 3))[:, None] > 0.5, torch.nan, 1.0) * torch.tensor(
            [[1.0, 0.0]]
        )

    classifier = Classifier(answer, num_classes=2)
    images, labels = torch.full((1, 1, 2, 2), 0.49), torch.zeros(1, dtype=torch.int64)
    verdict = verify(classifier, images, labels, images + 0.02, LINF)
    assert verdict.broken.item()
    assert not verdict.predictions.is_finite.item()


def test_a_targeted_success_is_an_untargeted_one_and_sets_are_unions(linear, correct):
    images, labels = correct
    candidates, _ = worst_corner(linear, images, labels, 0.2)
    candidates = candidates.clamp(0, 1)

    def broken(*targets):
        with linear.evaluation_mode():
            return verify(
                linear, images, labels, candidates, ThreatModel(norm="Linf", eps=0.2, targets=targets)
            ).broken

    one, two, both, any_wrong = broken(1), broken(2), broken(1, 2), broken()
    assert one.any()
    assert two.any()
    assert torch.equal(both, one | two)
    assert not (both & ~any_wrong).any()


def test_a_break_below_one_level_does_not_survive_8_bits():
    class Threshold(nn.Module):
        def forward(self, images):
            first = images[:, 0, 0, 0]
            return torch.stack([torch.zeros_like(first), (first - 0.5005) * 1e4], dim=1)

    classifier = Classifier(Threshold(), num_classes=2)
    images, labels = torch.full((1, 1, 1, 1), 127 / 255), torch.zeros(1, dtype=torch.int64)
    tight, wide = ThreatModel(norm="Linf", eps=0.003), ThreatModel(norm="Linf", eps=0.005)
    with classifier.evaluation_mode():
        assert verify(classifier, images, labels, images + 0.003, tight).broken_8bit == (False,)
        assert verify(classifier, images, labels, images + 0.005, wide).broken_8bit == (True,)
