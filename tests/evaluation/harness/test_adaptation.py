"""The adaptation of a cell's attack: one sample, one call, the same on resume, no harm where it fails."""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch

from robustbench_local.attacks.pgd import PGD
from robustbench_local.classifier import Classifier
from robustbench_local.classifier.stochastic import RandomizedClassifier
from robustbench_local.errors import ModelError, UnreachableError
from robustbench_local.evaluation.harness import adaptation
from robustbench_local.evaluation.harness.adaptation import (
    MAX_BLACK_BOX_SAMPLE_IMAGES,
    MAX_SAMPLE_IMAGES,
    MIN_SAMPLE_IMAGES,
    adapt_job,
    count_sample_images,
)
from robustbench_local.evaluation.harness.attack_job import AttackJob
from robustbench_local.evaluation.harness.batches import IsolationSettings, run_batches
from robustbench_local.evaluation.harness.job import Job
from robustbench_local.threats.threat_model import ThreatModel

THREAT = ThreatModel(norm="Linf", eps=0.02)
CALLS: list[tuple[str, ...]] = []


@dataclass(frozen=True, kw_only=True)
class Adapting(PGD):
    """Notes the images it is shown, and takes the number of its steps from its adaptation."""

    adapts = True

    def adapt(self, classifier, images, labels, threat, stream, masks=None):
        CALLS.append(stream.ids)
        with torch.no_grad():
            assert bool((classifier(images).argmax(dim=1) == labels).all())
        return Adapted(steps=3)

    def restore_adaptation(self, description):
        return Adapted(steps=description["steps"])


@dataclass(frozen=True, kw_only=True)
class Adapted(Adapting):
    def __repr__(self) -> str:
        return repr(Adapting())

    def describe_adaptation(self):
        return {"steps": self.steps}


@dataclass(frozen=True, kw_only=True)
class Failing(PGD):
    """Raises, or ends its process, while it looks at the model."""

    adapts = True
    failure: object = None

    def adapt(self, *_arguments):
        if self.failure == "exit":
            os._exit(3)
        raise self.failure


def build_job(classifier, data, attack):
    return AttackJob(key="cell", classifier=classifier, data=data, attack=attack, threat=THREAT, seed=1)


def adapt(job, *, isolated=False, **options):
    notes: list[str] = []
    settings = IsolationSettings(isolated=isolated)
    adapted, record = adapt_job(job, batch_size=16, isolation=settings, notify=notes.append, **options)
    return adapted, record, notes


def test_the_sample_is_the_first_correctly_classified_images_whatever_the_batches(linear, data):
    for size in (1, 7, 64):
        CALLS.clear()
        job, record = adapt_job(
            build_job(linear, data, Adapting()), batch_size=size, isolation=IsolationSettings()
        )
        # every tenth is misclassified
        assert [tuple(f"made/{number}" for number in range(1, 7))] == CALLS
        assert (job.attack.steps, record.description, record.images) == (3, {"steps": 3}, 6)
        assert record.forward_passes == 7 + 6  # the choice of the sample and its own look
        assert record.problem == ""


def test_the_identity_and_the_random_numbers_stay(linear, data):
    job, _, _ = adapt(build_job(linear, data, Adapting(steps=9)))
    assert repr(job.attack) == repr(Adapting())
    assert isinstance(job.attack, Adapted)


def test_a_stored_adaptation_is_used_as_it_is(linear, data):
    _, record, _ = adapt(build_job(linear, data, Adapting()))
    CALLS.clear()
    job, again, notes = adapt(build_job(linear, data, Adapting()), known=record)
    assert (CALLS, notes) == ([], [])
    assert again is record
    assert job.attack == Adapted(steps=3)


class _Unlike(Job):
    """A job without an attack."""

    max_passes = (0, 0)
    queried_model = None

    def build_queue(self, batch_size, done_positions):
        raise NotImplementedError

    def run(self, positions):
        raise NotImplementedError


def test_other_attacks_are_not_adapted_and_store_nothing(linear, data):
    job = build_job(linear, data, PGD(steps=2))
    assert adapt(job) == (job, None, [])
    bare = _Unlike(key="cell", classifier=linear, data=data, threat=THREAT, seed=1)
    assert adapt(bare) == (bare, None, [])


