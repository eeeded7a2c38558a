"""A disk that takes no more: exit code 4, everything committed before is there, and the run resumes (F59)."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from forker import CommandForker
from store_samples import (
    CHUNK_IMAGES,
    IDENTITY,
    KEY,
    RESOLVED,
    make_arrays,
    make_cell,
    make_outcome,
    write_run,
)

from robustbench_local.errors import StorageError
from robustbench_local.store import RunStore

FORKER = Path(__file__).with_name("forker.py")

pytestmark = pytest.mark.skipif(os.name == "nt", reason="limits of POSIX")


def committed(directory: Path) -> int:
    """Outcomes of the first cell; all of them must be right."""
    with RunStore.open_readonly(directory) as reader:
        rows = reader.read_outcomes(KEY)
    assert rows == [make_outcome(position) for position in range(len(rows))]
    assert len(rows) % CHUNK_IMAGES == 0
    return len(rows)


def check_refused(code: int, said: list[str]) -> None:
    assert code == StorageError.exit_code == 4, said
    assert said[-1].startswith("StorageError: ")


def test_a_limit_on_file_size(directory: Path, forker: CommandForker) -> None:
    """The system refuses to let a file grow, as a quota does: EFBIG, since Python ignores SIGXFSZ."""
    forker.start("write", str(directory), 30, 250_000)
    check_refused(*forker.wait())
    before = committed(directory)
    assert 0 < before < 30 * CHUNK_IMAGES
    write_run(directory, 30)
    assert committed(directory) == 30 * CHUNK_IMAGES


@pytest.mark.slow
def test_a_small_disk(tmp_path: Path) -> None:
    """A file system of 400 KB in a mount namespace of its own."""
    if sys.platform != "linux" or shutil.which("unshare") is None:
        pytest.skip("needs unshare")
    disk, saved = tmp_path / "disk", tmp_path / "saved"
    disk.mkdir()
    script = (
        'mount -t tmpfs -o size=400k none "$1" || exit 99; '
        '"$2" "$3" "$4"; code=$?; cp -r "$1/run" "$5"; exit $code'
    )
    command = json.dumps(["write", str(disk / "run"), 500])
    process = subprocess.run(
        [
            "unshare",
            "-rm",
            "sh",
            "-c",
            script,
            "sh",
            str(disk),
            sys.executable,
            str(FORKER),
            command,
            str(saved),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode == 99 or process.stderr.startswith("unshare"):
        pytest.skip("may not mount a file system here")
    check_refused(process.returncode, process.stdout.splitlines())
    before = committed(saved)
    assert before > 0
    assert not list(saved.rglob(".*"))
    write_run(saved, before // CHUNK_IMAGES + 3)
    assert committed(saved) == before + 3 * CHUNK_IMAGES


def test_a_refused_chunk_changes_nothing_and_can_be_given_again(store: RunStore) -> None:
    store.add_outcomes(KEY, [make_outcome(0)])
    pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
    store._connection.execute(f"PRAGMA max_page_count = {pages + 1}")
    many = [make_outcome(position) for position in range(500)]
    with pytest.raises(StorageError, match=r"run\.db: .*database or disk is full"):
        store.add_outcomes(KEY, many)
    assert store.read_outcomes(KEY) == [make_outcome(0)]
    store._connection.execute("PRAGMA max_page_count = 100000")
    assert store.add_outcomes(KEY, many) == 499


def test_arrays_keep_their_old_chunk(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.save_arrays(KEY, 0, make_arrays(0, 5))

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("robustbench_local.store.atomic_files.os.fsync", full)
        with pytest.raises(StorageError):
            store.save_arrays(KEY, 0, make_arrays(0, 2))
    assert store.load_arrays(KEY)["positions"].tolist() == [0, 1, 2, 3, 4]


def test_another_program_that_holds_the_database(store: RunStore, directory: Path) -> None:
    store._connection.execute("PRAGMA busy_timeout = 50")
    other = sqlite3.connect(directory / "run.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StorageError, match="database is locked"):
        store.add_outcomes(KEY, [make_outcome(0)])
    other.execute("ROLLBACK")
    other.close()
    assert store.add_outcomes(KEY, [make_outcome(0)]) == 1


def test_a_full_disk_at_the_end_keeps_the_log(directory: Path) -> None:
    """Folding the log into the database needs room; without it both files together are the run."""
    store = RunStore.create_or_open(directory, resolved_yaml=RESOLVED, identity=IDENTITY)
    store.put_cell(make_cell())
    store.add_outcomes(KEY, [make_outcome(position) for position in range(50)])
    reader = sqlite3.connect(directory / "run.db", isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM outcomes").fetchone()
    store.add_outcomes(KEY, [make_outcome(position) for position in range(50, 100)])
    store.close()
    assert not (directory / "run.lock").exists()
    assert (directory / "run.db-wal").stat().st_size > 0
    with RunStore.open_readonly(directory) as again:
        assert len(again.read_outcomes(KEY)) == 100
    reader.close()
