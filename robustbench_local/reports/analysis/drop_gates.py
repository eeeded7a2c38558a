"""Gates on the drop of a share against a baseline, image by image over the same images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from robustbench_local.cluster_statistics import Marks, estimate_image_share
from robustbench_local.paired_difference import PairedDifference, estimate_paired_difference
from robustbench_local.reports.analysis.baseline_run import Baseline
from robustbench_local.reports.analysis.cell_result import CellResult
from robustbench_local.reports.analysis.class_gates import (
    STOPPED_REASON,
    compute_class_level,
    list_class_labels,
)
from robustbench_local.reports.analysis.doubt_finders import find_doubts
from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.gate_caveats import apply_distrust
from robustbench_local.reports.analysis.gate_errors import judge_despite_errors
from robustbench_local.reports.analysis.gate_types import Gate, GateVerdict, Ruling, format_split
from robustbench_local.reports.analysis.gate_verdicts import judge_with_doubts
from robustbench_local.reports.analysis.gates import is_concerned_cell, judge_gate, select_gate_images
from robustbench_local.reports.analysis.stopped_verdicts import is_stopped
from robustbench_local.reports.analysis.trust import format_mark, select_gate_distrust
from robustbench_local.reports.analysis.worst_case import compute_worst_case
from robustbench_local.reports.formatting.text import join_in_sentence
from robustbench_local.statistics import compute_clopper_pearson

MAX_NAMED_OBSTACLES = 3
"""Differences of the runs that a verdict names."""


@dataclass(frozen=True, kw_only=True)
class DropContext:
    """What a drop is judged from, besides the cells."""

    evidence: Evidence
    """The judged run."""
    baseline: Baseline
    """The run that it is compared with."""


def judge_drop(evidence: Evidence, baseline: Baseline, gate: Gate, *, per_class: bool) -> list[GateVerdict]:
    """Judge the models of a run by one gate on a drop.

    The drop of each model is the share of the baseline's model less its own, over the images of both. It is
    inconclusive where images, threat models or attacks of the runs differ, where something did not finish,
    and where doubts, errors or untrusted numbers could change it.

    Args:
        evidence: The run.
        baseline: The run that it is compared with.
        gate: The largest drop, under one threat model.
        per_class: Whether to judge each class by itself, as in ``judge_classes``.

    Returns:
        The verdicts, at least one.

    Raises:
        ConfigError: If the gate names a class that a model does not have.
    """
    context = DropContext(evidence=evidence, baseline=baseline)
    cells = [cell for cell in evidence.cells if is_concerned_cell(gate, cell)]
    if not cells:
        return judge_gate(evidence, gate, ())  # it says what is missing
    return [
        verdict
        for subject in dict.fromkeys(cell.subject for cell in cells)
        for verdict in _judge_subject_drop(
            context, gate, subject, [cell for cell in cells if cell.subject == subject], per_class=per_class
        )
    ]


def build_undecided_drop(
    gate: Gate, reason: str, subject: EvaluatedModel | None = None, ruling: Ruling = "inconclusive"
) -> GateVerdict:
    """Build the verdict of a drop that could not be measured."""
    unknown = compute_clopper_pearson(0, 0)
    return GateVerdict(gate=gate, subject=subject, estimate=unknown, ruling=ruling, reason=reason)


def _judge_subject_drop(
    context: DropContext, gate: Gate, subject: EvaluatedModel, cells: list[CellResult], *, per_class: bool
) -> list[GateVerdict]:
    baseline = context.baseline
    counterpart = baseline.find_counterpart(subject)
    if counterpart is None:
        reason = baseline.problem or f"the baseline has no model {subject}"
        return [build_undecided_drop(gate, reason, subject)]
    there = replace(
        gate,
        model=counterpart.model if gate.model else None,
        defense=counterpart.defense if gate.defense else None,
    )
    base_cells = [
        cell
        for cell in baseline.evidence.cells
        if cell.subject == counterpart and is_concerned_cell(there, cell)
    ]
    if not base_cells:
        return [build_undecided_drop(gate, "the baseline has no such result", subject)]
    if is_stopped([*cells, *base_cells]):
        return [build_undecided_drop(gate, STOPPED_REASON, subject)]
    if obstacles := baseline.find_obstacles(gate, [*cells, *base_cells]):
        more = len(obstacles) - MAX_NAMED_OBSTACLES
        shown = [*obstacles[:MAX_NAMED_OBSTACLES], *([f"{more:,} more"] if more > 0 else [])]
        return [build_undecided_drop(gate, f"the runs cannot be compared: {'; '.join(shown)}", subject)]
    chosen = select_gate_images(gate, context.evidence, cells)
    if not per_class:
        return [_judge_images(context, gate, chosen, base_cells, level=0.95)]
    labels = list_class_labels(chosen)
    return [
        _judge_images(
            context,
            replace(gate, true_class=context.evidence.get_class_name(subject.model, label)),
            [cell.select_class(label) for cell in chosen],
            [cell.select_class(label) for cell in base_cells],
            level=compute_class_level(len(labels)),
        )
        for label in labels
    ] or [build_undecided_drop(gate, "nothing was measured", subject)]


def _judge_images(
    context: DropContext,
    gate: Gate,
    cells: Sequence[CellResult],
    base_cells: Sequence[CellResult],
    *,
    level: float,
) -> GateVerdict:
    """Judge the drop on these cells' images, with doubts, errors and trust of both runs."""
    doubts, base_doubts = find_doubts(context.evidence), find_doubts(context.baseline.evidence)

    def judge_base(base: Sequence[CellResult]) -> GateVerdict:
        judge = partial(_compare_cells, context, gate, base_cells=base, level=level)
        return judge_despite_errors(cells, partial(judge_with_doubts, doubts=doubts, judge=judge))

    verdict = judge_despite_errors(
        base_cells, partial(judge_with_doubts, doubts=base_doubts, judge=judge_base)
    )
    own = select_gate_distrust(context.evidence, cells[0].subject, gate, cells)
    return _distrust_baseline(apply_distrust(verdict, own), context, base_cells)


