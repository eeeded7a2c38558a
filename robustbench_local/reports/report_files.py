"""The report of a run: one HTML file, and CSV, JSON, Markdown and figures beside it."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from robustbench_local.counted_nouns import choose_form, format_count
from robustbench_local.reports.analysis.gates import GateReport
from robustbench_local.reports.page import render
from robustbench_local.reports.page.live_charts import build_live_charts, load_chart_script
from robustbench_local.reports.sections.report_data import ReportData, read_report_data
from robustbench_local.reports.sections.section import JsonDict
from robustbench_local.reports.writers.csv_files import (
    format_classes_csv,
    format_confusions_csv,
    format_results_csv,
    format_sticker_views_csv,
)
from robustbench_local.reports.writers.outcome_files import open_outcome_files
from robustbench_local.reports.writers.report_markdown import render_markdown
from robustbench_local.reports.writers.results_json import encode_results, format_json
from robustbench_local.store import RunStore
from robustbench_local.store.atomic_files import (
    make_directory,
    make_directory_in,
    refuse_link,
    write_atomically,
)

if TYPE_CHECKING:
    from robustbench_local.reports.writers.figures import DrawnFigures

PAGE_FILE_NAME = "report.html"
FIGURES_FOLDER = "figures"


class WrittenReport(NamedTuple):
    """A report and what it says, for who shows it elsewhere too."""

    page: Path
    """The HTML file."""
    results: JsonDict
    """The content of results.json."""
    gate_report: GateReport
    """The verdicts of the run's gates."""
    notes: tuple[str, ...] = ()
    """Sentences about what the report leaves out, for the terminal; the page and report.md have them, too."""


def write_report(run_dir: Path, out: Path | None = None, *, interactive: bool = False) -> Path:
    """Write the report of a run and return its HTML file; see ``write_report_files``."""
    return write_report_files(run_dir, out, interactive=interactive).page


def write_report_files(run_dir: Path, out: Path | None = None, *, interactive: bool = False) -> WrittenReport:
    """Write the report of a run, finished or not: one HTML file, and its siblings beside it.

    The siblings are results.json, results.csv, outcomes.csv, with the extra ``arrow`` outcomes.parquet,
    report.md, the PNG files in figures/, where several classes were attacked classes.csv and confusions.csv,
    and where signs were evaluated over views sticker_views.csv. The same run always gives the same bytes.

    Args:
        run_dir: The run directory; it is only read.
        out: The HTML file, or a folder for ``report.html``; by default the run directory. Created if missing.
        interactive: Whether charts are drawn by a script inside the page, which needs the extra ``charts``.

    Returns:
        The HTML file, and what the report says.

    Raises:
        ConfigError: If there is no run, the folder cannot be written to, or the extra ``charts`` is missing.
        DamagedError: If the run is damaged. Damaged images alone are omitted, with a finding.
        RefusedError: If a file or the folder of figures is a symbolic link.
        StorageError: If a write fails; existing files stay intact.
    """
    page = _resolve_page_path(Path(run_dir) if out is None else Path(out))
    if interactive:
        load_chart_script()  # whatever is missing is said before anything is written
    with pause_garbage_collection(), RunStore.open_readonly(Path(run_dir)) as store:
        make_directory(page.parent)
        make_directory_in(page.parent, FIGURES_FOLDER)
        with open_outcome_files(page.parent) as write_cell:
            content = read_report_data(store, write_cell)
            results = encode_results(content.evidence, content.gate_report, content.sections)
            drawn = _draw_figures(content)
            if drawn.omitted:
                content = content.add_remark(_describe_omission(drawn.omitted))
            files = _format_files(store, content, results, drawn.files)
            for name in (*files, page.name):
                refuse_link(page.parent / name)  # check all before the first file is replaced
        for name, text in files.items():
            write_atomically(page.parent / name, text)
        live = build_live_charts(content.evidence) if interactive else None
        write_atomically(page, render(content, live))
    notes = (_describe_omission(drawn.omitted),) if drawn.omitted else ()
    return WrittenReport(page, results, content.gate_report, notes)


@contextmanager
def pause_garbage_collection() -> Iterator[None]:
    """Collect no cycles inside the context: verdicts have none, and walks over millions of them take long."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _draw_figures(content: ReportData) -> DrawnFigures:
    from robustbench_local.reports.writers.figures import draw_figures  # noqa: PLC0415 - matplotlib

    return draw_figures(content)


def _describe_omission(names: Sequence[str]) -> str:
    """Describe the figures that there was no memory for."""
    what = f"{format_count(len(names), 'figure')} {choose_form(len(names), 'is', 'are')} left out"
    return f"{what}, because memory ran out while drawing: {', '.join(names)}; rbl report writes them later"


def _format_files(
    store: RunStore, content: ReportData, results: JsonDict, drawn: Mapping[str, bytes]
) -> dict[str, str | bytes]:
    """Format the files beside the page by their names; outcomes.csv is too large for the memory."""
    figures = {f"{FIGURES_FOLDER}/{name}": png for name, png in drawn.items()}
    evidence = content.evidence
    return {
        "results.json": format_json(results),
        "results.csv": format_results_csv(evidence),
        **(_format_class_files(content) if content.has_section("classes") else {}),
        **(
            {"sticker_views.csv": format_sticker_views_csv(store, evidence)}
            if content.has_section("stickers")
            else {}
        ),
        "report.md": render_markdown(content, list(figures)),
        **figures,
    }


def _format_class_files(content: ReportData) -> dict[str, str]:
    return {
        "classes.csv": format_classes_csv(content.evidence),
        "confusions.csv": format_confusions_csv(content.evidence),
    }


def _resolve_page_path(out: Path) -> Path:
    """Return the HTML file: the path itself if it ends in .html, else a file in that folder."""
    is_file = out.suffix.lower() in {".html", ".htm"} and not out.is_dir()
    return out if is_file else out / PAGE_FILE_NAME
