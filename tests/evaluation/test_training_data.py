"""The images of a training: splits of their own are used, others are held out, classes must agree."""

from __future__ import annotations

import numpy as np
import pytest

from robustbench_local.errors import DataError
from robustbench_local.evaluation.grid import DataEntry
from robustbench_local.evaluation.training_data import Wanted, load_images


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
    np.savez(tmp_path / "other.npz", x=arrays["x_test"], y=arrays["y_test"], class_names=["up", "down"])
    return tmp_path


def _load(base, source, **wanted):
    entry = DataEntry(source=source, split="train")
    return load_images(Wanted(entry=entry, **wanted), seed=0, base=base)


def test_splits_of_its_own_are_used(archives):
    images, sources = _load(archives, "npz:all.npz", most=4)
    assert (len(images.training), len(images.validation), len(images.test)) == (12, 4, 4)
    assert sources == {
        "training": "npz:all.npz, train",
        "validation": "npz:all.npz, val",
        "test": "npz:all.npz, test",
    }


def test_without_splits_a_share_is_held_out_and_nothing_is_tested_on(archives):
    images, sources = _load(archives, "npz:plain.npz", share=0.5)
    assert (len(images.training), len(images.validation), images.test) == (2, 2, None)
    assert sources["validation"] == "0.5 of the images of each class of npz:plain.npz, train"


def test_images_without_names_take_those_of_the_others(archives):
    images, _ = _load(archives, "npz:all.npz", validation="npz:plain.npz", test="npz:plain.npz")
    assert images.validation.class_names == images.test.class_names == ("left", "right")


def test_other_classes_are_refused(archives):
    with pytest.raises(DataError, match="its 2 classes are not the 2 of all"):
        _load(archives, "npz:all.npz", test="npz:other.npz")
