"""The comparison of runs with a baseline: everything that all its forms show."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from robustbench_local.errors import ConfigError
from robustbench_local.reports.analysis.changed_images import ChangedImage, list_changed_images
from robustbench_local.reports.analysis.compared_cost import CostChange, compute_cost_change
from robustbench_local.reports.analysis.compared_rows import (
    ComparedRow,
    RunPair,
    compare_attacks,
    compare_classes,
    compare_clean,
    compare_worst_cases,
)
from robustbench_local.reports.analysis.compared_run import ComparedRun
from robustbench_local.reports.analysis.gate_changes import GateChange, find_gate_changes
from robustbench_local.reports.analysis.run_differences import (
    RunDifference,
    find_run_differences,
    has_same_images,
)
from robustbench_local.reports.analysis.run_pairs import SubjectPair, pair_cells, pair_subjects
from robustbench_local.reports.analysis.share_change import adjust_changes

TableName = Literal["worst_cases", "attacks", "clean", "classes"]
"""The tables of a comparison; the p-values of one table are adjusted for all of its rows."""
_MAIN_TABLES: tuple[TableName, ...] = ("worst_cases", "attacks", "clean")
"""Tables that a main row comes from, the preferred one first."""


@dataclass(frozen=True, kw_only=True)
class ModelChange:
    """Two models that are compared, with the images that changed sides."""

    subjects: SubjectPair
    """The models."""
    main_row: ComparedRow | None
    """The row that answers whether the second is worse: the worst case of the headline's threat model if
    there is one; None if nothing can be compared."""
    changed_images: tuple[ChangedImage, ...]
    """The images behind the change of the main row; empty if the runs have other images."""


@dataclass(frozen=True, kw_only=True)
class RunComparison:
    """One run compared with the baseline."""

    baseline: ComparedRun
    """The first run."""
    candidate: ComparedRun
    """The run that is compared with it."""
    is_paired: bool
    """Whether both are about the same images."""
    differences: tuple[RunDifference, ...]
    """What else differs."""
    pairs: tuple[SubjectPair, ...]
    """The models that belong together, in the order of the candidate."""
    tables: Mapping[TableName, tuple[ComparedRow, ...]]
    """The compared shares: of each model in the worst case over the attacks that both runs finished
    (``worst_cases``), under each attack and certificate (``attacks``), without attack (``clean``), and by
    class for its main row (``classes``)."""
    models: tuple[ModelChange, ...]
    """Each model's main row and changed images."""
    gates: tuple[GateChange, ...]
    """Gates, the changed ones first."""
    costs: tuple[CostChange, ...]
    """Cost of each model."""

    @property
    def unmatched_models(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """Names of the runs that have models without a counterpart, with these models."""
        paired = {*(pair.first for pair in self.pairs)}, {*(pair.second for pair in self.pairs)}
        models = [
            (run.name, tuple(str(subject) for subject in run.evidence.subjects if subject not in known))
            for run, known in zip((self.baseline, self.candidate), paired, strict=True)
        ]
        return tuple(entry for entry in models if entry[1])

    @property
    def has_same_weights(self) -> bool:
        """Whether every compared model has the weights and settings that it had in the baseline."""
        digests = [
            (
                _find_digest(self.baseline, pair.first.model, pair.first.defense),
                _find_digest(self.candidate, pair.second.model, pair.second.defense),
            )
            for pair in self.pairs
        ]
        return all(first is not None and first == second for first, second in digests)


def build_comparisons(
    runs: Sequence[ComparedRun],
    renamed: Mapping[str, str] | None = None,
    *,
    allow_different_data: bool = False,
) -> tuple[RunComparison, ...]:
    """Compare runs with the first of them; p-values of a table are adjusted for all of its rows.

    Args:
        runs: Two or more runs, the baseline first.
        renamed: Model of the baseline -> model of the others, as in ``pair_subjects``.
        allow_different_data: Whether runs on other images are compared too, without pairs of images.

    Raises:
        ConfigError: If the runs have no model in common, or other data without ``allow_different_data``.
    """
    comparisons = [
        _compare_pair(runs[0], run, renamed, allow_different_data=allow_different_data) for run in runs[1:]
    ]
    return _adjust_tables(comparisons)


def _compare_pair(
    baseline: ComparedRun,
    candidate: ComparedRun,
    renamed: Mapping[str, str] | None,
    *,
    allow_different_data: bool,
) -> RunComparison:
    pairs = pair_subjects(baseline.evidence, candidate.evidence, renamed)
    differences = find_run_differences(baseline.evidence, candidate.evidence, pairs)
    is_paired = has_same_images(differences)
    if not (is_paired or allow_different_data):
        data = next(difference for difference in differences if difference.kind == "data")
        raise ConfigError(
            f"the runs have other images ({data.describe_values(baseline.name, candidate.name)})",
            remedy="run both on the same data with the same limit and seed, or compare without pairs of "
            "images: --allow-different-data",
        )
    runs = RunPair(first=baseline, second=candidate, is_paired=is_paired, differences=differences)
    tables: dict[TableName, list[ComparedRow]] = {
        "worst_cases": [],
        "attacks": [],
        "clean": [],
        "classes": [],
    }
    costs = []
    for subjects in pairs:
        cells = pair_cells(baseline.measured, candidate.measured, subjects)
        tables["worst_cases"] += compare_worst_cases(runs, subjects, cells)
        tables["attacks"] += compare_attacks(runs, subjects, cells)
        tables["clean"] += compare_clean(runs, subjects)
        costs.append(compute_cost_change(subjects, cells))
    return RunComparison(
        baseline=baseline,
        candidate=candidate,
        is_paired=is_paired,
        differences=differences,
        pairs=pairs,
        tables={name: tuple(rows) for name, rows in tables.items()},
        models=(),
        gates=find_gate_changes(baseline, candidate, pairs),
        costs=tuple(costs),
    )


def _adjust_tables(comparisons: Sequence[RunComparison]) -> tuple[RunComparison, ...]:
    """Adjust the p-values of each table over all comparisons, and add what rests on them."""
    adjusted = list(comparisons)
    for table in _MAIN_TABLES:
        adjusted = _adjust_rows(adjusted, table)
    with_classes = [_add_classes(_add_models(comparison)) for comparison in adjusted]
    return tuple(_adjust_rows(with_classes, "classes"))


def _adjust_rows(comparisons: Sequence[RunComparison], table: TableName) -> list[RunComparison]:
    """Adjust the p-values of one table over all comparisons."""
    rows = [row for comparison in comparisons for row in comparison.tables[table]]
    changes = iter(adjust_changes([row.change for row in rows]))
    return [
        _replace_table(
            comparison, table, [replace(row, change=next(changes)) for row in comparison.tables[table]]
        )
        for comparison in comparisons
    ]


def _replace_table(comparison: RunComparison, table: TableName, rows: Sequence[ComparedRow]) -> RunComparison:
    return replace(comparison, tables={**comparison.tables, table: tuple(rows)})


def _add_models(comparison: RunComparison) -> RunComparison:
    models = []
    for subjects in comparison.pairs:
        row = _select_main_row(comparison, subjects)
        images: Iterable[ChangedImage] = ()
        if row is not None and row.cells:
            images = list_changed_images(comparison.baseline, comparison.candidate, row)
        models.append(ModelChange(subjects=subjects, main_row=row, changed_images=tuple(images)))
    return replace(comparison, models=tuple(models))


def _add_classes(comparison: RunComparison) -> RunComparison:
    runs = RunPair(
        first=comparison.baseline,
        second=comparison.candidate,
        is_paired=comparison.is_paired,
        differences=comparison.differences,
    )
    rows = [
        row for model in comparison.models if model.main_row for row in compare_classes(runs, model.main_row)
    ]
    return _replace_table(comparison, "classes", rows)


def _select_main_row(comparison: RunComparison, subjects: SubjectPair) -> ComparedRow | None:
    """Select the row of the headline's threat model, or the first row that there is."""
    headlines = (comparison.candidate.evidence.headline_threat, comparison.baseline.evidence.headline_threat)
    own = [
        [row for row in comparison.tables[table] if row.subjects == subjects and row.change.is_known]
        for table in _MAIN_TABLES
    ]
    preferred = [row for threat in headlines for row in own[0] if row.threat == threat]
    return next(iter([*preferred, *(row for rows in own for row in rows)]), None)


def _find_digest(run: ComparedRun, model: str, defense: str) -> str | None:
    digests = (
        cell.record.identity.get("model")
        for cell in run.evidence.cells
        if (cell.record.model, cell.record.defense) == (model, defense)
    )
    return next(digests, None)
