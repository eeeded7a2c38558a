"""The images that changed sides: how many, which, and what they look like."""

from __future__ import annotations

from collections.abc import Iterator

from robustbench_local.counted_nouns import format_count
from robustbench_local.reports.analysis.changed_images import ChangedImage, ImageSide
from robustbench_local.reports.analysis.run_comparison import ModelChange, RunComparison
from robustbench_local.reports.formatting.text import redact_private_data
from robustbench_local.reports.sections.comparison.comparison_data import ComparisonData
from robustbench_local.reports.sections.comparison.comparison_section import (
    ComparisonSection,
    TextTable,
    encode_subjects,
    format_subjects,
    list_run_headings,
)
from robustbench_local.reports.sections.section import JsonDict

MAX_LISTED_IMAGES = 40
"""Changed images that the page and Markdown list for each model; compare.json has all of them."""


class ChangedImagesSection(ComparisonSection):
    """Lost and won images of each model's main row."""

    anchor = "images"
    title = "Images that changed sides"
    template = "changed_images.html.j2"
    explanation = (
        "Lost images count in the baseline only, won images in the other run only. Pictures show the "
        "adversarial examples that are stored: the first ones of each kind, not hand-picked."
    )

    def is_shown(self, data: ComparisonData) -> bool:
        """Return whether any image changed sides."""
        return any(model.changed_images for comparison in data.comparisons for model in comparison.models)

    def describe_model(self, data: ComparisonData, comparison: RunComparison, model: ModelChange) -> str:
        """Describe whose images are listed, and how many."""
        lost = sum(image.is_lost for image in model.changed_images)
        parts = [
            comparison.candidate.name if data.has_several_runs else "",
            format_subjects(model.subjects) if data.has_several_models else "",
            model.main_row.threat.name if model.main_row and model.main_row.threat else "",
        ]
        counts = f"{format_count(lost, 'image')} lost, {len(model.changed_images) - lost:,} won"
        return f"{', '.join(filter(None, parts))}: {counts}".removeprefix(": ")

    def list_images(self, model: ModelChange) -> list[ChangedImage]:
        """List the images that are shown."""
        return list(model.changed_images[:MAX_LISTED_IMAGES])

    def describe_hidden_images(self, model: ModelChange) -> str:
        """Describe how many images are not listed; empty if all are."""
        hidden = len(model.changed_images) - MAX_LISTED_IMAGES
        return f"{format_count(hidden, 'more image')}: see compare.json." if hidden > 0 else ""

    def build_tables(self, data: ComparisonData) -> Iterator[TextTable]:
        """Build one table for each model with changed images."""
        for comparison in data.comparisons:
            for model in comparison.models:
                if model.changed_images:
                    yield self._build_table(data, comparison, model)

    def to_json(self, comparison: RunComparison) -> JsonDict:
        """Encode ``changed_images``, all of them."""
        return {
            "changed_images": [
                {
                    **encode_subjects(model.subjects),
                    "image": redact_private_data(image.image),
                    "position": image.position,
                    "label": image.label,
                    "change": name_change(image),
                    "baseline": _encode_side(image.first),
                    "candidate": _encode_side(image.second),
                }
                for model in comparison.models
                for image in model.changed_images
            ]
        }

    def _build_table(self, data: ComparisonData, comparison: RunComparison, model: ModelChange) -> TextTable:
        return TextTable(
            title=self.describe_model(data, comparison, model),
            head=["change", "position", "image", "class", *list_run_headings(data)],
            rows=[
                [
                    name_change(image),
                    f"{image.position:,}",
                    redact_private_data(image.image),
                    image.label,
                    image.first.text,
                    image.second.text,
                ]
                for image in self.list_images(model)
            ],
            notes=list(filter(None, [self.describe_hidden_images(model)])),
        )


CHANGED_IMAGES = ChangedImagesSection()


def name_change(image: ChangedImage) -> str:
    """Name the side that an image changed to."""
    return "lost" if image.is_lost else "won"


def _encode_side(side: ImageSide) -> JsonDict:
    return {"outcome": side.outcome, "prediction": side.prediction, "attack": side.attack or None}
