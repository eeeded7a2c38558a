"""The reference beside weights: statistics by hand, and files that are read back or refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from robustbench_local.data.reference_outputs import (
    ReferenceOutputs,
    compute_image_statistics,
    name_reference_file,
    read_reference,
)
from robustbench_local.errors import DataError


def make_reference(count: int = 60, **changes) -> ReferenceOutputs:
    parts = {
        "probabilities": torch.full((count, 4), 0.25),
        "statistics": torch.rand(count, 3),
        "source": "made",
    }
    return ReferenceOutputs(**{**parts, **changes})


def test_the_statistics_of_an_image():
    image = torch.zeros(1, 3, 4, 4)
    image[0, :, 1, 1] = 1.0
    brightness, contrast, sharpness = compute_image_statistics(image)[0].tolist()
    assert brightness == pytest.approx(1 / 16)
    assert contrast == pytest.approx((1 / 16 - 1 / 256) ** 0.5)
    assert sharpness == pytest.approx(8 / 16)  # -4 at the pixel, 1 at each of its four neighbors


def test_a_reference_is_read_as_it_was_written(tmp_path):
    file = name_reference_file(tmp_path / "net.safetensors")
    assert file.name == "net.reference"
    written = make_reference(source="folder:photos, val")
    file.write_bytes(written.encode())
    known = read_reference(file)
    assert known.source == "folder:photos, val"
    assert torch.equal(known.statistics, written.statistics)
    assert torch.equal(known.probabilities, written.probabilities)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"probabilities": torch.full((60, 4), torch.nan)}, "damaged"),
        ({"statistics": torch.rand(59, 3)}, "damaged"),
        ({"statistics": torch.rand(60, 2)}, "damaged"),
        ({"count": 49}, "a reference of 49 images says too little"),
    ],
)
def test_an_unusable_reference_is_refused(changes, message):
    with pytest.raises(DataError, match=message):
        make_reference(**changes)
    assert len(make_reference(count=50).probabilities) == 50


def test_a_damaged_file_is_refused(tmp_path: Path):
    file = tmp_path / "net.reference"
    file.write_bytes(b"nothing")
    with pytest.raises(DataError, match="cannot be read"):
        read_reference(file)
    save_file({"probabilities": torch.ones(60, 2)}, file)
    with pytest.raises(DataError, match="cannot be read"):
        read_reference(file)
