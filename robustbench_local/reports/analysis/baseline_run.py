"""The run that a release is compared with: which models belong together, and what else differs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from robustbench_local.errors import ConfigError
from robustbench_local.reports.analysis.cell_result import CellResult
from robustbench_local.reports.analysis.certified_vs_empirical import find_violations
from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.gate_types import Gate
from robustbench_local.reports.analysis.run_differences import (
    DifferenceKind,
    RunDifference,
    find_run_differences,
)
from robustbench_local.reports.analysis.run_pairs import SubjectPair, pair_subjects

RUN_NAMES = ("the baseline", "this run")
_FORBIDDING_KINDS: frozenset[DifferenceKind] = frozenset(
    {"data", "threat model", "attack", "surrogate", "classes", "unfinished", "missing"}
)
"""Differences with which a drop says nothing about the models: other images, or other attacks on them."""
_CLEAN_KINDS: frozenset[DifferenceKind] = frozenset({"data", "classes"})
"""Those that matter without an attack."""
_NOTED_KINDS: frozenset[DifferenceKind] = frozenset({"seed", "code", "version", "setting"})
"""Differences that a reader has to know: they hardly matter, but may."""


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """The evidence of a baseline beside that of the judged run."""

    evidence: Evidence
    """The baseline."""
    pairs: tuple[SubjectPair, ...]
    """Models that belong together, the baseline's first; none if `problem` says why."""
    differences: tuple[RunDifference, ...]
    """What differs besides the results."""
    problem: str = ""
    """Why nothing can be compared; empty if it can."""

    @classmethod
    def from_runs(cls, baseline: Evidence, evidence: Evidence) -> Baseline:
        """Match the models of two runs and find what differs."""
        if any(violation.is_blocking for violation in find_violations(baseline)):
            problem = (
                "an attack contradicts a certificate of the baseline, so none of its numbers is reliable"
            )
            return cls(evidence=baseline, pairs=(), differences=(), problem=problem)
        try:
            pairs = pair_subjects(baseline, evidence)
        except ConfigError as error:
            return cls(evidence=baseline, pairs=(), differences=(), problem=error.what)
        return cls(
            evidence=baseline, pairs=pairs, differences=find_run_differences(baseline, evidence, pairs)
        )

    @property
    def notes(self) -> list[str]:
        """What a reader has to know about the comparison, one line each."""
        renamed = [
            f"{pair.second} is compared with {pair.first} of the baseline: each run has one model"
            for pair in self.pairs
            if pair.is_renamed
        ]
        differing = [
            f"the runs differ: {difference.describe_values(*RUN_NAMES)}"
            for difference in self.differences
            if difference.kind in _NOTED_KINDS
        ]
        return [*renamed, *differing]

    def find_counterpart(self, subject: EvaluatedModel) -> EvaluatedModel | None:
        """Return the baseline's model that a model is compared with; None if there is none."""
        return next((pair.first for pair in self.pairs if pair.second == subject), None)

    def find_obstacles(self, gate: Gate, cells: Sequence[CellResult]) -> list[str]:
        """Find what forbids a comparison of these cells of both runs, one line each."""
        kinds = _CLEAN_KINDS if gate.metric == "clean_accuracy" else _FORBIDDING_KINDS
        keys = {cell.record.key for cell in cells}
        return [
            difference.describe_values(*RUN_NAMES)
            for difference in self.differences
            if difference.kind in kinds
            and (not difference.cells or difference.cells & keys)
            and (difference.kind != "classes" or self._concerns_classes(difference, cells))
        ]

    def has_same_weights(
        self, subject: EvaluatedModel, counterpart: EvaluatedModel, evidence: Evidence
    ) -> bool:
        """Return whether a model and its counterpart are the same file under the same attacks and code."""
        digests = {
            _find_digest(run, model) for run, model in ((evidence, subject), (self.evidence, counterpart))
        }
        relevant = [one for one in self.differences if one.kind in _FORBIDDING_KINDS | _NOTED_KINDS]
        return len(digests) == 1 and None not in digests and not relevant

    @staticmethod
    def _concerns_classes(difference: RunDifference, cells: Sequence[CellResult]) -> bool:
        """Return whether a difference of classes is about a model of these cells."""
        return any(str(cell.subject) in difference.what for cell in cells)


def _find_digest(evidence: Evidence, subject: EvaluatedModel) -> str | None:
    for about in evidence.models:
        if (about.get("id"), about.get("defense") or "none") == (subject.model, subject.defense):
            return about.get("digest")
    return None
