"""Models that do not take batches of every size are given what they take, and answer for each image."""

from __future__ import annotations

import pytest
import torch

from robustbench_local.classifier.batch_limits import (
    forward_doubled,
    forward_in_fixed_batches,
    forward_single,
)
from robustbench_local.errors import ModelError

IMAGES = torch.arange(5.0).view(5, 1, 1, 1)


class Answer:
    """Each image's value, for batches of some sizes only."""

    def __init__(self, *sizes):
        self.sizes, self.asked = sizes, []

    def __call__(self, images):
        self.asked.append(images.flatten().tolist())
        if len(images) not in self.sizes:
            raise ModelError(f"no batches of {len(images)}")
        return images.flatten(1)


def test_batches_of_one_size_are_filled_up_with_their_own_images():
    answer = Answer(3)
    assert forward_in_fixed_batches(answer, IMAGES, 3).flatten().tolist() == [0, 1, 2, 3, 4]
    assert answer.asked == [[0, 1, 2], [3, 4, 3]]


def test_an_image_that_is_given_twice_is_answered_once():
    answer = Answer(2)
    assert forward_doubled(answer, IMAGES[3:4]).tolist() == [[3.0]]
    assert answer.asked == [[3, 3]]


@pytest.mark.parametrize(("size", "doubled"), [(1, False), (2, True)])
def test_a_single_image_is_given_twice_only_where_it_has_to_be(size, doubled):
    logits, twice = forward_single(Answer(size), IMAGES[4:])
    assert (logits.tolist(), twice) == ([[4.0]], doubled)


def test_what_fails_on_two_images_as_well_says_what_it_said_of_one():
    with pytest.raises(ModelError, match="no batches of 1"):
        forward_single(Answer(3), IMAGES[:1])
