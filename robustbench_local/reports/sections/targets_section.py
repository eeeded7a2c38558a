"""Targeted attacks: final predictions, and attacks on single targets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, NamedTuple

from robustbench_local.reports.analysis.confusion_by_target import (
    PIXEL_ATTACK_LIMITS,
    TargetMatrix,
    TargetRow,
    build_target_matrices,
)
from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.per_target import (
    GOALS_EXPLANATION,
    GoalEntry,
    GoalTable,
    build_goal_tables,
)
from robustbench_local.reports.formatting.markdown_tables import escape_markdown, render_table
from robustbench_local.reports.formatting.text import (
    MISSING_TEXT,
    format_estimate,
)
from robustbench_local.reports.sections.parts import (
    encode_entry,
    encode_severity,
    format_entry,
    format_marked_model,
    format_severity,
)
from robustbench_local.reports.sections.section import JsonDict, Section
from robustbench_local.store import RunStore

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class TargetedAttacks(NamedTuple):
    """Results of the targeted attacks of a run."""

    matrices: tuple[TargetMatrix, ...]
    """Final predictions of each attack."""
    goal_tables: tuple[GoalTable, ...]
    """Attacks that were also run on each of their targets alone."""


class TargetsSection(Section[TargetedAttacks]):
    """Targeted attacks; results.json has the matrices among the cells."""

    anchor = "targets"
    title = "Targeted attacks: final predictions"
    link_text = "Targeted attacks"
    template = "targets.html.j2"
    has_marked_names = True
    explanation = GOALS_EXPLANATION
    pixel_attack_limits = PIXEL_ATTACK_LIMITS

    def build_content(self, evidence: Evidence, store: RunStore) -> TargetedAttacks:
        """Count the final predictions from the stored outcomes."""
        return TargetedAttacks(tuple(build_target_matrices(store, evidence)), build_goal_tables(evidence))

    def is_shown(self, content: TargetedAttacks) -> bool:
        """Return whether the run has a targeted attack."""
        return bool(content.matrices)

    def to_markdown(self, content: TargetedAttacks, evidence: Evidence) -> Iterable[str]:
        """Render a table per attack, and one per attack that was also run on single targets."""
        yield from ("## Targeted attacks", "", f"**{self.pixel_attack_limits}**", "")
        for matrix in content.matrices:
            yield from _render_target_matrix(evidence, matrix)
        for table in content.goal_tables:
            yield from _render_goals(evidence, table)

    def to_json(self, evidence: Evidence) -> JsonDict:
        """Encode ``goals``: the attacks that were also run on each of their targets alone."""
        return {"goals": [_encode_goal_table(table) for table in build_goal_tables(evidence)]}

    def draw_figures(
        self, content: TargetedAttacks, names: Mapping[EvaluatedModel, str]
    ) -> Iterator[tuple[str, Figure]]:
        """Draw one figure per matrix and per table."""
        from robustbench_local.reports.figures.share_tables import draw_goals
        from robustbench_local.reports.figures.target_matrix import draw_target_matrix

        for number, matrix in enumerate(content.matrices, start=1):
            yield f"targets-{number}.png", draw_target_matrix(matrix, names)
        for number, table in enumerate(content.goal_tables, start=1):
            yield f"each-target-{number}.png", draw_goals(table, names)


TARGETS = TargetsSection()


def _render_target_matrix(evidence: Evidence, matrix: TargetMatrix) -> list[str]:
    unreadable = ["no finite answer"] if matrix.has_nonfinite else []
    more = [f"{matrix.other_target_count} other targets"] if matrix.other_target_count else []
    head = [
        "model",
        "source",
        *map(escape_markdown, matrix.target_names),
        *more,
        *unreadable,
        "another class",
        "robust",
        "attack success",
    ]
    rows = [
        _format_target_row(
            format_marked_model(evidence, row.subject, matrix.threat),
            row,
            bool(more),
            bool(unreadable),
            len(head),
        )
        for row in matrix.rows
    ]
    if matrix.severity_rule:
        head.append("severity")
        harms = (format_severity(evidence, row.severity, row.subject.model) for row in matrix.rows)
        rows = [[*row, harm] for row, harm in zip(rows, harms, strict=True)]
    under = escape_markdown(str(matrix.threat))
    text = f"Under {under}, among the correctly classified images: final predictions."
    rule = [f"Severity, 0 to 1: {escape_markdown(matrix.severity_rule)}.", ""] if matrix.severity_rule else []
    comparisons = [part for sentence in matrix.comparisons for part in (escape_markdown(sentence), "")]
    return [
        f"### {escape_markdown(matrix.label)}",
        "",
        text,
        "",
        *render_table(head, rows),
        "",
        *rule,
        *comparisons,
    ]


def _format_target_row(name: str, row: TargetRow, more: bool, unreadable: bool, width: int) -> list[str]:
    names = [name, escape_markdown(row.source_name)]
    if row.problem:
        return [*names, escape_markdown(row.problem), *[""] * (width - 3)]
    counts = [
        *row.target_counts,
        *([row.other_target_count] if more else []),
        *([row.nonfinite_count] if unreadable else []),
    ]
    return [
        *names,
        *map(str, [*counts, row.other_class_count, row.robust_count]),
        format_estimate(row.attack_success),
    ]


def _render_goals(evidence: Evidence, goals: GoalTable) -> list[str]:
    head = [
        "target",
        *(["severity"] if goals.severity_rule else []),
        *(escape_markdown(str(subject)) for subject in goals.subjects),
    ]
    rows = []
    for row in goals.rows:
        cost = (
            [MISSING_TEXT if row.severity is None else f"{row.severity:.2f}"] if goals.severity_rule else []
        )
        rows.append(
            [escape_markdown(row.goal_name), *cost, *(_format_goal_entry(entry) for entry in row.entries)]
        )
    if goals.severity_rule:
        pairs = zip(goals.worst_case_severities, goals.subjects, strict=True)
        harms = (format_severity(evidence, harm, subject.model) for harm, subject in pairs)
        rows.append(["severity under the worst attack", "", *harms])
    comparisons = [part for sentence in goals.comparisons for part in (escape_markdown(sentence), "")]
    title = (
        f"### {escape_markdown(goals.label)}: {escape_markdown(goals.source_names)} misclassified as each "
        f"target"
    )
    return [title, "", GOALS_EXPLANATION, "", *render_table(head, rows), "", *comparisons]


def _format_goal_entry(entry: GoalEntry) -> str:
    if not entry.estimate.is_known:
        return format_entry(entry)
    wrong = f"{entry.success_count} reached the goal, {entry.other_class_count} another wrong class"
    return f"{format_entry(entry)}; {wrong}, {entry.robust_count} robust"


def _encode_goal_table(table: GoalTable) -> JsonDict:
    return {
        "attack": table.attack,
        "threat": table.threat.name,
        "sources": table.source_names,
        "models": [asdict(subject) for subject in table.subjects],
        "goals": [row.goal_name for row in table.rows],
        "severities": [row.severity for row in table.rows],
        "attack_success": [[encode_entry(entry) for entry in row.entries] for row in table.rows],
        "other_class": [[entry.other_class_count for entry in row.entries] for row in table.rows],
        "robust": [[entry.robust_count for entry in row.entries] for row in table.rows],
        "worst_case_severity": [
            None if harm is None else encode_severity(harm) for harm in table.worst_case_severities
        ],
        "comparisons": list(table.comparisons),
    }
