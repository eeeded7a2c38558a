"""The runs below a folder: every folder with a run's files, without following a symbolic link."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from robustbench_local.errors import ConfigError
from robustbench_local.store.arrays import ARRAY_FOLDER
from robustbench_local.store.run_folder import DATABASE_NAME, RESOLVED_GRID_NAME

MAX_FOLDERS = 20_000
"""Folders that are looked into; a page says where there are more."""
MAX_DEPTH = 16
"""Levels of folders below the first that are looked into."""
_COPY_NAMES = frozenset({"results.json", RESOLVED_GRID_NAME})
"""Files of a run that do not make one without its database."""
_OWN_FOLDERS = frozenset({ARRAY_FOLDER, "figures"})
_ID_DIGITS = 16


@dataclass(frozen=True)
class FoundRun:
    """A folder that holds a run, or what is left of one."""

    id: str
    """Name in addresses: the first digits of the SHA-256 of ``path``."""
    path: str
    """Path below the folder of runs, with ``/``; ``.`` for that folder itself."""
    directory: Path
    """The folder."""
    problem: str = ""
    """Why it cannot be read, in one line; empty if nothing is known against it."""


@dataclass
class FolderScan:
    """What a walk through a folder found."""

    runs: list[FoundRun] = field(default_factory=list)
    """The runs, by path."""
    skipped: list[tuple[str, str]] = field(default_factory=list)
    """Path and reason of what was not looked into."""


def check_root(root: Path) -> Path:
    """Return the folder of runs as an absolute path.

    Raises:
        ConfigError: If it is no folder, or cannot be read.
    """
    try:
        os.scandir(root).close()
        return root.resolve()
    except (OSError, ValueError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise ConfigError(
            f"cannot be read: {reason}", where=str(root), remedy="name a folder with runs"
        ) from None


def scan_folder(root: Path) -> FolderScan:
    """Find the runs in a folder and below it.

    Args:
        root: The folder. Hidden folders, symbolic links and the folders inside a run that hold its images
            are not looked into.
    """
    scan = FolderScan()
    waiting, seen = [(root, ".", 0)], 0
    while waiting:
        directory, path, depth = waiting.pop()
        seen += 1
        if seen > MAX_FOLDERS:
            scan.skipped.append((path, f"only the first {MAX_FOLDERS:,} folders are looked into"))
            break
        children = _scan_one(scan, directory, path)
        if depth < MAX_DEPTH:
            waiting += [(child, _join_path(path, child.name), depth + 1) for child in reversed(children)]
        elif children:
            scan.skipped.append((path, f"folders more than {MAX_DEPTH} levels down are not looked into"))
    scan.runs.sort(key=lambda run: run.path)
    return scan


def build_run_id(path: str) -> str:
    """Return the name in addresses of the run at a path below the folder of runs."""
    return hashlib.sha256(path.encode("utf-8", "surrogateescape")).hexdigest()[:_ID_DIGITS]


def _scan_one(scan: FolderScan, directory: Path, path: str) -> list[Path]:
    """Add what one folder holds, and return the folders in it, by name."""
    try:
        with os.scandir(directory) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        scan.skipped.append((path, f"cannot be read: {(error.strerror or str(error)).lower()}"))
        return []
    is_run = _add_run(scan, directory, path, {entry.name: entry for entry in found})
    children = []
    for entry in found:
        if entry.name.startswith(".") or (is_run and entry.name in _OWN_FOLDERS):
            continue
        try:
            if entry.is_symlink():
                if entry.is_dir():
                    scan.skipped.append(
                        (_join_path(path, entry.name), "a symbolic link, which is not followed")
                    )
            elif entry.is_dir(follow_symlinks=False):
                children.append(directory / entry.name)
        except OSError:
            continue
    return children


def _add_run(scan: FolderScan, directory: Path, path: str, found: Mapping[str, os.DirEntry[str]]) -> bool:
    """Add a folder that holds a run, or what is left of one; return whether it does."""
    database = found.get(DATABASE_NAME)
    if database is None and not found.keys() >= _COPY_NAMES:
        return False
    problem = ""
    if database is None:
        problem = "there is no run.db: this is a copy of a report, without the run"
    elif database.is_symlink():
        problem = "run.db is a symbolic link, which is not followed"
    elif not database.is_file(follow_symlinks=False):
        problem = "run.db is not a file"
    scan.runs.append(FoundRun(build_run_id(path), path, directory, problem))
    return True


def _join_path(path: str, name: str) -> str:
    return name if path == "." else f"{path}/{name}"
