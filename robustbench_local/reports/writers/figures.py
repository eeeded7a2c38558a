"""The figures as PNG files, for slides and papers: the same content as the page, drawn by matplotlib."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure

from robustbench_local.reports.analysis.confusion_by_target import TargetMatrix
from robustbench_local.reports.analysis.corruption_results import CorruptionMap
from robustbench_local.reports.analysis.evidence import EvaluatedModel
from robustbench_local.reports.analysis.example_images import CellExamples
from robustbench_local.reports.analysis.heatmap import HeatMap, HeatMapEntry
from robustbench_local.reports.analysis.per_target import GoalTable
from robustbench_local.reports.analysis.report_data import ReportData
from robustbench_local.reports.analysis.robustness_curves import CurvePanel
from robustbench_local.reports.analysis.sticker_results import StickerResult
from robustbench_local.reports.analysis.transfer_results import TransferMatrix
from robustbench_local.reports.formatting.fonts import list_font_names, select_drawable_text, shorten_text
from robustbench_local.reports.formatting.text import (
    format_axis_label,
    format_budget,
    format_interval,
    format_percent,
    format_radius,
)
from robustbench_local.statistics import Estimate

TEXT_COLOUR, MUTED_COLOUR, LINE_COLOUR = "#20201d", "#5d5b54", "#d9d5cb"
MODEL_COLOURS = ("#1b5f96", "#bd4f12", "#2a7a5a", "#83479a", "#776200", "#55534d")
MODEL_MARKERS = ("o", "s", "^", "D", "v", "|")
SHARE_COLOURMAP = LinearSegmentedColormap.from_list("robust", ["#eea15f", "#f4f0e7", "#79b0d6"])
COUNT_COLOURMAP = LinearSegmentedColormap.from_list("counts", ["#fdfcfa", "#eea15f"])
MAX_EXAMPLES = 8
"""Rows of the gallery figure; the page shows more."""
CAPTION_POINTS, CAPTION_WIDTH_INCHES = 7, 1.5
"""Size of what stands above a picture, and the inches that it may take before it runs into its neighbour."""
COLUMN_HEAD_WIDTH_INCHES = 1.8
"""Inches that the name of an attack may take at the head of a column."""
LEGEND_POINTS, LEGEND_WIDTH_INCHES = 8, 2.8
"""Size of the names in a legend, and inches of a name up to which a legend fits into a panel of curves."""
DPI = 150
TITLE_POINTS = 9
"""Size of the titles, and of the names at the sides."""
LINE_HEIGHT_INCHES = 0.17
"""Inches that one more line of a title takes."""
MIN_TITLE_WIDTH_INCHES = 4.5
"""Inches that a title may take before it is wrapped, however narrow the table below it."""

_STYLE = {
    "font.size": 9,
    "text.color": TEXT_COLOUR,
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "figure.constrained_layout.w_pad": 0.12,
    "figure.constrained_layout.h_pad": 0.1,
    "lines.markersize": 4,
    "axes.edgecolor": LINE_COLOUR,
    "axes.labelcolor": MUTED_COLOUR,
    "xtick.color": MUTED_COLOUR,
    "ytick.color": MUTED_COLOUR,
}


def draw_figures(content: ReportData) -> dict[str, bytes]:
    """Every figure of a report.

    Args:
        content: What to draw.

    Returns:
        File name -> PNG; the same content gives the same bytes. A name with characters that no installed
        font can draw is replaced by its number: the page has the name itself.
    """
    style: dict[Any, Any] = {"font.family": list_font_names(), **_STYLE}
    with mpl.rc_context(style):
        return {name: _encode_png(figure) for name, figure in _iterate_figures(content)}


def _iterate_figures(content: ReportData) -> Iterator[tuple[str, Figure]]:
    names = {
        subject: select_drawable_text(str(subject), f"model {place}")
        for place, subject in enumerate(content.evidence.subjects, start=1)
    }
    if content.heatmap.columns:
        yield "robust-accuracy.png", _draw_heatmap(content.heatmap, names)
    for norm in dict.fromkeys(panel.norm for panel in content.curve_panels):
        panels = [panel for panel in content.curve_panels if panel.norm == norm]
        yield f"over-radius-{norm.lower()}.png", _draw_curves(panels, names)
    for proven in content.certified_groups:
        if proven.panels:
            yield f"certified-{proven.norm.lower()}.png", _draw_curves(proven.panels, names)
    for place, group in enumerate(content.distance_groups, start=1):
        if group.panels:
            yield f"how-far-{place}.png", _draw_curves(group.panels, names)
    for place, transfer in enumerate(content.transfer_matrices, start=1):
        yield f"transfer-{place}.png", _draw_transfer(transfer, names)
    for place, corruption in enumerate(content.corruption_maps, start=1):
        yield f"corruptions-{place}.png", _draw_corruptions(corruption, names)
    for place, matrix in enumerate(content.target_matrices, start=1):
        yield f"targets-{place}.png", _draw_target_matrix(matrix, names)
    for place, goals in enumerate(content.goal_tables, start=1):
        yield f"each-target-{place}.png", _draw_goals(goals, names)
    for place, sticker in enumerate((one for one in content.sticker_results if one.counted_signs), start=1):
        yield f"stickers-{place}.png", _draw_view_map(sticker, names)
    if content.cell_examples:
        yield "examples.png", _draw_examples(content.cell_examples, names)


def _draw_heatmap(heatmap: HeatMap, names: dict[EvaluatedModel, str]) -> Figure:
    columns, rows = heatmap.columns, heatmap.rows
    heads = ["untouched", *(f"{column.threat}\n{_format_column_head(column.label)}" for column in columns)]
    labels = [names[row.subject] for row in rows]
    title = _format_heatmap_title(heatmap)
    breadth = max(0.9, _measure_width_inches([line for head in heads for line in head.split("\n")]) + 0.1)
    least = (
        _measure_width_inches(labels)
        + 0.45
        + max(breadth * len(heads), 1.15 * _measure_width_inches([title]))
    )
    size = (max(2.4 + 1.15 * len(columns), least), 1.3 + 0.75 * len(rows))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlim=(-1.5, len(columns) - 0.5), ylim=(len(rows) - 0.5, -0.5))
    for y, row in enumerate(rows):
        _draw_label(
            axes,
            -1,
            y,
            format_percent(row.clean_accuracy.value),
            _format_interval_and_n(row.clean_accuracy),
            weight="normal",
        )
        for x, (square, column) in enumerate(zip(row.entries, columns, strict=True)):
            _draw_entry(
                axes,
                x,
                y,
                square,
                worst=column.is_worst_case,
                below=_format_interval_and_n(square.estimate, square.own_clean_accuracy),
            )
    axes.set_xticks(range(-1, len(columns)), heads)
    axes.set_yticks(range(len(rows)), labels)
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    axes.spines[:].set_visible(False)
    axes.set_title(title, loc="left", fontsize=10, pad=12)
    return figure


def _format_column_head(label: str) -> str:
    return _fit_text(select_drawable_text(label, "attack"), COLUMN_HEAD_WIDTH_INCHES)


def _format_heatmap_title(heatmap: HeatMap) -> str:
    squares = (square for row in heatmap.rows for square in row.entries)
    sizes = sorted({square.estimate.n for square in squares if square.estimate.is_known})
    numbers = " to ".join(f"{size:,}" for size in dict.fromkeys([*sizes[:1], *sizes[-1:]]))
    return f"Robust accuracy with 95% intervals, n = {numbers or 0}"


def _draw_transfer(matrix: TransferMatrix, names: dict[EvaluatedModel, str]) -> Figure:
    columns = [names[target] for target in matrix.attacked_models]
    rows = [
        select_drawable_text(row.surrogate, f"surrogate {place}")
        for place, row in enumerate(matrix.rows, start=1)
    ]
    attack = select_drawable_text(matrix.label, "attack")
    title = f"{attack}, {matrix.threat}: success on the model above, made on the one at the left"
    figure, axes = _build_table_axes(columns, rows, title)
    for y, row in enumerate(matrix.rows):
        for x, square in enumerate(row.entries):
            _draw_entry(axes, x, y, square, colours=SHARE_COLOURMAP.reversed())
    return figure


def _draw_corruptions(found: CorruptionMap, names: dict[EvaluatedModel, str]) -> Figure:
    columns = [*(f"severity {severity}" for severity in found.severities), "mean"]
    labels = [
        select_drawable_text(row.label, f"corruption {place}")
        for place, row in enumerate(found.rows, start=1)
    ]
    title = f"{names[found.subject]}: accuracy, {format_percent(found.clean_accuracy.value)} untouched, n = {found.image_counts}"
    figure, axes = _build_table_axes(columns, [*labels, "mean"], title)
    for y, row in enumerate([*found.rows, found.mean_row]):
        for x, square in enumerate([*row.entries, row.mean_entry]):
            _draw_entry(axes, x, y, square, worst=row is found.mean_row)
    return figure


def _draw_goals(table: GoalTable, names: dict[EvaluatedModel, str]) -> Figure:
    labels = [
        select_drawable_text(row.goal_name, f"target {place}")
        for place, row in enumerate(table.rows, start=1)
    ]
    attack, sources = (
        select_drawable_text(table.label, "attack"),
        select_drawable_text(table.source_names, "the source class"),
    )
    title = f"{attack}: how often {sources} is read as each target"
    figure, axes = _build_table_axes([names[subject] for subject in table.subjects], labels, title)
    for y, row in enumerate(table.rows):
        for x, square in enumerate(row.entries):
            _draw_entry(axes, x, y, square, colours=SHARE_COLOURMAP.reversed())
    return figure


def _draw_view_map(result: StickerResult, names: dict[EvaluatedModel, str]) -> Figure:
    found = result.view_map
    attack = f"{select_drawable_text(result.cell.label, 'sticker')} on {names[result.subject]}"
    title = f"{attack}: views turned, by size of the sign (far to near) and angle"
    columns = [f"{distance} px" for distance in found.distance_labels]
    figure, axes = _build_table_axes(columns, [f"{angle} degrees" for angle in found.angle_labels], title)
    for y, row in enumerate(found.rows):
        for x, square in enumerate(row):
            _draw_entry(axes, x, y, square, colours=SHARE_COLOURMAP.reversed())
    return figure


def _build_table_axes(columns: Sequence[str], rows: Sequence[str], title: str) -> tuple[Figure, Axes]:
    """An empty table with names at its top and left side."""
    across = max(1.05, _measure_width_inches(columns) + 0.15)
    width = max(2.2, _measure_width_inches(rows) + 0.5) + across * len(columns)
    width = max(
        width,
        min(_measure_width_inches([title]), MIN_TITLE_WIDTH_INCHES) + 0.3,
        _measure_width_inches(title.split()) + 0.3,
    )
    lines = _wrap_lines(title, width - 0.2)
    size = (width, 1.1 + 0.5 * len(rows) + LINE_HEIGHT_INCHES * (len(lines) - 1))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(rows) - 0.5, -0.5))
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    axes.spines[:].set_visible(False)
    figure.suptitle("\n".join(lines), x=0.02, ha="left", fontsize=TITLE_POINTS)
    return figure, axes


def _fit_text(text: str, inches: float, size: float = TITLE_POINTS) -> str:
    """A text that takes at most so many inches, the middle of a longer one left out."""
    most = len(text)
    while most > 4 and _measure_width_inches([text], size) > inches:
        most = min(most - 1, int(most * max(inches / _measure_width_inches([text], size), 0.5)))
        text = shorten_text(text, max(most, 4))
    return text


def _measure_width_inches(texts: Sequence[str], size: float = TITLE_POINTS) -> float:
    """Inches that the longest of some texts takes, by default at the size of titles and names."""
    figure = Figure()
    pen = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    drawn = (figure.text(0, 0, text, fontsize=size) for text in texts)
    return max((text.get_window_extent(pen).width / figure.dpi for text in drawn), default=0.0)


def _wrap_lines(text: str, width: float) -> list[str]:
    """Lines of at most so many inches; a word that is longer has a line of its own."""
    lines: list[str] = []
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and _measure_width_inches([longer]) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _draw_entry(
    axes: Axes,
    x: int,
    y: int,
    square: HeatMapEntry,
    *,
    worst: bool = False,
    colours: Colormap = SHARE_COLOURMAP,
    below: str = "",
) -> None:
    known = square.estimate.is_known
    box = mpl.patches.Rectangle(
        (x - 0.47, y - 0.45),
        0.94,
        0.9,
        facecolor=colours(square.estimate.value) if known else "none",
        edgecolor=TEXT_COLOUR if worst else LINE_COLOUR,
        linewidth=1.2 if worst else 0.5,
        hatch=None if known else "////",
    )
    axes.add_patch(box)
    if known:
        below = below or format_interval(square.estimate)
        _draw_label(axes, x, y, format_percent(square.estimate.value), below, weight="bold")
    else:
        axes.text(
            x, y, square.status_text.replace(", ", "\n"), ha="center", va="center", backgroundcolor="white"
        )


def _format_interval_and_n(estimate: Estimate, untouched: Estimate | None = None) -> str:
    """The interval and, below it, the number of images: squares of one drawing may have met other images."""
    if not estimate.is_known:
        return format_interval(estimate)
    own = f"\nuntouched {format_percent(untouched.value)}" if untouched else ""
    return f"{format_interval(estimate)}\nn = {estimate.n:,}{own}"


def _draw_label(axes: Axes, x: int, y: int, value: str, below: str, *, weight: str) -> None:
    axes.text(x, y - 0.12, value, ha="center", va="center", weight=weight)
    axes.text(x, y + 0.22, below, ha="center", va="center", fontsize=7)


def _draw_curves(panels: Sequence[CurvePanel], names: dict[EvaluatedModel, str]) -> Figure:
    figure = Figure(figsize=(3.6 * len(panels), 3.2), layout="constrained")
    every = list(names)
    for place, panel in enumerate(panels, start=1):
        axes = figure.add_subplot(1, len(panels), place)
        for curve in panel.curves:
            number = every.index(curve.subject) % len(MODEL_COLOURS)
            radii = [eps for eps, _ in curve.points]
            values = [100 * estimate.value for _, estimate in curve.points]
            low = [100 * estimate.low for _, estimate in curve.points]
            high = [100 * estimate.high for _, estimate in curve.points]
            look: dict[str, Any] = {"color": MODEL_COLOURS[number], "marker": MODEL_MARKERS[number]}
            if curve.dotted:
                look["linestyle"] = ":"
            else:
                axes.fill_between(radii, low, high, color=MODEL_COLOURS[number], alpha=0.17, linewidth=0)
            label = names[curve.subject] + (f", {curve.value_name}" if curve.value_name else "")
            axes.plot(radii, values, label=label, markevery=curve.mark_interval, **look)
        axes.set_xticks(panel.radii, [format_radius(eps) for eps in panel.radii])
        axes.set(ylim=(-2, 102), xlabel=format_axis_label(panel.norm))
        axes.set_title(select_drawable_text(panel.title, "attack"), loc="left", fontsize=9)
        axes.grid(axis="y", color=LINE_COLOUR, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel(f"{panels[0].value_name}, %")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    if _measure_width_inches(labels, LEGEND_POINTS) > LEGEND_WIDTH_INCHES:
        figure.set_figheight(figure.get_figheight() + LINE_HEIGHT_INCHES * len(labels))
        figure.legend(handles, labels, loc="outside lower left", frameon=False, fontsize=LEGEND_POINTS)
    else:
        figure.axes[0].legend(frameon=False, fontsize=LEGEND_POINTS)
    return figure


def _draw_target_matrix(matrix: TargetMatrix, names: dict[EvaluatedModel, str]) -> Figure:
    rows = [row for row in matrix.rows if row.problem is None]
    columns = [
        select_drawable_text(target, f"target {place}")
        for place, target in enumerate(matrix.target_names, start=1)
    ]
    more = ["other targets"] if matrix.other_target_count else []
    counts = [
        [
            *row.target_counts,
            *([row.other_target_count] if more else []),
            row.other_class_count,
            row.robust_count,
        ]
        for row in rows
    ]
    labels = [f"{names[row.subject]}: {select_drawable_text(row.source_name, 'source')}" for row in rows]
    aside, heads = _measure_width_inches(labels) + 0.45, [*columns, *more, "elsewhere", "held"]
    title = f"{select_drawable_text(matrix.label, 'targeted attack')}, {_format_ball(matrix)}: images by where they ended"
    width = max(
        2.6 + 0.75 * (len(columns) + 2), aside + max(0.65 * len(heads), _measure_width_inches(title.split()))
    )
    lines = _wrap_lines(title, width - aside)
    above = max(1.5, 0.65 * _measure_width_inches(heads) + 0.5) + LINE_HEIGHT_INCHES * (len(lines) - 1)
    figure = Figure(figsize=(width, above + 0.45 * max(len(rows), 1)), layout="constrained")
    axes = figure.add_subplot()
    targets = len(columns) + len(more)
    for y, (row, line) in enumerate(zip(rows, counts, strict=True)):
        for x, count in enumerate(line):
            share = count / row.attack_success.n if x < targets and row.attack_success.n else 0.0
            axes.add_patch(
                mpl.patches.Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, facecolor=COUNT_COLOURMAP(share))
            )
            axes.text(x, y, str(count), ha="center", va="center")
    axes.set(xlim=(-0.5, targets + 1.5), ylim=(max(len(rows), 1) - 0.5, -0.5))
    axes.set_xticks(range(targets + 2), heads, rotation=40, ha="left")
    axes.set_yticks(range(len(rows)), labels)
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    axes.spines[:].set_visible(False)
    axes.set_title("\n".join(lines), loc="left", fontsize=TITLE_POINTS, pad=12)
    return figure


def _draw_examples(exhibits: Sequence[CellExamples], names: dict[EvaluatedModel, str]) -> Figure:
    shown = [(exhibit, example) for exhibit in exhibits for example in exhibit.examples[:1]][:MAX_EXAMPLES]
    figure = Figure(figsize=(6.2, 1.45 * len(shown) + 0.3), layout="constrained")
    for place, (exhibit, example) in enumerate(shown):
        pictures = (example.clean_image, example.adversarial_image, example.difference_image)
        label = select_drawable_text(example.label, "its class")
        captions = [
            label,
            f"read as {select_drawable_text(example.prediction, 'another class')}",
            f"change \N{MULTIPLICATION SIGN} {exhibit.amplification}",
        ]
        for column, (pixels, caption) in enumerate(zip(pictures, captions, strict=True)):
            axes = figure.add_subplot(len(shown), 3, 3 * place + column + 1)
            axes.imshow(pixels, interpolation="nearest" if len(pixels) < 100 else "antialiased")
            axes.set_axis_off()
            axes.set_title(
                _fit_text(caption, CAPTION_WIDTH_INCHES, CAPTION_POINTS), fontsize=CAPTION_POINTS, pad=2
            )
            if column == 0:
                sides = (
                    select_drawable_text(exhibit.cell.label, "attack"),
                    names[exhibit.cell.subject],
                )
                text = "\n".join(_fit_text(side, CAPTION_WIDTH_INCHES, CAPTION_POINTS) for side in sides)
                axes.text(
                    -0.15,
                    0.5,
                    text,
                    transform=axes.transAxes,
                    ha="right",
                    va="center",
                    fontsize=CAPTION_POINTS,
                )
    return figure


def _format_ball(matrix: TargetMatrix) -> str:
    return format_budget(matrix.threat.norm, matrix.threat.eps)


def _encode_png(figure: Figure) -> bytes:
    figure.set_dpi(DPI)
    figure.set_facecolor("white")
    content = io.BytesIO()
    # What savefig gives, which would draw all of it twice: once for the layout alone.
    canvas: Any = FigureCanvasAgg(figure)
    canvas.print_png(content, metadata={"Software": None})
    return content.getvalue()
