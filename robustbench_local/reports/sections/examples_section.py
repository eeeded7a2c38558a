"""Adversarial examples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.example_images import (
    EXAMPLE_SELECTION_RULE,
    CellExamples,
    build_cell_examples,
)
from robustbench_local.reports.sections.section import Section
from robustbench_local.store import RunStore

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class ExamplesSection(Section[tuple[CellExamples, ...]]):
    """Adversarial images beside the clean ones: on the page and as a figure."""

    anchor = "examples"
    title = "Adversarial examples"
    link_text = "Examples"
    template = "examples.html.j2"
    has_photographs = True
    example_selection_rule = EXAMPLE_SELECTION_RULE

    def build_content(self, evidence: Evidence, store: RunStore) -> tuple[CellExamples, ...]:
        """Build the examples of each cell that stores images."""
        return tuple(build_cell_examples(store, evidence))

    def group_by_attack(self, content: tuple[CellExamples, ...]) -> dict[str, list[CellExamples]]:
        """Group the examples of all models by attack."""
        groups: dict[str, list[CellExamples]] = {}
        for examples in content:
            groups.setdefault(examples.cell.record.attack, []).append(examples)
        return groups

    def draw_figures(
        self, content: tuple[CellExamples, ...], names: Mapping[EvaluatedModel, str]
    ) -> Iterator[tuple[str, Figure]]:
        """Draw one figure for the run."""
        from robustbench_local.reports.figures.examples_figure import draw_examples

        yield "examples.png", draw_examples(content, names)


EXAMPLES = ExamplesSection()
