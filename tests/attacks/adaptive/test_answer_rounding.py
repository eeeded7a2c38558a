"""Gradients of models in half precision: sound ones raise no alarm, wrong ones do."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the name everyone uses

from robustbench_local.attacks.adaptive.answer_rounding import (
    AnswerRounding,
    compute_agreement,
    measure_rounding,
)
from robustbench_local.attacks.adaptive.gradient_checks import _compare_coarse_slopes
from robustbench_local.attacks.adaptive.inspection import inspect_model
from robustbench_local.attacks.adaptive.view_spec import MAX_RELATIVE_ERROR, MIN_COSINE
from robustbench_local.classifier import Classifier
from robustbench_local.evaluation.diagnostics.short_inspection import inspect_briefly, pool_slopes
from robustbench_local.randomness import RandomStream

HALF, BRAIN = (torch.finfo(dtype).eps for dtype in (torch.float16, torch.bfloat16))
IMAGES = torch.rand(6, 3, 12, 12, generator=torch.Generator().manual_seed(3))
STREAM = RandomStream(0, tuple("abcdef"), "inspection")


class Network(nn.Module):
    """Two convolutions behind a change of the pixels."""

    def __init__(self, before=lambda images: images) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first, self.second = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, stride=2)
            self.last = nn.Linear(16 * 25, 5)
        self.before = before

    def forward(self, images):
        features = F.softplus(self.second(F.softplus(self.first(self.before(images)), beta=5)), beta=5)
        return 30 * self.last(features.flatten(1))


class InAutocast(nn.Module):
    def __init__(self, network) -> None:
        super().__init__()
        self.network = network

    def forward(self, images):
        with torch.autocast("cpu", torch.bfloat16):
            return self.network(images)


FORMATS = {
    "float16": lambda network: network.half(),
    "bfloat16": lambda network: network.bfloat16(),
    "autocast": InAutocast,
    "half behind": lambda network: nn.Sequential(network, Cast()),
}


class Cast(nn.Module):
    def forward(self, logits):
        return logits.half()


def flip(images):
    return 2 * images.detach() - images


def halve(images):
    """Half of the pixels have no gradient."""
    kept = (torch.arange(12) % 2 == 0).to(images)
    return images * kept + images.detach() * (1 - kept)


class TurnedBackward(torch.autograd.Function):
    """A gradient with the signs of a checkerboard."""

    @staticmethod
    def forward(ctx, images):
        return images.clone()

    @staticmethod
    def backward(ctx, slopes):
        rows = torch.arange(12)
        return slopes * torch.where((rows[:, None] + rows) % 2 == 0, 1.0, -1.0).to(slopes)


def inspect(inspection, network):
    classifier = Classifier(network.eval().requires_grad_(False), num_classes=5)
    with classifier.evaluation_mode():
        labels = classifier(IMAGES).argmax(dim=1)
        return inspection(classifier, IMAGES, labels, STREAM)


@pytest.mark.parametrize("inspection", [inspect_model, inspect_briefly])
@pytest.mark.parametrize("make", FORMATS.values(), ids=FORMATS)
def test_sound_gradients_in_half_precision_agree_and_wrong_ones_do_not(make, inspection):
    found = inspect(inspection, make(Network())).gradients
    assert found.cosine > 0.98
    assert found.relative_error <= MAX_RELATIVE_ERROR
    assert found.informative_share > 0.5
    for network in (Network(before=flip), Network(before=TurnedBackward.apply)):
        found = inspect(inspection, make(network)).gradients
        assert found.cosine < MIN_COSINE or found.relative_error > 0.5


@pytest.mark.parametrize("make", [FORMATS["float16"], FORMATS["half behind"]])
def test_random_directions_show_what_a_gradient_leaves_out(make):
    assert inspect(inspect_model, make(Network(before=halve))).gradients.cosine < 0.85


@pytest.mark.parametrize(("name", "epsilon"), [("float16", HALF), ("autocast", BRAIN), ("half behind", HALF)])
def test_the_coarsest_format_is_found(name, epsilon):
    classifier = Classifier(FORMATS[name](Network()).eval(), num_classes=5)
    rounding = measure_rounding(classifier, IMAGES, torch.zeros(6, dtype=torch.long), STREAM)
    assert rounding.epsilon == epsilon
    assert rounding.is_coarse
    assert 0.25 * epsilon <= rounding.noise_share <= 1.5 * epsilon
    exact = measure_rounding(
        Classifier(Network().eval(), num_classes=5), IMAGES, torch.zeros(6, dtype=torch.long), STREAM
    )
    assert not exact.is_coarse


@pytest.mark.parametrize(
    ("change", "share"),
    [(lambda images: images[:, :2, 0, 0] * 0 + 1, 0.25), (lambda images: 1e4 * images[:, :2, 0, 0], 4.0)],
)
def test_what_counts_as_noise_is_bounded_by_the_format(change, share):
    """A model that answers a constant still rounds it; one that turns within the rounding does not round."""

    class Extreme(nn.Module):
        def forward(self, images):
            return torch.sin(change(images)) + 0 * images.half().mean()

    classifier = Classifier(Extreme(), num_classes=2)
    rounding = measure_rounding(classifier, IMAGES, torch.zeros(6, dtype=torch.long), STREAM)
    assert rounding.noise_share == pytest.approx(share * HALF, rel=1e-3)


def test_steps_lie_between_rounding_and_kinks():
    rounding = AnswerRounding(HALF, HALF)
    assert rounding.random_steps == pytest.approx((0.00992, 0.00397), rel=1e-2)
    gradient = torch.ones(3, 1, 2, 2) * torch.tensor([1e3, 1.0, 1e-9]).view(3, 1, 1, 1)
    steps = rounding.choose_step(gradient, torch.ones(3), 12.0).flatten()
    assert steps.tolist() == pytest.approx([0.000992, 12 * 2**0.5 * HALF / 2, 0.00992], rel=1e-2)


def test_noise_is_subtracted_and_never_more_than_half():
    measured = torch.tensor([[5.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    predicted = torch.tensor([[3.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    cosine, error = compute_agreement(measured, predicted, torch.full_like(measured, 8.0**0.5))
    assert cosine.tolist() == [1.0, 1.0]
    assert error.tolist() == [0.0, 0.0]
    cosine, error = compute_agreement(measured, -predicted, torch.zeros_like(measured))
    assert (cosine.tolist(), error.tolist()) == ([-1.0, -1.0], pytest.approx([1.6, 2.0]))


@pytest.mark.parametrize(("size", "is_known"), [(3.9, False), (4.1, True)])
def test_changes_inform_from_four_times_their_noise_on(size, is_known):
    changes = torch.tensor([[size, 0.0]], dtype=torch.float64)
    noise = torch.full_like(changes, 0.5**0.5)
    assert (pool_slopes(changes, changes, noise, is_measured=True)[0] is not None) == is_known


@pytest.mark.parametrize(("cosine", "is_whole"), [(0.84, False), (0.86, True)])
def test_random_directions_have_to_agree_as_well(cosine, is_whole):
    turned = torch.tensor([cosine, (1 - cosine**2) ** 0.5, 0, 0], dtype=torch.float64)
    same = torch.tensor([1.0, 0, 0, 0], dtype=torch.float64)
    measured = torch.cat([same, turned]).expand(2, 3, 8)
    predicted = torch.cat([same, same]).expand(2, 3, 8)
    found = _compare_coarse_slopes(measured, predicted, torch.full_like(measured, 1e-4))
    assert found.cosine.tolist() == pytest.approx([1.0 if is_whole else cosine] * 3, abs=1e-6)


def test_an_answer_that_depends_on_the_size_of_its_batch_is_not_random():
    class Coarse(Network):
        def forward(self, images):
            return super().forward(images) * (1 + 0.01 * (len(images) > 1))

    assert not inspect(inspect_briefly, Coarse()).randomness.is_random


def test_a_part_in_half_precision_is_compared_with_logits_in_single():
    class Squashed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Network().half()

        def forward(self, images):
            return torch.tanh(self.inner(images))

    assert inspect(inspect_model, Squashed()).gradients.has_graph
