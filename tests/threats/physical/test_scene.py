"""Scenes: stickers keep to their place to the bit, patches stand whole beside the sign."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from robustbench_local.data.rendered_signs.sign_dataset import load_signs
from robustbench_local.randomness import RandomStream
from robustbench_local.threats.physical.relighting import find_light_range, relight_colours, remove_lighting
from robustbench_local.threats.physical.scene import (
    _count_covered_pixels,
    compose_scenes,
    compute_patch_side,
    find_scene_violations,
    find_sticker_pixels,
)
from robustbench_local.threats.physical.sticker_mask import build_sticker_mask, build_surface_masks
from robustbench_local.threats.physical.views import ViewRange, sample_approach, sample_views
from robustbench_local.threats.threat_model import ThreatModel

STOPS = load_signs(classes=[14], per_class=3)
IMAGES, OUTLINES = 0.1 + 0.6 * STOPS.images, STOPS.masks
VIEWS = sample_views(RandomStream(0, STOPS.ids, "x"), 40, ViewRange(), draw="test", device="cpu")
PATCH = ThreatModel(norm="patch", eps=0.1)
BARS = ThreatModel(norm="sticker", eps=0.1, transformation="rectangles")
SQUARE = ThreatModel(norm="sticker", eps=0.1, transformation="square")
FOUND = ThreatModel(norm="sticker", eps=0.1, transformation="found")


def stuck(threat: ThreatModel) -> Tensor:
    worth = torch.rand(3, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    mask = build_sticker_mask(OUTLINES, threat, pixel_worth=None if threat is SQUARE else worth)
    return torch.where(mask, relight_colours(torch.zeros(()), IMAGES, OUTLINES), IMAGES)


def test_a_sign_with_its_sticker_is_the_scene():
    found = stuck(BARS)
    assert compose_scenes(IMAGES, found, OUTLINES, BARS, VIEWS) is found


def test_a_patch_stands_whole_at_the_border_and_behind_the_sign():
    side = compute_patch_side(IMAGES, PATCH)
    assert side == 10  # 100 of 1024 pixels
    patch = torch.full((3, 3, side, side), 9.0)  # no image has such a colour
    nowhere = torch.zeros_like(OUTLINES)
    shown = compose_scenes(IMAGES, patch, nowhere, PATCH, VIEWS)
    there = (shown > 1).all(dim=2)
    assert (there.flatten(2).sum(dim=2) == side**2).all()
    assert torch.equal(
        torch.where(there[:, :, None], IMAGES[:, None], shown), IMAGES[:, None].expand_as(shown)
    )
    rows, columns = there.any(dim=3), there.any(dim=2)
    assert (rows.sum(dim=2) == side).all()
    border = rows[..., 0] | rows[..., -1] | columns[..., 0] | columns[..., -1]
    assert border.all()
    corners = {(int(row.int().argmax()), int(column.int().argmax()))
               for row, column in zip(rows.flatten(0, 1), columns.flatten(0, 1), strict=True)}  # fmt: skip
    assert {0, 22} <= {row for row, _ in corners}
    assert {0, 22} <= {column for _, column in corners}
    assert len(corners) > 40
    behind = compose_scenes(IMAGES, patch, OUTLINES, PATCH, VIEWS)
    assert torch.equal((behind > 1).all(dim=2), there & ~OUTLINES)


def test_a_patch_is_pasted_pixel_by_pixel_and_differentiable():
    patch = torch.arange(300.0).view(1, 3, 10, 10).expand(3, -1, -1, -1).clone().requires_grad_()
    surfaces = torch.zeros_like(OUTLINES)
    views = VIEWS.slice_views(0, 1)
    shown = compose_scenes(IMAGES, patch, surfaces, PATCH, views)
    pixels = shown[1, 0, 0][shown[1, 0, 0] > 1]
    assert pixels.tolist() == list(range(2, 100))  # row by row; two are too small to tell
    (slope,) = torch.autograd.grad(shown.sum(), patch)
    assert torch.equal(slope, torch.ones_like(slope))


def test_white_paper_is_as_bright_as_the_sign_is_and_ink_as_dark():
    low, high = find_light_range(IMAGES, OUTLINES)
    for sign in range(3):
        inside = sorted(IMAGES[sign][:, OUTLINES[sign, 0]].flatten().tolist())
        fifth = (inside[-1] - inside[0]) / 5
        assert float(low[sign]) == pytest.approx(max(0, inside[0] - fifth))
        assert float(high[sign]) == pytest.approx(min(1, inside[-1] + fifth))
    colours = torch.rand(3, 3, 10, 10, generator=torch.Generator().manual_seed(0))
    shown = relight_colours(colours, IMAGES, OUTLINES)
    assert torch.allclose(remove_lighting(shown, IMAGES, OUTLINES), colours, atol=1e-5)
    assert torch.equal(
        relight_colours(colours, IMAGES, torch.zeros_like(OUTLINES)), colours
    )  # no surface, no light known
    views = VIEWS.slice_views(0, 3)
    pasted = compose_scenes(IMAGES, colours, OUTLINES, PATCH, views)
    bare = compose_scenes(IMAGES, shown, torch.zeros_like(OUTLINES), PATCH, views)
    assert torch.allclose(pasted, torch.where(OUTLINES[:, None], IMAGES[:, None], bare))


def test_beside_the_road_a_patch_stays_where_it_is():
    drive = sample_approach(RandomStream(0, STOPS.ids, "x"), ViewRange(), frames=5)
    patch = torch.full((3, 3, 10, 10), 0.5)
    shown = compose_scenes(IMAGES, patch, OUTLINES, PATCH, drive)
    assert torch.equal(shown, shown[:, :1].expand_as(shown))


@pytest.mark.parametrize("threat", [BARS, SQUARE, FOUND])
def test_what_keeps_the_rules_passes(threat: ThreatModel):
    found = stuck(threat)
    assert find_scene_violations(found, IMAGES, OUTLINES, threat) == [None] * 3
    assert find_scene_violations(IMAGES.clone(), IMAGES, OUTLINES, threat) == [None] * 3
    worn = find_sticker_pixels(found, IMAGES, OUTLINES, threat)
    assert not ((found != IMAGES).any(dim=1, keepdim=True) & ~worn).any()
    assert not (worn & ~OUTLINES).any()


def spoilt(how: str) -> Tensor:
    """A sticker of which the second sign's breaks a rule."""
    found = stuck(FOUND)
    if how == "NaN":
        found[1, 0, 16, 16] = torch.nan
    elif how == "too bright":
        found[1, 0, 16, 16] = 1.5
    elif how == "off the sign":
        found[1, 0, 0, 0] += 1 / 255 if found[1, 0, 0, 0] < 0.5 else -1 / 255
    elif how == "glowing":
        found[1] = torch.where(found[1] != IMAGES[1], torch.ones(()), IMAGES[1])
    elif how == "too large":
        found = torch.where(OUTLINES, relight_colours(torch.zeros(()), IMAGES, OUTLINES), IMAGES)
        found[[0, 2]] = IMAGES[[0, 2]]
    return found


