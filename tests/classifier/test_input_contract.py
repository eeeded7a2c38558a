"""The input contract: what a model's source and its user say about its images, and who wins."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from robustbench_local.classifier import Classifier
from robustbench_local.classifier.input_contract import InputContract, make_contract, override_contract
from robustbench_local.errors import ConfigError

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
PRESET = InputContract(
    input_size=(224, 224), resize=256, interpolation="bicubic", normalization=IMAGENET
)  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"interpolation": "bicubik"}, "unknown interpolation 'bicubik'. Did you mean bicubic"),
        ({"channel_order": "bgra"}, "unknown channel_order 'bgra'. Did you mean bgr"),
        ({"value_scale": 0}, "value_scale must be a number above 0, got 0"),
        ({"value_scale": float("inf")}, "value_scale must be a number above 0, got inf"),
        ({"value_scale": "255"}, "value_scale must be a number above 0, got '255'"),
        ({"value_scale": True}, "value_scale must be a number above 0, got True"),
        ({"antialias": "no"}, "antialias must be true or false, got 'no'"),
        ({"resize": 256}, "resize needs input_size"),
        ({"resize": 0}, "resize must be 1 to 16384, got 0"),
        ({"resize": (8, 8, 8)}, "resize must be 1 to 16384"),
        ({"resize": 1.5}, "resize must be 1 to 16384, got 1.5"),
        ({"rezise": 256}, "preprocessing has no 'rezise'. Did you mean resize"),
        ({"normalize": "imagenet"}, "preprocessing has no 'normalize'. Write normalize beside"),
    ],
)
def test_what_cannot_be_a_contract_is_refused_in_one_line(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace(".", r"\.").replace("[", r"\[")):
        make_contract(settings)


def test_impossible_combinations() -> None:
    with pytest.raises(ConfigError, match="preprocessing must be a mapping, got 'bicubic'"):
        make_contract("bicubic")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="resize 200 is smaller than input_size 224x224"):
        override_contract(PRESET, preprocessing={"resize": 200})
    assert override_contract(PRESET, preprocessing={"resize": 224}).resize == 224
    with pytest.raises(ConfigError, match=r"imagenet is for pixels in .0, 1., and value_scale is 255"):
        make_contract({"value_scale": 255}, normalize="imagenet")
    with pytest.raises(ConfigError, match="channel_order bgr needs 3 channels, and the model takes 1"):
        make_contract({"channel_order": "bgr"}, channels=1)
    with pytest.raises(ConfigError, match="normalize has 3 means"):
        override_contract(PRESET, channels=1)
    assert make_contract({"channel_order": "bgr"}, channels=3).channels == 3


def test_a_user_overrides_the_source_key_by_key() -> None:
    changed = override_contract(PRESET, preprocessing={"interpolation": "bilinear"}, normalize="none")
    assert (changed.interpolation, changed.resize, changed.normalization) == ("bilinear", 256, None)
    assert override_contract(PRESET, input_size=(224, 224)) == PRESET
    # the preset's 256 belongs to its 224
    assert override_contract(PRESET, input_size=(160, 160)).resize is None
    assert override_contract(PRESET, input_size=(160, 160), preprocessing={"resize": 180}).resize == 180
    assert override_contract(PRESET, preprocessing={"resize": "stretch"}).resize == (224, 224)
    assert override_contract(PRESET, preprocessing={"resize": [256, 240]}).resize == (256, 240)
    assert override_contract(PRESET, preprocessing={"resize": None}) == PRESET


def test_words_and_json_values_of_a_contract() -> None:
    assert PRESET.format_geometry() == "shorter side 256, bicubic, center 224x224"
    assert PRESET.format_values() == "mean 0.485, 0.456, 0.406, std 0.229, 0.224, 0.225"
    caffe = InputContract(
        input_size=(24, 32),
        resize=(30, 40),
        antialias=False,
        channel_order="bgr",
        value_scale=255,
        normalization=((103.939, 116.779, 123.68), (1.0, 1.0, 1.0)),
    )
    assert caffe.format_geometry() == "stretched to 30x40, bilinear without antialiasing, center 24x32"
    assert caffe.format_values() == "BGR, 0..255, mean 103.9, 116.8, 123.7, std 1, 1, 1"
    assert caffe.describe_fields() == {
        "text": f"{caffe.format_geometry()}; {caffe.format_values()}",
        "input_size": [24, 32],
        "resize": [30, 40],
        "interpolation": "bilinear",
        "antialias": False,
        "crop_rounding": "nearest",
        "channel_order": "bgr",
        "value_scale": 255.0,
        "normalize": {"mean": [103.939, 116.779, 123.68], "std": [1.0, 1.0, 1.0]},
    }
    assert InputContract(input_size=(8, 8)).format_geometry() == "8x8, bilinear"
    assert (InputContract().format_geometry(), InputContract().format_values()) == ("", "")
    assert make_contract(caffe.describe_extras(), input_size=(24, 32)).resize == (30, 40)


def test_identity_changes_with_every_field_and_stays_where_none_is_set() -> None:
    """Models without the new fields keep the identity that their stored runs have."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 2))
    plain = Classifier(network, num_classes=2, normalize=((0.5,), (0.5,)), input_size=(4, 4))
    assert plain.describe_parts()["preprocessing and access"] == (
        "(2, ((0.5,), (0.5,)), (4, 4), 'gradients', None)"
    )
    settings: list[dict[str, object]] = [
        {}, {"resize": 5}, {"resize": (4, 4)}, {"interpolation": "bicubic"}, {"antialias": False},
        {"channel_order": "bgr"}, {"value_scale": 255},
    ]  # fmt: skip
    digests = {
        Classifier(network, num_classes=2, input_size=(4, 4), preprocessing=some).compute_digest()
        for some in settings
    }
    assert len(digests) == len(settings)
    whole, decimal = (
        Classifier(network, num_classes=2, preprocessing={"value_scale": scale}) for scale in (255, 255.0)
    )
    assert whole.compute_digest() == decimal.compute_digest()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_caffe_style_by_hand(dtype: torch.dtype) -> None:
    """BGR in 0..255 with means in the network's order; also where the number of channels is not declared."""
    mean = (103.939, 116.779, 123.68)
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).to(dtype).eval()
    classifier = Classifier(
        network,
        num_classes=3,
        normalize=(mean, (1.0, 1.0, 1.0)),
        preprocessing={"channel_order": "bgr", "value_scale": 255},
    )
    images = torch.rand(2, 3, 2, 2, generator=torch.Generator().manual_seed(1))
    by_hand = images[:, [2, 1, 0]] * 255 - torch.tensor(mean).view(1, 3, 1, 1)
    assert torch.equal(classifier(images), network(by_hand.to(dtype)).float())
    assert classifier.channels == 3
    leaf = images.clone().requires_grad_()
    (slope,) = torch.autograd.grad(classifier(leaf)[:, 0].sum(), leaf)
    weights = network[1].weight.detach().float()[0].view(3, 2, 2).flip(0) * 255  # type: ignore[operator]
    torch.testing.assert_close(slope[0], weights, rtol=1e-3, atol=0)
