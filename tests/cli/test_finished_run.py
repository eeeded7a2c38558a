"""``rbl run`` on a finished run: no plan, no torch, and never a wrong "finished"."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from robustbench_local.cli import grid_run
from robustbench_local.cli.main import run_command
from robustbench_local.evaluation.execution import finished_run
from robustbench_local.evaluation.execution.finished_run import describe_inputs
from robustbench_local.evaluation.grid.schema import load_grid
from robustbench_local.evaluation.options import Options

PLANNED = "the run was planned"


@pytest.fixture
def rbl(capsys, monkeypatch):
    monkeypatch.setenv("RBL_BATCH_SIZE", "32")

    def run(*arguments):
        code = run_command([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture(scope="module")
def _kept(_made, tmp_path_factory):
    """A working directory and a copy of it, with a run that came to its end."""
    folder = tmp_path_factory.mktemp("finished")
    work, copy = folder / "work", folder / "copy"
    shutil.copytree(_made, work)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(work)
        patch.setenv("RBL_BATCH_SIZE", "32")
        words = ["run", "grid.yaml", "--out", "out", "--device", "cpu", "--limit", "6", "--workers", "1"]
        assert run_command(words) == 0
    shutil.copytree(work, copy)
    return work, copy


@pytest.fixture
def finished(_kept, monkeypatch):
    """A run that came to its end; whoever plans it again is told so."""
    work, copy = _kept
    shutil.rmtree(work)
    shutil.copytree(copy, work)
    monkeypatch.chdir(work)

    def refuse(*_, **__):
        raise RuntimeError(PLANNED)

    monkeypatch.setattr(grid_run, "prepare_run", refuse)
    return work


def _is_planned(rbl, *options):
    code, out, err = rbl("run", "grid.yaml", "--out", "out", "--limit", 6, *options)
    planned = PLANNED in err
    assert code == (70 if planned else 0), err
    assert planned != ("nothing was run" in out)
    return planned


def test_a_finished_run_is_reported_and_judged_without_a_plan(finished, rbl):
    shutil.rmtree(finished / "out" / "figures")
    (finished / "out" / "report.html").unlink()
    code, out, err = rbl("run", "grid.yaml", "--out", "out", "--limit", 6)
    assert (code, err) == (0, "")
    assert "all 6 cells done, nothing has changed: nothing was run" in out
    assert "PASS  first  " in out
    assert "worst case, linf-8" in out
    assert (finished / "out" / "report.html").is_file()
    assert (finished / "out" / "figures" / "robust-accuracy.png").is_file()
    options = ("--workers", 1, "--batch-size", 7, "--timeout", 5, "--device", "cpu")
    assert not _is_planned(rbl, *options), "what decides no verdict changes nothing"


@pytest.mark.slow
def test_it_takes_no_torch(finished):
    script = (
        "import sys\nfrom robustbench_local.cli.main import run_command\n"
        "code = run_command(['run', 'grid.yaml', '--out', 'out', '--limit', '6', '--json'])\n"
        "own = set(sys.modules) - ({'pandas'} if 'pyarrow' in sys.modules else set())\n"  # it imports pandas
        "print(code, {'torch', 'torchvision', 'pandas'} & own, file=sys.stderr)"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, env=env
    )
    assert done.stderr.split("\n")[-2] == "0 set()"
    events = [json.loads(line)["event"] for line in done.stdout.splitlines()]
    assert events == ["finished", "results", "gate", "gate", "run_ended"]


@pytest.mark.parametrize(
    "options",
    [("--seed", 4), ("--limit", 5), ("--search-precision", "bf16"), ("--allow-batch-dependence",),
     ("--dry-run",),
     ("--recompute-damaged",), ("--source-class", 3), ("--target-class", 3)],
    ids=str,
)  # fmt: skip
def test_other_options_are_planned(finished, rbl, options):
    assert _is_planned(rbl, *options)


def test_changed_weights_are_planned_even_of_the_same_size_and_time(finished, rbl):
    path = finished / "first.safetensors"
    before, content = path.stat(), bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert _is_planned(rbl)
    content[-1] ^= 1
    path.write_bytes(content)
    assert not _is_planned(rbl), "the content counts, not its date"


def test_changed_data_are_planned(finished, rbl):
    with np.load(finished / "digits.npz") as archive:
        arrays = dict(archive)
    arrays["x"] = arrays["x"].copy()
    arrays["x"].flat[0] ^= 1
    np.savez(finished / "digits.npz", **arrays)
    assert _is_planned(rbl)


@pytest.mark.parametrize(
    ("old", "new"),
    [("name: small", "name: large"), ("min: 0.01", "min: 0.02"), ("steps: 4", "steps: 5"),
     ("seed: 3", "seed: 5"),
     ("  - fgsm-linf-8\n", "  - fgsm-linf-4\n")],
)  # fmt: skip
def test_a_changed_grid_is_planned(finished, rbl, old, new):
    text = (finished / "grid.yaml").read_text()
    assert old in text
    (finished / "grid.yaml").write_text(text.replace(old, new))
    assert _is_planned(rbl)


def test_changed_code_cards_and_versions_are_planned(finished, rbl, monkeypatch, tmp_path):
    listed = list(finished_run._iterate_package_files())
    assert {"pgd.py", "signs-plain.safetensors"} <= {path.name for path in listed}
    (tmp_path / "new.py").write_text("x = 1\n")
    with monkeypatch.context() as patch:
        patch.setattr(finished_run, "_iterate_package_files", lambda: iter([*listed, tmp_path / "new.py"]))
        assert _is_planned(rbl)
    with monkeypatch.context() as patch:
        patch.setattr(finished_run, "_find_version", lambda name: "9.9")
        assert _is_planned(rbl)
    (finished / "cards").mkdir()
    assert not _is_planned(rbl)
    card = "schema: 1\nkind: attack\nname: mine\nversion: 1\ndescription: x\nsource: x\nmethod: fgsm\n"
    (finished / "cards" / "mine.yaml").write_text(card + "threat: {norm: L2, eps: 1}\n")
    assert _is_planned(rbl)


def test_what_is_not_done_or_damaged_is_planned(finished, rbl):
    shutil.copytree(finished / "out", finished / "kept")
    database = sqlite3.connect(finished / "out" / "run.db")
    with database:
        database.execute("UPDATE cells SET status = 'error' WHERE rowid = (SELECT min(rowid) FROM cells)")
    database.close()
    assert _is_planned(rbl)
    shutil.rmtree(finished / "out")
    assert _is_planned(rbl), "there is no run any more"
    shutil.copytree(finished / "kept", finished / "out")
    assert not _is_planned(rbl)


@pytest.mark.slow
def test_a_run_whose_files_change_meanwhile_is_not_remembered(workplace, rbl, monkeypatch):
    execute = grid_run.execute_run

    def change(*arguments, **options):
        run = execute(*arguments, **options)
        path = workplace / "second.safetensors"
        path.write_bytes(path.read_bytes() + b"\0")
        return run

    monkeypatch.setattr(grid_run, "execute_run", change)
    assert rbl("run", "grid.yaml", "--out", "out", "--limit", 12, "--device", "cpu", "--workers", 1)[0] == 0
    database = sqlite3.connect(workplace / "out" / "run.db")
    assert not database.execute("SELECT * FROM meta WHERE key = ?", (finished_run.INPUTS_KEY,)).fetchall()
    database.close()


USUAL = {
    "data": {"source": "signs"},
    "models": [{"id": "a", "source": "zoo:signs-plain"}],
    "attacks": ["fgsm-linf-8", {"card": "pgd", "norm": "L2", "eps": 1}, "certify-crown-linf-2"],
    "defenses": ["none", "jpeg-75"],
}


def _describe(tmp_path, **changes):
    grid, _ = load_grid(USUAL | changes)
    return describe_inputs(grid, tmp_path, (), Options())


def test_grids_of_files_are_described(tmp_path):
    assert _describe(tmp_path) == _describe(tmp_path)
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    (tmp_path / "photos" / "cat" / "a.png").write_bytes(b"one")
    folder = _describe(tmp_path, data={"source": "folder:photos"})
    assert folder is not None
    (tmp_path / "photos" / "cat" / "a.png").write_bytes(b"two")
    assert _describe(tmp_path, data={"source": "folder:photos"}) != folder
    for key in ("exclude", "groups"):
        (tmp_path / "table.csv").write_text("image\n")
        before = _describe(tmp_path, data={"source": "folder:photos", key: "table.csv"})
        (tmp_path / "table.csv").write_text("image\ncat/a.png\n")
        assert before not in (None, _describe(tmp_path, data={"source": "folder:photos", key: "table.csv"}))
    assert _describe(tmp_path, data={"source": "signs", "exclude": "missing.csv"}) is None
    (tmp_path / "photos" / "dog").symlink_to(tmp_path)
    assert _describe(tmp_path, data={"source": "folder:photos"}) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"models": [{"id": "a", "source": "torchvision:resnet18"}]},
        {"models": [{"id": "a", "source": "python:net.py:net"}]},
        {"models": [{"id": "a", "source": "http://localhost:1/x"}]},
        {"models": [{"id": "a", "source": "onnx:net.onnx"}]},
        {"models": [{"id": "a", "source": "checkpoint:net.pt", "architecture": "python:net.py:net"}]},
        {"models": [{"id": "a", "source": "checkpoint:net.pt"}]},
        {"models": [{"id": "a", "source": "checkpoint:missing.pt", "architecture": "mnist_fast"}]},
        {"models": [{"id": "a", "source": "zoo:signs-plain", "defenses": ["trades-linf-8"]}]},
        {"data": {"source": "torchvision:MNIST"}},
        {"data": {"source": "npz:missing.npz"}},
        {"data": {"source": "folder:missing"}},
        {"defenses": ["trades-linf-8"]},
        {"attacks": [{"card": "torchattacks:PGD", "norm": "Linf", "eps": 0.1}]},
        {"attacks": ["there-is-no-such-card"]},
    ],
    ids=str,
)
def test_grids_that_files_alone_do_not_describe_are_planned(tmp_path, changes):
    (tmp_path / "net.pt").touch()
    assert _describe(tmp_path, **changes) is None


def test_more_than_can_be_read_in_no_time_is_planned(tmp_path, monkeypatch):
    monkeypatch.setattr(finished_run, "MAX_READ_BYTES", 10)
    assert _describe(tmp_path) is None