@pytest.mark.parametrize(
    ("how", "reason"),
    [("NaN", "NaN or infinite"), ("too bright", "box"), ("off the sign", "outside the sticker's surface"),
     ("glowing", "brighter or darker than the light"), ("too large", "more than 10% of the sign")],
)  # fmt: skip
def test_what_breaks_a_rule_is_named_for_its_sign_alone(how: str, reason: str):
    reasons = find_scene_violations(spoilt(how), IMAGES, OUTLINES, FOUND)
    assert reasons[0] is None
    assert reasons[2] is None
    assert reason in reasons[1]


def test_rectangles_and_squares_keep_their_shape():
    assert "another shape" in find_scene_violations(stuck(FOUND), IMAGES, OUTLINES, BARS)[0]
    assert "another shape" in find_scene_violations(stuck(FOUND), IMAGES, OUTLINES, SQUARE)[0]
    whole = torch.where(OUTLINES, relight_colours(torch.zeros(()), IMAGES, OUTLINES), IMAGES)
    poster = ThreatModel(norm="sticker", eps=1, transformation="poster")
    assert find_scene_violations(whole, IMAGES, OUTLINES, poster) == [None] * 3
    assert torch.equal(find_sticker_pixels(whole, IMAGES, OUTLINES, poster), OUTLINES)


