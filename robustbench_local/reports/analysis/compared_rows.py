"""The rows of a comparison: worst cases, attacks, classes and clean accuracy of two models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from robustbench_local.cluster_statistics import Marks
from robustbench_local.reports.analysis.cell_result import CellResult
from robustbench_local.reports.analysis.compared_run import ComparedRun
from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.run_differences import RunDifference
from robustbench_local.reports.analysis.run_pairs import CellPair, PairedCells, SubjectPair
from robustbench_local.reports.analysis.share_change import ShareChange, compare_marks
from robustbench_local.reports.analysis.threat import Threat
from robustbench_local.reports.analysis.trust import format_mark, select_cell_distrust
from robustbench_local.reports.analysis.worst_case import compute_worst_case
from robustbench_local.reports.formatting.text import join_in_sentence
from robustbench_local.store.diagnostic_records import DiagnosticResult

Metric = Literal["robust accuracy", "certified accuracy", "clean accuracy"]

_MARK_WORDS = {
    "attack": "attack differs",
    "threat model": "threat model differs",
    "surrogate": "surrogate differs",
    "unfinished": "unfinished",
}
"""Kinds of differences that a row names beside its numbers."""


@dataclass(frozen=True, kw_only=True)
class ComparedRow:
    """One share of two models, one of each run."""

    subjects: SubjectPair
    """The models."""
    label: str
    """What the share is about: attacks, or a class."""
    metric: Metric
    """The share."""
    threat: Threat | None
    """The threat model; None without an attack."""
    change: ShareChange
    """How much it changed."""
    cells: tuple[CellPair, ...] = ()
    """The cells behind it."""
    marks: tuple[str, ...] = ()
    """Why the change may come from something else than the model, each in a few words."""
    first_images: Marks = field(default_factory=dict, repr=False)
    """Whether each image counts in the first run."""
    second_images: Marks = field(default_factory=dict, repr=False)
    """Whether each image counts in the second run."""


@dataclass(frozen=True, kw_only=True)
class RunPair:
    """Two runs with what is known of them as a pair."""

    first: ComparedRun
    """The baseline."""
    second: ComparedRun
    """The run that is compared with it."""
    is_paired: bool
    """Whether both are about the same images."""
    differences: tuple[RunDifference, ...]
    """What else differs."""


def compare_attacks(runs: RunPair, subjects: SubjectPair, cells: PairedCells) -> Iterator[ComparedRow]:
    """Compare two models under each attack and certificate that both runs have a result of."""
    for pair in cells.pairs:
        if pair.first.is_done and pair.second.is_done:
            yield _build_row(
                runs,
                subjects,
                (_mark_robust(pair.first), _mark_robust(pair.second)),
                label=pair.second.label,
                metric="certified accuracy" if pair.second.is_certificate else "robust accuracy",
                threat=pair.second.threat,
                cells=(pair,),
                marks=_list_marks(runs, (pair,)),
            )


def compare_worst_cases(runs: RunPair, subjects: SubjectPair, cells: PairedCells) -> Iterator[ComparedRow]:
    """Compare the worst case over the attacks that both runs finished, under each threat model."""
    threats = dict.fromkeys(pair.second.threat for pair in cells.pairs if pair.second.is_in_worst_case)
    for threat in threats:
        done = [
            pair
            for pair in cells.pairs
            if pair.second.threat == threat
            and pair.second.is_in_worst_case
            and pair.first.is_done
            and pair.second.is_done
        ]
        finished = [pair for pair in done if not _is_unfinished(runs, pair)] or done
        if finished:
            yield _compare_worst_case(runs, subjects, cells, threat, finished)


def compare_clean(runs: RunPair, subjects: SubjectPair) -> Iterator[ComparedRow]:
    """Compare clean accuracy over all images that an attack or a certificate was run on."""
    first = _mark_clean(runs.first.measured, subjects.first)
    second = _mark_clean(runs.second.measured, subjects.second)
    if first and second:
        yield _build_row(
            runs, subjects, (first, second), label="no attack", metric="clean accuracy", threat=None
        )


def compare_classes(runs: RunPair, row: ComparedRow) -> Iterator[ComparedRow]:
    """Compare the classes of a row that have an image in both runs; none if there is one class only."""
    labels = [_collect_labels(cells) for cells in _split_pairs(row.cells)]
    classes = sorted(set(labels[0].values()) & set(labels[1].values()))
    if len(classes) < 2:
        return
    for label in classes:
        parts = [
            {image: mark for image, mark in images.items() if known.get(image) == label}
            for images, known in zip((row.first_images, row.second_images), labels, strict=True)
        ]
        name = runs.second.evidence.get_class_name(row.subjects.second.model, label)
        class_row = _build_row(
            runs,
            row.subjects,
            (parts[0], parts[1]),
            label=name,
            metric=row.metric,
            threat=row.threat,
            cells=row.cells,
        )
        if class_row.change.is_known:
            yield class_row


def _build_row(
    runs: RunPair, subjects: SubjectPair, images: tuple[Marks, Marks], **fields: Any
) -> ComparedRow:
    """Compare the marks of both runs, and put the row together."""
    groups = runs.first.evidence.groups or runs.second.evidence.groups
    return ComparedRow(
        subjects=subjects,
        change=compare_marks(*images, groups, is_paired=runs.is_paired),
        first_images=images[0],
        second_images=images[1],
        **fields,
    )


def _compare_worst_case(
    runs: RunPair,
    subjects: SubjectPair,
    cells: PairedCells,
    threat: Threat,
    pairs: Sequence[CellPair],
) -> ComparedRow:
    firsts, seconds = _split_pairs(pairs)
    every = _split_pairs(cells.pairs)
    first = compute_worst_case(firsts, other_cells=every[0])
    second = compute_worst_case(seconds, other_cells=every[1])
    return _build_row(
        runs,
        subjects,
        (
            {image: verdict.robust for image, verdict in first.verdicts.items()},
            {image: verdict.robust for image, verdict in second.verdicts.items()},
        ),
        label=join_in_sentence([pair.second.label for pair in pairs]),
        metric="robust accuracy",
        threat=threat,
        cells=tuple(pairs),
        marks=(*_list_marks(runs, pairs), *_list_missing(runs, cells, threat, pairs)),
    )


def _list_missing(
    runs: RunPair, cells: PairedCells, threat: Threat, pairs: Sequence[CellPair]
) -> Iterator[str]:
    """List the attacks under a threat model that only one run finished, so that they do not count."""
    counted = {cell.record.key for pair in pairs for cell in (pair.first, pair.second)}
    for run, alone, paired in (
        (runs.first, cells.only_first, [pair.first for pair in cells.pairs]),
        (runs.second, cells.only_second, [pair.second for pair in cells.pairs]),
    ):
        finished = {cell.record.key for cell in run.evidence.cells if cell.is_done}
        left_out = [
            cell.label
            for cell in (*alone, *paired)
            if cell.is_in_worst_case and cell.threat == threat and cell.record.key in finished - counted
        ]
        if left_out:
            yield f"without {join_in_sentence(left_out)}, finished in {run.name} only"


def _list_marks(runs: RunPair, pairs: Sequence[CellPair]) -> tuple[str, ...]:
    """List why a row of these cells may differ for another reason than the model."""
    firsts, seconds = _split_pairs(pairs)
    keys = {cell.record.key for cell in (*firsts, *seconds)}
    kinds = [
        _MARK_WORDS[difference.kind]
        for difference in runs.differences
        if difference.kind in _MARK_WORDS and difference.cells & keys
    ]
    trust = [
        f"{mark} in {run.name}"
        for run, cells in ((runs.first, firsts), (runs.second, seconds))
        if (mark := format_mark(_collect_distrust(run.evidence, cells)))
    ]
    return tuple(dict.fromkeys([*kinds, *trust]))


def _collect_distrust(evidence: Evidence, cells: Sequence[CellResult]) -> list[DiagnosticResult]:
    return [result for cell in cells for result in select_cell_distrust(evidence, cell)]


def _is_unfinished(runs: RunPair, pair: CellPair) -> bool:
    keys = {pair.first.record.key, pair.second.record.key}
    return any(difference.kind == "unfinished" and difference.cells & keys for difference in runs.differences)


def _mark_robust(cell: CellResult) -> dict[str, bool]:
    """Mark the images that are robust, or certified at the radius of the ball."""
    if cell.is_certificate:
        return {image: cell.certified_radii.get(image, -1.0) >= cell.record.eps for image in cell.verdicts}
    return {image: verdict.robust for image, verdict in cell.verdicts.items()}


def _mark_clean(evidence: Evidence, subject: EvaluatedModel) -> dict[str, bool]:
    """Mark the images that a model classifies correctly without attack; as in the report's clean accuracy."""
    done = [cell for cell in evidence.cells if cell.subject == subject and cell.is_done]
    attacks = [cell for cell in done if not (cell.is_certificate or cell.is_sticker)]
    proofs = [cell for cell in done if cell.is_certificate and cell.record.concerns == "model"]
    marks: dict[str, bool] = {}
    for cell in sorted(attacks or proofs, key=lambda cell: -len(cell.verdicts)):
        for image, verdict in cell.verdicts.items():
            marks.setdefault(image, verdict.clean_correct)
    return marks


def _collect_labels(cells: Sequence[CellResult]) -> dict[str, int]:
    """Collect the true class of each image."""
    return {image: prediction.label for cell in cells for image, prediction in cell.predictions.items()}


def _split_pairs(pairs: Sequence[CellPair]) -> tuple[list[CellResult], list[CellResult]]:
    """Return the cells of the first run, and those of the second."""
    return [pair.first for pair in pairs], [pair.second for pair in pairs]
