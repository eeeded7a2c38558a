"""Smoke tests on the real photographs of shared/data."""

from __future__ import annotations

import numpy as np
import pytest

from robustbench_local.config.class_lookup import resolve_classes
from robustbench_local.data.class_labels import fit_labels
from robustbench_local.data.data_sources import load_dataset
from robustbench_local.errors import DataError

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("file", "shape", "classes"),
    [
        ("cifar10_test_strat1000", (3, 32, 32), 10),
        ("mnist_test_first1000", (1, 28, 28), 10),
        ("gtsrb_test_strat1000", (3, 32, 32), 43),
        ("gtsrb_train_8pertrack", (3, 32, 32), 43),
    ],
)
def test_published_images(shared_data, file, shape, classes):
    data = load_dataset(f"npz:{file}.npz", base_folder=shared_data, limit=200)
    assert data.images.shape == (200, *shape)
    assert data.num_classes == classes
    raw = np.load(shared_data / f"{file}.npz")
    ids = (
        [str(one) for one in raw["filenames" if "filenames" in raw else "index"]] if "index" in raw else None
    )
    rows = [ids.index(one.split("/")[1]) if ids else int(one.split("/")[1]) for one in data.ids]
    assert np.array_equal(data.labels, raw["y"][rows])
    expected = raw["x"][rows].reshape(200, *shape[1:], shape[0]).transpose(0, 3, 1, 2)
    assert np.array_equal((data.images * 255).round().byte(), expected)
    taken, there = np.bincount(data.labels, minlength=classes), np.bincount(raw["y"], minlength=classes)
    assert (taken >= np.minimum(there, taken.max() - 1)).all()


def test_the_first_200_digits(shared_data):
    data = load_dataset("npz:mnist_test_first1000.npz", base_folder=shared_data, limit=200, choose="first")
    assert [one.split("/")[1] for one in data.ids] == [str(row) for row in range(200)]
    assert data.labels[:4].tolist() == [7, 2, 1, 0]


def test_stop_photographs_by_name(shared_data):
    data = load_dataset("npz:gtsrb_test_strat1000.npz", base_folder=shared_data, classes=["Stop"])
    assert len(data) == 160
    assert set(data.labels.tolist()) == {14}
    fitted = fit_labels(data, 43)
    assert fitted.labels.equal(data.labels)
    limits = resolve_classes(
        [f"Speed limit ({speed}km/h)" for speed in (20, 30, 50, 60, 70, 80, 100, 120)], fitted.class_names
    )
    assert limits == (0, 1, 2, 3, 4, 5, 7, 8)


def test_photographs_without_labels_name_their_arrays(shared_data):
    with pytest.raises(DataError, match=r"no labels.*labels_key.*x32 uint8.*mask_octagon"):
        load_dataset("npz:rp2_stop_signs.npz", base_folder=shared_data, images_key="x32")


def test_masks_of_the_sticker_photographs(shared_data, tmp_path):
    raw = dict(np.load(shared_data / "rp2_stop_signs.npz"))
    np.savez(tmp_path / "rp2.npz", y=np.full(40, 14), **raw)
    for side, mask in (("32", "mask_octagon"), ("256", "mask256")):
        data = load_dataset(f"npz:{tmp_path}/rp2.npz", images_key=f"x{side}", masks_key=mask)
        assert data.images.shape == (40, 3, int(side), int(side))
        assert np.array_equal(data.masks[7, 0], raw[mask])
        assert data.ids[0] == "rp2/1.png"
