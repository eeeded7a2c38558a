"""The adaptive attack: AutoAttack on sound models, exact robust accuracy behind what hides the gradient."""

from __future__ import annotations

import json

import pytest
import torch
from attack_samples import Sample, build_linear_sample
from torch import Tensor, nn

from robustbench_local.attacks.adaptive import composition
from robustbench_local.attacks.adaptive.adaptive import AdaptedAttack, Adaptive
from robustbench_local.attacks.base import Attack
from robustbench_local.attacks.ensembles.autoattack import AutoAttack
from robustbench_local.classifier import Classifier
from robustbench_local.data.dataset import Dataset
from robustbench_local.evaluation.harness.adaptation import adapt_job
from robustbench_local.evaluation.harness.attack_job import AttackJob
from robustbench_local.evaluation.harness.batches import IsolationSettings, run_batches
from robustbench_local.threats.threat_model import ThreatModel

THREAT = ThreatModel(norm="Linf", eps=0.003)


class ZeroBackward(torch.autograd.Function):
    """The identity, with a gradient of zero."""

    @staticmethod
    def forward(ctx, values):
        return values.clone()

    @staticmethod
    def backward(ctx, slopes):
        return torch.zeros_like(slopes)


class Hidden(nn.Module):
    """A linear network whose answers are its own, behind something that hides its gradient."""

    def __init__(self, network: nn.Module, fault: str) -> None:
        super().__init__()
        self.network, self.fault = network, fault

    def forward(self, images: Tensor) -> Tensor:
        if self.fault == "no_grad":
            with torch.no_grad():
                return self.network(images)
        if self.fault == "detached":
            return self.network(images.detach())
        if self.fault == "zero backward":
            return self.network(ZeroBackward.apply(images))
        logits = self.network(images)
        return {"x1000": 1000 * logits, "softmax": logits.softmax(dim=1), "none": logits}[self.fault]


def build_sample(fault: str, count: int = 16) -> tuple[Sample, Tensor]:
    """Images far from black and white, and whether each is robust, in closed form."""
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(4, 48, generator=generator)
    images = 0.5 + 0.2 * (torch.rand(count, 3, 4, 4, generator=generator) - 0.5)
    sample = build_linear_sample(weights, -(weights @ images.flatten(1).mean(dim=0)), images)
    with torch.no_grad():
        logits = sample.classifier(images)
    own = weights[sample.labels][:, None]
    gaps = logits.gather(1, sample.labels[:, None]) - logits - THREAT.eps * (own - weights).abs().sum(dim=2)
    robust = gaps.scatter(1, sample.labels[:, None], torch.inf).amin(dim=1) > 0
    hidden = Hidden(sample.classifier.module, fault)
    return Sample(Classifier(hidden, num_classes=4, name=fault), images, sample.labels), robust


def build_job(sample: Sample, attack: Attack, order: Tensor | None = None) -> AttackJob:
    order = torch.arange(len(sample.images)) if order is None else order
    ids = tuple(f"made/{row}" for row in order.tolist())
    data = Dataset(
        images=sample.images[order],
        labels=sample.labels[order],
        ids=ids,
        class_names=tuple("abcd"),
        name="made",
    )
    return AttackJob(
        key="cell", classifier=sample.classifier, data=data, attack=attack, threat=THREAT, seed=1
    )


def run_adapted(sample: Sample, *, batch_size: int = 30, known=None, order=None, workers: int = 1):
    job, record = adapt_job(
        build_job(sample, Adaptive(), order),
        batch_size=batch_size,
        isolation=IsolationSettings(),
        known=known,
    )
    batches = run_batches(job, batch_size=batch_size, workers=workers)
    rows = [row for batch in batches for row in batch.outcomes]
    return {row.image: (row.broken, row.stage) for row in rows}, record


@pytest.fixture(autouse=True)
def short_steps(monkeypatch):
    """On a linear network a few steps find everything, and Square costs the most."""
    monkeypatch.setattr(composition, "SQUARE_STEPS", 20)
    monkeypatch.setattr(composition, "GRADIENT_STEPS", 20)


