"""The images of a training: splits of their own are used, others are held out, classes must agree."""

from __future__ import annotations

import numpy as np
import pytest

from robustbench_local.errors import DataError
from robustbench_local.evaluation.grid.data_entries import DataEntry
from robustbench_local.evaluation.training.training_data import TrainingDataSpec, load_training_images


@pytest.fixture
def archives(tmp_path):
    """One archive with three splits, one without names, one of other classes."""
    generator = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 12), ("val", 6), ("test", 4)):
        arrays[f"x_{split}"] = generator.integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
        arrays[f"y_{split}"] = np.arange(count) % 2
    np.savez(tmp_path / "all.npz", **arrays, class_names=["left", "right"])
    np.savez(tmp_path / "plain.npz", x=arrays["x_test"], y=arrays["y_test"])
    np.savez(tmp_path / "bare.npz", x=arrays["x_val"], y=arrays["y_val"])
    np.savez(tmp_path / "other.npz", x=arrays["x_test"], y=arrays["y_test"], class_names=["up", "down"])
    return tmp_path


def _load(base, source, **wanted):
    entry = DataEntry(source=source, split="train")
    return load_training_images(TrainingDataSpec(entry=entry, **wanted), seed=0, base=base)


def test_splits_of_its_own_are_used(archives):
    images, sources = _load(archives, "npz:all.npz", max_validation_images=4)
    assert (len(images.training), len(images.validation), len(images.test)) == (12, 4, 4)
    assert sources == {
        "training": "npz:all.npz, train",
        "validation": "npz:all.npz, val",
        "test": "npz:all.npz, test",
    }


def test_without_splits_a_share_is_held_out_and_nothing_is_tested_on(archives):
    images, sources = _load(archives, "npz:plain.npz", validation_share=0.5)
    assert (len(images.training), len(images.validation), images.test) == (2, 2, None)
    assert sources["validation"] == "0.5 of the images of each class of npz:plain.npz, train"


def test_images_without_names_take_those_of_the_others(archives):
    images, _ = _load(archives, "npz:all.npz", validation_source="npz:plain.npz", test_source="npz:bare.npz")
    assert images.validation.class_names == images.test.class_names == ("left", "right")


def test_other_classes_are_refused(archives):
    with pytest.raises(DataError, match="its 2 classes are not the 2 of all"):
        _load(archives, "npz:all.npz", test_source="npz:other.npz")


@pytest.mark.parametrize("part", ["validation", "test"])
def test_named_images_that_are_trained_on_are_refused(archives, part):
    message = rf"{part} images npz:plain.npz, \w+: [1-4] of its 4 images (are|is a) training.* images? too"
    with pytest.raises(DataError, match=message):
        _load(archives, "npz:plain.npz", **{f"{part}_source": "npz:plain.npz"}, validation_share=0.5)


def test_named_images_that_choose_the_epoch_are_no_test(archives):
    with pytest.raises(DataError, match="4 of its 4 images are training or validation images too"):
        _load(archives, "npz:all.npz", validation_source="npz:plain.npz", test_source="npz:plain.npz")


def test_splits_of_one_set_may_share_images_and_it_is_said(archives):
    with np.load(archives / "all.npz") as all_of_it:
        arrays = dict(all_of_it)
    arrays["x_test"][1:3] = arrays["x_train"][3:5]
    arrays["x_val"][2] = arrays["x_train"][7]
    np.savez(archives / "twice.npz", **arrays)
    images, sources = _load(archives, "npz:twice.npz")
    assert len(images.test) == 4
    assert sources == {
        "training": "npz:twice.npz, train",
        "validation": "npz:twice.npz, val (1 of its 6 images is a training image too)",
        "test": "npz:twice.npz, test (2 of its 4 images are training or validation images too)",
    }


def test_a_table_of_training_images_to_leave_out_says_nothing_of_the_test_images(archives):
    (archives / "out.csv").write_text("image\nall/1\n")
    entry = DataEntry(source="npz:all.npz", split="train", exclude="out.csv")
    spec = TrainingDataSpec(entry=entry, test_source="npz:plain.npz", validation_source="npz:bare.npz")
    images, _ = load_training_images(spec, seed=0, base=archives)
    assert [len(part) for part in (images.training, images.validation, images.test)] == [11, 6, 4]
    assert images.training.exclusion.images == ("all/1",)
    assert images.test.exclusion is None
