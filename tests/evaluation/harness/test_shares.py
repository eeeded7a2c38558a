"""The shares that workers take: their sizes, and that every image is in one of them."""

from __future__ import annotations

import pytest

from robustbench_local.evaluation.harness.shares import (
    Shares,
    compute_share_size,
    find_largest_share,
)


@pytest.mark.parametrize(
    ("left", "workers", "least", "most", "size"),
    [
        (5000, 32, 16, 128, 128),
        (3000, 32, 16, 128, 89),
        (500, 32, 16, 128, 16),
        (9, 32, 16, 128, 9),
        (100, 2, 16, 128, 48),
        (100, 2, 64, 48, 48),  # what a share may cost goes before what pays
        (0, 2, 16, 128, 0),
    ],
)
def test_shares_fall_with_what_is_left(left, workers, least, most, size):
    assert compute_share_size(left, workers, least=least, most=most) == size


def test_every_image_is_in_one_share_and_shares_are_spread_over_the_data():
    shares = Shares(range(0, 200, 2), workers=4, batch_size=32, most=16)
    assert shares.list_next() == list(range(0, 128, 8))
    first = shares.take_share()
    assert first == list(range(0, 128, 8))
    taken = [first]
    while share := shares.take_share():
        taken.append(share)
    assert sorted(at for share in taken for at in share) == list(range(0, 200, 2))
    assert [len(share) for share in taken] == [16, 16, 16, 12, 10, 8, 8, 8, 6]
    assert shares.list_left() == []


def test_a_share_that_comes_back_is_taken_first():
    shares = Shares(range(10), workers=2, batch_size=8, most=4)
    share = shares.take_share()
    assert set(shares.list_left()) == set(range(10)) - set(share)
    shares.return_share(share)
    assert shares.list_left() == list(range(10))
    assert shares.take_share() == share


def test_few_images_are_still_shared():
    shares = Shares(range(3), workers=8, batch_size=1, most=1)
    assert [shares.take_share() for _ in range(4)] == [[0], [1], [2], []]


def test_a_share_is_more_than_a_batch_unless_images_are_dear():
    assert [find_largest_share(unit, 64) for unit in (256, 64, 63, 1)] == [256, 128, 63, 1]
