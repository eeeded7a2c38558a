"""The figures of a report as PNG files for slides and papers, with the content of the page."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

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


def draw_figures(report_data: ReportData) -> dict[str, bytes]:
    """Draw every figure of a report.

    Args:
        report_data: Content of the report.

    Returns:
        File name -> PNG; the same data gives the same bytes. A name with characters that no installed font
        can draw is replaced by its number: the page has the name itself.
    """
    return {name: _encode_png(figure) for name, figure in draw_in_style(report_data)}


def draw_in_style(report_data: ReportData, *, with_photographs: bool = True) -> Iterator[tuple[str, Figure]]:
    """Draw every figure in the style of all of them, which holds until the next one is asked for.

    Args:
        report_data: Content of the report.
        with_photographs: Whether figures that consist of photographs are among them.

    Yields:
        File name, which ends in .png, and figure.
    """
    style: dict[Any, Any] = {"font.family": list_font_names(), **_STYLE}
    with mpl.rc_context(style):
        for name, figure, is_photograph in _iterate_figures(report_data):
            if with_photographs or not is_photograph:
                yield name, figure


def _iterate_figures(report_data: ReportData) -> Iterator[tuple[str, Figure, bool]]:
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
        for name, figure in section.draw_figures(content, marked if section.has_marked_names else names):
            yield name, figure, section.has_photographs


def _encode_png(figure: Figure) -> bytes:
    figure.set_dpi(DPI)
    figure.set_facecolor("white")
    content = io.BytesIO()
    # The bytes of savefig, without its second drawing for the layout alone.
    canvas: Any = FigureCanvasAgg(figure)
    canvas.print_png(content, metadata={"Software": None})
    return content.getvalue()
