"""From the store to evidence: which cells count, and each image's worst case."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from statistics import median

from robustbench_local.reports.analysis.evidence import (
    CellResult,
    Evidence,
    Spending,
    Standing,
    Verdict,
)
from robustbench_local.reports.analysis.sticker_views import Sign, read_signs
from robustbench_local.reports.analysis.worst_case import WorstCase, worst_of
from robustbench_local.reports.formatting.text import private
from robustbench_local.store import CellRecord, OutcomeRecord, RunStore, Tally, tally

_ENVIRONMENT = (
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
)
"""The only facts about the machine that reach a report: everything else stays behind (F79)."""

_DATA: tuple[str, ...] = ("name", "split", "n", "image_shape", "class_names", "label_map", "labels_per_class")
_DATA += ("drawn", "quarantined", "notes", "digest")
_MODEL: tuple[str, ...] = ("id", "name", "defense", "source", "digest", "num_classes", "parameters", "access")
_MODEL += ("notes", "provenance", "class_names", "wrapper")
"""What an evaluation may have written down; what it has not is None, so that no reader has to ask twice."""

_META = ("grid", "question", "seed", "data", "models", "gates", "severity", "cards")

_SIZES = {"Linf": "linf", "L2": "l2", "L1": "l1"}
"""The column of an outcome that holds its distance in a norm."""


def read_evidence(store: RunStore) -> Evidence:
    """Read a run and count it.

    Args:
        store: The run, finished or not.

    Returns:
        What it found. Strings are stripped of home folders and credentials (F79).
    """
    cells = tuple(_read_cell(store, record) for record in store.cells())
    meta = {key: private(store.meta(key)) for key in _META}
    environment = private(store.meta("environment") or {})
    return Evidence(
        cells=cells,
        worst_cases=tuple(find_worst_cases(cells)),
        events=tuple(replace(event, message=private(event.message)) for event in store.events()),
        identity=private(store.identity()),
        question=meta["question"] or None,
        seed=meta["seed"],
        grid=meta["grid"] or {},
        data=dict.fromkeys(_DATA) | (meta["data"] or {}),
        models=[dict.fromkeys(_MODEL) | about for about in meta["models"] or ()],
        environment={key: environment.get(key) for key in _ENVIRONMENT},
        gates=meta["gates"] or [],
        begun=bool(cells) or meta["gates"] is not None,
        severity=meta["severity"] or {},
        cards=meta["cards"] or {},
        unchecked=not store.checked_from_the_start,
    )


def _read_cell(store: RunStore, record: CellRecord) -> CellResult:
    outcomes = store.outcomes(record.key)
    return judge_cell(_clean(record), outcomes, read_signs(store, record, outcomes))


def judge_cell(
    record: CellRecord, outcomes: Sequence[OutcomeRecord], signs: tuple[Sign, ...] = ()
) -> CellResult:
    """Count a cell's outcomes and decide whether its numbers may be shown."""
    counts = tally(outcomes)
    standing, problem = _standing(record, counts)
    done = standing == "done"
    measured = done and record.measure == "distance" and record.knowledge not in {"transfer", "naive"}
    measured &= record.norm in _SIZES
    return CellResult(
        record=record,
        tally=counts,
        verdicts={row.image: _verdict(row) for row in outcomes} if done else {},
        standing=standing,
        problem=problem,
        spending=_spending(outcomes),
        radii={row.image: _radius(row, record) for row in outcomes} if measured else {},
        in_8bit={row.image: row.broken_8bit for row in outcomes if row.broken},
        breaks={row.image: _lengths(row) for row in outcomes if row.broken},
        readings=_readings(outcomes) if done else {},
        proven={row.image: _proven(row, record) for row in outcomes if _proven(row, record) > 0},
        stages={row.image: row.stage for row in outcomes if row.broken and row.stage},
        followed=frozenset(row.image for row in outcomes if done and row.gradient_steps),
        gradientless=frozenset(row.image for row in outcomes if done and row.gradients_missing),
        signs=signs,
    )


def _readings(outcomes: Sequence[OutcomeRecord]) -> dict[str, tuple[int | None, int]]:
    return {row.image: (row.adversarial_prediction, row.label) for row in outcomes if row.clean_correct}


def find_worst_cases(cells: Sequence[CellResult]) -> list[WorstCase]:
    """The per-image worst case for each subject and untargeted threat.

    Attacks that were transferred from another model, targeted ones and corruptions are not among its attacks,
    and never make it incomplete; but what they broke inside the ball is broken.
    """
    attacks = [cell for cell in cells if cell.in_worst_case]
    order = list(dict.fromkeys((cell.subject, cell.threat) for cell in attacks))
    ranked = sorted(attacks, key=lambda cell: order.index((cell.subject, cell.threat)))
    grouped = groupby(ranked, key=lambda cell: (cell.subject, cell.threat))
    return [worst_of(list(group), others=cells) for _, group in grouped]


def _standing(record: CellRecord, counts: Tally) -> tuple[Standing, str | None]:
    if record.status == "pending":
        return "not run", record.error
    if record.status == "running":
        return "partial", f"stopped after {counts.n} of {record.images} images"
    if record.status != "done":
        return record.status, record.error
    if counts.n != record.images:
        return "partial", f"only {counts.n} of {record.images} outcomes are stored"
    if counts.rejected and counts.rejected == counts.clean_correct:
        return "void", f"each of the attack's {counts.rejected} candidates broke a rule of the harness"
    return "done", None


def _verdict(row: OutcomeRecord) -> Verdict:
    robust = row.clean_correct and not row.broken and row.status != "error" and row.certified is not False
    return Verdict(clean_correct=row.clean_correct, broken=row.broken, robust=robust)


def _radius(row: OutcomeRecord, record: CellRecord) -> float:
    """Where the image broke, at most eps: the harness allows for rounding just outside the ball."""
    if not row.broken:
        return math.inf if _verdict(row).robust else 0.0
    size = getattr(row, _SIZES[record.norm])
    return min(size, record.eps) if math.isfinite(size) else 0.0


def _lengths(row: OutcomeRecord) -> dict[str, float]:
    """How far the adversarial image is from the original one, in each norm."""
    return {norm: getattr(row, column) for norm, column in _SIZES.items()}


def _proven(row: OutcomeRecord, record: CellRecord) -> float:
    """Within which distance the image is proven to be read rightly; 0 where no proof was sought or found."""
    if not row.clean_correct or row.certified is None:
        return 0.0
    return max(row.radius or 0.0, record.eps if row.certified else 0.0)


def _spending(outcomes: Sequence[OutcomeRecord]) -> Spending:
    attacked = [row for row in outcomes if row.clean_correct]
    every = [row.forward_passes for row in attacked]
    broken = [row.forward_passes for row in attacked if row.broken]
    return Spending(
        median=median(every) if every else None,
        largest=max(every, default=None),
        median_broken=median(broken) if broken else None,
        largest_broken=max(broken, default=None),
    )


def _clean(record: CellRecord) -> CellRecord:
    note, error, parameters = private((record.note, record.error, record.parameters))
    shown = ("model", "defense", "attack", "card", "surrogate")
    names = {key: private(getattr(record, key)) for key in shown}
    surface = record.surface and replace(record.surface, what=private(record.surface.what))
    return replace(record, note=note, error=error, parameters=parameters, surface=surface, **names)
