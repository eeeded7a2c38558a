from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torchvision import models

from robustbench_local.classifier.normalizations import NORMALIZATIONS
from robustbench_local.errors import ConfigError, ModelError
from robustbench_local.models import library_networks as libraries
from robustbench_local.models.model_sources import load_classifier


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file as torchvision publishes it, with initial weights: SqueezeNet 1.1, the smallest."""
    network = models.squeezenet1_1()
    path = tmp_path / "raw.pth"
    torch.save(network.state_dict(), path)
    digest = libraries.read_weights(path).sha256
    named = tmp_path / f"squeezenet1_1-{digest[:8]}.pth"
    path.rename(named)
    entry = models.SqueezeNet1_1_Weights.IMAGENET1K_V1
    changed = models._api.Weights(named.as_uri(), entry.transforms, entry.meta)
    monkeypatch.setattr(entry, "_value_", changed)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return named


def test_published_weights_bring_normalisation_size_and_names(published: Path, tmp_path: Path) -> None:
    found = load_classifier("torchvision:squeezenet1_1", weights="DEFAULT")
    assert (found.num_classes, found.input_size, found.channels) == (1000, (224, 224), 3)
    assert found.class_names is not None
    assert found.class_names[:2] == ("tench", "goldfish")
    assert found.provenance["published"] == "squeezenet1_1 IMAGENET1K_V1"
    assert found.notes == []
    own, state = found.module, torch.load(published, weights_only=True)
    assert own is not None
    assert all(torch.equal(value, state[name]) for name, value in own.state_dict().items())
    assert (tmp_path / "hub" / "checkpoints" / published.name).is_file()
    published.unlink()
    load_classifier("torchvision:squeezenet1_1", weights="IMAGENET1K_V1")  # from the cache now


@pytest.mark.parametrize(
    ("weights", "geometry"),
    [
        (models.SqueezeNet1_1_Weights.DEFAULT, "shorter side 256, bilinear, center 224x224"),
        (models.Swin_T_Weights.DEFAULT, "shorter side 232, bicubic, center 224x224"),
        (models.ViT_H_14_Weights.DEFAULT, "shorter side 518, bicubic, center 518x518"),
    ],
)
def test_the_preset_is_the_contract(weights: Any, geometry: str) -> None:
    contract = libraries._read_preset(weights.transforms())
    assert contract.format_geometry() == geometry
    assert contract.normalization == NORMALIZATIONS["imagenet"]


def test_a_user_changes_single_values_of_a_preset(published: Path) -> None:
    changes = {"interpolation": "bicubic", "resize": "stretch"}
    found = load_classifier("torchvision:squeezenet1_1", weights=str(published), preprocessing=changes)
    assert found.contract.format_geometry() == "224x224, bicubic"
    assert found.normalization == NORMALIZATIONS["imagenet"]
    with pytest.raises(ConfigError, match=r"unknown interpolation 'cubic'\. Did you mean bicubic"):
        load_classifier("torchvision:squeezenet1_1", preprocessing={"interpolation": "cubic"})


def test_a_local_copy_of_published_weights_is_recognised(published: Path) -> None:
    found = load_classifier("torchvision:squeezenet1_1", weights=str(published))
    assert found.provenance["published"] == "squeezenet1_1 IMAGENET1K_V1"
    assert found.input_size == (224, 224)


def test_another_file_under_that_name_is_not(published: Path) -> None:
    torch.save(models.squeezenet1_1().state_dict(), published)
    found = load_classifier("torchvision:squeezenet1_1", weights=str(published))
    assert "published" not in found.provenance
    assert any("no normalization declared" in note for note in found.notes)


def test_a_damaged_download_is_not_kept(published: Path, tmp_path: Path) -> None:
    published.write_bytes(published.read_bytes()[:-7])
    with pytest.raises(ModelError, match="cannot be downloaded: invalid hash value") as caught:
        load_classifier("torchvision:squeezenet1_1", weights="DEFAULT")
    assert "Give a local file" in str(caught.value)
    assert not list((tmp_path / "hub" / "checkpoints").iterdir())


def test_without_a_network_there_is_one_line(published: Path) -> None:
    published.unlink()
    with pytest.raises(ModelError, match=r"IMAGENET1K_V1, squeezenet1_1-.* cannot be downloaded") as caught:
        load_classifier("torchvision:squeezenet1_1", weights="DEFAULT")
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)


def test_random_weights_are_always_the_same_and_said_to_be_random() -> None:
    one, two = (load_classifier("torchvision:squeezenet1_1", default_classes=5) for _ in range(2))
    assert one.num_classes == 5
    assert one.compute_digest() == two.compute_digest()
    assert any("random weights" in note for note in one.notes)
    assert load_classifier("torchvision:squeezenet1_1").num_classes == 1000
    assert load_classifier("torchvision:squeezenet1_1", num_classes=3, default_classes=5).num_classes == 3


def test_a_files_last_layer_says_how_many_classes(tmp_path: Path) -> None:
    save_file(models.squeezenet1_1(num_classes=7).state_dict(), tmp_path / "seven.safetensors")
    options = {"weights": "seven.safetensors", "base_folder": tmp_path, "default_classes": 7}
    found = load_classifier("torchvision:squeezenet1_1", **options)  # type: ignore[arg-type]
    assert found.num_classes == 7
    assert found(torch.rand(1, 3, 64, 64)).shape == (1, 7)
    assert any("no normalization declared" in note for note in found.notes)
    declared = load_classifier("torchvision:squeezenet1_1", normalize="imagenet", **options)  # type: ignore[arg-type]
    assert not any("normalization" in note for note in declared.notes)
    with pytest.raises(ModelError, match="last layer has 7 outputs, but num_classes is 8"):
        load_classifier("torchvision:squeezenet1_1", num_classes=8, **options)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("head", [True, False])
def test_googlenet_files_with_and_without_their_helpers(tmp_path: Path, head: bool) -> None:
    network = models.googlenet(num_classes=4, aux_logits=head, init_weights=False)
    save_file(network.state_dict(), tmp_path / "inception.safetensors")
    found = load_classifier("torchvision:googlenet", weights="inception.safetensors", base_folder=tmp_path)
    assert found.num_classes == 4
    assert not found.module.transform_input  # type: ignore[union-attr]  # only torchvision's own files want that
    with found.evaluation_mode():
        assert found(torch.rand(2, 3, 64, 64)).shape == (2, 4)


@pytest.mark.slow
def test_densenets_old_names_are_understood(tmp_path: Path) -> None:
    state = models.densenet121(num_classes=2).state_dict()
    old = {name.replace("norm1", "norm.1").replace("conv2", "conv.2"): value for name, value in state.items()}
    assert old.keys() != state.keys()
    torch.save(old, tmp_path / "densenet.pth")
    assert (
        load_classifier("torchvision:densenet121", weights="densenet.pth", base_folder=tmp_path).num_classes
        == 2
    )


@pytest.mark.parametrize(
    ("source", "weights", "message"),
    [
        ("torchvision:resnet5", None, "torchvision has no network 'resnet5'. Did you mean resnet50"),
        (
            "torchvision:resnet18",
            "IMAGENET1K_V9",
            "no published weights 'IMAGENET1K_V9'. Did you mean IMAGENET1K_V1",
        ),
        ("torchvision:fcn_resnet50", None, "torchvision has no network"),
        pytest.param(
            "timm:resnt18",
            None,
            "timm has no network 'resnt18'. Did you mean resnet18",
            marks=pytest.mark.extra,
        ),
    ],
)
def test_names_that_do_not_exist(source: str, weights: str | None, message: str) -> None:
    if source.startswith("timm"):
        pytest.importorskip("timm")
    with pytest.raises(ConfigError, match=message):
        load_classifier(source, weights=weights)


def test_without_timm_there_is_a_line_that_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConfigError, match=r"timm is not installed. Run pip install '\.\[timm\]'"):
        load_classifier("timm:resnet18")


@pytest.mark.extra
class TestTimm:
    @pytest.fixture(autouse=True)
    def _timm(self) -> None:
        pytest.importorskip("timm")

    def test_random_weights(self) -> None:
        one, two = (load_classifier("timm:test_resnet", default_classes=5) for _ in range(2))
        assert one.compute_digest() == two.compute_digest()
        assert one(torch.rand(2, 3, 64, 64)).shape == (2, 5)

    def test_a_network_of_one_size_gets_its_size(self) -> None:
        found = load_classifier("timm:test_vit", num_classes=3)
        assert found.input_size == (160, 160)
        assert found(torch.rand(1, 3, 64, 64)).shape == (1, 3)

    def test_a_local_file(self, tmp_path: Path) -> None:
        import timm

        save_file(timm.create_model("test_resnet", num_classes=6).state_dict(), tmp_path / "six.safetensors")
        found = load_classifier("timm:test_resnet", weights="six.safetensors", base_folder=tmp_path)
        assert found.num_classes == 6
        assert any("no normalization declared" in note for note in found.notes)

    @pytest.mark.parametrize(
        ("source", "weights", "full"),
        [
            ("timm:test_resnet", "DEFAULT", "test_resnet"),
            ("timm:test_resnet.r160_in1k", "DEFAULT", "test_resnet.r160_in1k"),
            ("timm:test_resnet", "r160_in1k", "test_resnet.r160_in1k"),
        ],
    )
    def test_pretrained_weights(
        self, monkeypatch: pytest.MonkeyPatch, source: str, weights: str, full: str
    ) -> None:
        import timm

        create, asked = timm.create_model, []

        def offline(name: str, *, pretrained: bool = False, **options: object) -> object:
            asked.append((name, pretrained))
            return create(name, **options)

        monkeypatch.setattr(timm, "create_model", offline)
        found = load_classifier(source, weights=weights)
        assert asked == [(full, True)]
        assert (found.num_classes, found.input_size) == (1000, (160, 160))
        assert found.provenance["published"] == full

    def test_without_a_network_there_is_one_line(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import timm

        def offline(*_: object, **__: object) -> object:
            raise OSError("cannot reach the hub\nat all")

        monkeypatch.setattr(timm, "create_model", offline)
        with pytest.raises(
            ModelError, match="weights test_resnet cannot be downloaded: cannot reach the hub"
        ):
            load_classifier("timm:test_resnet", weights="DEFAULT")


FAMILIES = [
    *("convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "googlenet"),
    *("inception_v3", "maxvit_t", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "regnet_y_400mf"),
    *("resnet18", "shufflenet_v2_x0_5", "squeezenet1_0", "swin_t", "swin_v2_t", "vit_b_32"),
]


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_of_torchvision_loads_a_fine_tuned_file(name: str, tmp_path: Path) -> None:
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    network = models.get_model(name, num_classes=17, **options)
    save_file(network.state_dict(), tmp_path / "mine.safetensors")
    found = load_classifier(f"torchvision:{name}", weights="mine.safetensors", base_folder=tmp_path)
    with found.evaluation_mode(), torch.no_grad():
        assert found(torch.rand(2, 3, 64, 64)).shape == (2, 17)
