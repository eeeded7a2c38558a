"""The verdicts on signs with stickers, decided again from the predictions of their views, without a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from robustbench_local.counted_nouns import format_count
from robustbench_local.evaluation.harness.sticker_job import SIGN_SUCCESS_SHARE
from robustbench_local.evidence_bundle.cell_threat import name_example, parse_threat
from robustbench_local.evidence_bundle.check_results import BundleError, CheckResult, build_check
from robustbench_local.evidence_bundle.run_records import read_cells, read_outcomes, read_view_predictions
from robustbench_local.store import CellRecord, OutcomeRecord
from robustbench_local.store.records import MIN_CLEAN_SHARE, ViewPredictionsRecord
from robustbench_local.threats.threat_model import ThreatModel

_Predictions = Mapping[str, ViewPredictionsRecord]


def check_signs(folder: Path) -> CheckResult | None:
    """Check that the verdict on each sign follows from what was predicted in its views.

    Args:
        folder: The folder of the bundle's files.

    Returns:
        The check; None for a run without signs.
    """
    name = "verdicts of signs"
    failures: list[str] = []
    count = 0
    try:
        for cell in read_cells(folder):
            if cell.measure != "views":
                continue
            threat, predictions = parse_threat(cell), _index_predictions(folder, cell)
            for row in read_outcomes(folder, cell):
                count += 1
                failures += _find_problems(cell, threat, row, predictions.get(row.position, {}))
    except BundleError as error:
        return CheckResult(name=name, status="failed", sentence=str(error))
    if not count:
        return None
    return build_check(
        name,
        failures=failures,
        good=f"{format_count(count, 'sign')}, each as the predictions of its views say",
        bad=f"{len(failures)} of {format_count(count, 'sign')} with another verdict than its views give",
    )


def _index_predictions(folder: Path, cell: CellRecord) -> dict[int, dict[str, ViewPredictionsRecord]]:
    """Index the predictions of the test views by position and condition."""
    found: dict[int, dict[str, ViewPredictionsRecord]] = {}
    for record in read_view_predictions(folder, cell):
        if record.kind == "view":
            found.setdefault(record.position, {})[record.condition] = record
    return found


def _find_problems(
    cell: CellRecord, threat: ThreatModel, row: OutcomeRecord, predictions: _Predictions
) -> Iterator[str]:
    if "clean" not in predictions or "sticker" not in predictions:
        if row.broken or (row.clean_correct and row.status != "error"):
            yield f"{name_example(cell, row)}: a verdict is stated, without any view"
        return
    clean, worn = (predictions[name].predictions for name in ("clean", "sticker"))
    if len(clean) != len(worn):
        yield f"{name_example(cell, row)}: {len(clean)} clean views, and {len(worn)} with the sticker"
        return
    read = [after for before, after in zip(clean, worn, strict=True) if before == row.label]
    is_void = not read or len(read) / len(clean) < MIN_CLEAN_SHARE
    finite = torch.tensor([value for value in read if value is not None], dtype=torch.int64)
    hits = int(threat.is_success(finite, torch.full_like(finite, row.label)).sum())
    is_broken = not is_void and hits > SIGN_SUCCESS_SHARE * len(read)
    if (row.clean_correct, row.broken) != (not is_void, is_broken):
        stated, follows = (
            _describe_sign(not row.clean_correct, row.broken),
            _describe_sign(is_void, is_broken),
        )
        yield f"{name_example(cell, row)}: {stated} is stated, {follows} follows from {len(clean)} views"


def _describe_sign(is_void: bool, is_broken: bool) -> str:
    if is_void:
        return "no verdict"
    return "a successful attack" if is_broken else "no success"
