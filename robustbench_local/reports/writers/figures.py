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
from robustbench_local.reports.analysis.evidence import Subject
from robustbench_local.reports.analysis.example_images import Exhibit
from robustbench_local.reports.analysis.heatmap import HeatMap, Square
from robustbench_local.reports.analysis.per_target import GoalTable
from robustbench_local.reports.analysis.report_data import Content
from robustbench_local.reports.analysis.robustness_curves import Panel
from robustbench_local.reports.analysis.sticker_results import StickerResult
from robustbench_local.reports.analysis.transfer_results import TransferMatrix
from robustbench_local.reports.formatting.fonts import drawable, font_names, shorten
from robustbench_local.reports.formatting.text import axis, budget, interval, percent, radius
from robustbench_local.statistics import Estimate

INK, SOFT, RULE = "#20201d", "#5d5b54", "#d9d5cb"
COLOURS = ("#1b5f96", "#bd4f12", "#2a7a5a", "#83479a", "#776200", "#55534d")
MARKERS = ("o", "s", "^", "D", "v", "|")
HEAT = LinearSegmentedColormap.from_list("robust", ["#eea15f", "#f4f0e7", "#79b0d6"])
COUNTS = LinearSegmentedColormap.from_list("counts", ["#fdfcfa", "#eea15f"])
MOST_EXAMPLES = 8
"""Rows of the gallery figure; the page shows more."""
CAPTION, CAPTION_INCHES = 7, 1.5
"""Size of what stands above a picture, and the inches that it may take before it runs into its neighbour."""
HEAD_INCHES = 1.8
"""Inches that the name of an attack may take at the head of a column."""
LEGEND, LEGEND_INCHES = 8, 2.8
"""Size of the names in a legend, and inches of a name up to which a legend fits into a panel of curves."""
DPI = 150
TITLE = 9
"""Size of the titles, and of the names at the sides."""
LINE = 0.17
"""Inches that one more line of a title takes."""
LEAST_TITLE = 4.5
"""Inches that a title may take before it is wrapped, however narrow the table below it."""

_STYLE = {
    "font.size": 9,
    "text.color": INK,
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "figure.constrained_layout.w_pad": 0.12,
    "figure.constrained_layout.h_pad": 0.1,
    "lines.markersize": 4,
    "axes.edgecolor": RULE,
    "axes.labelcolor": SOFT,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
}


def draw_figures(content: Content) -> dict[str, bytes]:
    """Every figure of a report.

    Args:
        content: What to draw.

    Returns:
        File name -> PNG; the same content gives the same bytes. A name with characters that no installed
        font can draw is replaced by its number: the page has the name itself.
    """
    style: dict[Any, Any] = {"font.family": font_names(), **_STYLE}
    with mpl.rc_context(style):
        return {name: _png(figure) for name, figure in _figures(content)}


def _figures(content: Content) -> Iterator[tuple[str, Figure]]:
    names = {
        subject: drawable(str(subject), f"model {place}")
        for place, subject in enumerate(content.evidence.subjects, start=1)
    }
    if content.heatmap.columns:
        yield "robust-accuracy.png", _heatmap(content.heatmap, names)
    for norm in dict.fromkeys(panel.norm for panel in content.panels):
        panels = [panel for panel in content.panels if panel.norm == norm]
        yield f"over-radius-{norm.lower()}.png", _curves(panels, names)
    for proven in content.certified:
        if proven.panels:
            yield f"certified-{proven.norm.lower()}.png", _curves(proven.panels, names)
    for place, group in enumerate(content.distances, start=1):
        if group.panels:
            yield f"how-far-{place}.png", _curves(group.panels, names)
    for place, transfer in enumerate(content.transfers, start=1):
        yield f"transfer-{place}.png", _transfer(transfer, names)
    for place, corruption in enumerate(content.corruptions, start=1):
        yield f"corruptions-{place}.png", _corruption(corruption, names)
    for place, matrix in enumerate(content.matrices, start=1):
        yield f"targets-{place}.png", _matrix(matrix, names)
    for place, goals in enumerate(content.goals, start=1):
        yield f"each-target-{place}.png", _goals(goals, names)
    for place, sticker in enumerate((one for one in content.stickers if one.counted), start=1):
        yield f"stickers-{place}.png", _views(sticker, names)
    if content.exhibits:
        yield "examples.png", _gallery(content.exhibits, names)


