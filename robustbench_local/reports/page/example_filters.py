"""Style rules with which the filters of the gallery hide rows and tiles, without a script."""

from __future__ import annotations

from robustbench_local.reports.analysis.example_gallery import ExampleGallery
from robustbench_local.reports.sections.examples_section import EXAMPLES

_ROW_FILTERS = frozenset({"Image", "True class"})
"""Filters that hide whole rows; the others hide tiles, and rows without a tile left."""


def build_filter_rules(gallery: ExampleGallery) -> str:
    """Build one rule for each choice of each filter; a browser that does not know ``:has`` shows everything.

    The rules name elements by numbers alone: no text of the run reaches the style sheet.
    """
    rules = []
    for name, choices in EXAMPLES.list_filters(gallery):
        for value, _ in choices:
            chosen = f'.gallery:has(option[value="{value}"]:checked)'
            hidden = f".example-row:not(.{value})"
            if name not in _ROW_FILTERS:
                hidden = f":is(.tile:not(.{value}), .example-row:not(:has(.{value})))"
            rules.append(f"{chosen} {hidden} {{ display: none; }}\n")
    return "".join(rules)
