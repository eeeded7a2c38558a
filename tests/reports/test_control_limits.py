"""What a sticker's controls have to come to, from both sides."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from robustbench_local.reports.analysis.sticker_controls import build_sticker_controls
from robustbench_local.reports.analysis.sticker_viewpoints import build_view_map
from robustbench_local.reports.analysis.sticker_views import SignResult, SignViews
from robustbench_local.statistics import compute_clopper_pearson

VIEWS, LABEL, TARGET = 1000, 0, 1


def looks(
    clean: int = VIEWS, count: int = VIEWS, distance: np.ndarray | None = None, **hits: int
) -> SignViews:
    """A sign's views: how often the clean sign is classified correctly, and how often a condition hits."""
    read = {"clean": np.where(np.arange(count) < clean, LABEL, 2)}
    read |= {
        name.replace("_", "-"): np.where(np.arange(count) < number, TARGET, LABEL)
        for name, number in hits.items()
    }
    return SignViews(
        label=LABEL,
        predictions=read,
        invalid_controls=frozenset(),
        confidences={},
        size_pixels=np.full(count, 20.0) if distance is None else distance,
        yaw=np.zeros(count),
        pitch=np.zeros(count),
    )


def controls(**numbers: int):
    sign = SignResult(
        image="a",
        position=0,
        label=LABEL,
        status="counted",
        problem=None,
        broken=True,
        views={"view": looks(**numbers)},
    )
    cell = SimpleNamespace(
        signs=(sign,),
        targeted=True,
        record=SimpleNamespace(targets=(TARGET,), norm="sticker", eps=0.1),
        sticker_success=compute_clopper_pearson(numbers.get("sticker", 0), VIEWS),
    )
    return {control.name: control.is_met for control in build_sticker_controls(cell)}


@pytest.mark.parametrize(("hits", "kept"), [(49, True), (50, True), (51, False)])
def test_random_colours_may_turn_one_view_in_twenty(hits, kept):
    assert controls(sticker=900, random_colours=hits)["random colours in the same place"] is kept


@pytest.mark.parametrize(("hits", "kept"), [(899, False), (900, True), (901, True)])
def test_painting_the_whole_sign_has_to_turn_nine_views_in_ten(hits, kept):
    assert controls(sticker=900, whole_sign=hits)["the whole sign painted"] is kept


@pytest.mark.parametrize(("clean", "kept"), [(949, False), (950, True)])
def test_clean_signs_have_to_be_read_rightly_in_nineteen_views_of_twenty(clean, kept):
    assert controls(sticker=900, clean=clean)["clean sign, no sticker (all signs, void ones too)"] is kept


@pytest.mark.parametrize(("alone", "kept"), [(10, False), (11, True)])
def test_a_sticker_made_without_views_has_to_be_worse_at_one_in_a_thousand(alone, kept):
    # exact McNemar of 10 to 0: 2 / 2**10 = .00195; of 11 to 0: .00098
    assert (
        controls(sticker=100 + alone, without_views=100)["optimized without views, on the sign as it is"]
        is kept
    )


@pytest.mark.parametrize(("count", "named"), [(9, False), (10, True)])
def test_the_worst_bin_of_a_map_has_ten_views(count, named):
    distance = np.concatenate([np.full(count, 16.0), np.full(200, 64.0)])
    seen = looks(clean=len(distance), count=len(distance), distance=distance, sticker=count)
    worst = build_view_map([seen], (TARGET,)).worst_bin
    assert (worst is not None and worst.estimate.n == count) is named


def test_the_interval_of_the_worst_bin_holds_for_all_of_them_together():
    distance = np.concatenate([np.full(40, 16.0), np.full(200, 64.0)])
    seen = looks(clean=len(distance), count=len(distance), distance=distance, sticker=20)
    worst = build_view_map([seen], (TARGET,)).worst_bin
    assert worst is not None
    assert worst.bin_count == 2
    assert worst.estimate == compute_clopper_pearson(20, 40, level=1 - 0.05 / 2)
