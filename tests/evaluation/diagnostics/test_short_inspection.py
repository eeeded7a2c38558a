"""The shorter inspections ask the same questions as the whole one, in fewer passes."""

from __future__ import annotations

import random

import pytest
import torch
from test_diagnostics import Brightness, make_images

from robustbench_local.bpda import apply_straight_through
from robustbench_local.classifier import Classifier
from robustbench_local.evaluation.diagnostics.diagnose import BRIEF_INSPECTION_PASSES, SHORT_INSPECTION_PASSES
from robustbench_local.evaluation.diagnostics.own_surrogates import has_own_surrogates
from robustbench_local.evaluation.diagnostics.short_inspection import (
    inspect_briefly,
    inspect_gradients,
    pool_slopes,
)
from robustbench_local.randomness import RandomStream


class Rounded(Brightness):
    def forward(self, images):
        return super().forward((images * 4).round() / 4)


class StraightThrough(Brightness):
    def forward(self, images):
        return super().forward(apply_straight_through(lambda values: (values * 8).round() / 8, images))


class Flipped(Brightness):
    def forward(self, images):
        return super().forward(images.detach() + (images.detach() - images))


class Noisy(Brightness):
    def forward(self, images):
        return super().forward(images + 0.2 * torch.randn_like(images)) + torch.tensor([0.0, 1.0])


class Tossing(Brightness):
    """It chooses among two ways, by random numbers of its own."""

    def forward(self, images):
        return super().forward(images) * torch.tensor([1.0, random.choice((1.0, 0.5))])


class Optimizing(Brightness):
    def forward(self, images):
        with torch.enable_grad():
            moved = images.detach().requires_grad_()
            slope = torch.autograd.grad(super().forward(moved)[:, 0].sum(), moved)[0]
        return super().forward(images - 0.01 * slope)


def inspect(inspection, module, levels=(0.21, 0.33, 0.72, 0.84)):
    images = make_images(levels)
    classifier = Classifier(module, num_classes=2)
    stream = RandomStream(0, tuple(map(str, range(len(images)))), "inspection")
    labels = (images.mean(dim=(1, 2, 3)) > 0.5).long()
    with classifier.evaluation_mode(), classifier.count_passes(len(images)) as counter:
        findings = inspection(classifier, images, labels, stream)
        own = has_own_surrogates(classifier, findings, images)
    return findings, int(counter.forward_passes.sum() + counter.backward_passes.sum()), own


@pytest.mark.parametrize(
    ("inspection", "most"),
    [(inspect_briefly, BRIEF_INSPECTION_PASSES), (inspect_gradients, SHORT_INSPECTION_PASSES)],
)
def test_what_a_shorter_inspection_finds(inspection, most):
    sound, passes, own = inspect(inspection, Brightness())
    assert passes <= 4 * most
    assert sound.gradients.cosine == pytest.approx(1, abs=1e-3)
    assert (own, sound.operators, sound.optimizes_inside, sound.randomness.is_random) == (
        False,
        (),
        False,
        False,
    )
    rounded, _, own = inspect(inspection, Rounded())
    assert (rounded.gradients.zero_margin_share, own) == (1.0, False)
    assert [operator.operator for operator in rounded.operators] == ["round"]
    flipped, _, _ = inspect(inspection, Flipped())
    assert flipped.gradients.cosine == pytest.approx(-1, abs=1e-3)
    assert inspect(inspection, Noisy())[0].randomness.is_random
    random.seed(1)
    assert inspect(inspection, Tossing())[0].randomness.is_random
    assert inspect(inspection, Optimizing())[0].optimizes_inside


@pytest.mark.parametrize("inspection", [inspect_briefly, inspect_gradients])
def test_a_declared_surrogate_is_known_to_a_shorter_inspection(inspection):
    findings, _, own = inspect(inspection, StraightThrough())
    assert own
    assert findings.gradients.surrogate_cosine == pytest.approx(1, abs=1e-3)


def test_slopes_are_pooled_in_units_of_their_own():
    measured = torch.tensor([[1.0, -1.0], [1000.0, -1000.0], [1e-9, 0.0]], dtype=torch.float64)
    predicted = torch.tensor([[1.0, -1.0], [-1000.0, 1000.0], [0.0, 1e-9]], dtype=torch.float64)
    rounding = torch.full((3, 2), 1e-8, dtype=torch.float64)
    cosine, error = pool_slopes(measured, predicted, rounding)
    assert cosine == pytest.approx(0)  # one image right, one wrong, one unknown
    assert error == pytest.approx(2**0.5)
    assert pool_slopes(measured[2:], predicted[2:], rounding[2:]) == (None, None)
