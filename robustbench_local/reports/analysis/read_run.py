"""Read the evidence of a run from its store."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from statistics import median
from typing import TYPE_CHECKING

from robustbench_local.counted_nouns import choose_form, format_count
from robustbench_local.reports.analysis.cell_result import CellResult, QueryStats, ReportedStatus
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.image_verdict import (
    ImagePrediction,
    ImageVerdict,
    build_twin_verdict,
)
from robustbench_local.reports.analysis.sticker_views import SignResult, read_signs
from robustbench_local.reports.analysis.worst_case import WorstCase, compute_worst_case
from robustbench_local.reports.formatting.text import redact_private_data
from robustbench_local.store import (
    AdaptationRecord,
    CellRecord,
    OutcomeCounts,
    OutcomeRecord,
    RunStore,
    count_outcomes,
)
from robustbench_local.store.adaptations import read_adaptation
from robustbench_local.store.diagnostic_records import DIAGNOSTICS_KEY, DiagnosticsRecord
from robustbench_local.store.image_groups import read_groups
from robustbench_local.store.load_test_file import read_load_tests
from robustbench_local.store.run_labels import LABELS_KEY, RunLabels
from robustbench_local.store.shard_record import read_shard
from robustbench_local.store.stop_record import STOP_KEY, StopRecord

if TYPE_CHECKING:
    from robustbench_local.store.load_test_records import LoadTestRecord

_ENVIRONMENT_KEYS = (
    "robustbench_local",
    "code",
    "python",
    "torch",
    "torchvision",
    "versions",
    "platform",
    "device",
    "threads",
    "workers",
    "started",
    "parts",
)
"""The only facts about the machine that reach a report (F79)."""

_DATA_KEYS: tuple[str, ...] = (
    "name",
    "split",
    "n",
    "image_shape",
    "class_names",
    "label_map",
    "labels_per_class",
)
_DATA_KEYS += ("drawn", "quarantined", "notes", "digest", "groups", "undeclared_groups")
_MODEL_KEYS: tuple[str, ...] = (
    "id",
    "name",
    "defense",
    "source",
    "digest",
    "num_classes",
    "parameters",
    "access",
)
_MODEL_KEYS += ("notes", "provenance", "class_names", "wrapper", "abstain", "preprocessing")
_MODEL_KEYS += ("preprocessing_from", "preprocessing_check", "twin")
"""Facts that an evaluation may have recorded; missing ones become None."""

_META_KEYS = ("grid", "question", "seed", "data", "models", "gates", "severity", "cards", LABELS_KEY)

_NORM_COLUMNS = {"Linf": "linf", "L2": "l2", "L1": "l1", "L0": "l0"}
"""The column of an outcome that holds its distance in a norm."""


def read_evidence(store: RunStore) -> Evidence:
    """Read a run and count its outcomes.

    Args:
        store: The run, finished or not.

    Returns:
        The evidence. Strings are free of home folders and credentials (F79).
    """
    meta = {key: redact_private_data(store.read_meta(key)) for key in _META_KEYS}
    labels = RunLabels.from_metadata(meta[LABELS_KEY])
    groups = read_groups(store)
    shard = read_shard(store)
    records = store.read_cells() if shard is None else map(shard.confine_cell, store.read_cells())
    cells = tuple(_read_cell(store, record, labels, groups) for record in records)
    environment = redact_private_data(store.read_meta("environment") or {})
    diagnostics = redact_private_data(store.read_meta(DIAGNOSTICS_KEY))
    stop = store.read_meta(STOP_KEY)  # its ids have to be those of the outcomes
    return Evidence(
        cells=cells,
        worst_cases=tuple(find_worst_cases(cells)),
        events=tuple(
            replace(event, message=redact_private_data(event.message)) for event in store.read_events()
        ),
        identity=redact_private_data(store.read_identity()),
        question=meta["question"] or None,
        seed=meta["seed"],
        grid=meta["grid"] or {},
        data=dict.fromkeys(_DATA_KEYS) | (meta["data"] or {}),
        models=[dict.fromkeys(_MODEL_KEYS) | about for about in meta["models"] or ()],
        environment={key: environment.get(key) for key in _ENVIRONMENT_KEYS},
        gates=meta["gates"] or [],
        has_begun=bool(cells) or meta["gates"] is not None,
        severity_costs=meta["severity"] or {},
        card_texts=meta["cards"] or {},
        labels=labels,
        has_unchecked_rows=not store.is_fully_checked,
        stop=None if stop is None else StopRecord.from_json(stop),
        shard=shard,
        load_tests=tuple(map(_redact_load_test, read_load_tests(store.directory))),
        diagnostics=DiagnosticsRecord() if diagnostics is None else DiagnosticsRecord.from_json(diagnostics),
    )


def _read_cell(
    store: RunStore, record: CellRecord, labels: RunLabels, groups: Mapping[str, str]
) -> CellResult:
    outcomes = store.read_outcomes(record.key)
    result = build_cell_result(
        _redact_record(record), outcomes, read_signs(store, record, outcomes), labels, groups
    )
    adaptation = read_adaptation(store, record.key)
    return result if adaptation is None else replace(result, adaptation=_redact_adaptation(adaptation))


def build_cell_result(
    record: CellRecord,
    outcomes: Sequence[OutcomeRecord],
    signs: tuple[SignResult, ...] = (),
    labels: RunLabels | None = None,
    groups: Mapping[str, str] | None = None,
) -> CellResult:
    """Count a cell's outcomes and decide on its status; ``groups`` are those of the images, if any."""
    counts = count_outcomes(outcomes)
    standing, problem = _find_status(record, counts)
    done = standing == "done"
    seen = done or standing == "stopped"
    measured = done and record.measure == "distance" and record.knowledge not in {"transfer", "naive"}
    measured &= record.norm in _NORM_COLUMNS
    return CellResult(
        record=record,
        tally=counts,
        verdicts={row.image: _build_verdict(row) for row in outcomes} if seen else {},
        reported_status=standing,
        problem=problem,
        labels=labels or RunLabels(),
        query_stats=_compute_query_stats(outcomes),
        radii={row.image: _compute_radius(row, record) for row in outcomes} if measured else {},
        success_8bit={row.image: row.broken_8bit for row in outcomes if row.broken},
        success_norms={row.image: _collect_norms(row) for row in outcomes if row.broken},
        predictions=_collect_predictions(outcomes) if done else {},
        certified_radii={
            row.image: _compute_certified_radius(row, record)
            for row in outcomes
            if _compute_certified_radius(row, record) > 0
        },
        successful_stages={row.image: row.stage for row in outcomes if row.broken and row.stage},
        gradient_images=frozenset(row.image for row in outcomes if seen and row.gradient_steps),
        useless_gradient_images=frozenset(
            row.image for row in outcomes if seen and row.has_missing_gradients
        ),
        draw_counts={
            row.image: (row.successful_draws, row.draws)
            for row in outcomes
            if done and row.draws and row.clean_correct
        },
        fixed_draw_successes={
            row.image: row.broken_fixed_draw for row in outcomes if done and row.broken_fixed_draw is not None
        },
        rejected_images=frozenset(
            row.image
            for row in outcomes
            if done and row.abstained and (row.clean_correct or row.status == "clean-wrong")
        ),
        twin_verdicts={
            row.image: verdict
            for row in outcomes
            if seen and (verdict := build_twin_verdict(row)) is not None
        },
        signs=signs,
        groups=groups or {},
    )


