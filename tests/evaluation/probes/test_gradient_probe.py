"""Gradients that lead attacks astray are found; straight-through and scaled ones are not taken for that."""

from __future__ import annotations

import inconsistent_models as models
import pytest
import torch

from robustbench_local.classifier import Classifier
from robustbench_local.defenses.wrappers.wrapper_registry import build_wrapper
from robustbench_local.evaluation.probes import gradient_probe
from robustbench_local.evaluation.probes.consistency_probe import probe_consistency


def with_backward(change, forward=None):
    """A network whose images go through a function with that backward pass."""

    class Through(torch.autograd.Function):
        @staticmethod
        def forward(_ctx, images):
            return images.clone() if forward is None else forward(images)

        @staticmethod
        def backward(_ctx, slope):
            return change(slope)

    return models.make_variant(prepare_images=lambda _self, images: Through.apply(images))


def probe(model, images=None, **options):
    classifier = Classifier(model, num_classes=models.CLASSES, name="it", **options)
    return probe_consistency(classifier, models.make_images(12) if images is None else images)


GENERATOR = torch.Generator().manual_seed(0)
ASTRAY = {
    "reversed": lambda slope: -slope,
    "random": lambda slope: torch.randn(slope.shape, generator=GENERATOR),
    "shuffled": lambda slope: slope.flatten(1)[:, torch.randperm(192, generator=GENERATOR)].view_as(slope),
    "mirrored": lambda slope: slope.flip(-1, -2),
    "constant": torch.ones_like,
}


@pytest.mark.parametrize("kind", list(ASTRAY))
def test_gradients_that_lead_astray_are_found(kind):
    found = probe(with_backward(ASTRAY[kind]))
    assert found.has_misleading_gradients
    assert found.is_consistent  # black boxes can be relied on
    assert any("gradients do not say" in note for note in found.notes)
    assert not probe(with_backward(ASTRAY[kind]), access="scores").has_misleading_gradients


SOUND = {
    "as it is": (lambda slope: slope, None),
    "nothing": (torch.zeros_like, None),
    "not a number": (lambda slope: slope * torch.nan, None),
    "tiny": (lambda slope: 1e-30 * slope, None),
    "huge": (lambda slope: 1e20 * slope, None),
    "half of the pixels": (lambda slope: slope * (torch.arange(8) % 2), None),
    "signs": (torch.sign, None),
    "straight through 4 bits": (lambda slope: slope, lambda images: (images * 15).round() / 15),
    "straight through 1 bit": (lambda slope: slope, lambda images: (images > 0.5).float()),
}


@pytest.mark.parametrize("kind", list(SOUND))
@pytest.mark.parametrize("binary", [False, True])
def test_others_are_not_taken_for_that(kind, binary):
    images = models.make_images(12)
    assert not probe(
        with_backward(*SOUND[kind]), (images > 0.5).float() if binary else images
    ).has_misleading_gradients


def test_a_defense_s_straight_through_gradient_is_none_but_its_model_s_is():
    for change, misleads in ((lambda slope: slope, False), (lambda slope: -slope, False)):
        inner = Classifier(with_backward(change), num_classes=models.CLASSES)
        defended = build_wrapper("bit-depth", {"bits": 1}).wrap(inner)
        assert probe_consistency(defended, models.make_images(4)).has_misleading_gradients is misleads


def slanted(slope, share):
    """A gradient of which that share of what it foretells comes; the rest is at right angles to the true."""
    across = torch.randn(slope.shape, generator=torch.Generator().manual_seed(1))
    inner = (across * slope).flatten(1).sum(1) / slope.square().flatten(1).sum(1)
    across = across - inner.view(-1, 1, 1, 1) * slope
    length = (slope.square().flatten(1).sum(1) / across.square().flatten(1).sum(1)).sqrt()
    return slope + (1 / share - 1) ** 0.5 * length.view(-1, 1, 1, 1) * across


@pytest.mark.parametrize(("share", "misleads"), [(0.05, True), (0.2, False)])
def test_the_least_share_on_both_sides(share, misleads):
    assert gradient_probe.MIN_CHANGE_SHARE == 0.1
    found = probe(with_backward(lambda slope: torch.cat([slanted(slope[:1], share), -slope[1:]])))
    assert found.has_misleading_gradients is misleads


@pytest.mark.parametrize(("factor", "misleads"), [(2.0, False), (4.5, True)])
def test_another_unit_is_the_same_for_all_images(factor, misleads):
    assert gradient_probe.MAX_SHARE_RATIO == 3
    found = probe(with_backward(lambda slope: 1e3 * torch.cat([slope[:1], factor * slope[1:]])))
    assert found.has_misleading_gradients is misleads
