"""Stratified choice: even, nested, and the same whatever the order."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from robustbench_local.data.subsample import choose_images

SOURCES = st.lists(st.integers(0, 6), min_size=1, max_size=60).map(
    lambda labels: ([f"file {row}" for row in range(len(labels))], labels)
)


@settings(deadline=None)
@given(SOURCES, st.integers(1, 70), st.integers(0, 5))
def test_as_even_as_the_data_allow_and_in_the_order_of_the_source(source, limit, seed):
    ids, labels = source
    chosen = choose_images(ids, labels, limit=limit, seed=seed)
    assert len(chosen) == min(limit, len(ids))
    assert chosen == sorted(set(chosen))
    there, taken = Counter(labels), Counter(labels[position] for position in chosen)
    fullest = max(taken[label] for label in there)
    for label, count in there.items():
        assert taken[label] >= min(count, fullest - 1)


@settings(deadline=None)
@given(SOURCES, st.integers(1, 70), st.integers(1, 70), st.integers(0, 5))
def test_a_smaller_limit_chooses_a_subset(source, one, other, seed):
    ids, labels = source
    small = choose_images(ids, labels, limit=min(one, other), seed=seed)
    large = choose_images(ids, labels, limit=max(one, other), seed=seed)
    assert set(small) <= set(large)


@settings(deadline=None)
@given(SOURCES, st.integers(1, 70), st.integers(0, 5), st.randoms(use_true_random=False))
def test_the_order_of_the_source_does_not_matter(source, limit, seed, random):
    ids, labels = source
    order = list(range(len(ids)))
    random.shuffle(order)
    chosen = choose_images(ids, labels, limit=limit, seed=seed)
    shuffled = choose_images(
        [ids[row] for row in order], [labels[row] for row in order], limit=limit, seed=seed
    )
    assert {ids[position] for position in chosen} == {ids[order[position]] for position in shuffled}


def test_seeds_differ_and_repeat():
    ids, labels = [f"file {row}" for row in range(200)], [row % 4 for row in range(200)]
    choices = [tuple(choose_images(ids, labels, limit=20, seed=seed)) for seed in (0, 0, 1, 2)]
    assert choices[0] == choices[1]
    assert len(set(choices)) == 3


def test_the_last_round_is_not_always_that_of_the_first_classes():
    ids, labels = [f"file {row}" for row in range(100)], [row % 10 for row in range(100)]
    picked = {labels[choose_images(ids, labels, limit=1, seed=seed)[0]] for seed in range(50)}
    assert len(picked) > 5


def test_first_is_the_first_and_no_limit_is_all():
    ids, labels = [f"file {row}" for row in range(9)], [0, 0, 0, 0, 0, 1, 1, 1, 1]
    assert choose_images(ids, labels, limit=4, seed=3, choose="first") == [0, 1, 2, 3]
    assert choose_images(ids, labels, limit=None, seed=3) == list(range(9))
    assert choose_images(ids, labels, limit=50, seed=3) == list(range(9))


def test_the_choice_never_changes_between_versions():
    ids, labels = [f"file {row}" for row in range(40)], [row % 4 for row in range(40)]
    assert choose_images(ids, labels, limit=6, seed=0) == [8, 9, 14, 15, 23, 30]


def test_random_keeps_the_shares_of_the_classes_and_the_order_of_the_source_does_not_matter():
    ids = [f"image/{number}" for number in range(2000)]
    labels = [int(number % 10 == 0) for number in range(2000)]
    chosen = choose_images(ids, labels, limit=500, seed=3, choose="random")
    assert chosen == sorted(chosen)
    assert len(set(chosen)) == 500
    # 10% of 500, give or take four standard deviations
    assert 23 <= sum(labels[row] for row in chosen) <= 77
    turned = choose_images(ids[::-1], labels[::-1], limit=500, seed=3, choose="random")
    assert {1999 - row for row in turned} == set(chosen)
    fewer = choose_images(ids, labels, limit=100, seed=3, choose="random")
    assert set(fewer) < set(chosen)
