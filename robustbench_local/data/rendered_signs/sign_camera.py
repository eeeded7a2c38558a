"""The camera model of rendered signs: perspective, light, lens and sensor.

All randomness comes from one generator, in units of the frame, so that an image depends on its own
seed alone and shows the same scene at any resolution.
"""

from __future__ import annotations

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from robustbench_local.data.rendered_signs.sign_pen import Point
from robustbench_local.data.rendered_signs.sign_scene import (
    draw_pole,
    render_background,
    sample_shading,
    sample_smooth_noise,
    weather_sign,
)
from robustbench_local.data.rendered_signs.sign_shapes import FrontView, render_front_view

Array = np.ndarray
Generator = np.random.Generator

# The frame is rendered at this many times the resolution and averaged, because a photosite covers an area.
_SUPERSAMPLING = 3
# Blur and motion are in pixels of a 32-pixel frame at every resolution.
_REFERENCE_SIZE_PIXELS = 32


def photograph_sign(label: int, size: int, rng: Generator) -> tuple[Array, Array]:
    """Render a photograph of one sign.

    Args:
        label: GTSRB id of a drawn class.
        size: Side of the photograph in pixels.
        rng: The image's own generator.

    Returns:
        The photograph, uint8 (size, size, 3), and the sign's outline, bool (size, size).
    """
    side = size * _SUPERSAMPLING
    view = render_front_view(label, side)
    homography = _sample_homography(view.outline, rng)
    sign, cover = _warp_sign(view, homography, side, rng)
    scene = render_background(rng, side)
    if rng.random() < 0.8:
        draw_pole(scene, rng, 0.5 + 0.5 * float(homography[0, 2] / homography[2, 2]))
    scene *= np.float32(rng.uniform(0.5, 1.15))
    picture = sign * cover[..., None] + scene * (1 - cover)[..., None]
    picture *= sample_shading(rng, side)[..., None]
    picture = _apply_lens(_average_photosites(_apply_light(picture, rng)), rng)
    mask = _average_photosites(cover[..., None])[..., 0] >= 0.5
    return _apply_sensor(picture, rng), mask


def _build_rotation(yaw: float, pitch: float, roll: float) -> Array:
    """Return the rotation about the vertical, the horizontal and the line of sight, in degrees."""
    (cy, cp, cr), (sy, sp, sr) = (f(np.radians([yaw, pitch, roll])) for f in (np.cos, np.sin))
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    about_z = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    product: Array = about_z @ about_x @ about_y
    return product


def project_points(homography: Array, points: Array) -> Array:
    """Map points (N, 2) through a homography (3, 3)."""
    mapped = np.c_[points, np.ones(len(points))] @ homography.T
    flat: Array = mapped[:, :2] / mapped[:, 2:]
    return flat


def _sample_homography(outline: tuple[Point, ...], rng: Generator) -> Array:
    """Sample the homography from sign units to the frame [-1, 1]: the camera's position and the crop.

    The crop follows the outline like a detector's box: the sign fills 74 to 95% of the frame.
    """
    yaw, pitch, roll = rng.triangular([-35, -18, -9], 0, [35, 18, 9])
    distance = rng.uniform(4, 9)
    rotation = _build_rotation(yaw, pitch, roll)
    pinhole = np.stack([distance * rotation[0], distance * rotation[1], rotation[2]])
    pinhole[:, 2] = [0, 0, distance]
    corners = project_points(pinhole, np.array(outline))
    low, high = corners.min(axis=0), corners.max(axis=0)
    scale = 2 * rng.uniform(0.74, 0.95) / (high - low).max()
    shift = rng.uniform(-0.07, 0.07, 2) - scale * (low + high) / 2
    crop = np.array([[scale, 0, shift[0]], [0, scale, shift[1]], [0, 0, 1]])
    homography: Array = crop @ pinhole
    return homography


