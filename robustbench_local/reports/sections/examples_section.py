"""Adversarial examples: each image under every model and attack."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from robustbench_local.counted_nouns import format_count
from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.example_gallery import (
    MAX_CELLS,
    ROW_SELECTION_RULE,
    ExampleGallery,
    ExampleRow,
    ExampleTile,
    get_example_gallery,
)
from robustbench_local.reports.sections.section import Section
from robustbench_local.store import RunStore

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class ExamplesSection(Section[ExampleGallery]):
    """Adversarial images beside the clean ones: on the page with filters, and as a figure."""

    anchor = "examples"
    title = "Adversarial examples"
    link_text = "Examples"
    template = "examples.html.j2"
    has_photographs = True
    unfolded_rows = 2
    """Rows that are unfolded when the page opens."""
    explanation = (
        "Each row is one image, under every model and attack; they are not hand-picked. The change is the "
        "adversarial example minus the clean image, amplified around middle grey."
    )

    def build_content(self, evidence: Evidence, store: RunStore) -> ExampleGallery:
        """Choose the images and read their adversarial examples."""
        return get_example_gallery(store, evidence)

    def describe_sample(self, content: ExampleGallery) -> str:
        """Describe which images are shown, of how many."""
        images = format_count(content.candidate_count, "image")
        sentence = f"Shown: {len(content.rows):,} of {images} with a successful attack: {ROW_SELECTION_RULE}."
        if content.cell_count > MAX_CELLS:
            sentence += f" Of {content.cell_count:,} models and attacks the first {MAX_CELLS} are shown."
        return sentence

    def list_filters(self, content: ExampleGallery) -> list[tuple[str, list[tuple[str, str]]]]:
        """List the filters: name, and each choice as the class of its elements and its text."""
        filters: list[tuple[str, list[tuple[str, str]]]] = [
            ("Image", [(f"i{row.number}", f"{row.number}: {row.image}") for row in content.rows]),
            ("True class", [(f"c{label}", name) for label, name in content.classes.items()]),
            ("Model", [(f"m{index}", str(subject)) for index, subject in enumerate(content.subjects)]),
            ("Attack", [(f"a{index}", label) for index, label in enumerate(content.attacks.values())]),
            ("Outcome", [(f"o{index}", outcome) for index, outcome in enumerate(content.outcomes)]),
        ]
        return [(name, choices) for name, choices in filters if len(choices) > 1]

    def list_row_classes(self, row: ExampleRow) -> str:
        """List the classes of a row by which filters hide it."""
        return f"i{row.number} c{row.label}"

    def list_tile_classes(self, content: ExampleGallery, tile: ExampleTile) -> str:
        """List the classes of a tile by which filters hide it."""
        model = content.subjects.index(tile.cell.subject)
        attack = list(content.attacks).index(tile.cell.record.attack)
        return f"m{model} a{attack} o{content.outcomes.index(tile.outcome)}"

    def draw_figures(
        self, content: ExampleGallery, names: Mapping[EvaluatedModel, str]
    ) -> Iterator[tuple[str, Figure]]:
        """Draw one figure for the run."""
        from robustbench_local.reports.figures.examples_figure import draw_examples

        yield "examples.png", draw_examples(content, names)


EXAMPLES = ExamplesSection()
