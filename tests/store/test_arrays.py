"""Adversarial examples: chunks come back joined, in order, and a chunk may be written twice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from store_samples import KEY, OTHER_KEY, make_arrays, make_outcome

from robustbench_local.errors import DamagedError, InvariantError
from robustbench_local.store import RunStore


def test_chunks_are_joined_in_the_order_of_their_numbers(store: RunStore, directory: Path) -> None:
    for first in (100_005, 20_000, 0):
        store.save_arrays(KEY, first, make_arrays(first, 5))
    joined = store.load_arrays(KEY)
    assert joined["positions"].tolist() == [*range(5), *range(20_000, 20_005), *range(100_005, 100_010)]
    expected = np.concatenate([make_arrays(first, 5)["original"] for first in (0, 20_000, 100_005)])
    np.testing.assert_array_equal(joined["original"], expected)
    np.testing.assert_array_equal(joined["adversarial"], 1 - expected)
    assert joined["original"].dtype == np.float32
    assert joined["positions"].dtype == np.int64
    assert {file.name for file in (directory / "adversarial" / KEY[:16]).iterdir()} == {
        "00000.safetensors",
        "20000.safetensors",
        "100005.safetensors",
    }


def test_a_chunk_written_again_takes_the_place_of_the_first(store: RunStore, directory: Path) -> None:
    store.save_arrays(KEY, 0, make_arrays(0, 5))
    (file,) = (directory / "adversarial" / KEY[:16]).iterdir()
    first = file.read_bytes()
    store.save_arrays(KEY, 0, make_arrays(0, 5))
    assert file.read_bytes() == first
    store.save_arrays(KEY, 0, make_arrays(0, 2))
    assert store.load_arrays(KEY)["positions"].tolist() == [0, 1]


def test_cells_do_not_mix(store: RunStore) -> None:
    store.save_arrays(KEY, 0, make_arrays(0, 5))
    assert store.load_arrays(OTHER_KEY) == {}


def test_views_keep_their_values(store: RunStore) -> None:
    """A transposed view has its numbers in another order in memory than in the mind."""
    image = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    store.save_arrays(KEY, 0, {"view": image.transpose(2, 0, 1), "steps": image[:, ::2]})
    loaded = store.load_arrays(KEY)
    np.testing.assert_array_equal(loaded["view"], image.transpose(2, 0, 1))
    np.testing.assert_array_equal(loaded["steps"], image[:, ::2])


def test_an_empty_chunk_adds_nothing(store: RunStore) -> None:
    store.save_arrays(KEY, 0, make_arrays(0, 0))
    store.save_arrays(KEY, 1, make_arrays(1, 2))
    assert store.load_arrays(KEY)["original"].shape == (2, 3, 4, 4)


def test_readers_load_them_once_their_outcomes_are_committed(store: RunStore, directory: Path) -> None:
    store.save_arrays(KEY, 0, make_arrays(0, 5))
    with RunStore.open_readonly(directory) as reader:
        assert reader.load_arrays(KEY) == {}
    store.add_outcomes(KEY, [make_outcome(position) for position in range(5)])
    with RunStore.open_readonly(directory) as reader:
        assert reader.load_arrays(KEY)["positions"].tolist() == [0, 1, 2, 3, 4]


def test_a_damaged_file_is_named(store: RunStore, directory: Path) -> None:
    store.save_arrays(KEY, 0, make_arrays(0, 5))
    (file,) = (directory / "adversarial" / KEY[:16]).iterdir()
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(DamagedError, match=r"00000\.safetensors: the file has changed since it was written"):
        store.load_arrays(KEY)


@pytest.mark.parametrize(
    "second", [{"positions": np.arange(2)}, {"original": np.zeros((2, 3, 5, 5), np.float32)}]
)
def test_chunks_that_do_not_fit_together(store: RunStore, second: dict[str, np.ndarray]) -> None:
    store.save_arrays(KEY, 0, {"original": np.zeros((2, 3, 4, 4), np.float32)})
    store.save_arrays(KEY, 2, second)
    with pytest.raises(InvariantError, match="do not fit together"):
        store.load_arrays(KEY)


@pytest.mark.parametrize("key", ["../../etc", "", "a/b", "a\\b", "é", "a.b"])
def test_a_key_cannot_lead_out_of_the_run(store: RunStore, key: str) -> None:
    with pytest.raises(InvariantError, match="not a cell key"):
        store.save_arrays(key, 0, make_arrays(0, 1))
