"""Runs that stop before their last image: what they run, what they leave, and that they can go on."""

from __future__ import annotations

import pytest

from robustbench_local.errors import ConfigError
from robustbench_local.evaluation.execution.progress_listener import ProgressListener
from robustbench_local.evaluation.grid.schema import load_grid
from robustbench_local.evaluation.options import Options
from robustbench_local.evaluation.planning.planner import make_plan
from robustbench_local.evaluation.planning.screening import build_screening_cells
from robustbench_local.run import run_grid
from robustbench_local.store.run_store import RunStore
from robustbench_local.store.stop_record import STOP_KEY, StopRecord

OPTIONS = Options(device="cpu", batch_size=16, workers=1)
PGD = {"card": "pgd20-linf-8", "steps": 6}


def build_grid(*gates, attacks=("fgsm-linf-8", PGD), **extra):
    return {
        "name": "g",
        "data": {"source": "signs", "limit": 40},
        "models": [{"id": "plain", "source": "zoo:signs-plain"}],
        "attacks": list(attacks),
        "gates": list(gates),
        **extra,
    }


def read_cells(run):
    with RunStore.open_readonly(run.directory) as store:
        return {
            cell.attack: (cell.status, {row.image for row in store.read_outcomes(cell.key)})
            for cell in store.read_cells()
        }


class Interrupter(ProgressListener):
    """Interrupts a run after some batches."""

    def __init__(self, batches):
        self.batches = batches

    def on_batch_end(self, cell, counts):
        self.batches -= 1
        if not self.batches:
            raise KeyboardInterrupt


@pytest.mark.slow
def test_a_cheap_attack_that_decides_is_the_only_one_that_runs(tmp_path):
    grid = build_grid({"threat": "linf-8", "min": 0.7}, stop="decided")
    run = run_grid(grid, tmp_path / "out", options=OPTIONS)
    (cheap, seen), (costly, nothing) = read_cells(run).values()
    assert (cheap, costly, nothing) == ("stopped", "stopped", set())
    assert 10 < len(seen) < 40
    [verdict] = run.evaluate_gates().verdicts
    assert verdict.ruling == "fail"
    assert verdict.estimate.n == len(seen)
    assert verdict.estimate.high < 0.7
    assert f"anytime-valid, stopped after {len(seen)} of 40 images, none of them" in verdict.reason
    assert verdict.reason.endswith(": decided")
    assert not run.is_complete
    with RunStore.open_readonly(run.directory) as store:
        record = StopRecord.from_json(store.read_meta(STOP_KEY))
    assert seen == set(record.order[: len(seen)])
    assert record.rule.decided
    del grid["stop"]
    whole = run_grid(grid, tmp_path / "out", options=OPTIONS)
    assert {status for status, _ in read_cells(whole).values()} == {"done"}
    assert whole.is_complete
    assert "anytime" not in whole.evaluate_gates().verdicts[0].reason


@pytest.mark.slow
def test_after_a_kill_the_same_images_decide(tmp_path):
    grid = build_grid({"threat": "linf-8", "max": 0.25}, {"metric": "clean_accuracy", "min": 0.9})
    options = Options(device="cpu", batch_size=8, workers=1, until_decided=True)
    whole = run_grid(grid, tmp_path / "whole", options=options)
    for batches in (1, 3):
        with pytest.raises(KeyboardInterrupt):
            run_grid(grid, tmp_path / str(batches), options=options, listener=Interrupter(batches))
        again = run_grid(grid, tmp_path / str(batches), options=options)
        assert read_cells(again) == read_cells(whole)
        assert again.evaluate_gates() == whole.evaluate_gates()
    assert [verdict.ruling for verdict in whole.evaluate_gates().verdicts] == ["pass", "pass"]


@pytest.mark.slow
def test_a_gate_that_needs_every_image_says_so_and_gets_them(tmp_path):
    events = []

    class Listener(ProgressListener):
        def on_event(self, event):
            events.append(event.message)

    gate = {"metric": "attack_success", "attack": "fgsm-linf-8", "max": 0.9}
    run = run_grid(
        build_grid(gate, stop={"decided": True}), tmp_path / "out", options=OPTIONS, listener=Listener()
    )
    (status, seen), (other, nothing) = read_cells(run).values()
    assert (status, len(seen), other, nothing) == ("done", 40, "stopped", set())
    [line] = [line for line in events if "needs every image" in line]
    assert line.startswith("plain: attack success (FGSM) ")
    assert line.endswith("needs every image: attack success is no share of all images")


@pytest.mark.slow
def test_a_run_for_precision_stops_at_it_without_gates(tmp_path):
    options = Options(device="cpu", batch_size=16, workers=1, precision=0.2)
    run = run_grid(build_grid(), tmp_path / "out", options=options)
    [row] = run.results["stop"]["worst_case"]
    assert row["robust_accuracy"]["high"] - row["robust_accuracy"]["low"] <= 0.4
    assert 0 < row["robust_accuracy"]["n"] < 40


def test_a_run_until_its_gates_are_decided_needs_gates():
    content, base = load_grid(build_grid(stop="decided"))
    with pytest.raises(ConfigError, match="the grid has none"):
        make_plan(content, OPTIONS, base_folder=base)


@pytest.mark.parametrize(
    ("attacks", "names"),
    [
        (["autoattack-linf-8"], ["screening-linf-8"]),
        (["fgsm-linf-8", "autoattack-linf-8"], ["screening-linf-8"]),
        (["pgd20-linf-8", "autoattack-linf-8"], ["screening-linf-8"]),
        ([{"card": "pgd50-linf-8", "restarts": 1}, "autoattack-linf-8"], []),
        (["fgsm-linf-8", "pgd20-linf-8"], []),
        (["autoattack-linf-8", "autoattack-l2-0.5"], ["screening-linf-8", "screening-l2-0.5"]),
    ],
)
def test_an_expensive_attack_gets_a_cheap_one_in_front(attacks, names):
    content, base = load_grid(build_grid(attacks=attacks))
    plan = make_plan(content, OPTIONS, base_folder=base)
    cells = list(build_screening_cells(plan.cells))
    assert [cell.record.attack for cell in cells] == names
    assert len({cell.record.key for cell in (*plan.cells, *cells)}) == len(attacks) + len(names)
    assert [cell.record.position for cell in cells] == [len(attacks) + index for index in range(len(names))]


@pytest.mark.slow
def test_a_screening_attack_goes_on_with_the_run_it_belongs_to(tmp_path):
    attacks = [{"card": "apgd-ce-t-linf-8", "limit": 24}, "fgsm-linf-8"]
    gate = {"threat": "linf-8", "min": 0.5}
    grid = build_grid(gate, attacks=["apgd-ce-t-linf-8"])
    options = Options(device="cpu", batch_size=16, workers=1, limit=24, until_decided=True)
    run = run_grid(grid, tmp_path / "out", options=options)
    assert sorted(read_cells(run)) == ["apgd-ce-t-linf-8", "screening-linf-8"]
    whole = run_grid(grid, tmp_path / "out", options=Options(device="cpu", batch_size=16, limit=24))
    assert {status for status, _ in read_cells(whole).values()} == {"done"}
    limited = run_grid(build_grid(gate, attacks=attacks, stop="decided"), tmp_path / "b", options=OPTIONS)
    assert {len(seen) for _, seen in read_cells(limited).values()} == {24, 40}
