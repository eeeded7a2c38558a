"""Groups of images: every source can say them, and undeclared ones are noticed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from robustbench_local.data.data_sources import load_dataset
from robustbench_local.data.dataset import Dataset
from robustbench_local.data.groups import GroupOptions, group_images
from robustbench_local.errors import ConfigError, DataError


def _build_data(ids, labels=None, images=None):
    generator = torch.Generator().manual_seed(3)
    return Dataset(
        images=torch.rand(len(ids), 1, 8, 8, generator=generator) if images is None else images,
        labels=torch.tensor(labels or [0] * len(ids)),
        ids=tuple(ids),
        class_names=("a", "b"),
        name="mine",
    )


def test_a_regular_expression_names_groups_within_classes():
    data = _build_data(["a/1_0.png", "a/1_1.png", "b/1_0.png"], [0, 0, 1])
    grouped = group_images(data, GroupOptions(pattern=r"([0-9]+)_"))
    assert grouped.groups == ("0/1", "0/1", "1/1")
    assert any("3 images in 2 groups, 1 to 2 each" in note for note in grouped.notes)


def test_folders_inside_class_folders_are_groups(tmp_path):
    for place in ("stop/one/1.png", "stop/one/2.png", "stop/two/1.png", "yield/one/1.png"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(len(place)).integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(
            tmp_path / place
        )
    data = load_dataset(f"folder:{tmp_path}", split="none", groups="folder")
    assert data.groups == ("stop/one", "stop/one", "stop/two", "yield/one")
    with pytest.raises(DataError, match="in no folder inside its class folder"):
        group_images(_build_data(["a/1.png"]), GroupOptions(groups="folder"))


def test_a_table_names_groups_by_id_or_file_name(tmp_path):
    data = _build_data(["a/x/1.png", "a/2.png", "b/3.png"], [0, 0, 1])
    table = tmp_path / "groups.csv"
    table.write_text("image,track\na/x/1.png,v1\n2.png,v1\nb/3.png,v2\n")
    options = GroupOptions(groups="groups.csv", base_folder=tmp_path)
    assert group_images(data, options).groups == ("v1", "v1", "v2")
    table.write_text("image,track\n1.png,v1\n")
    with pytest.raises(DataError, match=r"no group for 2 images, the first: a/2\.png"):
        group_images(data, options)
    table.write_text("picture,track\n1.png,v1\n")
    with pytest.raises(DataError, match="has no column image or id: its columns are picture, track"):
        group_images(data, options)
    with pytest.raises(DataError, match="cannot be read"):
        group_images(data, GroupOptions(groups=str(tmp_path / "missing.csv")))


def test_arrays_name_groups_and_none_declares_independence(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (4, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "mine.npz", x=pixels, y=[0, 0, 1, 1], track=[1, 1, 1, 2])
    source = f"npz:{tmp_path / 'mine.npz'}"
    assert load_dataset(source).groups == ("0/1", "0/1", "1/1", "1/2")
    assert load_dataset(source, groups="none").groups is None
    with pytest.raises(ConfigError, match="both say which images belong together"):
        load_dataset(source, groups="none", group_pattern="x")


def test_groups_of_one_image_each_are_independent_images():
    data = _build_data(["a/1_0.png", "a/2_0.png"])
    grouped = group_images(data, GroupOptions(pattern=r"([0-9]+)_"))
    assert grouped.group_by_image == {}
    assert grouped.notes == ()


def _get_notes(data):
    return " ".join(group_images(data, GroupOptions()).notes)


def test_names_like_tracks_and_frames_are_noticed():
    tracks = [
        f"{label}/{track:05d}_{frame:05d}.ppm" for label in "ab" for track in range(3) for frame in range(4)
    ]
    labels = [0] * 12 + [1] * 12
    assert "look like 24 images of 6 objects" in _get_notes(_build_data(tracks, labels))
    assert group_images(_build_data(tracks, labels), GroupOptions(groups="none")).notes == ()


@pytest.mark.parametrize(
    "pattern",
    ["{:05d}.png", "img_{:04d}.png", "n01440764_{}.JPEG", "ILSVRC2012_val_{:08d}.JPEG", "CIFAR10/{}"],
)
def test_names_that_count_images_are_none(pattern):
    assert _get_notes(_build_data([pattern.format(number) for number in range(30)])) == ""


def test_near_duplicates_are_noticed_from_a_tenth_on():
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(40, 3, 16, 16, generator=generator)
    ids = [f"{number}.png" for number in range(40)]
    images[1] = (images[0] * 0.99).clamp(0, 1)
    assert _get_notes(_build_data(ids, images=images)) == ""
    images[3] = (images[2] * 0.99).clamp(0, 1)
    assert "4 of 40 images nearly repeat another one" in _get_notes(_build_data(ids, images=images))


@pytest.mark.parametrize("name", ["cifar10_test_strat1000", "mnist_test_first1000", "gtsrb_test_strat1000"])
@pytest.mark.slow
def test_published_test_sets_are_not_suspected(shared_data, name):
    data = load_dataset(f"npz:{shared_data / name}.npz")
    assert not any("so that the intervals may be too short" in note for note in data.notes)
