"""What stands before the camera: a sign with its sticker, or a sign with a patch beside it; and what may."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robustbench_local.threats.physical.relighting import find_light_range, relight_colours
from robustbench_local.threats.physical.sticker_mask import (
    build_sticker_mask,
    compute_square_side,
    count_allowed_pixels,
)
from robustbench_local.threats.physical.views import Views
from robustbench_local.threats.threat_model import ThreatModel


def compute_patch_side(images: Tensor, threat: ThreatModel) -> int:
    """Side of a patch in pixels: the largest square of at most ``compute_eps`` of the frame."""
    height, width = images.shape[-2:]
    return min(math.isqrt(int(threat.eps * height * width + 1e-6)), height, width)


def compose_scenes(
    images: Tensor, printed: Tensor, surfaces: Tensor, threat: ThreatModel, views: Views
) -> Tensor:
    """What the camera is to photograph.

    Args:
        images: The signs as they are, (N, C, H, W).
        printed: What the attack returned: the signs with their stickers, (N, C, H, W), or patches (N, C, s, s)
            as they are printed, which stand in the light of each sign.
        surfaces: (N, 1, H, W), boolean.
        threat: Sticker or patch.
        views: They decide where a patch stands.

    Returns:
        Signs with stickers: (N, C, H, W), the same in all views. Patches: (N, V, C, H, W): whole at the
        border of the frame, where the view puts it, and behind the sign where they meet. Differentiable by
        ``found``.
    """
    if threat.norm == "sticker":
        return printed
    side, (height, width) = printed.shape[-1], images.shape[-2:]
    top, left = _place_patches(views.border_position, height - side, width - side)
    down, across = (
        _build_placement(at, side, size)[:, :, None] for at, size in ((top, height), (left, width))
    )
    shown = relight_colours(printed, images, surfaces)[:, None]
    pasted = down.to(printed) @ shown @ across.to(printed).transpose(-1, -2)
    there = down.any(dim=-1)[..., :, None] & across.any(dim=-1)[..., None, :] & ~surfaces[:, None]
    return torch.where(there, pasted, images[:, None])


def find_sticker_pixels(found: Tensor, images: Tensor, surfaces: Tensor, threat: ThreatModel) -> Tensor:
    """The pixels of a sticker that an attack returned, (N, 1, H, W), boolean.

    A poster covers the whole surface; of other stickers those pixels are taken that differ from the sign.
    """
    if threat.transformation == "poster":
        return build_sticker_mask(surfaces, threat)
    return (found != images).any(dim=1, keepdim=True)


def find_scene_violations(
    found: Tensor, images: Tensor, surfaces: Tensor, threat: ThreatModel
) -> list[str | None]:
    """Which rule each sign's sticker, or the patch, breaks (trust invariant V13).

    Args:
        found: What the attack returned.
        images: The signs as they are, (N, C, H, W).
        surfaces: (N, 1, H, W), boolean.
        threat: Sticker or patch, its shape and share.

    Returns:
        One reason or None for each sign.
    """
    side, count = compute_patch_side(images, threat), len(images)
    shape = tuple(images.shape) if threat.norm == "sticker" else (*images.shape[:2], side, side)
    if not isinstance(found, Tensor) or tuple(found.shape) != shape:
        got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        return [f"the attack returned {got}, not {shape}"] * count
    if found.dtype != images.dtype:
        return [f"the attack returned {found.dtype}, not {images.dtype}"] * count
    if threat.norm == "patch" and not bool((found == found[:1]).flatten(1).all()):
        return ["the attack returned different patches, not one for all images"] * count
    reasons: list[str | None] = [None] * count
    flat = found.flatten(1)
    wrong = {
        "pixels are NaN or infinite": ~torch.isfinite(flat).all(dim=1),
        "pixels leave the box [0, 1]": ~((flat >= 0) & (flat <= 1)).all(dim=1),
    }
    if threat.norm == "sticker":
        wrong |= _find_size_violations(found, images, surfaces, threat)
        wrong["the sticker is brighter or darker than the light on the sign"] = _has_impossible_brightness(
            found, images, surfaces
        )
    for reason, rows in wrong.items():
        for row in rows.nonzero().flatten().tolist():
            reasons[row] = reasons[row] or reason
    return reasons


def _find_size_violations(
    found: Tensor, images: Tensor, surfaces: Tensor, threat: ThreatModel
) -> dict[str, Tensor]:
    """Which stickers lie outside their place, and which are too large, (N,) each."""
    changed = (found != images).any(dim=1, keepdim=True)
    place = build_sticker_mask(surfaces, threat) if threat.transformation == "poster" else surfaces
    most = count_allowed_pixels(surfaces, threat.eps)
    covered = changed.flatten(1).sum(dim=1)
    if threat.transformation == "rectangles":
        pairs = zip(changed[:, 0], surfaces[:, 0], strict=True)
        covered = torch.tensor([_count_covered_pixels(*pair) for pair in pairs], device=most.device)
    too_large = covered > most
    if threat.transformation == "square":
        sides = torch.stack([_compute_extent(changed.any(dim=axis)[:, 0]) for axis in (2, 3)]).amax(dim=0)
        largest = torch.tensor([compute_square_side(pixels) for pixels in most.tolist()], device=sides.device)
        too_large |= sides > largest
    return {
        "pixels outside the sticker's place are changed": (changed & ~place).flatten(1).any(dim=1),
        f"the sticker covers more than {100 * threat.eps:g}% of the sign, or has another shape": too_large,
    }


def _count_covered_pixels(changed: Tensor, plane: Tensor) -> int:
    """The fewest pixels of a surface, (H, W), that two rectangles cover which hold all that is changed.

    Two rectangles that do not overlap lie on two sides of a line, so every line is tried.
    """
    if not bool(changed.any()):
        return 0
    fewest = int(plane.sum())
    for marks, surface in ((changed, plane), (changed.t(), plane.t())):
        for line in range(1, len(marks) + 1):
            parts = ((marks[:line], surface[:line]), (marks[line:], surface[line:]))
            fewest = min(fewest, sum(_count_boxed_pixels(*part) for part in parts))
    return fewest


def _count_boxed_pixels(marks: Tensor, plane: Tensor) -> int:
    """Pixels of the surface in the smallest rectangle around what is marked, (H, W) both."""
    down, across = (marks.any(dim=axis).nonzero().flatten() for axis in (1, 0))
    if not len(down):
        return 0
    return int(plane[down[0] : down[-1] + 1, across[0] : across[-1] + 1].sum())


def _has_impossible_brightness(found: Tensor, images: Tensor, surfaces: Tensor) -> Tensor:
    """Which stickers have pixels beyond white or black in the light on the sign, up to 8 bits, (N,)."""
    low, high = find_light_range(images, surfaces)
    beyond = (found < low - 1 / 255) | (found > high + 1 / 255)
    return (beyond & (found != images)).flatten(1).any(dim=1)


def _compute_extent(lines: Tensor) -> Tensor:
    """From the first to the last true entry of each row, (N,); 0 where there is none."""
    places = torch.arange(1, lines.shape[1] + 1, device=lines.device)
    last = (lines * places).amax(dim=1)
    first = (lines * places.flip(0)).amax(dim=1)
    return (last + first - lines.shape[1]).clamp_min(0)


def _place_patches(along: Tensor, free_down: int, free_across: int) -> tuple[Tensor, Tensor]:
    """Row and column, (N, V) each, of a patch that touches the frame's border ``along`` of the way round."""
    edge = 4 * along
    step = edge % 1
    down, across = (step * (free_down + 1)).floor().long(), (step * (free_across + 1)).floor().long()
    upper, right, lower = edge < 1, (edge >= 1) & (edge < 2), (edge >= 2) & (edge < 3)
    top = torch.where(upper, 0, torch.where(lower, free_down, down))
    left = torch.where(upper | lower, across, torch.where(right, free_across, 0))
    return top, left


def _build_placement(first: Tensor, side: int, size: int) -> Tensor:
    """Which pixel of a patch each pixel of a line shows, as matrices (N, V, size, side), boolean."""
    places = torch.arange(size, device=first.device)[:, None] - first[..., None, None]
    return places == torch.arange(side, device=first.device)