def _heatmap(heatmap: HeatMap, names: dict[Subject, str]) -> Figure:
    columns, rows = heatmap.columns, heatmap.rows
    heads = ["untouched", *(f"{column.threat}\n{_head(column.label)}" for column in columns)]
    labels = [names[row.subject] for row in rows]
    title = _title(heatmap)
    breadth = max(0.9, _widest([line for head in heads for line in head.split("\n")]) + 0.1)
    least = _widest(labels) + 0.45 + max(breadth * len(heads), 1.15 * _widest([title]))
    size = (max(2.4 + 1.15 * len(columns), least), 1.3 + 0.75 * len(rows))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlim=(-1.5, len(columns) - 0.5), ylim=(len(rows) - 0.5, -0.5))
    for y, row in enumerate(rows):
        _label(axes, -1, y, percent(row.clean.value), _sized(row.clean), weight="normal")
        for x, (square, column) in enumerate(zip(row.squares, columns, strict=True)):
            _draw_square(
                axes, x, y, square, worst=column.worst, below=_sized(square.estimate, square.untouched)
            )
    axes.set_xticks(range(-1, len(columns)), heads)
    axes.set_yticks(range(len(rows)), labels)
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    axes.spines[:].set_visible(False)
    axes.set_title(title, loc="left", fontsize=10, pad=12)
    return figure


def _head(label: str) -> str:
    return _fitted(drawable(label, "attack"), HEAD_INCHES)


def _title(heatmap: HeatMap) -> str:
    squares = (square for row in heatmap.rows for square in row.squares)
    sizes = sorted({square.estimate.n for square in squares if square.estimate.known})
    numbers = " to ".join(f"{size:,}" for size in dict.fromkeys([*sizes[:1], *sizes[-1:]]))
    return f"Robust accuracy with 95 % intervals, n = {numbers or 0}"


def _transfer(matrix: TransferMatrix, names: dict[Subject, str]) -> Figure:
    columns = [names[target] for target in matrix.targets]
    rows = [drawable(row.surrogate, f"surrogate {place}") for place, row in enumerate(matrix.rows, start=1)]
    attack = drawable(matrix.attack, "attack")
    title = f"{attack}, {matrix.threat}: success on the model above, made on the one at the left"
    figure, axes = _table(columns, rows, title)
    for y, row in enumerate(matrix.rows):
        for x, square in enumerate(row.squares):
            _draw_square(axes, x, y, square, colours=HEAT.reversed())
    return figure


def _corruption(found: CorruptionMap, names: dict[Subject, str]) -> Figure:
    columns = [*(f"severity {severity}" for severity in found.severities), "mean"]
    labels = [drawable(row.label, f"corruption {place}") for place, row in enumerate(found.rows, start=1)]
    title = f"{names[found.subject]}: accuracy, {percent(found.clean.value)} untouched, n = {found.sizes}"
    figure, axes = _table(columns, [*labels, "mean"], title)
    for y, row in enumerate([*found.rows, found.mean]):
        for x, square in enumerate([*row.squares, row.overall]):
            _draw_square(axes, x, y, square, worst=row is found.mean)
    return figure


def _goals(table: GoalTable, names: dict[Subject, str]) -> Figure:
    labels = [drawable(row.goal, f"target {place}") for place, row in enumerate(table.rows, start=1)]
    attack, sources = drawable(table.attack, "attack"), drawable(table.sources, "the source class")
    title = f"{attack}: how often {sources} is read as each target"
    figure, axes = _table([names[subject] for subject in table.subjects], labels, title)
    for y, row in enumerate(table.rows):
        for x, square in enumerate(row.squares):
            _draw_square(axes, x, y, square, colours=HEAT.reversed())
    return figure


def _views(result: StickerResult, names: dict[Subject, str]) -> Figure:
    found, record = result.map, result.cell.record
    attack = f"{drawable(record.attack, 'sticker')} on {names[result.subject]}"
    title = f"{attack}: views turned, by size of the sign (far to near) and angle"
    columns = [f"{distance} px" for distance in found.distances]
    figure, axes = _table(columns, [f"{angle} degrees" for angle in found.angles], title)
    for y, row in enumerate(found.rows):
        for x, square in enumerate(row):
            _draw_square(axes, x, y, square, colours=HEAT.reversed())
    return figure


