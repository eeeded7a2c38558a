"""The pilot: which images it takes, and that it changes no verdict."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from robustbench_local.evaluation.execution import executor, job_runner, pilot_positions
from robustbench_local.evaluation.execution.pilot_positions import (
    MAX_PILOT_IMAGES,
    MIN_PASSES_FOR_PILOT,
    choose_pilot_positions,
)
from robustbench_local.evaluation.execution.progress_listener import ProgressListener
from robustbench_local.evaluation.options import Options
from robustbench_local.run import run_grid
from robustbench_local.store.run_store import RunStore


def make_job(images, passes=MIN_PASSES_FOR_PILOT, *, device="cpu", is_divisible=True):
    return SimpleNamespace(
        image_count=images,
        work_passes=(passes, 0),
        is_divisible=is_divisible,
        queried_model=SimpleNamespace(device=torch.device(device)),
    )


def test_a_pilot_is_spread_over_the_images_of_a_large_cell():
    assert choose_pilot_positions(make_job(80), 16) == [0, 10, 20, 30, 40, 50, 60, 70]
    assert choose_pilot_positions(make_job(1000), 16)[-1] == 875
    assert choose_pilot_positions(make_job(80, MIN_PASSES_FOR_PILOT - 1), 16) == []


def test_a_pilot_is_a_quarter_of_few_images_and_never_less_than_three():
    assert choose_pilot_positions(make_job(20), 16) == [0, 4, 8, 12, 16]
    assert choose_pilot_positions(make_job(12), 16) == [0, 4, 8]
    assert choose_pilot_positions(make_job(11), 16) == []


def test_a_batch_on_a_gpu_takes_no_longer_and_groups_stay_whole():
    assert len(choose_pilot_positions(make_job(1000, device="cuda"), 128)) == 128
    assert len(choose_pilot_positions(make_job(1000, device="cuda"), 1)) == MAX_PILOT_IMAGES
    assert len(choose_pilot_positions(make_job(100, device="cuda"), 128)) == 25
    assert choose_pilot_positions(make_job(1000, is_divisible=False), 16) == [0]
    assert choose_pilot_positions(make_job(11, is_divisible=False), 16) == []


class Recorder(ProgressListener):
    """Records what happens to each cell, and interrupts at a wish."""

    def __init__(self, stop_at=None):
        self.events, self.stop_at = [], stop_at

    def record(self, event, cell=None, counts=None):
        name = cell and (cell.record.model, cell.record.attack)
        self.events.append((event, name, counts and counts.n))
        if event == self.stop_at:
            raise KeyboardInterrupt

    def on_cell_known(self, cell, status, counts):
        self.record(f"known {status}", cell, counts)

    def on_pilot_start(self, cells):
        self.events.append(("pilot of", None, len(cells)))

    def on_pilot_end(self):
        self.record("pilot")

    def on_cell_start(self, cell, counts):
        self.record("start", cell, counts)

    def on_batch_end(self, cell, counts):
        self.record("batch", cell, counts)

    def on_cell_end(self, cell, status, counts, error):
        self.record(status, cell, counts)


OPTIONS = Options(device="cpu", batch_size=16, workers=1, limit=16)
GRID = {
    "name": "g",
    "data": {"source": "npz:digits.npz"},
    "models": [{"id": "m", "source": "checkpoint:first.safetensors", "architecture": "mnist_fast"}],
    "attacks": ["fgsm-linf-8", {"card": "pgd50-linf-8", "eps": ["8/255", "16/255"], "steps": 9}],
}


@pytest.fixture
def short_pilot(workplace, monkeypatch):
    """Cells of two attacks have a pilot, the quick one has none."""
    monkeypatch.setattr(pilot_positions, "MIN_PASSES_FOR_PILOT", 1280)


@pytest.mark.slow
def test_a_pilot_precedes_the_cells_and_changes_no_outcome(short_pilot, monkeypatch):
    piloted = run_grid(GRID, "piloted", options=OPTIONS, listener=(recorder := Recorder()))
    events = [(event, n) for event, _, n in recorder.events]
    assert events[:6] == [("pilot of", 2), *[("start", 0), ("batch", 4)] * 2, ("pilot", None)]
    assert events[6:9] == [("start", 0), ("batch", 16), ("done", 16)]
    assert events[9:] == [("start", 4), ("batch", 16), ("done", 16)] * 2
    monkeypatch.setattr(pilot_positions, "MIN_PASSES_FOR_PILOT", 10**9)
    whole = run_grid(GRID, "whole", options=OPTIONS, listener=(recorder := Recorder()))
    assert [event for event, _, _ in recorder.events] == ["start", "batch", "done"] * 3
    first, second = piloted.outcomes, whole.outcomes
    np.testing.assert_allclose(first["margin"], second["margin"], atol=1e-5)  # batches of another size
    others = [column for column in first if column not in {"margin", "seconds"}]
    assert first[others].equals(second[others])


@pytest.mark.slow
def test_after_an_interruption_known_cells_are_reported_and_have_no_second_pilot(short_pilot):
    with pytest.raises(KeyboardInterrupt):
        run_grid(GRID, "out", options=OPTIONS, listener=Recorder("done"))
    run_grid(GRID, "out", options=OPTIONS, listener=(recorder := Recorder()))
    events = [(event, n) for event, _, n in recorder.events]
    assert events[:3] == [("known done", 16), ("known running", 4), ("known running", 4)]
    assert events[3:] == [("start", 4), ("batch", 16), ("done", 16)] * 2
    run_grid(GRID, "out", options=OPTIONS, listener=(recorder := Recorder()))
    assert [(event, n) for event, _, n in recorder.events] == [("known done", 16)] * 3


@pytest.mark.slow
def test_a_cell_that_fails_in_its_pilot_is_run_once(short_pilot, monkeypatch):
    def fail(*_arguments, **_options):
        raise ValueError("no batch")

    monkeypatch.setattr(job_runner, "run_batches", fail)
    run = run_grid(GRID, "out", options=OPTIONS, listener=(recorder := Recorder()))
    kinds = [event for event, _, _ in recorder.events]
    assert kinds == ["pilot of", *["start", "error"] * 2, "pilot", "start", "error"]
    with RunStore.open_readonly(run.directory) as store:
        assert {cell.error for cell in store.read_cells()} == {"ValueError: no batch"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limit", "limits"), [(10, {3, 10}), (6, {executor.MIN_CELL_SECONDS, 6}), (None, {None})]
)
def test_the_time_of_a_pilot_counts_towards_the_limit_of_the_cell(short_pilot, monkeypatch, limit, limits):
    clock, found = [0.0], set()

    def spend(*_arguments, isolation, **_options):
        found.add(isolation.cell_timeout)
        clock[0] += 7
        return iter(())

    monkeypatch.setattr(job_runner, "run_batches", spend)
    monkeypatch.setattr(executor, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    run_grid(GRID, "out", options=replace(OPTIONS, cell_timeout=limit or 0))
    assert found == limits