def _collect_predictions(outcomes: Sequence[OutcomeRecord]) -> dict[str, ImagePrediction]:
    """Collect final predictions and labels; a rejected image does as little harm as a correct one."""
    return {
        row.image: ImagePrediction(
            row.label if row.abstained and row.clean_correct else row.adversarial_prediction, row.label
        )
        for row in outcomes
    }


def find_worst_cases(cells: Sequence[CellResult]) -> list[WorstCase]:
    """Compute the worst case per image for each subject and untargeted threat model.

    Transfers, targeted attacks and corruptions are not among its attacks and never make it incomplete.
    Their successes inside the ball count all the same.
    """
    attacks = [cell for cell in cells if cell.is_in_worst_case]
    order = list(dict.fromkeys((cell.subject, cell.threat) for cell in attacks))
    ranked = sorted(attacks, key=lambda cell: order.index((cell.subject, cell.threat)))
    grouped = groupby(ranked, key=lambda cell: (cell.subject, cell.threat))
    return [compute_worst_case(list(group), other_cells=cells) for _, group in grouped]


def _find_status(record: CellRecord, counts: OutcomeCounts) -> tuple[ReportedStatus, str | None]:
    if record.status == "running":
        return "partial", f"stopped after {counts.n} of {format_count(record.images, 'image')}"
    if record.status not in {"done", "stopped"}:
        return "not run" if record.status == "pending" else record.status, record.error
    if counts.rejected and counts.rejected == counts.clean_correct:
        return "void", f"{_format_all(counts.rejected)} violated the threat model"
    if record.status == "stopped" and not counts.errors:
        return "stopped", record.error
    if counts.n != record.images:
        stored = f"{format_count(record.images, 'outcome')} {choose_form(counts.n, 'is', 'are')} stored"
        return "partial", f"only {counts.n} of {stored}"
    return "done", None


