"""Parts of a run become one run, verdict for verdict; overlaps, gaps and other grids are refused by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from run_parts import META_KEYS, MODELS, SAMPLE, Select, copy_cell, make_grid, read_rows
from sample_run import build_run
from sample_stickers import build_sticker_run

import robustbench_local as rbl
from robustbench_local.cli.main import run_command
from robustbench_local.errors import ConfigError, DamagedError
from robustbench_local.evaluation.grid.schema import load_grid
from robustbench_local.evaluation.grid.verdict_keys import flatten_verdict_keys
from robustbench_local.merging import merge_runs as merge_module
from robustbench_local.merging.merge_runs import merge_runs
from robustbench_local.reports import write_report
from robustbench_local.reports.analysis.gates import judge_run_dir
from robustbench_local.store import AdaptationRecord, CellRecord, RunStore
from robustbench_local.store.adaptations import save_adaptation
from robustbench_local.store.lock import DirectoryLock


@pytest.fixture(autouse=True)
def _without_figures(blank_figures: None) -> None:
    """Figures are drawn in tests/reports."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return build_run(tmp_path_factory.mktemp("whole") / "run", SAMPLE)


@pytest.fixture
def copy_part(whole, tmp_path) -> Callable[..., Path]:
    """A function: writes the images of a run that are selected as a run of its own."""

    def copy(name: str, select: Select, *, source: Path = whole, grid=None, identity=(), cells=None) -> Path:
        grid = grid or make_grid()
        parts = {**flatten_verdict_keys(grid), "code": "1", "data digest": "ab12" * 16, **dict(identity)}
        with (
            RunStore.open_readonly(source) as old,
            RunStore.create_or_open(tmp_path / name, resolved_yaml=grid.to_yaml(), identity=parts) as new,
        ):
            new.update_meta({key: old.read_meta(key) for key in META_KEYS})
            for cell in old.read_cells():
                if cells is None or cells(cell):
                    copy_cell(old, new, cell, select)
        return tmp_path / name

    return copy


def first_half(cell: CellRecord, position: int) -> bool:
    return position < cell.images // 2


def second_half(cell: CellRecord, position: int) -> bool:
    return not first_half(cell, position)


def test_two_ranges_of_images_are_the_whole_run(whole, copy_part, tmp_path):
    parts = [copy_part("a", first_half), copy_part("b", second_half)]
    run = merge_runs(parts, tmp_path / "merged")
    assert read_rows(run.directory) == read_rows(whole)
    assert judge_run_dir(run.directory).verdicts == judge_run_dir(whole).verdicts
    environment = run.results["environment"]
    cells = [cell for cell in run.results["cells"] if cell["reported_status"] == "done"]
    images = sum(cell["n"] for cell in cells)
    assert [line.partition(",")[0] for line in environment["parts"]] == ["a: 8 cells", "b: 7 cells"]
    counts = [int(line.split(", ")[1].partition(" ")[0]) for line in environment["parts"]]
    assert sum(counts) == images
    page = write_report(run.directory).read_text("utf-8")
    assert "Merged from" in page
    assert "merged from these parts" in page
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "merged"]


def test_views_of_stickers_are_merged_too(copy_part, tmp_path):
    source = build_sticker_run(tmp_path / "stickers")
    parts = [
        copy_part(name, select, source=source) for name, select in (("a", first_half), ("b", second_half))
    ]
    run = merge_runs(parts, tmp_path / "merged")
    assert read_rows(run.directory) == read_rows(source)


def test_cells_that_were_run_on_different_machines(whole, copy_part, tmp_path):
    parts = [
        copy_part("a", lambda cell, _: cell.model == MODELS[0]),
        copy_part("b", lambda cell, _: cell.model == MODELS[1]),
    ]
    run = merge_runs(parts, tmp_path / "merged")
    assert read_rows(run.directory) == read_rows(whole)
    with RunStore.open_readonly(run.directory) as store:
        errors = [cell for cell in store.read_cells() if cell.status == "error"]
    assert [cell.attack for cell in errors] == ["autoattack-l2-0.5"]


