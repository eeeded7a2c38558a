"""What leaves a classifier's gradient is finite, and to the bit what it was where it was finite."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from robustbench_local.classifier import Classifier
from robustbench_local.classifier.gradient_repair import (
    DIFFERENCE_STEPS,
    MAX_SLOPE_RATIO,
    ROUNDING_SHARE,
    compute_ascent_gradient,
    confirm_gradient,
    is_finite_and_nonzero,
    remove_nonfinite,
)
from robustbench_local.defenses.wrappers.bit_depth import BitDepth
from robustbench_local.defenses.wrappers.gaussian_noise import GaussianNoise
from robustbench_local.defenses.wrappers.median import MedianBlur
from robustbench_local.defenses.wrappers.resize_pad import ResizePad
from robustbench_local.defenses.wrappers.smoothing import RandomizedSmoothing

WEIGHTS = torch.linspace(-1, 1, 3 * 48).view(48, 3)


class Network(nn.Module):
    """A smooth network on 3x4x4 images, with a branch whose gradient is NaN where a row's sum is above 24."""

    def __init__(self, *, faulty: bool) -> None:
        super().__init__()
        self.faulty = faulty

    def forward(self, images: Tensor) -> Tensor:
        flat = images.flatten(1)
        logits = flat.sin() @ WEIGHTS
        if not self.faulty:
            return logits
        branch = ((flat - flat) ** 2).sum(1).sqrt()
        return logits + torch.where(flat.sum(1) > 24, branch, 0.0)[:, None] + (flat - flat)[:, :1]


class Rows(nn.Module):
    """NaN in the gradients of some rows only."""

    def forward(self, images: Tensor) -> Tensor:
        flat = images.flatten(1)
        chosen = (flat.sum(1) > 24).float()[:, None]
        # the square root's slope at 0 is infinite where chosen, and that at 1 is finite
        return flat.sin() @ WEIGHTS + 0 * (((flat - flat) ** 2).sum(1, keepdim=True) + 1 - chosen).sqrt()


def images_of(count: int = 12) -> Tensor:
    return torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(1))


def margin(logits: Tensor) -> Tensor:
    return logits[:, 0] - logits[:, 1]


def gradient_of(classifier: Classifier, images: Tensor) -> Tensor:
    return classifier.compute_gradient(images, margin)[2]


@pytest.mark.parametrize("size", [1, 5, 12])
def test_rows_without_trouble_keep_every_bit_and_the_others_are_repaired(size: int):
    images = images_of()
    plain, faulty = (Classifier(one, num_classes=3) for one in (Network(faulty=False), Rows()))
    bad = images.flatten(1).sum(1) > 24
    assert 2 < int(bad.sum()) < 10
    with faulty.count_passes(12) as meter:
        for rows in torch.arange(12).split(size):
            expected = gradient_of(plain, images[rows])
            assert torch.equal(faulty.compute_gradient(images[rows], margin, rows)[2], expected)
    counts = meter.gradient_counts
    assert [count.nonfinite_steps for count in counts] == bad.int().tolist()
    assert [count.nonfinite_entries for count in counts] == (48 * bad).tolist()
    assert [count.steps for count in counts] == [1] * 12
    assert not any(count.zero_steps or count.unconfirmed_steps for count in counts)
    # the repair costs the rows that need it: a pass each way, and two differences of two looks
    assert meter.backward_passes.tolist() == (1 + bad).tolist()
    assert meter.forward_passes.tolist() == (1 + 5 * bad).tolist()


def test_several_losses_are_repaired_together():
    images = images_of()
    pair = [Classifier(one, num_classes=3) for one in (Network(faulty=False), Rows())]
    plain, faulty = (one.compute_gradient(images, lambda logits: logits[:, 1:])[2] for one in pair)
    assert faulty.shape == (12, 2, 3, 4, 4)
    assert torch.equal(plain, faulty)


class Opaque(torch.autograd.Function):
    """The identity, with a backward pass of NaN: no repair can know what is behind it."""

    @staticmethod
    def forward(ctx, images: Tensor) -> Tensor:
        return images.clone()

    @staticmethod
    def backward(ctx, slope: Tensor) -> Tensor:
        return slope * torch.nan


def test_what_cannot_be_repaired_is_zero_and_counted():
    classifier = Classifier(function(lambda x: Network(faulty=False)(Opaque.apply(x))), num_classes=3)
    with classifier.count_passes(12) as meter:
        assert not gradient_of(classifier, images_of()).any()
    assert {(one.nonfinite_steps, one.zero_steps) for one in meter.gradient_counts} == {(1, 1)}


def test_a_repaired_gradient_that_leads_nowhere_is_not_confirmed():
    """The main branch's gradient is NaN, a side branch of no weight has one: finite, and worth nothing."""

    def forward(x: Tensor) -> Tensor:
        return Network(faulty=False)(Opaque.apply(x)) + 1e-4 * x.flatten(1).flip(1)[:, :3]

    classifier = Classifier(function(forward), num_classes=3)
    with classifier.count_passes(12) as meter:
        assert gradient_of(classifier, images_of()).any()
    assert all(one.unconfirmed_steps == 1 for one in meter.gradient_counts)


