"""A run killed at random moments and started again ends with the outcomes of a run that was left alone."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time

import pytest

from robustbench_local.run import Run

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
]


def start(out):
    return subprocess.Popen(
        [*COMMAND, "--out", out], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def evidence(directory):
    """All that a run holds but its timings."""
    run = Run(directory)
    cells = [{key: value for key, value in cell.items() if key != "seconds"} for cell in run.results["cells"]]
    return cells, run.outcomes.drop(columns=["seconds"]).to_dict("records"), run.results["worst_case"]


@pytest.mark.slow
def test_sigkill_at_random_moments_changes_no_outcome(workplace):
    text = (workplace / "grid.yaml").read_text().replace("steps: 4", "steps: 200")
    (workplace / "grid.yaml").write_text(text)
    whole = start("whole")
    started = time.monotonic()
    assert whole.wait(timeout=300) == 0
    duration = time.monotonic() - started

    draw = random.Random(0)
    kills = 0
    for _ in range(6):
        process = start("cut")
        try:
            process.wait(timeout=draw.uniform(0.5, 1.0) * duration)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait(timeout=60)
    last = start("cut")
    _, message = last.communicate(timeout=300)
    assert last.returncode == 0, message
    assert kills >= 2
    assert evidence("cut") == evidence("whole")


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
    assert not Run("out").complete
