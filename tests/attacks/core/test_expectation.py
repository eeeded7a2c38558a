"""Success over draws: no lucky one ends a search, most of them have to succeed, and the cost is bounded."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from robustbench_local.attacks.core import expectation
from robustbench_local.attacks.core.engine import Engine
from robustbench_local.attacks.core.expectation import (
    CONFIRMATION_DRAWS,
    MAX_REFUTATIONS,
    MIN_SUCCESS_SHARE,
    average_draws,
    count_confirmation_passes,
)
from robustbench_local.attacks.pgd import PGD, PGDSearch
from robustbench_local.attacks.square.square import SquareSearch
from robustbench_local.classifier import Classifier
from robustbench_local.randomness import RandomStream
from robustbench_local.threats.threat_model import ThreatModel

THREAT = ThreatModel(norm="Linf", eps=0.1)
DRAWS = 10


class Lucky(nn.Module):
    """Two classes by the mean pixel, and an answer of the other class in some calls, in a fixed order."""

    def __init__(self, period: int, lucky: int, threshold: float) -> None:
        super().__init__()
        self.period, self.lucky, self.threshold, self.calls = period, lucky, threshold, 0

    def forward(self, images: Tensor) -> Tensor:
        gap = (images.mean(dim=(1, 2, 3)) - self.threshold) * 10
        self.calls += 1
        # spread out, so that any few calls in a row hold their share
        if self.lucky and self.calls * 7 % self.period < self.lucky:
            gap = gap + 1.0
        return torch.stack([-gap, gap], dim=1)


def run_engine(model: nn.Module, search, draws: int = DRAWS) -> tuple[Engine, Tensor]:
    images = torch.full((3, 1, 2, 2), 0.5)
    classifier = Classifier(model, num_classes=2)
    labels = torch.zeros(3, dtype=torch.int64)
    engine = Engine(classifier, images, labels, RandomStream(0, ("a", "b", "c"), "x"), eot_samples=draws)
    with classifier.evaluation_mode(), classifier.count_passes(3) as counter:
        engine.run(search, engine.build_items())
    return engine, counter.forward_passes


def build_search(steps: int = 6) -> PGDSearch:
    return PGDSearch(attack=PGD(steps=steps, step_size=0.02, random_start=False), threat=THREAT)


@pytest.mark.parametrize(
    "search", [build_search(), SquareSearch(threat=THREAT, steps=30, use_lookahead=True)]
)
def test_a_lucky_draw_ends_no_search(search):
    engine, passes = run_engine(Lucky(10, 2, threshold=0.65), search)  # the ball ends at 0.6
    assert not engine.finished.any()
    assert not engine.find_successes().any()
    most = (search.steps + 1 + search.lookahead_budget) * DRAWS + count_confirmation_passes(
        DRAWS, search.steps
    )
    assert int(passes.max()) <= most


def test_one_draw_alone_would_have_ended_it():
    engine, _ = run_engine(Lucky(10, 2, threshold=0.65), build_search(steps=12), draws=1)
    assert engine.finished.any()


def test_a_success_in_every_draw_ends_the_search_early():
    engine, passes = run_engine(Lucky(10, 0, threshold=0.53), build_search(steps=50))
    assert engine.finished.all()
    assert int(passes.max()) == 3 * DRAWS + CONFIRMATION_DRAWS  # the start and two steps


def test_a_success_in_most_draws_counts_and_is_searched_on():
    engine, _ = run_engine(Lucky(10, 4, threshold=0.62), build_search(steps=12))
    assert not engine.find_successes().any()
    engine, _ = run_engine(Lucky(10, 7, threshold=0.62), build_search(steps=12))
    assert engine.find_successes().all()
    assert not engine.finished.any()
    assert torch.allclose(engine.points.mean(dim=(1, 2, 3)), torch.tensor(0.6), atol=1e-3)  # the best margin


def test_the_share_that_confirms_is_exact(monkeypatch):
    needed = round(MIN_SUCCESS_SHARE * CONFIRMATION_DRAWS)
    monkeypatch.setattr(expectation, "average_draws", lambda answers: answers[-1])
    for lucky, is_enough in ((needed, True), (needed - 1, False)):
        engine, _ = run_engine(Lucky(CONFIRMATION_DRAWS, lucky, threshold=0.62), build_search(steps=5))
        assert bool(engine.finished.all()) is is_enough


def test_refuted_successes_are_few():
    search = build_search(steps=40)
    _, passes = run_engine(Lucky(10, 8, threshold=0.6), search)
    assert int(passes.max()) <= 41 * DRAWS + (MAX_REFUTATIONS + 2) * CONFIRMATION_DRAWS


def test_one_answer_is_its_own_mean_and_costs_nothing():
    logits = torch.tensor([[1.0, 2.0]])
    assert average_draws([logits]) is logits
    assert count_confirmation_passes(1, blind_steps=100) == 0
