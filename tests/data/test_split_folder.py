"""A folder of photographs divided into three: no object and no copy of a file in two parts."""

from __future__ import annotations

import os

import numpy as np
import pytest
from PIL import Image

from robustbench_local.data.groups import GroupOptions
from robustbench_local.data.split_folder import divide_photographs, list_photographs, write_parts
from robustbench_local.errors import ConfigError, DataError

SHARES = {"val": 0.2, "test": 0.2}


@pytest.fixture
def photos(tmp_path):
    """Ten photographs each of two classes, of which two of a class are copies of one file."""
    generator = np.random.default_rng(0)
    folder = tmp_path / "photos"
    for label in ("stop sign", "yield"):
        (folder / label).mkdir(parents=True)
        for number in range(10):
            pixels = generator.integers(0, 256, (4, 4, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number // 2}_{number % 2}.png")
    for number in (3, 4):
        copied = (folder / "yield" / "0_0.png").read_bytes()
        (folder / "yield" / f"{number}_1.png").write_bytes(copied)
    return folder


def _divide(folder, groups=None, shares=SHARES, seed=0):
    listing = list_photographs(folder, split="train", where="folder:photos")
    positions = range(len(listing.ids))
    parts = divide_photographs(listing, positions, shares=shares, groups=groups or GroupOptions(), seed=seed)
    return listing, parts


def test_every_image_is_in_one_part_and_copies_are_together(photos):
    for seed in range(5):
        listing, parts = _divide(photos, seed=seed)
        assert sorted(row for rows in parts.values() for row in rows) == list(range(20))
        part_by_id = {listing.ids[row]: part for part, rows in parts.items() for row in rows}
        assert len({part_by_id[f"yield/{name}.png"] for name in ("0_0", "3_1", "4_1")}) == 1
        assert all(
            any(listing.labels[row] == label for row in rows) for rows in parts.values() for label in (0, 1)
        )


def test_images_of_one_object_are_together(photos):
    listing, parts = _divide(photos, GroupOptions(pattern="([0-9]+)_"))
    for rows in parts.values():
        names = [listing.ids[row] for row in rows]
        assert all(name.replace("_0", "_1") in names and name.replace("_1", "_0") in names for name in names)


def test_parts_are_written_once_and_another_division_is_refused(photos, tmp_path, monkeypatch):
    listing, parts = _divide(photos)
    target = tmp_path / "divided"
    write_parts(listing, parts, target)
    written = sorted(path for path in target.rglob("*.png"))
    assert len(written) == 20
    assert (target / "test" / "stop sign").is_dir()
    assert written[0].stat().st_nlink == 2
    write_parts(listing, parts, target)
    assert list_photographs(target, split="train", where="folder:divided") is None
    listing, other = _divide(photos, seed=1)
    with pytest.raises(ConfigError, match="divided differently"):
        write_parts(listing, other, target)

    def refuse(*_paths):
        raise OSError

    monkeypatch.setattr(os, "link", refuse)
    write_parts(listing, other, tmp_path / "copied")
    copies = sorted((tmp_path / "copied").rglob("*.png"))
    assert len(copies) == 20
    assert copies[0].stat().st_nlink == 1


def test_a_folder_that_cannot_be_divided_is_named(photos, tmp_path):
    with pytest.raises(ConfigError, match="leave nothing to train on"):
        _divide(photos, shares={"val": 0.5, "test": 0.5})
    for path in [*photos.rglob("*.png")]:
        if not path.name.startswith("0_0"):
            path.unlink()
    with pytest.raises(DataError, match="no class has images of two objects"):
        _divide(photos)
    listing = list_photographs(photos, split="train", where="folder:photos")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be placed"):
        write_parts(listing, {"train": [0]}, tmp_path / "file")