def _format_all(candidates: int) -> str:
    return "its only candidate" if candidates == 1 else f"all {format_count(candidates, 'candidate')}"


def _build_verdict(row: OutcomeRecord) -> ImageVerdict:
    robust = row.clean_correct and not row.broken and row.status != "error" and row.certified is not False
    return ImageVerdict(clean_correct=row.clean_correct, broken=row.broken, robust=robust)


def _compute_radius(row: OutcomeRecord, record: CellRecord) -> float:
    """Compute the distance of the adversarial example, at most eps: the harness tolerates rounding."""
    if not row.broken:
        return math.inf if _build_verdict(row).robust else 0.0
    size = getattr(row, _NORM_COLUMNS[record.norm])
    return min(size, record.eps) if math.isfinite(size) else 0.0


def _collect_norms(row: OutcomeRecord) -> dict[str, float]:
    """Collect the distance of the adversarial image from the original in each norm."""
    return {norm: getattr(row, column) for norm, column in _NORM_COLUMNS.items()}


def _compute_certified_radius(row: OutcomeRecord, record: CellRecord) -> float:
    """Compute the certified radius of the image; 0 without a certificate."""
    if not row.clean_correct or row.certified is None:
        return 0.0
    return max(row.radius or 0.0, record.eps if row.certified else 0.0)


def _compute_query_stats(outcomes: Sequence[OutcomeRecord]) -> QueryStats:
    attacked = [row for row in outcomes if row.clean_correct]
    passes = [row.forward_passes for row in attacked]
    broken = [row.forward_passes for row in attacked if row.broken]
    return QueryStats(
        median=median(passes) if passes else None,
        largest=max(passes, default=None),
        median_broken=median(broken) if broken else None,
        largest_broken=max(broken, default=None),
    )


def _redact_load_test(record: LoadTestRecord) -> LoadTestRecord:
    return type(record).model_validate(redact_private_data(record.model_dump()))


def _redact_adaptation(adaptation: AdaptationRecord) -> AdaptationRecord:
    description, problem = redact_private_data((adaptation.description, adaptation.problem))
    return replace(adaptation, description=description, problem=problem)


def _redact_record(record: CellRecord) -> CellRecord:
    note, error, parameters = redact_private_data((record.note, record.error, record.parameters))
    shown = ("model", "defense", "attack", "card", "surrogate", "twin")
    names = {key: redact_private_data(getattr(record, key)) for key in shown}
    surface = record.surface and replace(record.surface, what=redact_private_data(record.surface.what))
    return replace(record, note=note, error=error, parameters=parameters, surface=surface, **names)
