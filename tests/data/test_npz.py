"""NumPy archives: layouts, dtypes, labels, masks, ids and what is refused."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest
from pictures import build_pixels

from robustbench_local.data.data_sources import load_dataset
from robustbench_local.data.npz import NpzKeys, list_npz
from robustbench_local.errors import DataError, RefusedError


def save(tmp_path, **arrays):
    path = tmp_path / "made.npz"
    np.savez(path, **arrays)
    return path


def listed(tmp_path, *, keys=None, alpha=None, split="test", **arrays):
    return list_npz(save(tmp_path, **arrays), where="npz:made.npz", keys=keys, alpha=alpha, split=split)


X = build_pixels(4, 6, 5, 3)
Y = np.array([2, 0, 1, 2])


def test_bytes_come_back_exactly_with_names_and_ids(tmp_path):
    listing = listed(tmp_path, x=X, y=Y.astype(np.uint8), class_names=np.array(["a", "b", "c", "d"]))
    assert (listing.name, listing.where) == ("made", "npz:made.npz")
    assert all(np.array_equal(listing.read_image(row).pixels, X[row]) for row in range(4))
    assert listing.labels.tolist() == [2, 0, 1, 2]
    assert listing.class_names == ("a", "b", "c", "d")
    assert listing.label_map == {"0": 0, "1": 1, "2": 2}
    assert list(listing.ids) == ["made/0", "made/1", "made/2", "made/3"]


@pytest.mark.parametrize(
    ("stored", "shape"),
    [
        (X, (6, 5, 3)),
        (X.transpose(0, 3, 1, 2), (6, 5, 3)),
        (X[..., 0], (6, 5, 1)),
        (X[..., :1], (6, 5, 1)),
        (X[:, None, ..., 0], (6, 5, 1)),
    ],
)
def test_layouts(tmp_path, stored, shape):
    picture = listed(tmp_path, x=stored, y=Y).read_image(1)
    assert picture.pixels.shape == shape
    assert np.array_equal(picture.pixels, X[1, ..., : shape[2]])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_are_taken_as_they_are(tmp_path, dtype):
    listing = listed(tmp_path, images=(X / 256).astype(dtype), labels=Y)
    assert listing.read_image(2).pixels.dtype == np.float32
    assert np.array_equal(listing.read_image(2).pixels, X[2] / np.float32(256))


def test_sixteen_bits_are_scaled(tmp_path):
    listing = listed(tmp_path, x=np.full((4, 2, 2), 65535, np.uint16), y=Y)
    assert (listing.read_image(0).pixels == 1).all()
    assert listing.notes == ("16-bit images, divided by 65535",)


def test_four_channels_need_a_background(tmp_path):
    clear = np.zeros((4, 2, 2, 4), np.uint8)
    with pytest.raises(DataError, match=r"row 3: has an alpha channel"):
        listed(tmp_path, x=clear, y=Y).read_image(3)
    assert (listed(tmp_path, x=clear, y=Y, alpha="white").read_image(3).pixels == 255).all()
    with pytest.raises(DataError, match="alpha channel must be uint8"):
        listed(tmp_path, x=clear.astype(np.float32), y=Y)


def test_the_split_finds_its_arrays(tmp_path):
    arrays = {"x_train": X, "y_train": Y, "x_test": X[::-1], "y_test": Y[::-1]}
    assert listed(tmp_path, **arrays).labels.tolist() == [2, 1, 0, 2]
    assert listed(tmp_path, split="train", **arrays).labels.tolist() == [2, 0, 1, 2]


def test_named_arrays(tmp_path):
    keys = NpzKeys(images="x32", labels="kind", masks="octagon")
    listing = listed(tmp_path, keys=keys, x32=X, x256=X, kind=Y, octagon=np.eye(6, 5, dtype=bool))
    assert np.array_equal(listing.masks, np.broadcast_to(np.eye(6, 5, dtype=bool), (4, 6, 5)))
    assert listing.surface == "the mask 'octagon'"


def test_masks_an_image(tmp_path):
    masks = build_pixels(4, 6, 5) > 128
    for stored in (masks, masks[:, None], masks[..., None], masks.astype(np.uint8) * 255):
        assert np.array_equal(listed(tmp_path, x=X, y=Y, mask=stored).masks, masks)
    assert listed(tmp_path, x=X, y=Y, mask=masks).surface == "the mask 'mask'"
    assert listed(tmp_path, x=X, y=Y).surface == ""
    with pytest.raises(DataError, match=r"masks of shape \(4, 5, 5\)"):
        listed(tmp_path, x=X, y=Y, masks=masks[:, :5])


@pytest.mark.parametrize(
    ("key", "values", "last"),
    [
        ("filenames", ["a.png", "b.png", "c.png", "d.png"], "made/d.png"),
        ("index", [7, 3, 5, 9], "made/9"),
        ("index", [7, 3, 7, 9], "made/3"),
        ("index", [7, 9], "made/3"),
    ],
)
def test_ids_are_those_of_the_file_if_they_are_unique(tmp_path, key, values, last):
    assert listed(tmp_path, x=X, y=Y, **{key: np.array(values)}).ids[3] == last


def test_strings_are_numbered_by_name_or_as_the_file_says(tmp_path):
    words = np.array(["stop", "go", "stop", "wait"])
    listing = listed(tmp_path, x=X, y=words)
    assert listing.labels.tolist() == [1, 0, 1, 2]
    assert listing.class_names == ("go", "stop", "wait")
    assert listing.label_map == {"go": 0, "stop": 1, "wait": 2}
    ordered = listed(tmp_path, x=X, y=words, class_names=np.array(["wait", "stop", "go"]))
    assert ordered.labels.tolist() == [1, 2, 1, 0]


def test_numbers_with_gaps_keep_their_meaning(tmp_path):
    listing = listed(tmp_path, x=X, y=np.array([[3], [0], [14], [3]]))
    assert listing.labels.tolist() == [3, 0, 14, 3]
    assert listing.label_map == {"0": 0, "3": 3, "14": 14}
    assert len(listing.class_names) == 15


def test_large_numbers_are_names(tmp_path):
    listing = listed(tmp_path, x=X, y=np.array([1_440_764, 2_102_040, 1_440_764, 2_102_040]))
    assert listing.labels.tolist() == [0, 1, 0, 1]
    assert listing.class_names == ("1440764", "2102040")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"y": Y},
            r"has no images: no array 'x' or 'images' or 'x_test'.*images_key; the file has y int64\[4\]",
        ),
        ({"x": X}, r"has no labels: no array 'y'.*labels_key; the file has x uint8\[4, 6, 5, 3\]"),
        ({"x": X, "y": Y[:3]}, "4 images but 3 labels"),
        ({"x": X, "y": np.array([0, -1, 1, 2])}, r"row 1: labels are negative"),
        ({"x": X, "y": Y.astype(float)}, "integers or strings"),
        ({"x": X, "y": np.eye(4)}, "integers or strings"),
        ({"x": X, "y": np.array(3)}, "integers or strings"),
        (
            {"x": X, "y": Y, "class_names": np.array(["a", "b"])},
            r"rows 0, 3: label 2 has no class: there are 2",
        ),
        (
            {"x": X, "y": np.array(["a", "b", "q", "a"]), "class_names": np.array(["a", "b"])},
            "row 2: label q has no class",
        ),
        ({"x": X[:0], "y": Y[:0]}, "there are no images"),
        ({"x": X[0], "y": Y}, r"6 images but 4 labels"),
        ({"x": build_pixels(4, 6, 5, 2), "y": Y}, "with C 1, 3 or 4"),
        ({"x": build_pixels(4), "y": Y}, "with C 1, 3 or 4"),
        ({"x": X.astype(np.int64), "y": Y}, r"got int64\. Save them as uint8"),
        ({"x": X.astype(np.float32), "y": Y}, "look like 0..255"),
        ({"x": X / 255 - 0.5, "y": Y}, "normalized already"),
        ({"x": np.full((4, 2, 2), np.nan), "y": Y}, "NaN"),
    ],
)
def test_what_cannot_be_used(tmp_path, arrays, message):
    with pytest.raises(DataError, match=message) as caught:
        listed(tmp_path, **arrays)
    assert str(caught.value).startswith("npz:made.npz")
    assert "\n" not in str(caught.value)


def test_rows_of_bad_values_are_those_of_the_file(tmp_path):
    values = (X / 255).astype(np.float32)
    values[2, 0, 0, 0] = 1.5
    with pytest.raises(DataError, match=r"npz:made\.npz, row 2: image values"):
        listed(tmp_path, x=values, y=Y)


def test_pickled_objects_are_refused_unread(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("the pickle was run",))

    with pytest.raises(RefusedError, match="pickled objects, which could run code"):
        listed(tmp_path, x=np.array([Bomb()], dtype=object), y=Y)


def test_a_bare_pickle_is_not_an_archive(tmp_path):
    path = tmp_path / "made.npz"
    path.write_bytes(b"\x80\x04K\x01.")
    with pytest.raises(DataError, match=r"is not a NumPy archive"):
        list_npz(path, where="here")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 broken", b"\x93NUMPY\x01\x00"])
def test_other_files(tmp_path, content):
    path = tmp_path / "made.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match="is not a NumPy archive"):
        list_npz(path, where="here")


def test_damaged_archives(tmp_path):
    path = save(tmp_path, x=X, y=Y)
    content = bytearray(path.read_bytes())
    content[200] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"here: cannot be read: .*Write or copy it again"):
        list_npz(path, where="here")


@pytest.mark.parametrize(
    "shape", [b"(9 ** 9, 9, )", b"(10 ** 12, ) ", b"(99999999999", b"(4,6,5,3000)", b"(9999999999,)"]
)
def test_damaged_or_lying_headers(tmp_path, shape):
    path = save(tmp_path, x=X, y=Y)
    changed = tmp_path / "changed.npz"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(changed, "w") as target:
        for name in source.namelist():
            target.writestr(name, source.read(name).replace(b"(4, 6, 5, 3)", shape))
    with pytest.raises(DataError, match="cannot be read"):
        list_npz(changed, where="here")


def test_archive_bombs_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("robustbench_local.config.zip_bombs.MIN_BOMB_BYTES", 2**20)
    path = tmp_path / "made.npz"
    np.savez_compressed(path, x=np.zeros((2048, 1024), np.uint8))
    with pytest.raises(
        RefusedError, match=r"here: .* bytes unpack to 2,097,280, as a decompression bomb does"
    ):
        list_npz(path, where="here")


def test_other_members_of_the_archive_are_no_arrays(tmp_path):
    path = save(tmp_path, x=X, y=Y)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("labels", "text")
    assert len(list_npz(path, where="here").ids) == 4


def test_a_missing_file(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        list_npz(tmp_path / "gone.npz", where="here")


def test_several_arrays_of_images_are_asked_about(tmp_path):
    images, labels = np.zeros((3, 4, 4, 3), np.uint8), np.arange(3)
    images[:, 0] = 200
    np.savez(tmp_path / "two.npz", x=images, x_test=images + 1, y=labels)
    with pytest.raises(
        DataError, match=r"several arrays could be the images: x, x_test\. Select .* images_key"
    ):
        load_dataset(f"npz:{tmp_path / 'two.npz'}")
    assert len(load_dataset(f"npz:{tmp_path / 'two.npz'}", images_key="x_test")) == 3
