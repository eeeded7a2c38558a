"""Memory that runs out at each site of a cell: the batch is halved, the work goes on, no verdict changes."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from memory_shortage import MemoryShortage
from torch import nn
from viewing_samples import make_colour_classifier, make_sticker_job, run_job

from robustbench_local.attacks.apgd.apgd import APGD
from robustbench_local.attacks.fgsm import FGSM
from robustbench_local.attacks.minimum_norm.ddn import DDN
from robustbench_local.attacks.pgd import PGD
from robustbench_local.attacks.square.square import Square
from robustbench_local.certification.bound_propagation.crown import CROWN
from robustbench_local.certification.bound_propagation.ibp import IBP
from robustbench_local.certification.randomized_smoothing.smoothing_certificate import Smoothing
from robustbench_local.classifier import Classifier, memory_limit
from robustbench_local.evaluation.harness.attack_job import AttackJob
from robustbench_local.evaluation.harness.batches import run_batches
from robustbench_local.evaluation.harness.certificate_job import CertificateJob
from robustbench_local.threats.threat_model import ThreatModel

LINF, L2 = ThreatModel(norm="Linf", eps=0.02), ThreatModel(norm="L2", eps=0.1)
METHODS = {
    "fgsm": (FGSM(), LINF),
    "pgd": (PGD(steps=3, restarts=2), LINF),
    "apgd": (APGD(steps=4, restarts=1), LINF),
    "square": (Square(queries=6), LINF),
    "ddn": (DDN(steps=4), L2),
    "smoothing": (Smoothing(sigma=0.1, n=40, n0=8), L2),
}


@pytest.fixture(autouse=True)
def _no_collection(monkeypatch):
    """Collecting garbage takes a tenth of a second in a process that has imported everything."""
    monkeypatch.setattr(memory_limit.gc, "collect", lambda: 0)


@pytest.mark.parametrize("certificate", [IBP(), CROWN()], ids=["ibp", "crown"])
def test_memory_that_runs_out_in_the_bounds_changes_no_certificate(data, certificate):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 4))
    some = data.select_images(torch.arange(6))
    some = replace(some, labels=net(some.images).argmax(dim=1))
    job = CertificateJob(
        key="cell", classifier=Classifier(net, num_classes=4), data=some,
        threat=ThreatModel(norm="Linf", eps=1e-3), seed=1, certificate=certificate,
    )  # fmt: skip

    def certify(shortage):
        notes: list[str] = []
        with shortage:
            batches = list(run_batches(job, batch_size=6, notify=notes.append))
        rows = [replace(row, seconds=0.0) for batch in batches for row in batch.outcomes]
        return [(row.position, row.status, row.certified) for row in rows], notes

    expected, _ = certify(nullcontext())
    # a row of CROWN is that of one image and one class
    shortage = MemoryShortage(2 if isinstance(certificate, IBP) else 8)
    rows, notes = certify(shortage)
    assert rows == expected
    assert {status for _, status, _ in rows} == {"ok"}
    assert shortage.failures > 0
    assert any(line.startswith("out of memory with") for line in notes)


@pytest.mark.slow
def test_memory_that_runs_out_in_the_views_of_a_sticker_changes_no_view():
    expected = run_job(make_sticker_job(make_colour_classifier()))
    model = Greedy(make_colour_classifier().module, most=20)
    batch = run_job(make_sticker_job(Classifier(model, num_classes=3, name="colour")))
    assert batch.view_predictions == expected.view_predictions
    assert [replace(row, seconds=0) for row in batch.outcomes] == [
        replace(row, seconds=0) for row in expected.outcomes
    ]
    assert max(model.sizes) > 20
    assert max(model.sizes[-20:]) <= 20


class Shared(list):
    """A list that the copies of a model share."""

    def __deepcopy__(self, _memo):
        return self


class Greedy(nn.Module):
    """A network for which memory runs out with more than ``most`` images, or at one call."""

    def __init__(self, net: nn.Module, most: int = 10**6, at_call: int = -1) -> None:
        super().__init__()
        self.net, self.most, self.at_call, self.sizes = net, most, at_call, Shared()

    def forward(self, images):
        self.sizes.append(len(images))
        if len(images) > self.most or len(self.sizes) == self.at_call:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        return self.net(images)


def run(model, data, method, *, batch_size=8):
    """The verdicts of one cell, the notes, and the sizes that were kept."""
    attack, threat = METHODS[method]
    classifier = Classifier(model, num_classes=4)
    common = {"key": "cell", "classifier": classifier, "data": data, "threat": threat, "seed": 1}
    if method == "smoothing":
        job = CertificateJob(**common, certificate=attack)
    else:
        job = AttackJob(**common, attack=attack)
    notes, kept = [], []
    batches = run_batches(job, batch_size=batch_size, notify=notes.append, on_smaller_batches=kept.append)
    rows = [row for batch in batches for row in batch.outcomes]
    names = ("position", "status", "clean_prediction", "adversarial_prediction", "broken", "certified")
    return [tuple(getattr(row, name, None) for name in names) for row in rows], notes, kept


@pytest.mark.parametrize("fault", [{"most": 3}, {"most": 1}, {"at_call": 1}, {"at_call": 2}, {"at_call": 4}])
@pytest.mark.parametrize("method", METHODS)
def test_memory_that_runs_out_in_the_model_changes_no_verdict(linear, data, method, fault):
    model, some = Greedy(linear.module, **fault), data.select_images(torch.arange(12))
    rows, notes, kept = run(model, some, method)
    assert rows == run(linear.module, some, method)[0]
    assert {row[1] for row in rows} <= {"ok", "clean-wrong"}
    if "most" in fault:
        assert max(model.sizes[-4:]) <= fault["most"]
        assert any(line.startswith("out of memory with 8 images: going on with") for line in notes)
        assert kept[-1] <= fault["most"]
