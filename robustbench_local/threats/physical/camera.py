"""The camera model: one differentiable pass from scenes to photographs, batched over views.

It covers perspective and crop, resolution, focus and motion, light, sensor and compression. Everything up to
the sensor's noise is smooth; compression and rounding to 8 bits use straight-through gradients.

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
"""Side of the sign over the side of the frame: a border of 10%, as in crops of traffic-sign benchmarks."""
REFERENCE_SIZE_PIXELS = 32
"""Width of the frame to which pixels of blur and motion refer."""
_DISTANCE_FACTOR = 640.0
"""A sign d pixels wide is at a distance of this factor over d, in half frames: a sign of 90 cm that is 64
pixels wide is 6 m away."""
_STREAK_POINTS = 65
"""Points of a streak: enough for two neighbours to be in one pixel up to frames of 400 pixels."""
_BLACK_OFFSET = 1e-4
"""Offset before the contrast curve, whose slope at black would be infinite."""


def photograph_scenes(scenes: Tensor, views: Views) -> Tensor:
    """Photograph scenes.

    Args:
        scenes: Frontal images of the signs in their frames, in [0, 1], C = 1 or 3: (N, C, H, W), the same in
            all views, or (N, V, C, H, W), one per view.
        views: (N, V), on the scenes' device.

    Returns:
        (N, V, C, H, W) on the 8-bit grid, differentiable with respect to the scenes. A photograph depends
        only on its own scene and view.
    """
    light = compute_exposure(scenes, views)
    noisy = light + _sample_sensor_noise(light, views)
    clamped = clamp_with_border_gradient(noisy).flatten(0, 1)
    quality = views.jpeg.to(clamped).flatten().round()

    def stored(pictures: Tensor) -> Tensor:
        return (compress_jpeg(pictures, quality) * 255).round() / 255

    return apply_straight_through(stored, clamped).view_as(light)


def compute_exposure(scenes: Tensor, views: Views) -> Tensor:
    """Compute the exposure of the sensor before noise and compression, the smooth part of the camera.

    Args:
        scenes: As for :func:`photograph_scenes`.
        views: (N, V).

    Returns:
        (N, V, C, H, W), not clamped.
    """
    warped = _warp_to_views(scenes, views)
    blurred = _apply_motion_blur(_blur_views(warped, views), views)
    gain, offset, gamma = (
        getattr(views, name).to(blurred)[..., None, None, None] for name in ("gain", "offset", "gamma")
    )
    curved: Tensor = (
        (clamp_with_border_gradient(blurred, high=math.inf) + _BLACK_OFFSET) / (1 + _BLACK_OFFSET)
    ) ** gamma
    light: Tensor = gain * curved + offset
    return light


def compute_homography(views: Views) -> Tensor:
    """Compute the homography from the sign's plane to the frame, both spanning [-1, 1]: (N, V, 3, 3).

    The sign is rotated about the vertical, the horizontal and then the line of sight, in front of a pinhole
    camera whose distance follows from the sign's size; then the crop is shifted.
    """
    angles = [torch.deg2rad(angle.double()) for angle in (views.yaw, views.pitch, views.roll)]
    (cy, cp, cr), (sy, sp, sr) = ([turn.cos() for turn in angles], [turn.sin() for turn in angles])
    distance = _DISTANCE_FACTOR / views.distance.double().clamp_max(_DISTANCE_FACTOR)
    zeros = torch.zeros_like(distance)
    across = [distance * (cr * cy - sr * sp * sy), -distance * sr * cp, zeros]
    down = [distance * (sr * cy + cr * sp * sy), distance * cr * cp, zeros]
    away = [-cp * sy, sp, distance]
    right, below = 2 * views.shift_x.double(), 2 * views.shift_y.double()
    rows = [
        [a + right * c for a, c in zip(across, away, strict=True)],
        [b + below * c for b, c in zip(down, away, strict=True)],
        away,
    ]
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def _warp_to_views(scenes: Tensor, views: Views) -> Tensor:
    """Warp the scenes into perspective; pixels from outside repeat the border."""
    *_, channels, height, width = scenes.shape
    signs, count = views.noise_key.shape
    positions = _compute_sign_coordinates(views, height, width).to(scenes)
    if scenes.ndim == 4:  # a sign's views form one tall image, so the scene is not copied for each view
        rows, columns = (positions[..., axis].reshape(signs, count * height, width) for axis in (0, 1))
        tall = sample_bilinear(scenes, rows, columns, outside="border")
        return tall.view(signs, channels, count, height, width).transpose(1, 2)
    rows, columns = (positions[..., axis].flatten(0, 1) for axis in (0, 1))
    return sample_bilinear(scenes.flatten(0, 1), rows, columns, outside="border").view(scenes.shape)


def _compute_sign_coordinates(views: Views, height: int, width: int) -> Tensor:
    """Return the position on the sign's plane of each pixel of the frame, (N, V, H, W, 2): row and column."""
    down = (2 * torch.arange(height, device=views.noise_key.device).double() + 1) / height - 1
    across = (2 * torch.arange(width, device=views.noise_key.device).double() + 1) / width - 1
    first, second, third = compute_homography(views).unbind(dim=-1)
    # the inverse up to a factor, in closed form: its rows are cross products of the columns
    inverse_rows = [torch.linalg.cross(*pair) for pair in ((second, third), (third, first), (first, second))]
    x, y, w = (
        row[..., 0, None, None] * across + row[..., 1, None, None] * down[:, None] + row[..., 2, None, None]
        for row in inverse_rows
    )
    return torch.stack([(y / w + 1) * height / 2 - 0.5, (x / w + 1) * width / 2 - 0.5], dim=-1)


