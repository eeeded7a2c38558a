"""Shipped networks behind steep functions, jumps and ranks: as easy to attack as the network underneath."""

from __future__ import annotations

import pytest

from benchmarks.broken_models.registry import find_model
from robustbench_local.attacks.adaptive import composition
from robustbench_local.attacks.adaptive.adaptive import Adaptive
from robustbench_local.classifier import Classifier
from robustbench_local.data.dataset import Dataset
from robustbench_local.evaluation.harness.adaptation import adapt_job
from robustbench_local.evaluation.harness.attack_job import AttackJob
from robustbench_local.evaluation.harness.batches import IsolationSettings, run_batches
from robustbench_local.threats.threat_model import ThreatModel

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "name",
    [
        "sigmoid by arithmetic on signs",
        "steep root on signs",
        "sawtooth pixels on signs",
        "ranks of pixels on signs",
    ],
)
def test_at_a_radius_at_which_the_network_has_no_robustness_the_broken_one_has_next_to_none(
    name, monkeypatch
):
    monkeypatch.setattr(composition, "SQUARE_STEPS", 50)
    case = find_model(name)
    images, labels = case.data(8)
    model = case.build()
    data = Dataset(
        images=images,
        labels=labels,
        ids=tuple(f"sign/{row}" for row in range(len(images))),
        class_names=tuple(map(str, range(model.num_classes))),
        name="signs",
    )
    job = AttackJob(
        key="cell",
        classifier=Classifier(model, num_classes=model.num_classes, access="gradients"),
        data=data,
        attack=Adaptive(),
        threat=ThreatModel(norm="Linf", eps=8 / 255),
        seed=1,
    )
    job, _ = adapt_job(job, batch_size=8, isolation=IsolationSettings())
    rows = [row for batch in run_batches(job, batch_size=8, workers=1) for row in batch.outcomes]
    assert sum(row.status == "ok" and not row.broken for row in rows) <= 1