def _distrust_baseline(
    verdict: GateVerdict, context: DropContext, base_cells: Sequence[CellResult]
) -> GateVerdict:
    """Return a verdict that does not fail because the baseline's number may be too high."""
    there = replace(verdict.gate, true_class=None)
    distrust = select_gate_distrust(context.baseline.evidence, base_cells[0].subject, there, base_cells)
    if not distrust or verdict.ruling != "fail" or verdict.gate.trust == "ignore":
        return verdict
    reason = f"{verdict.reason}, but the baseline's number is {format_mark(distrust)}"
    return replace(verdict, ruling="inconclusive", reason=reason)


def _compare_cells(
    context: DropContext,
    gate: Gate,
    cells: Sequence[CellResult],
    *,
    base_cells: Sequence[CellResult],
    level: float,
) -> GateVerdict:
    """Compare the shares of both runs on their common images with the largest drop."""
    subject = cells[0].subject
    missing = [
        f"{cell.label} of {run}"
        for run, chosen in (("the baseline", base_cells), ("this run", cells))
        for cell in chosen
        if not cell.is_done and gate.metric == "robust_accuracy"
    ]
    if missing:
        return build_undecided_drop(gate, f"{join_in_sentence(missing)} did not finish", subject)
    marks = _mark_images(gate, cells, context.evidence)
    base_marks = _mark_images(gate, base_cells, context.baseline.evidence)
    groups = cells[0].groups
    drop = estimate_paired_difference(base_marks, marks, groups, level)
    if not drop.is_known:
        return build_undecided_drop(gate, "the runs have no image in common", subject)
    ruling, reason = _compare_with_limit(gate, drop)
    is_equal = not drop.only_first and not drop.only_second
    if is_equal and context.baseline.has_same_weights(subject, base_cells[0].subject, context.evidence):
        ruling, reason = "pass", "the same weights as in the baseline, and the same result on every image"
    return GateVerdict(
        gate=gate,
        subject=subject,
        estimate=estimate_image_share(
            {image: marks[image] for image in marks if image in base_marks}, groups
        ),
        ruling=ruling,
        reason=reason,
        drop=drop,
    )


def _mark_images(gate: Gate, cells: Sequence[CellResult], evidence: Evidence) -> Marks:
    """Mark the images that count in the gate's share, over those that all of the cells have."""
    done = [cell for cell in cells if cell.is_done]
    if not done:
        return {}
    if gate.metric == "clean_accuracy":
        most = max(done, key=lambda cell: len(cell.verdicts))
        return {image: verdict.clean_correct for image, verdict in most.verdicts.items()}
    if gate.metric == "certified_accuracy":
        images = [image for image in done[0].verdicts if all(image in cell.verdicts for cell in done)]
        return {image: any(cell.verdicts[image].robust for cell in done) for image in images}
    worst = compute_worst_case(cells, () if gate.attack else evidence.cells)
    return {image: verdict.robust for image, verdict in worst.verdicts.items()}


def _compare_with_limit(gate: Gate, drop: PairedDifference) -> tuple[Ruling, str]:
    """Compare a drop with the limit, and describe it."""
    text = format_split(drop)
    deciding = {"lower": drop.low, "estimate": drop.value, "upper": drop.high}[gate.bound]
    if deciding <= gate.limit:
        return "pass", text
    if gate.bound != "estimate" and drop.low <= gate.limit:
        return "inconclusive", f"{text}; the interval reaches over the limit; more images would decide"
    return "fail", text
