"""Folders of images: classes, splits, ids, and what lies beside the images."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from pictures import build_pixels, save_folder, save_picture
from PIL import Image

from robustbench_local.data.collect import ReadOptions, collect_dataset
from robustbench_local.data.folder import list_folder
from robustbench_local.errors import DataError


def test_classes_are_sorted_and_images_are_named_by_their_paths(tmp_path):
    save_folder(tmp_path / "pets", {"dog": 2, "cat": 1, "Owl": 1})
    listing = list_folder(tmp_path / "pets", where="folder:pets")
    assert listing.name == "pets"
    assert listing.class_names == ("Owl", "cat", "dog")
    assert list(listing.ids) == ["Owl/0.png", "cat/0.png", "dog/0.png", "dog/1.png"]
    assert listing.labels.tolist() == [0, 1, 2, 2]
    assert listing.label_map == {"Owl": 0, "cat": 1, "dog": 2}
    assert listing.notes == ()


def test_nothing_is_decoded_before_it_is_asked_for(tmp_path):
    save_folder(tmp_path, {"cat": 1})
    (tmp_path / "cat" / "broken.png").write_text("no image")
    listing = list_folder(tmp_path, where="here")
    assert list(listing.ids) == ["cat/0.png", "cat/broken.png"]
    assert listing.read_image(0).pixels.shape == (10, 12, 3)


def test_numbers_sort_as_numbers_and_are_class_indices(tmp_path):
    save_folder(tmp_path, {"10": 1, "9": 1, "00002": 1})
    listing = list_folder(tmp_path, where="here")
    assert list(listing.ids) == ["00002/0.png", "9/0.png", "10/0.png"]
    assert listing.labels.tolist() == [2, 9, 10]
    assert listing.class_names == tuple(str(index) for index in range(11))
    assert listing.label_map == {"00002": 2, "9": 9, "10": 10}


def test_two_folders_of_one_number_are_refused(tmp_path):
    save_folder(tmp_path, {"1": 1, "01": 1})
    with pytest.raises(DataError, match="same number: 01, 1"):
        list_folder(tmp_path, where="here")


def test_deeper_folders_belong_to_their_class(tmp_path):
    save_folder(tmp_path, {"cat/b": 1, "cat/a": 1, "cat": 1, "dog": 1})
    listing = list_folder(tmp_path, where="here")
    assert list(listing.ids) == ["cat/0.png", "cat/a/0.png", "cat/b/0.png", "dog/0.png"]


@pytest.mark.parametrize("case", ["test-t", "validation-v", "val-v", "train-r"])
def test_splits_are_found_under_their_usual_names(tmp_path, case):
    split, expected = case.split("-")
    for folder, name in (("test", "t"), ("val", "v"), ("training", "r")):
        save_folder(tmp_path / folder, {name: 1, "other": 1})
    listing = list_folder(tmp_path, where="here", split=split)
    assert f"{expected}/0.png" in listing.ids


def test_a_missing_split_names_those_that_are_there(tmp_path):
    save_folder(tmp_path / "train", {"cat": 1})
    save_folder(tmp_path / "val", {"cat": 1})
    with pytest.raises(DataError, match=r"no split 'test'\. Set split to one of train, val"):
        list_folder(tmp_path, where="here")


def test_other_files_are_left_aside_and_counted(tmp_path):
    save_folder(tmp_path, {"cat": 1, "dog": 1})
    for name in (
        "cat/.DS_Store",
        "cat/Thumbs.db",
        "dog/._0.png",
        "dog/notes.txt",
        "dog/a.webp",
        "README",
        ".hidden",
    ):
        (tmp_path / name).write_text("x")
    (tmp_path / ".git").mkdir()
    (tmp_path / "cat" / "__MACOSX").mkdir()
    save_picture(tmp_path / "cat" / "__MACOSX" / "x.png")
    listing = list_folder(tmp_path, where="here")
    assert list(listing.ids) == ["cat/0.png", "dog/0.png"]
    assert listing.notes == ("files left aside: 1 .db, 1 .txt, 1 .webp, 3 hidden, 1 without a suffix",)


def test_an_empty_class_is_kept_and_noted(tmp_path):
    save_folder(tmp_path, {"cat": 1, "owl": 0})
    listing = list_folder(tmp_path, where="here")
    assert listing.class_names == ("cat", "owl")
    assert listing.notes == ("class folders without images: owl",)


@pytest.mark.parametrize(
    ("classes", "loose", "message"),
    [
        ({}, [], r"is empty.*DIR/CLASS/IMAGE\.png"),
        ({}, ["a.png", "b.jpg"], r"has 2 images but no class folders\. Put the images of each class"),
        (
            {"cat": 0},
            ["cat/a.webp", "cat/b.webp"],
            r"no images in the class folders, only 2 \.webp\. PNG, JPEG",
        ),
        ({"cat": 0}, [], "no images in the class folders"),
    ],
)
def test_other_layouts_are_answered_with_the_right_one(tmp_path, classes, loose, message):
    save_folder(tmp_path, classes)
    for name in loose:
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=message):
        list_folder(tmp_path, where="here")


def test_a_missing_folder_a_file_and_an_archive(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        list_folder(tmp_path / "nothing", where="here")
    for name, remedy in (("a.zip", "unpack the archive"), ("a.csv", "name the folder that holds")):
        (tmp_path / name).touch()
        with pytest.raises(DataError, match=f"(?i)is a file, not a folder.*{remedy}"):
            list_folder(tmp_path / name, where="here")


def test_an_unreadable_folder_is_an_error(tmp_path, monkeypatch):
    save_folder(tmp_path, {"cat": 1, "dog": 1})
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "dog":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"cannot be read: Permission denied\. Check the permissions"):
        list_folder(tmp_path, where="here")


def test_an_unreadable_root_is_an_error(tmp_path, monkeypatch):
    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(DataError, match="cannot be read: Permission denied"):
        list_folder(tmp_path, where="here")


def test_names_in_any_language_and_any_bytes(tmp_path):
    save_folder(tmp_path, {"猫": 1, "🐕 dog": 1})
    (tmp_path / "猫" / "0.png").rename(os.fsdecode(os.fsencode(tmp_path / "猫") + b"/\xff.png"))
    listing = list_folder(tmp_path, where="here")
    assert listing.class_names == ("猫", "🐕 dog")
    assert list(listing.ids) == ["猫/\\xff.png", "🐕 dog/0.png"]
    assert listing.read_image(0).pixels.shape == (10, 12, 3)


def test_links_are_followed_and_broken_ones_reported(tmp_path):
    save_picture(tmp_path / "elsewhere" / "x.png")
    save_folder(tmp_path / "data", {"cat": 0, "dog": 1})
    (tmp_path / "data" / "cat" / "0.png").symlink_to(tmp_path / "elsewhere" / "x.png")
    (tmp_path / "data" / "cat" / "1.png").symlink_to(tmp_path / "elsewhere" / "gone.png")
    listing = list_folder(tmp_path / "data", where="here")
    assert np.array_equal(listing.read_image(0).pixels, build_pixels(10, 12, 3))
    with pytest.raises(DataError, match=r"here, cat/1\.png: is a link to a file that does not exist"):
        listing.read_image(1)


@pytest.mark.parametrize("max_bad", [0, 9])
def test_a_file_that_vanishes_after_the_listing_is_told_whatever_may_be_left_out(tmp_path, max_bad):
    save_folder(tmp_path, {"cat": 2, "dog": 2})
    listing = list_folder(tmp_path, where="here")
    (tmp_path / "dog" / "1.png").unlink()
    message = r"here, dog/1\.png: is gone: the folder has changed since it was listed\. Run the same command"
    with pytest.raises(DataError, match=message):
        collect_dataset(listing, range(4), ReadOptions(max_bad=max_bad))


def test_a_file_that_is_replaced_after_the_listing_is_the_one_that_counts(tmp_path):
    save_folder(tmp_path, {"cat": 2, "dog": 1})
    before = collect_dataset(list_folder(tmp_path, where="here"), range(3), ReadOptions())
    listing = list_folder(tmp_path, where="here")
    pixels = build_pixels(10, 12, 3).copy()
    pixels[0, 0] ^= 1
    Image.fromarray(pixels).save(tmp_path / "cat" / "1.png")
    save_picture(tmp_path / "cat" / "2.png")  # no part of this run
    (tmp_path / "dog" / "0.png").write_bytes(b"")
    after = collect_dataset(listing, range(3), ReadOptions(max_bad=1))
    assert after.ids == ("cat/0.png", "cat/1.png")
    assert after.quarantined == (("dog/0.png", "empty file"),)
    assert (after.images[1] * 255).round()[:, 0, 0].tolist() == pixels[0, 0].tolist()
    assert after.compute_digest() != before.compute_digest()


def test_a_pipe_is_left_aside(tmp_path):
    save_folder(tmp_path, {"cat": 1})
    os.mkfifo(tmp_path / "cat" / "1.png")
    assert list(list_folder(tmp_path, where="here").ids) == ["cat/0.png"]
