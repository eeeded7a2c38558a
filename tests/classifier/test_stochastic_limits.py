"""When a lead over several draws counts, from both sides."""

from __future__ import annotations

import pytest
import torch

from robustbench_local.attacks.core.objective import CONFIRMED_MARGIN_SHARE
from robustbench_local.classifier import Classifier
from robustbench_local.classifier.stochastic import RandomizedClassifier, _shrink_uncertain_leads
from robustbench_local.evaluation.harness.verify import predict
from robustbench_local.randomness import RandomStream


class Noisy(RandomizedClassifier):
    """Adds noise to the pixels."""

    identity = "noisy"

    def sample(self, images, numbers):
        return self.inner(images + 0.01 * numbers.sample_normal(tuple(images.shape[1:])))


def doubted(lead: float) -> tuple[float, float]:
    """A lead before and after doubt, of draws whose lead has a standard error of one."""
    count = 16
    # leave-one-out leads of variance 1 / (count - 1): the jackknife's standard error is then 1
    spread = torch.linspace(-1, 1, count)
    spread = spread / spread.square().mean().sqrt() / (count - 1) ** 0.5
    without = torch.zeros(count, 1, 3)
    without[:, 0, 0] = lead + spread
    without[:, 0, 2] = -100.0
    answer = torch.tensor([[lead, 0.0, -100.0]])
    told = _shrink_uncertain_leads(answer, without)
    return lead, float(told[0, 0] - told[0, 1])


def test_a_lead_below_five_standard_errors_is_none():
    for lead in (0.5, 4.0, 4.9):
        before, after = doubted(lead)
        assert 0 < after < CONFIRMED_MARGIN_SHARE * 100 < before
    for lead in (5.1, 6.0, 50.0):
        before, after = doubted(lead)
        assert after == pytest.approx(before)


def test_a_doubtful_lead_stays_below_what_counts_as_success_and_above_rounding():
    _, after = doubted(4.99)
    assert 0.3 * CONFIRMED_MARGIN_SHARE < after / 100 < CONFIRMED_MARGIN_SHARE


def test_a_verdict_takes_a_hundred_draws_and_a_look_twenty():
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
    noisy = Noisy(Classifier(module, num_classes=3))
    images, labels = (
        torch.rand(2, 3, 2, 2, generator=torch.Generator().manual_seed(0)),
        torch.zeros(2, dtype=torch.int64),
    )
    with noisy.evaluation_mode():
        with noisy.count_passes(2) as meter:
            predict(noisy, images, labels, stream=RandomStream(0, ("a", "b"), "x"))
        assert meter.forward_passes.tolist() == [100, 100]
        with noisy.count_passes(2) as meter:
            noisy(images)
        assert meter.forward_passes.tolist() == [20, 20]