def test_overlaps_are_refused_by_name(copy_part, tmp_path):
    parts = [
        copy_part("a", first_half),
        copy_part("b", lambda cell, position: position >= cell.images // 2 - 2),
    ]
    with pytest.raises(ConfigError) as refused:
        merge_runs(parts, tmp_path / "merged")
    line = str(refused.value)
    assert "overlap: position 6 and 1 more of fgsm-linf-8 on signs-plain are in both a and b" in line
    assert "and 4 more" in line
    assert not (tmp_path / "merged").exists()


def test_gaps_are_refused_by_name(copy_part, tmp_path):
    parts = [copy_part("a", first_half), copy_part("b", lambda cell, position: position > cell.images // 2)]
    with pytest.raises(
        ConfigError, match="a gap: 1 of 16 images of fgsm-linf-8 on signs-plain is in no part"
    ):
        merge_runs(parts, tmp_path / "merged")
    parts = [copy_part("c", first_half), copy_part("d", lambda *_: False)]
    with pytest.raises(ConfigError, match=r"8 of 16 images .* are in no part, from position 8.*Finish the"):
        merge_runs(parts, tmp_path / "merged")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"identity": {"code": "2"}}, "code: 1 in a, 2 in b"),
        ({"identity": {"data digest": "cd" * 32}}, "data digest: ab12ab12ab12... in a, cdcdcdcdcdcd... in b"),
        (
            {"identity": {"version of torch": "3"}, "first": {"version of torch": "2"}},
            "version of torch: 2 in",
        ),
        ({"identity": {"digest of model x": "3"}, "first": {"digest of model x": "2"}}, "digest of model x"),
        ({"grid": {"seed": 5}}, "seed: 0 in a, 5 in b"),
        ({"grid": {"data": {"source": "signs", "limit": 50}}}, "data.limit: 16 in a, 50 in b"),
        ({"grid": {"search_precision": "bf16"}}, "search_precision: fp32 in a, bf16 in b"),
        ({"grid": {"gallery": 3}}, "gallery differs: 8 in a, 3 in b"),
        (
            {"grid": {"defenses": ["jpeg-75"], "gallery": 8}},
            "defenses of model 'signs-plain' differs",
        ),
    ],
)
def test_other_grids_and_versions_are_refused_by_name(copy_part, tmp_path, changes, message):
    first = copy_part("a", first_half, identity=changes.get("first", {}))
    grid = make_grid(**changes.get("grid", {}))
    if "gallery" in changes.get("grid", {}):  # decides no verdict: only refused where the grids differ anyway
        grid = make_grid(attacks=("fgsm-linf-8", "pgd50-linf-8"), **changes["grid"])
    second = copy_part("b", second_half, grid=grid, identity=changes.get("identity", {}))
    with pytest.raises(ConfigError) as refused:
        merge_runs([first, second], tmp_path / "merged")
    assert message in str(refused.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_other_models_and_attacks_become_one_grid(copy_part, tmp_path):
    plain, robust = ({"models": [model]} for model in MODELS)
    parts = [
        copy_part(
            "a", lambda *_: True, cells=lambda cell: cell.model == MODELS[0] and cell.attack == "fgsm-linf-8",
            grid=make_grid(**plain), identity={f"digest of model {MODELS[0]}": "1"},
        ),
        copy_part(
            "b", lambda *_: True, cells=lambda cell: cell.model == MODELS[1] and "pgd50" in cell.attack,
            grid=make_grid(**robust, attacks=[{"card": "pgd50-linf-8", "eps": ["2/255", "4/255"]}]),
            identity={f"digest of model {MODELS[1]}": "2"},
        ),
        copy_part(
            "c", lambda *_: True, cells=lambda cell: cell.model == MODELS[1] and cell.attack == "fgsm-linf-8",
            grid=make_grid(**robust), identity={f"digest of model {MODELS[1]}": "2"},
        ),
    ]  # fmt: skip
    run = merge_runs(parts, tmp_path / "merged")
    with RunStore.open_readonly(run.directory) as store:
        grid = load_grid(store.read_meta("grid"))[0]
        identity, cells = store.read_identity(), store.read_cells()
    assert [model.id for model in grid.models] == MODELS
    assert [(entry.card, entry.models) for entry in grid.attacks] == [
        ("fgsm-linf-8", None),
        ("pgd50-linf-8", [MODELS[1]]),
    ]
    assert len(grid.gates) == 1
    assert identity == {
        **flatten_verdict_keys(grid), "code": "1", "data digest": "ab12" * 16,
        f"digest of model {MODELS[0]}": "1", f"digest of model {MODELS[1]}": "2",
    }  # fmt: skip
    assert [cell.position for cell in cells] == list(range(4))
    assert [cell.model for cell in cells] == [MODELS[0], *[MODELS[1]] * 3]


def test_attacks_that_were_adapted_in_two_ways_are_refused(copy_part, tmp_path):
    parts = [copy_part("a", first_half), copy_part("b", second_half)]
    for part, images in zip(parts, (10, 11), strict=True):
        with RunStore.open_readonly(part) as store:
            (key, identity) = store.read_cells()[0].key, store.read_identity()
        with RunStore.create_or_open(part, resolved_yaml=make_grid().to_yaml(), identity=identity) as store:
            save_adaptation(store, key, AdaptationRecord(images=images))
    with pytest.raises(ConfigError, match="on signs-plain was adapted to the model differently in a and b"):
        merge_runs(parts, tmp_path / "merged")


def test_parts_that_stopped_early_are_refused(copy_part, tmp_path):
    parts = [copy_part("a", first_half), copy_part("b", second_half)]
    with RunStore.open_readonly(parts[1]) as store:
        (key, identity) = store.read_cells()[0].key, store.read_identity()
    with RunStore.create_or_open(parts[1], resolved_yaml=make_grid().to_yaml(), identity=identity) as store:
        store.set_status(key, "stopped", "the gates are decided")
    with pytest.raises(ConfigError, match="stopped early cannot be merged: fgsm-linf-8 on signs-plain in b"):
        merge_runs(parts, tmp_path / "merged")


@pytest.mark.parametrize(
    ("cause", "step"),
    [
        (KeyboardInterrupt, "_write_cell"),
        (OSError, "_write_cell"),
        (MemoryError, "read_part"),
        (MemoryError, "store_summary"),
    ],
)
def test_an_interrupted_merge_leaves_nothing(copy_part, tmp_path, monkeypatch, cause, step):
    parts = [copy_part("a", first_half), copy_part("b", second_half)]
    calls = []

    def stop(*_, **__):
        calls.append(1)
        raise cause

    monkeypatch.setattr(merge_module, step, stop)
    with pytest.raises(cause):
        merge_runs(parts, tmp_path / "merged")
    assert calls
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_what_a_killed_merge_left_is_removed_unless_it_is_at_work(copy_part, tmp_path):
    parts = [copy_part("a", first_half), copy_part("b", second_half)]
    killed, busy = (tmp_path / f".merged.{number}.merging" for number in (1, 2))
    for folder in (killed, busy):
        folder.mkdir()
    (killed / "run.lock").write_text('{"pid": 0, "boot": "", "started": ""}')
    lock = DirectoryLock(busy / "run.lock")
    merge_runs(parts, tmp_path / "merged")
    assert not killed.exists()
    assert busy.exists()
    lock.release_lock()


def test_damaged_parts_and_full_folders_are_refused(copy_part, tmp_path):
    parts = [copy_part("a", first_half), copy_part("b", second_half)]
    (tmp_path / "merged").mkdir()
    assert merge_runs(parts, tmp_path / "merged").is_complete is False  # one attack failed in every part
    with pytest.raises(ConfigError, match="exists and is not empty"):
        merge_runs(parts, tmp_path / "merged")
    with pytest.raises(ConfigError, match="given twice"):
        merge_runs([parts[0], rbl.Run(parts[0])], tmp_path / "other")
    image_file = next((parts[0] / "adversarial").rglob("*.safetensors"))
    image_file.write_bytes(image_file.read_bytes()[:-1] + b"\0")
    with pytest.raises(DamagedError, match="changed since it was written"):
        merge_runs(parts, tmp_path / "other")
    shutil.rmtree(parts[0])
    with pytest.raises(ConfigError, match="no run here"):
        merge_runs(parts, tmp_path / "other")


def test_labels_and_diagnostics_of_parts_are_merged(copy_part, tmp_path):
    parts = [copy_part("a", first_half), copy_part("b", second_half)]
    result = {"id": "D4", "name": "same answer", "model": MODELS[0], "sentence": "Fine.", "passes": [2, 0]}
    for part, status, label in zip(parts, ("ok", "warn"), ("PGD", "PGD"), strict=True):
        with RunStore.open_readonly(part) as store:
            identity = store.read_identity()
        attack = {"a": "pgd50-linf-2", "b": "pgd50-linf-4"}[part.name]
        with RunStore.create_or_open(part, resolved_yaml=make_grid().to_yaml(), identity=identity) as store:
            store.update_meta({
                "labels": {"attacks": {attack: label, "fgsm-linf-8": "FGSM"}, "families": {}, "models": []},
                "diagnostics": {"results": [{**result, "status": status}], "passes": 2, "planned_passes": 50},
                "environment": {"versions": {"numpy": status}, "device": part.name, "started": "2026"},
            })  # fmt: skip
    run = merge_runs(parts, tmp_path / "merged")
    results = run.results
    labels = {cell["attack"]: cell["label"] for cell in results["cells"]}
    assert labels["pgd50-linf-2"] == "PGD, linf-2"
    assert labels["pgd50-linf-4"] == "PGD, linf-4"
    assert labels["fgsm-linf-8"] == "FGSM"
    (diagnostic,) = [entry for entry in results["diagnostics"]["results"] if entry["id"] == "D4"]
    assert diagnostic["status"] == "warn"
    assert results["environment"]["device"] == "a; b"
    with RunStore.open_readonly(run.directory) as store:
        messages = [event.message for event in store.read_events()]
    assert "the parts have other versions of numpy ok, warn; digits may differ" in messages


def test_the_command_judges_and_reports(copy_part, tmp_path, capsys):
    parts = [str(copy_part("a", first_half)), str(copy_part("b", second_half))]
    code = run_command(["merge", *parts, "--out", str(tmp_path / "merged")])
    out = capsys.readouterr().out
    assert code == 1
    assert f"merged 2 parts into {tmp_path / 'merged'}" in out
    assert "FAIL" in out
    assert (tmp_path / "merged" / "report.html").is_file()
    assert run_command(["merge", parts[0], "--out", str(tmp_path / "other")]) == 2
    assert "a merge needs two parts or more" in capsys.readouterr().err
    assert run_command(["merge", *parts, "--out", str(tmp_path / "third"), "--json"]) == 1
    assert json.loads(capsys.readouterr().out.splitlines()[0])["event"] == "merged"


@pytest.mark.slow
def test_a_merged_run_resumes_without_work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    grids = [
        {
            "data": {"source": "signs", "limit": 6},
            "models": [{"id": name, "source": f"zoo:signs-{name}"}],
            "attacks": ["fgsm-linf-8"],
        }
        for name in ("plain", "trades")
    ]
    options = rbl.Options(device="cpu", batch_size=8, workers=1)
    parts = [rbl.run_grid(grid, f"part {index}", options=options) for index, grid in enumerate(grids)]
    merged = rbl.merge_runs(parts, "merged")
    before = merged.outcomes
    again = rbl.run_grid("merged/run.yaml", "merged", options=options)
    assert again.is_complete
    assert again.outcomes.equals(before)
    comparison = rbl.compare_runs(parts[0], parts[1])
    assert comparison.answer.startswith("No difference between part 1 and part 0 can be shown")
    assert comparison.results["schema"] == 1
    assert comparison.write(tmp_path / "page.html") == [tmp_path / "page.html"]
    assert repr(comparison).startswith("<ComparisonReport: ")
