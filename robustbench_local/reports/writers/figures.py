"""The figures of a report as PNG files for slides and papers, with the content of the page."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from robustbench_local.reports.analysis.trust import mark_model
from robustbench_local.reports.figures.layout import LINE_COLOUR, MUTED_COLOUR, TEXT_COLOUR
from robustbench_local.reports.formatting.fonts import list_font_names, select_drawable_text
from robustbench_local.reports.sections.report_data import ReportData

DPI = 150

_STYLE = {
    "font.size": 9,
    "text.color": TEXT_COLOUR,
    "text.parse_math": False,  # a name may contain dollar signs
    "figure.constrained_layout.w_pad": 0.12,
    "figure.constrained_layout.h_pad": 0.1,
    "lines.markersize": 4,
    "axes.edgecolor": LINE_COLOUR,
    "axes.labelcolor": MUTED_COLOUR,
    "xtick.color": MUTED_COLOUR,
    "ytick.color": MUTED_COLOUR,
}


class DrawnFigures(NamedTuple):
    """The figures of a report, and those that there was no memory for."""

    files: dict[str, bytes]
    """File name -> PNG."""
    omitted: tuple[str, ...]
    """What is omitted: names of files, or of sections whose figures could not be drawn."""


def draw_figures(report_data: ReportData) -> DrawnFigures:
    """Draw every figure of a report.

    Args:
        report_data: Content of the report.

    Returns:
        The figures; the same data gives the same bytes. A name with characters that no installed font can
        draw is replaced by its number: the page has the name itself. A figure for which memory runs out is
        omitted.
    """
    files: dict[str, bytes] = {}
    omitted: list[str] = []
    for name, figure in draw_in_style(report_data, on_shortage=omitted.append):
        try:
            files[name] = _encode_png(figure)
        except MemoryError:
            omitted.append(name)
    return DrawnFigures(files, tuple(omitted))


def draw_in_style(
    report_data: ReportData,
    *,
    with_photographs: bool = True,
    on_shortage: Callable[[str], None] | None = None,
) -> Iterator[tuple[str, Figure]]:
    """Draw every figure in the style of all of them, which holds until the next one is asked for.

    Args:
        report_data: Content of the report.
        with_photographs: Whether figures that consist of photographs are among them.
        on_shortage: Receives the name of a section for whose figures memory runs out, which are then left
            out; None: the error is raised.

    Yields:
        File name, which ends in .png, and figure.
    """
    style: dict[Any, Any] = {"font.family": list_font_names(), **_STYLE}
    with mpl.rc_context(style):
        for name, figure, is_photograph in _iterate_figures(report_data, on_shortage):
            if with_photographs or not is_photograph:
                yield name, figure


def _iterate_figures(
    report_data: ReportData, on_shortage: Callable[[str], None] | None
) -> Iterator[tuple[str, Figure, bool]]:
    names = {
        subject: select_drawable_text(str(subject), f"model {number}")
        for number, subject in enumerate(report_data.evidence.subjects, start=1)
    }
    shown = sorted(report_data.list_shown_sections(), key=lambda part: part.section.has_photographs)
    evidence = report_data.evidence
    marks = {subject: mark_model(evidence, subject).partition(" (")[0] for subject in names}
    marked = {
        subject: f"{name}, {marks[subject]}" if marks[subject] else name for subject, name in names.items()
    }
    for section, content in shown:
        drawn = section.draw_figures(content, marked if section.has_marked_names else names)
        try:
            for name, figure in drawn:
                yield name, figure, section.has_photographs
        except MemoryError:
            if on_shortage is None:
                raise
            on_shortage(f"figures of {section.title or section.anchor!r}")


def _encode_png(figure: Figure) -> bytes:
    figure.set_dpi(DPI)
    figure.set_facecolor("white")
    content = io.BytesIO()
    # The bytes of savefig, without its second drawing for the layout alone.
    canvas: Any = FigureCanvasAgg(figure)
    canvas.print_png(content, metadata={"Software": None})
    return content.getvalue()