def test_a_slope_counts_as_confirmed_up_to_a_factor():
    images = torch.full((4, 1, 2, 2), 0.5)
    slopes = torch.tensor(
        [0.99 * MAX_SLOPE_RATIO, 1.01 * MAX_SLOPE_RATIO, 1.01 / MAX_SLOPE_RATIO, 0.99 / MAX_SLOPE_RATIO]
    )

    def losses_at(points: Tensor) -> Tensor:
        return points.flatten(1).sum(1) * slopes

    claimed = torch.ones_like(images)
    assert confirm_gradient(losses_at, images, losses_at(images), claimed).tolist() == [
        True,
        False,
        True,
        False,
    ]
    assert len(DIFFERENCE_STEPS) == 2


def test_a_slope_within_rounding_is_not_confirmed():
    images = torch.full((2, 1, 2, 2), 0.5)
    slopes = torch.tensor([0.8, 1.2]) * ROUNDING_SHARE / (2 * DIFFERENCE_STEPS[0] * 4)

    def losses_at(points: Tensor) -> Tensor:
        return ((points.double() - 0.5).flatten(1).sum(1)) * slopes

    claimed = torch.ones_like(images) * slopes.view(-1, 1, 1, 1)
    assert confirm_gradient(losses_at, images, losses_at(images), claimed).tolist() == [False, True]


def test_zero_gradients_are_counted():
    classifier = Classifier(function(lambda x: x.flatten(1)[:, :3].round() + 0 * x.mean()), num_classes=3)
    with classifier.count_passes(3) as meter:
        gradient_of(classifier, images_of(3))
    assert [(one.nonfinite_steps, one.zero_steps) for one in meter.gradient_counts] == [(0, 1)] * 3


@pytest.mark.parametrize(
    "wrapper", [BitDepth(bits=4), MedianBlur(), GaussianNoise(), ResizePad(), RandomizedSmoothing()]
)
def test_wrappers_hand_on_what_the_network_without_the_branch_gives(wrapper):
    images = images_of()
    plain, faulty = (wrapper.wrap(Classifier(one, num_classes=3)) for one in (Network(faulty=False), Sqrt()))
    with plain.evaluation_mode(), faulty.evaluation_mode():
        assert torch.equal(gradient_of(plain, images), gradient_of(faulty, images))


class Sqrt(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        flat = images.flatten(1)
        return flat.sin() @ WEIGHTS + ((flat - flat) ** 2).sum(1).sqrt()[:, None]


@pytest.mark.parametrize("odd", [True, False])
def test_a_draw_without_a_gradient_leaves_the_others_in_the_mean(odd: bool):
    """Noise draws of which some rows break: their other branches count all the same."""
    images = images_of(4)
    plain, faulty = (
        GaussianNoise(sigma=0.2).wrap(Classifier(one, num_classes=3))
        for one in (Network(faulty=False), Rows())
    )
    for classifier in (plain, faulty):
        classifier.configure(batch_size=4 if odd else 80)
    with faulty.count_passes(4) as meter:
        assert torch.equal(gradient_of(plain, images), gradient_of(faulty, images))
    assert sum(one.nonfinite_steps for one in meter.gradient_counts) > 0


def function(forward) -> nn.Module:
    class Model(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return forward(images)

    return Model()


def test_other_libraries_get_finite_gradients_too():
    images = images_of().requires_grad_()
    slopes = []
    for network in (Network(faulty=False), Sqrt()):
        module = Classifier(network, num_classes=3).as_module()
        slopes.append(torch.autograd.grad(margin(module(images)).sum(), images)[0])
    assert torch.equal(*slopes)
    # a loss of theirs that breaks in some rows does not spoil the others
    module = Classifier(Network(faulty=False), num_classes=3).as_module()
    logits = module(images)
    scale = torch.ones(12, 1)
    scale[3] = torch.nan
    (found,) = torch.autograd.grad((margin(logits) * scale[:, 0]).sum(), images)
    assert found.isfinite().all()
    assert not found[3].any()
    assert torch.equal(found[:3], slopes[0][:3])


def test_on_a_gpu_nobody_waits_and_what_was_missed_is_told_afterwards():
    """The same course of things on a CPU: after one good look, faults are only taken out."""
    images, classifier = images_of(), Classifier(Rows(), num_classes=3)
    guard = classifier.gradient_guard
    guard._checks_every_gradient = False
    bad = images.flatten(1).sum(1) > 24
    found = gradient_of(classifier, images)
    assert found.isfinite().all()
    assert not found[bad].any()
    assert found[~bad].flatten(1).any(dim=1).all()
    assert guard.detect_missed_faults()
    assert not guard.detect_missed_faults()
    assert gradient_of(classifier, images)[bad].flatten(1).any(dim=1).all()


def test_healthy_means_finite_and_not_zero():
    good = torch.ones(3, 1, 2, 2)
    assert is_finite_and_nonzero(good)
    for value in (torch.nan, torch.inf, -torch.inf):
        bad = good.clone()
        bad[1, 0, 0, 1] = value
        assert not is_finite_and_nonzero(bad)
        assert remove_nonfinite(bad).flatten(1).sum(1).tolist() == [4, 3, 4]
    bad = good.clone()
    bad[2] = 0
    assert not is_finite_and_nonzero(bad)


def test_trainings_ascend_finite_gradients():
    images = images_of()
    expected, repaired = compute_ascent_gradient(lambda x: margin(Network(faulty=False)(x)).sum(), images)
    assert not repaired
    found, repaired = compute_ascent_gradient(lambda x: margin(Sqrt()(x)).sum(), images)
    assert repaired
    assert torch.equal(found, expected)
    found, _ = compute_ascent_gradient(lambda x: margin(Sqrt()(x)).sum(), images, check=False)
    assert found.isfinite().all()
