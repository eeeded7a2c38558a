"""Traffic signs in mint condition: outline and front view of each class, drawn from geometry.

The figures follow the German signs of the Vienna convention closely enough to be recognized, but they are
not exact to the millimeter.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from robustbench_local.data.rendered_signs.sign_pen import Pen, Point, build_regular_polygon

_RED = (196, 26, 34)
_BLUE = (16, 82, 168)
_YELLOW = (250, 190, 20)
_WHITE = (240, 240, 238)
_GREY = (120, 120, 122)
_BLACK = (24, 24, 26)

_SPEEDS = {0: "20", 1: "30", 2: "50", 3: "60", 4: "70", 5: "80", 7: "100", 8: "120"}

# Sign units, see sign_pen: the outline touches the edge of the canvas where the shape allows.
_CIRCLE = build_regular_polygon(72, 0.99, 0.0)
_OCTAGON = build_regular_polygon(8, 0.99 / math.cos(math.pi / 8), 22.5)
_DIAMOND = build_regular_polygon(4, 0.99, 0.0)
_ROUNDING = 0.1
_TRIANGLE = [(0.0, -0.74), (0.87, 0.76), (-0.87, 0.76)]


@dataclass(frozen=True)
class FrontView:
    """A sign seen from the front, in even light.

    Attributes:
        rgb: float32 (S, S, 3) in [0, 1]; black outside the outline.
        alpha: float32 (S, S) in [0, 1]; 1 inside the outline.
        outline: Corners of the outline in sign units, [-1, 1], y down.
    """

    rgb: np.ndarray
    alpha: np.ndarray
    outline: tuple[Point, ...]


def _draw_prohibition(pen: Pen) -> None:
    pen.draw_disc((0, 0), 0.99, _WHITE)
    pen.draw_disc((0, 0), 0.95, _RED)
    pen.draw_disc((0, 0), 0.74, _WHITE)


def _build_speed_limit(speed: str) -> Callable[[Pen], None]:
    def draw(pen: Pen) -> None:
        _draw_prohibition(pen)
        pen.draw_text(
            speed, (0, 0), 1.06 if len(speed) == 2 else 1.22, 0.72 if len(speed) == 2 else 0.62, _BLACK
        )

    return draw


def _draw_no_entry(pen: Pen) -> None:
    pen.draw_disc((0, 0), 0.99, _WHITE)
    pen.draw_disc((0, 0), 0.95, _RED)
    pen.draw_polygon([(-0.72, -0.2), (0.72, -0.2), (0.72, 0.2), (-0.72, 0.2)], _WHITE)


def _build_end_of_limit(speed: str) -> Callable[[Pen], None]:
    def draw(pen: Pen) -> None:
        pen.draw_disc((0, 0), 0.99, _BLACK)
        pen.draw_disc((0, 0), 0.94, _WHITE)
        if speed:
            pen.draw_text(speed, (0, 0), 1.06, 0.72, _GREY)
        for shift in (-0.24, -0.12, 0.0, 0.12, 0.24):
            reach = 0.62
            start, end = (-reach + shift, reach + shift), (reach + shift, -reach + shift)
            pen.draw_path([start, end], 0.055, _BLACK)

    return draw


def _draw_triangle(pen: Pen) -> None:
    pen.draw_polygon(_TRIANGLE, _WHITE, _ROUNDING)
    pen.draw_polygon(_TRIANGLE, _RED, _ROUNDING - 0.03)
    pen.draw_polygon([(0.0, -0.42), (0.55, 0.54), (-0.55, 0.54)], _WHITE, 0.03)


def _draw_caution(pen: Pen) -> None:
    _draw_triangle(pen)
    pen.draw_polygon([(-0.12, -0.22), (0.12, -0.22), (0.07, 0.22), (-0.07, 0.22)], _BLACK, 0.02)
    pen.draw_disc((0, 0.41), 0.105, _BLACK)


def _draw_right_of_way(pen: Pen) -> None:
    _draw_triangle(pen)
    pen.draw_path([(-0.27, 0.2), (0.27, 0.2)], 0.12, _BLACK)
    pen.draw_arrow([(0, 0.46), (0, -0.3)], 0.2, 0.26, _BLACK)


def _draw_yield(pen: Pen) -> None:
    pen.draw_polygon([(x, -y) for x, y in _TRIANGLE], _WHITE, _ROUNDING)
    pen.draw_polygon([(x, -y) for x, y in _TRIANGLE], _RED, _ROUNDING - 0.03)
    pen.draw_polygon([(0.0, 0.42), (0.55, -0.54), (-0.55, -0.54)], _WHITE, 0.03)


def _draw_priority_road(pen: Pen) -> None:
    pen.draw_polygon(_DIAMOND, _BLACK)
    pen.draw_polygon(build_regular_polygon(4, 0.94, 0.0), _WHITE)
    pen.draw_polygon(build_regular_polygon(4, 0.64, 0.0), _BLACK)
    pen.draw_polygon(build_regular_polygon(4, 0.60, 0.0), _YELLOW)


def _draw_stop(pen: Pen) -> None:
    pen.draw_polygon(_OCTAGON, _WHITE)
    pen.draw_polygon([(0.93 * x, 0.93 * y) for x, y in _OCTAGON], _RED)
    pen.draw_text("STOP", (0, 0), 1.52, 0.62, _WHITE)


def _draw_mandatory(pen: Pen) -> None:
    pen.draw_disc((0, 0), 0.99, _WHITE)
    pen.draw_disc((0, 0), 0.95, _BLUE)


def _build_arrows(*paths: list[Point]) -> Callable[[Pen], None]:
    def draw(pen: Pen) -> None:
        _draw_mandatory(pen)
        for path in paths:
            pen.draw_arrow(path, 0.24, 0.42, _WHITE)

    return draw


def _draw_roundabout(pen: Pen) -> None:
    _draw_mandatory(pen)
    for start in (10.0, 130.0, 250.0):
        # Right-hand traffic circulates counterclockwise: angles decrease, because y points down.
        arc = [build_regular_polygon(1, 0.55, start - angle)[0] for angle in range(0, 70, 7)]
        pen.draw_path(arc, 0.18, _WHITE)
        tip, base = start - 100.0, start - 62.0
        corners = [build_regular_polygon(1, r, a)[0] for r, a in ((0.55, tip), (0.82, base), (0.28, base))]
        pen.draw_polygon(corners, _WHITE)


def _mirror_path(path: list[Point]) -> list[Point]:
    return [(-x, y) for x, y in path]


_UP: list[Point] = [(0.0, 0.72), (0.0, -0.74)]
_TURN: list[Point] = [(-0.3, 0.7), (-0.3, -0.12), (0.74, -0.12)]
_KEEP: list[Point] = [(-0.46, -0.46), (0.56, 0.56)]
_FORK_UP: list[Point] = [(-0.22, 0.72), (-0.22, -0.76)]
_FORK_SIDE: list[Point] = [(-0.22, 0.28), (0.72, 0.28)]

_DRAWINGS: dict[int, tuple[list[Point], Callable[[Pen], None]]] = {
    **{label: (_CIRCLE, _build_speed_limit(speed)) for label, speed in _SPEEDS.items()},
    6: (_CIRCLE, _build_end_of_limit("80")),
    11: (_TRIANGLE, _draw_right_of_way),
    12: (_DIAMOND, _draw_priority_road),
    13: ([(x, -y) for x, y in _TRIANGLE], _draw_yield),
    14: (_OCTAGON, _draw_stop),
    15: (_CIRCLE, _draw_prohibition),
    17: (_CIRCLE, _draw_no_entry),
    18: (_TRIANGLE, _draw_caution),
    32: (_CIRCLE, _build_end_of_limit("")),
    33: (_CIRCLE, _build_arrows(_TURN)),
    34: (_CIRCLE, _build_arrows(_mirror_path(_TURN))),
    35: (_CIRCLE, _build_arrows(_UP)),
    36: (_CIRCLE, _build_arrows(_FORK_UP, _FORK_SIDE)),
    37: (_CIRCLE, _build_arrows(_mirror_path(_FORK_UP), _mirror_path(_FORK_SIDE))),
    38: (_CIRCLE, _build_arrows(_KEEP)),
    39: (_CIRCLE, _build_arrows(_mirror_path(_KEEP))),
    40: (_CIRCLE, _draw_roundabout),
}

#: GTSRB ids of the classes that can be drawn, ascending.
DRAWN_CLASSES: tuple[int, ...] = tuple(sorted(_DRAWINGS))


@lru_cache(maxsize=128)
def render_front_view(label: int, size: int) -> FrontView:
    """Draw one class from the front.

    Args:
        label: GTSRB id, one of ``DRAWN_CLASSES``.
        size: Side in pixels, at least 8.

    Returns:
        The picture, its coverage and its outline; the arrays are cached and read-only.

    Raises:
        KeyError: If the class is not drawn.
    """
    outline, draw = _DRAWINGS[label]
    picture, cover = Pen(size), Pen(size, "L")
    draw(picture)
    cover.draw_polygon(outline, 255, _ROUNDING if len(outline) == 3 else 0.0)
    view = FrontView(picture.render_picture(), cover.render_picture(), tuple(outline))
    view.rgb.setflags(write=False)
    view.alpha.setflags(write=False)
    return view
