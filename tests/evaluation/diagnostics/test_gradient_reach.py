"""D30: gradients that are right at a point and wrong over a step, and limits from both sides."""

from __future__ import annotations

import pytest
import torch
from test_diagnostics import Brightness, change, check, make_model
from torch import nn

from robustbench_local.evaluation.diagnostics.gradient_reach import (
    LONGEST_STEP,
    SHORTEST_STEP,
    GradientReach,
)


class Changed(Brightness):
    """Brightness behind a function of the pixels or in front of one of the logits."""

    def __init__(self, pixels=lambda images: images, logits=lambda logits: logits) -> None:
        super().__init__()
        self.pixels, self.logits = pixels, logits

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.logits(super().forward(self.pixels(images)))


class StraightThrough(torch.autograd.Function):
    """Few levels, with the gradient of the identity times a factor."""

    @staticmethod
    def forward(ctx, images, factor):
        ctx.factor = factor
        return (images * 64).round() / 64

    @staticmethod
    def backward(ctx, slopes):
        return ctx.factor * slopes, None


def with_slope(images: torch.Tensor, factor: float) -> torch.Tensor:
    """The same values with another gradient."""
    return factor * images + ((1 - factor) * images).detach()


@pytest.mark.parametrize(
    ("module", "status"),
    [
        (Changed(), "ok"),
        (Changed(logits=lambda logits: 1000 * logits), "ok"),
        (Changed(pixels=lambda images: images**2), "ok"),
        (Changed(logits=lambda logits: logits + 1.5 * torch.sin(80 * logits)), "fail"),
        (Changed(pixels=lambda images: images + 0.005 * torch.sin(3000 * images)), "fail"),
        (Changed(pixels=lambda images: images - 2 * (images * 8).remainder(1) / 8), "ok"),  # only elsewhere
        (Changed(pixels=lambda images: with_slope(images, 1 / 0.24)), "fail"),
        (Changed(pixels=lambda images: with_slope(images, 1 / 0.26)), "ok"),
        (Changed(pixels=lambda images: with_slope(images, 1 / 4.9)), "ok"),
        (Changed(pixels=lambda images: with_slope(images, 1 / 5.1)), "warn"),
        (Changed(pixels=lambda images: with_slope(images, -1.0)), "fail"),
    ],
)
def test_steps_and_what_gradients_promise(module, status):
    reading = check(GradientReach(), make_model((0.22, 0.33, 0.68, 0.79) * 4, module))
    assert (reading.status, reading.n) == (status, 8)
    assert (reading.action != "") == (status != "ok")


@pytest.mark.parametrize(("share", "status"), [(0.249, "fail"), (0.251, "ok"), (4.99, "ok"), (5.01, "warn")])
def test_limits_of_the_share(share, status):
    assert GradientReach().judge_figures(share, 8).status == status


@pytest.mark.parametrize(("factor", "status"), [(1.0, "ok"), (-1.0, "fail")])
def test_a_declared_surrogate_has_to_hold_on_average(factor, status):
    """Pixels of many levels cross a border within a step or not: the surrogate says how many on average."""
    torch.manual_seed(0)
    module = Changed(pixels=lambda images: StraightThrough.apply(images, factor))
    model = make_model((0.2, 0.3, 0.7, 0.8), module, declares_surrogate=True)
    model.images = (model.images.expand(-1, 1, 4, 4) + 0.1 * torch.rand(4, 1, 4, 4)).clamp(0, 1)
    model.labels = (model.images.mean(dim=(1, 2, 3)) > 0.5).long()
    assert check(GradientReach(), model).status == status


def test_a_declared_surrogate_whose_function_does_not_move_decides_nothing():
    module = Changed(pixels=lambda images: images + ((images > 0.5).float() - images).detach())
    model = make_model(module=module, declares_surrogate=True)
    assert check(GradientReach(), model).status == "not run"


class Recorder(nn.Module):
    """Keeps its batches."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.inner, self.batches = Brightness(factor), []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.batches.append(images.detach())
        return self.inner(images)


@pytest.mark.parametrize(
    ("level", "step"),
    [(0.3, LONGEST_STEP), (0.5 - 0.001, 2 * 0.001), (0.5 - 1e-5, SHORTEST_STEP)],
)
def test_the_step_is_twice_what_the_gradient_needs(level, step):
    model = make_model((level,) * 4, module := Recorder(20.0))
    check(GradientReach(), model)
    assert float((module.batches[-1] - model.images[:4]).abs().max()) == pytest.approx(step, rel=1e-3)


def test_what_is_not_asked():
    few = make_model((0.2,) * 16)
    few.labels = torch.tensor([0] + [1] * 15)
    assert "classified correctly" in check(GradientReach(), few).sentence
    statuses = []
    for limit in (29, 30):  # a fifth of the budget: one image, two images
        poor = make_model()
        poor.budget.limit, poor.budget.spent = limit, 0
        statuses.append(check(GradientReach(), poor).status)
    assert statuses == ["not run", "ok"]
    is_random, is_cut = change(randomness={"max_difference": 1.0}), change(gradients={"has_graph": False})
    for findings in (is_random, is_cut, None):
        assert check(GradientReach(), make_model(findings=findings)).status == "not run"
    assert check(GradientReach(), make_model(access="scores")).status == "not run"
    flat = Changed(logits=lambda logits: logits.round())
    assert check(GradientReach(), make_model(module=flat)).status == "not run"
