"""Characters that the installed fonts can draw; names come in every script (fault F70)."""

from __future__ import annotations

import unicodedata
from functools import cache

import matplotlib as mpl
from matplotlib import font_manager

from robustbench_local.reports.formatting.text import shorten_text as shorten_text  # noqa: PLC0414 - for figures

_FALLBACK_FONTS = (
    "DejaVu Sans",
    "Noto Sans CJK SC",
    "Noto Sans SC",
    "Source Han Sans SC",
    "WenQuanYi Zen Hei",
    "Microsoft YaHei",
    "PingFang SC",
    "Hiragino Sans",
    "Noto Sans Arabic",
    "Noto Sans Hebrew",
    "Noto Sans Devanagari",
    "Noto Sans Symbols 2",
    "Arial Unicode MS",
)
"""Fonts tried for each character, if installed; the first comes with matplotlib."""


MAX_NAME_CHARACTERS = 40
"""Characters of a name in a figure: about three inches. The page and the tables have the whole name."""


@cache
def list_font_names() -> list[str]:
    """List the installed fonts in the order in which they are tried."""
    installed = set(font_manager.get_font_names())
    return [name for name in _FALLBACK_FONTS if name in installed]


def select_drawable_text(text: str, fallback: str, max_characters: int = MAX_NAME_CHARACTERS) -> str:
    """Return the text if the installed fonts can draw it, else the fallback.

    Args:
        text: A name of any length.
        fallback: Replacement for a text that cannot be drawn.
        max_characters: Longest text that is drawn whole; a longer one loses its middle.
    """
    plain = shorten_text(" ".join(text.split()), max_characters)
    # Before matplotlib 3.11 right-to-left text was drawn in the wrong order.
    backwards = any(unicodedata.bidirectional(sign) in {"R", "AL"} for sign in plain)
    ordered = not backwards or mpl.__version_info__[:2] >= (3, 11)
    return plain if plain and ordered and all(ord(sign) in _list_glyphs() for sign in plain) else fallback


@cache
def _list_glyphs() -> frozenset[int]:
    """List the characters that at least one of the fonts has."""
    files = (font_manager.findfont(name, fallback_to_default=False) for name in list_font_names())
    return frozenset(code for file in files for code in font_manager.get_font(file).get_charmap())
