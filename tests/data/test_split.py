"""Holding out: whole objects, class by class, the same ones for the same seed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from robustbench_local.data.data_sources import load_dataset
from robustbench_local.data.dataset import Dataset
from robustbench_local.data.split import group_by_pattern, hold_out
from robustbench_local.errors import ConfigError, DataError


def _data(groups=None):
    """Two classes of twelve images."""
    labels = torch.arange(24) % 2
    return Dataset(
        images=torch.rand(24, 1, 2, 2, generator=torch.Generator().manual_seed(0)),
        labels=labels,
        ids=tuple(f"{label}/{row // 6:03d}_{row:03d}.png" for row, label in enumerate(labels.tolist())),
        class_names=("a", "b"),
        name="photos",
        groups=groups,
    )


def test_no_object_is_on_both_sides():
    data = group_by_pattern(_data(), "([0-9]+)_[0-9]+")
    assert len(set(data.groups)) == 8
    kept, held = hold_out(data, 0.25, seed=0)
    assert set(kept.groups).isdisjoint(held.groups)
    assert sorted(kept.ids + held.ids) == sorted(data.ids)
    assert torch.bincount(held.labels).tolist() == [3, 3]


def test_the_seed_and_not_the_order_decides():
    data = group_by_pattern(_data(), "([0-9]+)_[0-9]+")
    mixed = data.select_images(torch.randperm(24, generator=torch.Generator().manual_seed(1)))
    held = set(hold_out(data, 0.25, seed=3)[1].ids)
    assert set(hold_out(mixed, 0.25, seed=3)[1].ids) == held
    assert {frozenset(hold_out(data, 0.25, seed=seed)[1].ids) for seed in range(8)} > {frozenset(held)}


def test_without_groups_each_image_stands_for_itself():
    kept, held = hold_out(_data(), 0.25, seed=0)
    assert (len(kept), torch.bincount(held.labels).tolist()) == (18, [3, 3])


def test_a_class_with_one_object_is_kept_for_training():
    groups = tuple("only" if row % 2 else f"{row // 8}" for row in range(24))
    kept, held = hold_out(_data(groups), 0.9, seed=0)
    assert held.labels.unique().tolist() == [0]
    assert 0 in kept.labels


def test_nothing_to_hold_out_is_said():
    with pytest.raises(DataError, match="no class has images of two objects"):
        hold_out(_data(tuple("ab"[row % 2] for row in range(24))), 0.5, seed=0)
    with pytest.raises(ConfigError, match="between 0 and 1"):
        hold_out(_data(), 1.0, seed=0)


@pytest.mark.parametrize(
    ("pattern", "message"), [("(", "not a regular expression"), ("x+", "does not match")]
)
def test_a_pattern_that_does_not_read_the_ids_is_refused(pattern, message):
    with pytest.raises(ConfigError, match=message):
        group_by_pattern(_data(), pattern)


def test_an_archive_names_its_objects_within_their_class(tmp_path):
    arrays = {
        "x": np.zeros((4, 2, 2), np.uint8),
        "y": np.array([0, 0, 1, 1]),
        "track": np.array([5, 6, 5, 5]),
    }
    arrays["x"][:, 0, 0] = range(4)
    np.savez(tmp_path / "a.npz", **arrays, sign=np.array(list("abcd")))
    source = f"npz:{tmp_path / 'a.npz'}"
    assert load_dataset(source).groups == ("0/5", "0/6", "1/5", "1/5")
    assert load_dataset(source, groups_key="sign").groups == ("0/a", "0/b", "1/c", "1/d")
    with pytest.raises(DataError, match="no groups: no array 'signs'"):
        load_dataset(source, groups_key="signs")
    np.savez(tmp_path / "b.npz", **{**arrays, "track": np.array([1, 2])})
    with pytest.raises(DataError, match="4 labels but 2 groups"):
        load_dataset(f"npz:{tmp_path / 'b.npz'}")


@pytest.mark.slow
def test_no_photographed_sign_is_on_both_sides(shared_data):
    data = load_dataset(f"npz:{shared_data / 'gtsrb_train_8pertrack.npz'}", split="train")
    kept, held = hold_out(data, 0.1, seed=0)
    assert len(set(data.groups)) == 1307
    assert set(kept.groups).isdisjoint(held.groups)
    assert len(held) % 8 == 0
    assert len(held.labels.unique()) == 43
    assert 0.08 < len(held) / len(data) < 0.12
