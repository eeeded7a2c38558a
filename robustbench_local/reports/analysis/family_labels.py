"""Labels of attacks at the heads of columns, which say the budget already."""

from __future__ import annotations

from collections.abc import Iterable

from robustbench_local.reports.analysis.evidence import CellResult


def build_family_labels(cells: Iterable[CellResult]) -> dict[str, str]:
    """Labels for attacks that are shown under their threat: without the budget where that is unambiguous."""
    labels = {cell.record.attack: (cell.family_label, cell.label) for cell in cells}
    families = [family for family, _ in labels.values()]
    return {
        attack: family if families.count(family) == 1 else label for attack, (family, label) in labels.items()
    }
