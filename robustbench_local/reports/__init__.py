"""Reports: what a run found, for readers, reviewers, spreadsheets and pipelines. They only read the store."""

from __future__ import annotations

from pathlib import Path

from robustbench_local.reports.content import read_content
from robustbench_local.reports.figures import draw_figures
from robustbench_local.reports.markdown import write_markdown
from robustbench_local.reports.page import render
from robustbench_local.reports.results import as_json, to_text
from robustbench_local.reports.tables import outcomes_csv, results_csv, sightings_csv
from robustbench_local.store import RunStore
from robustbench_local.store.files import make_directory, write_atomically

__all__ = ["write_report"]

PAGE = "report.html"
FIGURES = "figures"


def write_report(run_dir: Path, out: Path | None = None) -> Path:
    """Write the report of a run, finished or not: one HTML file, and its siblings beside it.

    The siblings are results.json, results.csv, outcomes.csv, report.md, the PNG files in figures/ and, where
    signs were looked at from many views, sightings.csv. The same run gives the same bytes each time.

    Args:
        run_dir: The run directory; it is only read.
        out: The HTML file; by default ``report.html`` in the run directory.

    Returns:
        The HTML file.

    Raises:
        ConfigError: If there is no run, or the place cannot be written to.
        StorageError: If the disk refuses; files that were there stay whole.
    """
    page = Path(run_dir) / PAGE if out is None else Path(out)
    with RunStore.open_readonly(Path(run_dir)) as store:
        content = read_content(store)
        outcomes = outcomes_csv(store, content.evidence)
        sightings = sightings_csv(store, content.evidence) if content.stickers else None
    figures = {f"{FIGURES}/{name}": png for name, png in draw_figures(content).items()}
    files: dict[str, str | bytes] = {
        "results.json": to_text(as_json(content.evidence, content.gates)),
        "results.csv": results_csv(content.evidence),
        "outcomes.csv": outcomes,
        **({} if sightings is None else {"sightings.csv": sightings}),
        "report.md": write_markdown(content, list(figures)),
        **figures,
    }
    make_directory(page.parent / FIGURES)
    for name, text in files.items():
        write_atomically(page.parent / name, text)
    write_atomically(page, render(content))
    return page
