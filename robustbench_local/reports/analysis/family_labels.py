"""Labels of attacks at the heads of columns, without the budget that the column states."""

from __future__ import annotations

from collections.abc import Iterable

from robustbench_local.reports.analysis.cell_result import CellResult


def build_family_labels(cells: Iterable[CellResult]) -> dict[str, str]:
    """Build labels of attacks shown under their threat model: without the budget if unambiguous."""
    labels = {cell.record.attack: (cell.family_label, cell.label) for cell in cells}
    families = [family for family, _ in labels.values()]
    return {
        attack: family if families.count(family) == 1 else label for attack, (family, label) in labels.items()
    }
