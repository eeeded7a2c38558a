"""report.md: the answer and the tables, for pull requests and step summaries."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from urllib.parse import quote

from robustbench_local.reports.analysis.certified_accuracy import (
    CERTIFIED_EXPLANATION,
    CertifiedCell,
    CertifiedGroup,
)
from robustbench_local.reports.analysis.certified_vs_empirical import (
    ACCURACY_BOUNDS_EXPLANATION,
    RobustAccuracyBounds,
)
from robustbench_local.reports.analysis.confusion_by_target import (
    PIXEL_ATTACK_LIMITS,
    TargetMatrix,
    TargetRow,
)
from robustbench_local.reports.analysis.corruption_results import CorruptionMap
from robustbench_local.reports.analysis.distances import AttackDistances, DistanceGroup
from robustbench_local.reports.analysis.eight_bit_worst_case import (
    EIGHT_BIT_EXPLANATION,
    EightBitCase,
    find_eight_bit_cases,
)
from robustbench_local.reports.analysis.evidence import CellResult, Threat
from robustbench_local.reports.analysis.heatmap import HeatMap, HeatMapEntry
from robustbench_local.reports.analysis.methods import render_methods
from robustbench_local.reports.analysis.misclassification_severity import SeveritySummary
from robustbench_local.reports.analysis.naive_vs_adaptive import (
    NAIVE_VS_ADAPTIVE_EXPLANATION,
    NaiveVsAdaptive,
)
from robustbench_local.reports.analysis.per_target import GOALS_EXPLANATION, GoalEntry, GoalTable
from robustbench_local.reports.analysis.report_data import ReportData
from robustbench_local.reports.analysis.run_warnings import FindingLevel
from robustbench_local.reports.analysis.transfer_results import TransferMatrix
from robustbench_local.reports.formatting.markdown_tables import escape_markdown, render_table
from robustbench_local.reports.formatting.text import (
    MISSING_TEXT,
    format_budget,
    format_distance,
    format_duration,
    format_estimate,
    format_percent,
)
from robustbench_local.reports.summary import headline as answer
from robustbench_local.reports.writers.sticker_text import format_sign_counts, render_stickers

_LEVEL_TITLES: tuple[tuple[FindingLevel, str], ...] = (
    ("void", "Void"),
    ("incomplete", "Incomplete"),
    ("warning", "Read the numbers with this in mind"),
    ("note", "Remarks"),
)


def render_markdown(content: ReportData, figures: Sequence[str]) -> str:
    """The report as Markdown.

    Args:
        content: What to report.
        figures: Paths of the figures from where the file lies.

    Returns:
        The text. Everything that came from outside is escaped (F71).
    """
    evidence = content.evidence
    lines = [
        f"# {escape_markdown(answer.describe_question(evidence))}",
        "",
        f"**{escape_markdown(answer.describe_answer(evidence))}**",
        "",
    ]
    rounded = answer.describe_eight_bit_answer(evidence)
    lines += [escape_markdown(rounded), ""] if rounded else []
    lines += [
        part for sentence in answer.describe_comparisons(evidence) for part in (escape_markdown(sentence), "")
    ]
    for level, title in _LEVEL_TITLES:
        shown = [finding.text for finding in content.findings if finding.level == level]
        lines += [f"## {title}", "", *(f"- {escape_markdown(text)}" for text in shown), ""] if shown else []
    lines += _render_gates(content)
    lines += _render_heatmap(content.heatmap) if content.heatmap.columns else []
    lines += _render_eight_bit_cases(find_eight_bit_cases(evidence))
    lines += _render_naive_vs_adaptive(content.naive_vs_adaptive) if content.naive_vs_adaptive else []
    lines += _render_certified(content.certified_groups) if content.certified_groups else []
    lines += _render_accuracy_bounds(content.accuracy_bounds) if content.accuracy_bounds else []
    lines += [line for group in content.distance_groups for line in _render_distances(group)]
    lines += _render_attacker_knowledge(content) if content.has_limited_knowledge else []
    lines += [line for matrix in content.transfer_matrices for line in _render_transfer(matrix)]
    lines += _render_corruptions(content.corruption_maps) if content.corruption_maps else []
    lines += ["## Targeted attacks", "", f"**{PIXEL_ATTACK_LIMITS}**", ""] if content.target_matrices else []
    lines += [line for matrix in content.target_matrices for line in _render_target_matrix(content, matrix)]
    lines += [line for table in content.goal_tables for line in _render_goals(content, table)]
    lines += render_stickers(content.sticker_groups) if content.sticker_results else []
    lines += render_methods(evidence, content.method_descriptions)
    lines += ["## Cell by cell", "", *_render_cells(evidence.attack_cells), ""]
    lines += [f"![{escape_markdown(_format_figure_title(path))}]({quote(path)})" for path in figures]
    lines += [
        "",
        " ".join(
            [
                _ACCURACY_EXPLANATION,
                _INTERVALS_NOTE,
                *([_VIEW_INTERVALS_NOTE] if content.sticker_results else []),
            ]
        ),
    ]
    return "\n".join(lines) + "\n"


def _render_gates(content: ReportData) -> list[str]:
    verdicts = content.gate_report.verdicts
    if not verdicts:
        return []
    rows = (
        [
            verdict.ruling,
            escape_markdown(str(verdict.subject or "")),
            escape_markdown(verdict.limit_text),
            escape_markdown(verdict.reason),
        ]
        for verdict in verdicts
    )
    return ["## Gates", "", *render_table(["verdict", "model", "limit", "measured"], rows), ""]


def _render_heatmap(heatmap: HeatMap) -> list[str]:
    head = [
        "model",
        "untouched",
        *(escape_markdown(f"{column.threat}: {column.label}") for column in heatmap.columns),
    ]
    rows = (
        [
            escape_markdown(str(row.subject)),
            format_estimate(row.clean_accuracy),
            *(_format_entry(square) for square in row.entries),
        ]
        for row in heatmap.rows
    )
    text = "Share of all images that are read correctly and stay so, with the 95% Clopper-Pearson interval."
    if heatmap.has_other_images:
        text += (
            ' An attack with a limit met fewer images than the column "untouched" is over: behind its '
            "interval stands how many of those are read correctly untouched."
        )
    return ["## Robust accuracy", "", text, "", *render_table(head, rows), ""]


def _render_eight_bit_cases(cases: Sequence[EightBitCase]) -> list[str]:
    head = ["model", "ball", "robust in 8 bits", "attack success in 8 bits", "in floating point", "left out"]
    rows = [
        [
            escape_markdown(str(one.subject)),
            escape_markdown(str(one.threat)),
            format_estimate(one.robust_accuracy),
            format_estimate(one.attack_success),
            format_percent(one.float_success.value),
            f"{one.undecided_count:,}",
        ]
        for one in cases
        if one.robust_accuracy.is_known
    ]
    return (
        ["## Worst case in 8 bits", "", EIGHT_BIT_EXPLANATION, "", *render_table(head, rows), ""]
        if rows
        else []
    )


def _format_entry(square: HeatMapEntry) -> str:
    if not square.estimate.is_known:
        return square.status_text
    untouched = (
        f"; untouched {format_percent(square.own_clean_accuracy.value)}" if square.own_clean_accuracy else ""
    )
    return f"{format_estimate(square.estimate)}{' (incomplete)' if square.reason else ''}{untouched}"


def _render_naive_vs_adaptive(lessons: Sequence[NaiveVsAdaptive]) -> list[str]:
    head = ["model", "attack", "without the defense", "naive attacker", "adaptive attacker"]
    rows = (
        [
            escape_markdown(str(one.subject)),
            escape_markdown(one.label),
            *(_format_entry(square) for square in (one.undefended, one.naive, one.adaptive)),
        ]
        for one in lessons
    )
    told = [f"- {escape_markdown(one.sentence)}" for one in lessons]
    title = "## What the defenses hide, and what they withstand"
    return [title, "", NAIVE_VS_ADAPTIVE_EXPLANATION, "", *render_table(head, rows), "", *told, ""]


def _render_certified(groups: Sequence[CertifiedGroup]) -> list[str]:
    head = ["model", "certificate", "ball", "certified", "read rightly", "abstained", "passes an image"]
    head += ["about", "holds"]
    rows = (
        [escape_markdown(part) for part in _format_certificate_row(row)]
        for group in groups
        for row in group.rows
    )
    notes = [
        f"- {escape_markdown(note)}"
        for note in dict.fromkeys(note for group in groups for note in group.notes)
    ]
    return ["## Certified", "", CERTIFIED_EXPLANATION, "", *render_table(head, rows), "", *notes, ""]


def _format_certificate_row(row: CertifiedCell) -> list[str]:
    cell = row.cell
    return [
        str(cell.subject),
        cell.label,
        format_budget(cell.record.norm, cell.record.eps),
        format_estimate(cell.certified_accuracy) if cell.is_done else cell.reported_status,
        format_percent(cell.clean_accuracy.value),
        f"{cell.tally.abstained:,}",
        MISSING_TEXT if row.passes_per_image is None else f"{row.passes_per_image:,.0f}",
        row.certified_classifier,
        row.guarantee,
    ]


def _render_accuracy_bounds(brackets: Sequence[RobustAccuracyBounds]) -> list[str]:
    head = ["model", "ball", "proven", "not broken", "neither"]
    rows = (
        [
            escape_markdown(str(one.subject)),
            escape_markdown(str(one.threat)),
            format_estimate(one.certified_accuracy),
            format_estimate(one.empirical_accuracy),
            str(one.undecided_count),
        ]
        for one in brackets
    )
    return ["## Between proof and attack", "", ACCURACY_BOUNDS_EXPLANATION, "", *render_table(head, rows), ""]


def _render_distances(group: DistanceGroup) -> list[str]:
    head = ["model", "attack", "n", "a quarter", "half", "its 95% interval", "three quarters", "held"]
    rows = (_format_distance_row(one, group.threat) for one in group.attack_distances)
    text = (
        "Distance at which a quarter, half and three quarters of the images had broken, over those that are "
        "read correctly untouched. An image that held counts as farther than the largest radius."
    )
    goal = ", targeted" if group.targeted else ""
    found = [*render_table(head, rows), ""] if group.attack_distances else []
    problems = [f"- No distances: {escape_markdown(problem)}" for problem in group.problems]
    return [
        f"## How far: {escape_markdown(str(group.threat))}{goal}",
        "",
        text,
        "",
        *found,
        *problems,
        *([""] if problems else []),
    ]


def _format_distance_row(one: AttackDistances, threat: Threat) -> list[str]:
    far = one.quartiles
    ends = (far.lower, far.median, far.low, far.high, far.upper)
    lower, median, low, high, upper = (
        format_distance(threat.norm, end, max_radius=threat.eps) for end in ends
    )
    names = [escape_markdown(str(one.subject)), escape_markdown(one.label)]
    return [
        *names,
        f"{far.n:,}",
        lower,
        median,
        f"{low} to {high}",
        upper,
        f"{one.unbroken_count:,}",
    ]


def _render_attacker_knowledge(content: ReportData) -> list[str]:
    head = ["model", "attack", "saw", "attack success", "passes where broken: median, most", "in all"]
    rows = (
        [
            escape_markdown(str(cell.subject)),
            escape_markdown(cell.label),
            escape_markdown(cell.attacker_knowledge),
            format_estimate(cell.attack_success) if cell.is_done else cell.reported_status,
            _format_passes(cell.query_stats.median_broken, cell.query_stats.largest_broken),
            _format_passes(cell.query_stats.median, cell.query_stats.largest),
        ]
        for cell in content.adversary_cells
    )
    return ["## What the attackers saw, and what they spent", "", *render_table(head, rows), ""]


def _format_passes(middle: float | None, most: int | None) -> str:
    return MISSING_TEXT if middle is None else f"{middle:,.0f}, {most:,}"


def _render_transfer(matrix: TransferMatrix) -> list[str]:
    head = ["made on", *(f"tried on {escape_markdown(str(target))}" for target in matrix.attacked_models)]
    rows = (
        [escape_markdown(row.label), *(_format_entry(square) for square in row.entries)]
        for row in matrix.rows
    )
    basis = "among images that the attacked model reads correctly untouched"
    text = f"Attack success under {escape_markdown(str(matrix.threat))}, {basis}. No worst case counts it."
    return [f"## Transfer: {escape_markdown(matrix.label)}", "", text, "", *render_table(head, rows), ""]


def _render_corruptions(maps: Sequence[CorruptionMap]) -> list[str]:
    severities = [f"severity {severity}" for severity in maps[0].severities]
    text = "The average case, not an adversary: accuracy over all images, by corruption and severity."
    lines = ["## Common corruptions", "", text, ""]
    means = (
        [
            escape_markdown(str(one.subject)),
            format_estimate(one.clean_accuracy),
            *map(_format_entry, (*one.mean_row.entries, one.mean_row.mean_entry)),
        ]
        for one in maps
    )
    lines += [*render_table(["mean over corruptions", "untouched", *severities, "all severities"], means), ""]
    for one in maps:
        rows = (
            [escape_markdown(row.label), *map(_format_entry, (*row.entries, row.mean_entry))]
            for row in (*one.rows, one.mean_row)
        )
        lines += [*render_table([escape_markdown(str(one.subject)), *severities, "mean"], rows), ""]
    return lines


def _render_target_matrix(content: ReportData, matrix: TargetMatrix) -> list[str]:
    unreadable = ["no finite answer"] if matrix.has_nonfinite else []
    more = [f"{matrix.other_target_count} other targets"] if matrix.other_target_count else []
    head = [
        "model",
        "source",
        *map(escape_markdown, matrix.target_names),
        *more,
        *unreadable,
        "elsewhere",
        "held",
        "reached the goal",
    ]
    rows = [_format_target_row(row, bool(more), bool(unreadable), len(head)) for row in matrix.rows]
    if matrix.severity_rule:
        head.append("severity")
        harms = (_format_severity(content, row.severity, row.subject.model) for row in matrix.rows)
        rows = [[*row, harm] for row, harm in zip(rows, harms, strict=True)]
    under = escape_markdown(str(matrix.threat))
    text = f"Under {under}, among images that are read correctly untouched: how many ended where."
    rule = [f"Severity, 0 to 1: {escape_markdown(matrix.severity_rule)}.", ""] if matrix.severity_rule else []
    told = [part for sentence in matrix.comparisons for part in (escape_markdown(sentence), "")]
    return [
        f"### {escape_markdown(matrix.label)}",
        "",
        text,
        "",
        *render_table(head, rows),
        "",
        *rule,
        *told,
    ]


def _format_severity(content: ReportData, severity: SeveritySummary | None, model: str) -> str:
    """Expected severity, and the worst single reading."""
    if severity is None:
        return MISSING_TEXT
    mean = severity.expected
    worst = f"worst {severity.worst_severity:.2f}"
    if severity.worst_severity:
        name = content.evidence.get_class_name(model, severity.worst_class)
        worst += f": {escape_markdown(name)} ({severity.worst_count})"
    return f"{mean.value:.2f} ({mean.low:.2f}-{mean.high:.2f}), {worst}"


def _render_goals(content: ReportData, goals: GoalTable) -> list[str]:
    head = [
        "target",
        *(["severity"] if goals.severity_rule else []),
        *(escape_markdown(str(one)) for one in goals.subjects),
    ]
    rows = []
    for row in goals.rows:
        cost = (
            [MISSING_TEXT if row.severity is None else f"{row.severity:.2f}"] if goals.severity_rule else []
        )
        rows.append(
            [escape_markdown(row.goal_name), *cost, *(_format_goal_entry(square) for square in row.entries)]
        )
    if goals.severity_rule:
        pairs = zip(goals.worst_case_severities, goals.subjects, strict=True)
        harms = (_format_severity(content, harm, subject.model) for harm, subject in pairs)
        rows.append(["severity if the attacker wants the most", "", *harms])
    told = [part for sentence in goals.comparisons for part in (escape_markdown(sentence), "")]
    title = f"### {escape_markdown(goals.label)}: {escape_markdown(goals.source_names)} read as each target"
    return [title, "", GOALS_EXPLANATION, "", *render_table(head, rows), "", *told]


def _format_goal_entry(square: GoalEntry) -> str:
    if not square.estimate.is_known:
        return _format_entry(square)
    counts = f"{square.success_count} reached, {square.other_class_count} wrong otherwise, {square.robust_count} held"
    return f"{_format_entry(square)}; {counts}"


def _format_target_row(row: TargetRow, more: bool, unreadable: bool, width: int) -> list[str]:
    names = [escape_markdown(str(row.subject)), escape_markdown(row.source_name)]
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


def _render_cells(cells: Iterable[CellResult]) -> Iterator[str]:
    head = ["model", "attack", "status", "n", "untouched", "robust", "attack success", "8-bit", "time"]
    rows = (
        [
            escape_markdown(str(cell.subject)),
            escape_markdown(_format_attack(cell)),
            escape_markdown(
                f"{cell.reported_status}: {cell.problem}" if cell.problem else cell.reported_status
            ),
            f"{cell.tally.n:,}",
            *(_format_sign_shares(cell) if cell.is_sticker and cell.is_done else _format_image_shares(cell)),
            format_duration(cell.tally.seconds),
        ]
        for cell in cells
    )
    return render_table(head, rows)


def _format_image_shares(cell: CellResult) -> list[str]:
    """Shares of images: untouched, robust, success, success in 8 bits."""
    return [
        format_percent(cell.clean_accuracy.value),
        format_estimate(cell.robust_accuracy),
        format_estimate(cell.attack_success),
        format_percent(cell.attack_success_8bit.value),
    ]


def _format_sign_shares(cell: CellResult) -> list[str]:
    """The same columns for a cell that is judged over views: its shares of views stand in its own section."""
    counting, turned = format_sign_counts(cell)
    return [counting, MISSING_TEXT, turned, MISSING_TEXT]


def _format_attack(cell: CellResult) -> str:
    """The attack, and what it saw where that is not everything."""
    white = cell.record.knowledge == "white-box" or cell.is_corruption
    return cell.label if white else f"{cell.label} ({cell.attacker_knowledge})"


def _format_figure_title(path: str) -> str:
    return path.rsplit("/", 1)[-1].removesuffix(".png").replace("-", " ")


_ACCURACY_EXPLANATION = (
    "Robust accuracy is taken over all images, clean mistakes included; attack success over the images that "
    "are read correctly untouched; the worst case image by image. Attacks find weaknesses and never prove "
    "that there are none: a stronger attack can only lower robust accuracy and raise attack success."
)
_INTERVALS_NOTE = (
    "Intervals over images speak of further images of the same kind. None speaks of other cameras, weather "
    "or label mistakes, nor of a model trained anew."
)
_VIEW_INTERVALS_NOTE = "Intervals over views speak of further views of these signs, not of other signs."