@pytest.mark.parametrize("isolated", [True, False])
@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (ModelError("cannot answer", where="linear"), "cannot answer"),
        (ValueError("a bug\nof two lines"), "ValueError: a bug of two lines"),
        ("exit", "3"),
    ],
    ids=["model", "bug", "exit"],
)
def test_a_failure_leaves_the_attack_unadapted_and_says_so_in_one_line(
    linear, data, failure, reason, isolated
):
    job = build_job(linear, data, Failing(steps=2, failure=failure))
    same, record, notes = adapt(job, isolated=isolated)
    assert same is job
    assert record.description == {}
    assert reason in record.problem
    assert len(notes) == 1
    assert "\n" not in notes[0]
    assert "not adapted" in notes[0]
    rows = [row for batch in run_batches(same, batch_size=16) for row in batch.outcomes]
    assert {row.status for row in rows} == {"ok", "clean-wrong"}
    # resumed, it stays unadapted
    assert adapt(job, known=record) == (job, record, [])


def test_a_service_that_cannot_be_reached_ends_the_cell(linear, data):
    with pytest.raises(UnreachableError):
        adapt(build_job(linear, data, Failing(failure=UnreachableError("no answer"))))


@pytest.mark.parametrize(
    ("images", "expected"),
    [(1, 1), (4, 4), (39, MIN_SAMPLE_IMAGES), (49, 4), (50, 5), (159, 15), (160, 16), (9999, 16)],
)
def test_the_sample_grows_with_the_cell_between_its_limits(images, expected):
    assert count_sample_images(images) == expected
    assert expected <= MAX_SAMPLE_IMAGES


@dataclass(frozen=True, kw_only=True)
class Endless(PGD):
    """Asks the model for ever; each pass finishes in time."""

    adapts = True

    def adapt(self, classifier, images, *_arguments):
        while True:
            classifier(images)


@pytest.mark.parametrize("isolated", [True, False])
def test_the_time_limit_of_the_cell_ends_the_look(linear, data, isolated):
    job = build_job(linear, data, Endless(steps=2))
    notes: list[str] = []
    settings = IsolationSettings(isolated=isolated, cell_timeout=0.2)
    same, record = adapt_job(job, batch_size=16, isolation=settings, notify=notes.append)
    assert same is job
    assert "time is over" in record.problem
    assert len(notes) == 1
    assert "not adapted" in notes[0]


@pytest.mark.parametrize(("cell_timeout", "deadline"), [(8.0, 1004.0), (None, None)])
def test_the_look_may_take_half_of_the_cells_time(linear, data, monkeypatch, cell_timeout, deadline):
    limits = []

    def watch(*given):
        limits.append(given[:2])
        return nullcontext()

    monkeypatch.setattr(adaptation, "Watchdog", watch)
    monkeypatch.setattr(adaptation.time, "monotonic", lambda: 1000.0)
    settings = IsolationSettings(isolated=False, timeout=7.0, cell_timeout=cell_timeout)
    adapt_job(build_job(linear, data, Adapting()), batch_size=16, isolation=settings)
    assert limits == [(7.0, deadline)]


@pytest.mark.parametrize(
    ("isolated", "possible", "calls"), [(True, True, 1), (True, False, 0), (False, True, 0)]
)
def test_the_look_has_a_process_of_its_own_where_it_can(linear, data, monkeypatch, isolated, possible, calls):
    limits = []

    def call(work, **given):
        limits.append(given)
        return work()

    monkeypatch.setattr(adaptation, "call_isolated", call)
    monkeypatch.setattr(adaptation, "can_be_isolated", lambda _: possible)
    job = build_job(linear, data, Adapting())
    adapt_job(job, batch_size=16, isolation=IsolationSettings(isolated=isolated, timeout=7.0))
    assert limits == [{"timeout": 7.0, "name": job.model_names, "deadline": None}] * calls


def test_steps_beyond_the_plan_are_announced(linear, data):
    job, _, notes = adapt(build_job(linear, data, Adapting(steps=2)))
    planned = sum(build_job(linear, data, PGD(steps=2)).max_passes)
    counts = f"{sum(job.max_passes):,} passes in all, {planned:,} were planned"
    assert notes == [f"the steps added for this model may take {counts}"]
    assert adapt(build_job(linear, data, Adapting(steps=3)))[2] == []


