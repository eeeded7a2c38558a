"""The adaptive attack on models without any gradient: scores, labels, and a student of their answers."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from test_adaptive import THREAT, build_job, build_sample

from robustbench_local.attacks.adaptive import black_box_steps, student
from robustbench_local.attacks.adaptive.adaptive import Adaptive
from robustbench_local.attacks.adaptive.logit_checks import check_logits
from robustbench_local.attacks.adaptive.student import rebuild_student
from robustbench_local.classifier import Classifier
from robustbench_local.evaluation.harness.adaptation import adapt_job
from robustbench_local.evaluation.harness.batches import IsolationSettings, run_batches
from robustbench_local.threats.threat_model import ThreatModel


@pytest.fixture(autouse=True)
def short_steps(monkeypatch):
    monkeypatch.setattr(black_box_steps, "SCORE_STEPS", 150)
    for name in ("_RAYS", "_HOPSKIPJUMP"):
        step = getattr(black_box_steps, name)
        monkeypatch.setattr(black_box_steps, name, replace(step, steps=300))
    monkeypatch.setattr(black_box_steps, "STUDENT_STEPS", 10)
    monkeypatch.setattr(student, "MAX_QUERIES_PER_IMAGE", 50)
    monkeypatch.setattr(student, "STEPS_PER_ROUND", 5)


def build_callable(kind: str, count: int = 8):
    sample, robust = build_sample("none", count=count)
    network = sample.classifier.module

    def answer(images):
        with torch.no_grad():
            logits = network(images)
        if kind == "scores":
            return logits
        labels = logits.argmax(dim=1)
        return labels if kind == "labels" else torch.nn.functional.one_hot(labels, 4).float() * 0.9

    access = "labels" if kind == "labels" else "scores"
    classifier = Classifier(answer, num_classes=4, access=access, name=kind)
    return type(sample)(classifier, sample.images, sample.labels), robust


def run_adapted(sample, batch_size=8, known=None):
    job = build_job(sample, Adaptive())
    job, record = adapt_job(job, batch_size=batch_size, isolation=IsolationSettings(), known=known)
    rows = [row for batch in run_batches(job, batch_size=batch_size) for row in batch.outcomes]
    return job, record, rows


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["scores", "labels", "constant confidence"])
def test_without_a_gradient_only_robust_images_are_left(kind):
    sample, robust = build_callable(kind)
    job, record, rows = run_adapted(sample)
    assert record.problem == ""
    # few steps: they need not reach the last image
    assert sum(not row.broken for row in rows) <= int(robust.sum()) + 2
    assert not any(row.broken and is_robust for row, is_robust in zip(rows, robust.tolist(), strict=True))
    answers = "scores" if kind == "scores" else "labels"
    names = [step["label"] for step in record.description["steps"]]
    assert names[0] == f"transfer from a student of {answers}"
    assert names[-1] == ("square restarts" if kind == "scores" else "HopSkipJump")
    assert record.description["student"]["queries"] == 50 * 8
    assert {row.stage for row in rows if row.broken} <= set(names)
    most = job.attack.estimate_cost(THREAT)[0] + 20
    assert max(row.forward_passes for row in rows) <= most


@pytest.mark.slow
def test_a_resumed_cell_follows_the_same_student():
    sample, _ = build_callable("scores")
    job, record, rows = run_adapted(sample)
    stored = replace(record, description=json.loads(json.dumps(record.description, allow_nan=False)))
    again, _, same_rows = run_adapted(sample, batch_size=3, known=stored)
    assert again.attack == job.attack
    assert [(row.broken, row.stage) for row in same_rows] == [(row.broken, row.stage) for row in rows]
    _, other, _ = run_adapted(sample)
    assert other.description["student"] == record.description["student"]  # the seed decides it
    first, second = (rebuild_student(attack.composition.student) for attack in (job.attack, again.attack))
    assert torch.equal(first(sample.images), second(sample.images))


def test_the_plan_knows_what_a_model_of_less_access_costs():
    planned = {}
    for kind in ("scores", "labels"):
        sample, _ = build_callable(kind)
        Adaptive().check_support(THREAT, sample.classifier)
        assert Adaptive().get_knowledge_of(sample.classifier) == kind
        planned[kind] = Adaptive().estimate_cost_on(sample.classifier, THREAT)
        assert planned[kind][1] == 0
    assert planned["labels"][0] > 2 * 300
    nothing = ThreatModel(norm="Linf", eps=0.0)
    assert Adaptive().estimate_cost_on(sample.classifier, nothing) == (0, 0)


def test_answers_that_say_only_the_label_are_told_from_scores():
    labels = torch.tensor([0, 2, 1])
    one_hot = torch.nn.functional.one_hot(labels, 3).float()
    assert check_logits(one_hot).are_labels
    assert check_logits(one_hot[:1]).are_labels
    assert check_logits(0.7 * one_hot + 0.1).are_labels
    assert not check_logits(0.7 * one_hot[:1] + 0.1).are_labels  # one image: it may be a score
    assert not check_logits(one_hot * torch.tensor([[0.9], [0.8], [0.9]])).are_labels
    assert not check_logits(torch.tensor([[0.5, 0.3, 0.2], [0.2, 0.5, 0.3]])).are_labels
    assert not check_logits(0.7 * torch.eye(2) + 0.1).are_labels  # two classes: likewise
