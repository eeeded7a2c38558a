"""Networks of timm: data configurations as input contracts, folders in its layout, tags and class names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hugging_face_samples import make_photographs, to_pil
from safetensors.torch import save_file

from robustbench_local.classifier.preprocessing import Preprocessing
from robustbench_local.errors import ConfigError, ModelError, RefusedError
from robustbench_local.models.model_sources import load_classifier
from robustbench_local.models.timm_data_config import read_data_config

pytestmark = pytest.mark.extra


@pytest.fixture(autouse=True)
def library() -> Any:
    return pytest.importorskip("timm", reason="needs the extra timm")


@pytest.fixture
def folder(library: Any, tmp_path: Path) -> Path:
    """A network as timm saves it, for images of 48x48 and 4 classes."""
    torch.manual_seed(2)
    network = library.create_model("test_resnet", num_classes=4)
    path = tmp_path / "net"
    path.mkdir()
    save_file(network.state_dict(), path / "model.safetensors", {"format": "pt"})
    config = {
        "architecture": "test_resnet",
        "num_classes": 4,
        "label_names": ["a", "b", "c", "d"],
        "pretrained_cfg": {
            **{key: network.pretrained_cfg[key] for key in ("first_conv", "classifier")},
            "input_size": [3, 48, 48],
            "interpolation": "bicubic",
            "crop_pct": 0.9,
            "mean": [0.4, 0.5, 0.6],
            "std": [0.2, 0.25, 0.3],
        },
    }
    (path / "config.json").write_text(json.dumps(config))
    return path


@pytest.mark.parametrize(
    ("changes", "geometry"),
    [
        ({}, "shorter side 53, bicubic, center 48x48"),
        ({"crop_mode": "squash"}, "stretched to 53x53, bicubic, center 48x48"),
        ({"crop_pct": 1.0, "interpolation": "bilinear"}, "shorter side 48, bilinear, center 48x48"),
        ({"crop_mode": "squash", "input_size": (3, 40, 56)}, "stretched to 44x62, bicubic, center 40x56"),
        ({"crop_pct": 0.95, "interpolation": "nearest"}, "shorter side 50, nearest, center 48x48"),
    ],
)
def test_contracts_do_what_timms_transforms_do(library: Any, changes: dict[str, Any], geometry: str) -> None:
    config = {
        "input_size": (3, 48, 48),
        "interpolation": "bicubic",
        "crop_pct": 0.9,
        "crop_mode": "center",
        "mean": (0.4, 0.5, 0.6),
        "std": (0.2, 0.25, 0.3),
        **changes,
    }
    contract = read_data_config(config)
    assert contract.format_geometry() == geometry
    transform = library.data.create_transform(**config, is_training=False)
    preprocess = Preprocessing(contract, torch.device("cpu"), torch.float32)
    for height, width in ((61, 61), (100, 131), (97, 58)):
        images = make_photographs(1, height, width)
        wanted = transform(to_pil(images)[0])[None]
        assert (preprocess(images) - wanted).abs().max() * 0.3 * 255 < 2.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop_mode": "border"}, "the crop mode 'border', which pads them"),
        ({"input_size": (3, 40, 56)}, "it crops 40x56 from images of any aspect ratio"),
    ],
)
def test_crops_that_are_not_reproduced(changes: dict[str, Any], message: str) -> None:
    config = {"input_size": (3, 48, 48), "interpolation": "bicubic", "crop_pct": 0.9, "mean": [0], "std": [1]}
    with pytest.raises(ConfigError, match=message):
        read_data_config(config | changes, "net")


def test_a_folder_brings_names_and_preprocessing(library: Any, folder: Path) -> None:
    found = load_classifier("timm:local-dir:net", base_folder=folder.parent)
    assert (found.num_classes, found.class_names) == (4, ("a", "b", "c", "d"))
    assert found.contract.format_geometry() == "shorter side 53, bicubic, center 48x48"
    assert found.notes == []
    images = make_photographs(3)
    network = library.create_model(f"local-dir:{folder}", pretrained=True).eval()
    transform = library.data.create_transform(
        **library.data.resolve_model_data_config(network), is_training=False
    )
    with torch.no_grad():
        wanted = network(torch.stack([transform(image) for image in to_pil(images)]))
    assert torch.allclose(found(images), wanted, atol=0.05)
    moved = folder.rename(folder.parent / "moved")
    again = load_classifier(f"timm:local-dir:{moved}")
    assert again.compute_digest() == found.compute_digest()


def test_transformers_reads_the_same_folder(library: Any, folder: Path) -> None:
    pytest.importorskip("transformers", reason="needs the extra hf")
    by_timm = load_classifier("timm:local-dir:net", base_folder=folder.parent)
    found = load_classifier("hf:net", base_folder=folder.parent)
    assert found.contract == by_timm.contract
    assert found.class_names == by_timm.class_names
    images = make_photographs(2)
    assert torch.allclose(found(images), by_timm(images), atol=1e-5)


def test_folders_that_do_not_fit(folder: Path) -> None:
    def load(**options: Any) -> None:
        load_classifier("timm:local-dir:net", base_folder=folder.parent, **options)

    with pytest.raises(ModelError, match="has 4 classes, not 5"):
        load(num_classes=5)
    with pytest.raises(ConfigError, match=r"holds both network and weights. Leave architecture out"):
        load(architecture="timm:test_resnet")
    with pytest.raises(ConfigError, match=r"timm has no model source 'local'. Did you mean local-dir"):
        load_classifier("timm:local:net")
    with pytest.raises(ModelError, match=r"nett: there is no such folder. Did you mean net"):
        load_classifier("timm:local-dir:nett", base_folder=folder.parent)
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"num_classes": 4', '"num_classes": 5'))
    with pytest.raises(ModelError, match=r"net: timm cannot load it: .*size mismatch"):
        load()
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(RefusedError, match=r"only in pytorch_model.bin, a pickle"):
        load()
    config.unlink()
    with pytest.raises(ModelError, match=r"net: has no config.json"):
        load()


def test_a_tag_says_how_a_file_is_prepared(library: Any, tmp_path: Path) -> None:
    network = library.create_model("test_resnet", num_classes=6)
    save_file(network.state_dict(), tmp_path / "six.safetensors")
    found = load_classifier("timm:test_resnet.r160_in1k", weights="six.safetensors", base_folder=tmp_path)
    assert found.contract.format_geometry() == "shorter side 168, bilinear, center 160x160"
    assert found.normalization is not None
    assert found.notes[-1].startswith("images are prepared as for timm's test_resnet.r160_in1k")
    with pytest.raises(ConfigError, match=r"no pretrained weights 'r160_in2k' .*Did you mean r160_in1k"):
        load_classifier("timm:test_resnet.r160_in2k")
    with pytest.raises(ConfigError, match="no pretrained weights 'nonsense' for test_resnet"):
        load_classifier("timm:test_resnet", weights="nonsense")


def test_published_weights_of_imagenet_have_its_class_names(
    library: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = library.create_model
    monkeypatch.setattr(library, "create_model", lambda name, pretrained: create(name))
    found = load_classifier("timm:test_resnet", weights="DEFAULT")
    assert found.class_names is not None
    assert found.class_names[0].startswith("tench")
    assert len(found.class_names) == 1000
