"""Gradients at pixels of exactly 0 and 1: those of just inside, where a model's break off there."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from robustbench_local.bpda import clamp_with_border_gradient
from robustbench_local.classifier import Classifier
from robustbench_local.classifier.image_borders import (
    DEFAULT_INSET,
    MASKED_BORDERS_NOTE,
    MIN_BROKEN_SHARE,
    build_probes,
    find_inset,
    has_masked_borders,
    move_inside,
)
from robustbench_local.defenses.recipes.training_pgd import build_linf_examples
from robustbench_local.defenses.wrappers.bit_depth import BitDepth
from robustbench_local.defenses.wrappers.gaussian_noise import GaussianNoise


class Net(nn.Module):
    """A small convolutional network behind something that is done to its images."""

    def __init__(self, before=lambda x: x, *, bias: bool = True, size: int | None = None) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.layers = nn.Sequential(
                nn.Conv2d(1, 8, 3, padding=1, bias=bias), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1, bias=bias),
                nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 4, bias=bias),
            )  # fmt: skip
        self.before, self.size = before, size

    def forward(self, images: Tensor) -> Tensor:
        if self.size:
            images = nn.functional.interpolate(images, (self.size, self.size), mode="bilinear")
        return self.layers(self.before(images))


def clamp(x: Tensor) -> Tensor:
    return x.clamp(0, 1)


def drawing(count: int = 3, side: int = 12) -> Tensor:
    """Mostly black and white."""
    return (3 * torch.rand(count, 1, side, side, generator=torch.Generator().manual_seed(2)) - 1).clamp(0, 1)


def slope(classifier: Classifier, images: Tensor) -> Tensor:
    return classifier.compute_gradient(images, lambda logits: logits[:, 0])[2]


@pytest.mark.parametrize("side", [1, 2, 5, 12, 32])
@pytest.mark.parametrize("size", [None, 24])
def test_a_clamp_is_found_and_passed_through(side: int, size: int | None):
    images = drawing(side=side)
    side_by_side = [
        Classifier(Net(before, size=size).eval(), num_classes=4) for before in (lambda x: x, clamp)
    ]
    plain, clamped = (slope(one, images) for one in side_by_side)
    assert [MASKED_BORDERS_NOTE in one.notes for one in side_by_side] == [False, True]
    assert torch.allclose(plain, clamped, atol=1e-4 * float(plain.abs().max()))


@pytest.mark.parametrize(
    "before",
    [
        lambda x: x,
        lambda x: x.clamp(-0.5, 1.5),
        lambda x: (x - 0.13) / 0.31,
        lambda x: x**2,
        lambda x: nn.functional.max_pool2d(x, 3, 1, 1),
        lambda x: (x * 255).round() / 255,
        lambda x: x + 0.3 * torch.randn_like(x),
    ],
)
@pytest.mark.parametrize("bias", [True, False])
def test_networks_that_do_not_clamp_are_left_as_they_are(before, bias: bool):
    classifier = Classifier(Net(before, bias=bias).eval(), num_classes=4)
    images = torch.rand(3, 1, 12, 12)
    slope(classifier, images)
    assert not classifier.border_probe.masked
    assert MASKED_BORDERS_NOTE not in classifier.notes


def test_finding_out_leaves_no_trace_in_random_states():
    classifier = Classifier(Net(lambda x: x + 0 * torch.rand(1)).eval(), num_classes=4)
    before = torch.get_rng_state()
    classifier.find_masked_borders(drawing())
    assert torch.equal(torch.get_rng_state(), before)


def test_answers_stay_those_of_the_exact_image():
    step = Classifier(Net(lambda x: x.clamp(0, 1) + 100 * (x == 0)).eval(), num_classes=4)
    images = drawing()
    with step.count_passes(3) as meter:
        logits, _, found = step.compute_gradient(images, lambda logits: logits[:, 0])
    assert torch.equal(logits, step(images))
    assert meter.forward_passes.tolist() == [2] * 3  # one for the answer, one for the gradient
    assert found.any()


def test_a_model_that_takes_other_images_only_is_asked_about_none():
    def picky(x: Tensor) -> Tensor:
        if len(x) != 3:
            raise RuntimeError("three images, please")
        return x.clamp(0, 1)

    classifier = Classifier(Net(picky).eval(), num_classes=4)
    assert slope(classifier, drawing()).isfinite().all()
    assert classifier.border_probe.is_decided


def test_a_skip_around_the_clamp_does_not_hide_it():
    net, side = Net(clamp).eval(), Net().eval()

    class Both(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return net(images) + 0.3 * side(1 - images)

    classifier = Classifier(Both(), num_classes=4)
    slope(classifier, drawing())
    assert classifier.border_probe.masked


@pytest.mark.parametrize("wrapper", [BitDepth(bits=5), GaussianNoise(sigma=1e-9)])
def test_a_clamp_within_a_wrapper_is_found(wrapper):
    pair = [wrapper.wrap(Classifier(Net(before).eval(), num_classes=4)) for before in (lambda x: x, clamp)]
    with pair[0].evaluation_mode(), pair[1].evaluation_mode():
        plain, clamped = (slope(one, drawing()) for one in pair)
    assert torch.allclose(plain, clamped, atol=1e-4 * float(plain.abs().max()))
    assert [MASKED_BORDERS_NOTE in one.notes for one in pair] == [False, True]


def test_other_libraries_get_the_gradient_of_just_inside():
    images, slopes = drawing().requires_grad_(), []
    for before in (lambda x: x, clamp):
        module = Classifier(Net(before).eval(), num_classes=4).as_module()
        slopes.append(torch.autograd.grad(module(images)[:, 0].sum(), images)[0])
    assert torch.allclose(*slopes, atol=1e-4 * float(slopes[0].abs().max()))


def test_a_training_s_adversary_is_not_stopped_by_a_clamp():
    images, labels = drawing(8), torch.arange(8) % 4
    plain, clamped = (
        build_linf_examples(Net(before), images, labels, eps=0.1, steps=1, step_size=0.1)
        for before in (lambda x: x, clamp)
    )
    assert float((plain != clamped).float().mean()) < 0.01
    assert float((plain != images).float().mean()) > 0.3


def test_the_share_of_pixels_that_decides_has_two_sides():
    points = torch.zeros(1, 1, 1, 200)
    points[..., 100:] = 0.5
    for gone, expected in ((round(100 * MIN_BROKEN_SHARE), False), (round(100 * MIN_BROKEN_SHARE) + 1, True)):

        def slope_at(images: Tensor, gone: int = gone) -> Tensor:
            found = torch.ones_like(images)
            found[..., :gone] = (images[..., :gone] != 0).float()
            return found

        assert has_masked_borders(slope_at, points, DEFAULT_INSET) is expected
    assert has_masked_borders(torch.zeros_like, points, DEFAULT_INSET) is None
    assert has_masked_borders(torch.ones_like, points[..., 100:], DEFAULT_INSET) is None


@pytest.mark.parametrize(("change", "expected"), [(0.24, False), (0.26, True)])
def test_a_jump_is_a_change_by_a_quarter(change: float, expected: bool):
    points = torch.full((1, 1, 1, 200), 0.5)
    points[..., :50], points[..., 50:100] = 0.0, 1.0

    def slope_at(images: Tensor) -> Tensor:
        return torch.where((images == 0) | (images == 1), 1 - change, 1.0)

    assert has_masked_borders(slope_at, points, DEFAULT_INSET) is expected


def test_probes_are_always_the_same_and_hold_every_colour_at_every_place():
    probes = build_probes(torch.Size((3, 12, 12)), torch.device("cpu"))
    assert torch.equal(probes, build_probes(torch.Size((3, 12, 12)), torch.device("cpu")))
    for probe in probes:
        assert 0 < float((probe == 0).float().mean()) < 0.3
        assert 0 < float((probe == 1).float().mean()) < 0.3
    assert torch.equal(probes[0] == 0, probes[1] == 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_inset_survives_the_arithmetic(dtype: torch.dtype):
    moved = move_inside(torch.tensor([0.0, 0.5, 1.0]), find_inset(dtype)).to(dtype)
    assert 0 < float(moved[0]) < float(moved[1]) == 0.5 < float(moved[2]) < 1


def test_our_clamp_is_torch_s_but_for_its_slope_at_the_borders():
    values = torch.tensor([-0.1, 0.0, 0.3, 1.0, 1.1], requires_grad=True)
    clamped = clamp_with_border_gradient(values)
    assert torch.equal(clamped, values.clamp(0, 1))
    assert torch.autograd.grad(clamped.sum(), values)[0].tolist() == [0, 1, 1, 1, 0]
