"""File names made from names that users give."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

MAX_SLUG_CHARACTERS = 60
_OTHER_CHARACTERS = re.compile(r"[^a-z0-9.]+")


def make_slugs(names: Iterable[str]) -> list[str]:
    """Make one file name for each name: lower case, ASCII letters, digits, dots and hyphens, no two equal.

    A name without any such character becomes ``model``; of two equal file names the later gets a number.
    """
    slugs: list[str] = []
    for name in names:
        slug = _make_slug(name)
        number, unique = 1, slug
        while unique in slugs:
            number += 1
            unique = f"{slug}-{number}"
        slugs.append(unique)
    return slugs


def _make_slug(name: str) -> str:
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return _OTHER_CHARACTERS.sub("-", plain)[:MAX_SLUG_CHARACTERS].strip("-.") or "model"
