"""Gaussian augmentation, SmoothAdv and MACER: noise in pixels, losses in closed form, what they are for."""

from __future__ import annotations

from dataclasses import replace
from statistics import NormalDist

import pytest
import torch
from small_training import (
    COMMON_PARAMETERS,
    TRAINING,
    VALIDATION,
    build_batch,
    build_context,
    build_network,
    build_stripes,
    compute_accuracy,
)
from torch.nn import functional as F  # noqa: N812

from robustbench_local.defenses.recipes.gaussian import GaussianAugmentation
from robustbench_local.defenses.recipes.macer import MACER, compute_radius_loss
from robustbench_local.defenses.recipes.noise_base import compute_smoothed_likelihood, sample_noisy_images
from robustbench_local.defenses.recipes.smoothadv import SmoothAdv, build_l2_examples
from robustbench_local.defenses.recipes.standard import Standard
from robustbench_local.defenses.training.training_loop import train
from robustbench_local.errors import CardError
from robustbench_local.threats.threat_model import ThreatModel

SIGMA = 0.4
GAUSSIAN = GaussianAugmentation(**COMMON_PARAMETERS, sigma=SIGMA)
SMOOTHADV = SmoothAdv(
    **COMMON_PARAMETERS,
    sigma=SIGMA,
    threat=ThreatModel(norm="L2", eps=0.5),
    steps=2,
    draws=2,
    eps_warmup_epochs=2,
)
MACER_4 = MACER(
    **COMMON_PARAMETERS | {"learning_rate": 0.03},
    sigma=SIGMA,
    draws=4,
    radius_weight=4.0,
    hinge=8.0,
    sharpness=2.0,
)


def test_noise_has_the_given_size_and_is_not_clipped():
    images = torch.zeros(2, 3, 40, 40)
    found = sample_noisy_images(images, 0.5, 3, torch.Generator().manual_seed(0))
    assert found.shape == (6, 3, 40, 40)
    assert float(found.std()) == pytest.approx(0.5, rel=0.02)
    assert found.min() < -1


def test_the_draws_of_an_image_follow_each_other():
    images = torch.tensor([1.0, 5.0]).view(2, 1, 1, 1)
    found = sample_noisy_images(images, 1e-6, 2, torch.Generator().manual_seed(0))
    assert found.round().flatten().tolist() == [1, 1, 5, 5]


def test_the_smoothed_likelihood_is_the_mean_of_probabilities():
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([3, 1])
    expected = logits.softmax(dim=1).view(2, 3, 4).mean(dim=1)[[0, 1], labels].log()
    torch.testing.assert_close(compute_smoothed_likelihood(logits, labels, 3), expected)


def test_gaussian_augmentation_is_cross_entropy_on_noisy_images():
    module, step = build_network().eval(), build_batch()
    found = GAUSSIAN.build_objective(build_context(module)).compute_loss(step)
    seen = sample_noisy_images(step.images, SIGMA, 1, torch.Generator().manual_seed(0))
    torch.testing.assert_close(found, F.cross_entropy(module(seen), step.labels))


def test_the_epoch_is_chosen_under_the_same_noise_each_time():
    objective = GAUSSIAN.build_objective(build_context(build_network().eval()))
    first, second = (
        objective.build_examples(build_network(), VALIDATION.images, VALIDATION.labels) for _ in range(2)
    )
    assert torch.equal(first, second)
    assert float((first - VALIDATION.images).std()) == pytest.approx(SIGMA, rel=0.05)
    withstood = objective.is_robust(build_network().eval(), VALIDATION.images, VALIDATION.labels)
    assert withstood.dtype == torch.bool
    assert objective.robust_metric == "under noise"


def test_l2_examples_of_a_linear_loss_have_the_closed_form():
    """The gradient is constant, so the last iterate is the image moved by eps along it."""
    images, slope = (
        torch.full((2, 1, 3, 3), 0.5),
        torch.randn(1, 3, 3, generator=torch.Generator().manual_seed(0)),
    )
    examples = build_l2_examples(images, lambda x: (x * slope).flatten(1).sum(dim=1), eps=0.3, steps=4)
    torch.testing.assert_close(examples, images + 0.3 * slope / slope.norm())


def test_l2_examples_stay_in_the_ball_and_the_box():
    images = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)).round()
    module = build_network().eval()
    examples = build_l2_examples(images, lambda x: module(x)[:, 0], eps=0.7, steps=3)
    assert (examples - images).flatten(1).norm(dim=1).max() <= 0.7 + 1e-5
    assert examples.min() >= 0
    assert examples.max() <= 1


def test_a_flat_loss_moves_nothing():
    images = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(
        build_l2_examples(images, lambda x: 0 * x.flatten(1).sum(dim=1), eps=1.0, steps=2), images
    )


