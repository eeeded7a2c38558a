"""A run killed at random moments and started again ends with the outcomes of a run that was left alone."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing

import pytest
from held_attack import add_held_attack

from robustbench_local.evaluation.options import Options
from robustbench_local.merging.merge_runs import merge_runs
from robustbench_local.run import Run, run_grid

COMMAND = [
    sys.executable,
    "-m",
    "robustbench_local.cli",
    "run",
    "grid.yaml",
    "--device",
    "cpu",
    "--batch-size",
    "8",
    "--workers",
    "2",
    "--allow-code",
]


CANDIDATE = ["adversarial_hash", "linf", "l2", "l1", "l0", "margin"]
"""Columns about the candidate of an image."""
MAX_OTHER_CANDIDATES = 0.05
"""Share of images that may end at another adversarial example: a network computes the last bits otherwise in
a batch of another size, and a long search may follow them. Other random numbers would change most images."""


def start(out):
    return subprocess.Popen(
        [*COMMAND, "--out", out],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def evidence(directory):
    """All that a run holds but its timings, and apart what is about its candidates."""
    run = Run(directory)
    cells = [{key: value for key, value in cell.items() if key != "seconds"} for cell in run.results["cells"]]
    rows = run.outcomes.drop(columns=["seconds", *CANDIDATE]).to_dict("records")
    return (cells, rows, run.results["worst_case"]), run.outcomes[CANDIDATE]


def committed(directory):
    """How many outcomes the run holds by now, read beside its writer."""
    try:
        with closing(sqlite3.connect(f"file:{directory}/run.db?mode=ro", uri=True)) as connection:
            return connection.execute("SELECT count(*) FROM outcomes").fetchone()[0]
    except sqlite3.OperationalError:  # not there yet
        return 0


@pytest.mark.slow
def test_sigkill_in_the_middle_changes_no_outcome(workplace):
    text = (workplace / "grid.yaml").read_text().replace("steps: 4", "steps: 50")
    (workplace / "grid.yaml").write_text(text)
    add_held_attack(workplace, models=("second",))  # the last cell
    draw = random.Random(0)
    for least in (1, 60, 130):
        process = start("cut")
        while committed("cut") < least:
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        time.sleep(draw.uniform(0, 0.2))
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL
    assert not Run("cut").is_complete
    (workplace / "hold").unlink()
    for out in ("cut", "whole"):
        process = start(out)
        _, message = process.communicate(timeout=300)
        assert process.returncode == 0, message
    (cut, cut_candidates), (whole, whole_candidates) = evidence("cut"), evidence("whole")
    assert cut == whole
    same = cut_candidates["adversarial_hash"] == whole_candidates["adversarial_hash"]
    assert same.mean() >= 1 - MAX_OTHER_CANDIDATES
    for column in CANDIDATE[1:]:
        expected = pytest.approx(list(whole_candidates[column][same]), abs=1e-6, nan_ok=True)
        assert list(cut_candidates[column][same]) == expected


@pytest.mark.slow
@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT])
def test_a_polite_kill_ends_soon_with_130_and_can_be_resumed(workplace, kind):
    text = (workplace / "grid.yaml").read_text().replace("steps: 4", "steps: 5000")
    (workplace / "grid.yaml").write_text(text)
    process = start("out")
    while not (workplace / "out" / "run.db").exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.1)
    time.sleep(0.5)
    process.send_signal(kind)
    _, message = process.communicate(timeout=30)
    assert process.returncode == 130
    assert len(message.splitlines()) == 1
    assert "same command" in message
    assert not Run("out").is_complete


@pytest.mark.slow
def test_shards_that_are_killed_and_go_on_are_merged_to_the_whole_run(workplace):
    text = (workplace / "grid.yaml").read_text().replace("steps: 4", "steps: 30").replace(', "16/255"', "")
    kept = [line for line in text.splitlines(keepends=True) if "id: second" not in line]
    (workplace / "grid.yaml").write_text("".join(kept))
    draw = random.Random(1)
    array = {"SLURM_ARRAY_TASK_MIN": "4", "SLURM_ARRAY_TASK_MAX": "6", "SLURM_ARRAY_TASK_STEP": "2"}
    processes = {
        task: subprocess.Popen(
            [*COMMAND, "--shard", "auto/2"],
            env={
                **os.environ,
                **array,
                "SLURM_ARRAY_TASK_ID": task,
                "SLURM_ARRAY_TASK_COUNT": "2",
                "OMP_NUM_THREADS": "1",
            },
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for task in ("4", "6")
    }
    folders = dict(zip(processes, ("runs/small-shard-1-of-2", "runs/small-shard-2-of-2"), strict=True))
    for least, (task, process) in zip((1, 30), processes.items(), strict=True):
        while committed(folders[task]) < least and process.poll() is None:
            time.sleep(0.05)
        time.sleep(draw.uniform(0, 0.2))
        process.kill()
        process.communicate(timeout=60)
    options = {"device": "cpu", "batch_size": 8, "workers": 1}
    shards = [run_grid("grid.yaml", options=Options(shard=f"{index}/2", **options)) for index in (1, 2)]
    assert [str(shard.directory) for shard in shards] == list(folders.values())
    merged = merge_runs(["runs"], "merged")
    whole = run_grid("grid.yaml", "whole", options=Options(**options))
    columns = ["attack", "image", "clean_prediction", "broken", "status"]  # margins differ in the last digit
    assert merged.outcomes[columns].equals(whole.outcomes[columns])
    assert merged.results["worst_case"] == whole.results["worst_case"]
    assert merged.results["gates"] == whole.results["gates"]
