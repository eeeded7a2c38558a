"""The search for adversarial examples of an artefact with the gradients of its twin, in phases.

1. The candidates of the attack on the twin itself are verified on the artefact.
2. The attack runs with the gradients of the twin and the answers of the artefact, so that it goes on beyond
   the twin's decision boundary.
3. What is left is searched by queries of the artefact alone, from the best candidate.

For an attack that measures distances, the nearest success of all phases is moved along the segment to its
image as near as the artefact is misclassified.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from robustbench_local.attacks.base import Attack, AttackInputs
from robustbench_local.classifier.twin_view import Slopes
from robustbench_local.data.dataset import Dataset
from robustbench_local.evaluation.harness.answer_agreement import AgreementCounts
from robustbench_local.evaluation.harness.artefact_finish import (
    can_finish,
    finish_on_artefact,
    move_to_boundary,
)
from robustbench_local.evaluation.harness.attack_job import attack_and_verify
from robustbench_local.evaluation.harness.merged_results import replace_rows
from robustbench_local.evaluation.harness.spent_passes import SpentPasses
from robustbench_local.evaluation.harness.twin_account import TwinSpentPasses
from robustbench_local.evaluation.harness.verify import VerificationResult, verify
from robustbench_local.randomness import RandomStream
from robustbench_local.store.records import SearchPhase
from robustbench_local.threats.threat_model import ThreatModel

if TYPE_CHECKING:
    from robustbench_local.evaluation.harness.twin_job import TwinAttackJob

MAX_PASSES_FOR_TWO_SEARCHES = 1000
"""Passes per image of an attack that searches twice: at the twin's own loss, and at the artefact's."""
_NORMS_WITH_SEGMENTS = frozenset({"Linf", "L2", "L1"})
"""Norms in which points on the segment to the original are nearer to it."""


def list_slopes(attack: Attack, threat: ThreatModel) -> tuple[Slopes, ...]:
    """List the searches of an attack: at whose outputs its loss is differentiated in each.

    The loss of the twin grows along the search, whatever the artefact answers. An attack that looks for the
    decision boundary has to see that of the artefact; and expensive attacks search once.
    """
    if attack.measure == "ball" and sum(attack.estimate_cost(threat)) <= MAX_PASSES_FOR_TWO_SEARCHES:
        return ("twin", "artefact")
    return ("artefact",)


class TwinSearch:
    """The search on correctly classified images.

    Args:
        job: The job of the batch.
        chosen: The images.
        spent: The account of the artefact's passes.
    """

    def __init__(self, job: TwinAttackJob, chosen: Dataset, spent: TwinSpentPasses) -> None:
        self.job, self.chosen, self.spent = job, chosen, spent
        self.agreement = AgreementCounts()
        device = job.classifier.device
        self._images, self._labels = chosen.images.to(device), chosen.labels.to(device)
        self._masks = None if chosen.masks is None else chosen.masks.to(device)

    def run(self) -> tuple[VerificationResult, AgreementCounts]:
        """Run the phases; return the verdicts of the artefact."""
        job, everything = self.job, torch.arange(len(self.chosen))
        is_nearest = job.attack.measure == "distance"
        slopes = list(list_slopes(job.attack, job.threat))
        result = self._verify_twin_candidates() if job.threat.is_ball else self._search_first(slopes.pop(0))
        for number, name in enumerate(slopes):
            rows = everything if is_nearest else _find_kept(result)
            if len(rows):
                result = self._take_over(result, self._search(rows, name, number), rows, "search")
        rows = _find_kept(result)
        if len(rows) and can_finish(job.threat, job.classifier, job.finish_queries):
            result = self._take_over(result, self._finish_search(result, rows), rows, "finish")
        rows = result.broken.nonzero().flatten()
        if len(rows) and is_nearest and job.threat.norm in _NORMS_WITH_SEGMENTS:
            result = self._take_over(result, self._move_to_boundary(result, rows), rows, None)
        return result, self.agreement

    def _verify_twin_candidates(self) -> VerificationResult:
        """Verify the candidates for the twin on the artefact."""
        candidates, rows = self._images.clone(), torch.arange(len(self.chosen))
        for row, image in enumerate(self.chosen.ids):
            if (known := self.job.ledger.candidates.get(image)) is not None:
                candidates[row] = known.to(candidates)
        result = self._verify(rows, candidates)
        self._record_phase(rows[result.broken], "transfer")
        return result

    def _search_first(self, slopes: Slopes) -> VerificationResult:
        """Search on all images, where the candidates for the twin cannot be taken over."""
        rows = torch.arange(len(self.chosen))
        result, phase = self._search(rows, slopes, 0)
        self._record_phase(rows[result.broken], "search")
        self.spent.record_stages(phase, rows, rows.tolist())
        return result

    def _search(self, rows: Tensor, slopes: Slopes, number: int) -> tuple[VerificationResult, SpentPasses]:
        """Run the attack on these images with the twin's gradients and the artefact's answers."""
        chosen = self.chosen.select_images(rows.tolist())
        view = self.job.view.differentiate_at(slopes)
        job = replace(self.job, view=view, phase_name=f" again {number}" if number else "")
        phase = SpentPasses(view, len(rows))
        with self.job.twin.count_passes(len(rows)) as twin:
            result, agreement = attack_and_verify(job, chosen, phase)
        self.agreement += agreement
        self.job.ledger.add_phase(chosen.ids, phase, twin)
        self.spent.add_phase(phase, rows, twin)
        return result, phase

    def _finish_search(self, result: VerificationResult, rows: Tensor) -> tuple[VerificationResult, None]:
        """Query the artefact alone, from the best candidate of each image."""
        starts, queries = result.candidates[rows], self.job.finish_queries
        candidates = self._query_artefact(
            rows, lambda inputs: finish_on_artefact(inputs, starts.to(inputs.images), queries), queries
        )
        return self._verify(rows, candidates), None

    def _move_to_boundary(self, result: VerificationResult, rows: Tensor) -> tuple[VerificationResult, None]:
        """Move successes as near to their images as the artefact is misclassified."""
        successes = result.candidates[rows]
        candidates = self._query_artefact(
            rows, lambda inputs: move_to_boundary(inputs, successes.to(inputs.images))
        )
        return self._verify(rows, candidates), None

    def _query_artefact(
        self, rows: Tensor, search: Callable[[AttackInputs], Tensor], limit: int | None = None
    ) -> Tensor:
        """Let a search query the artefact for these images, at most so many times for each."""
        job, at = self.job, rows.to(self._images.device)
        images, labels = self._images[at], self._labels[at]
        ids = tuple(self.chosen.ids[row] for row in rows.tolist())
        artefact = job.classifier.accept_only(images, labels)
        with artefact.count_passes(len(rows), limit) as counter:
            self.spent.partial_pass_counters.append((counter, rows))
            stream = RandomStream(job.seed, ids, f"{job.attack!r} finish")
            return search(AttackInputs(artefact, images, labels, job.threat, stream))

    def _verify(self, rows: Tensor, candidates: Tensor) -> VerificationResult:
        """Verify candidates on a fresh copy of the artefact."""
        job, at = self.job, rows.to(self._images.device)
        stream = RandomStream(job.seed, self.chosen.ids, repr(job.attack)).select_images(rows)
        masks = None if self._masks is None else self._masks[at]
        with job.classifier.open_fresh_copy() as judge, judge.count_passes(len(rows)) as checks:
            self.spent.partial_pass_counters.append((checks, rows))
            return verify(
                judge, self._images[at], self._labels[at], candidates, job.threat, masks=masks, stream=stream
            )

    def _take_over(
        self,
        result: VerificationResult,
        found: tuple[VerificationResult, SpentPasses | None],
        rows: Tensor,
        name: SearchPhase | None,
    ) -> VerificationResult:
        """Take over what a phase found where it is better.

        Args:
            result: The results so far.
            found: Those of the phase, and its account if the attack ran in it.
            rows: The rows of its images, (M,).
            name: The phase; None if it only moves the candidates of others.
        """
        new, phase = found
        threat = self.job.threat if self.job.attack.measure == "distance" else None
        places = [
            place for place, row in enumerate(rows.tolist()) if is_better(result, row, new, place, threat)
        ]
        successes = [place for place in places if bool(new.broken[place])]
        if name is not None:
            self._record_phase(rows[successes], name)
        if phase is not None:
            self.spent.record_stages(phase, rows, successes)
        return replace_rows(result, new, rows, places)

    def _record_phase(self, rows: Tensor, name: SearchPhase) -> None:
        for row in rows.tolist():
            self.job.ledger.phases[self.chosen.ids[row]] = name


def is_better(
    old: VerificationResult, row: int, new: VerificationResult, place: int, nearest: ThreatModel | None
) -> bool:
    """Return whether a later result of an image is better for the attacker than an earlier one.

    A success is better than none; of two failures, the smaller margin; a rule that a candidate breaks is not
    forgotten. Of two successes the nearer one is better, if the attack measures distances.

    Args:
        old: Earlier results.
        row: The image's row in them.
        new: Later results.
        place: The image's row in those.
        nearest: The threat model of an attack that measures distances; None for others.
    """
    if bool(old.broken[row]):
        if nearest is None or not bool(new.broken[place]):
            return False
        name = nearest.norm.lower()
        return bool(getattr(new, name)[place] < getattr(old, name)[row])
    if bool(new.broken[place]) or new.rejection_reasons[place] is not None:
        return True
    return bool(new.predictions.margin[place] < old.predictions.margin[row])


def _find_kept(result: VerificationResult) -> Tensor:
    """Return the rows that no phase has broken, (M,) int64."""
    return (~result.broken).nonzero().flatten()
