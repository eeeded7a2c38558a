"""Attacks on an artefact through its twin: the artefact decides, and the search goes on until it fails."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from robustbench_local.attacks.apgd.apgd import APGD
from robustbench_local.attacks.base import Attack
from robustbench_local.attacks.minimum_norm.ddn import DDN
from robustbench_local.attacks.pgd import PGD
from robustbench_local.attacks.spatial import Spatial
from robustbench_local.attacks.square.square import Square
from robustbench_local.classifier import Classifier
from robustbench_local.classifier.twin_view import TwinView
from robustbench_local.evaluation.harness.artefact_finish import can_finish
from robustbench_local.evaluation.harness.batches import run_batches
from robustbench_local.evaluation.harness.job import merge_batches
from robustbench_local.evaluation.harness.make_job import make_job
from robustbench_local.evaluation.harness.twin_job import TwinAttackJob
from robustbench_local.evaluation.harness.twin_search import list_slopes
from robustbench_local.threats.threat_model import ThreatModel

EPS = 8 / 255
LINF = ThreatModel(norm="Linf", eps=EPS)
L2 = ThreatModel(norm="L2", eps=0.2)
PGD_STEPS = PGD(steps=10)


class Tally:
    """A number that all copies of a model share."""

    count = 0

    def __deepcopy__(self, _memory):
        return self


class Artefact:
    """A linear model beside the twin: a callable that gives scores, and counts the images it was asked."""

    def __init__(self, weight: torch.Tensor, answer=lambda logits: logits) -> None:
        self.weight, self.answer, self.tally = weight, answer, Tally()

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        self.tally.count += len(images)
        return self.answer((images - 0.5).flatten(1) @ self.weight.T)


def make_artefact(twin: Classifier, *, noise: float = 0.3, access: str = "scores", answer=lambda x: x):
    generator = torch.Generator().manual_seed(11)
    weight = twin.module.weight.detach()
    weight = weight + noise * torch.randn(weight.shape, generator=generator)
    return Classifier(Artefact(weight, answer), num_classes=4, access=access, name="artefact")


def run(artefact, twin, data, attack, threat=LINF, *, batch_size=60, finish_queries=20, **changes):
    job = make_job(
        attack,
        key="cell",
        classifier=artefact,
        data=data,
        positions=None,
        threat=threat,
        seed=1,
        view=TwinView(artefact, twin),
        finish_queries=finish_queries,
        **changes,
    )
    assert isinstance(job, TwinAttackJob)
    batch = merge_batches(list(run_batches(job, batch_size=batch_size)))
    most = job.max_passes
    forward = sum(row.forward_passes + row.twin_forward_passes for row in batch.outcomes)
    backward = sum(row.twin_backward_passes for row in batch.outcomes)
    assert forward <= most[0]
    assert backward <= most[1]
    return batch


def find_smallest_distances(weight, data, norm="Linf"):
    """The exact distance of each image to the nearest decision boundary; negative where misclassified."""
    logits = (data.images - 0.5).flatten(1) @ weight.T
    gaps = weight[data.labels][:, None] - weight[None]
    size = gaps.abs().sum(2) if norm == "Linf" else gaps.norm(dim=2)
    margins = (logits.gather(1, data.labels[:, None]) - logits) / size.clamp_min(1e-9)
    margins[torch.arange(len(logits)), data.labels] = torch.inf
    return margins.amin(dim=1)


def test_an_image_is_lost_where_the_artefact_fails_and_only_there(linear, data):
    artefact = make_artefact(linear)
    batch = run(artefact, linear, data, PGD_STEPS, finish_queries=150)
    exact = find_smallest_distances(artefact.model.weight, data)
    twin_exact = find_smallest_distances(linear.module.weight.detach(), data)
    for row, distance, twin_distance in zip(batch.outcomes, exact.tolist(), twin_exact.tolist(), strict=True):
        assert row.clean_correct == (distance > 0)
        assert row.twin_clean_correct == (twin_distance > 0)
        if row.broken:  # never beyond the closed form of the artefact
            assert 0 < distance < EPS * (1 + 1e-4)
            assert artefact(batch.candidates[row.position][None])[0].argmax() == row.adversarial_prediction
            assert row.adversarial_prediction != row.label
        if row.twin_broken:
            assert 0 < twin_distance < EPS * (1 + 1e-4)
    missed = [
        row
        for row, distance in zip(batch.outcomes, exact.tolist(), strict=True)
        if 0 < distance < 0.98 * EPS and not row.broken
    ]
    assert len(missed) <= 1
    phases = {
        phase: sum(row.search_phase == phase for row in batch.outcomes) for phase in ("transfer", "search")
    }
    assert min(phases.values()) > 0
    assert any(row.broken and not row.twin_broken for row in batch.outcomes)
    assert any(row.twin_broken and not row.broken for row in batch.outcomes)


def test_no_verdict_depends_on_the_batch(linear, data):
    outcomes = [
        run(make_artefact(linear), linear, data, PGD(steps=4), batch_size=size).outcomes for size in (25, 60)
    ]
    first, second = (
        [(row.broken, row.twin_broken, row.search_phase, row.adversarial_hash) for row in rows]
        for rows in outcomes
    )
    assert first == second


def answer_by_memory(data):
    """An artefact that gives each image the label of the nearest original: no attack has a success."""

    def answer(images: torch.Tensor) -> torch.Tensor:
        nearest = torch.cdist(images.flatten(1), data.images.flatten(1)).argmin(dim=1)
        return 10.0 * nn.functional.one_hot(data.labels[nearest], 4).float()

    return Classifier(answer, num_classes=4, access="scores", name="memory")


@dataclass(frozen=True, kw_only=True)
class Boaster(Attack):
    """Hands in what misclassifies the twin, whatever it is asked to attack."""

    norms = frozenset({"Linf"})

    def perturb(self, classifier, images, labels, threat, stream, masks=None):
        twin = getattr(classifier, "twin", classifier)
        return PGD_STEPS.perturb(twin, images, labels, threat, stream, masks)

    def estimate_cost(self, threat):
        return (100, 100)


@pytest.mark.parametrize("attack", [PGD_STEPS, Boaster(), DDN(steps=10), Square(queries=50)])
def test_a_misclassification_by_the_twin_is_no_success(linear, data, attack):
    threat = L2 if isinstance(attack, DDN) else LINF
    rows = run(answer_by_memory(data), linear, data, attack, threat).outcomes
    assert all(row.clean_correct and not row.broken for row in rows)
    assert {row.search_phase for row in rows} == {""}
    assert not any(row.twin_clean_correct for row in rows[::10])
    lost = sum(row.twin_broken for row in rows)
    assert lost > (0 if isinstance(attack, Square) else 15)
    assert all(row.adversarial_prediction == row.label for row in rows)


@pytest.mark.parametrize("access", ["scores", "labels"])
def test_queries_of_the_artefact_find_what_the_twin_misses(linear, data, access):
    """With a twin that is another network, only the artefact's own answers lead to its boundary."""
    answer = (lambda logits: logits.argmax(dim=1)) if access == "labels" else (lambda logits: logits)
    artefact = make_artefact(linear, noise=1.5, access=access, answer=answer)
    fitted = replace(data, labels=artefact(data.images).argmax(dim=1))
    threat = LINF if access == "scores" else ThreatModel(norm="L2", eps=0.5)
    without, with_finish = (
        run(artefact, linear, fitted, PGD(steps=3), threat, finish_queries=queries).outcomes
        for queries in (0, 200)
    )
    found = [row for row in with_finish if row.search_phase == "finish"]
    assert len(found) >= 2
    for before, after in zip(without, with_finish, strict=True):
        assert after.broken >= before.broken
        assert after.broken == (before.broken or after.search_phase == "finish")
        extra = after.forward_passes - before.forward_passes
        assert extra <= 200 + 5
        assert extra == 0 or not before.broken
    assert {row.search_phase for row in without} <= {"", "transfer", "search"}


