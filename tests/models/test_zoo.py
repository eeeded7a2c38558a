from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from robustbench_local.errors import ConfigError, ModelError
from robustbench_local.models import model_sources as sources
from robustbench_local.models import zoo
from robustbench_local.models.model_sources import load_classifier
from robustbench_local.models.networks.network_registry import build_network
from robustbench_local.models.weight_files import read_weights
from robustbench_local.models.zoo import find_zoo_card, list_zoo


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A zoo with one network."""
    save_file(build_network("mnist_fast", 3).state_dict(), tmp_path / "tiny.safetensors")
    card = {
        "schema": 1,
        "name": "tiny",
        "weights": "tiny.safetensors",
        "sha256": read_weights(tmp_path / "tiny.safetensors").sha256,
        "architecture": "mnist_fast",
        "num_classes": 3,
        "normalize": [[0.5], [0.25]],
        "class_names": ["a", "b", "c"],
        "provenance": {"defense": {"card": "none"}, "seed": 7},
    }
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(card))
    monkeypatch.setattr(sources, "ZOO_FOLDER", tmp_path)
    monkeypatch.setattr(sources, "find_zoo_card", lambda name: find_zoo_card(name, tmp_path))
    return tmp_path


def edit(folder: Path, **changes: object) -> None:
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes))


def test_a_shipped_network_loads_as_its_card_says(folder: Path) -> None:
    assert list_zoo(folder) == ["tiny"]
    found = load_classifier("zoo:tiny")
    assert found.class_names == ("a", "b", "c")
    assert found.normalization == ((0.5,), (0.25,))
    assert found(torch.rand(2, 1, 28, 28)).shape == (2, 3)
    assert found.notes == []
    assert (found.provenance["defense"], found.provenance["seed"]) == ({"card": "none"}, 7)


def test_a_changed_file_is_refused(folder: Path) -> None:
    data = bytearray((folder / "tiny.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "tiny.safetensors").write_bytes(data)
    with pytest.raises(ModelError, match=r"tiny.safetensors: its SHA-256 is"):
        load_classifier("zoo:tiny")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 3}, "unknown key 'epochs'"),
        ({"normalize": [[0.5]]}, "normalize"),
        ({"class_names": "gtsrb"}, "class_names"),
        ({"num_classes": 1}, "num_classes"),
        ({"sha256": "abc"}, "sha256"),
        ({"name": "other"}, "names 'other'"),
        ({"weights": "../x.safetensors"}, "x.safetensors"),
        ({"schema": 2}, "schema"),
    ],
)
def test_a_damaged_card(folder: Path, changes: dict[str, object], message: str) -> None:
    edit(folder, **changes)
    with pytest.raises(ModelError, match=message):
        load_classifier("zoo:tiny")


def test_an_unknown_name(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"the zoo has no 'tin'. Did you mean tiny"):
        load_classifier("zoo:tin")


@pytest.mark.parametrize("name", list_zoo())
def test_everything_that_ships_loads(name: str) -> None:
    card, found = find_zoo_card(name), load_classifier(f"zoo:{name}")
    assert found.num_classes == card.num_classes
    assert found.provenance["sha256"] == card.sha256
    assert found.class_names is not None
    assert (zoo.ZOO_FOLDER / card.weights).stat().st_size < 1_000_000
