"""Which runs are listed, what is read for it, and that nothing is written."""

from __future__ import annotations

import os
import shutil

import pytest
from view_samples import (
    IDENTITY,
    SAMPLE,
    build_broken_runs,
    build_large_run,
    build_sample,
    link_copies,
)

from robustbench_local.errors import ConfigError
from robustbench_local.store import RunStore, database
from robustbench_local.view import run_catalog, run_folders
from robustbench_local.view.run_catalog import RunCatalog
from robustbench_local.view.run_folders import check_root, scan_folder


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return build_sample(tmp_path_factory.mktemp("sound") / "run")


def list_states(catalog):
    return {run.name: (run.states, run.problem) for run in catalog.list_runs()[0]}


def snapshot(root):
    return {
        path: (path.lstat().st_mtime_ns, path.lstat().st_size, path.lstat().st_mode)
        for path in sorted(root.rglob("*"))
    }


def test_runs_at_any_depth_are_listed_and_broken_ones_with_their_reason(sound, tmp_path):
    shutil.copytree(sound, tmp_path / "a/b/c")
    shutil.copytree(sound, tmp_path / "a/b/c/inside")
    reasons = build_broken_runs(tmp_path, sound)
    (tmp_path / ".hidden").mkdir()
    shutil.copytree(sound, tmp_path / ".hidden/run")
    (tmp_path / "elsewhere").symlink_to(sound, target_is_directory=True)
    before = snapshot(tmp_path)
    catalog = RunCatalog(tmp_path)
    listed = list_states(catalog)
    assert listed.keys() == {"a/b/c", "a/b/c/inside", *reasons}
    assert listed["a/b/c"] == (("no verdict",), "")
    for name, reason in reasons.items():
        assert listed[name][0] == ("unreadable",)
        assert reason in listed[name][1]
        assert str(tmp_path) not in listed[name][1]
    assert scan_folder(tmp_path).skipped == [("elsewhere", "a symbolic link, which is not followed")]
    assert snapshot(tmp_path) == before


def test_limits_of_the_walk(tmp_path, monkeypatch):
    (tmp_path / "1/2/3").mkdir(parents=True)
    monkeypatch.setattr(run_folders, "MAX_DEPTH", 2)
    assert [reason for _, reason in scan_folder(tmp_path).skipped] == [
        "folders more than 2 levels down are not looked into"
    ]
    monkeypatch.setattr(run_folders, "MAX_DEPTH", 3)
    assert scan_folder(tmp_path).skipped == []
    monkeypatch.setattr(run_folders, "MAX_FOLDERS", 4)
    assert scan_folder(tmp_path).skipped == []
    monkeypatch.setattr(run_folders, "MAX_FOLDERS", 3)
    assert "only the first 3 folders" in scan_folder(tmp_path).skipped[0][1]
    with pytest.raises(ConfigError, match="no such file or directory"):
        check_root(tmp_path / "nothing")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="not a directory"):
        check_root(tmp_path / "file")


def test_a_list_of_large_runs_reads_no_outcome_and_reads_a_run_once(tmp_path, monkeypatch):
    link_copies(build_large_run(tmp_path / "run", images=300), 12)
    statements, opened = [], []
    connect = database._connect_uri

    def connect_and_trace(path, mode):
        connection = connect(path, mode)
        connection.set_trace_callback(statements.append)
        opened.append((path, mode))
        return connection

    monkeypatch.setattr(database, "_connect_uri", connect_and_trace)
    catalog = RunCatalog(tmp_path)
    runs, _ = catalog.list_runs()
    assert len(runs) == len(opened) == 12
    assert {mode for _, mode in opened} == {"mode=ro"}
    assert statements
    assert not [text for text in statements if "outcomes" in text or "INSERT" in text]
    assert {str(run.summary.rows[0].rate) for run in runs} == {"0.500 (0.442 to 0.558, n=300)"}
    assert {run.states for run in runs} == {("pass",)}
    catalog.list_runs()
    assert len(opened) == 12
    os.utime(tmp_path / "run" / "run.db", ns=(1, 1))  # of all, because they are one file
    catalog.list_runs()
    assert len(opened) == 24


def test_a_run_without_a_summary_is_counted_small_ones_at_once(tmp_path, monkeypatch):
    build_large_run(tmp_path / "small", images=50, has_summary=False)
    build_large_run(tmp_path / "large", images=200, has_summary=False)
    sizes = {name: (tmp_path / name / "run.db").stat().st_size for name in ("small", "large")}
    monkeypatch.setattr(run_catalog, "MAX_BYTES_AT_ONCE", sizes["small"])
    catalog = RunCatalog(tmp_path, delay_seconds=0)
    runs = {run.name: run for run in catalog.list_runs()[0]}
    assert (runs["large"].is_pending, runs["small"].is_pending) == (True, False)
    assert runs["small"].summary.rows[0].rate.n == 50
    catalog.wait_until_counted()
    runs = {run.name: run for run in catalog.list_runs()[0]}
    assert not runs["large"].is_pending
    assert runs["large"].summary.rows[0].rate.n == 200


def test_a_summary_is_not_believed_after_the_run_has_gone_on(sound, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(sound, run)
    with RunStore.create_or_open(run, resolved_yaml="schema: 1\n", identity=IDENTITY) as store:
        key = store.read_cells()[0].key
        store.set_status(key, "partial", "stopped by the user")
    (listed,) = RunCatalog(tmp_path).list_runs()[0]
    assert listed.listing.summary is None
    assert listed.states == ("unfinished", "no verdict")
    assert not listed.summary.rows[0].is_complete


def test_a_run_that_is_being_written_is_running_and_not_counted(tmp_path):
    catalog = RunCatalog(tmp_path)
    build_sample(tmp_path / "run", SAMPLE)
    with RunStore.create_or_open(tmp_path / "run", resolved_yaml="schema: 1\n", identity=IDENTITY) as store:
        store.set_meta("name", "again")
        (run,) = catalog.list_runs()[0]
        assert run.states == ("running",)
        assert (run.summary, run.is_pending) == (None, False)
    (run,) = catalog.list_runs()[0]
    assert run.states == ("no verdict",)


def test_a_run_whose_count_fails_says_why(tmp_path, sound):
    run = tmp_path / "run"
    shutil.copytree(sound, run)
    with RunStore.create_or_open(run, resolved_yaml="schema: 1\n", identity=IDENTITY) as store:
        store.set_meta("gates", [{"metric": "nonsense", "min": 2}])
    (listed,) = RunCatalog(tmp_path).list_runs()[0]
    assert listed.states == ("unreadable",)
    assert "metric must be one of" in listed.problem


def test_a_killed_run_is_read_with_its_last_commits_and_no_file_of_it_changes(tmp_path):
    folder = build_sample(tmp_path / "run")
    with RunStore.create_or_open(folder, resolved_yaml="schema: 1\n", identity=IDENTITY) as store:
        store.set_meta("question", "Was it killed?")
        shutil.copytree(folder, tmp_path / "killed", ignore=shutil.ignore_patterns("run.lock"))
    assert (tmp_path / "killed/run.db-wal").stat().st_size > 0
    before = {path: path.read_bytes() for path in (tmp_path / "killed").iterdir() if path.is_file()}
    killed = next(run for run in RunCatalog(tmp_path).list_runs()[0] if run.name == "killed")
    assert killed.listing.question == "Was it killed?"
    assert killed.summary.rows[0].rate.n == 48
    after = {path: path.read_bytes() for path in (tmp_path / "killed").iterdir() if path.is_file()}
    assert after == before