def test_passes_are_those_that_each_model_did(linear, data):
    artefact = make_artefact(linear)
    part = data.select_images(list(range(12)))
    before = artefact.model.tally.count
    rows = run(artefact, linear, part, replace(PGD_STEPS, early_stop=False), finish_queries=10).outcomes
    counted = sum(row.forward_passes for row in rows)
    asked = artefact.model.tally.count - before
    assert counted <= asked <= counted + 30  # what the harness asks to see whether answers agree is uncounted
    assert all(row.backward_passes == 0 for row in rows)
    attacked = [row for row in rows if row.clean_correct and row.twin_clean_correct]
    kept = [row for row in attacked if not row.broken]
    assert all(row.twin_backward_passes == 30 and row.gradient_steps == 20 for row in kept)
    assert kept
    clean_wrong = [row for row in rows if not row.clean_correct and row.twin_clean_correct]
    assert all(row.forward_passes == 3 and row.twin_backward_passes for row in clean_wrong)


def test_distances_are_those_at_which_the_artefact_fails(linear, data):
    artefact = make_artefact(linear)
    rows = run(artefact, linear, data, DDN(steps=20), L2).outcomes
    exact = find_smallest_distances(artefact.model.weight, data, "L2")
    found = [(row.l2, distance) for row, distance in zip(rows, exact.tolist(), strict=True) if row.broken]
    assert len(found) > 20
    ratios = torch.tensor([size / distance for size, distance in found])
    assert float(ratios.min()) > 0.999
    assert float(ratios.median()) < 1.1


def test_targets_and_outputs_and_moves_without_a_ball(linear, data):
    artefact = make_artefact(linear, answer=lambda logits: logits.softmax(dim=1))
    rows = run(artefact, linear, data, APGD(steps=10), replace(LINF, targets=(2,))).outcomes
    assert any(row.broken for row in rows)
    assert all(row.adversarial_prediction == 2 for row in rows if row.broken)
    assert all(row.clean_difference <= 1 for row in rows)  # of probabilities
    rows = run(
        artefact, linear, data, Spatial(search="random", draws=2), ThreatModel(norm="spatial", eps=10)
    ).outcomes
    assert {row.status for row in rows} <= {"ok", "clean-wrong"}
    assert all(row.twin_broken is not None for row in rows)


def test_which_searches_an_attack_makes():
    assert list_slopes(PGD(steps=499), LINF) == ("twin", "artefact")
    assert list_slopes(PGD(steps=500), LINF) == ("artefact",)
    assert list_slopes(DDN(steps=10), L2) == ("artefact",)


def test_where_a_finish_is_possible(linear):
    labels = make_artefact(linear, access="labels", answer=lambda logits: logits.argmax(dim=1))
    assert can_finish(LINF, linear, 2)
    assert not can_finish(LINF, linear, 1)
    assert can_finish(LINF, labels, 100)
    assert not can_finish(LINF, labels, 99)
    assert not can_finish(ThreatModel(norm="L0", eps=3), linear, 500)
    assert not can_finish(ThreatModel(norm="spatial", eps=3), linear, 500)
    assert not can_finish(replace(LINF, region="mask"), linear, 500)
