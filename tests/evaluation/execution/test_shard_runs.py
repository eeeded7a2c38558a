"""Shards of real runs: merged they are one run, whatever the attack, the model and the batch size."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import robustbench_local as rbl
from robustbench_local.cli.main import run_command
from robustbench_local.store import RunStore

pytestmark = pytest.mark.slow

EPS = "1/8500"
"""A radius at which interval bounds prove some images of the small network and not others."""
FEW_STEPS = {"test_views": 4, "steps": 1, "sources": [], "targets": [3]}
GRID = {
    "schema": 1,
    "name": "split",
    "data": {"source": "npz:digits.npz", "limit": 4},
    "models": [
        {"id": "plain", "source": "checkpoint:first.safetensors", "architecture": "mnist_fast"},
        {
            "id": "random",
            "source": "checkpoint:first.safetensors",
            "architecture": "mnist_fast",
            "defenses": ["noise-0.1"],
        },
    ],
    "attacks": [
        {"card": "pgd50-linf-8", "eps": EPS, "steps": 3, "restarts": 2},
        {"card": "certify-ibp-linf-1", "eps": EPS, "models": ["plain"]},
        {"card": "sticker-10", **FEW_STEPS, "place_steps": 1, "layout_steps": 1, "models": ["plain"]},
        {"card": "patch-10", **FEW_STEPS, "models": ["plain"]},
    ],
    "skip_verified": True,
    "gates": [{"metric": "robust_accuracy", "threat": "linf-0.03", "min": 0.5}],
}
RESULTS = ("worst_case", "gates", "findings", "diagnostics", "models", "stickers", "doubts", "shard", "seed")
"""Sections of the results that the last digit of a margin cannot change."""


def read_verdicts(directory: Path):
    """All verdicts, without what the size of a batch changes in the last digit."""
    with RunStore.open_readonly(directory) as store:
        return {
            cell.key: (
                cell,
                [
                    (row.image, row.clean_prediction, row.broken, row.status, row.certified, row.draws)
                    for row in store.read_outcomes(cell.key)
                ],
                sorted(
                    (row.position, row.condition, row.kind, row.predictions)
                    for row in store.read_view_predictions(cell.key)
                ),
                sorted(store.load_arrays(cell.key).get("positions", np.zeros(0)).tolist()),
            )
            for cell in store.read_cells()
        }  # fmt: skip


def test_merged_shards_are_one_run_verdict_for_verdict(workplace):
    options = {"device": "cpu", "workers": 1}
    whole = rbl.run_grid(GRID, "whole", options=rbl.Options(batch_size=8, **options))
    parts = [
        rbl.run_grid(GRID, f"part{index}", options=rbl.Options(batch_size=3, shard=f"{index}/2", **options))
        for index in (1, 2)
    ]
    merged = rbl.merge_runs(parts, "merged")
    assert read_verdicts(merged.directory) == read_verdicts(whole.directory)
    results, expected = merged.results, whole.results
    assert {key: results[key] for key in RESULTS} == {key: expected[key] for key in RESULTS}
    counts = [{(cell["model"], cell["card"]): cell["n"] for cell in part.results["cells"]} for part in parts]
    assert [row["plain", "pgd50-linf-8"] for row in counts] == [2, 2]
    assert sorted(row["plain", "patch-10"] for row in counts) == [0, 4]  # its images belong together
    passes = [cell["forward_passes"] for cell in results["cells"] if cell["card"] == "pgd50-linf-8"]
    assert passes == [cell["forward_passes"] for cell in expected["cells"] if cell["card"] == "pgd50-linf-8"]


def test_a_shard_from_the_command_line(workplace, monkeypatch, capsys):
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "1")
    command = ["run", "grid.yaml", "--device", "cpu", "--batch-size", "8", "--workers", "1"]
    assert run_command([*command, "--shard", "auto/4", "--dry-run", "--json"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    plan = next(event for event in events if event["event"] == "plan")
    assert plan["shard"] == "2/4"
    assert {cell["images"] for cell in plan["cells"]} == {10}
    assert run_command([*command, "--shard", "auto/4"]) == 0
    assert "small: 6 cells on digits, shard 2 of 4: 10 of 40 images" in capsys.readouterr().out
    assert Path("runs/small-shard-2-of-4/report.html").is_file()
    assert run_command([*command, "--shard", "auto/4"]) == 0  # finished: nothing is run
    assert "nothing was run" in capsys.readouterr().out
    monkeypatch.delenv("JOB_COMPLETION_INDEX")
    for options, message in (
        (["--shard", "3/4", "--out", "runs/small-shard-2-of-4"], "shard 2 of 4, and this is shard 3 of 4"),
        (["--out", "runs/small-shard-2-of-4"], "and this is a run of all images"),
        (["--shard", "1/41"], "41 shards for 40 images"),
        (["--shard", "1/2", "--until-decided"], "a run that stops early is not split"),
        (["--shard", "2of4"], "'2of4' is no shard"),
    ):  # fmt: skip
        assert run_command([*command, *options]) == 2
        error = capsys.readouterr().err.strip()
        assert message in error
        assert len(error.splitlines()) == 1
