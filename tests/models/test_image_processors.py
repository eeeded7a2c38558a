"""Every image processor of transformers for classifiers: the contract does the same, or it is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hugging_face_samples import make_photographs, to_pil
from PIL import Image

from robustbench_local.classifier.preprocessing import Preprocessing
from robustbench_local.data.resize import prepare_pixels
from robustbench_local.errors import ModelError
from robustbench_local.models.hugging_face.image_processors import MAX_DIFFERENCE_LEVELS, read_processor

pytestmark = pytest.mark.extra

REFUSED = {
    "DonutImageProcessor": "pads them",
    "Gemma3ImageProcessor": None,
    "ImageGPTImageProcessor": "palette",
    "PerceiverImageProcessor": "crops images before it resizes",
    "Siglip2ImageProcessor": "patches",
    "TextNetImageProcessor": "aspect ratio",
}
"""Part of the reason; None where it is reproduced, because what is unusual is off by default."""
SIZES = ((45, 61), (101, 77), (300, 451))


@pytest.fixture(autouse=True)
def library() -> Any:
    return pytest.importorskip("transformers", reason="needs the extra hf")


def test_every_processor_of_an_image_classifier_is_reproduced_or_refused(library: Any) -> None:
    auto = library.models.auto
    kinds = {
        name
        for mapping in ("IMAGE", "ZERO_SHOT_IMAGE")
        for model in getattr(auto.modeling_auto, f"MODEL_FOR_{mapping}_CLASSIFICATION_MAPPING_NAMES")
        for name in (auto.image_processing_auto.IMAGE_PROCESSOR_MAPPING_NAMES.get(model) or {}).values()
        if name and name != "TimmWrapperImageProcessor"
    }
    assert len(kinds) > 40
    for name in sorted(kinds):
        processor = auto.image_processing_auto.get_image_processor_class_from_name(name)()
        reason = REFUSED.get(name.removesuffix("Pil"))
        if reason:
            with pytest.raises(ModelError, match=reason):
                read_processor(processor)
            continue
        contract, notes = read_processor(processor)
        assert not notes, name
        assert contract.input_size


_HALF = "mean 0.5, 0.5, 0.5, std 0.5, 0.5, 0.5"
SETTINGS: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "one side": ("ViT", {"size": 48}, "48x48, bilinear", _HALF),
    "0 to 255": (
        "ViT",
        {"do_rescale": False, "image_mean": [124] * 3, "image_std": [58] * 3, "resample": 0},
        "224x224, nearest",
        "0..255, mean 124, 124, 124, std 58, 58, 58",
    ),
    "0 to 2": (
        "ViT",
        {"do_normalize": False, "rescale_factor": 1 / 127.5},
        "224x224, bilinear",
        "0..2",
    ),
    "Lanczos": ("ViT", {"do_normalize": False, "resample": 1}, "224x224, lanczos", ""),
    "any size": ("ViT", {"do_resize": False}, "", _HALF),
    "crop": (
        "CLIP",
        {"size": {"shortest_edge": 57}, "crop_size": 40, "do_normalize": False},
        "shorter side 57, bicubic, center 40x40",
        "",
    ),
    "stretch and crop": (
        "DeiT",
        {
            "size": {"height": 70, "width": 80},
            "crop_size": {"height": 60, "width": 50},
            "image_mean": [0.1] * 3,
        },
        "stretched to 70x80, bicubic, center 60x50",
        "mean 0.1, 0.1, 0.1, std 0.5, 0.5, 0.5",
    ),
    "ConvNext": (
        "ConvNext",
        {"size": {"shortest_edge": 96}},
        "shorter side 109, bicubic, center 96x96",
        _HALF,
    ),
    "ConvNext below its limit": (
        "ConvNext",
        {"size": {"shortest_edge": 383}, "crop_pct": 0.95},
        "shorter side 403, bicubic, center 383x383",
        _HALF,
    ),
    "ConvNext at its limit": ("ConvNext", {"size": {"shortest_edge": 384}}, "384x384, bicubic", _HALF),
    "PoolFormer": (
        "PoolFormer",
        {"crop_pct": 0.95, "do_normalize": False},
        "shorter side 235, bicubic, center 224x224",
        "",
    ),
    "LeViT": (
        "Levit",
        {"size": {"shortest_edge": 64}, "crop_size": 56, "do_normalize": False},
        "shorter side 73, bicubic, center 56x56",
        "",
    ),
    "EfficientNet with an offset": (
        "EfficientNet",
        {"rescale_offset": True, "rescale_factor": 1 / 127.5, "include_top": False},
        "346x346, bicubic",
        "mean 0.75, 0.75, 0.75, std 0.25, 0.25, 0.25",
    ),
    "EfficientNet that divides twice": (
        "EfficientNet",
        {"include_top": True, "size": 60, "image_std": [0.4, 0.5, 0.6]},
        "60x60, bicubic",
        "mean 0.5, 0.5, 0.5, std 0.16, 0.25, 0.36",
    ),
    "BGR": (
        "MobileViT",
        {"size": {"shortest_edge": 72}, "crop_size": 64},
        "shorter side 72, bicubic, center 64x64",
        "BGR",
    ),
    "RGB with a border": (
        "MobileViT",
        {"size": {"shortest_edge": 60}, "crop_size": 64, "do_flip_channel_order": False},
        "shorter side 60, bicubic, center 64x64",
        "",
    ),
}


@pytest.mark.parametrize(("name", "options", "geometry", "values"), SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("backend", ["", "Pil"])
def test_settings_are_read_and_images_are_the_same(
    library: Any, name: str, options: dict[str, Any], geometry: str, values: str, backend: str
) -> None:
    processor = getattr(library, f"{name}ImageProcessor{backend}")(**options)
    contract, notes = read_processor(processor)
    assert (contract.format_geometry(), contract.format_values(), notes) == (geometry, values, [])
    std = max(contract.normalization[1]) if contract.normalization else 1.0
    preprocess = Preprocessing(contract, torch.device("cpu"), torch.float32)
    for height, width in SIZES:
        images = make_photographs(1, height, width)
        wanted = processor(images=to_pil(images), return_tensors="pt")["pixel_values"]
        found = preprocess(images)
        assert found.shape == wanted.shape
        assert (found - wanted).abs().max() * std / contract.value_scale * 255 < MAX_DIFFERENCE_LEVELS


@pytest.mark.parametrize(("name", "resample"), [("CLIP", 3), ("MobileNetV1", 2), ("DeiT", 1), ("ViT", 0)])
def test_photographs_are_prepared_bit_by_bit(library: Any, name: str, resample: int) -> None:
    processor = getattr(library, f"{name}ImageProcessorPil")(resample=resample)
    contract, _ = read_processor(processor)
    preprocess = Preprocessing(contract, torch.device("cpu"), torch.float32)
    for height, width in ((100, 131), (301, 452), (500, 375)):
        photograph = np.asarray(to_pil(make_photographs(1, height, width))[0])
        prepared = torch.from_numpy(prepare_pixels(photograph, contract)).permute(2, 0, 1)[None]
        wanted = processor(images=Image.fromarray(photograph), return_tensors="pt")["pixel_values"]
        assert torch.allclose(preprocess(prepared.float() / 255), wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("ViT", {"size": {"shortest_edge": 48}}, "keeps the aspect ratio of images"),
        ("ViT", {"size": {"shortest_edge": 48, "longest_edge": 60}}, "what it does is not what its"),
        (
            "ViT",
            {"do_resize": False, "do_center_crop": True, "crop_size": 20},
            "crops images without resizing",
        ),
        ("ViT", {"resample": 4}, "by PIL's filter 4"),
        ("ViT", {"image_mean": [0.5] * 4, "image_std": [0.5] * 4}, "fails on a photograph"),
        ("ViT", {"image_std": [0.0] * 3}, "deviations above 0"),
        ("ViT", {"do_pad": True, "pad_size": {"height": 300, "width": 300}}, "what it does is not what its"),
    ],
)
def test_what_cannot_be_reproduced_is_refused_in_one_line(
    library: Any, name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        read_processor(getattr(library, f"{name}ImageProcessor")(**options))
    assert "Declare normalize and input_size" in str(caught.value)
