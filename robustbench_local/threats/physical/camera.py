"""The camera before a sign: one differentiable pass from scenes to photographs, batched over views.

Perspective and crop, resolution, focus and motion, light, sensor, compression. Everything up to the sensor's
noise is smooth; compression and rounding to 8 bits pass gradients straight through.

Source: Athalye et al. 2018, arXiv:1707.07397 (expectation over transformation); Hartley & Zisserman 2004,
section 8.1 (a plane before a pinhole camera); Bengio et al. 2013, arXiv:1308.3432 (straight through).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from robustbench_local.bpda import apply_straight_through, clamp_with_border_gradient
from robustbench_local.randomness import sample_normal_at
from robustbench_local.threats.physical.camera_jpeg import compress_jpeg
from robustbench_local.threats.physical.views import Views
from robustbench_local.threats.warp import sample_bilinear

SIGN_SHARE = 0.8
"""Side of the sign over the side of the frame: a border of 10%, as benchmarks of traffic signs crop."""
REFERENCE_SIZE_PIXELS = 32
"""Width of the frame that pixels of blur and motion are meant for."""
_DISTANCE_FACTOR = 640.0
"""A sign seen at d pixels stands this many pixels over d away, in half frames: a sign of 90 cm that is 64
pixels wide is 6 m off."""
_STREAK_POINTS = 65
"""Points of a streak: so many that two neighbours fall into the same pixel up to frames of 400 pixels."""
_BLACK_OFFSET = 1e-4
"""Added before the contrast curve, whose slope at black would be infinite."""


def photograph_scenes(scenes: Tensor, views: Views) -> Tensor:
    """What the camera sees.

    Args:
        scenes: Straight pictures of the signs in their frames, in [0, 1], C = 1 or 3: (N, C, H, W), the same
            in all views, or (N, V, C, H, W), one a view.
        views: (N, V), on the scenes' device.

    Returns:
        (N, V, C, H, W) on the 8-bit grid, differentiable by the scenes. A photograph depends on its own scene
        and view alone.
    """
    light = compute_exposure(scenes, views)
    noisy = light + _sample_sensor_noise(light, views)
    clamped = clamp_with_border_gradient(noisy).flatten(0, 1)
    quality = views.jpeg.to(clamped).flatten().round()

    def stored(pictures: Tensor) -> Tensor:
        return (compress_jpeg(pictures, quality) * 255).round() / 255

    return apply_straight_through(stored, clamped).view_as(light)


def compute_exposure(scenes: Tensor, views: Views) -> Tensor:
    """What falls onto the sensor, before noise and compression: the smooth part of :func:`photograph`.

    Args:
        scenes: As for :func:`photograph`.
        views: (N, V).

    Returns:
        (N, V, C, H, W), not clamped.
    """
    seen = _warp_to_views(scenes, views)
    blurred = _apply_motion_blur(_blur_views(seen, views), views)
    gain, offset, gamma = (
        getattr(views, name).to(blurred)[..., None, None, None] for name in ("gain", "offset", "gamma")
    )
    curved: Tensor = (
        (clamp_with_border_gradient(blurred, high=math.inf) + _BLACK_OFFSET) / (1 + _BLACK_OFFSET)
    ) ** gamma
    light: Tensor = gain * curved + offset
    return light


def compute_homography(views: Views) -> Tensor:
    """From the sign's plane to the frame, both from -1 to 1 across: (N, V, 3, 3).

    The sign turns about the vertical, then the horizontal, then the line of sight, before a pinhole camera
    that stands as far away as the sign's size says; then the crop is shifted.
    """
    turns = [torch.deg2rad(angle.double()) for angle in (views.yaw, views.pitch, views.roll)]
    (cy, cp, cr), (sy, sp, sr) = ([turn.cos() for turn in turns], [turn.sin() for turn in turns])
    far = _DISTANCE_FACTOR / views.distance.double().clamp_max(_DISTANCE_FACTOR)
    nothing = torch.zeros_like(far)
    across = [far * (cr * cy - sr * sp * sy), -far * sr * cp, nothing]
    down = [far * (sr * cy + cr * sp * sy), far * cr * cp, nothing]
    away = [-cp * sy, sp, far]
    right, below = 2 * views.shift_x.double(), 2 * views.shift_y.double()
    rows = [
        [a + right * c for a, c in zip(across, away, strict=True)],
        [b + below * c for b, c in zip(down, away, strict=True)],
        away,
    ]
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def _warp_to_views(scenes: Tensor, views: Views) -> Tensor:
    """The scenes in perspective; what comes in from outside is the border's pixel."""
    *_, channels, height, width = scenes.shape
    signs, count = views.noise_key.shape
    places = _compute_sign_coordinates(views, height, width).to(scenes)
    if scenes.ndim == 4:  # a sign's views as one tall picture: no copy of the scene a view
        rows, columns = (places[..., axis].reshape(signs, count * height, width) for axis in (0, 1))
        tall = sample_bilinear(scenes, rows, columns, outside="border")
        return tall.view(signs, channels, count, height, width).transpose(1, 2)
    rows, columns = (places[..., axis].flatten(0, 1) for axis in (0, 1))
    return sample_bilinear(scenes.flatten(0, 1), rows, columns, outside="border").view(scenes.shape)


