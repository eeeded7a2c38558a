"""Numbers as people write them in grids, cards, commands and tables: ``0.3``, ``1e-2``, ``8/255``."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import Any

_DECIMAL = r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?"
_NUMBER = re.compile(rf"[ \t]*([+-]?{_DECIMAL})[ \t]*(?:/[ \t]*({_DECIMAL})[ \t]*)?")
_MAX_CHARACTERS = 64
"""A longer text is no number that anybody wrote."""


def parse_number(value: Any) -> float:
    """Read a number, or a fraction of two decimals such as ``"8/255"``, rounded once, at the end.

    Spaces may stand around the numbers and the stroke, never inside a number; digits are ASCII. Hexadecimal
    numbers, underscores, ``nan``, ``inf`` and truth values are no numbers here.

    Args:
        value: A text, or anything that ``float`` takes.

    Returns:
        The nearest float; finite.

    Raises:
        ValueError: If it is not such a number, its value is not finite, or it is not 0 but would become it.
    """
    if isinstance(value, bool):
        raise ValueError("a truth value is not a number")  # noqa: TRY004 - pydantic reports ValueErrors
    try:
        number = _parse_fraction(value) if isinstance(value, str) else float(value)
    except (TypeError, OverflowError, ZeroDivisionError) as error:
        raise ValueError(str(error)) from None
    if not math.isfinite(number):
        raise ValueError("it is not finite")
    return number


def _parse_fraction(text: str) -> float:
    found = _NUMBER.fullmatch(text) if len(text) <= _MAX_CHARACTERS else None
    if found is None:
        raise ValueError("it is not a number or a fraction of two")
    exact = Fraction(found[1]) / Fraction(found[2] or 1)
    number = float(exact)
    if exact and not number:
        raise ValueError("it is too small to be told from 0")
    return number


def format_radius(eps: float) -> str:
    """A finite radius as people write it: ``8/255``, ``0.3``."""
    if math.isclose(eps, round(eps, 3), rel_tol=0, abs_tol=1e-9):
        return f"{eps:.3f}".rstrip("0").rstrip(".")
    levels = eps * 255
    if math.isclose(levels, round(levels), rel_tol=0, abs_tol=1e-4):
        return f"{round(levels)}/255"
    return f"{eps:.4g}"
