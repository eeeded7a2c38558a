"""Read the evidence of a run from its store."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING

from robustbench_local.reports.analysis.build_cell import RESULT_COLUMNS, build_cell_result
from robustbench_local.reports.analysis.cell_result import CellResult
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.sticker_views import read_signs
from robustbench_local.reports.analysis.worst_case import WorstCase, compute_worst_case
from robustbench_local.reports.formatting.text import redact_private_data
from robustbench_local.store import AdaptationRecord, CellRecord, RunStore
from robustbench_local.store.adaptations import read_adaptation
from robustbench_local.store.diagnostic_records import DIAGNOSTICS_KEY, DiagnosticsRecord
from robustbench_local.store.image_groups import read_groups
from robustbench_local.store.load_test_file import read_load_tests
from robustbench_local.store.outcome_columns import OutcomeColumns
from robustbench_local.store.record_rows import OUTCOME_COLUMNS
from robustbench_local.store.run_costs import (
    COST_KEYS,
    COSTS_KEY,
    REASONS_KEY,
    REDUCED_KEY,
    SIZES_KEY,
    read_batch_sizes,
    read_call_costs,
)
from robustbench_local.store.run_labels import LABELS_KEY, RunLabels
from robustbench_local.store.shard_record import read_shard
from robustbench_local.store.stop_record import STOP_KEY, StopRecord

if TYPE_CHECKING:
    from robustbench_local.store.load_test_records import LoadTestRecord

ENVIRONMENT_KEYS = (
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

META_KEYS: tuple[str, ...] = ("grid", "question", "seed", "data", "models", "gates", "severity", "cards")
META_KEYS += (LABELS_KEY, *COST_KEYS)


CellObserver = Callable[[Evidence, CellResult, OutcomeColumns], None]
"""What is done with a cell when it is read: it gets the evidence without cells, the cell, and all columns of
its outcomes."""


def read_evidence(store: RunStore, observe_cell: CellObserver | None = None) -> Evidence:
    """Read a run and count its outcomes.

    Args:
        store: The run, finished or not.
        observe_cell: Called with each cell, in the order of the grid; who needs all outcomes too need not
            read them again.

    Returns:
        The evidence. Strings are free of home folders and credentials (F79).
    """
    facts = _read_facts(store)
    records = store.read_cells() if facts.shard is None else map(facts.shard.confine_cell, store.read_cells())
    groups, cells = read_groups(store), list[CellResult]()
    names = RESULT_COLUMNS if observe_cell is None else OUTCOME_COLUMNS
    for record in records:
        columns = store.read_outcome_columns(record.key, names)
        cells.append(_build_cell(store, record, columns, facts.labels, groups))
        if observe_cell is not None:
            observe_cell(facts, cells[-1], columns)
    return replace(
        facts,
        cells=tuple(cells),
        worst_cases=tuple(find_worst_cases(cells)),
        has_begun=bool(cells) or facts.has_begun,
    )


def _read_facts(store: RunStore) -> Evidence:
    """Read everything but the cells."""
    meta = {key: redact_private_data(store.read_meta(key)) for key in META_KEYS}
    environment = redact_private_data(store.read_meta("environment") or {})
    diagnostics = redact_private_data(store.read_meta(DIAGNOSTICS_KEY))
    stop = store.read_meta(STOP_KEY)  # its ids have to be those of the outcomes
    return Evidence(
        cells=(),
        worst_cases=(),
        events=tuple(
            replace(event, message=redact_private_data(event.message)) for event in store.read_events()
        ),
        identity=redact_private_data(store.read_identity()),
        question=meta["question"] or None,
        seed=meta["seed"],
        grid=meta["grid"] or {},
        data=dict.fromkeys(_DATA_KEYS) | (meta["data"] or {}),
        models=[dict.fromkeys(_MODEL_KEYS) | about for about in meta["models"] or ()],
        environment={key: environment.get(key) for key in ENVIRONMENT_KEYS},
        gates=meta["gates"] or [],
        has_begun=meta["gates"] is not None,
        severity_costs=meta["severity"] or {},
        card_texts=meta["cards"] or {},
        labels=RunLabels.from_metadata(meta[LABELS_KEY]),
        call_costs=read_call_costs(meta[COSTS_KEY]),
        batch_sizes=read_batch_sizes(meta[SIZES_KEY], meta[REASONS_KEY], meta[REDUCED_KEY]),
        has_unchecked_rows=not store.is_fully_checked,
        stop=None if stop is None else StopRecord.from_json(stop),
        shard=read_shard(store),
        load_tests=tuple(map(_redact_load_test, read_load_tests(store.directory))),
        diagnostics=DiagnosticsRecord() if diagnostics is None else DiagnosticsRecord.from_json(diagnostics),
    )


def _build_cell(
    store: RunStore,
    record: CellRecord,
    columns: OutcomeColumns,
    labels: RunLabels,
    groups: Mapping[str, str],
) -> CellResult:
    result = build_cell_result(_redact_record(record), columns, read_signs(store, record), labels, groups)
    adaptation = read_adaptation(store, record.key)
    return result if adaptation is None else replace(result, adaptation=_redact_adaptation(adaptation))


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
