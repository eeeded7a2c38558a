"""Changes to a bundle as somebody makes them who wants other numbers in it."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

from robustbench_local.evidence_bundle.archive_writer import hash_file, list_files, write_archive
from robustbench_local.evidence_bundle.attestation import build_statement, format_statement
from robustbench_local.evidence_bundle.bundle_files import STATEMENT_NAME, UNLISTED_NAMES


def change_bundle(
    bundle: Path, out: Path, change: Callable[[Path], object], *, writes_hashes: bool = True
) -> Path:
    """Write a changed bundle; with new hashes, as anyone can who can write the file."""
    write_archive(change_files(bundle, out.with_suffix(".files"), change, writes_hashes=writes_hashes), out)
    return out


def change_files(
    bundle: Path, folder: Path, change: Callable[[Path], object], *, writes_hashes: bool = True
) -> Path:
    """Write the files of a changed bundle to a folder."""
    with zipfile.ZipFile(bundle) as archive:
        archive.extractall(folder)
    change(folder)
    if writes_hashes:
        names = [name for name in list_files(folder) if name not in UNLISTED_NAMES]
        results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        statement = build_statement({name: hash_file(folder / name) for name in names}, results)
        (folder / STATEMENT_NAME).write_bytes(format_statement(statement))
    return folder


def edit_json(name: str, edit: Callable[[dict], object]) -> Callable[[Path], None]:
    """Return a change of a JSON file, written as `rbl bundle` writes it."""

    def change(folder: Path) -> None:
        content = json.loads((folder / name).read_text(encoding="utf-8"))
        edit(content)
        indent = {"results.json": 2, "records/run.json": None}.get(name, 1)
        (folder / name).write_text(
            json.dumps(content, indent=indent, ensure_ascii=False) + "\n", encoding="utf-8"
        )

    return change


def replace_text(pattern: str, old: str, new: str) -> Callable[[Path], None]:
    """Return a change of the first such text in the first file of a pattern."""

    def change(folder: Path) -> None:
        path = sorted(folder.glob(pattern))[0]
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new, 1), encoding="utf-8")

    return change