def pack_bits(mask: Tensor) -> int:
    """A mask as the bits of one number, with which millions of pairs are tried in a second."""
    return sum(1 << place for place in mask.flatten().nonzero().flatten().tolist())


def rectangle(*corners: int) -> int:
    found = torch.zeros(6, 7, dtype=torch.bool)
    top, bottom, left, right = corners
    found[top:bottom, left:right] = True
    return pack_bits(found)


@pytest.fixture(scope="module")
def rectangle_pairs() -> list[int]:
    """All unions of two rectangles that do not overlap."""
    rectangles = [
        rectangle(*rows, *columns)
        for rows in itertools.combinations(range(7), 2)
        for columns in itertools.combinations(range(8), 2)
    ]
    return sorted({a | b for a, b in itertools.combinations(rectangles, 2) if not a & b})


@pytest.mark.parametrize("seed", range(8))
def test_what_two_rectangles_have_to_cover_is_the_least_that_any_two_can(seed: int, rectangle_pairs):
    """By trying all pairs that do not overlap."""
    generator = torch.Generator().manual_seed(seed)
    plane = torch.rand(6, 7, generator=generator) < 0.8
    changed = plane & (torch.rand(6, 7, generator=generator) < (0.1, 0.2, 0.4)[seed % 3])
    sign, needed = pack_bits(plane), pack_bits(changed)
    fewest = min((sign & pair).bit_count() for pair in rectangle_pairs if not needed & ~pair)
    assert _count_covered_pixels(changed, plane) == fewest
    assert _count_covered_pixels(torch.zeros_like(plane), plane) == 0


def test_rectangles_may_be_anywhere_on_the_sign_but_no_larger_together():
    worth = torch.zeros(3, 1, 32, 32)
    worth[..., 8:12, 8:13] = worth[..., 18:22, 18:23] = 1.0
    mask = build_sticker_mask(OUTLINES, BARS, pixel_worth=worth)
    black = relight_colours(torch.zeros(()), IMAGES, OUTLINES)
    found = torch.where(mask, black, IMAGES)
    assert find_scene_violations(found, IMAGES, OUTLINES, BARS) == [None] * 3
    larger = (mask | mask.roll(1, 3) | mask.roll(-1, 3)) & OUTLINES
    grown = torch.where(larger, black, IMAGES)
    assert all("more than 10%" in reason for reason in find_scene_violations(grown, IMAGES, OUTLINES, BARS))


def test_patches_have_one_shape_and_one_look():
    surfaces = build_surface_masks(IMAGES, None)
    patch = torch.rand(1, 3, 10, 10, generator=torch.Generator().manual_seed(0)).expand(3, -1, -1, -1)
    assert find_scene_violations(patch, IMAGES, surfaces, PATCH) == [None] * 3
    other = patch.clone()
    other[2, 0, 0, 0] = 0
    assert "different patches" in find_scene_violations(other, IMAGES, surfaces, PATCH)[0]
    assert "returned (3, 3, 9, 9)" in find_scene_violations(patch[..., 1:, 1:], IMAGES, surfaces, PATCH)[0]
    assert "returned list" in find_scene_violations([1], IMAGES, surfaces, PATCH)[0]
    assert "float64" in find_scene_violations(patch.double(), IMAGES, surfaces, PATCH)[0]
    assert "box" in find_scene_violations(patch + 1, IMAGES, surfaces, PATCH)[0]