@pytest.mark.parametrize(
    "fault",
    [pytest.param("no_grad", marks=pytest.mark.slow), "detached", "zero backward", "x1000", "softmax"],
)
def test_behind_what_hides_the_gradient_exactly_the_robust_images_are_left(fault):
    sample, robust = build_sample(fault)
    assert 4 < int(robust.sum()) < 12
    verdicts, record = run_adapted(sample)
    assert [not broken for broken, _ in verdicts.values()] == robust.tolist()
    assert record.problem == ""
    if fault not in {"x1000", "softmax"}:  # where AutoAttack has a gradient, it needs no help
        stages = {stage for broken, stage in verdicts.values() if broken}
        assert stages
        assert not stages & {"apgd-ce", "apgd-t", "fab-t"}


@pytest.mark.parametrize(
    ("fault", "count"),
    [
        pytest.param("none", 5, marks=pytest.mark.slow),
        pytest.param("zero backward", 30, marks=pytest.mark.slow),
    ],
)
def test_neither_batches_nor_order_nor_workers_change_a_verdict(fault, count):
    sample, _ = build_sample(fault, count=count)
    reference, record = run_adapted(sample)
    for size in (1, 7):
        assert run_adapted(sample, batch_size=size)[0] == reference
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    # the adaptation is that of the cell, whose first images are others in another order
    assert run_adapted(sample, order=order, known=record)[0] == reference
    assert run_adapted(sample, workers=2)[0] == reference


def test_a_restored_adaptation_is_the_same_attack():
    sample, _ = build_sample("zero backward", count=8)
    job, record = adapt_job(build_job(sample, Adaptive()), batch_size=8, isolation=IsolationSettings())
    assert isinstance(job.attack, AdaptedAttack)
    stored = json.loads(json.dumps(record.description, allow_nan=False))
    assert Adaptive().restore_adaptation(stored) == job.attack
    assert repr(job.attack) == repr(Adaptive()) == str(job.attack)
    assert record.forward_passes > job.attack.composition.findings.passes[0]


@pytest.mark.slow
def test_on_a_sound_model_it_is_autoattack_draw_by_draw(monkeypatch):
    monkeypatch.undo()
    sample, _ = build_sample("none", count=6)
    job, record = adapt_job(build_job(sample, Adaptive()), batch_size=6, isolation=IsolationSettings())
    ours, theirs = (
        [
            (row.image, row.broken, row.adversarial_hash, row.stage)
            for batch in batches
            for row in batch.outcomes
        ]
        for batches in (
            run_batches(job, batch_size=6),
            run_batches(build_job(sample, AutoAttack()), batch_size=6),
        )
    )
    assert ours == theirs
    assert {broken for _, broken, *_ in ours} == {True, False}
    assert [step["label"] for step in record.description["steps"]] == ["apgd-ce", "apgd-t", "fab-t", "square"]


def test_the_standard_steps_are_those_of_autoattack_for_every_norm():
    for norm, eps in (("Linf", 0.03), ("L2", 0.5), ("L1", 12.0)):
        threat = ThreatModel(norm=norm, eps=eps)
        for classes in (2, 10):
            ours = Adaptive().build_stages(threat, classes)
            theirs = AutoAttack().build_stages(threat, classes)
            assert [(stage.name, stage.restarts, stage.targets) for stage in ours] == [
                (stage.name, stage.restarts, stage.targets) for stage in theirs
            ]


def test_inside_a_mask_square_is_left_out_and_a_mask_is_obeyed():
    sample, _ = build_sample("detached", count=6)
    threat = ThreatModel(norm="Linf", eps=0.05, region="mask")
    masks = torch.zeros(6, 1, 4, 4, dtype=torch.bool)
    masks[..., :3] = True
    stream = sample.build_stream(Adaptive())
    with sample.classifier.evaluation_mode():
        adapted = Adaptive().adapt(sample.classifier, sample.images, sample.labels, threat, stream, masks)
        candidates = adapted.perturb(sample.classifier, sample.images, sample.labels, threat, stream, masks)
    assert "square" not in [stage.name for stage in adapted.build_stages(threat, 4)]
    assert sample.find_adversarial(candidates, threat).any()
    assert torch.equal(candidates[..., 3], sample.images[..., 3])
