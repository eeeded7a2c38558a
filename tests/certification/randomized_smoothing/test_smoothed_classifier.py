"""The smoothed classifier as a classifier: what attacks see of it, and how its verdicts are votes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from robustbench_local.certification.randomized_smoothing.smoothed_classifier import (
    SmoothedClassifier,
    compute_vote_shares,
)
from robustbench_local.certification.randomized_smoothing.smoothing_certificate import Smoothing
from robustbench_local.classifier import Classifier
from robustbench_local.classifier.stochastic import with_verdict_draws
from robustbench_local.errors import ConfigError
from robustbench_local.randomness import RandomNumbers, RandomStream, compute_point_keys, derive_seed


@pytest.fixture
def inner() -> Classifier:
    torch.manual_seed(0)
    return Classifier(nn.Sequential(nn.Flatten(), nn.Linear(27, 3)), num_classes=3)


@pytest.fixture
def images() -> Tensor:
    return torch.rand(4, 3, 3, 3, generator=torch.Generator().manual_seed(2))


def stream(count: int, seed: int = 0) -> RandomStream:
    return RandomStream(seed, tuple(map(str, range(count))), "attack")


@pytest.mark.slow
def test_to_an_attack_it_is_the_logarithm_of_the_mean_softmax(inner, images):
    few, many = (SmoothedClassifier(inner, sigma=0.5, draws=draws) for draws in (20, 4000))
    many.configure(batch_size=4000)
    probabilities = many(images).exp()
    assert torch.allclose(probabilities.sum(dim=1), torch.ones(4), atol=1e-5)
    noise = torch.randn(4000, 4, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    noisy = inner((images + 0.5 * noise).flatten(0, 1)).view(4000, 4, 3)
    expected = noisy.softmax(dim=2).mean(dim=0)
    assert torch.allclose(probabilities, expected, atol=0.02)
    assert not torch.equal(few(images), many(images))


def test_its_gradient_is_that_of_the_mean_softmax(inner, images):
    """Salman et al. 2019, eq. 5: the mean inside of the logarithm, not outside."""
    smoothed = SmoothedClassifier(inner, sigma=0.5, draws=20)
    with smoothed.count_passes(4) as meter:
        _, _, found = smoothed.compute_gradient(images, lambda logits: logits[:, 0])
    leaf, keys = images.clone().requires_grad_(), compute_point_keys(images, 0)
    draws = [smoothed.sample(leaf, RandomNumbers(keys + derive_seed("draw", draw))) for draw in range(20)]
    torch.stack(draws).softmax(dim=2).mean(dim=0).log()[:, 0].sum().backward()
    assert torch.allclose(found, leaf.grad, atol=1e-5)
    assert meter.forward_passes.tolist() == meter.backward_passes.tolist() == [20] * 4


def test_a_verdict_is_a_vote_that_belongs_to_the_image(inner, images):
    smoothed = SmoothedClassifier(inner, sigma=1.0, votes=40)
    with with_verdict_draws(smoothed, stream(4)):
        shares = smoothed(images)
        again = smoothed(images[[2, 0]], torch.tensor([2, 0]))
    assert torch.equal(again, shares[[2, 0]])
    assert torch.equal((shares * 40).round(), shares * 40)
    assert torch.allclose(shares.sum(dim=1), torch.ones(4))
    with with_verdict_draws(smoothed, stream(4, seed=1)):
        assert not torch.equal(smoothed(images), shares)


def test_a_network_that_is_very_sure_stays_finite(inner, images):
    """Probabilities below what float32 holds must not look like a broken answer, which ends a search."""
    sure = Classifier(lambda batch: 400 * inner(batch), num_classes=3)
    smoothed = SmoothedClassifier(sure, sigma=0.01)
    answer = smoothed(images)
    assert torch.isfinite(answer).all()
    assert answer.min() < -90
    samples = torch.tensor([[[2.0, -300.0]], [[-1.0, 4.0]]])
    expected = samples.double().softmax(dim=2).mean(dim=0).log()
    assert torch.allclose(smoothed.pool_samples(samples).double(), expected, atol=1e-6)


def test_votes_are_counted_not_averaged():
    confident, lukewarm = torch.tensor([9.0, 0.0]), torch.tensor([0.0, 0.1])
    samples = torch.stack([confident, lukewarm, lukewarm])[:, None]
    assert compute_vote_shares(samples).tolist() == [[pytest.approx(1 / 3), pytest.approx(2 / 3)]]
    samples[0, 0, 0] = torch.nan
    assert compute_vote_shares(samples).isnan().all()


def test_it_is_told_apart_by_its_noise_and_votes(inner):
    digests = {
        SmoothedClassifier(inner, sigma=sigma, votes=votes).compute_digest()
        for sigma, votes in ((0.25, 100), (0.5, 100), (0.25, 50))
    }
    assert len(digests | {inner.compute_digest()}) == 4


def test_a_certificate_about_it_asks_the_classifier_within(inner):
    smoothed, method = SmoothedClassifier(inner, sigma=0.25), Smoothing(sigma=0.25)
    assert method.get_base_classifier(smoothed) is inner
    assert (method.get_concern(smoothed), method.get_concern(inner)) == ("model", "smoothed")
    assert method.get_base_classifier(inner) is inner


def test_noise_on_noise_is_refused(inner):
    with pytest.raises(ConfigError, match="is stochastic"):
        SmoothedClassifier(SmoothedClassifier(inner, sigma=0.1), sigma=0.1)
    with pytest.raises(ConfigError, match="sigma must be above 0"):
        SmoothedClassifier(inner, sigma=-0.1)