def _warp_sign(view: FrontView, homography: Array, side: int, rng: Generator) -> tuple[Array, Array]:
    """Warp the weathered sign by the homography: picture (S, S, 3) and coverage (S, S)."""
    to_pixels = np.array([[side / 2, 0, side / 2], [0, side / 2, side / 2], [0, 0, 1]])
    inverse = np.linalg.inv(to_pixels @ homography @ np.linalg.inv(to_pixels))
    inverse /= inverse[2, 2]
    layers = np.dstack([weather_sign(view.rgb, rng), view.alpha])
    packed = Image.fromarray(np.clip(layers * 255 + 0.5, 0, 255).astype(np.uint8), "RGBA")
    warped = packed.transform(
        (side, side), Image.Transform.PERSPECTIVE, inverse.ravel()[:8].tolist(), Image.Resampling.BILINEAR
    )
    pixels = np.asarray(warped, dtype=np.float32) / 255
    return pixels[..., :3], pixels[..., 3]


def _apply_light(picture: Array, rng: Generator) -> Array:
    """Apply exposure, color of the light, saturation, haze and a contrast curve."""
    # Uniform in stops: as in real photographs, many signs are in shadow or backlit.
    gain = np.exp(rng.uniform(np.log(0.2), np.log(1.15)))
    warm, green = rng.uniform(-0.1, 0.1), rng.uniform(-0.04, 0.04)
    cast = np.array([1 + warm, 1 + green, 1 - warm], np.float32) * np.float32(gain)
    haze, pallor = np.float32(rng.uniform(0, 0.18)), np.float32(rng.uniform(0, 0.6))
    gray = picture.mean(axis=2, keepdims=True)
    lit = (picture + pallor * (gray - picture)) * cast * (1 - haze) + haze
    curved: Array = np.clip(lit, 0, 1) ** np.float32(rng.uniform(0.9, 1.25))
    return curved


def _average_photosites(picture: Array) -> Array:
    """Average the supersampled rendering to photosites."""
    size = picture.shape[0] // _SUPERSAMPLING
    blocks = picture.reshape(size, _SUPERSAMPLING, size, _SUPERSAMPLING, -1)
    mean: Array = blocks.mean(axis=(1, 3))
    return mean


def _apply_lens(picture: Array, rng: Generator) -> Array:
    """Apply defocus, and sometimes motion blur."""
    scale = picture.shape[0] / _REFERENCE_SIZE_PIXELS
    sigma = rng.uniform(0.2, 1.1) * scale
    blurred: Array = gaussian_filter(picture, (sigma, sigma, 0), truncate=3, mode="nearest")
    length, angle = rng.uniform(0, 2.2) * scale, rng.uniform(0, np.pi)
    if rng.random() < 0.3:
        across, down = length * np.cos(angle), length * np.sin(angle)
        steps = np.linspace(-0.5, 0.5, 2 + int(2 * length))
        blurred = np.mean([_shift_picture(blurred, t * across, t * down) for t in steps], axis=0)
    return blurred


def _shift_picture(picture: Array, x: float, y: float) -> Array:
    """Shift the picture by a fractional number of pixels, bilinearly, with its border repeated."""
    for axis, distance in ((1, x), (0, y)):
        whole = int(np.floor(distance))
        rest = np.float32(distance - whole)
        index = np.arange(picture.shape[axis])
        near = np.take(picture, np.clip(index - whole, 0, index[-1]), axis)
        far = np.take(picture, np.clip(index - whole - 1, 0, index[-1]), axis)
        picture = near * (1 - rest) + far * rest
    return picture


def _apply_sensor(picture: Array, rng: Generator) -> Array:
    """Add sensor noise (fine and coarse, slightly colored) and round to 8 bits."""
    size = picture.shape[0]
    level = np.float32(rng.uniform(0.002, 0.01))
    fine = rng.standard_normal((size, size, 1), dtype=np.float32)
    color_noise = np.stack(
        [sample_smooth_noise(rng, size, _REFERENCE_SIZE_PIXELS // 2) for _ in range(3)], axis=-1
    )
    noisy = picture + level * (fine + 0.5 * color_noise)
    eight_bits: Array = np.clip(noisy * 255 + 0.5, 0, 255).astype(np.uint8)
    return eight_bits
