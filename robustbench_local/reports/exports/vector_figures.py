"""The charts of a report as SVG and PDF files for papers."""

from __future__ import annotations

import io
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from robustbench_local.reports.sections.report_data import ReportData
from robustbench_local.reports.writers.figures import draw_in_style

_VECTOR_STYLE: dict[Any, Any] = {
    "pdf.fonttype": 42,  # TrueType: journals refuse Type 3
    "svg.fonttype": "path",  # looks the same without the fonts
    "svg.hashsalt": "robustbench_local",  # else ids are random
}


def draw_vector_figures(report_data: ReportData) -> dict[str, bytes]:
    """Draw each chart of a report as SVG and as PDF; the same data gives the same bytes.

    Photographs are left out: stickers and patches stay in simulation, and a file without pixels of its own
    could be printed at any size.

    Returns:
        File name -> content.
    """
    files = {}
    with mpl.rc_context(_VECTOR_STYLE):
        for name, figure in draw_in_style(report_data, with_photographs=False):
            stem = name.removesuffix(".png")
            files[f"{stem}.svg"] = _encode_svg(figure)
            files[f"{stem}.pdf"] = _encode_pdf(figure)
    return files


def _encode_svg(figure: Figure) -> bytes:
    content = io.BytesIO()
    canvas: Any = FigureCanvasSVG(figure)
    canvas.print_svg(content, metadata={"Date": None})
    return content.getvalue()


def _encode_pdf(figure: Figure) -> bytes:
    content = io.BytesIO()
    canvas: Any = FigureCanvasPdf(figure)
    canvas.print_pdf(content, metadata={"CreationDate": None})
    return content.getvalue()
