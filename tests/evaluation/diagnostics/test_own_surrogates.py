"""Models that bring surrogate gradients of their own, and models that only look so."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from test_diagnostics import SOUND, make_images
from torch import nn

from robustbench_local.attacks.adaptive.findings import LayerFinding, OperatorFinding
from robustbench_local.bpda import apply_straight_through
from robustbench_local.classifier import Classifier
from robustbench_local.evaluation.diagnostics.own_surrogates import MIN_SURROGATE_COSINE, has_own_surrogates


class Rounding(nn.Module):
    def forward(self, images):
        return (images * 15).round() / 15


class Declared(nn.Module):
    def __init__(self, declares: bool) -> None:
        super().__init__()
        self.codec, self.declares = Rounding(), declares

    def forward(self, images):
        return apply_straight_through(self.codec, images) if self.declares else self.codec(images)


def make_classifier(declares: bool) -> Classifier:
    network = nn.Sequential(Declared(declares), nn.Flatten(), nn.Linear(16, 2))
    return Classifier(network, num_classes=2)


@pytest.mark.parametrize("declares", [True, False])
def test_a_step_inside_one_with_the_gradient_of_the_identity(declares):
    findings = replace(SOUND, layers=(LayerFinding(path="0.codec", kind="zero", keeps_shape=True),))
    assert has_own_surrogates(make_classifier(declares), findings, make_images((0.2, 0.7))) == declares
    other = replace(findings, layers=(*findings.layers, LayerFinding(path="2", kind="zero")))
    assert not has_own_surrogates(make_classifier(declares), other, make_images((0.2, 0.7)))


def test_a_step_that_declares_itself():
    layer = LayerFinding(path="0", kind="contradicted", keeps_shape=True, is_declared_identity=True)
    findings = replace(SOUND, layers=(layer,))
    assert has_own_surrogates(make_classifier(True), findings, make_images((0.2,)))
    assert not has_own_surrogates(make_classifier(True), SOUND, make_images((0.2,)))


@pytest.mark.parametrize(("cosine", "expected"), [(MIN_SURROGATE_COSINE, True), (0.94, False), (None, False)])
def test_a_gradient_like_the_one_through_surrogates(cosine, expected):
    rounding = OperatorFinding(path="0", operator="round", count=1)
    gradients = replace(SOUND.gradients, surrogate_cosine=cosine)
    findings = replace(SOUND, operators=(rounding,), gradients=gradients)
    assert has_own_surrogates(make_classifier(True), findings, make_images((0.2,))) == expected
    saturated = OperatorFinding(path="0", operator="saturated tanh", count=1)
    for others in ((), (saturated,)):
        found = replace(findings, operators=others)
        assert not has_own_surrogates(make_classifier(True), found, make_images((0.2,)))


class Rippled(nn.Module):
    """Its clamp makes gradients vanish at 0 and 1; it declares nothing unless it goes straight itself."""

    def __init__(self, declares: bool) -> None:
        super().__init__()
        self.declares = declares

    def forward(self, images):
        images = images.clamp(0, 1)
        return apply_straight_through(torch.sin, images) if self.declares else torch.sin(images)


@pytest.mark.parametrize("declares", [True, False])
def test_gradients_taken_inside_the_borders_declare_nothing(declares):
    classifier = Classifier(nn.Sequential(Rippled(declares), nn.Flatten(), nn.Linear(16, 2)), num_classes=2)
    classifier.border_probe.set_result(masked=True)
    gradients = replace(SOUND.gradients, surrogate_cosine=1.0, cosine=MIN_SURROGATE_COSINE - 0.01)
    findings = replace(SOUND, gradients=gradients)
    assert has_own_surrogates(classifier, findings, make_images((0.2,))) == declares
    assert classifier.border_probe.masked


class OnGrid(nn.Module):
    """Rounds beside the 8-bit grid; the gradient is that of the identity there too, or else a wave."""

    def __init__(self, is_honest: bool) -> None:
        super().__init__()
        self.is_honest = is_honest

    def forward(self, images):
        wave = images if self.is_honest else torch.sin(1e4 * images)
        off_grid = (images - (images * 255).round() / 255).abs() > 1e-4
        rounded = (images * 15).round() / 15 + (wave - wave.detach())
        return torch.where(off_grid, rounded, images)


@pytest.mark.parametrize("is_honest", [True, False])
def test_a_surrogate_holds_beside_the_grid_of_pixels(is_honest):
    rounding = OperatorFinding(path="0", operator="round", count=1)
    torch.manual_seed(0)
    network = nn.Sequential(OnGrid(is_honest), nn.Flatten(), nn.Linear(16, 2))
    gradients = replace(SOUND.gradients, surrogate_cosine=1.0, cosine=0.0)
    findings = replace(SOUND, operators=(rounding,), gradients=gradients)
    images = make_images((51 / 255, 102 / 255))
    assert has_own_surrogates(Classifier(network, num_classes=2), findings, images) == is_honest


def test_nothing_is_left_behind():
    classifier = make_classifier(True)
    state = torch.get_rng_state()
    findings = replace(SOUND, layers=(LayerFinding(path="0.codec", kind="zero", keeps_shape=True),))
    has_own_surrogates(classifier, findings, make_images((0.2,)))
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module._forward_hooks for module in classifier.module.modules())


class Coded(torch.autograd.Function):
    """Few levels, or none, and the gradient of the identity times a factor."""

    @staticmethod
    def forward(ctx, images, levels, factor):
        ctx.factor = factor
        return (images * levels).round() / levels if levels else images.clone()

    @staticmethod
    def backward(ctx, slopes):
        return ctx.factor * slopes, None, None


class OwnFunction(nn.Module):
    def __init__(self, levels: int, factor: float) -> None:
        super().__init__()
        self.levels, self.factor = levels, factor

    def forward(self, images):
        return Coded.apply(images, self.levels, self.factor)


@pytest.mark.parametrize(
    ("levels", "factor", "expected"), [(15, 1.0, True), (255, 1.0, True), (255, -1.0, False), (0, 1.0, False)]
)
def test_straight_through_written_by_hand(levels, factor, expected):
    """Its finite differences are zero, or as far off, between two levels."""
    network = nn.Sequential(OwnFunction(levels, factor), nn.Flatten(), nn.Linear(16, 2))
    gradients = replace(SOUND.gradients, surrogate_cosine=1.0, cosine=0.0)
    findings = replace(SOUND, gradients=gradients)
    images = make_images((51 / 255, 204 / 255))
    assert has_own_surrogates(Classifier(network, num_classes=2), findings, images) == expected
