"""Scenes in front of the camera, a sign with a sticker or a patch beside it, and the rules for them."""

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
    """Return the side of a patch in pixels: the largest square of at most ``eps`` of the frame."""
    height, width = images.shape[-2:]
    return min(math.isqrt(int(threat.eps * height * width + 1e-6)), height, width)


def compose_scenes(
    images: Tensor, printed: Tensor, surfaces: Tensor, threat: ThreatModel, views: Views
) -> Tensor:
    """Compose the scenes for the camera.

    Args:
        images: The clean signs, (N, C, H, W).
        printed: The result of the attack: the signs with their stickers, (N, C, H, W), or printed patches
            (N, C, s, s), which are relit to the light of each sign.
        surfaces: (N, 1, H, W), boolean.
        threat: Sticker or patch.
        views: The views, which define the position of a patch.

    Returns:
        Signs with stickers: (N, C, H, W), the same in all views. Patches: (N, V, C, H, W): complete, at the
        border of the frame, at the view's position, and behind the sign where they overlap. Differentiable
        with respect to ``printed``.
    """
    if threat.norm == "sticker":
        return printed
    side, (height, width) = printed.shape[-1], images.shape[-2:]
    top, left = _place_patches(views.border_position, height - side, width - side)
    down, across = (
        _build_placement(first, side, size)[:, :, None] for first, size in ((top, height), (left, width))
    )
    relit = relight_colours(printed, images, surfaces)[:, None]
    pasted = down.to(printed) @ relit @ across.to(printed).transpose(-1, -2)
    patch_pixels = down.any(dim=-1)[..., :, None] & across.any(dim=-1)[..., None, :] & ~surfaces[:, None]
    return torch.where(patch_pixels, pasted, images[:, None])


def find_sticker_pixels(printed: Tensor, images: Tensor, surfaces: Tensor, threat: ThreatModel) -> Tensor:
    """Return the pixels of a sticker, (N, 1, H, W), boolean.

    A poster covers the whole surface; another sticker consists of the pixels that differ from the sign.
    """
    if threat.transformation == "poster":
        return build_sticker_mask(surfaces, threat)
    return (printed != images).any(dim=1, keepdim=True)


def find_scene_violations(
    printed: Tensor, images: Tensor, surfaces: Tensor, threat: ThreatModel
) -> list[str | None]:
    """Check each sign's sticker, or the patch, against the rules (trust invariant V13).

    Args:
        printed: The result of the attack.
        images: The clean signs, (N, C, H, W).
        surfaces: (N, 1, H, W), boolean.
        threat: Sticker or patch, its shape and share.

    Returns:
        A violation or None for each sign.
    """
    side, count = compute_patch_side(images, threat), len(images)
    shape = tuple(images.shape) if threat.norm == "sticker" else (*images.shape[:2], side, side)
    if not isinstance(printed, Tensor) or tuple(printed.shape) != shape:
        got = tuple(printed.shape) if isinstance(printed, Tensor) else type(printed).__name__
        return [f"the attack returned {got}, not {shape}"] * count
    if printed.dtype != images.dtype:
        return [f"the attack returned {printed.dtype}, not {images.dtype}"] * count
    if threat.norm == "patch" and not bool((printed == printed[:1]).flatten(1).all()):
        return ["the attack returned different patches, not one for all images"] * count
    reasons: list[str | None] = [None] * count
    flat = printed.flatten(1)
    violations = {
        "pixels are NaN or infinite": ~torch.isfinite(flat).all(dim=1),
        "pixels leave the box [0, 1]": ~((flat >= 0) & (flat <= 1)).all(dim=1),
    }
    if threat.norm == "sticker":
        violations |= _find_size_violations(printed, images, surfaces, threat)
        violations["the sticker is brighter or darker than the light on the sign allows"] = (
            _has_impossible_brightness(printed, images, surfaces)
        )
    for reason, rows in violations.items():
        for row in rows.nonzero().flatten().tolist():
            reasons[row] = reasons[row] or reason
    return reasons


def _find_size_violations(
    printed: Tensor, images: Tensor, surfaces: Tensor, threat: ThreatModel
) -> dict[str, Tensor]:
    """Find stickers outside their surface and stickers that are too large, (N,) each."""
    changed = (printed != images).any(dim=1, keepdim=True)
    allowed = build_sticker_mask(surfaces, threat) if threat.transformation == "poster" else surfaces
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
        "pixels outside the sticker's surface are changed": (changed & ~allowed).flatten(1).any(dim=1),
        f"the sticker covers more than {100 * threat.eps:g}% of the sign, or has another shape": too_large,
    }


def _count_covered_pixels(changed: Tensor, plane: Tensor) -> int:
    """Count the fewest pixels of a surface, (H, W), under two rectangles that contain all changed pixels.

    A line separates two rectangles that do not overlap, so every line is tried.
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
    """Count the surface's pixels in the smallest rectangle around the marked ones, (H, W) both."""
    down, across = (marks.any(dim=axis).nonzero().flatten() for axis in (1, 0))
    if not len(down):
        return 0
    return int(plane[down[0] : down[-1] + 1, across[0] : across[-1] + 1].sum())


def _has_impossible_brightness(printed: Tensor, images: Tensor, surfaces: Tensor) -> Tensor:
    """Mark stickers beyond white or black in the sign's light, up to 8-bit rounding, (N,)."""
    low, high = find_light_range(images, surfaces)
    beyond = (printed < low - 1 / 255) | (printed > high + 1 / 255)
    return (beyond & (printed != images)).flatten(1).any(dim=1)


def _compute_extent(lines: Tensor) -> Tensor:
    """Return the distance from the first to the last true entry of each row, (N,); 0 if there is none."""
    positions = torch.arange(1, lines.shape[1] + 1, device=lines.device)
    last = (lines * positions).amax(dim=1)
    first = (lines * positions.flip(0)).amax(dim=1)
    return (last + first - lines.shape[1]).clamp_min(0)


def _place_patches(along: Tensor, free_down: int, free_across: int) -> tuple[Tensor, Tensor]:
    """Return row and column, (N, V) each, of a patch at the fraction ``along`` of the frame's border."""
    edge = 4 * along
    step = edge % 1
    down, across = (step * (free_down + 1)).floor().long(), (step * (free_across + 1)).floor().long()
    upper, right, lower = edge < 1, (edge >= 1) & (edge < 2), (edge >= 2) & (edge < 3)
    top = torch.where(upper, 0, torch.where(lower, free_down, down))
    left = torch.where(upper | lower, across, torch.where(right, free_across, 0))
    return top, left


def _build_placement(first: Tensor, side: int, size: int) -> Tensor:
    """Map each pixel of a line to a pixel of a patch, as matrices (N, V, size, side), boolean."""
    positions = torch.arange(size, device=first.device)[:, None] - first[..., None, None]
    return positions == torch.arange(side, device=first.device)
