"""Shards of a run: what one says about itself, and which of them become one run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from run_parts import META_KEYS, SAMPLE, copy_cell, make_grid, read_rows
from sample_run import build_run

from robustbench_local.cli.main import run_command
from robustbench_local.cli.run_results import make_console, show_results
from robustbench_local.config.gate_policy import load_policy
from robustbench_local.errors import ConfigError
from robustbench_local.evaluation.grid.verdict_keys import flatten_verdict_keys
from robustbench_local.merging.merge_runs import list_run_directories, merge_runs
from robustbench_local.merging.shard_parts import check_shards
from robustbench_local.reports import write_report
from robustbench_local.reports.analysis.gates import judge_run_dir
from robustbench_local.reports.analysis.policy_gates import judge_run_by_policy
from robustbench_local.run import Run
from robustbench_local.shard import Shard
from robustbench_local.store import RunStore
from robustbench_local.store.diagnostic_records import DIAGNOSTICS_KEY
from robustbench_local.store.run_folder import SHARD_PART
from robustbench_local.store.shard_record import SHARD_KEY, ShardRecord

WHOLE_CELL = "pgd50-linf-4"
"""The attack whose images belong together: shard 1 has them all."""
IMAGES = 16
DIAGNOSTICS = {
    "results": [
        {
            "id": "D4",
            "name": "same answer",
            "model": "signs-plain",
            "sentence": "Fine.",
            "status": "ok",
            "passes": [2, 0],
        }
    ],
    "passes": 40,
    "planned_passes": 500,
}


@pytest.fixture(autouse=True)
def _without_figures(blank_figures: None) -> None:
    """Figures are drawn in tests/reports."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    sample = replace(SAMPLE, failing_cell=None, diagnostics=DIAGNOSTICS)
    return build_run(tmp_path_factory.mktemp("whole") / "run", sample)


@pytest.fixture
def make_shard(whole, tmp_path) -> Callable[..., Path]:
    """A function: writes a shard of the sample run; ``lacking`` images of its first cell are not done."""

    def make(name: str, index: int, count: int, *, lacking: int = 0, status="done", **changes) -> Path:
        grid, shard = make_grid(**changes), Shard(index, count)
        identity = {**flatten_verdict_keys(grid), "data digest": "ab12" * 16, SHARD_PART: str(shard)}
        own = {position for position in range(IMAGES) if position % count == index - 1}
        with (
            RunStore.open_readonly(whole) as old,
            RunStore.create_or_open(tmp_path / name, resolved_yaml=grid.to_yaml(), identity=identity) as new,
        ):
            new.update_meta({key: old.read_meta(key) for key in (*META_KEYS, DIAGNOSTICS_KEY)})
            sizes = {}
            for number, cell in enumerate(old.read_cells()):
                mine = own
                if cell.attack == WHOLE_CELL:
                    mine = set(range(IMAGES)) if index == 1 else set()
                sizes[cell.key] = len(mine)
                done = sorted(mine)[: len(mine) - lacking] if number == 0 else mine
                copy_cell(old, new, cell, lambda _, position, done=frozenset(done): position in done)
                if not mine:
                    new.set_status(cell.key, "skipped", f"none of its images is in {shard.title}")
                elif number == 0 and (lacking or status != "done"):
                    new.set_status(cell.key, status, "it took too long" if status == "timeout" else None)
            record = ShardRecord(shard=shard, images=len(own), of=IMAGES, cells=sizes)
            new.update_meta({SHARD_KEY: record.to_json()})
        return tmp_path / name

    return make


def test_two_shards_are_the_whole_run(whole, make_shard, tmp_path):
    parts = [make_shard("a", 1, 2), make_shard("b", 2, 2)]
    run = merge_runs(parts[::-1], tmp_path / "merged")
    assert read_rows(run.directory) == read_rows(whole)
    assert judge_run_dir(run.directory).verdicts == judge_run_dir(whole).verdicts
    mine, theirs = run.results, Run(whole).results
    assert mine["diagnostics"] == theirs["diagnostics"]
    changed = {key: (mine[key], theirs[key]) for key in theirs if mine[key] != theirs[key]}
    assert changed.keys() <= {"environment", "grid"}
    assert mine["shard"] is None
    with RunStore.open_readonly(run.directory) as store:
        assert SHARD_PART not in store.read_identity()
    assert not (run.directory / "run.yaml").read_text().startswith("#")


def test_a_shard_says_what_it_is_and_decides_no_gate(make_shard, tmp_path, capsys):
    directory = make_shard("b", 2, 2)
    results = Run(directory).results
    assert results["shard"] == {"index": 2, "count": 2, "images": 8, "of": 16}
    cells = {cell["attack"]: cell for cell in results["cells"] if cell["model"] == "signs-plain"}
    assert cells["fgsm-linf-8"]["reported_status"] == "done"
    assert (cells["fgsm-linf-8"]["n"], cells["fgsm-linf-8"]["images"]) == (8, 8)
    assert cells["fgsm-linf-8"]["robust_accuracy"]["n"] == 8
    assert cells[WHOLE_CELL]["reported_status"] == "skipped"
    assert cells[WHOLE_CELL]["error"] == "none of its images is in shard 2 of 2"
    assert results["findings"][0]["text"].startswith("This is shard 2 of 2: 8 of 16 images.")
    report = judge_run_dir(directory)
    assert {verdict.ruling for verdict in report.verdicts} == {"inconclusive"}
    assert "shard 2 of 2: 8 of 16 images: only the merged run decides" in report.summary_lines[1]
    by_policy = judge_run_by_policy(directory, load_policy("strict").policy)
    assert {verdict.ruling for verdict in by_policy.verdicts} <= {"inconclusive", "skipped"}
    page = write_report(directory).read_text("utf-8")
    assert "Shard 2 of 2, 8 of 16 images: " in page
    assert run_command(["gate", str(directory)]) == 4
    capsys.readouterr()
    assert show_results(directory, make_console(as_json=False), as_json=False) == 0  # its work is done
    out = capsys.readouterr().out
    assert "Shard 2 of 2, 8 of 16 images. Robust accuracy" in out
    assert "shard 2 of 2 is complete (8 of 16 images): rbl merge makes one run of all shards" in out


