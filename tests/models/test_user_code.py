from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from robustbench_local.classifier import Classifier
from robustbench_local.errors import ConfigError, ModelError
from robustbench_local.models.sources import load_classifier

CODE = """
import torch
from torch import nn
from helper import CLASSES

class Net(nn.Module):
    def __init__(self, num_classes=CLASSES):
        super().__init__()
        self.num_classes = num_classes
        self.head = nn.Linear(12, num_classes)

    def forward(self, images):
        return self.head(images.flatten(1))

def needs_number(num_classes):
    return Net(num_classes)

def maker():
    return scores

def scores(images):
    return images.mean(dim=(2, 3))

def labels(images):
    return scores(images).argmax(dim=1)

class Wrapped:
    def __call__(self, images):
        return scores(images)

wrapped = Wrapped()
ready = Net(5)
number = 3

def broken():
    raise RuntimeError("no weights here")

def leaves():
    raise SystemExit(0)

def gives_a_string():
    return "net"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(CODE)
    (tmp_path / "helper.py").write_text("CLASSES = 4\n")
    return tmp_path


def load(folder: Path, name: str, **options: object) -> Classifier:
    return load_classifier(f"python:mine.py:{name}", base=folder, allow_code=True, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "options", "classes", "access"),
    [
        ("Net", {}, 4, "gradients"),
        ("Net", {"default_classes": 9}, 4, "gradients"),
        ("Net", {"num_classes": 6}, 6, "gradients"),
        ("needs_number", {"default_classes": 9}, 9, "gradients"),
        ("ready", {}, 5, "gradients"),
        ("scores", {"default_classes": 3}, 3, "scores"),
        ("maker", {"default_classes": 3}, 3, "scores"),
        ("wrapped", {"num_classes": 3}, 3, "scores"),
        ("labels", {"num_classes": 3, "access": "labels"}, 3, "labels"),
    ],
)
def test_modules_factories_and_functions(
    folder: Path, name: str, options: dict[str, object], classes: int, access: str
) -> None:
    found = load(folder, name, **options)
    assert found.num_classes == classes
    assert found.access == access
    assert found(torch.rand(2, 3, 2, 2)).shape == (2, classes)
    assert found.provenance["code"] == "mine.py"
    assert len(found.provenance["code_sha256"]) == 64
    assert str(folder) not in sys.path


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("Ned", {}, ConfigError, "mine.py has no 'Ned'. Did you mean Net"),
        ("scores", {}, ModelError, "nobody says how many classes"),
        ("needs_number", {}, ModelError, "nobody says how many classes"),
        ("number", {}, ModelError, "is a int, not a model"),
        ("gives_a_string", {}, ModelError, "is a str, not a model"),
        ("broken", {}, ModelError, "raised RuntimeError: no weights here"),
        ("leaves", {}, ModelError, "raised SystemExit"),
        ("scores", {"num_classes": 3, "weights": "w.pt"}, ConfigError, "a function takes no weights"),
    ],
)
def test_what_goes_wrong(
    folder: Path, name: str, options: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        load(folder, name, **options)


@pytest.mark.parametrize("code", ["import no_such_module", "raise SystemExit(3)", "def"])
def test_a_file_that_cannot_be_imported(tmp_path: Path, code: str) -> None:
    (tmp_path / "mine.py").write_text(code)
    before = set(sys.modules)
    with pytest.raises(ModelError, match=r"mine.py: raised .* on import"):
        load(tmp_path, "net")
    assert not [name for name in set(sys.modules) - before if "mine" in name]


def test_a_place_needs_a_name(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"Write python:FILE.py:NAME"):
        load_classifier("python:mine.py", base=folder, allow_code=True)


def test_a_network_of_ones_own_takes_weights_both_ways(folder: Path) -> None:
    head = nn.Linear(12, 4)
    save_file(
        {"head.weight": head.weight.detach(), "head.bias": head.bias.detach()}, folder / "w.safetensors"
    )
    place = "python:mine.py:Net"
    one = load(folder, "Net", weights="w.safetensors")
    two = load_classifier("checkpoint:w.safetensors", architecture=place, base=folder, allow_code=True)
    for found in (one, two):
        assert torch.equal(found.module.head.weight, head.weight)  # type: ignore[union-attr]
        assert found.provenance["weights"] == "w.safetensors"


def test_the_digest_follows_the_code_and_not_the_place(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("elsewhere")
    for name in ("mine.py", "helper.py"):
        (other / name).write_text((folder / name).read_text())
    here, there = load(folder, "Net").digest(), load(other, "Net").digest()
    assert here == there
    (other / "mine.py").write_text(CODE.replace("images.flatten(1)", "images.flatten(1) * 2"))
    assert load(other, "Net").digest() != here
