"""What another machine returns is held against this process's own images before it becomes a verdict."""

from __future__ import annotations

from dataclasses import replace

import pytest

from robustbench_local.attacks.fgsm import FGSM
from robustbench_local.evaluation.harness.attack_job import AttackJob
from robustbench_local.evaluation.harness.batches import prepare_models
from robustbench_local.evaluation.harness.job import OutcomeBatch
from robustbench_local.evaluation.harness.outcome import hash_image
from robustbench_local.evaluation.harness.returned_batch import (
    ReturnedBatchError,
    build_failed_batch,
    check_returned_batch,
)
from robustbench_local.threats.threat_model import ThreatModel

LINF = ThreatModel(norm="Linf", eps=0.2)
POSITIONS = [3, 4, 5, 6]


@pytest.fixture
def job(linear, data):
    return AttackJob(key="k", classifier=linear, data=data, threat=LINF, seed=0, attack=FGSM())


@pytest.fixture
def batch(job):
    with prepare_models(job, 8):
        return job.run(POSITIONS)


def change_first(batch: OutcomeBatch, **changes) -> OutcomeBatch:
    return replace(batch, outcomes=(replace(batch.outcomes[0], **changes), *batch.outcomes[1:]))


def test_what_was_verified_passes_and_so_do_errors(job, batch):
    assert any(row.broken for row in batch.outcomes)
    check_returned_batch(job, batch, POSITIONS)
    failed = build_failed_batch(job, 5, RuntimeError("gone"))
    check_returned_batch(job, failed, POSITIONS)
    assert (failed.outcomes[0].status, failed.outcomes[0].error) == ("error", "RuntimeError: gone")
    assert failed.outcomes[0].image == "made/5"


@pytest.mark.parametrize(
    "changes",
    [
        {"position": 4},
        {"position": 9},
        {"cell": "other"},
        {"image": "made/9"},
        {"label": 9},
        {"original_hash": "0" * 16},
        {"adversarial_hash": "0" * 16},
    ],
)
def test_a_record_about_anything_else_is_refused(job, batch, changes):
    with pytest.raises(ReturnedBatchError):
        check_returned_batch(job, change_first(batch, **changes), POSITIONS)


def test_a_success_outside_of_the_ball_and_another_shape_are_refused(job, batch):
    row = next(row for row, record in enumerate(batch.outcomes) if record.broken)
    candidates = batch.candidates.clone()
    pixel = candidates[row, 0, 0, 0]
    candidates[row, 0, 0, 0] = 1.0 if pixel < 0.5 else 0.0
    records = list(batch.outcomes)
    records[row] = replace(records[row], adversarial_hash=hash_image(candidates[row]))
    forged = replace(batch, outcomes=tuple(records), candidates=candidates)
    with pytest.raises(ReturnedBatchError, match="no success"):
        check_returned_batch(job, forged, POSITIONS)
    records[row] = replace(records[row], broken=False)
    check_returned_batch(job, replace(forged, outcomes=tuple(records)), POSITIONS)  # it claims nothing
    with pytest.raises(ReturnedBatchError, match="shape"):
        check_returned_batch(job, replace(batch, candidates=candidates[:, :, 1:]), POSITIONS)
