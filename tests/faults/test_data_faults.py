"""Faults F33 to F55 that concern data: each gives one clear line and the right exit code, or a note."""

from __future__ import annotations

import os
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import build_pixels, save_folder, save_picture
from PIL import Image

from robustbench_local.data.class_labels import fit_labels
from robustbench_local.data.data_sources import load_dataset
from robustbench_local.data.dataset import Dataset, as_dataset
from robustbench_local.errors import DataError, RefusedError, RobustbenchError


def complaint(error: type[RobustbenchError], code: int, *parts: str, **options) -> str:
    """Load the data, and check the class, the exit code and the one line that comes of it."""
    with pytest.raises(error) as caught:
        load_dataset(**options)
    message = str(caught.value)
    assert caught.value.exit_code == code
    assert "\n" not in message
    for part in parts:
        assert re.search(part, message, re.IGNORECASE), message
    return message


@pytest.fixture
def folder(tmp_path):
    """Six sound pictures of two classes."""
    return save_folder(tmp_path / "photos", {"cat": 3, "dog": 3})


def test_f33_an_empty_data_set(tmp_path):
    (tmp_path / "none").mkdir()
    complaint(DataError, 3, "is empty", "CLASS/IMAGE", source=f"folder:{tmp_path / 'none'}")
    save_folder(tmp_path / "hollow", {"cat": 0})
    complaint(DataError, 3, "no images", source=f"folder:{tmp_path / 'hollow'}")
    np.savez(tmp_path / "none.npz", x=np.zeros((0, 4, 4, 3), np.uint8), y=np.zeros(0, int))
    complaint(DataError, 3, "no images", source=f"npz:{tmp_path / 'none.npz'}")
    with pytest.raises(DataError, match="there are no images"):
        as_dataset((torch.zeros(0, 3, 4, 4), torch.zeros(0, dtype=torch.int64)))


def test_f34_one_image_is_enough(tmp_path):
    data = load_dataset(f"folder:{save_folder(tmp_path, {'cat': 1})}")
    assert len(data) == 1


def test_f35_labels_with_gaps_and_strings_have_a_map(tmp_path):
    np.savez(tmp_path / "gaps.npz", x=build_pixels(3, 4, 4, 3), y=np.array([3, 30, 300]))
    gaps = fit_labels(load_dataset(f"npz:{tmp_path / 'gaps.npz'}"), 3)
    assert gaps.labels.tolist() == [0, 1, 2]
    assert gaps.label_map == {"3": 0, "30": 1, "300": 2}
    np.savez(tmp_path / "words.npz", x=build_pixels(3, 4, 4, 3), y=np.array(["go", "stop", "go"]))
    assert load_dataset(f"npz:{tmp_path / 'words.npz'}").label_map == {"go": 0, "stop": 1}


def test_f36_labels_out_of_range(tmp_path):
    np.savez(tmp_path / "a.npz", x=build_pixels(4, 4, 4, 3), y=np.array([0, -1, 1, -7]))
    complaint(
        DataError, 3, "rows 1, 3", "negative", "number the classes from 0", source=f"npz:{tmp_path / 'a.npz'}"
    )
    with pytest.raises(DataError, match="rows 1, 2: label 7 is not one of the 3 classes"):
        Dataset(
            images=torch.zeros(3, 3, 4, 4),
            labels=torch.tensor([0, 7, 9]),
            ids=("a", "b", "c"),
            class_names=("x", "y", "z"),
            name="made",
        )
    with pytest.raises(DataError, match="model has 10") as caught:
        fit_labels(as_dataset((torch.zeros(2, 3, 4, 4), torch.tensor([3, 10]))), 10)
    assert "row 1" in str(caught.value)


def test_f38_a_truncated_jpeg(folder):
    path = save_picture(folder / "cat" / "x.jpg", size=(64, 64))
    path.write_bytes(path.read_bytes()[:900])
    source = f"folder:{folder}"
    complaint(DataError, 3, r"1 image cannot be used: cat/x\.jpg", "max_bad: 1", source=source, size=8)
    data = load_dataset(source, max_bad=1, size=8)
    assert len(data) == 6
    assert data.quarantined[0][0] == "cat/x.jpg"


