"""The positions of a shard: every position in one shard, classes even, and what belongs together together."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import pytest
import torch

from robustbench_local.data.dataset import Dataset
from robustbench_local.evaluation.planning import shard_positions
from robustbench_local.evaluation.planning.shard_positions import choose_own_positions, select_own_images
from robustbench_local.shard import Shard

CLASSES, PER_CLASS = 3, 40


@pytest.fixture(scope="module")
def data():
    labels = torch.arange(CLASSES).repeat_interleave(PER_CLASS)
    count = len(labels)
    return Dataset(
        images=torch.zeros(count, 1, 2, 2), labels=labels, ids=[f"i{number}" for number in range(count)],
        class_names=["a", "b", "c"], name="sorted",
    )  # fmt: skip


def make_cell(positions, *, groups=(), fixed_batch_size=None, problem=None):
    settings = SimpleNamespace(fixed_batch_size=fixed_batch_size)
    subject = SimpleNamespace(classifier=SimpleNamespace(settings=settings, inner=None))
    job = SimpleNamespace(is_divisible=not groups, build_queue=lambda _size, _done: [*groups])
    return SimpleNamespace(
        positions=torch.tensor(positions), subject=subject, queried_subject=subject, problem=problem,
        skip_reason=None, make_job=lambda: job,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def _plain_models(monkeypatch):
    monkeypatch.setattr(shard_positions, "find_innermost", lambda model: model)


def list_parts(cell, count, data, number=0):
    shards = [Shard(index, count) for index in range(1, count + 1)]
    images = [frozenset(select_own_images(data, 3, shard)) for shard in shards]
    return [choose_own_positions(cell, number, own, shard) for own, shard in zip(images, shards, strict=True)]


@pytest.mark.parametrize("count", [2, 3, 6, 7, 120])
def test_every_image_is_in_one_shard_and_the_classes_are_even(data, count):
    parts = list_parts(make_cell(range(len(data))), count, data)
    assert sorted(position for part in parts for position in part) == list(range(len(data)))
    assert {len(part) for part in parts} <= {len(data) // count, -(-len(data) // count)}
    for part in parts:
        sizes = Counter(data.labels[list(part)].tolist())
        assert all(abs(sizes[label] - PER_CLASS / count) < 2 for label in range(CLASSES))


def test_an_image_is_in_the_same_shard_in_every_cell(data):
    whole_parts = list_parts(make_cell(range(len(data))), 4, data)
    few_parts = list_parts(make_cell(range(30, 90)), 4, data)  # an attack on some classes
    for whole, part in zip(whole_parts, few_parts, strict=True):
        assert [position + 30 for position in part] == [row for row in whole if 30 <= row < 90]


def test_fixed_groups_stay_whole_and_begin_with_another_shard_in_each_cell(data):
    groups = [list(range(start, min(start + 16, 40))) for start in range(0, 40, 16)]
    cell = make_cell(range(40), groups=groups)
    assert list_parts(cell, 2, data) == [(*groups[0], *groups[2]), tuple(groups[1])]
    assert list_parts(cell, 2, data, number=1) == [tuple(groups[1]), (*groups[0], *groups[2])]
    assert list_parts(cell, 5, data)[3:] == [(), ()]


def test_a_model_whose_answers_depend_on_the_batch_is_in_one_shard(data):
    everything = tuple(range(20))
    assert list_parts(make_cell(everything, fixed_batch_size=2), 3, data) == [everything, (), ()]
    assert list_parts(make_cell(everything, fixed_batch_size=2), 3, data, number=2) == [(), (), everything]
    one_by_one = list_parts(make_cell(everything, fixed_batch_size=1), 3, data)
    assert all(0 < len(part) < 20 for part in one_by_one)
    broken = list_parts(make_cell(everything, groups=[everything], problem=ValueError()), 3, data)
    assert all(0 < len(part) < 20 for part in broken)
