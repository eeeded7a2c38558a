"""The adaptive attack on models that draw random numbers: what is robust over draws stays, the rest falls."""

from __future__ import annotations

import hashlib

import pytest
import torch
from test_adaptive import THREAT, build_job, build_sample
from torch import Tensor, nn

from robustbench_local.attacks.adaptive import random_steps
from robustbench_local.attacks.adaptive.adaptive import Adaptive
from robustbench_local.classifier import Classifier
from robustbench_local.evaluation.harness.adaptation import adapt_job
from robustbench_local.evaluation.harness.batches import IsolationSettings

COUNT = 8
TIED_IMAGE = 6
"""Its margin at the corner of the ball is a thirtieth of the noise: no number of draws decides it."""


class Noisy(nn.Module):
    """A linear network behind noise of mean zero: over many draws it is the network itself."""

    def __init__(self, network: nn.Module, source: str, sigma: float = 0.001) -> None:
        super().__init__()
        self.network, self.source, self.sigma, self.calls = network, source, sigma, 0
        self.generator = torch.Generator().manual_seed(3) if source == "own" else None

    def forward(self, images: Tensor) -> Tensor:
        generator = self.generator
        if self.source == "counter":
            self.calls += 1
            seed = int(hashlib.sha256(str(self.calls).encode()).hexdigest()[:12], 16)
            generator = torch.Generator().manual_seed(seed)
        return self.network(images + self.sigma * torch.randn(images.shape, generator=generator))

    def __deepcopy__(self, memo: dict[int, object]) -> Noisy:
        twin = Noisy(self.network, self.source, self.sigma)
        twin.calls = self.calls
        if self.generator is not None:
            twin.generator.set_state(self.generator.get_state())
        return twin


@pytest.fixture(autouse=True)
def short_steps(monkeypatch):
    monkeypatch.setattr(random_steps, "RANDOM_GRADIENT_STEPS", 10)
    monkeypatch.setattr(random_steps, "RANDOM_SQUARE_STEPS", 20)


def attack_noisy(source: str):
    sample, robust = build_sample("none", count=COUNT)
    network = sample.classifier.module.network
    classifier = Classifier(Noisy(network, source), num_classes=4, name=source)
    job = build_job(type(sample)(classifier, sample.images, sample.labels), Adaptive())
    adapted, record = adapt_job(job, batch_size=COUNT, isolation=IsolationSettings())
    with classifier.evaluation_mode(), classifier.count_passes(COUNT) as counter:
        stream = sample.build_stream(adapted.attack)
        points = adapted.attack.perturb(classifier, sample.images, sample.labels, THREAT, stream)
    with torch.no_grad():
        wrong = network(points).argmax(dim=1) != sample.labels
    return adapted, record, wrong, robust, counter


SLOW_SOURCES = [pytest.param(source, marks=pytest.mark.slow) for source in ("global", "counter")]


@pytest.mark.parametrize("source", ["own", *SLOW_SOURCES])
def test_what_is_robust_over_draws_is_not_broken_by_luck_and_the_rest_is(source):
    adapted, record, wrong, robust, counter = attack_noisy(source)
    assert record.problem == ""
    wrong[TIED_IMAGE] = ~robust[TIED_IMAGE]
    assert wrong.tolist() == (~robust).tolist()
    randomness = record.description["findings"]["randomness"]
    assert randomness["is_repeated_by_seed"] == (source == "global")
    labels = [step["label"] for step in record.description["steps"]]
    assert f"EOT over {randomness['draws']} draws" in labels
    assert all(step["draws"] > 1 for step in record.description["steps"])
    stages = {
        stage for stage, is_robust in zip(counter.stages, robust.tolist(), strict=True) if not is_robust
    }
    assert stages <= set(labels)
    most = adapted.attack.estimate_cost(THREAT)
    assert int(counter.forward_passes.max()) <= most[0]
    assert int(counter.backward_passes.max()) <= most[1]
    assert Adaptive().restore_adaptation(record.description) == adapted.attack
