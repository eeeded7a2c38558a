"""The verdict of a gate on one model, from the value, its interval, missing results and doubts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from robustbench_local.cluster_statistics import estimate_image_share
from robustbench_local.reports.analysis.cell_result import CellResult
from robustbench_local.reports.analysis.class_results import estimate_worst_class, group_by_class
from robustbench_local.reports.analysis.deciding_images import (
    describe_deciding_images,
    describe_deciding_part,
    describe_different_images,
    describe_more_of_each_class,
)
from robustbench_local.reports.analysis.distances import compute_nearest_quartiles, compute_radius_quartiles
from robustbench_local.reports.analysis.doubt_finders import Doubt, select_doubts
from robustbench_local.reports.analysis.doubt_recount import AssumedOutcome, assume_outcome
from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.gate_errors import judge_despite_errors
from robustbench_local.reports.analysis.gate_types import Gate, GateVerdict, Ruling
from robustbench_local.reports.analysis.resubmission import estimate_success, find_worst_counts
from robustbench_local.reports.analysis.sticker_controls import find_control_problems
from robustbench_local.reports.analysis.stopped_verdicts import is_stopped, judge_stopped
from robustbench_local.reports.analysis.threat import Threat
from robustbench_local.reports.analysis.worst_case import (
    WorstCase,
    compute_worst_case,
    find_breaks_inside,
)
from robustbench_local.reports.formatting.text import (
    format_count,
    format_distance,
    format_estimate,
    format_interval,
    join_in_sentence,
)
from robustbench_local.statistics import Estimate, compute_clopper_pearson

_OUTCOME_WORDS = {"broken": "not robust", "robust": "robust"}
_JudgeCells = Callable[[Sequence[CellResult]], GateVerdict]
_JudgeGate = Callable[[Gate, EvaluatedModel, Sequence[CellResult]], GateVerdict]


def judge_subject(
    gate: Gate,
    subject: EvaluatedModel,
    cells: Sequence[CellResult],
    doubts: Sequence[Doubt],
    evidence: Evidence,
) -> list[GateVerdict]:
    """Judge one subject by one gate.

    Args:
        gate: The limit.
        subject: The model and defense.
        cells: The subject's cells that the gate concerns, at least one.
        doubts: Doubts of the run. A ruling that depends on images in doubt is ``inconclusive``.
        evidence: The run. Successes of its other cells inside the ball of a threat model count under it; a
            gate that names an attack judges that attack alone.

    Returns:
        One verdict for each value that the gate compares with its limit.
    """
    return [
        replace(
            judge_despite_errors(
                group, partial(judge_with_doubts, doubts=doubts, judge=partial(judge, gate, subject))
            ),
            attack_label=join_in_sentence(list(dict.fromkeys(cell.label for cell in group)))
            if gate.attack
            else "",
        )
        for group, judge in group_cells(gate, cells, evidence)
    ]


def group_cells(
    gate: Gate, cells: Sequence[CellResult], evidence: Evidence
) -> list[tuple[list[CellResult], _JudgeGate]]:
    """Group the cells of each verdict, with the function that judges them."""
    return [
        (group, partial(judge_stopped, evidence=evidence) if is_stopped(group) else judge)
        for group, judge in _group_by_metric(gate, cells, evidence)
    ]


def _group_by_metric(
    gate: Gate, cells: Sequence[CellResult], evidence: Evidence
) -> list[tuple[list[CellResult], _JudgeGate]]:
    if gate.metric == "clean_accuracy":
        return [(list(cells), _judge_clean)]
    if gate.metric == "median_distance":
        return [
            (group, _judge_distance)
            for group in _group_alike(cells, lambda cell: (cell.threat, cell.targeted))
        ]
    if gate.metric == "certified_accuracy":
        return [(group, _judge_certificates) for group in _group_alike(cells, _get_certificate_key)]
    if gate.metric == "sticker_success":
        return [([cell], _judge_sticker) for cell in cells]
    attacks = _judge_resubmission if gate.metric == "resubmission_success" else _judge_attacks
    together = _group_alike([cell for cell in cells if cell.is_in_worst_case], lambda cell: cell.threat)
    alone = [[cell] for cell in cells if not cell.is_in_worst_case]
    if gate.metric == "worst_class_robust_accuracy":
        return [(group, partial(_judge_worst_class, evidence=evidence)) for group in [*together, *alone]]
    judge = partial(attacks, other_cells=() if gate.attack else evidence.cells)
    return [(group, judge) for group in [*together, *alone]]


def _group_alike(cells: Sequence[CellResult], key: Callable[[CellResult], object]) -> list[list[CellResult]]:
    groups = dict.fromkeys(map(key, cells))
    return [[cell for cell in cells if key(cell) == group] for group in groups]


def _get_certificate_key(cell: CellResult) -> tuple[Threat, str]:
    """Return what is certified: the threat model and the classifier."""
    return cell.threat, cell.record.concerns


def judge_with_doubts(
    cells: Sequence[CellResult], doubts: Sequence[Doubt], judge: _JudgeCells
) -> GateVerdict:
    """Return the measured verdict, unless images in doubt could change it.

    The images in doubt are judged again as if every attack had succeeded; if the outputs themselves are in
    doubt, also as if none had. If a ruling differs, the verdict is inconclusive.

    Args:
        cells: The cells of one subject.
        doubts: Doubts of the run.
        judge: Judges these cells, as measured or with an assumed outcome.
    """
    measured = judge(cells)
    concerning = select_doubts(doubts, cells)
    if not concerning or measured.ruling == "inconclusive":
        return measured
    assumed: tuple[AssumedOutcome, ...] = (
        ("broken", "robust") if any(one.concerns_clean_answers for one in concerning) else ("broken",)
    )
    for outcome in assumed:
        other = judge([assume_outcome(cell, concerning, outcome) for cell in cells])
        if other.ruling != measured.ruling:
            return _build_inconclusive(measured, other, concerning, outcome)
    return measured


def _build_inconclusive(
    measured: GateVerdict, other: GateVerdict, doubts: Sequence[Doubt], outcome: AssumedOutcome
) -> GateVerdict:
    images = frozenset[str]().union(*(doubt.images for doubt in doubts))
    named = join_in_sentence(list(dict.fromkeys(doubt.reason for doubt in doubts)))
    hints = "; ".join(dict.fromkeys(doubt.hint for doubt in doubts if doubt.hint))
    what = (
        f"{measured.reason} as measured, but the robustness of {format_count(len(images), 'image')} is in "
        f"doubt ({named})"
    )
    how = f"counted as {_OUTCOME_WORDS[outcome]} they give {other.reason}: {other.ruling}"
    reason = f"{what}; {how}" + (f"; {hints}" if hints else "")
    return replace(measured, ruling="inconclusive", reason=reason)


def _judge_clean(gate: Gate, subject: EvaluatedModel, cells: Sequence[CellResult]) -> GateVerdict:
    done = [compute_worst_case([cell]).clean_accuracy for cell in cells if cell.is_done]
    estimate = max(done, key=lambda share: share.n, default=compute_clopper_pearson(0, 0))
    return build_verdict(
        gate,
        subject,
        estimate,
        missing=() if done else ("every cell",),
        describe_more=lambda: describe_deciding_images(gate, estimate),
    )


def _judge_attacks(
    gate: Gate, subject: EvaluatedModel, cells: Sequence[CellResult], other_cells: Sequence[CellResult] = ()
) -> GateVerdict:
    """Judge robust accuracy or attack success in the worst case over these attacks."""
    worst = compute_worst_case(cells, other_cells)
    estimate = _ESTIMATE_BY_METRIC[gate.metric](worst)
    verdict = build_verdict(
        gate,
        subject,
        estimate,
        missing=worst.missing_attack_labels,
        describe_more=lambda: describe_deciding_part(gate, worst, estimate),
    )
    how = describe_different_images(worst)
    return replace(verdict, reason=f"{verdict.reason}; {how}") if how else verdict


def _judge_worst_class(
    gate: Gate, subject: EvaluatedModel, cells: Sequence[CellResult], evidence: Evidence
) -> GateVerdict:
    """Judge the class of lowest robust accuracy, with an interval that accounts for its choice."""
    worst = compute_worst_case(cells, () if gate.attack else evidence.cells)
    labels = group_by_class(worst, cells)
    estimate = estimate_worst_class(worst, cells)
    classes = format_count(len(labels), "class")
    named = len(evidence.get_class_names(subject.model))
    among = f"{classes} with images, of {named:,}" if len(labels) < named else classes
    text = f"{format_estimate(estimate)}, corrected for its choice among {among}"
    return build_verdict(
        gate,
        subject,
        estimate,
        worst.missing_attack_labels,
        text=text,
        describe_more=lambda: describe_more_of_each_class(worst),
    )


def _judge_resubmission(
    gate: Gate, subject: EvaluatedModel, cells: Sequence[CellResult], other_cells: Sequence[CellResult] = ()
) -> GateVerdict:
    """Judge the success of repeated submissions in the worst case over these attacks."""
    done = [cell for cell in cells if cell.is_done]
    counts, unknown = find_worst_counts(done, find_breaks_inside(cells, other_cells))
    groups = cells[0].groups if cells else {}
    [point] = estimate_success(counts, [gate.tries or 1], groups)
    missing = [cell.label for cell in cells if not cell.is_done]
    text = f"{format_estimate(point.success)} in {format_count(point.tries, 'submission')}"
    if point.is_bound:
        text = (
            f"between {format_interval(point.success)} in {point.tries:,} submissions (n = {len(counts):,})"
        )
    verdict = build_verdict(gate, subject, point.success, missing, text=text)
    if verdict.ruling == "fail" or not (unknown or (point.is_bound and gate.bound == "estimate")):
        return verdict
    reason = (
        f"{format_count(unknown, 'image')} without draws"
        if unknown
        else "more submissions than draws have bounds and no estimate"
    )
    return replace(verdict, ruling="inconclusive", reason=f"{text}; {reason}")


def _judge_certificates(gate: Gate, subject: EvaluatedModel, cells: Sequence[CellResult]) -> GateVerdict:
    """Judge the share of images that any certificate proves; further ones can only raise it."""
    done = [cell for cell in cells if cell.is_done]
    images = [image for image in (done[0].verdicts if done else ()) if all(image in c.verdicts for c in done)]
    marks = {image: any(cell.verdicts[image].robust for cell in done) for image in images}
    estimate = estimate_image_share(marks, cells[0].groups)
    value_text = format_estimate(estimate) + (
        ", for its majority vote under noise" if cells[0].record.concerns != "model" else ""
    )
    labels = [cell.label for cell in done]
    ruling, reason = _compare_with_limit(
        gate, estimate, value_text, describe_more=lambda: describe_deciding_images(gate, estimate, labels)
    )
    missing = [cell.label for cell in cells if not cell.is_done and cell.reported_status != "skipped"]
    if missing and ruling != ("pass" if gate.min is not None else "fail"):
        ruling, reason = (
            "inconclusive",
            f"{value_text} without {join_in_sentence(missing)}, which did not finish",
        )
    return GateVerdict(gate=gate, subject=subject, estimate=estimate, ruling=ruling, reason=reason)


def _judge_sticker(gate: Gate, subject: EvaluatedModel, cells: Sequence[CellResult]) -> GateVerdict:
    """Judge sticker success over signs; a gate passes only with its controls met.

    Views of one sign are alike, so that the interval over views would decide about these signs alone.
    """
    [cell] = cells
    estimate, signs = cell.sticker_success_over_signs, sum(sign.is_counted for sign in cell.signs)
    value_text = f"{format_estimate(estimate)}, views of {signs} of {format_count(len(cell.signs), 'sign')}"
    if cell.is_done and not estimate.is_known:
        value_text = "no view counts: every sign is excluded"
        return GateVerdict(
            gate=gate, subject=subject, estimate=estimate, ruling="inconclusive", reason=value_text
        )
    verdict = build_verdict(gate, subject, estimate, () if cell.is_done else (cell.label,), text=value_text)
    against = find_control_problems(cell, is_low=gate.max is not None) if verdict.ruling == "pass" else []
    if not against:
        return verdict
    return replace(verdict, ruling="inconclusive", reason=f"{value_text}, but {join_in_sentence(against)}")


def _judge_distance(gate: Gate, subject: EvaluatedModel, cells: Sequence[CellResult]) -> GateVerdict:
    """Judge the median of the nearest distances over attacks under one threat model."""
    done, record = [cell for cell in cells if cell.is_done], cells[0].record
    quartiles = compute_nearest_quartiles(done) if done else compute_radius_quartiles({}, {})
    known = Estimate(value=quartiles.median, low=quartiles.low, high=quartiles.high, n=quartiles.n)
    ends = [
        format_distance(record.norm, end, max_radius=record.eps)
        for end in (quartiles.median, quartiles.low, quartiles.high)
    ]
    between = f"{ends[1]} to {ends[2]}, " if quartiles.low < quartiles.high else ""
    value_text = f"{ends[0]} ({between}n = {quartiles.n})"
    missing = [cell.label for cell in cells if not cell.is_done]
    return build_verdict(gate, subject, known, missing, text=value_text, max_radius=record.eps)


def build_verdict(
    gate: Gate,
    subject: EvaluatedModel,
    estimate: Estimate,
    missing: Sequence[str],
    *,
    text: str = "",
    max_radius: float = math.inf,
    describe_more: Callable[[], str] = lambda: "more images would decide",
) -> GateVerdict:
    """Compare a value with the limit.

    Args:
        gate: The limit.
        subject: The model and defense.
        estimate: The value with its interval.
        missing: Labels of attacks that did not finish.
        text: The value in words; empty: value, interval and n.
        max_radius: The largest distance that the attacks searched, if the value is a distance.
        describe_more: Describes what would decide a gate whose interval straddles the limit.

    Further attacks can only lower robust accuracy and distances, and raise attack success. So a limit that is
    already broken stays broken whatever is missing, while a limit that is kept so far is inconclusive.
    """
    text = text or format_estimate(estimate)
    ruling, reason = _compare_with_limit(gate, estimate, text, max_radius, describe_more)
    if missing and ruling != "fail":
        ruling, reason = "inconclusive", f"{text} without {join_in_sentence(missing)}, which did not finish"
    return GateVerdict(gate=gate, subject=subject, estimate=estimate, ruling=ruling, reason=reason)


def _compare_with_limit(
    gate: Gate,
    estimate: Estimate,
    text: str,
    max_radius: float = math.inf,
    describe_more: Callable[[], str] = lambda: "more images would decide",
) -> tuple[Ruling, str]:
    """Compare a value with the limit, and describe it; infinite means larger than ``max_radius``."""
    if not estimate.is_known:
        return "inconclusive", "nothing was measured"
    value = gate.select_bound(estimate)
    best = estimate.high if gate.min is not None else estimate.low
    if math.isinf(value) and gate.limit > max_radius:
        return "inconclusive", f"{text}: the limit is beyond the largest distance of the attacks"
    if gate.is_kept_by(value):
        return "pass", text
    if gate.bound != "estimate" and gate.is_kept_by(best):
        return "inconclusive", f"{text} straddles the limit; {describe_more()}"
    return "fail", text


_ESTIMATE_BY_METRIC: dict[str, Callable[[WorstCase], Estimate]] = {
    "robust_accuracy": lambda one: one.robust_accuracy,
    "attack_success": lambda one: one.attack_success,
}
