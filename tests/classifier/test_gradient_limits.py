"""Limits of the checks of gradients and outputs, from both sides, in numbers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from robustbench_local.classifier import Classifier
from robustbench_local.classifier.gradient_repair import confirm_gradient
from robustbench_local.classifier.image_borders import find_inset, has_masked_borders, move_inside
from robustbench_local.errors import ModelError


def confirm(slopes, claimed):
    """Whether claimed slopes are confirmed by losses that rise by others."""
    images = torch.full((len(slopes), 1, 2, 2), 0.5)
    rises, claims = torch.tensor(slopes), torch.tensor(claimed)

    def losses_at(points):
        return (points.double() - 0.5).flatten(1).sum(1) * rises

    claims = claims.view(-1, 1, 1, 1) * torch.ones_like(images)
    return confirm_gradient(losses_at, images, losses_at(images), claims).tolist()


def test_a_slope_is_confirmed_up_to_a_factor_of_three():
    assert confirm([2.9, 3.1, 0.34, 0.32], [1.0] * 4) == [True, False, True, False]


def test_a_rise_of_six_millionths_or_less_is_rounding():
    rises = [5e-6 / 0.08, 7e-6 / 0.08]  # over four pixels, by a hundredth to either side
    assert confirm(rises, rises) == [False, True]


@pytest.mark.parametrize(("gone", "masked"), [(50, False), (51, True)])
def test_more_than_half_of_the_border_pixels_without_a_slope_are_a_clamp(gone, masked):
    points = torch.zeros(1, 1, 1, 200)
    points[..., 100:] = 0.5

    def slope_at(images):
        found = torch.ones_like(images)
        found[..., :gone] = (images[..., :gone] != 0).float()
        return found

    assert has_masked_borders(slope_at, points, 1e-6) is masked


def test_pixels_move_by_a_millionth_from_the_border():
    moved = move_inside(torch.tensor([0.0, 1.0], dtype=torch.float64), find_inset(torch.float32))
    assert 0.9e-6 < float(moved[0]) < 1.1e-6
    assert 0.9e-6 < 1 - float(moved[1]) < 1.1e-6


@pytest.mark.parametrize(("count", "refused"), [(7, False), (8, True)])
def test_eight_scores_between_zero_and_one_are_probabilities(count, refused):
    images = torch.rand(12, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    classifier = Classifier(
        nn.Sequential(nn.Flatten(), nn.Linear(4, 1), nn.Sigmoid()), num_classes=2, output="logit"
    )
    if refused:
        with pytest.raises(ModelError, match="as probabilities do"):
            classifier(images[:count])
    else:
        classifier(images[:count])
