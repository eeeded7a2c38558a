"""Splits in any spelling are asked about, never read as classes, and classes are still classes."""

from __future__ import annotations

import unicodedata

import pytest
from pictures import save_folder, save_picture

from robustbench_local.data.data_sources import load_dataset
from robustbench_local.data.folder import list_folder
from robustbench_local.data.folder_layout import _parse_split
from robustbench_local.errors import DataError

PETS = {"cat": 1, "dog": 1}


def make(root, folders):
    for name in folders:
        save_folder(root / name, PETS)
    return root


@pytest.mark.parametrize(
    "names",
    [
        ("Train", "Test"), ("TRAIN", "TEST"), ("Training", "Testing"), ("train_images", "test_images"),
        ("training set", "test set"), ("Trn", "Tst"), ("dev", "holdout"), ("eval", "fit"),
        ("fold1", "fold2", "fold3"),
        ("a1", "a2"), ("split_0", "split_1"), ("Lehrbilder", "Pruefbilder"),
        ("entrenamiento", "prueba"), ("训练", "测试"),
        ("train-2019", "test-2019"), ("part A", "part B"), ("TrainingData", "ValidationData"),
        ("train ", "test "),
        ("x", "y"), ("test2", "Test"), ("train.v1", "valid.v1"), ("seen", "unseen"), ("Training", "train"),
    ],
    ids="-".join,
)  # fmt: skip
def test_splits_of_any_spelling_are_asked_about_and_chosen_by_name(tmp_path, names):
    make(tmp_path, names)
    with pytest.raises(DataError, match="splits or classes") as raised:
        list_folder(tmp_path, where="folder:pets")
    line = str(raised.value)
    assert raised.value.exit_code == 3
    assert all(name.strip() in line for name in names)
    assert "split: none" in line
    chosen = list_folder(tmp_path, where="folder:pets", split=names[-1])
    assert chosen.class_names == ("cat", "dog")
    assert list(chosen.ids) == ["cat/0.png", "dog/0.png"]
    all_of_them = list_folder(tmp_path, where="folder:pets", split="none")
    assert all_of_them.class_names == tuple(sorted(names))
    assert any("deeper folders" in note for note in all_of_them.notes)


def test_a_folder_without_images_beside_train_and_test_changes_nothing(tmp_path):
    make(tmp_path, ("train", "test"))
    (tmp_path / "docs" / "deep").mkdir(parents=True)
    (tmp_path / "docs" / "notes.txt").write_text("x")
    assert list_folder(tmp_path, where="here").class_names == ("cat", "dog")
    with pytest.raises(DataError, match=r"no split 'val'\. Set split to one of test, train"):
        list_folder(tmp_path, where="here", split="val")


def test_a_folder_of_images_beside_train_and_test_changes_nothing_either(tmp_path):
    make(tmp_path, ("train", "test"))
    save_picture(tmp_path / "unlabelled" / "a.png")
    assert list_folder(tmp_path, where="here").class_names == ("cat", "dog")


def test_splits_whose_classes_differ_in_part_are_still_splits(tmp_path):
    save_folder(tmp_path / "A", {"cat": 1, "dog": 1, "owl": 1})
    save_folder(tmp_path / "B", {"CAT": 1, "cow": 1})
    with pytest.raises(DataError, match="splits or classes"):
        list_folder(tmp_path, where="here")


def test_the_same_name_in_two_unicode_forms_is_the_same(tmp_path):
    for folder, form in (("A", "NFC"), ("B", "NFD")):
        save_folder(tmp_path / folder, {unicodedata.normalize(form, "käse"): 1})
    with pytest.raises(DataError, match="sub-folders of the same names"):
        list_folder(tmp_path, where="here")


def test_unlabelled_splits_are_no_classes(tmp_path):
    for name in ("Train", "Test"):
        save_picture(tmp_path / name / "a.png")
    with pytest.raises(DataError, match="named like splits"):
        list_folder(tmp_path, where="here")


def test_a_labelled_and_an_unlabelled_split_are_no_classes(tmp_path):
    make(tmp_path, ["Train"])
    save_picture(tmp_path / "Test" / "a.png")
    save_picture(tmp_path / "Meta" / "a.png")
    with pytest.raises(DataError, match=r"named like splits.*Set split to one of Train, or"):
        list_folder(tmp_path, where="here")
    assert list_folder(tmp_path, where="here", split="Train").class_names == ("cat", "dog")