def test_a_shard_that_was_killed_is_not_complete(make_shard, capsys):
    directory = make_shard("a", 1, 2, lacking=3, status="running")
    assert show_results(directory, make_console(as_json=False), as_json=False) == 4
    assert "shard 1 of 2 is not complete: the same command goes on" in capsys.readouterr().out
    cell = Run(directory).results["cells"][0]
    assert (cell["reported_status"], cell["error"]) == ("partial", "stopped after 5 of 8 images")


@pytest.mark.parametrize(
    ("shards", "message"),
    [
        (["1/3", "3/3"], "shard 2 of 3 is missing. Name the run directories of all shards"),
        (["1/8", "4/8"], "shards 2 to 3 and 5 to 8 of 8 are missing"),
        ([f"{index}/16" for index in (1, 3, 6, 9, 11, 13, 15)], "2, 4 to 5, 7 to 8, 10, 12, 14 and more of"),
        (["1/2", "1/2"], "run 0 and run 1 are both shard 1 of 2"),
        (["1/2", "2/4"], "run 0 is shard 1 of 2, and run 1 is shard 2 of 4. Merge shards of one number"),
        (
            ["1/2", "2/2", ""],
            "run 0 is shard 1 of 2, and run 2 has all images. Merge the shards",
        ),
        (["", "1/2"], "run 1 is shard 1 of 2, and run 0 has all images"),
    ],
)
def test_what_is_not_all_shards_of_one_run_is_refused_by_name(shards, message):
    parts = [
        SimpleNamespace(
            name=f"run {index}",
            shard=ShardRecord(shard=Shard.from_text(text), images=1, of=16) if text else None,
        )
        for index, text in enumerate(shards)
    ]
    with pytest.raises(ConfigError) as refused:
        check_shards(parts)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("lacking", "status", "message"),
    [
        (3, "running", "b, shard 2 of 2, has 5 of 8 images of fgsm-linf-8 on signs-plain. Finish"),
        (8, "timeout", "has 0 of 8 images of fgsm-linf-8 on signs-plain (it took too long)"),
    ],
)
def test_a_shard_that_is_not_complete_is_named(make_shard, tmp_path, lacking, status, message):
    parts = [make_shard("a", 1, 2), make_shard("b", 2, 2, lacking=lacking, status=status)]
    with pytest.raises(ConfigError) as refused:
        merge_runs(parts, tmp_path / "merged")
    assert message in str(refused.value)
    assert not (tmp_path / "merged").exists()


def test_shards_of_other_grids_are_refused(make_shard, tmp_path):
    first, other = make_shard("a", 1, 2), make_shard("b", 2, 2, seed=5)
    with pytest.raises(ConfigError, match="seed: 0 in a, 5 in b"):
        merge_runs([first, other], tmp_path / "merged")


def test_a_cell_that_fails_in_every_shard_has_failed(make_shard, tmp_path):
    parts = [
        make_shard("a", 1, 2, lacking=8, status="timeout"),
        make_shard("b", 2, 2, lacking=5, status="timeout"),
    ]
    cell = merge_runs(parts, tmp_path / "merged").results["cells"][0]
    assert (cell["status"], cell["n"], cell["error"]) == ("timeout", 3, "it took too long")


def test_a_folder_of_shards_stands_for_all_of_them(make_shard, tmp_path, capsys):
    folder = tmp_path / "shards"
    folder.mkdir()
    for index in (1, 2):
        make_shard(f"s{index}", index, 3).rename(folder / f"s{index}")
    assert list_run_directories([folder]) == [folder / "s1", folder / "s2"]
    assert list_run_directories([folder / "s1"]) == [folder / "s1"]
    assert run_command(["merge", str(folder), "--out", str(tmp_path / "merged")]) == 2
    assert "shard 3 of 3 is missing" in capsys.readouterr().err


def test_another_shard_in_the_same_folder_is_refused_by_name(make_shard):
    directory = make_shard("a", 1, 2)
    with RunStore.open_readonly(directory) as store:
        identity = store.read_identity()
    for other, message in (
        (
            {**identity, SHARD_PART: "2/2"},
            "contains shard 1 of 2, and this is shard 2 of 2.*an --out of its own",
        ),
        ({key: value for key, value in identity.items() if key != SHARD_PART}, "this is a run of all images"),
    ):
        with pytest.raises(ConfigError, match=message):
            RunStore.create_or_open(directory, resolved_yaml="", identity=other)
