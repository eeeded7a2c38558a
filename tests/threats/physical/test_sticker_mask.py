"""Where stickers may be: areas counted, shapes looked at, nothing outside the sign."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from robustbench_local.data.rendered_signs.sign_dataset import load_signs, render_clean_sign
from robustbench_local.errors import ThreatError
from robustbench_local.threats.physical.sticker_mask import (
    BAR_LAYOUTS,
    build_sticker_mask,
    build_surface_masks,
    count_allowed_pixels,
)
from robustbench_local.threats.threat_model import ThreatModel

STOPS = load_signs(classes=[14], per_class=4)
OCTAGON = render_clean_sign(14, size=128)[1][None]


def sticker(share: float, shape: str = "rectangles") -> ThreatModel:
    return ThreatModel(norm="sticker", eps=share, transformation=shape)


def areas(masks: Tensor) -> Tensor:
    return masks.flatten(1).sum(dim=1)


def test_the_surface_is_the_outline_or_a_box_with_a_border_of_a_tenth():
    assert torch.equal(build_surface_masks(STOPS.images, STOPS.masks), STOPS.masks)
    box = build_surface_masks(torch.zeros(2, 3, 40, 20), None)
    assert box.shape == (2, 1, 40, 20)
    assert box[1, 0].nonzero().aminmax(dim=0).min.tolist() == [4, 2]
    assert box[1, 0].nonzero().aminmax(dim=0).max.tolist() == [35, 17]
    assert areas(box).tolist() == [32 * 16] * 2


@pytest.mark.parametrize("share", [0.033, 0.1, 0.186, 0.372])
def test_two_rectangles_lie_above_and_below_the_middle_and_keep_their_share(share: float):
    mask = build_sticker_mask(OCTAGON, sticker(share))
    assert not (mask & ~OCTAGON).any()
    covered = float(areas(mask)) / float(areas(OCTAGON))
    assert 0.93 * share < covered <= share
    rows = mask[0, 0].any(dim=1)
    bars = mask[0, 0][rows]
    assert torch.equal(bars, bars[:1].expand_as(bars))  # rectangles
    assert int((rows[1:] & ~rows[:-1]).sum()) == 2
    assert torch.equal(mask, mask.flip(2))
    width, height = int(bars[0].sum()), len(bars) // 2
    assert width / height == pytest.approx(2.5, rel=0.3)


@pytest.mark.parametrize("shape", ["rectangles", "square", "found"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 1.0])
def test_no_sticker_is_larger_than_its_share_or_leaves_the_sign(shape: str, share: float):
    worth = torch.rand(4, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    mask = build_sticker_mask(STOPS.masks, sticker(share, shape), pixel_worth=worth)
    assert (areas(mask) <= areas(STOPS.masks) * share + 1e-3).all()
    assert not (mask & ~STOPS.masks).any()
    if shape == "found":
        assert torch.equal(areas(mask), count_allowed_pixels(STOPS.masks, share))


def test_two_rectangles_go_where_they_are_wanted():
    worth = torch.zeros(1, 1, 128, 128)
    worth[..., 20:40, 70:95] = 1.0
    worth[..., 80:100, 40:65] = 1.0
    mask = build_sticker_mask(OCTAGON, sticker(0.1), pixel_worth=worth)
    most = int(count_allowed_pixels(OCTAGON, 0.1))
    assert 0.88 * most < int(areas(mask)) <= most
    there = worth[0, 0].bool()
    assert float((mask[0, 0] & there).sum()) > 0.9 * min(int(there.sum()), int(areas(mask)))
    assert not (mask & ~OCTAGON).any()


def test_rectangles_that_fit_nowhere_else_are_the_plain_ones():
    worth = torch.rand(1, 1, 128, 128, generator=torch.Generator().manual_seed(0))
    assert torch.equal(
        build_sticker_mask(OCTAGON, sticker(0.9), pixel_worth=worth),
        build_sticker_mask(OCTAGON, sticker(0.9)),
    )


def test_layouts_differ():
    masks = [build_sticker_mask(OCTAGON, sticker(0.1), layout=layout) for layout in range(len(BAR_LAYOUTS))]
    assert len({tuple(mask.flatten().nonzero().flatten().tolist()) for mask in masks}) == len(BAR_LAYOUTS)


def test_a_square_goes_where_it_is_wanted_and_else_to_the_middle():
    middle = build_sticker_mask(OCTAGON, sticker(0.1, "square"))[0, 0]
    places = middle.nonzero().double()
    assert places.mean(dim=0).tolist() == pytest.approx([63.5, 63.5], abs=1)
    side = int(middle.any(dim=0).sum())
    assert side == int(middle.any(dim=1).sum()) == int((0.1 * int(areas(OCTAGON))) ** 0.5)
    worth = torch.zeros(1, 1, 128, 128)
    worth[..., 30:40, 80:90] = 1.0
    there = build_sticker_mask(OCTAGON, sticker(0.1, "square"), pixel_worth=worth)[0, 0]
    assert there[30:40, 80:90].all()
    assert int(there.sum()) == side**2


def test_found_pixels_are_the_ones_wanted_most():
    worth = torch.rand(1, 1, 128, 128, generator=torch.Generator().manual_seed(0))
    mask = build_sticker_mask(OCTAGON, sticker(0.1, "found"), pixel_worth=worth)
    assert worth[mask].min() >= worth[OCTAGON & ~mask].max()
    with pytest.raises(ThreatError, match="needs the worth of each pixel"):
        build_sticker_mask(OCTAGON, sticker(0.1, "found"))


def test_a_poster_is_the_whole_sign_and_no_share_is_no_sticker():
    assert torch.equal(build_sticker_mask(STOPS.masks, sticker(1, "poster")), STOPS.masks)
    assert not build_sticker_mask(STOPS.masks, sticker(0, "poster")).any()
    assert not build_sticker_mask(STOPS.masks, sticker(0)).any()
