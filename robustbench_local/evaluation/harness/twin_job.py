"""The job of an attack on a shipped artefact with a float twin: the artefact decides.

The twin is attacked first, by itself: that gives its own verdict, and the first candidates. Then the search
goes on with the twin's gradients and the artefact's answers, and ends with queries of the artefact alone.
Every success is verified on the artefact; what the twin answers counts for nothing but the comparison.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from robustbench_local.classifier import Classifier
from robustbench_local.classifier.twin_view import TwinView
from robustbench_local.data.dataset import Dataset
from robustbench_local.evaluation.harness.answer_agreement import AgreementCounts
from robustbench_local.evaluation.harness.artefact_finish import FINISH_QUERIES, can_finish
from robustbench_local.evaluation.harness.attack_job import HARNESS_PASSES, AttackJob, attack_and_verify
from robustbench_local.evaluation.harness.job import OutcomeBatch
from robustbench_local.evaluation.harness.outcome import get_class_index
from robustbench_local.evaluation.harness.output_differences import compute_differences
from robustbench_local.evaluation.harness.spent_passes import SpentPasses
from robustbench_local.evaluation.harness.twin_account import TwinLedger, TwinSpentPasses
from robustbench_local.evaluation.harness.twin_search import TwinSearch, list_slopes
from robustbench_local.evaluation.harness.verify import (
    Predictions,
    VerificationResult,
    has_reached_goal,
    predict,
)
from robustbench_local.randomness import RandomStream
from robustbench_local.store.records import OutcomeRecord

TWIN_COMPARISON_PASSES = 4
"""Artefact and twin answer the clean image and the last candidate once more, to be compared."""


@dataclass(frozen=True, kw_only=True)
class TwinAttackJob(AttackJob):
    """A job that attacks an artefact through its twin, or beside it if the attack uses no gradients."""

    view: TwinView
    """The artefact with the twin's gradients."""
    finish_queries: int = FINISH_QUERIES
    """Queries of the artefact for each image that the search leaves; 0: none."""
    ledger: TwinLedger = field(default_factory=TwinLedger)
    """What a batch has found and spent."""
    phase_name: str = ""
    """Name of a phase whose random numbers differ from those of the attack on the twin."""

    @property
    def twin(self) -> Classifier:
        """The float network."""
        return self.view.twin

    @property
    def follows_twin(self) -> bool:
        """Whether the attack uses gradients; the others run on the artefact directly."""
        return self.attack.access == "gradients"

    @property
    def attacked_model(self) -> Classifier:
        """The model that the attack queries."""
        return self.view if self.follows_twin else self.classifier

    @property
    def queried_model(self) -> Classifier:
        """Both models, which are prepared together."""
        return self.view

    @property
    def adapted_model(self) -> Classifier:
        """The twin, for an attack that follows its gradients."""
        return self.twin if self.follows_twin else self.classifier

    @property
    def stream_name(self) -> str:
        """See `AttackJob.stream_name`."""
        return f"{self.attack!r}{self.phase_name}"

    @property
    def max_passes(self) -> tuple[int, int]:
        """Maximum number of forward and backward passes over all images, on both models."""
        alone = self.make_twin_job().max_passes
        both = tuple(passes // self.image_count for passes in alone) if self.image_count else (0, 0)
        harness = self.image_count * (HARNESS_PASSES + TWIN_COMPARISON_PASSES)
        if not self.follows_twin:
            return 2 * alone[0] + harness, 2 * alone[1]
        phases = len(list_slopes(self.attack, self.threat))
        queries = self.finish_queries if can_finish(self.threat, self.classifier, self.finish_queries) else 0
        forward = both[0] * (1 + 2 * phases) + queries + HARNESS_PASSES
        return self.image_count * forward + harness, self.image_count * both[1] * (1 + phases)

    def run(self, positions: list[int]) -> OutcomeBatch:
        """Attack the twin, then the artefact, and compare their answers."""
        started = time.perf_counter()
        data = self.select_images(positions)
        job = replace(self, ledger=TwinLedger())
        clean, twin_broken = _attack_twin(job, data)
        batch = super(TwinAttackJob, job).run(positions)
        outcomes = _add_twin_answers(job, data, batch, clean, twin_broken)
        seconds = (time.perf_counter() - started) / len(positions)
        return replace(batch, outcomes=tuple(replace(row, seconds=seconds) for row in outcomes))

    def open_account(self, count: int) -> SpentPasses:
        """See `AttackJob.open_account`."""
        return TwinSpentPasses(self.view, count) if self.follows_twin else super().open_account(count)

    def attack_images(
        self, chosen: Dataset, spent: SpentPasses
    ) -> tuple[VerificationResult, AgreementCounts]:
        """See `AttackJob.attack_images`: through the twin, unless the attack uses no gradients."""
        if not isinstance(spent, TwinSpentPasses):
            return super().attack_images(chosen, spent)
        return TwinSearch(self, chosen, spent).run()

    def make_twin_job(self) -> AttackJob:
        """Make the job of the same attack on the twin by itself."""
        return AttackJob(
            key=self.key,
            classifier=self.twin,
            data=self.data,
            positions=self.positions,
            threat=self.threat,
            seed=self.seed,
            attack=self.attack,
        )


def _attack_twin(job: TwinAttackJob, data: Dataset) -> tuple[Predictions, Tensor]:
    """Attack the twin by itself; return its clean predictions, and where the attack succeeded, (N,)."""
    twin, ids = job.twin, data.ids
    images, labels = data.images.to(twin.device), data.labels.to(twin.device)
    with twin.open_fresh_copy() as judge, judge.count_passes(len(data)) as counter:
        clean = predict(judge, images, labels, stream=RandomStream(job.seed, ids, repr(job.attack)))
    job.ledger.add_passes(ids, counter.forward_passes, counter.backward_passes)
    broken, rows = torch.zeros(len(data), dtype=torch.bool), clean.correct.nonzero().flatten()
    if len(rows):
        chosen, spent = data.select_images(rows.tolist()), SpentPasses(twin, len(rows))
        verified, _ = attack_and_verify(job.make_twin_job(), chosen, spent)
        broken[rows] = verified.broken
        job.ledger.candidates.update(zip(chosen.ids, verified.candidates, strict=True))
        passes = torch.tensor(spent.collect_passes(), dtype=torch.int64)
        job.ledger.add_passes(chosen.ids, passes[:, 0], passes[:, 1])
    return clean, broken


def _add_twin_answers(
    job: TwinAttackJob, data: Dataset, batch: OutcomeBatch, clean: Predictions, broken: Tensor
) -> tuple[OutcomeRecord, ...]:
    """Add what the twin answers to the outcomes of the artefact.

    Args:
        job: The job.
        data: The images.
        batch: The outcomes of the artefact.
        clean: The twin's clean predictions.
        broken: Whether the attack on the twin succeeded, (N,).
    """
    twin, candidates = job.twin, batch.candidates.to(job.twin.device)
    images, labels = data.images.to(twin.device), data.labels.to(twin.device)
    with twin.open_fresh_copy() as judge, judge.count_passes(len(data)) as counter:
        reading = predict(judge, candidates, labels, allows_rejection=True)
        with job.classifier.open_fresh_copy() as artefact, artefact.count_passes(len(data)) as spent:
            differences = [compute_differences(artefact, judge, points) for points in (images, candidates)]
    job.ledger.add_passes(data.ids, counter.forward_passes, counter.backward_passes)
    broken = broken | (clean.correct & has_reached_goal(reading, labels, job.threat))
    return tuple(
        replace(
            record,
            forward_passes=record.forward_passes + int(spent.forward_passes[row]),
            twin_clean_prediction=get_class_index(clean.prediction[row]),
            twin_clean_correct=bool(clean.correct[row]),
            twin_prediction=get_class_index(reading.prediction[row]),
            twin_broken=bool(broken[row]),
            clean_difference=differences[0][row],
            adversarial_difference=differences[1][row],
            twin_forward_passes=job.ledger.passes[record.image][0],
            twin_backward_passes=job.ledger.passes[record.image][1],
            search_phase=job.ledger.phases.get(record.image, "") if record.broken else "",
        )
        for row, record in enumerate(batch.outcomes)
    )
