"""Drawing of flat figures: shapes in sign units on a PIL canvas, antialiased by supersampling.

In sign units the center of the canvas is (0, 0), x points right, y points down, and the canvas spans [-1, 1].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Point = tuple[float, float]
Colour = tuple[int, int, int]

# Edges are drawn without antialiasing on a canvas this many times larger, which is then averaged.
_SUPERSAMPLING = 4
_FONT_PIXELS = 256


@lru_cache(maxsize=1)
def _load_font() -> ImageFont.FreeTypeFont:
    """Load DejaVu Sans Bold from matplotlib's files, so that letters are the same on every machine."""
    package = find_spec("matplotlib")  # found, not imported: that takes half a second
    if package is None or package.origin is None:
        raise ModuleNotFoundError("matplotlib, whose font the signs are lettered with, is not installed")
    path = Path(package.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans-Bold.ttf"
    return ImageFont.truetype(str(path), _FONT_PIXELS)


def build_regular_polygon(
    corners: int, radius: float, start: float, centre: Point = (0.0, 0.0)
) -> list[Point]:
    """Return the corners of a regular polygon, the first at angle ``start`` (degrees; 0 right, 90 down)."""
    angles = (math.radians(start + 360.0 * k / corners) for k in range(corners))
    return [(centre[0] + radius * math.cos(a), centre[1] + radius * math.sin(a)) for a in angles]


class Pen:
    """A pen for a square canvas of ``size`` pixels per side.

    Args:
        size: Side of the finished picture, in pixels.
        mode: PIL mode: "RGB" for a picture, "L" for an outline.
    """

    def __init__(self, size: int, mode: str = "RGB") -> None:
        self._side = size * _SUPERSAMPLING
        self._image = Image.new(mode, (self._side, self._side), 0)
        self._draw = ImageDraw.Draw(self._image)

    def _convert_to_pixels(self, point: Point) -> Point:
        half = self._side / 2
        return (half + half * point[0], half + half * point[1])

    def draw_disc(self, centre: Point, radius: float, colour: Colour | int) -> None:
        """Draw a filled circle."""
        (x, y), r = self._convert_to_pixels(centre), radius * self._side / 2
        self._draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)

    def draw_polygon(self, points: Sequence[Point], colour: Colour | int, rounding: float = 0.0) -> None:
        """Draw a filled polygon whose corners are rounded outwards by ``rounding``."""
        self._draw.polygon([self._convert_to_pixels(p) for p in points], fill=colour)
        if rounding:
            self.draw_path([*points, points[0]], 2 * rounding, colour)

    def draw_path(self, points: Sequence[Point], width: float, colour: Colour | int) -> None:
        """Draw a line of ``width`` through the points, with round ends and joints."""
        for (ax, ay), (bx, by) in pairwise(points):
            length = math.hypot(bx - ax, by - ay) or 1.0
            nx, ny = (ay - by) / length * width / 2, (bx - ax) / length * width / 2
            corners = [(ax + nx, ay + ny), (bx + nx, by + ny), (bx - nx, by - ny), (ax - nx, ay - ny)]
            self._draw.polygon([self._convert_to_pixels(p) for p in corners], fill=colour)
        for point in points:
            self.draw_disc(point, width / 2, colour)

    def draw_arrow(self, points: Sequence[Point], width: float, head: float, colour: Colour) -> None:
        """Draw a line through the points that ends in an arrowhead ``head`` long and wide."""
        (ax, ay), (bx, by) = points[-2], points[-1]
        length = math.hypot(bx - ax, by - ay)
        ux, uy = (bx - ax) / length, (by - ay) / length
        neck = (bx - ux * head, by - uy * head)
        self.draw_path([*points[:-1], (neck[0] + ux * head / 4, neck[1] + uy * head / 4)], width, colour)
        wing = head * 0.8
        corners = [
            (bx, by),
            (neck[0] - uy * wing, neck[1] + ux * wing),
            (neck[0] + uy * wing, neck[1] - ux * wing),
        ]
        self.draw_polygon(corners, colour)

    def draw_text(self, text: str, centre: Point, width: float, height: float, colour: Colour) -> None:
        """Draw bold letters stretched to fill a box of ``width`` x ``height``."""
        left, top, right, bottom = _load_font().getbbox(text)
        glyphs = Image.new("L", (math.ceil(right - left), math.ceil(bottom - top)), 0)
        ImageDraw.Draw(glyphs).text((-left, -top), text, fill=255, font=_load_font())
        half = self._side / 2
        box = (max(1, round(width * half)), max(1, round(height * half)))
        x, y = self._convert_to_pixels((centre[0] - width / 2, centre[1] - height / 2))
        self._draw.bitmap((round(x), round(y)), glyphs.resize(box, Image.Resampling.BILINEAR), fill=colour)

    def render_picture(self) -> np.ndarray:
        """Return the canvas averaged to its final size: float32 in [0, 1], (H, W, 3) or (H, W)."""
        return np.asarray(self._image.reduce(_SUPERSAMPLING), dtype=np.float32) / 255.0
