"""Accuracy on corrupted images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from robustbench_local.reports.analysis.corruption_results import CorruptionMap, build_corruption_maps
from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.formatting.markdown_tables import escape_markdown, render_table
from robustbench_local.reports.formatting.text import (
    format_estimate,
)
from robustbench_local.reports.sections.parts import (
    encode_entry,
    format_entry,
)
from robustbench_local.reports.sections.section import JsonDict, Section
from robustbench_local.store import RunStore

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class CorruptionsSection(Section[tuple[CorruptionMap, ...]]):
    """Accuracy of each model by corruption and severity."""

    anchor = "corruptions"
    title = "Common corruptions"
    link_text = "Corruptions"
    template = "corruptions.html.j2"

    def build_content(self, evidence: Evidence, store: RunStore) -> tuple[CorruptionMap, ...]:
        """Build one map per model."""
        return build_corruption_maps(evidence)

    def to_markdown(self, content: tuple[CorruptionMap, ...], evidence: Evidence) -> Iterable[str]:
        """Render a table of means, and one table per model."""
        return _render_corruptions(content)

    def to_json(self, evidence: Evidence) -> JsonDict:
        """Encode ``corruptions``."""
        return {
            "corruptions": [
                _encode_corruption(corruption_map) for corruption_map in build_corruption_maps(evidence)
            ]
        }

    def draw_figures(
        self, content: tuple[CorruptionMap, ...], names: Mapping[EvaluatedModel, str]
    ) -> Iterator[tuple[str, Figure]]:
        """Draw one figure per model."""
        from robustbench_local.reports.figures.share_tables import draw_corruptions

        for number, corruption_map in enumerate(content, start=1):
            yield f"corruptions-{number}.png", draw_corruptions(corruption_map, names)


CORRUPTIONS = CorruptionsSection()


def _render_corruptions(maps: Sequence[CorruptionMap]) -> list[str]:
    severities = [f"severity {severity}" for severity in maps[0].severities]
    text = "Average case, no adversary: accuracy over all images, by corruption and severity."
    lines = ["## Common corruptions", "", text, ""]
    means = (
        [
            escape_markdown(str(corruption_map.subject)),
            format_estimate(corruption_map.clean_accuracy),
            *map(format_entry, (*corruption_map.mean_row.entries, corruption_map.mean_row.mean_entry)),
        ]
        for corruption_map in maps
    )
    lines += [*render_table(["mean over corruptions", "clean", *severities, "all severities"], means), ""]
    for corruption_map in maps:
        rows = (
            [escape_markdown(row.label), *map(format_entry, (*row.entries, row.mean_entry))]
            for row in (*corruption_map.rows, corruption_map.mean_row)
        )
        lines += [
            *render_table([escape_markdown(str(corruption_map.subject)), *severities, "mean"], rows),
            "",
        ]
    return lines


def _encode_corruption(corruption_map: CorruptionMap) -> JsonDict:
    return {
        "model": corruption_map.subject.model,
        "defense": corruption_map.subject.defense,
        "clean_accuracy": corruption_map.clean_accuracy.to_json(),
        "severities": list(corruption_map.severities),
        "corruptions": [row.label for row in corruption_map.rows],
        "accuracy": [[encode_entry(entry) for entry in row.entries] for row in corruption_map.rows],
        "mean_by_severity": [encode_entry(entry) for entry in corruption_map.mean_row.entries],
        "mean_by_corruption": [encode_entry(row.mean_entry) for row in corruption_map.rows],
        "mean": encode_entry(corruption_map.mean_row.mean_entry),
        "complete": not corruption_map.mean_row.mean_entry.reason,
    }