def test_f39_a_png_that_lost_its_last_bytes(folder):
    path = folder / "cat" / "0.png"
    path.write_bytes(path.read_bytes()[:-20])
    complaint(DataError, 3, r"cat/0\.png \(", source=f"folder:{folder}")


def test_f40_a_text_file_named_png(folder):
    (folder / "dog" / "0.png").write_text("a text\nof two lines\n")
    complaint(DataError, 3, r"dog/0\.png \(not a PNG", source=f"folder:{folder}")


def test_f41_a_file_of_no_bytes(folder):
    (folder / "dog" / "1.png").write_bytes(b"")
    complaint(DataError, 3, r"dog/1\.png \(empty file\)", source=f"folder:{folder}")


def test_f38_to_f41_together_are_counted(folder):
    for index in range(3):
        (folder / "dog" / f"{index}.png").write_bytes(b"")
    (folder / "cat" / "0.png").write_text("text")
    source = f"folder:{folder}"
    complaint(DataError, 3, r"4 images cannot be used: cat/0\.png", "max_bad: 4", source=source, max_bad=3)
    assert len(load_dataset(source, max_bad=4).quarantined) == 4


def test_f42_grey_among_colours(folder):
    save_picture(folder / "cat" / "0.png", mode="L")
    source = f"folder:{folder}"
    complaint(DataError, 3, r"1 of 6 images is gray", r"cat/0\.png", "gray_to_rgb: true", source=source)
    data = load_dataset(source, gray_to_rgb=True)
    assert torch.equal(data.images[0, 0], data.images[0, 1])
    assert "1 image: gray, repeated to RGB" in data.notes


def test_f43_an_alpha_channel(folder):
    save_picture(folder / "cat" / "0.png", mode="RGBA")
    source = f"folder:{folder}"
    complaint(DataError, 3, r"cat/0\.png: has an alpha channel", "alpha: white", source=source)
    assert "1 image: transparent, put on a white background" in load_dataset(source, alpha="white").notes


def test_f44_sixteen_bits_are_scaled(tmp_path):
    (tmp_path / "cat").mkdir()
    ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(ramp).save(tmp_path / "cat" / "0.png")
    data = load_dataset(f"folder:{tmp_path}")
    assert torch.allclose(data.images[0, 0], torch.from_numpy(ramp / 65535).float(), atol=1e-6)
    assert "1 image: 16-bit gray, divided by 65535" in data.notes


def test_f45_cmyk_and_palette(folder):
    save_picture(folder / "cat" / "c.jpg", mode="CMYK")
    Image.fromarray(build_pixels(10, 12, 3, seed=4)).quantize(16).save(folder / "cat" / "p.png")
    notes = load_dataset(f"folder:{folder}").notes
    assert {"1 image: CMYK, converted to RGB", "1 image: palette, converted to RGB"} <= set(notes)


def test_f46_exif_rotation(folder):
    exif = Image.Exif()
    exif[0x0112] = 6
    save_picture(folder / "cat" / "0.png", size=(10, 12), exif=exif)
    data = load_dataset(f"folder:{folder}")
    assert torch.equal(
        (data.images[0] * 255).round().byte().permute(1, 2, 0),
        torch.from_numpy(np.rot90(build_pixels(12, 10, 3), -1).copy()),
    )
    assert "1 image: rotated upright according to its EXIF data" in data.notes


def test_f48_mixed_sizes(folder):
    save_picture(folder / "dog" / "0.png", size=(20, 30))
    source = f"folder:{folder}"
    complaint(DataError, 3, r"cat/0\.png is 12x10 and dog/0\.png is 20x30", "size: 224", source=source)
    assert load_dataset(source, size=16).images.shape == (6, 3, 16, 16)


def test_f49_values_up_to_255(tmp_path):
    np.savez(tmp_path / "a.npz", x=build_pixels(3, 4, 4, 3).astype(np.float32), y=np.arange(3))
    complaint(DataError, 3, r"0\.\.255", "divide the images by 255", source=f"npz:{tmp_path / 'a.npz'}")
    with pytest.raises(DataError, match=r"0\.\.255"):
        as_dataset((torch.rand(2, 3, 4, 4) * 255, torch.tensor([0, 1])))


