"""Which value is white: by the type where it can be believed, else declared, never black images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pictures import save_picture
from PIL import Image

from robustbench_local.data.data_sources import load_dataset
from robustbench_local.data.dataset import MAX_OVERSHOOT, Dataset, as_dataset
from robustbench_local.errors import ConfigError, DataError

RAMP = np.linspace(0, 1, 3 * 6 * 6).reshape(3, 6, 6)
BINARY = (RAMP > 0.5).astype(np.uint8)


def load(tmp_path, images, **options):
    np.savez(tmp_path / "a.npz", x=images, y=np.arange(len(images)))
    return load_dataset(f"npz:{tmp_path / 'a.npz'}", **options)


@pytest.mark.parametrize(
    ("images", "likely"),
    [
        (BINARY, "scale: 1 if"),
        (RAMP.round().astype(np.uint8), "scale: 1 if"),
        ((RAMP * 255).astype(np.uint16), "scale: 255 if"),
        ((RAMP * 255).astype(">u2"), "scale: 255 if"),
        ((RAMP / 255).astype(np.float32), "scale: 0.003921568627 if"),
        (RAMP / 255, "scale: 0.003921568627 if"),
    ],
    ids=[
        "bits",
        "truncated floats",
        "bytes in 16 bits",
        "big-endian",
        "divided twice",
        "divided twice, 64 bits",
    ],
)
def test_images_that_would_be_black_are_refused_with_the_remedy(tmp_path, images, likely):
    with pytest.raises(DataError, match=rf"they would be black\. Set {likely}.*dark"):
        load(tmp_path, images)
    white = float(likely.split()[1])
    lit = load(tmp_path, images, scale=white)
    assert lit.images.max() == pytest.approx(1, abs=1e-5)
    assert any("as scale: says" in note for note in lit.notes)


@pytest.mark.parametrize(
    ("largest", "refused"), [(1, True), (2, False), (31, False), (32, False), (0, False)]
)
def test_both_sides_of_what_is_black_and_what_is_dark(tmp_path, largest, refused):
    images = np.zeros((2, 4, 4), np.uint8)
    images[1, 2, 2] = largest
    if refused:
        with pytest.raises(DataError, match="only 0 and 1"):
            load(tmp_path, images)
        return
    notes = load(tmp_path, images).notes
    assert any("the images are dark" in note for note in notes) == (largest < 32)


@pytest.mark.parametrize(("largest", "refused"), [(255, True), (256, False)])
def test_sixteen_bits_need_more_than_a_byte(tmp_path, largest, refused):
    images = np.full((2, 4, 4), largest, np.uint16)
    if refused:
        with pytest.raises(DataError, match="scale: 255 if that is white"):
            load(tmp_path, images)
    else:
        assert load(tmp_path, images).images.max() == pytest.approx(256 / 65535)


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.int64, np.uint32, np.uint64])
def test_other_whole_numbers_need_a_scale(tmp_path, dtype):
    white = 127 if dtype == np.int8 else 255
    images = (RAMP * white).round().astype(dtype)
    with pytest.raises(DataError, match=r"got u?int\d+\. Save them as uint8, 0 to 255, or set scale: "):
        load(tmp_path, images)
    assert torch.allclose(
        load(tmp_path, images, scale=white).images[:, 0], torch.tensor(RAMP).float(), atol=0.004
    )


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (RAMP * 255, "like 0..255"),
        (RAMP.astype(np.float16) * np.float16(255), "like 0..255"),
        (RAMP * 65535, "like 0..65535"),
        (RAMP * 2 - 1, r"normalized already, to \[-1, 1\]"),
        (RAMP * 4 - 2, "normalized already"),
        (RAMP * 1.02, "after resizing"),
        (RAMP * 1.04 - 0.03, "after resizing"),
        (np.where(RAMP > 0.9, np.nan, RAMP), "NaN or infinite"),
        (RAMP.astype(np.complex64), "got complex64"),
        (RAMP.astype("U4"), "got <U"),
    ],
)
def test_other_floats_are_told_what_they_look_like(tmp_path, images, words):
    with pytest.raises(DataError, match=words):
        load(tmp_path, images)


@pytest.mark.parametrize(
    "images", [RAMP, RAMP.astype(np.float16), RAMP.astype(">f4"), RAMP.astype(np.longdouble)]
)
def test_floats_in_range_are_read_whatever_their_precision(tmp_path, images):
    assert torch.allclose(load(tmp_path, images).images[:, 0], torch.tensor(RAMP).float(), atol=1e-3)


def test_truth_values_are_black_and_white(tmp_path):
    data = load(tmp_path, BINARY.astype(bool))
    assert data.images.unique().tolist() == [0, 1]
    assert any("True read as white" in note for note in data.notes)


def test_a_declared_scale_that_is_too_small_is_refused(tmp_path):
    with pytest.raises(DataError, match="divided by scale: 100"):
        load(tmp_path, (RAMP * 255).astype(np.uint8), scale=100)


def test_dark_bytes_run_when_somebody_says_so(tmp_path):
    assert load(tmp_path, BINARY, scale=255).images.max() == np.float32(1 / 255)


@pytest.mark.parametrize(("scale", "dark"), [(8, False), (8.01, True), (500, True)])
def test_a_declared_scale_that_makes_the_images_dark_is_told(tmp_path, scale, dark):
    notes = load(tmp_path, BINARY, scale=scale).notes
    assert any("the images are dark" in note for note in notes) is dark


@pytest.mark.parametrize("scale", [0, -1, "x", float("nan"), float("inf"), True, "255 0"])
def test_a_scale_is_a_positive_number(tmp_path, scale):
    with pytest.raises(ConfigError, match="scale must be a number above 0"):
        load(tmp_path, BINARY, scale=scale)


@pytest.mark.parametrize("source", ["signs", "folder:x"])
def test_only_arrays_take_a_scale(source):
    with pytest.raises(ConfigError, match="scale is for npz files"):
        load_dataset(source, scale=1)


def test_files_of_zeros_and_ones_are_refused_too(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        Image.fromarray(BINARY[1]).save(tmp_path / name / "a.png")
    with pytest.raises(DataError, match=r"only the values 0 and 1.*255 for white"):
        load_dataset(f"folder:{tmp_path}")
    save_picture(tmp_path / "dog" / "b.png", mode="L", size=(6, 6))
    assert len(load_dataset(f"folder:{tmp_path}")) == 3


def test_tensors_of_zeros_and_ones(tmp_path):
    bits = torch.tensor(BINARY)[:, None]
    with pytest.raises(DataError, match=r"only 0 and 1.*images\.float\(\)"):
        as_dataset((bits, torch.arange(3)))
    assert as_dataset((bits.bool(), torch.arange(3))).images.max() == 1
    assert as_dataset((bits * 2, torch.arange(3))).images.max() == np.float32(2 / 255)


@pytest.mark.parametrize("value", [-3e-8, -9e-7, 1.0000001, 1 + 9e-7])
def test_rounding_is_clamped_with_a_note(tmp_path, value):
    images = torch.full((2, 1, 4, 4), 0.5)
    images[1, 0, 1, 1] = value
    given = images.clone()
    for data in (as_dataset((images, torch.arange(2))), load(tmp_path, images[:, 0].numpy())):
        assert 0 <= data.images.min() <= data.images.max() <= 1
        assert f"1 image: values up to {MAX_OVERSHOOT:g} outside [0, 1], clamped" in data.notes
        assert len(data.select_images([0]).notes) == len(data.notes)
    assert torch.equal(images, given)


@pytest.mark.parametrize("value", [-1.2e-6, 1 + 1.2e-6])
def test_beyond_rounding_is_refused_and_not_called_normalised(value):
    images = torch.full((2, 1, 4, 4), 0.5)
    images[1, 0, 1, 1] = value
    with pytest.raises(DataError, match=r"row 1: .*after resizing or arithmetic.*[Cc]lamp"):
        Dataset(images=images, labels=torch.arange(2), ids=("a", "b"), class_names=("0", "1"), name="t")


@pytest.mark.parametrize(("scale", "refused"), [(500.0, False), (520.0, True), (1e30, True)])
def test_a_declared_scale_that_makes_all_images_black_is_refused(tmp_path, scale, refused):
    if refused:
        with pytest.raises(DataError, match="every image is black"):
            load(tmp_path, BINARY, scale=scale)
        return
    assert load(tmp_path, BINARY, scale=scale).images.max() > 0
