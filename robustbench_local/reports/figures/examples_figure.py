"""Adversarial images beside the clean ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.analysis.example_images import CellExamples
from robustbench_local.reports.figures.layout import (
    fit_text,
)
from robustbench_local.reports.formatting.fonts import select_drawable_text

MAX_EXAMPLES = 8
"""Rows of the gallery figure; the page shows more."""
CAPTION_POINTS, CAPTION_WIDTH_INCHES = 7, 1.5
"""Font size and maximum width of the caption of a picture."""


def draw_examples(all_examples: Sequence[CellExamples], names: Mapping[EvaluatedModel, str]) -> Figure:
    """Draw one example per cell: the clean image, the adversarial image and the amplified change."""
    shown = [
        (cell_examples, example) for cell_examples in all_examples for example in cell_examples.examples[:1]
    ][:MAX_EXAMPLES]
    figure = Figure(figsize=(6.2, 1.45 * len(shown) + 0.3), layout="constrained")
    for number, (cell_examples, example) in enumerate(shown):
        pictures = (example.clean_image, example.adversarial_image, example.difference_image)
        label = select_drawable_text(example.label, "its class")
        captions = [
            label,
            f"classified as {select_drawable_text(example.prediction, 'another class')}",
            f"change \N{MULTIPLICATION SIGN} {cell_examples.amplification}",
        ]
        for column, (pixels, caption) in enumerate(zip(pictures, captions, strict=True)):
            axes = figure.add_subplot(len(shown), 3, 3 * number + column + 1)
            axes.imshow(pixels, interpolation="nearest" if len(pixels) < 100 else "antialiased")
            axes.set_axis_off()
            axes.set_title(
                fit_text(caption, CAPTION_WIDTH_INCHES, CAPTION_POINTS), fontsize=CAPTION_POINTS, pad=2
            )
            if column == 0:
                sides = (
                    select_drawable_text(cell_examples.cell.label, "attack"),
                    names[cell_examples.cell.subject],
                )
                text = "\n".join(fit_text(side, CAPTION_WIDTH_INCHES, CAPTION_POINTS) for side in sides)
                axes.text(
                    -0.15,
                    0.5,
                    text,
                    transform=axes.transAxes,
                    ha="right",
                    va="center",
                    fontsize=CAPTION_POINTS,
                )
    return figure
