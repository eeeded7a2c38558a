from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torchvision import models

from robustbench_local.errors import ConfigError, ModelError
from robustbench_local.models.model_sources import load_classifier
from robustbench_local.models.networks.network_registry import build_network


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "resnet50",
            "unknown model source 'resnet50'. Write where it comes from, such as torchvision:resnet50",
        ),
        ("torchvison:resnet50", "unknown model source 'torchvison:resnet50'. Did you mean torchvision"),
        ("zoo:", "the model source 'zoo:' names nothing"),
        ("", "unknown model source ''"),
    ],
)
def test_a_source_that_does_not_exist(source: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_classifier(source)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    save_file(build_network("cifar10_resnet2b", 6).state_dict(), tmp_path / "six.safetensors")
    return tmp_path / "six.safetensors"


def test_a_checkpoint_brings_what_its_architecture_knows(file: Path) -> None:
    found = load_classifier(f"checkpoint:{file}", architecture="cifar10_resnet2b")
    assert (found.num_classes, found.channels, found.input_size) == (6, 3, (32, 32))
    expected = build_network("cifar10_resnet2b", 6)
    images = torch.rand(2, 3, 32, 32)
    mean, std = torch.tensor([0.4914, 0.4822, 0.4465]), torch.tensor([0.2471, 0.2435, 0.2616])
    with torch.no_grad():
        wanted = expected((images - mean.view(3, 1, 1)) / std.view(3, 1, 1))
    torch.testing.assert_close(found(images), wanted)
    assert found.provenance["architecture"] == "cifar10_resnet2b"
    assert found.name == f"checkpoint:{file}"


def test_what_the_user_says_overrides_what_the_source_knows(file: Path) -> None:
    names = list("abcdef")
    found = load_classifier(
        f"checkpoint:{file}",
        architecture="cifar10_resnet2b",
        normalize="none",
        input_size=(16, 16),
        class_names=names,
        access="scores",
        name="mine",
    )
    assert found.class_names == tuple(names)
    assert (found.input_size, found.access, found.name) == ((16, 16), "scores", "mine")
    assert found.normalization is None


def test_a_checkpoint_needs_a_network(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"needs its network.* one of cifar10_resnet18, .*torchvision:NAME"):
        load_classifier(f"checkpoint:{file}")
    with pytest.raises(
        ConfigError, match=r"unknown architecture 'cifar10_resnet2a'. Did you mean cifar10_resnet2b"
    ):
        load_classifier(f"checkpoint:{file}", architecture="cifar10_resnet2a")
    with pytest.raises(ConfigError, match="is the weights file itself"):
        load_classifier(f"checkpoint:{file}", architecture="cifar10_resnet2b", weights="x.pt")


def test_a_checkpoint_can_belong_to_a_library(tmp_path: Path) -> None:
    save_file(models.squeezenet1_1(num_classes=7).state_dict(), tmp_path / "seven.safetensors")
    found = load_classifier(
        "checkpoint:seven.safetensors", architecture="torchvision:squeezenet1_1", base_folder=tmp_path
    )
    assert found.num_classes == 7


def test_the_wrong_number_of_names(file: Path) -> None:
    with pytest.raises(ModelError, match="2 class names for 6 classes"):
        load_classifier(f"checkpoint:{file}", architecture="cifar10_resnet2b", class_names=["a", "b"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("checkpoint", "architecture", "images", "accuracy"),
    [
        ("mnist_fast_fgsm_wong2020", "mnist_fast", "mnist_test_first1000", 0.983),
        ("mnist_convex_eps0.1", "mnist_fast", "mnist_test_first1000", 0.982),
        ("mnist_trades_smallcnn", "mnist_smallcnn", "mnist_test_first1000", 0.994),
        ("cifar10_resnet2b_vnncomp21", "cifar10_resnet2b", "cifar10_test_strat1000", 0.698),
        ("gtsrb_stn_poojahira", "gtsrb_stn", "gtsrb_test_strat1000", 0.999),
    ],
)
def test_published_checkpoints_are_as_accurate_as_published(
    shared_data: Path, checkpoint: str, architecture: str, images: str, accuracy: float
) -> None:
    """Published on the full test sets: 98.50, 98.2, 99.48, 69.25, 99.71 %; here on 1,000 images of each."""
    classifier = load_classifier(
        f"checkpoint:{checkpoint}.safetensors",
        architecture=architecture,
        base_folder=shared_data / "checkpoints",
    )
    with np.load(shared_data / f"{images}.npz", allow_pickle=False) as file:
        pixels, labels = torch.from_numpy(file["x"]).float() / 255, torch.from_numpy(file["y"]).long()
    pixels = pixels[:, None] if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2)
    with classifier.evaluation_mode(), classifier.count_passes(len(labels)) as meter:
        predictions = classifier(pixels).argmax(1)
    assert (predictions == labels).float().mean().item() == pytest.approx(accuracy, abs=1.5e-3)
    assert meter.forward_passes.sum() == len(labels)
    assert classifier.notes == []
