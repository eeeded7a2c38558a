"""Killed at any moment and started again, a run ends with what an uninterrupted one has (F56, F57)."""

from __future__ import annotations

import random
import shutil
import sqlite3
import time
from pathlib import Path

import numpy as np
import pytest
from forker import CommandForker
from store_samples import (
    CHUNK_IMAGES,
    IDENTITY,
    KEY,
    OTHER_KEY,
    RESOLVED,
    make_arrays,
    make_cell,
    make_outcome,
    write_run,
)

from robustbench_local.store import RunStore


def check_whole_chunks(directory: Path) -> int:
    """A killed run shows complete chunks only, from the first on; gives how many outcomes there are."""
    if not (directory / "run.db").exists() or (directory / "run.db").stat().st_size == 0:
        return 0
    total = 0
    with RunStore.open_readonly(directory) as reader:
        for known in reader.read_cells():
            positions = [row.position for row in reader.read_outcomes(known.key)]
            assert positions == list(range(len(positions)))
            assert len(positions) % CHUNK_IMAGES == 0
            assert (
                reader.load_arrays(known.key).get("positions", np.empty(0)).tolist()[: len(positions)]
                == positions
            )
            total += len(positions)
    return total


def contents(directory: Path) -> dict[str, object]:
    with RunStore.open_readonly(directory) as reader:
        return {
            "cells": reader.read_cells(),
            "outcomes": [reader.read_outcomes(key) for key in (KEY, OTHER_KEY)],
            "arrays": [
                {name: array.tolist() for name, array in reader.load_arrays(key).items()}
                for key in (KEY, OTHER_KEY)
            ],
            "meta": reader.read_meta("seed"),
            "identity": reader.read_identity(),
            "files": sorted(str(file.relative_to(directory)) for file in directory.rglob("*")),
        }


@pytest.mark.parametrize("kills", [3, pytest.param(25, marks=pytest.mark.slow)])
def test_killed_again_and_again(tmp_path: Path, forker: CommandForker, kills: int) -> None:
    chunks = 8 * kills
    whole, directory = tmp_path / "whole", tmp_path / "killed"
    write_run(whole, chunks)
    rng, seen = random.Random(20), [0]
    for _ in range(kills):
        # A chunk takes some 3 ms, opening some 10: the moment falls anywhere in either.
        process = forker.start("write", str(directory), chunks)
        for _ in range(rng.randrange(4)):
            forker.read_line()
        time.sleep(rng.uniform(0, 0.02))
        forker.kill_command(process)
        seen.append(check_whole_chunks(directory))
        assert seen[-1] >= seen[-2]
    assert seen[-1] > 0
    write_run(directory, chunks)
    assert contents(directory) == contents(whole)
    with RunStore.open_readonly(directory) as reader:
        assert all("took over the lock" in event.message for event in reader.read_events())


def test_killed_while_it_starts(tmp_path: Path) -> None:
    """Each state that a kill during the first milliseconds can leave is one to start from."""
    whole = tmp_path / "whole"
    write_run(whole, 2)
    for last, names in enumerate((["run.lock"], ["run.lock", "run.db"])):
        directory = tmp_path / f"killed{last}"
        directory.mkdir()
        for name in names:
            (directory / name).touch()
        write_run(directory, 2)
        assert contents(directory) == contents(whole)


def test_a_kill_between_schema_and_identity(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunStore, "_check_or_write_identity", killed)
        with pytest.raises(KeyboardInterrupt):
            RunStore.create_or_open(directory, resolved_yaml=RESOLVED, identity=IDENTITY)
    assert (directory / "run.db").stat().st_size > 0
    with RunStore.create_or_open(directory, resolved_yaml=RESOLVED, identity=IDENTITY) as store:
        assert store.read_identity() == IDENTITY
        assert not store.resumed


def test_a_torn_log_loses_its_last_chunk_only(store: RunStore, directory: Path, tmp_path: Path) -> None:
    """A power cut leaves any part of the last write: whatever it is, whole chunks remain (F57)."""
    for first in range(0, 8 * CHUNK_IMAGES, CHUNK_IMAGES):
        store.save_arrays(KEY, first, make_arrays(first, CHUNK_IMAGES))
        store.add_outcomes(KEY, [make_outcome(first + offset) for offset in range(CHUNK_IMAGES)])
    log = (directory / "run.db-wal").read_bytes()
    rng, left = random.Random(7), set()
    for attempt in range(24):
        torn = tmp_path / f"torn{attempt}"
        shutil.copytree(directory, torn, ignore=shutil.ignore_patterns("*-shm", "*.lock"))
        cut = rng.randrange(len(log) // 4, len(log))
        rubbish = rng.randbytes(512) if attempt % 2 else b""
        (torn / "run.db-wal").write_bytes(log[:cut] + rubbish)
        left.add(check_whole_chunks(torn))
        with RunStore.create_or_open(torn, resolved_yaml=RESOLVED, identity=IDENTITY) as resumed:
            for key in (KEY, OTHER_KEY):
                resumed.put_cell(make_cell(key))
            resumed.add_outcomes(KEY, [make_outcome(position) for position in range(8 * CHUNK_IMAGES)])
            assert resumed.read_outcomes(KEY) == [
                make_outcome(position) for position in range(8 * CHUNK_IMAGES)
            ]
    assert len(left) > 4, "the cuts all fell in one place"


def test_a_commit_is_on_the_disk_when_it_returns(store: RunStore, directory: Path) -> None:
    (durability,) = store._connection.execute("PRAGMA synchronous").fetchone()
    (mode,) = store._connection.execute("PRAGMA journal_mode").fetchone()
    assert (durability, mode) == (2, "wal")
    store.close()
    with sqlite3.connect(directory / "run.db") as raw:
        assert raw.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    raw.close()
