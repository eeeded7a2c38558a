"""Classifiers that draw random numbers: what attacks see, what verdicts are, what is counted and put back."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn

from robustbench_local.attacks import make_attack
from robustbench_local.classifier import Classifier
from robustbench_local.classifier.stochastic import (
    MIN_LEAD_STD_ERRORS,
    RandomizedClassifier,
    _shrink_uncertain_leads,
    passes_per_query,
    with_attack_seed,
    with_verdict_draws,
)
from robustbench_local.errors import InvariantError
from robustbench_local.randomness import RandomNumbers, RandomStream, compute_point_keys, derive_seed
from robustbench_local.threats.threat_model import ThreatModel

SHAPE = (3, 4, 4)
STREAM = RandomStream(5, tuple("abcdefgh"), "any attack")


class Noisy(RandomizedClassifier):
    """Noise on the pixels."""

    identity = "noisy"

    def sample(self, images, numbers):
        return self.inner(images + 0.2 * numbers.sample_normal(images.shape[1:]))


@pytest.fixture
def network():
    generator = torch.Generator().manual_seed(2)
    layers = nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, 4))
    with torch.no_grad():
        for parameter in layers.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 2)
    return layers


@pytest.fixture
def noisy(network):
    return Noisy(Classifier(network, num_classes=4, name="inner"), draws=20, verdict_draws=30)


@pytest.fixture
def images():
    return torch.rand(8, *SHAPE, generator=torch.Generator().manual_seed(1))


def by_hand(noisy, images, keys, draws):
    """Logits of each draw, (D, N, K), one at a time."""
    shifted = [RandomNumbers(keys + derive_seed("draw", draw)) for draw in range(draws)]
    return torch.stack([noisy.model(images + 0.2 * each.sample_normal(SHAPE)) for each in shifted])


@pytest.mark.parametrize("batch_size", [None, 1, 40, 1000])
def test_gradients_are_those_of_the_mean_over_the_draws(noisy, images, batch_size):
    noisy.configure(batch_size=batch_size)
    labels = torch.arange(8) % 4

    def loss(logits):
        return nn.functional.cross_entropy(logits, labels, reduction="none")

    _, losses, slopes = noisy.compute_gradient(images, loss)
    leaf = images.clone().requires_grad_()
    mean = by_hand(noisy, leaf, compute_point_keys(images, 0), 20).mean(dim=0)
    expected = torch.autograd.grad(loss(mean).sum(), leaf, retain_graph=True)[0]
    same = (noisy(images) - mean).abs().amax(dim=1) < 1e-5  # no lead that may be luck
    assert 2 <= int(same.sum()) < 8
    assert torch.allclose(losses[same], loss(mean)[same], atol=1e-5)
    assert torch.allclose(slopes[same], expected[same], atol=1e-5)
    _, several, each = noisy.compute_gradient(images, lambda logits: logits[:, :2])
    assert several.shape == (8, 2)
    first = torch.autograd.grad(mean[:, 0].sum(), leaf)[0]
    assert torch.allclose(each[:, 0], first, atol=1e-5)  # a lead that is luck has slopes all the same


def test_a_look_is_the_mean_and_a_verdict_the_mean_over_the_images_own_draws(noisy, images):
    with torch.no_grad():
        seen, samples = noisy(images), by_hand(noisy, images, compute_point_keys(images, 0), 20)
        mean = samples.mean(dim=0)
        with with_verdict_draws(noisy, STREAM):
            verdict = noisy(images)
        keys = RandomStream(5, STREAM.ids, "verdict").compute_keys("", "cpu")
        assert torch.allclose(verdict, by_hand(noisy, images, keys, 30).mean(dim=0), atol=1e-5)
    first, second = mean.topk(2, dim=1).indices.t()
    rows = torch.arange(8)
    leads = samples[:, rows, first] - samples[:, rows, second]
    clear = leads.mean(dim=0) > MIN_LEAD_STD_ERRORS * leads.std(dim=0) / 20**0.5
    assert int(clear.sum()) >= 2
    assert torch.allclose(seen[clear], mean[clear], atol=1e-5)
    assert (seen.argmax(dim=1) == mean.argmax(dim=1)).all()
    assert not torch.allclose(verdict, mean, atol=1e-3)


@pytest.mark.parametrize("batch_size", [None, 3, 64])
def test_answers_depend_on_the_point_and_the_image_alone(noisy, images, batch_size):
    with torch.no_grad():
        seen = noisy(images)
        with with_verdict_draws(noisy, STREAM):
            verdict = noisy(images)
        noisy.configure(batch_size=batch_size)
        order = torch.tensor([6, 1, 3])
        assert torch.allclose(noisy(images[order]), seen[order], atol=1e-6)
        with with_verdict_draws(noisy, STREAM):
            assert torch.allclose(noisy(images[order], order), verdict[order], atol=1e-6)
        with with_verdict_draws(noisy, STREAM.select_images(order)):
            assert torch.allclose(noisy(images[order]), verdict[order], atol=1e-6)


def test_new_points_and_new_seeds_have_new_draws_but_rounding_has_not(images):
    keys = compute_point_keys(images, 0)
    assert len(keys.unique()) == 8
    assert not (keys == compute_point_keys(images, 1)).any()
    assert torch.equal(keys, compute_point_keys(images * (1 + 1e-7), 0))
    step = images + 0.01 * torch.sign(torch.randn(images.shape, generator=torch.Generator().manual_seed(0)))
    assert not (keys == compute_point_keys(step, 0)).any()
    first = RandomNumbers(keys).sample_uniform((2000,))
    assert abs(float(first.mean()) - 0.5) < 0.01
    assert abs(float(torch.corrcoef(first).fill_diagonal_(0).abs().max())) < 0.1


def test_the_runs_seed_decides_what_attacks_see_while_it_is_open(noisy, images):
    with torch.no_grad():
        before = noisy(images)
        with with_attack_seed(noisy, 9):
            inside = noisy(images)
        assert not torch.allclose(before, inside, atol=1e-3)
        assert torch.equal(noisy(images), before)


def test_every_draw_is_a_pass_and_queries_are_looks(noisy, images):
    rows = torch.tensor([0, 1, 1, 2, 3, 4, 5, 6])
    with noisy.evaluation_mode(), noisy.count_passes(8, limit=3) as meter:
        noisy(images, rows)
        assert meter.forward_passes.tolist() == [20, 40, 20, 20, 20, 20, 20, 0]
        assert noisy.queries_left().tolist() == [2, 1, 2, 2, 2, 2, 2, 3]
        noisy.compute_gradient(images[:1], lambda logits: logits[:, 0])
        assert (meter.forward_passes[0], meter.backward_passes[0]) == (40, 20)
        noisy(images[:1])
        with pytest.raises(InvariantError, match="queries"):
            noisy(images[:1])
    assert passes_per_query(noisy) == (20, 30)
    assert passes_per_query(noisy.inner) == (1, 1)


def test_other_libraries_see_the_mean_and_its_gradient(noisy, images):
    module = noisy.as_module()
    leaf = images.clone().requires_grad_()
    module(leaf)[:, 0].sum().backward()
    same = images.clone().requires_grad_()
    by_hand(noisy, same, compute_point_keys(images, 0), 20).mean(dim=0)[:, 0].sum().backward()
    assert torch.allclose(leaf.grad, same.grad, atol=1e-5)


def test_the_global_random_states_are_left_alone(noisy, images):
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = (random.random(), float(np.random.rand()), float(torch.rand(())))
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    noisy(images)
    with with_verdict_draws(noisy, STREAM):
        noisy(images)
    noisy.compute_gradient(images, lambda logits: logits[:, 0])
    assert (random.random(), float(np.random.rand()), float(torch.rand(()))) == expected


def test_an_error_within_a_draw_leaves_it_usable(noisy, images):
    with pytest.raises(RuntimeError, match="broken"):
        noisy.compute_gradient(images, lambda _: (_ for _ in ()).throw(RuntimeError("broken")))
    assert noisy(images).shape == (8, 4)
    with pytest.raises(InvariantError, match="outside of a draw"):
        noisy._compute_logits(images)
    assert noisy(images[:0]).shape == (0, 4)


def test_a_lead_of_few_standard_errors_is_no_lead():
    generator = torch.Generator().manual_seed(3)
    samples = torch.randn(20, 400, 3, generator=generator)
    samples[:, :, 0] += 1.4  # the lead's standard error is about 0.3
    mean = samples.mean(dim=0)
    rest = ~torch.eye(20, dtype=torch.bool)
    told = _shrink_uncertain_leads(mean, torch.stack([samples[each].mean(dim=0) for each in rest]))
    winner, second = mean.topk(2, dim=1).indices.unbind(dim=1)
    lead = mean.topk(2, dim=1).values.diff(dim=1).abs().flatten()
    difference = samples.gather(2, winner.expand(20, -1)[..., None]) - samples.gather(
        2, second.expand(20, -1)[..., None]
    )
    error = difference.squeeze(2).std(dim=0) / 20**0.5
    clear = lead >= MIN_LEAD_STD_ERRORS * error
    assert 40 < int(clear.sum()) < 360
    assert torch.equal(told[clear], mean[clear])
    ahead = told.gather(1, winner[:, None]) - told.gather(1, second[:, None])
    reach = told.amax(dim=1) - told.amin(dim=1)
    assert (ahead.flatten()[~clear] <= 1e-5 * reach[~clear]).all()
    assert (told.argmax(dim=1) == winner).all()
    two = _shrink_uncertain_leads(
        mean[:, :2], torch.stack([samples[each, :, :2].mean(dim=0) for each in rest])
    )
    tied = two[:, 0] == two[:, 1]
    assert 0 < int(tied.sum()) < 400  # with two classes there is nothing to be small against
    broken = mean.clone()
    broken[0, 1] = torch.nan
    broken[1, 2] = -torch.inf
    kept = _shrink_uncertain_leads(broken, broken.expand(20, -1, -1))
    assert torch.equal(kept[:2].isfinite(), broken[:2].isfinite())


@pytest.mark.slow
def test_an_attack_that_averages_does_not_average_over_the_same_draws_again(noisy, images):
    looks, one = 2 * 101, images[:1]
    with noisy.count_passes(1) as meter, noisy.evaluation_mode():
        label = noisy(one).argmax(dim=1)
        attack, threat = make_attack("autoattack", {"version": "rand"}), ThreatModel(norm="Linf", eps=1e-6)
        attack.perturb(noisy, one, label, threat, STREAM)
    assert meter.forward_passes.tolist() == [(1 + looks) * noisy.draws]
