"""A run in the forms of others, written to a folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from robustbench_local.errors import ConfigError, InvariantError, did_you_mean
from robustbench_local.reports.exports.latex_tables import write_latex_tables
from robustbench_local.reports.exports.model_card import write_model_cards
from robustbench_local.reports.exports.robustbench_entries import write_robustbench_entries
from robustbench_local.reports.report_files import pause_garbage_collection
from robustbench_local.reports.sections.report_data import ReportData, read_report_data
from robustbench_local.store import RunStore
from robustbench_local.store.atomic_files import make_directory, refuse_link, write_atomically

EXPORT_FOLDER = "export"
"""Folder in the run directory that exports are written to by default."""
_Files = Mapping[str, bytes] | Mapping[str, str]


def _draw_figures(report_data: ReportData) -> dict[str, bytes]:
    from robustbench_local.reports.exports.vector_figures import draw_vector_figures  # noqa: PLC0415 - matplotlib

    return draw_vector_figures(report_data)


EXPORT_FORMATS: Mapping[str, Callable[[ReportData], _Files]] = {
    "latex": lambda report_data: write_latex_tables(report_data.evidence),
    "figures": _draw_figures,
    "model-card": write_model_cards,
    "robustbench": lambda report_data: write_robustbench_entries(report_data.evidence),
}
"""Format -> what writes its files."""


def write_exports(run_dir: Path, out: Path | None = None, formats: Sequence[str] = ()) -> list[Path]:
    """Write a run, finished or not, in the forms of others; the same run always gives the same bytes.

    Args:
        run_dir: The run directory; only its folder ``export`` is written to.
        out: The folder to write to; by default ``export`` in the run directory. Created if missing.
        formats: Keys of ``EXPORT_FORMATS``; none: all of them.

    Returns:
        The files, in the order of their formats. A format of which the run has nothing writes none.

    Raises:
        ConfigError: If a format is unknown, there is no outcome, or the folder cannot be written to.
        DamagedError: If the run is damaged.
        RefusedError: If a file is a symbolic link.
        InvariantError: If an attack contradicts a certificate: then no number of the run can be published.
        StorageError: If a write fails; existing files stay intact.
    """
    chosen = _choose_formats(formats)
    folder = Path(run_dir) / EXPORT_FOLDER if out is None else Path(out)
    with pause_garbage_collection(), RunStore.open_readonly(Path(run_dir)) as store:
        report_data = read_report_data(store)
        if not any(cell.tally.n for cell in report_data.evidence.cells):
            raise ConfigError("the run has no outcome yet", where=str(run_dir), remedy="run its grid first")
        if violations := report_data.gate_report.violations:
            raise InvariantError(
                f"certificate violated: {violations[0]}",
                where=str(run_dir),
                remedy="publish no number of this run",
            )
        contents = {
            name: content for form in chosen for name, content in EXPORT_FORMATS[form](report_data).items()
        }
    make_directory(folder)
    paths = [folder / name for name in contents]
    for path in paths:
        refuse_link(path)  # check all before the first write
    for path, content in zip(paths, contents.values(), strict=True):
        write_atomically(path, content)
    return paths


def _choose_formats(formats: Sequence[str]) -> list[str]:
    for name in formats:
        if name not in EXPORT_FORMATS:
            raise ConfigError(
                f"unknown format {name!r}", where="--format", remedy=did_you_mean(name, EXPORT_FORMATS)
            )
    return [name for name in EXPORT_FORMATS if not formats or name in formats]
