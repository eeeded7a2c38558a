"""The merge itself: one run from the finished parts of it, written whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from glob import escape
from pathlib import Path

from robustbench_local.errors import ConfigError, InvariantError, LockedError
from robustbench_local.merging.merged_cells import MergedCell, count_verdicts, merge_cells
from robustbench_local.merging.merged_grid import merge_grids
from robustbench_local.merging.merged_images import find_first_positions, select_positions
from robustbench_local.merging.merged_metadata import list_version_differences, merge_metadata
from robustbench_local.merging.run_part import RunPart, read_part
from robustbench_local.merging.shard_parts import check_shards
from robustbench_local.reports.analysis.compared_run import name_runs
from robustbench_local.reports.summary.run_summary_rows import store_summary
from robustbench_local.run import Run
from robustbench_local.store import EventRecord, RunStore
from robustbench_local.store.adaptations import read_adaptation, save_adaptation
from robustbench_local.store.atomic_files import convert_storage_errors, make_directory, sync_directory
from robustbench_local.store.lock import DirectoryLock
from robustbench_local.store.run_folder import DATABASE_NAME, LOCK_NAME


def merge_runs(parts: Sequence[Run | Path | str], out: Path | str) -> Run:
    """Merge runs whose parts were computed apart into one run.

    The parts may be other attacks or models on the same data, the cells of one grid that was run on several
    machines, or other images of the same cells. Every row and image of the parts is checked against its
    digest, and so is the merged run before it gets its name: whatever interrupts the merge, ``out`` is whole
    or absent.

    Args:
        parts: Two or more runs, or their directories; they are only read. A folder of run directories stands
            for all of them.
        out: Directory of the merged run; absent or empty.

    Returns:
        The merged run. It is judged and reported like any other.

    Raises:
        ConfigError: If data, seed, code, versions or a model differ, an image of a cell is in two parts
            (overlap) or in none (gap), a shard is missing, there twice or not complete, or ``out`` is not
            empty; the message names what.
        DamagedError: If a part is damaged.
        StorageError: If the disk refuses a write.
    """
    directories = list_run_directories(parts)
    target = Path(out)
    _check_arguments(directories, target)
    with ExitStack() as stack:
        stores = [stack.enter_context(RunStore.open_readonly(directory)) for directory in directories]
        read = [read_part(store, name) for store, name in zip(stores, name_runs(directories), strict=True)]
        with _replace_when_whole(target) as folder:
            _write_run(read, folder)
    return Run(target)


def list_run_directories(parts: Sequence[Run | Path | str]) -> list[Path]:
    """List the directories of runs; a folder that holds run directories and no run stands for them."""
    directories: list[Path] = []
    for part in parts:
        folder = part.directory if isinstance(part, Run) else Path(part)
        with convert_storage_errors(folder):
            inside = sorted(path.parent for path in folder.glob(f"*/{DATABASE_NAME}"))
            is_run = (folder / DATABASE_NAME).exists()
        directories += inside if inside and not is_run else [folder]
    return directories


def _check_arguments(directories: Sequence[Path], target: Path) -> None:
    if len(directories) < 2:
        raise ConfigError("a merge needs two parts or more", remedy="name the run directories of all parts")
    resolved = [directory.resolve() for directory in directories]
    for index, directory in enumerate(resolved):
        if directory in resolved[:index]:
            raise ConfigError("the same run is given twice", where=str(directories[index]))
    with convert_storage_errors(target):
        if target.is_symlink() or (target.exists() and (not target.is_dir() or any(target.iterdir()))):
            raise ConfigError(
                "the folder of the merged run exists and is not empty",
                where=str(target),
                remedy="choose a new or empty folder",
            )


@contextmanager
def _replace_when_whole(target: Path) -> Iterator[Path]:
    """Yield a hidden folder beside the target; it gets the target's name if the body succeeds."""
    make_directory(target.parent)
    _remove_killed_merges(target)
    folder = target.with_name(f".{target.name}.{os.getpid()}.merging")
    with convert_storage_errors(target):
        shutil.rmtree(folder, ignore_errors=True)
    try:
        yield folder
        with convert_storage_errors(target):
            if target.exists():
                target.rmdir()
            folder.rename(target)
            sync_directory(target.parent)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _remove_killed_merges(target: Path) -> None:
    """Remove the folders of merges into the same target that were killed; their lock files are left."""
    for path in target.parent.glob(f".{escape(target.name)}.*.merging/{LOCK_NAME}"):
        with suppress(LockedError, OSError):  # another process is at work there
            DirectoryLock(path).release_lock()
            shutil.rmtree(path.parent, ignore_errors=True)


def _write_run(parts: Sequence[RunPart], folder: Path) -> None:
    """Write the merged run into a folder, and read it again as anyone would."""
    grid, identity = merge_grids(parts)
    check_shards(parts)
    cells = merge_cells(parts)
    counts = count_verdicts(cells)
    with RunStore.create_or_open(folder, resolved_yaml=grid.to_yaml(), identity=identity) as store:
        store.update_meta(merge_metadata(parts, grid, cells))
        _write_events(store, parts, counts)
        for cell in cells:
            _write_cell(store, cell, max_example_images=grid.gallery)
        store_summary(store)
    with RunStore.open_readonly(folder) as store:
        if store.find_damaged_arrays() or len(store.read_cells()) != len(cells):
            raise InvariantError("the merged run differs from what was written", where=str(folder))


def _write_events(store: RunStore, parts: Sequence[RunPart], counts: Mapping[str, tuple[int, int]]) -> None:
    """Write the events of all parts, with their names, and that they were merged."""
    for part in parts:
        for event in part.store.read_events():
            store.add_event(replace(event, message=f"{part.name}: {event.message}"))
    now = datetime.now(UTC).isoformat(timespec="seconds")
    names = ", ".join(f"{part.name} ({counts.get(part.name, (0, 0))[1]:,})" for part in parts)
    lines = [("info", f"merged from these parts, with their numbers of verdicts: {names}")]
    differing = list_version_differences(parts)
    if differing:
        lines.append(
            ("warning", f"the parts have other versions of {'; '.join(differing)}; digits may differ")
        )
    for level, line in lines:
        store.add_event(EventRecord(time=now, level="info" if level == "info" else "warning", message=line))


def _write_cell(store: RunStore, cell: MergedCell, *, max_example_images: int) -> None:
    """Write one cell with the rows of all its parts, and as many of their images as one run keeps."""
    key = cell.record.key
    kept = find_first_positions([part.store.load_arrays(key) for part in cell.parts], max_example_images)
    store.put_cell(replace(cell.record, status="pending", error=None))
    for part in cell.parts:
        adaptation = read_adaptation(part.store, key)
        if adaptation is not None:
            save_adaptation(store, key, adaptation)
        outcomes = part.store.read_outcomes(key)
        arrays = select_positions(part.store.load_arrays(key), kept)
        if arrays:
            store.save_arrays(key, min((row.position for row in outcomes), default=0), arrays)
        if outcomes or arrays:
            store.add_outcomes(
                key, outcomes, part.store.read_view_predictions(key), part.store.read_views(key)
            )
    store.set_status(key, cell.record.status, cell.record.error)