def test_a_model_without_gradients_is_looked_at_with_more_images():
    assert count_sample_images(1000, has_gradients=False) == MAX_BLACK_BOX_SAMPLE_IMAGES
    assert count_sample_images(5, has_gradients=False) == 5


@pytest.mark.parametrize(("right", "sample"), [((), ()), ((24,), ()), ((23,), (23,)), ((1, 23, 24), (1, 23))])
def test_at_most_four_times_the_sample_is_classified_to_find_it(linear, data, right, sample):
    """Images that are misclassified are of no use for the sample, and are not sought for ever."""
    labels = (linear(data.images).argmax(dim=1) + 1) % 4
    for position in right:
        labels[position] = (labels[position] - 1) % 4
    CALLS.clear()
    job = build_job(linear, replace(data, labels=labels), Adapting())
    adapted, record, notes = adapt(job)
    assert [tuple(f"made/{position}" for position in sample)] * bool(sample) == CALLS
    assert (record.images, record.forward_passes) == (len(sample), 24 + len(sample))
    if not sample:
        assert adapted is job
        assert record.problem == "none of the first images is classified correctly"
        assert [record.problem in note for note in notes] == [True]


SEEN: list[tuple[object, object, bool]] = []


@dataclass(frozen=True, kw_only=True)
class Looking(Adapting):
    """Notes what it is given, takes one gradient, and may change the model."""

    tampers: bool = False

    def adapt(self, classifier, images, labels, threat, stream, masks=None):
        SEEN.append((masks, classifier.settings.batch_size, classifier.module.training))
        classifier.compute_gradient(images, lambda logits: logits[:, 0])
        if self.tampers:
            classifier.module.weight.data.neg_()
        return super().adapt(classifier, images, labels, threat, stream, masks) if not self.tampers else self


def test_the_look_has_masks_batches_and_a_model_in_evaluation_mode_and_its_passes_are_counted(linear, data):
    SEEN.clear()
    masks = torch.rand(60, 1, 4, 4, generator=torch.Generator().manual_seed(0)) < 0.5
    linear.module.train()
    _, record, _ = adapt(build_job(linear, replace(data, masks=masks), Looking()))
    ((given, batch_size, is_training),) = SEEN
    assert torch.equal(given, masks[1:7])  # the first image is misclassified
    assert (batch_size, is_training) == (16, False)
    assert (record.images, record.backward_passes) == (6, 6)
    _, bare, _ = adapt(build_job(linear, data, Looking()))
    assert SEEN[1][0] is None
    assert bare.backward_passes == 6


def test_a_model_that_the_look_changes_is_put_back_and_the_attack_stays_unadapted(linear, data):
    before = linear.module.weight.clone()
    job = build_job(linear, data, Looking(tampers=True))
    same, record, _ = adapt(job)
    assert same is job
    assert "changed the model's weights" in record.problem
    assert torch.equal(linear.module.weight, before)


def test_a_model_of_scores_alone_is_looked_at_with_all_of_few_images(linear, data):
    CALLS.clear()
    scores = Classifier(linear.module, num_classes=4, access="scores")
    _, record, _ = adapt(build_job(scores, data, Adapting()))
    assert (record.images, len(CALLS[0])) == (54, 54)


class Drawing(RandomizedClassifier):
    identity = "drawing"
    streams: ClassVar[list] = []

    def sample(self, images, numbers):
        verdict = self._verdict_stream
        self.streams.append(None if verdict is None else (verdict.seed, verdict.ids))
        return self.inner(images)


def test_a_random_defense_is_asked_for_verdicts_to_choose_the_sample(linear, data):
    Drawing.streams.clear()
    job = build_job(Drawing(linear, draws=2, verdict_draws=3), data, Adapting())
    _, record, _ = adapt(job)
    # six images and one more for the first, which is misclassified; then one query of the sample
    assert (record.images, record.forward_passes) == (6, 7 * 3 + 6 * 2)
    chosen = [stream for stream in Drawing.streams if stream is not None]
    assert chosen[0] == (1, data.ids[:6])
    assert chosen[-1] == (1, data.ids[6:7])
