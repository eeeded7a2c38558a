"""results.csv and outcomes.csv, safe to open in a spreadsheet."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from typing import Any

import pandas as pd

from robustbench_local.reports.analysis.distances import measures_distance, reach
from robustbench_local.reports.analysis.evidence import CellResult, Evidence
from robustbench_local.reports.analysis.read_run import read_evidence
from robustbench_local.reports.formatting.text import private
from robustbench_local.statistics import Estimate
from robustbench_local.store import OutcomeRecord, RunStore
from robustbench_local.store.view_rows import LOOK_COLUMNS, look_rows

_STORED = tuple(field.name for field in fields(OutcomeRecord))
OUTCOME_COLUMNS = (
    "model",
    "defense",
    "attack",
    *_STORED,
    "label_name",
    "clean_prediction_name",
    "adversarial_prediction_name",
)
"""The store's columns, between what the cell is and what its classes are called."""

SIGHTING_COLUMNS = (
    "model",
    "defense",
    "attack",
    "image",
    "label",
    "counted",
    *LOOK_COLUMNS,
    "prediction_name",
)
"""What the cell and the sign are, and one look at it."""
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What makes a spreadsheet take a text for a formula, or hides one (F71)."""


def results_csv(evidence: Evidence) -> str:
    """One row a cell; shares that are not known are empty."""
    rows = [_cell_row(cell, evidence) for cell in evidence.cells]
    return _to_csv(rows, columns=rows[0] if rows else ())


def outcomes_csv(store: RunStore, evidence: Evidence) -> str:
    """One row a cell and image; distances and margins that are not finite are empty."""
    return _to_csv(outcome_rows(store, evidence), columns=OUTCOME_COLUMNS)


def sightings_csv(store: RunStore, evidence: Evidence) -> str:
    """One row a look at a stickered or clean sign; empty of rows if no cell is about views."""
    return _to_csv(_sighting_rows(store, evidence), columns=SIGHTING_COLUMNS)


def outcomes_frame(store: RunStore) -> pd.DataFrame:
    """One row a cell and image, with the columns of outcomes.csv and the texts as they are."""
    rows = outcome_rows(store, read_evidence(store))
    return pd.DataFrame.from_records(list(rows), columns=list(OUTCOME_COLUMNS))


def outcome_rows(store: RunStore, evidence: Evidence) -> Iterator[dict[str, Any]]:
    """The rows of outcomes.csv, in the order of the grid and of the images."""
    for cell in evidence.cells:
        model = cell.record.model
        about = {"model": model, "defense": cell.record.defense, "attack": cell.record.attack}
        for outcome in store.outcomes(cell.record.key):
            row = {name: getattr(outcome, name) for name in _STORED}
            row |= {"image": private(outcome.image), "error": private(outcome.error)}
            names = {
                f"{name}_name": evidence.class_name(model, row[name])
                for name in ("label", "clean_prediction", "adversarial_prediction")
            }
            yield about | row | names


def _sighting_rows(store: RunStore, evidence: Evidence) -> Iterator[dict[str, Any]]:
    for cell in evidence.cells:
        model = cell.record.model
        about = {"model": model, "defense": cell.record.defense, "attack": cell.record.attack}
        signs = {sign.position: sign for sign in cell.signs}
        for look in look_rows(store.sightings(cell.record.key), store.views(cell.record.key)):
            sign = signs[look["position"]]
            names = {"image": sign.image, "label": sign.label, "counted": sign.counted}
            names["prediction_name"] = evidence.class_name(model, look["prediction"])
            yield about | look | names


def _cell_row(cell: CellResult, evidence: Evidence) -> dict[str, Any]:
    record, counts = cell.record, cell.tally
    return {
        "model": record.model,
        "defense": record.defense,
        "attack": record.attack,
        "card": record.card,
        "threat": record.threat,
        "norm": record.norm,
        "eps": record.eps,
        "goal": record.goal,
        "targets": "; ".join(evidence.class_name(record.model, target) for target in record.targets),
        "sources": "; ".join(evidence.class_name(record.model, source) for source in record.sources),
        "status": cell.standing,
        "error": cell.problem,
        "images": record.images,
        "excluded": record.excluded,
        "n": counts.n,
        **_share("clean_accuracy", cell.clean_accuracy),
        **_share("robust_accuracy", cell.robust_accuracy),
        **_share("attack_success", cell.attack_success),
        **_share("attack_success_8bit", cell.attack_success_8bit),
        **_share("certified_accuracy", cell.certified_accuracy),
        **_share("sticker_success", cell.sticker_success),
        "clean_correct": counts.clean_correct,
        "broken": counts.broken,
        "moved_elsewhere": counts.moved_elsewhere,
        "fragile": counts.fragile,
        "rejected": counts.rejected,
        "non_finite": counts.non_finite,
        "errors": counts.errors,
        "certified": counts.certified if cell.certificate else None,
        "abstained": counts.abstained if cell.certificate else None,
        "forward_passes": counts.forward_passes,
        "backward_passes": counts.backward_passes,
        "seconds": counts.seconds,
        "note": record.note,
        "key": record.key,
        "knowledge": record.knowledge,
        "surrogate": record.surrogate,
        "measure": record.measure,
        "concerns": record.concerns if cell.certificate else None,
        "alpha": record.alpha if cell.certificate else None,
        **{f"forward_passes_{name}": value for name, value in cell.spending._asdict().items()},
        **_distance(cell),
    }


def _distance(cell: CellResult) -> dict[str, float | int | None]:
    """Quartiles of the distance; infinite ones are empty, and ``unbroken`` says how many images held."""
    names = ("distance_lower", "distance_median", "distance_upper", "unbroken")
    if not (cell.done and measures_distance(cell)):
        return dict.fromkeys(names)
    found = reach(cell)
    spread = found.distances
    return dict(zip(names, (spread.lower, spread.median, spread.upper, found.unbroken), strict=True))


def _share(name: str, estimate: Estimate) -> dict[str, float | None]:
    known = estimate.known
    return {
        name: estimate.value if known else None,
        f"{name}_low": estimate.low if known else None,
        f"{name}_high": estimate.high if known else None,
    }


def _to_csv(rows: Iterable[Mapping[str, Any]], columns: Iterable[str]) -> str:
    names = list(columns)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([_field(row[name]) for name in names] for row in rows)
    return text.getvalue()


def _field(value: Any) -> Any:
    """A value that a spreadsheet shows and never runs; numbers stay numbers, also negative ones."""
    if isinstance(value, str):
        return f"'{value}" if value.startswith(_FORMULA) else value
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
