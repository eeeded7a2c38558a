"""The comparison of runs: page, Markdown and JSON, as text or as files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

from robustbench_local.errors import ConfigError
from robustbench_local.reports.analysis.changed_pictures import build_changed_pictures
from robustbench_local.reports.analysis.compared_run import name_runs, read_compared_run
from robustbench_local.reports.analysis.run_comparison import build_comparisons
from robustbench_local.reports.page.comparison_page import render_comparison_page
from robustbench_local.reports.sections.comparison.comparison_data import ComparisonData
from robustbench_local.reports.writers.comparison_json import encode_comparison
from robustbench_local.reports.writers.comparison_markdown import render_comparison_markdown
from robustbench_local.reports.writers.results_json import format_json
from robustbench_local.store import RunStore
from robustbench_local.store.atomic_files import make_directory, refuse_link, write_atomically

FileFormat = Literal["html", "markdown", "json"]
"""The forms of a comparison that can be files."""
FILE_NAMES: dict[FileFormat, str] = {
    "html": "compare.html",
    "markdown": "compare.md",
    "json": "compare.json",
}
MAX_PICTURES = 12
"""Pictures of changed images for each model, unless the caller asks for another number."""

_FORMAT_BY_SUFFIX: dict[str, FileFormat] = {
    ".html": "html",
    ".htm": "html",
    ".md": "markdown",
    ".markdown": "markdown",
    ".json": "json",
}


def read_comparison(
    directories: Sequence[Path],
    renamed: Mapping[str, str] | None = None,
    *,
    allow_different_data: bool = False,
    max_pictures: int = MAX_PICTURES,
    copies_log: bool = False,
) -> ComparisonData:
    """Read runs and compare each of them with the first.

    Args:
        directories: Two or more run directories, the baseline first; they are only read.
        renamed: Model of the baseline -> model of the other runs, where their ids differ.
        allow_different_data: Whether runs on other images are compared too, without pairs of images.
        max_pictures: Largest number of pictures of changed images for each model; 0 for none.
        copies_log: Whether killed runs are read in a copy, so that none of their files changes.

    Raises:
        ConfigError: If there is only one run, no run at a path, no model in common, or other data.
        DamagedError: If a run is damaged.
    """
    if len(directories) < 2:
        raise ConfigError("a comparison needs two runs or more", remedy="name the baseline first")
    with ExitStack() as stack:
        stores = [
            stack.enter_context(RunStore.open_readonly(directory, copies_log=copies_log))
            for directory in directories
        ]
        runs = [
            read_compared_run(store, name) for store, name in zip(stores, name_runs(directories), strict=True)
        ]
        comparisons = build_comparisons(runs, renamed, allow_different_data=allow_different_data)
        pictures = {
            (index, place): tuple(
                build_changed_pictures(
                    model.changed_images,
                    (runs[0], stores[0]),
                    (runs[index + 1], stores[index + 1]),
                    max_pictures,
                )
            )
            for index, comparison in enumerate(comparisons)
            for place, model in enumerate(comparison.models)
            if max_pictures
        }
    return ComparisonData(comparisons=comparisons, pictures=pictures)


def format_comparison(data: ComparisonData, form: FileFormat) -> str:
    """Format a comparison as a page, as Markdown or as JSON."""
    if form == "html":
        return render_comparison_page(data)
    if form == "markdown":
        return render_comparison_markdown(data)
    return format_json(encode_comparison(data))


def write_comparison(data: ComparisonData, out: Path, form: FileFormat | None = None) -> list[Path]:
    """Write a comparison.

    Args:
        data: The comparison.
        out: A file, whose ending says its form, or a folder for compare.html, compare.md and compare.json.
            Created if missing.
        form: Only this form; None: as the ending says, and all of them in a folder.

    Returns:
        The files.

    Raises:
        ConfigError: If the path cannot be written to, or the ending of the file says another form.
        RefusedError: If a symbolic link is in its place.
        StorageError: If a write fails; existing files stay intact.
    """
    files = _resolve_files(out, form)
    for path in files:
        make_directory(path.parent)
        refuse_link(path)
    for path, one_form in files.items():
        write_atomically(path, format_comparison(data, one_form))
    return list(files)


def _resolve_files(out: Path, form: FileFormat | None) -> dict[Path, FileFormat]:
    """Return the files to write, with their forms."""
    suffix = out.suffix.lower()
    if out.is_dir() or not suffix:
        forms = FILE_NAMES if form is None else (form,)
        return {out / FILE_NAMES[one]: one for one in forms}
    own = _FORMAT_BY_SUFFIX.get(suffix)
    if form is None and own is None:
        raise ConfigError(
            f"the ending {suffix!r} names no form of a comparison",
            where=str(out),
            remedy=f"use one of {', '.join(_FORMAT_BY_SUFFIX)}, or a folder",
        )
    if form is not None and own not in {None, form}:
        raise ConfigError(
            f"the ending {suffix!r} is that of {own}, and --format says {form}",
            where=str(out),
            remedy="leave --format out, or change the name",
        )
    return {out: form or own or "html"}