def _table(columns: Sequence[str], rows: Sequence[str], title: str) -> tuple[Figure, Axes]:
    """An empty table with names at its top and left side."""
    across = max(1.05, _widest(columns) + 0.15)
    width = max(2.2, _widest(rows) + 0.5) + across * len(columns)
    width = max(width, min(_widest([title]), LEAST_TITLE) + 0.3, _widest(title.split()) + 0.3)
    lines = _wrapped(title, width - 0.2)
    size = (width, 1.1 + 0.5 * len(rows) + LINE * (len(lines) - 1))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(rows) - 0.5, -0.5))
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    axes.spines[:].set_visible(False)
    figure.suptitle("\n".join(lines), x=0.02, ha="left", fontsize=TITLE)
    return figure, axes


def _fitted(text: str, inches: float, size: float = TITLE) -> str:
    """A text that takes at most so many inches, the middle of a longer one left out."""
    most = len(text)
    while most > 4 and _widest([text], size) > inches:
        most = min(most - 1, int(most * max(inches / _widest([text], size), 0.5)))
        text = shorten(text, max(most, 4))
    return text


def _widest(texts: Sequence[str], size: float = TITLE) -> float:
    """Inches that the longest of some texts takes, by default at the size of titles and names."""
    figure = Figure()
    pen = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    drawn = (figure.text(0, 0, text, fontsize=size) for text in texts)
    return max((text.get_window_extent(pen).width / figure.dpi for text in drawn), default=0.0)


def _wrapped(text: str, width: float) -> list[str]:
    """Lines of at most so many inches; a word that is longer has a line of its own."""
    lines: list[str] = []
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and _widest([longer]) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _draw_square(
    axes: Axes,
    x: int,
    y: int,
    square: Square,
    *,
    worst: bool = False,
    colours: Colormap = HEAT,
    below: str = "",
) -> None:
    known = square.estimate.known
    box = mpl.patches.Rectangle(
        (x - 0.47, y - 0.45),
        0.94,
        0.9,
        facecolor=colours(square.estimate.value) if known else "none",
        edgecolor=INK if worst else RULE,
        linewidth=1.2 if worst else 0.5,
        hatch=None if known else "////",
    )
    axes.add_patch(box)
    if known:
        below = below or interval(square.estimate)
        _label(axes, x, y, percent(square.estimate.value), below, weight="bold")
    else:
        axes.text(x, y, square.word.replace(", ", "\n"), ha="center", va="center", backgroundcolor="white")


def _sized(estimate: Estimate, untouched: Estimate | None = None) -> str:
    """The interval and, below it, the number of images: squares of one drawing may have met other images."""
    if not estimate.known:
        return interval(estimate)
    own = f"\nuntouched {percent(untouched.value)}" if untouched else ""
    return f"{interval(estimate)}\nn = {estimate.n:,}{own}"


def _label(axes: Axes, x: int, y: int, value: str, below: str, *, weight: str) -> None:
    axes.text(x, y - 0.12, value, ha="center", va="center", weight=weight)
    axes.text(x, y + 0.22, below, ha="center", va="center", fontsize=7)


