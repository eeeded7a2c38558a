"""Damaged runs, links in the way, names that are no folders, models that print: one line, an exit code."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from robustbench_local.cli.main import run_command
from robustbench_local.errors import ConfigError
from robustbench_local.evaluation.grid.run_directory import find_run_directory
from robustbench_local.evaluation.grid.schema import load_grid

pytestmark = pytest.mark.slow

RUN = ("run", "grid.yaml", "--out", "out", "--device", "cpu", "--workers", "1")


@pytest.fixture
def rbl(capsys, monkeypatch):
    """Runs a command; returns the exit code, the output and the error line."""
    monkeypatch.setenv("RBL_BATCH_SIZE", "32")

    def run(*arguments):
        code = run_command([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture(scope="module")
def finished(tmp_path_factory, _made):
    """A finished run of two cells, and the folder that it was made in."""
    folder = tmp_path_factory.mktemp("finished")
    shutil.copytree(_made, folder, dirs_exist_ok=True)
    grid = """\
schema: 1
name: small
data: {source: "npz:digits.npz", limit: 20}
models:
  - {id: first, source: "checkpoint:first.safetensors", architecture: mnist_fast}
attacks: [{card: fgsm-linf-8, eps: ["16/255", "64/255"]}]
gates:
  - {metric: robust_accuracy, attack: "fgsm-linf-16", min: 0.01, on: estimate}
"""
    (folder / "grid.yaml").write_text(grid)
    before = Path.cwd()
    os.chdir(folder)
    try:
        assert run_command(list(RUN)) == 0
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def place(finished, tmp_path, monkeypatch):
    shutil.copytree(finished, tmp_path / "place")
    monkeypatch.chdir(tmp_path / "place")
    return tmp_path / "place"


def edit(statement):
    with closing(sqlite3.connect("out/run.db", isolation_level=None)) as raw:
        raw.execute(statement)


def test_every_command_refuses_a_damaged_run_and_run_computes_it_again(place, rbl):
    whole = json.loads(Path("out/results.json").read_text())
    edit("UPDATE outcomes SET broken = 1 - broken WHERE position = 7 AND clean_correct = 1")
    for command in (("report", "out"), ("gate", "out"), RUN):
        code, out, err = rbl(*command)
        assert code == 2
        assert len(err.splitlines()) == 1
        assert "cell first x fgsm-linf-" in err
        assert "--recompute-damaged" in err
    code, out, err = rbl(*RUN, "--recompute-damaged")
    assert (code, err) == (0, "")
    assert "20 images" in out
    again = json.loads(Path("out/results.json").read_text())
    for one, other in zip(whole["cells"], again["cells"], strict=True):
        assert one | {"seconds": 0} == other | {"seconds": 0}
    assert rbl("gate", "out")[0] == 0


def test_only_the_damaged_cell_is_computed_again(place, rbl):
    edit("UPDATE outcomes SET linf = 0.5 WHERE position = 3 AND cell = (SELECT min(key) FROM cells)")
    code, out, _ = rbl(*RUN, "--recompute-damaged")
    assert code == 0
    assert out.count("started ") == 1


@pytest.mark.parametrize(
    "how",
    [
        "exchanged",
        pytest.param("black", marks=pytest.mark.slow),
        pytest.param("missing", marks=pytest.mark.slow),
    ],
)
def test_images_that_are_not_those_that_were_found_are_not_shown(place, rbl, how):
    one, other = sorted(Path("out/adversarial").rglob("*.safetensors"))
    content = one.read_bytes()
    if how == "exchanged":
        shutil.copyfile(other, one)
        other.write_bytes(content)
    elif how == "black":
        one.write_bytes(content[:-5000] + bytes(5000))
    else:
        one.unlink()
    code, _, err = rbl("report", "out")
    count = 2 if how == "exchanged" else 1
    assert code == 2
    assert len(err.splitlines()) == 1
    assert "damaged images are not shown: first x fgsm-linf-" in err
    assert err.count("first x ") == count
    text = Path("out/report.md").read_text()
    assert text.count("are not shown") == count
    assert Path("out/report.html").read_text().count("data:image/png") < 40
    assert rbl("gate", "out")[0] == 0, "numbers do not rest on images"
    assert rbl(*RUN)[0] == 2
    assert rbl(*RUN, "--recompute-damaged")[0] == 0
    assert rbl("report", "out")[::2] == (0, "")


def test_a_folder_of_figures_that_leads_elsewhere_is_refused(place, rbl):
    Path("elsewhere").mkdir()
    shutil.rmtree("out/figures")
    Path("out/figures").symlink_to("../elsewhere")
    before = Path("out/report.html").read_bytes()
    code, _, err = rbl("report", "out")
    assert code == 5
    assert "figures: is a symbolic link to ../elsewhere" in err
    assert list(Path("elsewhere").iterdir()) == []
    assert Path("out/report.html").read_bytes() == before


@pytest.mark.parametrize(
    "name", ["report.html", "report.md", "results.json", "outcomes.csv", "figures/examples.png"]
)
def test_a_file_of_the_report_that_is_a_link_is_refused(place, rbl, name):
    Path("victim").write_text("precious")
    Path("out", name).unlink()
    Path("out", name).symlink_to(place / "victim")
    code, _, err = rbl("report", "out")
    assert code == 5
    assert f"{name}: is a symbolic link" in err
    assert Path("victim").read_text() == "precious"


@pytest.mark.parametrize("name", ["run.db", "run.lock", "run.yaml", "run.db-wal", "adversarial"])
def test_a_file_of_the_run_that_is_a_link_is_refused(place, rbl, name):
    Path("victim").write_text("precious")
    here = Path("new") / name
    here.parent.mkdir()
    here.symlink_to(place / ("victim" if name != "adversarial" else "."))
    if name != "run.db":
        shutil.copyfile("out/run.db", "new/run.db")
    edit_of = ("run", "grid.yaml", "--out", "new", "--device", "cpu", "--workers", "1")
    if name == "adversarial":
        with closing(sqlite3.connect("new/run.db", isolation_level=None)) as raw:
            raw.execute("UPDATE outcomes SET linf = 0.5 WHERE position = 3")
        edit_of += ("--recompute-damaged",)
    code, _, err = rbl(*edit_of)
    assert code in {4, 5}
    assert "is a symbolic link" in err or code == 4
    assert Path("victim").read_text() == "precious"
    assert not list(place.glob("[0-9a-f]" * 16))


def test_a_finished_run_on_read_only_media_is_reported_elsewhere(place, rbl):
    for path in [*Path("out").rglob("*"), Path("out")]:
        path.chmod(0o500 if path.is_dir() else 0o400)
    try:
        before = {path: path.read_bytes() for path in Path("out").rglob("*") if path.is_file()}
        code, out, err = rbl("report", "out", "--out", "pages/today")
        assert (code, err) == (0, "")
        assert out.strip().endswith("report.html")
        assert rbl("report", "out", "--out", "other/page.html")[0] == 0
        assert rbl("gate", "out")[0] == 0
        assert {path: path.read_bytes() for path in Path("out").rglob("*") if path.is_file()} == before
    finally:
        for path in [Path("out"), *Path("out").rglob("*")]:
            path.chmod(0o700)
    assert Path("pages/today/report.html").read_bytes() == before[Path("out/report.html")]
    assert Path("pages/today/figures/robust-accuracy.png").exists()
    assert Path("other/page.html").exists()


NAMES = (
    "..",
    ".",
    "a/b",
    "a\\b",
    "/abs",
    "-rf",
    "CON",
    "con.txt",
    "LPT1",
    "dot.",
    " x",
    "x ",
    "a\x07b",
    "a\u202eb",
)


def directory_of(name, out=None):
    wanted, _ = load_grid("grid.yaml")
    return find_run_directory(wanted.model_copy(update={"name": name}), out)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_is_no_folder_is_refused(place, name):
    with pytest.raises(ConfigError, match=r"cannot be a run's folder.*[Uu]se --out"):
        directory_of(name)
    assert directory_of(name, "plain") == Path("plain")


@pytest.mark.parametrize("name", ["v1: what holds?", "限速", "a.b", ".hidden", "[a]", "x" * 100])
def test_a_name_that_is_a_folder_is_one(place, name):
    assert directory_of(name) == Path("runs", name)


NOISY = """\
import os, sys, torch
print("loaded")

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10))

    def forward(self, x):
        print("hello")
        os.write(1, b"raw")
        os.system("echo from a child")
        return self.body(x)


