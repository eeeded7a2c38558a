"""The surroundings of a rendered sign: backgrounds, weathering and light.

Every texture is smooth noise in frame units (cells per frame), so a scene looks the same at any resolution.
Pictures are float32 (S, S, 3), values about [0, 1], not clipped.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

Generator = np.random.Generator
Array = np.ndarray


def sample_smooth_noise(rng: Generator, size: int, cells: int) -> Array:
    """Sample noise of about unit deviation with ``cells`` cells per frame: float32 (size, size)."""
    grid = rng.standard_normal((cells + 1, cells + 1), dtype=np.float32)
    image = Image.fromarray(grid).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(image)


def sample_fractal_noise(rng: Generator, size: int, cells: tuple[int, ...]) -> Array:
    """Sum octaves of smooth noise, each half as strong as the one before; about unit deviation."""
    total = np.zeros((size, size), np.float32)
    for octave, count in enumerate(cells):
        total += sample_smooth_noise(rng, size, count) * np.float32(0.5**octave)
    return total


def _tint_texture(colour: Array, strength: Array) -> Array:
    """Return a color scaled by ``strength`` at each pixel (1 leaves it unchanged)."""
    tinted: Array = colour.astype(np.float32) * strength[..., None]
    return tinted


def _render_sky(rng: Generator, size: int) -> Array:
    brightness = rng.uniform(0.35, 0.98)
    top = brightness * np.array([rng.uniform(0.55, 1.0), rng.uniform(0.75, 1.0), 1.0])
    fall = np.linspace(0, 1, size, dtype=np.float32)[:, None] * np.float32(rng.uniform(-0.1, 0.3))
    return _tint_texture(top, 1 + fall + 0.08 * sample_fractal_noise(rng, size, (2, 5)))


def _render_foliage(rng: Generator, size: int) -> Array:
    leaf = np.array([rng.uniform(0.5, 1.3), 1.0, rng.uniform(0.3, 0.7)]) * rng.uniform(0.12, 0.42)
    light = 1 + 0.45 * sample_fractal_noise(rng, size, (4, 9, 18))
    gaps = sample_smooth_noise(rng, size, 8) > rng.uniform(1.0, 2.5)
    return np.where(
        gaps[..., None], np.float32(rng.uniform(0.5, 0.9)), _tint_texture(leaf, np.maximum(light, 0.1))
    )


def _render_wall(rng: Generator, size: int) -> Array:
    color = rng.uniform(0.2, 0.8) * np.array([1.0, rng.uniform(0.72, 1.0), rng.uniform(0.55, 1.0)])
    wall = _tint_texture(color, 1 + 0.06 * sample_fractal_noise(rng, size, (3, 12)))
    for _ in range(int(rng.integers(0, 4))):
        left, top = rng.uniform(-0.1, 1.0, 2)
        width, height = rng.uniform(0.1, 0.5, 2)
        rows = slice(max(0, int(top * size)), max(0, int((top + height) * size)))
        columns = slice(max(0, int(left * size)), max(0, int((left + width) * size)))
        wall[rows, columns] *= np.float32(rng.uniform(0.35, 1.4))
    return wall


def _render_road(rng: Generator, size: int) -> Array:
    color = rng.uniform(0.15, 0.5) * np.array([1.0, rng.uniform(0.95, 1.02), rng.uniform(0.9, 1.1)])
    return _tint_texture(color, 1 + 0.1 * sample_fractal_noise(rng, size, (3, 24)))


_UPPER_TEXTURES: tuple[Callable[[Generator, int], Array], ...] = (
    _render_sky,
    _render_foliage,
    _render_wall,
    _render_foliage,
    _render_sky,
)
_LOWER_TEXTURES: tuple[Callable[[Generator, int], Array], ...] = (
    _render_foliage,
    _render_wall,
    _render_road,
    _render_wall,
)


def render_background(rng: Generator, size: int) -> Array:
    """Render sky, foliage, a wall or a road, mostly two of them with an uneven border, and some poles."""
    scene = _UPPER_TEXTURES[rng.integers(len(_UPPER_TEXTURES))](rng, size)
    if rng.random() < 0.7:
        lower = _LOWER_TEXTURES[rng.integers(len(_LOWER_TEXTURES))](rng, size)
        height = np.linspace(0, 1, size, dtype=np.float32)[:, None]
        border = rng.uniform(0.2, 1.0) + rng.uniform(0, 0.08) * sample_smooth_noise(rng, size, 6)
        scene = np.where((height > border)[..., None], lower, scene)
    for _ in range(int(rng.integers(0, 3))):
        _draw_stripe(
            scene, rng.uniform(0, 1), rng.uniform(0.01, 0.06), rng.uniform(-0.2, 0.2), rng.uniform(0.08, 0.6)
        )
    return scene


def draw_pole(scene: Array, rng: Generator, x: float) -> None:
    """Draw the sign's own pole into ``scene``, from its middle to the lower edge."""
    below = scene[scene.shape[0] // 2 :]
    _draw_stripe(below, x, rng.uniform(0.03, 0.06), rng.uniform(-0.03, 0.03), rng.uniform(0.25, 0.7))


def _draw_stripe(scene: Array, x: float, half_width: float, lean: float, grey: float) -> None:
    """Draw a round gray bar into the picture, in place, lighter in its middle than at its sides."""
    rows, columns = scene.shape[:2]
    down = np.linspace(-0.5, 0.5, rows, dtype=np.float32)[:, None]
    across = np.linspace(0, 1, columns, dtype=np.float32)[None, :]
    offset = np.abs(across - np.float32(x) - np.float32(lean) * down) / np.float32(half_width)
    color = np.float32(grey) * (1.15 - 0.5 * offset**2)
    scene[:] = np.where((offset < 1)[..., None], color[..., None], scene)


def weather_sign(sign: Array, rng: Generator) -> Array:
    """Fade the colors of a sign and add dirt."""
    fade = np.float32(rng.uniform(0, 0.25) ** 1.5 * 2)
    faded = sign * (1 - fade) + np.float32(0.62) * fade
    dirt = np.maximum(sample_fractal_noise(rng, sign.shape[0], (4, 10)) - 0.6, 0) * np.float32(
        rng.uniform(0, 0.14)
    )
    dirty: Array = faded * (1 - np.minimum(dirt, 0.5))[..., None]
    return dirty


def sample_shading(rng: Generator, size: int) -> Array:
    """Sample the brightness over the frame: a gentle slope, sometimes the edge of a shadow; (S, S)."""
    angle, slope = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.18)
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    along = axis[None, :] * np.float32(np.cos(angle)) + axis[:, None] * np.float32(np.sin(angle))
    light: Array = 1 + np.float32(slope) * along
    if rng.random() < 0.25:
        depth, softness = rng.uniform(0.1, 0.35), rng.uniform(0.03, 0.2)
        edge = along + rng.uniform(-0.6, 0.6) + 0.35 * sample_smooth_noise(rng, size, 3)
        light = light * (1 - np.float32(depth) / (1 + np.exp(-np.clip(edge / softness, -30, 30))))
    return light
