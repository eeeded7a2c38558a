"""Limits of the probe, from both sides: which differences are rounding, and how long a model is asked."""

from __future__ import annotations

import inconsistent_models as models
import pytest
import torch
from torch import nn

from robustbench_local.classifier import Classifier
from robustbench_local.evaluation.probes import gradient_probe
from robustbench_local.evaluation.probes.answer_differences import (
    compute_size_tolerance,
    find_tolerance,
    has_difference,
)
from robustbench_local.evaluation.probes.consistency_probe import probe_consistency
from robustbench_local.evaluation.probes.probe_images import make_distinct_images, make_probe_images

ANSWERS = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)


def probe(model):
    classifier = Classifier(model, num_classes=models.CLASSES, name="it")
    return probe_consistency(classifier, models.make_images(12))


def is_beyond(share: float, tolerance: float) -> bool:
    return has_difference(ANSWERS, ANSWERS + torch.tensor([[share, 0.0], [0.0, 0.0]]), tolerance)


@pytest.mark.parametrize(("share", "differs"), [(0.95e-4, False), (1.05e-4, True)])
def test_in_batches_of_one_size_a_ten_thousandth_of_the_range_is_rounding(share, differs):
    assert is_beyond(share, find_tolerance(nn.Linear(2, 2))) is differs
    assert is_beyond(share, find_tolerance(None)) is differs


@pytest.mark.parametrize(("levels", "differs"), [(7.9, False), (8.3, True)])
def test_with_quantized_layers_eight_of_256_levels_are_rounding(levels, differs):
    quantized = type("Linear", (nn.Module,), {"__module__": "torch.ao.nn.quantized.modules.linear"})
    assert is_beyond(levels / 256, find_tolerance(nn.Sequential(quantized()))) is differs
    assert is_beyond(levels / 256, find_tolerance(nn.Sequential(nn.Linear(2, 2))))


@pytest.mark.parametrize(
    ("rounding", "share", "differs"),
    [(0.002, 0.0195, False), (0.002, 0.0205, True), (0.05, 0.099, False), (0.05, 0.101, True)],
)
def test_in_batches_of_other_sizes_ten_times_the_rounding_and_a_tenth_of_the_range(rounding, share, differs):
    tolerance = compute_size_tolerance(ANSWERS, ANSWERS + torch.tensor([[rounding, 0.0]]), 1e-4)
    assert is_beyond(share, tolerance) is differs


@pytest.mark.parametrize(("share", "kind"), [(0.0095, "consistent"), (0.0105, "company")])
def test_a_callable_may_round_by_a_hundredth_of_the_range(share, kind):
    def answer(images):
        logits = images.flatten(1)[:, : models.CLASSES] * 0
        logits[:, 0] = 1 + (share if len(images) > 1 else 0)
        return logits

    found = probe(answer)
    assert found.kind == kind
    assert found.is_consistent is (kind == "consistent")


@pytest.mark.parametrize(("share", "kind"), [(0.0095, "consistent"), (0.0105, "gradients")])
def test_while_gradients_are_recorded_a_hundredth_of_the_range_is_rounding(share, kind):
    def forward(self, images):
        step = share * (torch.is_grad_enabled() and len(images) == 2)
        return 0 * self.layers(images) + torch.eye(models.CLASSES)[0] + step * torch.eye(models.CLASSES)[1]

    assert probe(models.make_variant(forward=forward)).kind == kind


@pytest.mark.parametrize(("calls", "kind"), [(129, "memory"), (130, "consistent")])
def test_a_model_that_keeps_state_is_asked_128_times_before_the_last_two(calls, kind):

    def forward(self, images):
        self.calls += 1
        return self.layers(images) * (0 if self.calls > calls else 1)

    model = models.make_variant(forward=forward)
    model.calls = 0
    assert probe(model).kind == kind


@pytest.mark.parametrize(("size", "kind"), [(17, "company"), (18, "consistent")])
def test_the_largest_batch_has_seventeen_images(size, kind):
    def forward(self, images):
        return self.layers(images) * (0 if len(images) >= size else 1)

    assert probe(models.make_variant(forward=forward)).kind == kind


def test_similar_images_and_the_twin_are_as_near_and_as_many_as_they_say():
    images = make_probe_images(make_distinct_images(torch.rand(3, 3, 16, 16)))
    moved = (images.similar - images.distinct[:1]).abs()
    assert images.similar.shape == (32, 3, 16, 16)
    assert float(moved.max()) <= 8 / 255 + 1e-6
    assert float(moved.amax(dim=(1, 2, 3)).min()) > 7.9 / 255
    assert int((images.pair[0] != images.pair[1]).sum()) == round(0.04 * 3 * 16 * 16 + 0.5)


def find_misleading(shares, *, answers=3):
    """Ask about gradients of which these shares of what they foretell come, at some of the three points."""
    start = torch.rand(3, 1, 1, 1)

    def compute_gradient(points, _):
        start.copy_(points[:, :, :1, :1])
        return None, torch.full((3,), 1e-9), torch.ones_like(points)

    def answer(points):
        change = (points[:, :, :1, :1] - start).flatten() * points[0].numel()
        change = change * torch.tensor(shares)
        change[answers:] = 0
        return torch.stack([change, torch.zeros(3)], dim=1).double()

    calls = {"compute_gradient": staticmethod(compute_gradient), "__call__": staticmethod(answer)}
    return gradient_probe.has_misleading_gradients(type("Fake", (), calls)(), torch.full((2, 1, 4, 4), 0.5))


@pytest.mark.parametrize(("share", "misleads"), [(0.095, True), (0.105, False)])
def test_a_tenth_of_the_foretold_change_is_enough(share, misleads):
    assert find_misleading([share, -1.0, -2.0]) is misleads


@pytest.mark.parametrize(("ratio", "misleads"), [(2.9, False), (3.1, True)])
def test_gradients_of_another_unit_differ_by_a_factor_of_three_at_most(ratio, misleads):
    assert find_misleading([0.01, 0.01, 0.01 * ratio]) is misleads


@pytest.mark.parametrize(("answers", "misleads"), [(1, False), (2, True)])
def test_half_of_the_differences_have_to_say_something(answers, misleads):
    assert find_misleading([-1.0, -1.0, -1.0], answers=answers) is misleads
