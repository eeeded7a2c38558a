"""Runs: complete, resumed, repeated, refused; the same outcomes whatever happens in between."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from robustbench_local.data import pixel_spool
from robustbench_local.data.stored_images import StoredImages
from robustbench_local.errors import ConfigError, LockedError
from robustbench_local.evaluation.execution.progress_listener import ProgressListener
from robustbench_local.evaluation.options import Options
from robustbench_local.run import Run, prepare_run, run_grid
from robustbench_local.store.adaptations import read_adaptation
from robustbench_local.store.run_store import RunStore


def verdicts(run):
    """Everything that an uninterrupted run would have as well."""
    return run.outcomes.drop(columns=["seconds"])


class Stops(ProgressListener):
    """Interrupts after so many batches."""

    def __init__(self, after):
        self.left = after

    def on_batch_end(self, cell, done):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


class Counts(ProgressListener):
    def __init__(self):
        self.started_cells, self.batches = 0, 0

    def on_cell_start(self, cell, done):
        self.started_cells += 1

    def on_batch_end(self, cell, done):
        self.batches += 1


@pytest.fixture(scope="module")
def _ran(_made, tmp_path_factory):
    """A folder in which the grid was run as a whole, without interruption."""
    folder = tmp_path_factory.mktemp("ran") / "place"
    shutil.copytree(_made, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run_grid("grid.yaml", out="whole", options=Options(device="cpu", batch_size=16))
    return folder


@pytest.fixture
def ran(_ran, tmp_path, monkeypatch):
    """A copy of that folder as the working directory; the run is in ``whole``."""
    shutil.copytree(_ran, tmp_path / "place")
    monkeypatch.chdir(tmp_path / "place")
    return tmp_path / "place"


def test_a_run_holds_every_cell_and_every_image(ran):
    run = Run("whole")
    cells = run.results["cells"]
    assert [(cell["model"], cell["attack"]) for cell in cells] == [
        (model, attack)
        for model in ("first", "second")
        for attack in ("fgsm-linf-8", "pgd50-linf-8[steps=4,restarts=2]", "pgd50-linf-16[steps=4,restarts=2]")
    ]
    assert all(cell["status"] == "done" and cell["n"] == 40 for cell in cells)
    assert len(run.outcomes) == 240
    assert run.is_complete
    for cell in cells:
        counts = cell["counts"]
        assert counts["robust"] == counts["clean_correct"] - counts["broken"]
    weak, strong = cells[1]["counts"], cells[2]["counts"]
    assert weak["clean_correct"] == 35
    assert 0 < weak["broken"] < strong["broken"]
    assert json.loads(json.dumps(run.results, allow_nan=False))["schema"] == 1


@pytest.mark.parametrize("after", [1, *(pytest.param(after, marks=pytest.mark.slow) for after in (4, 9))])
def test_an_interrupted_run_goes_on_to_the_same_outcomes(ran, after):
    whole = Run("whole")
    with pytest.raises(KeyboardInterrupt):
        run_grid("grid.yaml", out="cut", options=Options(device="cpu", batch_size=16), listener=Stops(after))
    assert not Run("cut").is_complete
    resumed = run_grid("grid.yaml", out="cut", options=Options(device="cpu", batch_size=16))
    assert verdicts(resumed).equals(verdicts(whole))


@pytest.mark.slow
def test_a_run_may_go_on_with_another_batch_size(ran):
    whole = Run("whole")
    with pytest.raises(KeyboardInterrupt):
        run_grid("grid.yaml", out="cut", options=Options(device="cpu", batch_size=16), listener=Stops(4))
    resumed = run_grid("grid.yaml", out="cut", options=Options(device="cpu", batch_size=7))
    columns = ["attack", "image", "clean_prediction", "adversarial_prediction", "broken", "status"]
    assert resumed.outcomes[columns].equals(whole.outcomes[columns])


def test_a_finished_run_does_nothing(ran):
    counts = Counts()
    run_grid("grid.yaml", out="whole", options=Options(device="cpu", batch_size=16), listener=counts)
    assert (counts.started_cells, counts.batches) == (0, 0)


@pytest.mark.parametrize(
    ("change", "named"),
    [({"seed": 4}, "seed"), ({"limit": 20}, "data.limit")],
)
def test_another_grid_in_the_same_directory_is_refused_by_name(ran, change, named):
    with pytest.raises(ConfigError, match=named):
        run_grid("grid.yaml", out="whole", options=Options(device="cpu", **change))


def test_other_weights_under_the_same_name_are_refused(ran):
    (ran / "first.safetensors").write_bytes((ran / "second.safetensors").read_bytes())
    with pytest.raises(ConfigError, match="digest of model first"):
        run_grid("grid.yaml", out="whole", options=Options(device="cpu"))


def test_two_runs_on_one_directory_are_kept_apart(workplace):
    plan, directory = prepare_run("grid.yaml", out="out", options=Options(device="cpu"))
    with (
        RunStore.create_or_open(directory, resolved_yaml=plan.resolved_yaml, identity=plan.identity),
        pytest.raises(LockedError),
    ):
        run_grid("grid.yaml", out="out", options=Options(device="cpu"))


@pytest.mark.slow
def test_one_failing_cell_does_not_stop_the_others(workplace, monkeypatch):
    from robustbench_local.attacks.fgsm import FGSM

    def fail(self, *arguments):
        raise ValueError("no such thing")

    monkeypatch.setattr(FGSM, "perturb", fail)
    options = Options(device="cpu", batch_size=16)
    run = run_grid("grid.yaml", out="out", options=options)
    standing = {(cell["model"], cell["attack"]): cell["reported_status"] for cell in run.results["cells"]}
    assert standing["first", "fgsm-linf-8"] == standing["second", "fgsm-linf-8"] == "error"
    assert sorted(standing.values()).count("done") == 4
    assert not run.is_complete
    assert "no such thing" in run.results["cells"][0]["error"]
    monkeypatch.undo()
    assert run_grid(workplace / "grid.yaml", out=workplace / "out", options=options).is_complete


@pytest.mark.slow
def test_the_seed_decides_the_random_starts(workplace):
    def hashes(seed, out):
        return (
            run_grid("grid.yaml", out=out, options=Options(device="cpu", seed=seed))
            .outcomes["adversarial_hash"]
            .tolist()
        )

    first = hashes(1, "one")
    assert hashes(1, "again") == first
    assert hashes(2, "two") != first


@pytest.mark.parametrize("name", ["../../x", "a/b", "x" * 300, "nul\0byte"])
def test_a_name_that_leaves_the_folder_is_refused(workplace, name):
    text = (workplace / "grid.yaml").read_text().replace("name: small", f"name: {json.dumps(name)}")
    (workplace / "bad.yaml").write_text(text)
    with pytest.raises(ConfigError):
        run_grid("bad.yaml", options=Options(device="cpu"))


def test_the_gallery_keeps_the_first_broken_images_of_each_cell(ran):
    run = Run("whole")
    with RunStore.open_readonly(run.directory) as store:
        cell = store.read_cells()[2]
        broken = [row.position for row in store.read_outcomes(cell.key) if row.broken][:8]
        arrays = store.load_arrays(cell.key)
    assert arrays["positions"].tolist() == broken
    change = abs(arrays["adversarial"] - arrays["original"]).max()
    assert 0 < change <= 16 / 255 + 1e-6


def test_the_plan_counts_at_least_the_passes_that_are_spent(ran):
    plan, _ = prepare_run("grid.yaml", out="out", options=Options(device="cpu", batch_size=16))
    run = Run("whole")
    for planned, cell in zip(plan.cells, run.results["cells"], strict=True):
        assert cell["forward_passes"] <= planned.max_passes[0]
        assert cell["backward_passes"] <= planned.max_passes[1]


@pytest.mark.slow
def test_a_search_in_bf16_is_another_run_and_says_so(workplace):
    run = run_grid("grid.yaml", out="quick", options=Options(device="cpu", limit=8, search_precision="bf16"))
    with RunStore.open_readonly(run.directory) as store:
        notes = {cell.card: cell.note for cell in store.read_cells()}
    assert "searched in bf16" in notes["pgd50-linf-8"]
    assert "searched in bf16" not in notes["fgsm-linf-8"]
    with pytest.raises(ConfigError, match=r"search_precision: bf16 there, fp32 here"):
        run_grid("grid.yaml", out="quick", options=Options(device="cpu", limit=8))
    sizes = RunStore.open_readonly(run.directory).read_meta("batch sizes")
    assert set(sizes) == {"first", "second"}


@pytest.mark.slow
def test_an_adaptive_attack_goes_on_with_its_stored_adaptation(workplace):
    grid = Path("grid.yaml").read_text("utf-8").partition("  - fgsm")[0]  # at this radius none survives
    Path("grid.yaml").write_text(f'{grid}  - {{card: adaptive-linf-8, eps: "160/255"}}\n', "utf-8")
    options = Options(device="cpu", batch_size=16)
    whole = run_grid("grid.yaml", out="whole", options=options)
    with pytest.raises(KeyboardInterrupt):
        run_grid("grid.yaml", out="cut", options=options, listener=Stops(1))
    adaptations = read_adaptations("cut")
    assert len(adaptations) == 1
    (stored,) = adaptations.values()
    assert stored.description["steps"][0]["label"] == "apgd-ce"
    assert (stored.images, stored.problem) == (4, "")
    assert stored.forward_passes > 4
    resumed = run_grid("grid.yaml", out="cut", options=options)
    assert verdicts(resumed).equals(verdicts(whole))
    assert read_adaptations("cut") == read_adaptations("whole")


def read_adaptations(folder):
    with RunStore.open_readonly(folder) as store:
        stored = {cell.key: read_adaptation(store, cell.key) for cell in store.read_cells()}
    return {key: adaptation for key, adaptation in stored.items() if adaptation is not None}


@pytest.mark.slow
def test_images_on_the_disk_give_the_same_cells_and_verdicts(ran, monkeypatch):
    monkeypatch.setattr(pixel_spool, "MAX_BYTES_IN_MEMORY", 1)
    options = Options(device="cpu", batch_size=16)
    assert isinstance(prepare_run("grid.yaml", out="stored", options=options)[0].data.images, StoredImages)
    stored, whole = run_grid("grid.yaml", out="stored", options=options), Run("whole")
    pd.testing.assert_frame_equal(verdicts(stored), verdicts(whole))
    assert [cell["key"] for cell in stored.results["cells"]] == [
        cell["key"] for cell in whole.results["cells"]
    ]
