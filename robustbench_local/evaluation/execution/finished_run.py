"""Detection of a finished run from its files alone, because planning takes torch and seconds.

A finished run stores everything its outcome may depend on: the grid, this package's files, versions, cards,
and the contents of data and weight files. Only grids whose entries all come from a few kinds of file can be
checked this way. In any doubt the grid is planned.
"""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

from robustbench_local.config.cards import find_card, list_card_files
from robustbench_local.config.file_lookup import find_file
from robustbench_local.config.methods import ATTACK_METHODS, CERTIFICATE_METHODS, DEFENSE_METHODS
from robustbench_local.errors import RobustbenchError
from robustbench_local.evaluation.grid.schema import NO_DEFENSE, DefenseEntry, Grid, ModelEntry
from robustbench_local.evaluation.options import Options
from robustbench_local.models.networks.network_registry import ARCHITECTURES
from robustbench_local.store.run_folder import DATABASE_NAME
from robustbench_local.store.run_store import RunStore

INPUTS_KEY = "inputs of the finished run"
"""Key under which a run stores the inputs of its outcome."""
MAX_READ_BYTES = 1 << 30
"""Maximum total size of files to read for this check; beyond it the run is planned."""
_PACKAGE_FOLDER = Path(__file__).parents[2]
_DECIDING_OPTIONS = (
    "limit",
    "seed",
    "sources",
    "targets",
    "search_precision",
    "allow_batch_dependence",
    "shard",
)
"""Options that override the grid, or let a model be evaluated that would be refused."""
_LIBRARIES = (
    "numpy",
    "pillow",
    "pyautoattack",
    "robustbench-local",
    "safetensors",
    "scipy",
    "torch",
    "torchattacks",
    "torchvision",
)
"""Distributions whose versions may change an outcome."""


class _UndecidableError(Exception):
    """The files alone do not determine what the outcome depends on."""


def describe_inputs(
    grid: Grid, base: Path, card_folders: Sequence[Path], options: Options
) -> dict[str, str] | None:
    """Return everything that the outcome of a run may depend on.

    Args:
        grid: The grid as written in its file.
        base: Folder that its relative paths start from.
        card_folders: Folders of the user's own cards.
        options: The options of the run.

    Returns:
        Names to digests and texts; None where the files alone do not determine them.
    """
    try:
        _check_methods(grid, card_folders)
        files = [*_list_data_files(grid, base), *(_find_weights(entry, base) for entry in grid.models)]
        return {
            "grid": grid.to_yaml(),
            "base": str(base.resolve()),
            **{f"option {name}": repr(getattr(options, name)) for name in _DECIDING_OPTIONS},
            "package": _digest_files(sorted(_iterate_package_files())),
            "cards": _digest_files(list_card_files(None, card_folders)),
            "files": _digest_files([path for path in files if path is not None]),
            "python": platform.python_version(),
            **{f"version of {name}": _find_version(name) for name in _LIBRARIES},
        }
    except (_UndecidableError, RobustbenchError, OSError, ValueError):
        return None


def may_be_finished(directory: Path) -> bool:
    """Check whether a directory holds a run at all, before files are read for it."""
    return (directory / DATABASE_NAME).is_file()


def is_finished(directory: Path, inputs: dict[str, str] | None) -> bool:
    """Check whether a directory holds a finished run with these inputs.

    Args:
        directory: The run directory.
        inputs: The current result of `describe_inputs`.
    """
    if inputs is None:
        return False
    try:
        with RunStore.open_readonly(directory) as store:
            cells = store.read_cells()
            is_complete = bool(cells) and all(cell.status in {"done", "skipped"} for cell in cells)
            return is_complete and store.read_meta(INPUTS_KEY) == inputs
    except RobustbenchError:  # planning it says what is wrong
        return False


def _check_methods(grid: Grid, folders: Sequence[Path]) -> None:
    """Refuse trainings, and methods whose code is outside this package."""
    for entry in grid.attacks:
        if entry.card in ATTACK_METHODS:
            continue
        card = find_card(entry.card, extra=folders)
        known = {"attack": ATTACK_METHODS, "certificate": CERTIFICATE_METHODS}.get(card.kind, {})
        _require_condition(card.method in known)
    for defense in _iterate_defenses(grid):
        if defense.card != NO_DEFENSE:
            method = DEFENSE_METHODS.get(find_card(defense.card, kind="defense", extra=folders).method)
            _require_condition(method is not None and "wrapper" in method.kinds)


def _iterate_defenses(grid: Grid) -> Iterator[DefenseEntry]:
    yield from grid.defenses
    for model in grid.models:
        yield from model.defenses or ()


def _list_data_files(grid: Grid, base: Path) -> list[Path]:
    """List the files that the images are read from, with the tables about them."""
    kind, _, name = grid.data.source.partition(":")
    tables = _list_data_tables(grid, base)
    if grid.data.source == "signs":
        return tables
    _require_condition(kind in {"npz", "folder"} and bool(name))
    path = Path(name).expanduser()
    path = base / path if (base / path).exists() else path
    if kind == "npz":
        _require_condition(path.is_file())
        return [path, *tables]
    _require_condition(path.is_dir())
    files = tables
    for folder, folders, names in os.walk(path):
        _require_condition(not any(Path(folder, name).is_symlink() for name in folders))
        files += [Path(folder, name) for name in names]
    return sorted(files)


def _list_data_tables(grid: Grid, base: Path) -> list[Path]:
    """List the tables that say which images belong together, and which are left out."""
    groups = None if grid.data.groups in ("none", "folder") else grid.data.groups
    paths = [Path(table).expanduser() for table in (groups, grid.data.exclude) if table is not None]
    paths = [base / path if (base / path).exists() else path for path in paths]
    _require_condition(all(path.is_file() for path in paths))
    return paths


def _find_weights(entry: ModelEntry, base: Path) -> Path | None:
    """Return a model's own weights file; None for a shipped model, whose file is part of the package."""
    plain = (
        entry.twin is None and entry.endpoint is None and entry.trust_pickle is None and entry.weights is None
    )
    kind, _, name = entry.source.partition(":")
    _require_condition(plain and kind in {"zoo", "checkpoint"})
    if kind == "zoo":
        _require_condition(entry.architecture is None)
        return None
    _require_condition(entry.architecture in ARCHITECTURES)
    return find_file(name, base)


def _require_condition(condition: bool) -> None:
    if not condition:
        raise _UndecidableError


def _iterate_package_files() -> Iterator[Path]:
    """Iterate over the package files that affect results: code, shipped weights, cards and grids."""
    for folder, folders, names in os.walk(_PACKAGE_FOLDER):
        folders[:] = [name for name in folders if name != "__pycache__"]
        yield from (Path(folder, name) for name in names)


def _digest_files(paths: Sequence[Path]) -> str:
    """Return the SHA-256 over the paths and contents of some files."""
    sizes = [path.stat().st_size for path in paths]
    _require_condition(sum(sizes) <= MAX_READ_BYTES)
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{path.absolute()}\0{content}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _find_version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"
