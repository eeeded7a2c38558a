"""What an ONNX file says about itself: class names, normalization, order and range of pixels."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from onnx_samples import build_network, write_network

from robustbench_local.models.model_sources import load_classifier
from robustbench_local.models.onnx_metadata import OnnxMetadata, read_metadata

NAMES = ("stop", "yield", "go on", "turn")


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ({}, OnnxMetadata()),
        ({"names": str(dict(enumerate(NAMES)))}, OnnxMetadata(class_names=NAMES)),
        ({"classes": '["a", "b"]'}, OnnxMetadata(class_names=("a", "b"))),
        ({"labels": "a, b b"}, OnnxMetadata(class_names=("a", "b b"))),
        ({"model_info labels": "a b"}, OnnxMetadata(class_names=("a", "b"))),
        ({"names": '{"one": "a"}'}, OnnxMetadata()),
        (
            {"mean": "[0.5, 0.4, 0.3]", "std": "0.2, 0.2, 0.25"},
            OnnxMetadata(normalization=((0.5, 0.4, 0.3), (0.2, 0.2, 0.25)), value_scale=1.0),
        ),
        ({"mean": "[2.0]", "std": "[1]"}, OnnxMetadata(normalization=((2.0,), (1.0,)), value_scale=1.0)),
        ({"mean": "[2.1]", "std": "[1]"}, OnnxMetadata(normalization=((2.1,), (1.0,)), value_scale=255.0)),
        ({"mean": "[0.5]", "std": "[0]"}, OnnxMetadata()),
        ({"mean": "[0.5]"}, OnnxMetadata()),
        ({"mean": "many", "std": "[[1]]"}, OnnxMetadata()),
        (
            {"model_info scale_values": "58.0 57.0 57.0", "model_info reverse_input_channels": "True"},
            OnnxMetadata(normalization=((0.0,) * 3, (58.0, 57.0, 57.0)), value_scale=255.0, is_bgr=True),
        ),
        ({"model_info scale_values": "58", "model_info embedded_processing": "True"}, OnnxMetadata()),
        (
            {"Image.BitmapPixelFormat": "Bgr8", "Image.NominalPixelRange": "NominalRange_0_255"},
            OnnxMetadata(value_scale=255.0, is_bgr=True),
        ),
        (
            {"Image.NominalPixelRange": "Normalized_1_1"},
            OnnxMetadata(normalization=((0.5,), (0.5,)), value_scale=1.0),
        ),
        ({"names": "[" * 100_000}, OnnxMetadata(class_names=("[" * 100_000,))),
        ({"names": "9" * 10_000}, OnnxMetadata(class_names=("9" * 10_000,))),
    ],
)
def test_entries_are_read_and_bad_ones_ignored(entries: dict[str, str], expected: OnnxMetadata):
    assert read_metadata(entries) == expected


def test_a_file_brings_its_names_and_its_preprocessing(tmp_path: Path):
    metadata = {"names": str(list(NAMES)), "mean": "[10, 20, 30]", "std": "[50, 60, 70]"}
    write_network(tmp_path / "net.onnx", metadata={**metadata, "Image.BitmapPixelFormat": "Bgr8"})
    classifier = load_classifier("onnx:net.onnx", base_folder=tmp_path)
    assert classifier.class_names == NAMES
    assert classifier.provenance["preprocessing"] == "the file's metadata"
    assert not any("no normalization declared" in note for note in classifier.notes)
    images = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in ((10.0, 20, 30), (50.0, 60, 70)))
    expected = build_network()((255 * images.flip(1) - mean) / std)
    torch.testing.assert_close(classifier(images), expected, rtol=1e-4, atol=1e-4)
    plain = load_classifier("onnx:net.onnx", base_folder=tmp_path, normalize="none")
    assert plain.normalization is None