def _curves(panels: Sequence[Panel], names: dict[Subject, str]) -> Figure:
    figure = Figure(figsize=(3.6 * len(panels), 3.2), layout="constrained")
    every = list(names)
    for place, panel in enumerate(panels, start=1):
        axes = figure.add_subplot(1, len(panels), place)
        for curve in panel.curves:
            number = every.index(curve.subject) % len(COLOURS)
            radii = [eps for eps, _ in curve.points]
            values = [100 * estimate.value for _, estimate in curve.points]
            low = [100 * estimate.low for _, estimate in curve.points]
            high = [100 * estimate.high for _, estimate in curve.points]
            look: dict[str, Any] = {"color": COLOURS[number], "marker": MARKERS[number]}
            if curve.dotted:
                look["linestyle"] = ":"
            else:
                axes.fill_between(radii, low, high, color=COLOURS[number], alpha=0.17, linewidth=0)
            label = names[curve.subject] + (f", {curve.told}" if curve.told else "")
            axes.plot(radii, values, label=label, markevery=curve.every, **look)
        axes.set_xticks(panel.radii, [radius(eps) for eps in panel.radii])
        axes.set(ylim=(-2, 102), xlabel=axis(panel.norm))
        axes.set_title(drawable(panel.title, "attack"), loc="left", fontsize=9)
        axes.grid(axis="y", color=RULE, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel(f"{panels[0].measure}, %")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    if _widest(labels, LEGEND) > LEGEND_INCHES:
        figure.set_figheight(figure.get_figheight() + LINE * len(labels))
        figure.legend(handles, labels, loc="outside lower left", frameon=False, fontsize=LEGEND)
    else:
        figure.axes[0].legend(frameon=False, fontsize=LEGEND)
    return figure


def _matrix(matrix: TargetMatrix, names: dict[Subject, str]) -> Figure:
    rows = [row for row in matrix.rows if row.problem is None]
    columns = [drawable(target, f"target {place}") for place, target in enumerate(matrix.targets, start=1)]
    more = ["other targets"] if matrix.more_targets else []
    counts = [[*row.hits, *([row.other] if more else []), row.elsewhere, row.held] for row in rows]
    labels = [f"{names[row.subject]}: {drawable(row.source, 'source')}" for row in rows]
    aside, heads = _widest(labels) + 0.45, [*columns, *more, "elsewhere", "held"]
    title = f"{drawable(matrix.attack, 'targeted attack')}, {_ball(matrix)}: images by where they ended"
    width = max(2.6 + 0.75 * (len(columns) + 2), aside + max(0.65 * len(heads), _widest(title.split())))
    lines = _wrapped(title, width - aside)
    above = max(1.5, 0.65 * _widest(heads) + 0.5) + LINE * (len(lines) - 1)
    figure = Figure(figsize=(width, above + 0.45 * max(len(rows), 1)), layout="constrained")
    axes = figure.add_subplot()
    targets = len(columns) + len(more)
    for y, (row, line) in enumerate(zip(rows, counts, strict=True)):
        for x, count in enumerate(line):
            share = count / row.success.n if x < targets and row.success.n else 0.0
            axes.add_patch(mpl.patches.Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, facecolor=COUNTS(share)))
            axes.text(x, y, str(count), ha="center", va="center")
    axes.set(xlim=(-0.5, targets + 1.5), ylim=(max(len(rows), 1) - 0.5, -0.5))
    axes.set_xticks(range(targets + 2), heads, rotation=40, ha="left")
    axes.set_yticks(range(len(rows)), labels)
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    axes.spines[:].set_visible(False)
    axes.set_title("\n".join(lines), loc="left", fontsize=TITLE, pad=12)
    return figure


def _gallery(exhibits: Sequence[Exhibit], names: dict[Subject, str]) -> Figure:
    shown = [(exhibit, example) for exhibit in exhibits for example in exhibit.examples[:1]][:MOST_EXAMPLES]
    figure = Figure(figsize=(6.2, 1.45 * len(shown) + 0.3), layout="constrained")
    for place, (exhibit, example) in enumerate(shown):
        pictures = (example.clean, example.adversarial, example.difference)
        label = drawable(example.label, "its class")
        captions = [
            label,
            f"read as {drawable(example.prediction, 'another class')}",
            f"change \N{MULTIPLICATION SIGN} {exhibit.factor}",
        ]
        for column, (pixels, caption) in enumerate(zip(pictures, captions, strict=True)):
            axes = figure.add_subplot(len(shown), 3, 3 * place + column + 1)
            axes.imshow(pixels, interpolation="nearest" if len(pixels) < 100 else "antialiased")
            axes.set_axis_off()
            axes.set_title(_fitted(caption, CAPTION_INCHES, CAPTION), fontsize=CAPTION, pad=2)
            if column == 0:
                sides = (drawable(exhibit.cell.record.attack, "attack"), names[exhibit.cell.subject])
                text = "\n".join(_fitted(side, CAPTION_INCHES, CAPTION) for side in sides)
                axes.text(
                    -0.15, 0.5, text, transform=axes.transAxes, ha="right", va="center", fontsize=CAPTION
                )
    return figure


def _ball(matrix: TargetMatrix) -> str:
    return budget(matrix.threat.norm, matrix.threat.eps)


def _png(figure: Figure) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=DPI, facecolor="white", metadata={"Software": None})
    return content.getvalue()
