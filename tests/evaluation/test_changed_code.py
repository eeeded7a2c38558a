"""Numbers of code that no longer exists: no run is resumed and no weights are found once code has changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from robustbench_local.cli.main import run_command
from robustbench_local.errors import ConfigError, RefusedError
from robustbench_local.evaluation.options import Options
from robustbench_local.evaluation.planning import environment
from robustbench_local.run import prepare_run, run_grid

pytestmark = pytest.mark.slow

NET = """
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
        self.gain = 1.0
    def forward(self, images):
        return self.layers(images) * self.gain
"""
SHORT = {"card": "standard", "epochs": 1, "batch_size": 8, "warmup_epochs": 0}
GRID: dict[str, Any] = {
    "data": {"source": "npz:digits.npz", "limit": 8},
    "models": [{"id": "mine", "source": "python:mine.py:Net", "num_classes": 10}],
    "attacks": ["fgsm-linf-8"],
}
TRAINED = {**GRID, "training": {"source": "npz:digits.npz", "val_share": 0.3}, "defenses": [SHORT]}


@pytest.fixture(autouse=True)
def files(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RBL_CACHE", str(workplace / "cache"))
    (workplace / "mine.py").write_text("from mynet import Net\n")
    (workplace / "mynet.py").write_text(NET)
    return workplace


def change(path: Path, old: str = "self.gain = 1.0", new: str = "self.gain = 2.0") -> None:
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def run(grid: dict[str, Any] = GRID) -> Any:
    return run_grid(grid, out="out", options=Options(allow_code=True, workers=1))


def test_a_changed_neighbour_refuses_the_old_figures_by_name(files: Path) -> None:
    assert run().is_complete
    assert run().is_complete
    change(files / "mynet.py")
    with pytest.raises(
        ConfigError, match=r"another grid .*code file mynet.py of model mine: \w+\.\.\. there, \w+"
    ):
        run()
    (files / "grid.yaml").write_text(yaml.safe_dump(GRID))
    assert run_command(["run", "grid.yaml", "--out", "out", "--allow-code"]) == 2


def test_another_version_of_what_computes_refuses_them_too(monkeypatch: pytest.MonkeyPatch) -> None:
    run()
    monkeypatch.setattr(torch, "__version__", "9.9.1")
    with pytest.raises(ConfigError, match=r"version of torch: [\d.]+ there, 9.9.1 here"):
        run()


def test_a_changed_surrogate_refuses_them(files: Path) -> None:
    other = {"id": "own", "source": "python:own.py:Net", "num_classes": 10}
    (files / "own.py").write_text(NET)
    grid = {**GRID, "models": [*GRID["models"], other],
            "attacks": [{"card": "fgsm-linf-8", "transfer_from": "own", "models": ["mine"]}]}  # fmt: skip
    run(grid)
    change(files / "own.py")
    with pytest.raises(ConfigError, match=r"code file own.py of model own"):
        run(grid)


def test_only_libraries_whose_attacks_run_are_named() -> None:
    assert environment.find_library_versions(["pgd", "square"]).keys() == {"version of torch"}
    found = environment.find_library_versions(["torchattacks:FGSM", "reference:autoattack"])
    assert found.keys() == {"version of torch", "version of torchattacks", "version of pyautoattack"}


def test_a_model_that_could_not_be_used_may_be_mended(files: Path) -> None:
    other = {"id": "own", "source": "python:own.py:Net", "num_classes": 10}
    (files / "own.py").write_text("raise RuntimeError('not yet')\n")
    grid = {**GRID, "models": [*GRID["models"], other]}
    assert not run(grid).is_complete
    (files / "own.py").write_text(NET)
    assert run(grid).is_complete
    change(files / "own.py")
    with pytest.raises(ConfigError, match=r"code file own.py of model own"):
        run(grid)


def test_a_recipe_on_code_trains_and_is_found_until_the_code_changes(files: Path) -> None:
    lines: list[str] = []
    first = prepare_run(TRAINED, options=Options(allow_code=True), report=lines.append)[0].subjects[0]
    assert lines[0].startswith("training mine by standard")
    count = len(lines)
    again = prepare_run(TRAINED, options=Options(allow_code=True), report=lines.append)[0].subjects[0]
    assert (len(lines), again.digest) == (count, first.digest)
    change(files / "mynet.py", "nn.Linear(784, 10)", "nn.Linear(784, 10, bias=False)")
    other = prepare_run(TRAINED, options=Options(allow_code=True), report=lines.append)[0].subjects[0]
    assert len(lines) == 2 * count
    assert other.digest != first.digest
    assert len(list((files / "cache").glob("*.safetensors"))) == 2


def test_a_recipe_trains_the_network_with_the_classes_that_the_grid_says(files: Path) -> None:
    change(files / "mynet.py", "def __init__(self):", "def __init__(self, num_classes=4):")
    change(files / "mynet.py", "nn.Linear(784, 10)", "nn.Linear(784, num_classes)")
    trained = prepare_run(TRAINED, options=Options(allow_code=True))[0].subjects[0].classifier
    with trained.evaluation_mode():
        assert trained(torch.rand(2, 1, 28, 28)).shape == (2, 10)


def test_code_that_is_not_allowed_is_refused_before_anything_is_trained(files: Path) -> None:
    lines: list[str] = []
    with pytest.raises(RefusedError, match="would be run as code"):
        prepare_run(TRAINED, report=lines.append)
    assert lines == []
    assert not (files / "cache").exists()


def test_a_teacher_of_code_needs_to_be_allowed_as_well(files: Path) -> None:
    (files / "teacher.py").write_text(NET)
    taught = {**SHORT, "card": "distillation-t20", "teacher": "python:teacher.py:Net"}
    plain = {"id": "first", "source": "checkpoint:first.safetensors", "architecture": "mnist_fast"}
    grid = {**TRAINED, "models": [plain], "defenses": [taught]}
    lines: list[str] = []
    with pytest.raises(RefusedError, match=r"teacher.py would be run as code"):
        prepare_run(grid, report=lines.append)
    assert lines == []
    first = prepare_run(grid, options=Options(allow_code=True), report=lines.append)[0].subjects[0]
    count = len(lines)
    change(files / "teacher.py", "* self.gain", "* self.gain * 3")
    other = prepare_run(grid, options=Options(allow_code=True), report=lines.append)[0].subjects[0]
    assert len(lines) == 2 * count
    assert first.digest != other.digest


def test_an_interrupted_training_is_not_resumed_by_other_code(files: Path) -> None:
    longer = {**TRAINED, "defenses": [{**SHORT, "epochs": 2}]}

    def interrupt(line: str) -> None:
        if line.startswith("epoch 1/"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_run(longer, options=Options(allow_code=True), report=interrupt)
    change(files / "mynet.py")
    lines: list[str] = []
    prepare_run(longer, options=Options(allow_code=True), report=lines.append)
    assert not any(line.startswith("resumed") for line in lines)