def _compute_sign_coordinates(views: Views, height: int, width: int) -> Tensor:
    """Where each pixel of the frame looks at the sign's plane, (N, V, H, W, 2): row and column."""
    down = (2 * torch.arange(height, device=views.noise_key.device).double() + 1) / height - 1
    across = (2 * torch.arange(width, device=views.noise_key.device).double() + 1) / width - 1
    first, second, third = compute_homography(views).unbind(dim=-1)
    # the inverse up to a factor, in closed form: its rows are cross products of the columns
    back = [torch.linalg.cross(*pair) for pair in ((second, third), (third, first), (first, second))]
    x, y, w = (
        row[..., 0, None, None] * across + row[..., 1, None, None] * down[:, None] + row[..., 2, None, None]
        for row in back
    )
    return torch.stack([(y / w + 1) * height / 2 - 0.5, (x / w + 1) * width / 2 - 0.5], dim=-1)


def _blur_views(seen: Tensor, views: Views) -> Tensor:
    """Out of focus, and in the resolution of the distance: one Gaussian.

    A coarse pixel p frame pixels wide, interpolated linearly, spreads light with a variance of p^2 / 4; what
    the frame's own pixels do already is left out, so that nothing happens at p = 1.
    """
    height, width = seen.shape[-2:]
    coarse = SIGN_SHARE * min(height, width) / views.distance.double()
    own = views.blur.double() * min(height, width) / REFERENCE_SIZE_PIXELS
    sigma = (own**2 + (coarse.clamp_min(1.0) ** 2 - 1) / 4).sqrt()
    down, across = (_build_gaussian_matrices(sigma, size).to(seen)[:, :, None] for size in (height, width))
    return down @ seen @ across.transpose(-1, -2)


def _build_gaussian_matrices(sigma: Tensor, size: int) -> Tensor:
    """Smoothing along a line as matrices (N, V, size, size): the share of each pixel; the ends go on."""
    places = torch.arange(size, device=sigma.device).double()
    edges = places[None, :] - places[:, None] + 0.5
    edges[:, -1] = torch.inf
    reached = torch.special.ndtr(edges / sigma.clamp_min(1e-6)[..., None, None])
    return torch.diff(reached, dim=-1, prepend=torch.zeros_like(reached[..., :1]))


def _apply_motion_blur(seen: Tensor, views: Views) -> Tensor:
    """Smeared along a straight streak, as while the shutter is open."""
    height, width = seen.shape[-2:]
    length = views.motion * min(height, width) / REFERENCE_SIZE_PIXELS
    reach = math.ceil(float(length.max()) / 2)
    if reach == 0:
        return seen
    kernels = _build_streak_kernels(length.double(), views.motion_angle.double(), reach).to(seen)
    planes = seen.flatten(0, 2)[None]
    kernels = kernels.flatten(0, 1)[:, None].repeat_interleave(seen.shape[2], dim=0)
    padded = pad(planes, (reach,) * 4, mode="replicate")
    return conv2d(padded, kernels, groups=planes.shape[1]).view(seen.shape)


def _build_streak_kernels(length: Tensor, angle: Tensor, reach: int) -> Tensor:
    """The streaks as kernels, (N, V, 2 reach + 1, 2 reach + 1): points of a line, each shared by 4 pixels."""
    points = torch.linspace(-0.5, 0.5, _STREAK_POINTS, device=length.device).double()
    offsets = torch.arange(-reach, reach + 1, device=length.device).double()
    down, across = (
        (1 - (offsets - (length * way(angle))[..., None, None] * points[:, None]).abs()).clamp_min(0)
        for way in (torch.sin, torch.cos)
    )
    return down.transpose(-1, -2) @ across / _STREAK_POINTS


def _sample_sensor_noise(light: Tensor, views: Views) -> Tensor:
    """The sensor's noise, the same for a view whatever the scene: (N, V, C, H, W)."""
    keys = views.noise_key.flatten()
    draws = sample_normal_at(keys, torch.zeros_like(keys), light[0, 0].numel())
    return draws.to(light).view(light.shape) * views.noise.to(light)[..., None, None, None]
