"""The watch that cuts an attack short: when it does, and which images it calls unfinished."""

from __future__ import annotations

from contextlib import suppress

import pytest
import torch

from robustbench_local.classifier.pass_counter import PassCounter
from robustbench_local.classifier.pass_watch import (
    RECENT_CALLS,
    PassLimitReachedError,
    UnfinishedImages,
    watch_passes,
)

CPU = torch.device("cpu")


def count(images, counter, times=1):
    for _ in range(times):
        counter.add_forward(torch.tensor(images), len(images))


def test_work_is_cut_short_at_the_limit_and_no_exception_handler_hides_it():
    counter = PassCounter(3, CPU)

    def attack():
        for _ in range(100):
            with suppress(Exception):
                counter.add_forward(None, 3)
                counter.add_backward(torch.tensor([0, 1]), 2)

    with watch_passes(9) as watch, pytest.raises(PassLimitReachedError):
        attack()
    assert watch.passes == 10
    count([0], counter, 100)  # nothing is watched any more


def test_images_of_the_last_calls_are_unfinished():
    search = PassCounter(6, CPU)
    with watch_passes(1000) as watch:
        count([0, 1, 2, 3], search)
        count([1, 3], search, RECENT_CALLS - 1)
        assert watch.find_unfinished_images().rows == (0, 1, 2, 3)
        count([3], search)
        search.add_backward(torch.tensor([3]), 1, times=4)
        found = watch.find_unfinished_images()
    passes = (1 + RECENT_CALLS - 1) * 2 + 5
    assert found == UnfinishedImages(rows=(1, 3), passes=passes, counted=6, waiting=2)


def test_after_the_search_no_image_is_unfinished():
    early, search, verification = (PassCounter(2, CPU) for _ in range(3))
    with watch_passes(1000) as watch:
        assert watch.find_unfinished_images() == UnfinishedImages()
        count([0, 1], early)  # what precedes the search does not count as one
        count([0, 1], search, 2)
        assert watch.find_unfinished_images().counted == 2
        count([0, 1], verification)
        assert watch.find_unfinished_images() == UnfinishedImages()


def test_a_watch_inside_another_counts_alone():
    with watch_passes(5) as outer, watch_passes(1000) as inner:
        count([0], PassCounter(1, CPU), 10)
    assert (outer.passes, inner.passes) == (0, 10)