@pytest.mark.parametrize("outer", ["data", "images", "Train", "my pets"])
def test_a_single_folder_around_the_classes_is_no_class(tmp_path, outer):
    make(tmp_path, [outer])
    with pytest.raises(DataError, match="splits or classes"):
        list_folder(tmp_path, where="here")
    assert list_folder(tmp_path, where="here", split=outer).class_names == ("cat", "dog")


def test_splits_one_level_down(tmp_path):
    make(tmp_path / "archive", ("Train", "Test"))
    with pytest.raises(DataError, match="splits or classes"):
        list_folder(tmp_path, where="here")
    with pytest.raises(DataError, match=r"split 'archive'.*same names"):
        list_folder(tmp_path, where="here", split="archive")
    make(tmp_path / "two" / "test", ("a", "b"))
    with pytest.raises(
        DataError, match="in its split 'test' these folders have sub-folders of the same names"
    ):
        list_folder(tmp_path / "two", where="here")


def test_classes_with_equal_sub_folders_are_asked_about(tmp_path):
    for name in PETS:
        save_folder(tmp_path / name, {"front": 1, "back": 1})
    with pytest.raises(DataError, match="if they are the classes"):
        list_folder(tmp_path, where="here")
    listing = list_folder(tmp_path, where="here", split="none")
    assert listing.class_names == ("cat", "dog")
    assert listing.labels.tolist() == [0, 0, 1, 1]
    assert listing.notes[0].startswith("images in deeper folders count for their class folder: cat/back")


def test_splits_inside_classes_are_not_read_as_classes_of_a_split(tmp_path):
    for name in PETS:
        save_folder(tmp_path / name, {"train": 1, "test": 1})
    for split in ("test", "cat"):
        with pytest.raises(DataError):
            list_folder(tmp_path, where="here", split=split)


def test_groups_of_classes_are_asked_about(tmp_path):
    save_folder(tmp_path / "animals", {"cat": 1, "dog": 1})
    save_folder(tmp_path / "vehicles", {"car": 1})
    with pytest.raises(DataError, match="all images lie in sub-folders"):
        list_folder(tmp_path, where="here")


@pytest.mark.parametrize(
    ("folders", "classes"),
    [
        (["train", "bus", "car"], ("bus", "car", "train")),
        (["cat/images", "dog/images"], ("cat", "dog")),
        (["cat/a", "cat/b", "cat", "dog"], ("cat", "dog")),
        (["cat/old", "cat", "dog/new", "dog"], ("cat", "dog")),
        (["old", "new"], ("new", "old")),
        (["evaluation", "meeting"], ("evaluation", "meeting")),
        (["0", "1", "2"], ("0", "1", "2")),
        (["only"], ("only",)),
    ],
)
def test_what_are_classes_stays_classes(tmp_path, folders, classes):
    save_folder(tmp_path, dict.fromkeys(folders, 1))
    assert list_folder(tmp_path, where="here").class_names == classes


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("Train", "train"), ("train_images", "train"), ("TestSet", "test"), ("my test", None),
        ("hold-out", "holdout"),
        ("fold_3", "fold"), ("validation2", "val"), ("trains", None), ("contest", None),
        ("images", None), ("テスト", "test"),
        ("Держать", None), ("test.images.v2", "test"), ("train+val", "train"),
    ],
)  # fmt: skip
def test_names_of_splits(name, split):
    assert _parse_split(name) == split


def test_split_names_cannot_leave_the_folder(tmp_path):
    make(tmp_path / "in", ("Train", "Test"))
    make(tmp_path, ("other",))
    with pytest.raises(DataError):
        list_folder(tmp_path / "in", where="here", split="../other")


def test_a_grid_asks_by_exit_code_3(tmp_path):
    make(tmp_path / "pets", ("Train", "Test"))
    with pytest.raises(DataError):
        load_dataset("folder:pets", base_folder=tmp_path)
    assert len(load_dataset("folder:pets", base_folder=tmp_path, split="Test")) == 2


@pytest.mark.parametrize("between", ["images", "2019", "a/b"])
def test_the_same_classes_further_down_are_splits_too(tmp_path, between):
    make(tmp_path, (f"Lehr/{between}", f"Pruef/{between.replace('2019', '2020').replace('a/', 'c/')}"))
    with pytest.raises(DataError, match="sub-folders of the same names"):
        list_folder(tmp_path, where="here")
    with pytest.raises(DataError, match="in its split 'Lehr'"):
        list_folder(tmp_path, where="here", split="Lehr")