def make():
    torch.manual_seed(0)
    return Net()
"""


def test_every_line_of_json_is_json_whatever_a_model_prints(place):
    Path("net.py").write_text(NOISY)
    text = Path("grid.yaml").read_text().replace("checkpoint:first.safetensors", "python:net.py:make")
    text = text.replace("architecture: mnist_fast", "num_classes: 10").replace("limit: 20", "limit: 4")
    Path("grid.yaml").write_text(text)
    command = [sys.executable, "-m", "robustbench_local.cli", *RUN[:3], "json", *RUN[4:], "--batch-size", "4"]
    ended = subprocess.run([*command, "--allow-code", "--json"], capture_output=True, text=True, check=False)
    assert ended.returncode in {0, 1, 4}, ended.stderr
    events = [json.loads(line)["event"] for line in ended.stdout.splitlines()]
    assert events[:2] == ["models", "plan"]
    assert events[-1] == "run_ended"
    for word in ("loaded", "hello", "raw", "from a child"):
        assert word in ended.stderr


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="signals of POSIX")
def test_a_closed_terminal_is_an_interrupt(place):
    text = Path("grid.yaml").read_text().replace("card: fgsm-linf-8", "card: pgd50-linf-8, steps: 5000")
    Path("grid.yaml").write_text(text.replace("limit: 20", "limit: 40").split("gates:")[0])
    command = [sys.executable, "-m", "robustbench_local.cli", *RUN[:3], "hung", *RUN[4:], "--batch-size", "4"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while not Path("hung/run.db").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    time.sleep(0.5)
    process.send_signal(signal.SIGHUP)
    _, message = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "same command" in message
    assert run_command(["report", "hung"]) == 0
