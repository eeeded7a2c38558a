"""Looks at a sign from many views: kept with the outcome they led to, or not at all."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import numpy as np
import pytest
from store_samples import KEY, OTHER_KEY, make_outcome, make_view, make_view_predictions

from robustbench_local.errors import InvariantError
from robustbench_local.store import RunStore


def test_looks_come_back_equal_and_by_position(store: RunStore) -> None:
    looks = [
        make_view_predictions(1),
        make_view_predictions(0),
        make_view_predictions(0, condition="clean"),
        make_view_predictions(0, kind="approach"),
    ]
    views = [make_view(1), make_view(0), make_view(0, kind="approach")]
    store.add_outcomes(KEY, [make_outcome(0), make_outcome(1)], looks, views)
    assert [look.position for look in store.read_view_predictions(KEY)] == [0, 0, 0, 1]
    assert set(store.read_view_predictions(KEY)) == set(looks)
    assert set(store.read_views(KEY)) == set(views)
    assert (store.read_view_predictions(OTHER_KEY), store.read_views(OTHER_KEY)) == ([], [])


def test_the_first_look_stays(store: RunStore) -> None:
    store.add_outcomes(KEY, [make_outcome(0)], [make_view_predictions(0)], [make_view(0)])
    assert (
        store.add_outcomes(
            KEY, [make_outcome(0)], [make_view_predictions(0, predictions=(1, 1, 1))], [make_view(0)]
        )
        == 0
    )
    assert store.read_view_predictions(KEY) == [make_view_predictions(0)]


def test_numbers_of_numpy_are_written_and_what_is_not_finite_is_null(store: RunStore) -> None:
    values = tuple(np.array([0.25, np.nan], dtype=np.float64))
    store.add_outcomes(
        KEY,
        [make_outcome(0)],
        [make_view_predictions(0, predictions=(np.int64(3), None), confidences=values)],
    )
    (read,) = store.read_view_predictions(KEY)
    assert (read.predictions, read.confidences) == ((3, None), (0.25, None))
    assert type(read.predictions[0]) is int


def test_an_outcome_that_is_refused_takes_its_looks_with_it(store: RunStore) -> None:
    with pytest.raises(InvariantError, match="was misused"):
        store.add_outcomes(KEY, [make_outcome(-1)], [make_view_predictions(0)], [make_view(0)])
    assert (store.read_view_predictions(KEY), store.read_views(KEY), store.read_outcomes(KEY)) == ([], [], [])
    with pytest.raises(InvariantError, match="given to cell"):
        store.add_outcomes(KEY, [make_outcome(0)], [make_view_predictions(0, cell=OTHER_KEY)])


def test_a_look_can_be_read_by_any_program_with_sqlite(store: RunStore, directory: Path) -> None:
    store.add_outcomes(KEY, [make_outcome(0)], [make_view_predictions(0)])
    raw = sqlite3.connect(directory / "run.db")
    query = (
        "SELECT entry.key, entry.value FROM sightings, json_each(sightings.predictions) AS entry"
        " WHERE condition = 'sticker' ORDER BY entry.key"
    )
    assert raw.execute(query).fetchall() == [(0, 14), (1, None), (2, 0)]
    raw.close()
