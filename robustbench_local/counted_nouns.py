"""Numbers with their nouns and verbs in messages: ``1 image is``, ``2 images are``."""

from __future__ import annotations


def format_count(number: int, noun: str, plural: str | None = None) -> str:
    """Format a number with its noun: ``1 image``, ``12,000 images``, ``2 classes``."""
    return f"{number:,} {choose_form(number, noun, plural or _build_plural(noun))}"


def choose_form(number: int, singular: str, plural: str) -> str:
    """Choose the form of a verb or a noun that goes with a number: ``is`` or ``are``."""
    return singular if number == 1 else plural


def _build_plural(noun: str) -> str:
    if noun.endswith("y") and noun[-2:-1] not in set("aeiou"):
        return f"{noun[:-1]}ies"
    return f"{noun}es" if noun.endswith(("s", "x", "ch", "sh")) else f"{noun}s"
