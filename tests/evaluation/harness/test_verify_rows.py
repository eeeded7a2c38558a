"""Each image is verified as itself: its own row, draws, mask, distances and 8-bit image."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from robustbench_local.classifier import Classifier
from robustbench_local.classifier.stochastic import RandomizedClassifier
from robustbench_local.evaluation.harness.verify import (
    find_ball_violations,
    predict,
    predict_in_shuffled_batches,
    verify,
)
from robustbench_local.randomness import RandomStream
from robustbench_local.threats.lp_ball import LINF_SLACK
from robustbench_local.threats.threat_model import ThreatModel
from robustbench_local.threats.transformations import apply_transformation

LINF = ThreatModel(norm="Linf", eps=0.1)
GREY = torch.full((3, 1, 2, 2), 0.5)


class Noisy(RandomizedClassifier):
    """Noise on the pixels, so much that single draws disagree."""

    identity = "noisy"

    def sample(self, images, numbers):
        return self.inner(images + 0.2 * numbers.sample_normal(images.shape[1:]))


class Counting(nn.Module):
    """Notes the sizes of its batches and whether gradients are on."""

    def __init__(self, classes=3):
        super().__init__()
        self.classes, self.sizes, self.recorded = classes, [], []

    def forward(self, images):
        self.sizes.append(len(images))
        self.recorded.append(torch.is_grad_enabled())
        return images.flatten(1)[:, : self.classes]


def answer(logits):
    """A classifier that gives every image the same logits."""
    rows = torch.tensor([logits])
    return Classifier(lambda images: rows.repeat(len(images), 1), num_classes=len(logits), access="scores")


@pytest.mark.parametrize(
    ("count", "sizes"), [(1, [1]), (2, [1, 1]), (3, [2, 1]), (4, [2, 2]), (5, [3, 2]), (9, [6, 3])]
)
def test_candidates_are_predicted_in_two_batches_and_come_back_in_order(count, sizes):
    counting = Counting()
    classifier = Classifier(counting, num_classes=3)
    images = torch.rand(count, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(count) % 3
    with classifier.evaluation_mode():
        found = predict_in_shuffled_batches(classifier, images, labels)
        assert counting.sizes == sizes
        expected = predict(classifier, images, labels)
    for name in ("prediction", "correct", "margin", "fragile"):
        assert torch.equal(getattr(found, name), getattr(expected, name))
    assert not any(counting.recorded)


def test_a_random_classifier_gives_each_image_its_own_draws_in_any_batch(linear, data):
    noisy = Noisy(linear, draws=2, verdict_draws=3)
    images, labels = data.images[:8], data.labels[:8]
    candidates = (images + 0.1 * torch.ones_like(images)).clamp(0, 1)
    stream = RandomStream(1, data.ids[:8], "any")

    def go(rows):
        rows = torch.tensor(rows)
        with noisy.evaluation_mode(), noisy.count_passes(len(rows)) as counter:
            found = verify(
                noisy, images[rows], labels[rows], candidates[rows], LINF, stream=stream.select_images(rows)
            )
            clean = predict(noisy, images[rows], labels[rows], stream=stream.select_images(rows))
        again = torch.tensor([eight is not None for eight in found.broken_8bit])
        assert counter.forward_passes.tolist() == [9 if twice else 6 for twice in again]
        return found, clean

    together, clean = go(list(range(8)))
    assert 0 < int(together.broken.sum()) < 8
    backwards, _ = go([7, 6, 5, 4, 3, 2, 1, 0])
    for row in range(8):
        alone, clean_alone = go([row])
        for one, at in ((together, row), (backwards, 7 - row)):
            assert torch.allclose(alone.predictions.margin, one.predictions.margin[[at]], atol=1e-4)
            assert alone.broken[0] == one.broken[at]
            assert alone.broken_8bit[0] == one.broken_8bit[at]
        assert torch.allclose(clean_alone.margin, clean.margin[[row]], atol=1e-4)


def test_distances_are_those_of_each_image():
    candidates = GREY.clone()
    candidates[1] += torch.tensor([[[0.03, -0.04], [0.0, 0.0]]])
    candidates[2] += torch.tensor([[[0.3, 0.0], [0.0, 0.0]]])  # rejected: the original counts
    found = verify(answer([1.0, 0.0]), GREY, torch.zeros(3).long(), candidates, LINF)
    assert found.linf.tolist() == pytest.approx([0, 0.04, 0], abs=1e-6)
    assert found.l2.tolist() == pytest.approx([0, 0.05, 0], abs=1e-6)
    assert found.l1.tolist() == pytest.approx([0, 0.07, 0], abs=1e-6)
    assert found.l0.tolist() == [0, 2, 0]
    assert [bool(reason) for reason in found.rejection_reasons] == [False, False, True]
    assert torch.equal(found.candidates[2], GREY[2])
    assert not found.candidates.requires_grad


def test_a_rejection_says_what_is_wrong():
    def reason(candidates, threat=LINF, **more):
        (first, *others) = find_ball_violations(candidates, GREY, threat, **more)
        assert len(others) == 2
        return first

    moved = GREY + 0.2
    assert reason(GREY[:2]) == "the attack returned (2, 1, 2, 2), not (3, 1, 2, 2)"
    assert reason([GREY]) == "the attack returned list, not (3, 1, 2, 2)"
    assert reason(GREY.double()) == "the attack returned torch.float64, not torch.float32"
    assert reason(moved) == "the candidate leaves the ball: Linf 0.2 > 0.1"
    assert reason(GREY - 0.6) == "the candidate leaves the box [0, 1]: -0.1 to -0.1"
    spread = GREY + torch.tensor([[-0.75, 0.0], [0.0, 0.75]])
    assert reason(spread) == "the candidate leaves the box [0, 1]: -0.25 to 1.25"
    assert reason(GREY * torch.nan) == "the candidate has NaN or infinite pixels"
    assert reason(GREY) is None


@pytest.mark.parametrize("edge", [0.0, 1.0])
def test_the_ends_of_the_box_belong_to_it(edge):
    images = torch.full((1, 1, 2, 2), edge)
    assert find_ball_violations(images, images, LINF) == [None]
    outside = images + (1e-6 if edge else -1e-6)
    assert "leaves the box" in find_ball_violations(outside, images, LINF)[0]


def test_the_mask_counts_for_its_region_alone_and_for_its_own_image():
    masks = torch.zeros(3, 1, 2, 2, dtype=torch.bool)
    masks[0, 0, 0, 0] = masks[1, 0, 1, 1] = True
    candidates = GREY.clone()
    candidates[:2, :, 0, 0] += 0.05
    masked = ThreatModel(norm="Linf", eps=0.1, region="mask")
    assert [bool(found) for found in find_ball_violations(candidates, GREY, masked, masks)] == [
        False,
        True,
        False,
    ]
    assert find_ball_violations(candidates, GREY, LINF, masks) == [None] * 3
    assert find_ball_violations(candidates, GREY, masked) == [None] * 3
    result = verify(answer([0.0, 1.0]), GREY, torch.zeros(3).long(), candidates, masked, masks=masks)
    assert result.rejection_reasons[1] == "the candidate changes pixels outside the mask"


TARGETED = ThreatModel(norm="Linf", eps=0.1, targets=(2,))
NAN = math.nan


@pytest.mark.parametrize(
    ("logits", "threat", "broken"),
    [
        ([1.0, 0.0, 0.0], LINF, False),
        ([0.0, 1.0, 0.0], LINF, True),
        ([1.0, 1.0, 0.0], LINF, True),  # a tie, whatever argmax picks
        ([NAN, 0.0, 0.0], LINF, True),
        ([1.0, 0.0, 0.0], TARGETED, False),
        ([0.0, 1.0, 0.0], TARGETED, False),
        ([0.0, 0.0, 1.0], TARGETED, True),
        ([1.0, 1.0, 0.0], TARGETED, False),
        ([1.0, 0.0, 1.0], TARGETED, False),
        ([0.0, NAN, 0.0], TARGETED, True),
    ],
)
def test_the_goal_before_and_after_rounding(logits, threat, broken):
    """An image of 128 / 255, moved by less than half a level: the answer before, and the answer as 8 bits."""
    image, labels = torch.full((1, 1, 2, 2), 128 / 255), torch.zeros(1).long()
    candidate = image + 0.001
    safe, lost = [9.0, 0.0, 0.0], [0.0, 0.0, 9.0]

    def forward(before, after):
        rows = torch.tensor([after, before])
        return Classifier(
            lambda images: rows[(images[:, 0, 0, 0] > 128.1 / 255).long()], num_classes=3, access="scores"
        )

    found = verify(forward(logits, safe), image, labels, candidate, threat)
    assert (found.broken.tolist(), found.broken_8bit) == ([broken], (False if broken else None,))
    found = verify(forward(lost, logits), image, labels, candidate, threat)
    assert (found.broken.tolist(), found.broken_8bit) == ([True], (broken,))


def test_only_successes_are_rounded_each_in_its_own_ball():
    """Three images, of which the second is robust; the third has no 8-bit image in its ball."""
    images = torch.tensor([128 / 255, 128 / 255, 128.5 / 255]).view(3, 1, 1, 1).expand(3, 1, 2, 2).clone()
    labels = torch.tensor([0, 1, 0])
    counting = Counting()

    class Second(nn.Module):
        def forward(self, batch):
            counting(batch)
            return torch.tensor([[0.0, 1.0]]).repeat(len(batch), 1)

    threat = ThreatModel(norm="Linf", eps=0.001)
    classifier = Classifier(Second(), num_classes=2)
    with classifier.evaluation_mode(), classifier.count_passes(3) as counter:
        found = verify(classifier, images, labels, images, threat)
    assert (found.broken.tolist(), found.broken_8bit) == ([True, False, True], (True, None, None))
    assert counting.sizes == [2, 1, 2]
    assert counter.forward_passes.tolist() == [2, 1, 2]


def test_the_margin_is_that_of_the_label_to_the_largest_other_class():
    classifier = answer([3.0, -1.0, 2.5])
    for label, margin in ((0, 0.5), (1, -4.0), (2, -0.5)):
        reading = predict(classifier, GREY[:1], torch.tensor([label]))
        assert reading.margin.tolist() == pytest.approx([margin])
        assert (reading.prediction.tolist(), reading.correct.tolist()) == ([0], [label == 0])
    low = predict(answer([-3.0, -2.0, -2.5]), GREY[:1], torch.tensor([1]))  # none of them is above zero
    assert (low.prediction.tolist(), low.correct.tolist(), low.margin.tolist()) == ([1], [True], [0.5])


def test_equal_logits_are_fragile_and_so_is_no_answer_that_is_not_finite():
    for logits, fragile in (
        ([1.0, 1.0], True),
        ([0.0, 0.0], True),
        ([1.0, NAN], False),
        ([0.0, math.inf], False),
    ):
        reading = predict(answer(logits), GREY[:1], torch.tensor([0]))
        assert reading.fragile.tolist() == [fragile]
        assert math.isnan(reading.margin[0]) == (not math.isfinite(sum(logits)))
        assert reading.is_finite.tolist() == [math.isfinite(sum(logits))]


def test_whether_a_margin_is_fragile_depends_on_the_range_of_the_image_alone():
    """One image of a range of ten and one of ten thousand: neither lends its range to the other."""
    logits = torch.tensor([[0.01, 0.0, -9.99], [0.01, 0.0, -9999.0]])
    classifier = Classifier(lambda images: logits[: len(images)], num_classes=3, access="scores")
    reading = predict(classifier, GREY[:2], torch.zeros(2).long())
    assert reading.fragile.tolist() == [False, True]
    logits = torch.tensor([[0.01, 0.0, -9.99], [999.0, 998.99, 989.0]])
    reading = predict(classifier, GREY[:2], torch.zeros(2).long())
    assert reading.fragile.tolist() == [False, False]


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_whether_a_margin_is_fragile_does_not_depend_on_the_scale_of_the_logits(scale):
    for share, fragile in ((0.9e-4, True), (1.1e-4, False)):
        reading = predict(
            answer([scale * 5.0, scale * (5.0 - 10 * share), scale * -5.0]), GREY[:1], torch.tensor([0])
        )
        assert reading.fragile.tolist() == [fragile]


def test_a_margin_of_exactly_the_share_is_not_fragile():
    assert predict(answer([1.0, 0.0, -9999.0]), GREY[:1], torch.tensor([0])).fragile.tolist() == [False]


def test_the_limit_itself_belongs_to_the_ball():
    threat = ThreatModel(norm="Linf", eps=0.25 - LINF_SLACK)
    assert threat.eps + LINF_SLACK == 0.25
    assert find_ball_violations(GREY + 0.25, GREY, threat) == [None] * 3


def test_parameters_of_a_transformation_are_checked_and_applied_here():
    """Four images: left as it is, turned, turned too far, shifted; the attack returns numbers, not images."""
    images = torch.rand(4, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    threat = ThreatModel(norm="spatial", eps=30)
    parameters = torch.tensor([[0.0, 0, 0], [30.0, 0, 0], [40.0, 0, 0], [0.0, 0.1, 0]])
    stream = RandomStream(1, ("a", "b", "c", "d"), "any")
    found = verify(answer([0.0, 1.0]), images, torch.zeros(4).long(), parameters, threat, stream=stream)
    assert [bool(reason) for reason in found.rejection_reasons] == [False, False, True, False]
    assert "leave the family" in found.rejection_reasons[2]
    assert found.broken.tolist() == [True, True, False, True]
    assert found.broken_8bit == (True, True, None, True)
    assert torch.allclose(found.candidates[0], images[0], atol=1e-5)
    assert torch.equal(found.candidates[2], images[2])
    for row in (1, 3):
        turned = apply_transformation(images[[row]], parameters[[row]], threat, None)
        assert torch.equal(found.candidates[[row]], turned)
        assert not torch.allclose(turned, images[[row]], atol=1e-2)


def test_the_random_numbers_of_a_corruption_are_those_of_its_own_image():
    images = torch.full((3, 3, 8, 8), 0.5)
    threat = ThreatModel(norm="corruption", transformation="gaussian_noise", eps=3)
    stream = RandomStream(1, ("a", "b", "c"), "any")
    given = images.new_zeros(3, 0), threat
    together = verify(answer([0.0, 1.0]), images, torch.zeros(3).long(), *given, stream=stream)
    assert together.rejection_reasons == (None, None, None)
    for row in range(3):
        own = apply_transformation(images[[row]], images.new_zeros(1, 0), threat, stream.select_images([row]))
        assert torch.equal(together.candidates[[row]], own)
    assert not torch.equal(together.candidates[0], together.candidates[1])
