"""Runs that are read: finished, being written, killed; in place, copied, on read-only media."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from store_samples import IDENTITY, KEY, RESOLVED, make_cell, make_outcome

from robustbench_local.errors import ConfigError
from robustbench_local.store import RunStore

CHUNKS = [[make_outcome(position) for position in range(first, first + 20)] for first in (0, 20)]


Freeze = Callable[[Path], Path]
Unprivileged = Callable[[], AbstractContextManager[None]]


@pytest.fixture
def finished(directory: Path) -> Path:
    with RunStore.create_or_open(directory, resolved_yaml=RESOLVED, identity=IDENTITY) as store:
        store.put_cell(make_cell())
        for chunk in CHUNKS:
            store.add_outcomes(KEY, chunk)
    return directory


@pytest.fixture
def killed(store: RunStore, tmp_path: Path) -> Path:
    """A run whose last chunks are still in the log, as a kill leaves it."""
    for chunk in CHUNKS:
        store.add_outcomes(KEY, chunk)
    return Path(shutil.copytree(store.directory, tmp_path / "killed"))


def outcomes(directory: Path) -> list[object]:
    with RunStore.open_readonly(str(directory)) as reader:
        return [*reader.read_outcomes(KEY)]


def test_a_finished_run_in_a_read_only_folder(
    finished: Path, frozen: Freeze, unprivileged: Unprivileged
) -> None:
    frozen(finished)
    with unprivileged():
        assert outcomes(finished) == CHUNKS[0] + CHUNKS[1]


@pytest.mark.parametrize(
    "left", [{"run.db"}, {"run.db", "run.db-wal"}, {"run.db", "run.db-wal", "run.db-shm"}]
)
def test_a_killed_run_in_a_read_only_folder(
    killed: Path, left: set[str], frozen: Freeze, unprivileged: Unprivileged
) -> None:
    """Without its log it has lost what was in the log, and says so if that was everything."""
    for file in killed.iterdir():
        if file.name not in left:
            file.unlink()
    frozen(killed)
    if "run.db-wal" not in left:
        with unprivileged(), pytest.raises(ConfigError, match=r"run\.db is empty: .* its log run\.db-wal"):
            outcomes(killed)
        return
    with unprivileged():
        assert outcomes(killed) == CHUNKS[0] + CHUNKS[1]


def test_a_copy_of_a_run_whose_log_is_empty(
    store: RunStore, directory: Path, tmp_path: Path, frozen: Freeze, unprivileged: Unprivileged
) -> None:
    """As a run is left whose last reader went after its writer."""
    store.add_outcomes(KEY, CHUNKS[0])
    with RunStore.open_readonly(directory) as reader:
        reader.read_cells()
        store.close()
        copy = Path(shutil.copytree(directory, tmp_path / "copy"))
    assert (copy / "run.db-wal").stat().st_size == 0
    frozen(copy)
    with unprivileged():
        assert outcomes(copy) == CHUNKS[0]


def test_a_read_only_folder_is_refused_before_any_work(
    finished: Path, tmp_path: Path, frozen: Freeze, unprivileged: Unprivileged
) -> None:
    (tmp_path / "empty").mkdir()
    for folder in (frozen(finished), frozen(tmp_path / "empty"), tmp_path / "empty" / "new"):
        with unprivileged(), pytest.raises(ConfigError, match=f"{folder}.*permission denied") as caught:
            RunStore.create_or_open(folder, resolved_yaml=RESOLVED, identity=IDENTITY)
        assert caught.value.exit_code == 2


def test_a_database_that_may_not_be_written_to_is_refused(finished: Path, unprivileged: Unprivileged) -> None:
    finished.chmod(0o777)
    (finished / "run.db").chmod(0o444)
    with unprivileged(), pytest.raises(ConfigError, match=r"run\.db: cannot be used here"):
        RunStore.create_or_open(finished, resolved_yaml=RESOLVED, identity=IDENTITY)
    assert outcomes(finished) == CHUNKS[0] + CHUNKS[1]


def test_an_unreadable_run(finished: Path, unprivileged: Unprivileged) -> None:
    finished.chmod(0o700)
    (finished / "run.db").chmod(0)
    with unprivileged(), pytest.raises(ConfigError, match=r"permission denied|unable to open"):
        RunStore.open_readonly(finished)


def test_reading_leaves_a_finished_run_as_it_was(finished: Path) -> None:
    before = {file.name: file.read_bytes() for file in finished.iterdir()}
    assert outcomes(finished) == CHUNKS[0] + CHUNKS[1]
    assert {file.name: file.read_bytes() for file in finished.iterdir()} == before


def test_the_database_alone_is_the_run(finished: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "#copy 100% of 限速?"
    elsewhere.mkdir()
    shutil.copyfile(finished / "run.db", elsewhere / "run.db")
    assert outcomes(elsewhere) == CHUNKS[0] + CHUNKS[1]


def test_a_reader_follows_a_writer(store: RunStore, directory: Path) -> None:
    with RunStore.open_readonly(directory) as reader:
        for known, chunk in enumerate(CHUNKS, start=1):
            store.add_outcomes(KEY, chunk)
            assert len(reader.read_outcomes(KEY)) == 20 * known
        store.close()
        assert reader.read_outcomes(KEY) == CHUNKS[0] + CHUNKS[1]
    assert outcomes(directory) == CHUNKS[0] + CHUNKS[1]


def test_a_reader_at_work_does_not_spoil_the_end(store: RunStore, directory: Path, tmp_path: Path) -> None:
    store.add_outcomes(KEY, CHUNKS[0])
    with RunStore.open_readonly(directory) as reader:
        reader.read_cells()
        store.close()
        alone = tmp_path / "alone"
        alone.mkdir()
        shutil.copyfile(directory / "run.db", alone / "run.db")
    assert outcomes(alone) == CHUNKS[0]


def test_a_killed_run(killed: Path) -> None:
    assert outcomes(killed) == CHUNKS[0] + CHUNKS[1]


def test_there_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for directory in (tmp_path, tmp_path / "absent", tmp_path / "file"):
        with pytest.raises(ConfigError, match="there is no run here"):
            RunStore.open_readonly(directory)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
