"""Networks to compare: names, weights, and what happens where none can be had."""

from __future__ import annotations

import pytest
import torch

from robustbench_local.defenses.training import initial_networks
from robustbench_local.errors import ConfigError, ModelError
from robustbench_local.evaluation.training import candidates as module
from robustbench_local.evaluation.training.candidates import (
    CandidateOptions,
    load_candidate,
    parse_candidates,
)
from robustbench_local.models.networks.network_registry import ARCHITECTURES


def _load(text, from_scratch=True, channels=3, **options):
    (candidate,) = parse_candidates(text, from_scratch=from_scratch)
    return load_candidate(candidate, CandidateOptions(**options), num_classes=3, channels=channels, seed=0)


@pytest.mark.parametrize(
    ("word", "from_scratch", "expected"),
    [
        ("resnet18", False, ("resnet18", "torchvision:resnet18", "DEFAULT", False)),
        ("resnet18", True, ("resnet18", "torchvision:resnet18", None, True)),
        ("torchvision:resnet18=a.pth", True, ("resnet18", "torchvision:resnet18", "a.pth", False)),
        ("timm:vit=w/a.pth", False, ("timm:vit", "timm:vit", "w/a.pth", False)),
        ("hf:folder", True, ("hf:folder", "hf:folder", None, False)),
        ("zoo:signs-plain", True, ("zoo:signs-plain", "zoo:signs-plain", None, False)),
        ("signs_cnn", True, ("signs_cnn", "signs_cnn", None, True)),
        ("signs_cnn=a.safetensors", False, ("signs_cnn", "signs_cnn", "a.safetensors", False)),
    ],
)
def test_a_word_is_a_network_with_its_weights(word, from_scratch, expected):
    (found,) = parse_candidates(f" {word} ,", from_scratch=from_scratch)
    assert (found.name, found.source, found.weights, found.is_fresh) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (" , ", "names no network"),
        ("resnet18,resnet18=a.pth", "names 'resnet18' twice"),
        ("resnet18=", "names no file"),
        ("timm:local-dir:net", "cannot be loaded again"),
        ("resnet81", "did you mean resnet18|resnet"),
        ("signs_cnn", "signs_cnn has no published weights. Write signs_cnn=FILE, or .* --from-scratch"),
    ],
)
def test_a_wrong_word_is_named_with_what_to_do(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_candidates(text, from_scratch=False)


def test_weights_that_cannot_be_downloaded_are_one_line_that_says_how_to_go_on(monkeypatch):
    def fail(*_args, **_options):
        raise ModelError("the weights cannot be downloaded: no network", remedy="set weights: null")

    monkeypatch.setattr(module, "load_initial_network", fail)
    with pytest.raises(ModelError) as caught:
        _load("resnet18", from_scratch=False)
    line = str(caught.value)
    assert line.startswith("resnet18: the weights cannot be downloaded")
    assert "resnet18=FILE" in line
    assert "--from-scratch" in line
    assert "null" not in line
    with pytest.raises(ModelError, match="weights: null"):  # what the user's own file lacks is said as it is
        _load("resnet18=a.pth", from_scratch=False)


def test_a_fresh_network_of_a_library_gets_a_size_and_a_normalization():
    start = _load("squeezenet1_1", size=64)
    assert (start.contract.input_size, start.contract.resize) == ((64, 64), 64)
    assert start.contract.normalization[0] == (0.485, 0.456, 0.406)
    assert start.num_classes == 3
    assert _load("signs_cnn").contract.input_size == ARCHITECTURES["signs_cnn"].input_shape[1:]


def test_a_network_that_cannot_take_the_images_is_named_before_training():
    with pytest.raises(ModelError, match=r"mnist_fast: cannot take color images of 28x28.*another --size"):
        _load("mnist_fast")
    with pytest.raises(
        ModelError, match=r"cifar10_resnet2b: cannot take gray images of 8x8.*gray_to_rgb=true"
    ):
        _load("cifar10_resnet2b", channels=1, size=8)


def test_weights_of_another_number_of_classes_get_a_new_head(tmp_path):
    weights = tmp_path / "net.pt"
    torch.save(initial_networks.find_architecture("signs_cnn").build_network(5).state_dict(), weights)
    start = _load(f"signs_cnn={weights}", from_scratch=False)
    with torch.no_grad():
        assert start.module(torch.zeros(1, 3, 32, 32)).shape == (1, 3)
    assert start.origin["weights"] == "net.pt"
