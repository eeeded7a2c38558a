"""Adversarial images beside the clean ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from matplotlib.figure import Figure

from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.analysis.example_gallery import ExampleGallery, ExampleRow, ExampleTile
from robustbench_local.reports.analysis.example_images import ExampleImage
from robustbench_local.reports.figures.layout import (
    fit_text,
)
from robustbench_local.reports.formatting.fonts import select_drawable_text

MAX_EXAMPLES = 8
"""Rows of the figure; the page shows more."""
CAPTION_POINTS, CAPTION_WIDTH_INCHES = 7, 1.5
"""Font size and maximum width of the caption of a picture."""


def draw_examples(gallery: ExampleGallery, names: Mapping[EvaluatedModel, str]) -> Figure:
    """Draw examples image by image, one for each model and attack as long as there is room.

    Each row has the clean image, the adversarial image and the amplified change of one example.
    """
    shown = list(_iterate_examples(gallery))[:MAX_EXAMPLES]
    figure = Figure(figsize=(6.2, 1.45 * len(shown) + 0.3), layout="constrained")
    for number, (row, tile, example) in enumerate(shown):
        pictures = (row.clean_image, example.adversarial_image, example.difference_image)
        captions = [
            select_drawable_text(row.label_name, "its class"),
            f"classified as {select_drawable_text(example.prediction, 'another class')}",
            f"change \N{MULTIPLICATION SIGN} {tile.amplification}",
        ]
        for column, (pixels, caption) in enumerate(zip(pictures, captions, strict=True)):
            axes = figure.add_subplot(len(shown), 3, 3 * number + column + 1)
            axes.imshow(pixels, interpolation="nearest" if len(pixels) < 100 else "antialiased")
            axes.set_axis_off()
            axes.set_title(
                fit_text(caption, CAPTION_WIDTH_INCHES, CAPTION_POINTS), fontsize=CAPTION_POINTS, pad=2
            )
            if column == 0:
                sides = (select_drawable_text(tile.cell.label, "attack"), names[tile.cell.subject])
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


def _iterate_examples(gallery: ExampleGallery) -> Iterator[tuple[ExampleRow, ExampleTile, ExampleImage]]:
    """Iterate over the examples by image, each model and attack once."""
    drawn: set[str] = set()
    for row in gallery.rows:
        for tile in row.tiles:
            if tile.example is not None and tile.cell.record.key not in drawn:
                drawn.add(tile.cell.record.key)
                yield row, tile, tile.example