def test_f50_values_normalised_before(tmp_path):
    normal = np.random.default_rng(0).normal(size=(3, 4, 4, 3))
    np.savez(tmp_path / "a.npz", x=normal, y=np.arange(3))
    complaint(DataError, 3, "normalized already", "normalize", source=f"npz:{tmp_path / 'a.npz'}")
    with pytest.raises(DataError, match=r"row 1: .*normalized already"):
        as_dataset((torch.stack([torch.zeros(3, 4, 4), torch.full((3, 4, 4), -0.1)]), torch.tensor([0, 1])))


def test_d1_values_that_are_no_numbers():
    images = torch.zeros(3, 3, 4, 4)
    images[2, 0, 0, 0] = float("nan")
    with pytest.raises(DataError, match="row 2: image values are NaN"):
        as_dataset((images, torch.tensor([0, 1, 0])))


def test_f51_a_decompression_bomb(folder):
    (folder / "cat" / "0.ppm").write_bytes(b"P6\n50000 50000\n255\n")
    message = complaint(
        RefusedError, 5, r"cat/0\.ppm", "decompression bomb", source=f"folder:{folder}", max_bad=9
    )
    assert "remove it" in message


def test_f51_other_formats_are_not_opened(folder):
    image = Image.fromarray(build_pixels(10, 12, 3))
    for kind in ("TIFF", "GIF", "WEBP"):
        image.save(folder / "cat" / "0.png", format=kind)
        complaint(
            DataError, 3, r"cat/0\.png \(not a PNG, JPEG, PPM or BMP image\)", source=f"folder:{folder}"
        )


def test_f52_archives_are_not_unpacked_and_bombs_refused(tmp_path, monkeypatch):
    (tmp_path / "photos.zip").write_bytes(b"PK\x05\x06" + bytes(18))
    complaint(DataError, 3, "is a file, not a folder", "unpack", source=f"folder:{tmp_path / 'photos.zip'}")
    monkeypatch.setattr("robustbench_local.config.zip_bombs.MIN_BOMB_BYTES", 2**16)
    np.savez_compressed(tmp_path / "bomb.npz", x=np.zeros((2000, 16, 16, 3), np.uint8), y=np.zeros(2000, int))
    complaint(RefusedError, 5, "decompression bomb", source=f"npz:{tmp_path / 'bomb.npz'}")


class _Payload:
    def __init__(self, flag):
        self.flag = flag

    def __reduce__(self):
        return (Path.touch, (self.flag,))


def test_pickles_in_an_npz_file_are_not_run(tmp_path):
    np.savez(
        tmp_path / "a.npz", x=build_pixels(1, 4, 4, 3), y=np.array([_Payload(tmp_path / "ran")], dtype=object)
    )
    complaint(RefusedError, 5, "could run code", source=f"npz:{tmp_path / 'a.npz'}")
    assert not (tmp_path / "ran").exists()
    pickle.loads(pickle.dumps(_Payload(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()  # the payload itself works


def test_f53_copies_are_noted(folder):
    (folder / "dog" / "9.png").write_bytes((folder / "cat" / "0.png").read_bytes())
    notes = load_dataset(f"folder:{folder}").notes
    assert notes == (
        "1 image: exact copies of others, 1 of them with another label, the first: dog/9.png of cat/0.png",
    )


def test_f54_a_file_that_may_not_be_read(folder, monkeypatch):
    open_file = os.open

    def refuse(path, *args, **kwargs):
        if str(path).endswith("1.png"):
            raise PermissionError(13, "Permission denied", str(path))
        return open_file(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", refuse)
    complaint(
        DataError, 3, r"cat/1\.png: cannot be read: Permission denied", source=f"folder:{folder}", max_bad=9
    )


def test_f55_a_changed_file_changes_the_digest(folder):
    before = load_dataset(f"folder:{folder}").compute_digest()
    save_picture(folder / "cat" / "0.png", seed=77)
    assert load_dataset(f"folder:{folder}").compute_digest() != before


def test_f70_class_names_in_any_script(tmp_path):
    names = {"停車", "🛑", "توقف", "<script>", "=cmd()"}
    data = load_dataset(f"folder:{save_folder(tmp_path, dict.fromkeys(names, 1))}")
    assert set(data.class_names) == names