def _blur_views(images: Tensor, views: Views) -> Tensor:
    """Apply defocus and the resolution at the sign's distance, as one Gaussian.

    A coarse pixel p frame pixels wide, interpolated linearly, spreads light with a variance of p^2 / 4. The
    blur of the frame's own pixels is subtracted, so that p = 1 changes nothing.
    """
    height, width = images.shape[-2:]
    coarse = SIGN_SHARE * min(height, width) / views.distance.double()
    defocus = views.blur.double() * min(height, width) / REFERENCE_SIZE_PIXELS
    sigma = (defocus**2 + (coarse.clamp_min(1.0) ** 2 - 1) / 4).sqrt()
    down, across = (_build_gaussian_matrices(sigma, size).to(images)[:, :, None] for size in (height, width))
    return down @ images @ across.transpose(-1, -2)


def _build_gaussian_matrices(sigma: Tensor, size: int) -> Tensor:
    """Build smoothing along a line as matrices (N, V, size, size); the end pixels are repeated outwards."""
    positions = torch.arange(size, device=sigma.device).double()
    edges = positions[None, :] - positions[:, None] + 0.5
    edges[:, -1] = torch.inf
    cumulative = torch.special.ndtr(edges / sigma.clamp_min(1e-6)[..., None, None])
    return torch.diff(cumulative, dim=-1, prepend=torch.zeros_like(cumulative[..., :1]))


def _apply_motion_blur(images: Tensor, views: Views) -> Tensor:
    """Smear along a straight streak, as in an exposure of a moving camera."""
    height, width = images.shape[-2:]
    length = views.motion * min(height, width) / REFERENCE_SIZE_PIXELS
    reach = math.ceil(float(length.max()) / 2)
    if reach == 0:
        return images
    kernels = _build_streak_kernels(length.double(), views.motion_angle.double(), reach).to(images)
    planes = images.flatten(0, 2)[None]
    kernels = kernels.flatten(0, 1)[:, None].repeat_interleave(images.shape[2], dim=0)
    padded = pad(planes, (reach,) * 4, mode="replicate")
    return conv2d(padded, kernels, groups=planes.shape[1]).view(images.shape)


def _build_streak_kernels(length: Tensor, angle: Tensor, reach: int) -> Tensor:
    """Build the streaks' kernels, (N, V, 2 reach + 1, 2 reach + 1): points on a line, bilinear."""
    points = torch.linspace(-0.5, 0.5, _STREAK_POINTS, device=length.device).double()
    offsets = torch.arange(-reach, reach + 1, device=length.device).double()
    down, across = (
        (1 - (offsets - (length * project(angle))[..., None, None] * points[:, None]).abs()).clamp_min(0)
        for project in (torch.sin, torch.cos)
    )
    return down.transpose(-1, -2) @ across / _STREAK_POINTS


def _sample_sensor_noise(light: Tensor, views: Views) -> Tensor:
    """Sample the sensor's noise, which depends on the view and not on the scene: (N, V, C, H, W)."""
    keys = views.noise_key.flatten()
    draws = sample_normal_at(keys, torch.zeros_like(keys), light[0, 0].numel())
    return draws.to(light).view(light.shape) * views.noise.to(light)[..., None, None, None]
