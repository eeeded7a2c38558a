"""The numbers that decide against a run, where the table of the first screen has others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.gate_types import Gate
from robustbench_local.reports.analysis.threat import Threat
from robustbench_local.reports.summary.run_verdict import RunVerdict, VerdictLine


@dataclass(frozen=True, kw_only=True)
class DecidingWorstCase:
    """A worst case under another threat model than the headline's, on which a gate does not pass."""

    subject: EvaluatedModel
    """The model and its defense."""
    threat: Threat
    """The threat model."""
    line: VerdictLine
    """The gate on it."""


def list_deciding_worst_cases(evidence: Evidence, verdict: RunVerdict) -> list[DecidingWorstCase]:
    """List the worst cases that fail or do not decide, and that the headline does not show.

    Args:
        evidence: The run.
        verdict: Its verdict.

    Returns:
        One for each model and threat model, by the first gate on it, those that fail in front.
    """
    found: dict[tuple[EvaluatedModel, Threat], DecidingWorstCase] = {}
    for line in (*verdict.failed, *verdict.undecided):
        for case in _find_worst_case(evidence, line):
            if case.threat != evidence.headline_threat:
                found.setdefault((case.subject, case.threat), case)
    return list(found.values())


def list_other_lines(evidence: Evidence, verdict: RunVerdict) -> list[VerdictLine]:
    """List the gates that fail or do not decide on a number that is neither clean accuracy nor a worst case.

    Args:
        evidence: The run.
        verdict: Its verdict.
    """
    return [
        line
        for line in (*verdict.failed, *verdict.undecided)
        if not any(_find_worst_case(evidence, line))
        and not (_is_of_all_images(line.verdict.gate) and line.verdict.gate.metric == "clean_accuracy")
    ]


def _find_worst_case(evidence: Evidence, line: VerdictLine) -> Iterator[DecidingWorstCase]:
    """Find the worst case that a gate judges; none where it judges something else."""
    gate, subject = line.verdict.gate, line.verdict.subject
    if subject is None or gate.metric != "robust_accuracy" or gate.attack or not _is_of_all_images(gate):
        return
    for worst in evidence.worst_cases:
        if worst.subject == subject and worst.threat.name == gate.threat and not worst.threat.sources:
            yield DecidingWorstCase(subject=subject, threat=worst.threat, line=line)


def _is_of_all_images(gate: Gate) -> bool:
    """Return whether a gate limits a share of all images, and no drop."""
    return gate.true_class is None and not gate.is_drop
