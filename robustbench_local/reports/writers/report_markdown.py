"""report.md: the answer and the tables, for pull requests and step summaries."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from urllib.parse import quote

from robustbench_local.reports.analysis.certified_accuracy import (
    READING_CERTIFIED,
    Certification,
    CertifiedGroup,
)
from robustbench_local.reports.analysis.certified_vs_empirical import READING_BRACKETS, Bracket
from robustbench_local.reports.analysis.confusion_by_target import LIMITS_OF_PIXELS, TargetMatrix, TargetRow
from robustbench_local.reports.analysis.corruption_results import CorruptionMap
from robustbench_local.reports.analysis.distances import DistanceGroup, Reach
from robustbench_local.reports.analysis.eight_bit_worst_case import (
    READING_EIGHT_BIT,
    EightBitCase,
    find_eight_bit_cases,
)
from robustbench_local.reports.analysis.evidence import CellResult, Threat
from robustbench_local.reports.analysis.heatmap import HeatMap, Square
from robustbench_local.reports.analysis.methods import trials_markdown
from robustbench_local.reports.analysis.misclassification_severity import Severity
from robustbench_local.reports.analysis.naive_vs_adaptive import READING_LESSONS, Lesson
from robustbench_local.reports.analysis.per_target import READING_GOALS, GoalSquare, GoalTable
from robustbench_local.reports.analysis.report_data import Content
from robustbench_local.reports.analysis.run_warnings import Level
from robustbench_local.reports.analysis.transfer_results import TransferMatrix
from robustbench_local.reports.formatting.markdown_tables import escape, table
from robustbench_local.reports.formatting.text import NOTHING, budget, distance, duration, full, percent
from robustbench_local.reports.summary import headline as answer
from robustbench_local.reports.writers.sticker_text import signs_of_cell, sticker_markdown

_TITLES: tuple[tuple[Level, str], ...] = (
    ("void", "Void"),
    ("incomplete", "Incomplete"),
    ("warning", "Read the numbers with this in mind"),
    ("note", "Remarks"),
)


def write_markdown(content: Content, figures: Sequence[str]) -> str:
    """The report as Markdown.

    Args:
        content: What to report.
        figures: Paths of the figures from where the file lies.

    Returns:
        The text. Everything that came from outside is escaped (F71).
    """
    evidence = content.evidence
    lines = [f"# {escape(answer.question(evidence))}", "", f"**{escape(answer.answer(evidence))}**", ""]
    rounded = answer.in_eight_bits(evidence)
    lines += [escape(rounded), ""] if rounded else []
    lines += [part for sentence in answer.comparisons(evidence) for part in (escape(sentence), "")]
    for level, title in _TITLES:
        shown = [finding.text for finding in content.findings if finding.level == level]
        lines += [f"## {title}", "", *(f"- {escape(text)}" for text in shown), ""] if shown else []
    lines += _gates(content)
    lines += _heatmap(content.heatmap) if content.heatmap.columns else []
    lines += _eight_bits(find_eight_bit_cases(evidence))
    lines += _lessons(content.lessons) if content.lessons else []
    lines += _certified(content.certified) if content.certified else []
    lines += _brackets(content.brackets) if content.brackets else []
    lines += [line for group in content.distances for line in _distances(group)]
    lines += _sight(content) if content.seen_less else []
    lines += [line for matrix in content.transfers for line in _transfer(matrix)]
    lines += _corruptions(content.corruptions) if content.corruptions else []
    lines += ["## Targeted attacks", "", f"**{LIMITS_OF_PIXELS}**", ""] if content.matrices else []
    lines += [line for matrix in content.matrices for line in _matrix(content, matrix)]
    lines += [line for table in content.goals for line in _goals(content, table)]
    lines += sticker_markdown(content.sticker_groups) if content.stickers else []
    lines += trials_markdown(evidence, content.trials)
    lines += ["## Cell by cell", "", *_cells(evidence.attacks), ""]
    lines += [f"![{escape(_figure_title(path))}]({quote(path)})" for path in figures]
    lines += ["", " ".join([_READING, _INTERVALS, *([_INTERVALS_OF_VIEWS] if content.stickers else [])])]
    return "\n".join(lines) + "\n"


def _gates(content: Content) -> list[str]:
    verdicts = content.gates.verdicts
    if not verdicts:
        return []
    rows = (
        [
            verdict.ruling,
            escape(str(verdict.subject or "")),
            escape(str(verdict.gate)),
            escape(verdict.reason),
        ]
        for verdict in verdicts
    )
    return ["## Gates", "", *table(["verdict", "model", "limit", "measured"], rows), ""]


def _heatmap(heatmap: HeatMap) -> list[str]:
    head = ["model", "untouched", *(escape(f"{column.threat}: {column.label}") for column in heatmap.columns)]
    rows = (
        [escape(str(row.subject)), full(row.clean), *(_square(square) for square in row.squares)]
        for row in heatmap.rows
    )
    text = "Share of all images that are read correctly and stay so, with the 95 % Clopper-Pearson interval."
    if heatmap.has_other_images:
        text += (
            ' An attack with a limit met fewer images than the column "untouched" is over: behind its '
            "interval stands how many of those are read correctly untouched."
        )
    return ["## Robust accuracy", "", text, "", *table(head, rows), ""]


def _eight_bits(cases: Sequence[EightBitCase]) -> list[str]:
    head = ["model", "ball", "robust in 8 bits", "attack success in 8 bits", "in floating point", "left out"]
    rows = [
        [
            escape(str(one.subject)),
            escape(str(one.threat)),
            full(one.robust_accuracy),
            full(one.attack_success),
            percent(one.float_success.value),
            f"{one.undecided:,}",
        ]
        for one in cases
        if one.robust_accuracy.known
    ]
    return ["## Worst case in 8 bits", "", READING_EIGHT_BIT, "", *table(head, rows), ""] if rows else []


def _square(square: Square) -> str:
    if not square.estimate.known:
        return square.word
    untouched = f"; untouched {percent(square.untouched.value)}" if square.untouched else ""
    return f"{full(square.estimate)}{' (incomplete)' if square.reason else ''}{untouched}"


def _lessons(lessons: Sequence[Lesson]) -> list[str]:
    head = ["model", "attack", "without the defense", "naive attacker", "adaptive attacker"]
    rows = (
        [
            escape(str(one.subject)),
            escape(one.attack),
            *(_square(square) for square in (one.undefended, one.naive, one.adaptive)),
        ]
        for one in lessons
    )
    told = [f"- {escape(one.sentence)}" for one in lessons]
    title = "## What the defenses hide, and what they withstand"
    return [title, "", READING_LESSONS, "", *table(head, rows), "", *told, ""]


def _certified(groups: Sequence[CertifiedGroup]) -> list[str]:
    head = ["model", "certificate", "ball", "certified", "read rightly", "abstained", "passes an image"]
    head += ["about", "holds"]
    rows = ([escape(part) for part in _certification(row)] for group in groups for row in group.rows)
    notes = [f"- {escape(note)}" for note in dict.fromkeys(note for group in groups for note in group.notes)]
    return ["## Certified", "", READING_CERTIFIED, "", *table(head, rows), "", *notes, ""]


def _certification(row: Certification) -> list[str]:
    cell = row.cell
    return [
        str(cell.subject),
        cell.record.attack,
        budget(cell.record.norm, cell.record.eps),
        full(cell.certified_accuracy) if cell.done else cell.standing,
        percent(cell.clean_accuracy.value),
        f"{cell.tally.abstained:,}",
        NOTHING if row.passes is None else f"{row.passes:,.0f}",
        row.about,
        row.surety,
    ]


def _brackets(brackets: Sequence[Bracket]) -> list[str]:
    head = ["model", "ball", "proven", "not broken", "neither"]
    rows = (
        [
            escape(str(one.subject)),
            escape(str(one.threat)),
            full(one.verified),
            full(one.empirical),
            str(one.undecided),
        ]
        for one in brackets
    )
    return ["## Between proof and attack", "", READING_BRACKETS, "", *table(head, rows), ""]


def _distances(group: DistanceGroup) -> list[str]:
    head = ["model", "attack", "n", "a quarter", "half", "its 95 % interval", "three quarters", "held"]
    rows = (_reach(one, group.threat) for one in group.reaches)
    text = (
        "Distance at which a quarter, half and three quarters of the images had broken, over those that are "
        "read correctly untouched. An image that held counts as farther than the largest radius."
    )
    goal = ", targeted" if group.targeted else ""
    found = [*table(head, rows), ""] if group.reaches else []
    problems = [f"- No distances: {escape(problem)}" for problem in group.problems]
    return [
        f"## How far: {escape(str(group.threat))}{goal}",
        "",
        text,
        "",
        *found,
        *problems,
        *([""] if problems else []),
    ]


def _reach(one: Reach, threat: Threat) -> list[str]:
    far = one.distances
    ends = (far.lower, far.median, far.low, far.high, far.upper)
    lower, median, low, high, upper = (distance(threat.norm, end, beyond=threat.eps) for end in ends)
    names = [escape(str(one.subject)), escape(one.label)]
    return [
        *names,
        f"{far.n:,}",
        lower,
        median,
        f"{low} to {high}",
        upper,
        f"{one.unbroken:,}",
    ]


def _sight(content: Content) -> list[str]:
    head = ["model", "attack", "saw", "attack success", "passes where broken: median, most", "in all"]
    rows = (
        [
            escape(str(cell.subject)),
            escape(cell.record.attack),
            escape(cell.sight),
            full(cell.attack_success) if cell.done else cell.standing,
            _passes(cell.spending.median_broken, cell.spending.largest_broken),
            _passes(cell.spending.median, cell.spending.largest),
        ]
        for cell in content.attackers
    )
    return ["## What the attackers saw, and what they spent", "", *table(head, rows), ""]


def _passes(middle: float | None, most: int | None) -> str:
    return NOTHING if middle is None else f"{middle:,.0f}, {most:,}"


def _transfer(matrix: TransferMatrix) -> list[str]:
    head = ["made on", *(f"tried on {escape(str(target))}" for target in matrix.targets)]
    rows = ([escape(row.surrogate), *(_square(square) for square in row.squares)] for row in matrix.rows)
    basis = "among images that the attacked model reads correctly untouched"
    text = f"Attack success under {escape(str(matrix.threat))}, {basis}. No worst case counts it."
    return [f"## Transfer: {escape(matrix.attack)}", "", text, "", *table(head, rows), ""]


def _corruptions(maps: Sequence[CorruptionMap]) -> list[str]:
    severities = [f"severity {severity}" for severity in maps[0].severities]
    text = "The average case, not an adversary: accuracy over all images, by corruption and severity."
    lines = ["## Common corruptions", "", text, ""]
    means = (
        [escape(str(one.subject)), full(one.clean), *map(_square, (*one.mean.squares, one.mean.overall))]
        for one in maps
    )
    lines += [*table(["mean over corruptions", "untouched", *severities, "all severities"], means), ""]
    for one in maps:
        rows = (
            [escape(row.label), *map(_square, (*row.squares, row.overall))] for row in (*one.rows, one.mean)
        )
        lines += [*table([escape(str(one.subject)), *severities, "mean"], rows), ""]
    return lines


def _matrix(content: Content, matrix: TargetMatrix) -> list[str]:
    unreadable = ["no finite answer"] if matrix.unreadable else []
    more = [f"{matrix.more_targets} other targets"] if matrix.more_targets else []
    head = [
        "model",
        "source",
        *map(escape, matrix.targets),
        *more,
        *unreadable,
        "elsewhere",
        "held",
        "reached the goal",
    ]
    rows = [_target_row(row, bool(more), bool(unreadable), len(head)) for row in matrix.rows]
    if matrix.rule:
        head.append("severity")
        harms = (_harm(content, row.severity, row.subject.model) for row in matrix.rows)
        rows = [[*row, harm] for row, harm in zip(rows, harms, strict=True)]
    under = escape(str(matrix.threat))
    text = f"Under {under}, among images that are read correctly untouched: how many ended where."
    rule = [f"Severity, 0 to 1: {escape(matrix.rule)}.", ""] if matrix.rule else []
    told = [part for sentence in matrix.comparisons for part in (escape(sentence), "")]
    return [f"### {escape(matrix.attack)}", "", text, "", *table(head, rows), "", *rule, *told]


def _harm(content: Content, severity: Severity | None, model: str) -> str:
    """Expected severity, and the worst single reading."""
    if severity is None:
        return NOTHING
    mean = severity.expected
    worst = f"worst {severity.worst:.2f}"
    if severity.worst:
        name = content.evidence.class_name(model, severity.worst_class)
        worst += f": {escape(name)} ({severity.worst_count})"
    return f"{mean.value:.2f} ({mean.low:.2f}-{mean.high:.2f}), {worst}"


def _goals(content: Content, goals: GoalTable) -> list[str]:
    head = ["target", *(["severity"] if goals.rule else []), *(escape(str(one)) for one in goals.subjects)]
    rows = []
    for row in goals.rows:
        cost = [NOTHING if row.severity is None else f"{row.severity:.2f}"] if goals.rule else []
        rows.append([escape(row.goal), *cost, *(_goal_square(square) for square in row.squares)])
    if goals.rule:
        pairs = zip(goals.harms, goals.subjects, strict=True)
        harms = (_harm(content, harm, subject.model) for harm, subject in pairs)
        rows.append(["severity if the attacker wants the most", "", *harms])
    told = [part for sentence in goals.comparisons for part in (escape(sentence), "")]
    title = f"### {escape(goals.attack)}: {escape(goals.sources)} read as each target"
    return [title, "", READING_GOALS, "", *table(head, rows), "", *told]


def _goal_square(square: GoalSquare) -> str:
    if not square.estimate.known:
        return _square(square)
    counts = f"{square.hits} reached, {square.elsewhere} wrong otherwise, {square.held} held"
    return f"{_square(square)}; {counts}"


def _target_row(row: TargetRow, more: bool, unreadable: bool, width: int) -> list[str]:
    names = [escape(str(row.subject)), escape(row.source)]
    if row.problem:
        return [*names, escape(row.problem), *[""] * (width - 3)]
    counts = [*row.hits, *([row.other] if more else []), *([row.unreadable] if unreadable else [])]
    return [*names, *map(str, [*counts, row.elsewhere, row.held]), full(row.success)]


def _cells(cells: Iterable[CellResult]) -> Iterator[str]:
    head = ["model", "attack", "status", "n", "untouched", "robust", "attack success", "8-bit", "time"]
    rows = (
        [
            escape(str(cell.subject)),
            escape(_attack(cell)),
            escape(f"{cell.standing}: {cell.problem}" if cell.problem else cell.standing),
            f"{cell.tally.n:,}",
            *(_signs(cell) if cell.viewed and cell.done else _images(cell)),
            duration(cell.tally.seconds),
        ]
        for cell in cells
    )
    return table(head, rows)


def _images(cell: CellResult) -> list[str]:
    """Shares of images: untouched, robust, success, success in 8 bits."""
    return [
        percent(cell.clean_accuracy.value),
        full(cell.robust_accuracy),
        full(cell.attack_success),
        percent(cell.attack_success_8bit.value),
    ]


def _signs(cell: CellResult) -> list[str]:
    """The same columns for a cell that is judged over views: its shares of views stand in its own section."""
    counting, turned = signs_of_cell(cell)
    return [counting, NOTHING, turned, NOTHING]


def _attack(cell: CellResult) -> str:
    """The attack, and what it saw where that is not everything."""
    white = cell.record.knowledge == "white-box" or cell.corrupted
    return cell.record.attack if white else f"{cell.record.attack} ({cell.sight})"


def _figure_title(path: str) -> str:
    return path.rsplit("/", 1)[-1].removesuffix(".png").replace("-", " ")


_READING = (
    "Robust accuracy is taken over all images, clean mistakes included; attack success over the images that "
    "are read correctly untouched; the worst case image by image. Attacks find weaknesses and never prove "
    "that there are none: a stronger attack can only lower robust accuracy and raise attack success."
)
_INTERVALS = (
    "Intervals over images speak of further images of the same kind. None speaks of other cameras, weather "
    "or label mistakes, nor of a model trained anew."
)
_INTERVALS_OF_VIEWS = "Intervals over views speak of further views of these signs, not of other signs."