def test_smoothadv_attacks_the_mean_and_trains_on_each_draw():
    module, step = build_network().eval(), build_batch(progress=5.0)
    found = SMOOTHADV.build_objective(build_context(module)).compute_loss(step)
    generator = torch.Generator().manual_seed(0)
    noise = SIGMA * torch.randn((32, 1, 8, 8), generator=generator)

    def seen(images):
        return module(images.repeat_interleave(2, dim=0) + noise)

    def attacked(images):
        return -seen(images).softmax(dim=1).view(16, 2, 2).mean(dim=1)[torch.arange(16), step.labels].log()

    examples = build_l2_examples(step.images, attacked, eps=0.5, steps=2)
    expected = F.cross_entropy(seen(examples), step.labels.repeat_interleave(2))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert found > F.cross_entropy(seen(step.images), step.labels.repeat_interleave(2))


def test_the_radius_loss_is_the_gap_of_normal_quantiles():
    own, other = 0.8, 0.15
    votes = torch.tensor([[own, other, 1 - own - other]])
    gap = NormalDist().inv_cdf(own) - NormalDist().inv_cdf(other)
    settings = {"draws": 1, "hinge": 4.0}
    found = compute_radius_loss(votes.log(), torch.tensor([0]), sharpness=1.0, **settings)
    assert found.item() == pytest.approx(4 - gap, rel=1e-5)
    assert compute_radius_loss(votes.log(), torch.tensor([0]), sharpness=20.0, **settings).item() == 0
    assert compute_radius_loss(votes.log(), torch.tensor([1]), sharpness=1.0, **settings).item() == 0


def test_probabilities_are_averaged_before_the_quantile():
    """Two draws, .9 and .5: the vote is .7."""
    logits = torch.tensor([[0.9, 0.1], [0.5, 0.5]]).log()
    found = compute_radius_loss(logits, torch.tensor([0]), draws=2, hinge=8.0, sharpness=1.0)
    assert found.item() == pytest.approx(8 - 2 * NormalDist().inv_cdf(0.7), rel=1e-5)


@pytest.mark.parametrize("size", [1e2, 1e4])
def test_sure_votes_have_no_radius_loss_and_a_finite_gradient(size):
    logits = torch.tensor([[size, 0.0, 0.0], [0.3, 0.0, 0.0]], requires_grad=True)
    compute_radius_loss(logits, torch.tensor([0, 0]), draws=1, hinge=8.0, sharpness=16.0).sum().backward()
    assert logits.grad.isfinite().all()
    assert logits.grad[0].abs().sum() == 0
    assert logits.grad[1, 0] < 0


def test_macer_s_loss_is_the_sum_of_its_parts():
    module, step = build_network().eval(), build_batch()
    found = MACER_4.build_objective(build_context(module)).compute_loss(step)
    logits = module(sample_noisy_images(step.images, SIGMA, 4, torch.Generator().manual_seed(0)))
    radius = compute_radius_loss(logits, step.labels, draws=4, hinge=8.0, sharpness=2.0).mean()
    likelihood = compute_smoothed_likelihood(logits, step.labels, 4).mean()
    torch.testing.assert_close(found, -likelihood + 4.0 * SIGMA / 2 * radius)


@pytest.fixture(scope="module")
def ordinary():
    module = build_network()
    module.load_state_dict(train(module, Standard(**COMMON_PARAMETERS), TRAINING, VALIDATION).state)
    return module


@pytest.mark.parametrize("recipe", [GAUSSIAN, SMOOTHADV, MACER_4], ids=lambda recipe: recipe.method)
def test_they_are_right_under_noise_more_often_than_ordinary_training(recipe, ordinary):
    test = build_stripes(400, 2, "test")
    seen = sample_noisy_images(test.images, 2 * SIGMA, 1, torch.Generator().manual_seed(7))
    module = build_network()
    module.load_state_dict(train(module, recipe, TRAINING, VALIDATION).state)
    assert (
        compute_accuracy(module, seen, test.labels) >= compute_accuracy(ordinary, seen, test.labels) + 0.015
    )


@pytest.mark.parametrize(
    ("recipe", "change", "message"),
    [
        (GAUSSIAN, {"sigma": 0.0}, "sigma must be positive"),
        (SMOOTHADV, {"threat": ThreatModel(norm="Linf", eps=0.1)}, "L2 only, not Linf"),
        (SMOOTHADV, {"draws": 0}, "steps and draws"),
        (SMOOTHADV, {"eps_warmup_epochs": 7}, "eps_warmup_epochs"),
        (MACER_4, {"draws": 0}, "draws must be"),
        (MACER_4, {"hinge": 0.0}, "hinge and sharpness"),
        (MACER_4, {"radius_weight": -1.0}, "radius_weight"),
    ],
)
def test_what_makes_no_sense_is_refused(recipe, change, message):
    with pytest.raises(CardError, match=message):
        replace(recipe, **change)
