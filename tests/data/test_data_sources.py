"""load_dataset: the table of sources, relative paths, choice and classes."""

from __future__ import annotations

import numpy as np
import pytest
from pictures import build_pixels, save_folder, save_picture

from robustbench_local.data.data_source_kinds import DATASET_SOURCES
from robustbench_local.data.data_sources import load_dataset
from robustbench_local.errors import ConfigError, DataError


@pytest.fixture
def pets(tmp_path):
    """A folder of 24 pictures of cats, dogs and owls, two of which are owls."""
    return save_folder(tmp_path / "pets", {"cat": 14, "dog": 8, "owl": 2})


def test_a_folder_whole(pets):
    data = load_dataset(f"folder:{pets}")
    assert (len(data), data.name, data.class_names) == (24, "pets", ("cat", "dog", "owl"))
    assert np.bincount(data.labels).tolist() == [14, 8, 2]
    assert data.ids[0] == "cat/0.png"


def test_a_limit_is_even_over_the_classes_and_keeps_order_and_labels(pets):
    everything = load_dataset(f"folder:{pets}")
    data = load_dataset(f"folder:{pets}", limit=10)
    assert np.bincount(data.labels).tolist() == [4, 4, 2]
    assert list(data.ids) == [one for one in everything.ids if one in set(data.ids)]
    where = [everything.ids.index(one) for one in data.ids]
    assert data.compute_digest() == everything.select_images(where).compute_digest()
    assert set(load_dataset(f"folder:{pets}", limit=5).ids) < set(data.ids)
    assert load_dataset(f"folder:{pets}", limit=10, seed=1).ids != data.ids
    assert len(load_dataset(f"folder:{pets}", limit=1000)) == 24


def test_the_digest_of_a_source_is_stable_and_notices_a_changed_file(pets):
    before = load_dataset(f"folder:{pets}", limit=6)
    assert load_dataset(f"folder:{pets}", limit=6).compute_digest() == before.compute_digest()
    save_picture(pets / before.ids[3], seed=99)
    assert load_dataset(f"folder:{pets}", limit=6).compute_digest() != before.compute_digest()


def test_the_first_images(pets):
    data = load_dataset(f"folder:{pets}", limit=3, choose="first")
    assert data.ids == ("cat/0.png", "cat/1.png", "cat/10.png")


def test_only_some_classes(pets):
    data = load_dataset(f"folder:{pets}", classes=["Dog", 2], limit=4)
    assert np.bincount(data.labels, minlength=3).tolist() == [0, 2, 2]
    assert data.num_classes == 3
    (pets / "emu").mkdir()
    with pytest.raises(DataError, match=r"no images of the classes \['emu'\]"):
        load_dataset(f"folder:{pets}", classes=["emu"])
    with pytest.raises(ConfigError, match="there is no class 'fox'"):
        load_dataset(f"folder:{pets}", classes=["fox"])


def test_an_unchosen_bad_file_does_no_harm(pets):
    (pets / "cat" / "zz.png").write_text("text")
    assert len(load_dataset(f"folder:{pets}", limit=2, choose="first")) == 2


def test_paths_start_from_the_base_then_from_here(pets, monkeypatch):
    assert len(load_dataset("folder:pets", base_folder=pets.parent)) == 24
    monkeypatch.chdir(pets.parent)
    assert len(load_dataset("folder:pets")) == 24
    assert len(load_dataset("folder:pets", base_folder="/nowhere")) == 24
    monkeypatch.setenv("HOME", str(pets.parent))
    assert len(load_dataset("folder:~/pets")) == 24


def test_an_npz_file_with_named_arrays(tmp_path):
    arrays = {"x32": build_pixels(9, 8, 8, 3), "kind": np.arange(9) % 3, "outline": np.eye(8, dtype=bool)}
    np.savez(tmp_path / "photos.npz", **arrays)
    keys = {"images_key": "x32", "labels_key": "kind", "masks_key": "outline"}
    data = load_dataset("npz:photos.npz", base_folder=tmp_path, limit=6, **keys)
    assert np.bincount(data.labels).tolist() == [2, 2, 2]
    assert data.masks.shape == (6, 1, 8, 8)
    rows = [int(one.split("/")[1]) for one in data.ids]
    assert np.array_equal((data.images * 255).round().byte().permute(0, 2, 3, 1), arrays["x32"][rows])


def test_signs_with_limit_and_size():
    data = load_dataset("signs", limit=30, size=20)
    assert data.images.shape == (30, 3, 20, 20)
    assert data.class_names[14] == "Stop"
    counts = np.bincount(data.labels)
    assert set(counts[counts > 0]) == {1, 2}


def test_signs_of_some_classes():
    data = load_dataset("signs", classes=["Stop", 1], limit=3, size=16)
    assert data.labels.tolist() == [1, 14, 1]
    assert data.masks.shape == (3, 1, 16, 16)


def test_signs_of_the_validation_split_and_odd_sizes():
    assert load_dataset("signs", split="val", limit=1, size=16).ids[0].startswith("signs/validation/")
    with pytest.raises(ConfigError, match="signs are square"):
        load_dataset("signs", size=[16, 20])
    with pytest.raises(ConfigError, match="no resize"):
        load_dataset("signs", size=16, resize=20)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("fodler:photos", r"unknown data source 'fodler:photos'\. did you mean folder"),
        ("photos", r"unknown data source 'photos'\. use one of folder, npz, python, signs"),
        ("", "unknown data source ''"),
        ("folder:", "names nothing"),
        ("npz", "names nothing"),
        ("signs:x", "unknown data source"),
    ],
)
def test_unknown_sources(source, message):
    with pytest.raises(ConfigError, match=f"(?i){message}"):
        load_dataset(source)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": 0}, "limit must be 1 or more"),
        ({"seed": -1}, "seed must be 0 or more"),
        ({"choose": "best"}, "choose must be one of stratified, random, first"),
        ({"size": 0}, "size must be 1 to"),
        ({"size": [32]}, "size must be 1 to"),
        ({"size": "big"}, "size must be 1 to"),
        ({"size": [32, 10**6]}, "size must be 1 to"),
        ({"alpha": "invisible"}, "not a color"),
        ({"max_bad": -3}, "max_bad"),
    ],
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(ConfigError, match=message):
        load_dataset("folder:photos", **options)


def test_progress_is_told(pets):
    told = []
    load_dataset(f"folder:{pets}", limit=3, progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_the_table_of_sources_is_what_is_understood(tmp_path):
    assert list(DATASET_SOURCES) == [
        "signs",
        "torchvision:NAME",
        "folder:DIR",
        "npz:FILE",
        "python:FILE.py:NAME",
    ]


@pytest.mark.parametrize("name", ["a\0b", "a\ud800b", "x" * 5000, "~nobody-is-called-so/x"])
@pytest.mark.parametrize("kind", ["folder", "npz"])
def test_what_cannot_be_a_path_is_refused_in_one_line(kind, name):
    with pytest.raises(ConfigError, match="cannot be a path"):
        load_dataset(f"{kind}:{name}")
