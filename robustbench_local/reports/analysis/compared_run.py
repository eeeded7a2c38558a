"""A run as one side of a comparison: its name, its evidence and its gates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from robustbench_local.reports.analysis.build_cell import RESULT_COLUMNS, build_cell_result
from robustbench_local.reports.analysis.cell_result import CellResult
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.gates import GateReport, judge_evidence
from robustbench_local.reports.analysis.read_run import read_evidence
from robustbench_local.reports.formatting.text import redact_private_data
from robustbench_local.store import RunStore
from robustbench_local.store.image_groups import read_groups

MAX_NAME_CHARACTERS = 60
"""Longest name of a run in sentences and tables."""


@dataclass(frozen=True, kw_only=True)
class ComparedRun:
    """One of the compared runs."""

    name: str
    """Name in tables and sentences, different from those of the other runs."""
    evidence: Evidence
    """The run as it was read."""
    measured: Evidence
    """The same, where the images of unfinished cells that have a verdict count as if they were all."""
    gate_report: GateReport
    """Verdicts of the run's own gates."""


def read_compared_run(store: RunStore, name: str) -> ComparedRun:
    """Read a run, finished or not.

    Args:
        store: The open run.
        name: Its name among the compared runs.
    """
    evidence = replace(read_evidence(store), damaged_images=store.find_damaged_arrays())
    groups = read_groups(store)
    cells = tuple(_count_partial_cell(store, cell, groups) for cell in evidence.cells)
    return ComparedRun(
        name=name,
        evidence=evidence,
        measured=replace(evidence, cells=cells),
        gate_report=judge_evidence(evidence),
    )


def name_runs(directories: Sequence[Path]) -> list[str]:
    """Name runs by the shortest ends of their paths that tell them apart.

    Args:
        directories: The run directories; equal ones get a number, and long names lose their middle.
    """
    paths = [directory.resolve() for directory in directories]
    names = [
        next(
            (
                candidate
                for depth in range(1, len(path.parts))
                if _is_unique(candidate := "/".join(path.parts[-depth:]), depth, paths)
            ),
            str(path),
        )
        for path in paths
    ]
    names = [_shorten_name(redact_private_data(name)) for name in names]
    repeats = [names[:index].count(name) for index, name in enumerate(names)]
    return [f"{name} ({count + 1})" if count else name for name, count in zip(names, repeats, strict=True)]


def _shorten_name(name: str) -> str:
    half = MAX_NAME_CHARACTERS // 2
    return name if len(name) <= MAX_NAME_CHARACTERS else f"{name[: half - 3]}...{name[-half:]}"


def _is_unique(name: str, depth: int, paths: Sequence[Path]) -> bool:
    return len({path for path in paths if "/".join(path.parts[-depth:]) == name}) == 1


def _count_partial_cell(store: RunStore, cell: CellResult, groups: dict[str, str]) -> CellResult:
    """Return an unfinished or stopped cell with the verdicts of the images that it was run on."""
    if cell.reported_status not in {"partial", "stopped"} or not cell.tally.n or cell.is_sticker:
        return cell
    record = replace(cell.record, status="done", images=cell.tally.n)
    columns = store.read_outcome_columns(cell.record.key, RESULT_COLUMNS)
    return build_cell_result(record, columns, labels=cell.labels, groups=groups)
