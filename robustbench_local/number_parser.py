"""Parsing and formatting of numbers in grids, cards, commands and tables: ``0.3``, ``1e-2``, ``8/255``."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import Any

_DECIMAL = r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?"
_NUMBER = re.compile(rf"[ \t]*([+-]?{_DECIMAL})[ \t]*(?:/[ \t]*({_DECIMAL})[ \t]*)?")
_MAX_CHARACTERS = 64
"""Longest text that is parsed."""


def parse_number(value: Any) -> float:
    """Parse a number, or a fraction of two decimals such as ``"8/255"``, rounded once, at the end.

    Spaces may surround the numbers and the slash, but never split a number; digits are ASCII. Hexadecimal
    numbers, underscores, ``nan``, ``inf`` and booleans are not accepted.

    Args:
        value: A text, or anything that ``float`` takes.

    Returns:
        The nearest float; finite.

    Raises:
        ValueError: If it is not such a number, is not finite, or is too small for a float.
    """
    if isinstance(value, bool):
        raise ValueError("a boolean is not a number")  # noqa: TRY004 - pydantic reports ValueErrors
    try:
        number = _parse_fraction(value) if isinstance(value, str) else float(value)
    except (TypeError, OverflowError, ZeroDivisionError) as error:
        raise ValueError(str(error)) from None
    if not math.isfinite(number):
        raise ValueError("it is not finite")
    return number


def _parse_fraction(text: str) -> float:
    match = _NUMBER.fullmatch(text) if len(text) <= _MAX_CHARACTERS else None
    if match is None:
        raise ValueError("it is not a number or a fraction of two")
    exact = Fraction(match[1]) / Fraction(match[2] or 1)
    number = float(exact)
    if exact and not number:
        raise ValueError("it is too small to be told from 0")
    return number


def format_radius(eps: float) -> str:
    """Format a finite radius in the usual notation: ``8/255``, ``0.3``."""
    if math.isclose(eps, round(eps, 3), rel_tol=0, abs_tol=1e-9):
        return f"{eps:.3f}".rstrip("0").rstrip(".")
    levels = eps * 255
    if math.isclose(levels, round(levels), rel_tol=0, abs_tol=1e-4):
        return f"{round(levels)}/255"
    return f"{eps:.4g}"
