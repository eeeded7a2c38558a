from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from robustbench_local.classifier import Classifier
from robustbench_local.errors import ConfigError, ModelError
from robustbench_local.extensions import user_import
from robustbench_local.models.model_sources import load_classifier

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
    return load_classifier(f"python:mine.py:{name}", base_folder=folder, allow_code=True, **options)  # type: ignore[arg-type]


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
        ("scores", {}, ModelError, "number of classes is unknown"),
        ("needs_number", {}, ModelError, "number of classes is unknown"),
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
        load_classifier("python:mine.py", base_folder=folder, allow_code=True)


def test_a_network_of_ones_own_takes_weights_both_ways(folder: Path) -> None:
    head = nn.Linear(12, 4)
    save_file(
        {"head.weight": head.weight.detach(), "head.bias": head.bias.detach()}, folder / "w.safetensors"
    )
    place = "python:mine.py:Net"
    one = load(folder, "Net", weights="w.safetensors")
    two = load_classifier("checkpoint:w.safetensors", architecture=place, base_folder=folder, allow_code=True)
    for found in (one, two):
        assert torch.equal(found.module.head.weight, head.weight)  # type: ignore[union-attr]
        assert found.provenance["weights"] == "w.safetensors"


def test_the_digest_follows_the_code_and_not_the_place(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("elsewhere")
    for name in ("mine.py", "helper.py"):
        (other / name).write_text((folder / name).read_text())
    here, there = load(folder, "Net").compute_digest(), load(other, "Net").compute_digest()
    assert here == there
    (other / "mine.py").write_text(CODE.replace("images.flatten(1)", "images.flatten(1) * 2"))
    assert load(other, "Net").compute_digest() != here


NEIGHBOUR = """
from torch import nn
SCALE = 1.0
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(12, 4)
    def forward(self, images):
        return self.head(images.flatten(1)) * SCALE
"""
IMPORTS = {
    "name": "from mynet import Net\n",
    "module": "import mynet\nNet = mynet.Net\n",
    "in a function": "def Net():\n    from mynet import Net\n    return Net()\n",
    "by a made-up name": "import importlib\nNet = importlib.import_module('my' + 'net').Net\n",
    "by way of another": "from between import Net\n",
    "from a folder on the path": "import os, sys\nsys.path.insert(0, os.path.dirname(__file__) + '/src')\n"
    "from mynet import Net\n",
    "from a package": "from parts.inner import Net\n",
    "star": "from mynet import *\n",
}


def change(path: Path, old: str, new: str) -> None:
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize("kind", IMPORTS)
def test_a_changed_neighbour_is_another_model_and_its_new_code_runs(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    package = kind == "from a package"
    folder = tmp_path / "src" if "folder" in kind else tmp_path
    place = tmp_path / "parts" / "deep.py" if package else folder / "mynet.py"
    place.parent.mkdir(exist_ok=True)
    (tmp_path / "mine.py").write_text(IMPORTS[kind])
    (tmp_path / "between.py").write_text("from mynet import Net\n")
    (place.parent / "inner.py").write_text("from .deep import Net\n")
    place.write_text(NEIGHBOUR)
    images = torch.rand(2, 3, 2, 2)
    first = load(tmp_path, "Net", num_classes=4)
    assert load(tmp_path, "Net", num_classes=4).compute_digest() == first.compute_digest()
    change(place, "SCALE = 1.0", "SCALE = 3.0")  # as long, and in the same second: no cache may know it
    second = load(tmp_path, "Net", num_classes=4)
    one, other = first.describe_parts(), second.describe_parts()
    file = "code file parts/deep.py" if package else "code file mynet.py"
    assert file in {name for name in one if one[name] != other[name]}
    torch.testing.assert_close(second(images), first(images) * 3)


def test_a_comment_in_a_whole_file_counts(folder: Path) -> None:
    first = load(folder, "Net").compute_digest()
    change(folder / "helper.py", "CLASSES = 4", "CLASSES = 4  # of them")
    assert load(folder, "Net").compute_digest() != first


def test_neighbours_of_one_name_in_two_folders_are_two(tmp_path: Path) -> None:
    for name, scale in (("a", "1.0"), ("b", "3.0")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.py").write_text(IMPORTS["name"])
        (tmp_path / name / "mynet.py").write_text(NEIGHBOUR.replace("SCALE = 1.0", f"SCALE = {scale}"))
    one, other = (load(tmp_path / name, "Net", num_classes=4) for name in ("a", "b"))
    images = torch.rand(2, 3, 2, 2)
    torch.testing.assert_close(other(images), one(images) * 3)
    digests = one.compute_digest(), other.compute_digest()
    assert digests[0] != digests[1]
    assert load(tmp_path / "a", "Net", num_classes=4).compute_digest() == digests[0] == one.compute_digest()


def test_a_package_elsewhere_on_the_path_is_the_users_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "src"
    (elsewhere / "lab_of_mine").mkdir(parents=True)
    (elsewhere / "lab_of_mine" / "__init__.py").write_text("from lab_of_mine.nets import Net\n")
    (elsewhere / "lab_of_mine" / "nets.py").write_text(NEIGHBOUR)
    (tmp_path / "mine.py").write_text("from lab_of_mine import Net\n")
    monkeypatch.syspath_prepend(str(elsewhere))
    first = load(tmp_path, "Net", num_classes=4)
    assert {
        "code file lab_of_mine/__init__.py",
        "code file lab_of_mine/nets.py",
    } <= first.describe_parts().keys()
    images = torch.rand(2, 3, 2, 2)
    before = first(images)
    change(elsewhere / "lab_of_mine" / "nets.py", "* SCALE", "* SCALE * 2")
    second = load(tmp_path, "Net", num_classes=4)
    assert second.compute_digest() != first.compute_digest()
    torch.testing.assert_close(second(images), before * 2)


def test_a_librarys_network_made_by_a_file_is_that_files(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("from torch import nn\ndef net():\n    return nn.Flatten()\n")
    first = load(tmp_path, "net", num_classes=4)
    assert "code file mine.py" in first.describe_parts()
    change(tmp_path / "mine.py", "nn.Flatten()", "nn.Flatten(1)")
    assert load(tmp_path, "net", num_classes=4).compute_digest() != first.compute_digest()


def test_the_libraries_that_a_file_imports_are_there_by_version(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import numpy as np\nimport matplotlib\ndef net(x):\n    return x\n")
    assert {"version of numpy", "version of torch"} <= (
        parts := load(tmp_path, "net", num_classes=4).describe_parts()
    ).keys()
    assert not any("matplotlib" in name for name in parts)


def test_a_network_made_on_import_has_the_same_weights_every_time(folder: Path) -> None:
    one = load(folder, "ready")
    torch.rand(3)
    assert load(folder, "ready").compute_digest() == one.compute_digest()


def test_two_entries_never_share_a_network(folder: Path) -> None:
    (folder / "mine.py").write_text("from nets import ready\n")
    (folder / "nets.py").write_text("from torch import nn\nready = nn.Linear(2, 2)\n")
    one, other = load(folder, "ready", num_classes=2), load(folder, "ready", num_classes=2)
    assert one.module is not other.module


def test_a_neighbour_that_the_session_imported_before_is_read_afresh(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text("from session_net import Net\n")
    (tmp_path / "session_net.py").write_text(NEIGHBOUR)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = importlib.import_module("session_net")
    change(tmp_path / "session_net.py", "SCALE = 1.0", "SCALE = 3.0")
    found = load(tmp_path, "Net", num_classes=4)
    assert type(found.module) is not before.Net
    assert sys.modules["session_net"].SCALE == 3.0
    del sys.modules["session_net"]


LATE = """from torch import nn
class Net(nn.Linear):
    def __init__(self):
        super().__init__(2, 2)
    def forward(self, x):
        {line}
        return x.flatten(1)[:, :2] * SCALE
"""


def answer(found: Classifier) -> float:
    with found.evaluation_mode():
        return float(found(torch.ones(1, 1, 1, 2))[0, 0])


def test_a_neighbour_that_only_the_forward_imports_is_found_and_in_the_identity(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(LATE.format(line="from late_one.part import SCALE"))
    (tmp_path / "late_one").mkdir()
    (tmp_path / "late_one" / "part.py").write_text("SCALE = 2.0\n")
    found = load(tmp_path, "Net", num_classes=2)
    assert answer(found) == 2.0
    change(tmp_path / "late_one" / "part.py", "2.0", "3.0")
    other = load(tmp_path, "Net", num_classes=2)
    assert answer(other) == 3.0
    assert found.compute_digest() != other.compute_digest()


def test_what_only_a_made_up_name_leads_to_is_not_run_unseen(tmp_path: Path) -> None:
    line = "SCALE = __import__('late_' + 'two').SCALE"
    (tmp_path / "mine.py").write_text(LATE.format(line=line))
    (tmp_path / "late_two.py").write_text("SCALE = 2.0\n")
    with pytest.raises(ModelError, match=r"No module named 'late_two'\. Import it at the top"):
        answer(load(tmp_path, "Net", num_classes=2))


def test_late_neighbours_of_one_name_in_two_folders_are_not_confused(tmp_path: Path) -> None:
    for folder, scale in (("a", "2.0"), ("b", "3.0")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(LATE.format(line="from late_three import SCALE"))
        (tmp_path / folder / "late_three.py").write_text(f"SCALE = {scale}\n")
    one, other = (load(tmp_path / folder, "Net", num_classes=2) for folder in "ab")
    for found in (one, other):
        with pytest.raises(ModelError, match="late_three"):
            answer(found)


def test_libraries_that_lie_in_the_users_folder_stay_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import torch\nfrom torch import nn\ndef net():\n    return nn.Flatten()\n"
    )
    root = Path(torch.__file__).parents[1]
    assert not user_import._is_in_folder(torch.__file__, str(root))
    before = sys.modules["torch.nn"]
    load(tmp_path, "net", num_classes=4)
    assert sys.modules["torch.nn"] is before
