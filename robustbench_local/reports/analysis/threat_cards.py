"""What each threat model of a run lets an attacker do, in words and numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from robustbench_local.counted_nouns import format_count
from robustbench_local.reports.analysis.cell_result import CellResult
from robustbench_local.reports.analysis.compute_once import collect_once
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.example_gallery import ExampleGallery, ExampleRow, ExampleTile
from robustbench_local.reports.formatting.text import (
    describe_budget,
    format_budget,
    format_norm,
    format_percent,
    format_size_within,
    isolate_direction,
    join_in_sentence,
)

MAX_NAMED_TARGETS = 3
"""Target classes that a goal names; of more, their number is given."""
_AT_EPS_SHARE = 0.95
"""Share of eps from which on an example is shown as one at eps."""


@dataclass(frozen=True, kw_only=True)
class ThreatCard:
    """A perturbation budget, and what the attacks of the run under it know and spend."""

    name: str
    """Short name, such as ``linf-8``."""
    norm: str
    """``Linf``, ``L2``, ``L1``, ``L0`` or ``spatial``."""
    eps: float
    """Radius in pixel units of [0, 1]; largest angle (spatial)."""
    cells: tuple[CellResult, ...]
    """Its attacks, whatever their status."""
    goals: tuple[str, ...]
    """What counts as a success, in words."""
    budget_notes: tuple[str, ...]
    """The budget in other units, in words."""

    @property
    def title(self) -> str:
        """The budget, as headings name it."""
        return format_budget(self.norm, self.eps)

    @property
    def permission(self) -> str:
        """What the attacker may do, in words that follow "an attacker may"."""
        return describe_budget(self.norm, self.eps)

    @property
    def knowledge(self) -> tuple[str, ...]:
        """What the attackers know of the model, each once."""
        return tuple(dict.fromkeys(cell.attacker_knowledge for cell in self.cells))

    @property
    def attack_labels(self) -> tuple[str, ...]:
        """Labels of the attacks, each once."""
        return tuple(dict.fromkeys(cell.label for cell in self.cells))

    @property
    def image_counts(self) -> tuple[int, int]:
        """Smallest and largest number of images of an attack with outcomes; zeros without any."""
        counts = [cell.tally.n for cell in self.cells if cell.tally.n]
        return min(counts, default=0), max(counts, default=0)

    @property
    def query_range(self) -> tuple[float, float, int] | None:
        """Smallest and largest median of the forward passes per attacked image, and their largest number.

        None without outcomes.
        """
        stats = [cell.query_stats for cell in self.cells]
        medians = [one.median for one in stats if one.median is not None]
        if not medians:
            return None
        return min(medians), max(medians), max(one.largest or 0 for one in stats)


@dataclass(frozen=True, kw_only=True)
class ThreatExample:
    """An adversarial example of a threat model."""

    row: ExampleRow
    """The image."""
    tile: ExampleTile
    """The attack on the model, with the example."""
    is_at_eps: bool
    """Whether its change uses the whole budget, within 5%."""


@collect_once
def build_threat_cards(evidence: Evidence) -> Iterator[ThreatCard]:
    """Build one card for each budget of an attacker, in the order of the grid.

    Corruptions have no attacker, stickers a section of their own, and certificates no attack.
    """
    cells = [
        cell
        for cell in evidence.attack_cells
        if not (cell.is_corruption or cell.is_sticker or cell.is_self_transfer)
    ]
    for name, norm, eps in dict.fromkeys(map(_get_budget, cells)):
        own = [cell for cell in cells if _get_budget(cell) == (name, norm, eps)]
        yield ThreatCard(
            name=name,
            norm=norm,
            eps=eps,
            cells=tuple(own),
            goals=tuple(dict.fromkeys(_describe_goal(evidence, cell) for cell in own)),
            budget_notes=tuple(describe_units(norm, eps, evidence.data.get("image_shape") or ())),
        )


def find_threat_example(gallery: ExampleGallery, card: ThreatCard) -> ThreatExample | None:
    """Find the first example of a threat model that uses its whole budget, else the largest one.

    Args:
        gallery: The images whose examples the report shows.
        card: The threat model.
    """
    keys = {cell.record.key for cell in card.cells}
    largest, example = -1.0, None
    for row in gallery.rows:
        for tile in row.tiles:
            if tile.example is None or tile.cell.record.key not in keys:
                continue
            share = _compute_budget_share(tile, card)
            if share > largest and largest < _AT_EPS_SHARE:
                largest = share
                example = ThreatExample(row=row, tile=tile, is_at_eps=share >= _AT_EPS_SHARE)
    return example


def describe_units(norm: str, eps: float, image_shape: Sequence[Any]) -> Iterator[str]:
    """Describe a budget in other units: 255ths, the share of the range, and the mean change of a value.

    Args:
        norm: The norm or family.
        eps: Its radius in pixel units of [0, 1].
        image_shape: (C, H, W) of the images; empty if the run did not record it.
    """
    values = math.prod(map(int, image_shape)) if image_shape else 0
    if norm == "Linf":
        yield f"{255 * eps:.3g} of the 255 steps of an 8-bit channel, {format_percent(eps)} of its range"
    elif norm == "L2":
        yield f"{255 * eps:,.4g}/255 as the length of the change"
        if values:
            mean = 255 * eps / math.sqrt(values)
            yield f"spread evenly, {mean:.2g}/255 in each of the {values:,} values of an image"
    elif norm == "L1":
        yield f"{255 * eps:,.4g}/255 as the sum of all changes"
        if values:
            yield f"spread evenly, {255 * eps / values:.2g}/255 in each of the {values:,} values of an image"
    elif norm == "L0" and image_shape:
        pixels = math.prod(map(int, image_shape[-2:]))
        yield f"{format_percent(eps / pixels)} of the {pixels:,} pixels of an image"


def _get_budget(cell: CellResult) -> tuple[str, str, float]:
    return cell.record.threat, cell.record.norm, cell.record.eps


def _describe_goal(evidence: Evidence, cell: CellResult) -> str:
    record = cell.record
    names = [isolate_direction(evidence.get_class_name(record.model, label)) for label in record.targets]
    sources = [isolate_direction(evidence.get_class_name(record.model, label)) for label in record.sources]
    whose = f"images of {_join_classes(sources)}" if sources else "any image"
    if not names:
        return f"{whose} misclassified as any other class"
    return f"{whose} misclassified as {_join_classes(names)}"


def _join_classes(names: Sequence[str]) -> str:
    if len(names) <= MAX_NAMED_TARGETS:
        return join_in_sentence(names)
    return f"one of {format_count(len(names), 'class')}"


def _compute_budget_share(tile: ExampleTile, card: ThreatCard) -> float:
    """Compute the share of the budget that an example uses; 0 if its size in the norm is not recorded."""
    if tile.example is None:
        return 0.0
    sizes = tile.cell.success_norms.get(tile.image_id, {})
    return sizes[card.norm] / card.eps if card.norm in sizes and card.eps else 0.0


def format_example_size(example: ThreatExample, card: ThreatCard) -> str:
    """Format the size of an example's change in the norm of its budget; empty if it is not recorded."""
    sizes = example.tile.cell.success_norms.get(example.tile.image_id, {})
    if card.norm not in sizes:
        return ""
    return f"{format_norm(card.norm)} {_format_size(card, sizes[card.norm])}"


def _format_size(card: ThreatCard, size: float) -> str:
    return format_size_within(size, card.eps) if card.norm == "Linf" else f"{size:.3g}"
