"""Gates that judge each class by itself, with intervals corrected for the number of classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from robustbench_local.cluster_statistics import estimate_image_share
from robustbench_local.reports.analysis.cell_result import CellResult
from robustbench_local.reports.analysis.doubt_finders import Doubt
from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.gate_caveats import apply_distrust
from robustbench_local.reports.analysis.gate_errors import judge_despite_errors
from robustbench_local.reports.analysis.gate_types import Gate, GateVerdict
from robustbench_local.reports.analysis.gate_verdicts import build_verdict, judge_with_doubts
from robustbench_local.reports.analysis.gates import is_concerned_cell, judge_gate
from robustbench_local.reports.analysis.stopped_verdicts import is_stopped
from robustbench_local.reports.analysis.trust import select_gate_distrust
from robustbench_local.reports.analysis.worst_case import compute_worst_case
from robustbench_local.statistics import Estimate, compute_clopper_pearson

STOPPED_REASON = "the run stopped early, and this gate needs every image: run it without --until-decided"
FAMILY_ERROR = 0.05
"""Probability that any of the classes of a gate is judged wrongly."""


def judge_classes(evidence: Evidence, gate: Gate, doubts: Sequence[Doubt]) -> list[GateVerdict]:
    """Judge each class of each model by one gate.

    Each interval errs with probability `FAMILY_ERROR` divided by the number of classes (Bonferroni), so that
    with probability 95% no class is judged wrongly.

    Args:
        evidence: The run.
        gate: A limit on clean or robust accuracy, on all images and under one threat model.
        doubts: Doubts of the run.

    Returns:
        One verdict for each model and class, in the order of the class indices; at least one.
    """
    cells = [cell for cell in evidence.cells if is_concerned_cell(gate, cell)]
    verdicts = [
        verdict
        for subject in dict.fromkeys(cell.subject for cell in cells)
        for verdict in _judge_subject_classes(
            evidence, gate, subject, [cell for cell in cells if cell.subject == subject], doubts
        )
    ]
    return verdicts or judge_gate(evidence, gate, doubts)  # nothing to judge: it says why


def list_class_labels(cells: Sequence[CellResult]) -> list[int]:
    """List the classes with an image in any of the cells, by index."""
    return sorted({prediction.label for cell in cells for prediction in cell.predictions.values()})


def compute_class_level(count: int) -> float:
    """Compute the level of each interval with which all ``count`` of them hold at once at the 95% level."""
    return 1 - FAMILY_ERROR / max(count, 1)


def _judge_subject_classes(
    evidence: Evidence,
    gate: Gate,
    subject: EvaluatedModel,
    cells: Sequence[CellResult],
    doubts: Sequence[Doubt],
) -> list[GateVerdict]:
    if is_stopped(cells):
        unknown = compute_clopper_pearson(0, 0)
        return [
            GateVerdict(
                gate=gate, subject=subject, estimate=unknown, ruling="inconclusive", reason=STOPPED_REASON
            )
        ]
    labels = list_class_labels(cells)
    level = compute_class_level(len(labels))
    distrust = select_gate_distrust(evidence, subject, gate, cells)
    verdicts = []
    for label in labels:
        own_gate = replace(gate, true_class=evidence.get_class_name(subject.model, label))
        judge = partial(_judge_images, evidence=evidence, gate=own_gate, level=level)
        chosen = [cell.select_class(label) for cell in cells]
        verdict = judge_despite_errors(chosen, partial(judge_with_doubts, doubts=doubts, judge=judge))
        verdicts.append(apply_distrust(verdict, distrust))
    return verdicts


def _judge_images(
    cells: Sequence[CellResult], *, evidence: Evidence, gate: Gate, level: float
) -> GateVerdict:
    """Judge the images of these cells, which are those of one class, at a level of confidence."""
    estimate = _estimate_class(evidence, gate, cells, level)
    missing = [cell.label for cell in cells if not cell.is_done and gate.metric != "clean_accuracy"]
    return build_verdict(gate, cells[0].subject, estimate, missing)


def _estimate_class(evidence: Evidence, gate: Gate, cells: Sequence[CellResult], level: float) -> Estimate:
    """Estimate the accuracy on the images of these cells, which are those of one class."""
    done = [cell for cell in cells if cell.is_done]
    if not done:
        return compute_clopper_pearson(0, 0, level)
    if gate.metric == "clean_accuracy":
        most = max(done, key=lambda cell: len(cell.verdicts))
        marks = {image: verdict.clean_correct for image, verdict in most.verdicts.items()}
        return estimate_image_share(marks, most.groups, level)
    others = () if gate.attack else evidence.cells
    return compute_worst_case(cells, others).estimate_robust_accuracy(level)
