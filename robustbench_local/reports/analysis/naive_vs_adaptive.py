"""Robust accuracy of a defense under a non-adaptive and under an adaptive attack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from robustbench_local.cluster_statistics import compare_images, estimate_image_share
from robustbench_local.paired_tests import Comparison
from robustbench_local.reports.analysis.cell_result import CellResult
from robustbench_local.reports.analysis.compute_once import collect_once
from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.heatmap import NOT_IN_GRID_REASON, HeatMapEntry, format_status
from robustbench_local.reports.analysis.threat import Threat
from robustbench_local.reports.analysis.trust import format_mark, select_cell_distrust
from robustbench_local.reports.formatting.text import (
    format_count,
    format_estimate,
    format_test,
    isolate_direction,
)
from robustbench_local.statistics import compute_clopper_pearson

NAIVE_VS_ADAPTIVE_EXPLANATION = (
    "Robust accuracy over all images; for a targeted attack, the share that is classified correctly and "
    "does not "
    "reach the goal. The non-adaptive attack is crafted on the model without its defense, the adaptive "
    "attack "
    "through the defense. A difference means that the defense stops only attacks that do not know of it. "
    "Only "
    "the adaptive number measures robustness, and only it counts in worst cases and gates."
)
"""How to read the table."""
NO_DEFENSE = "none"
"""Defense name of a model without a defense."""


@dataclass(frozen=True, kw_only=True)
class NaiveVsAdaptive:
    """One attack on one defended model, unaware of the defense and adaptive."""

    subject: EvaluatedModel
    """The model and defense."""
    attack: str
    """Identifier of the adaptive attack."""
    label: str
    """Label of the adaptive attack in tables."""
    threat: Threat
    """The threat model."""
    undefended: HeatMapEntry
    """Robust accuracy of the model without its defense under the same attack; all three accuracies are
    over the same images if there are images common to all."""
    naive: HeatMapEntry
    """Robust accuracy under candidates crafted on the model without its defense."""
    adaptive: HeatMapEntry
    """Robust accuracy under candidates crafted through the defense."""
    comparison: Comparison | None
    """Comparison of naive and adaptive verdicts on the same images; None unless both are done."""

    @property
    def sentence(self) -> str:
        """The comparison in words."""
        who = f"{isolate_direction(str(self.subject))}, {isolate_direction(self.label)}"
        if self.comparison is None:
            return f"{who}: unknown, because one of the two attacks did not finish."
        seems, left = format_estimate(self.naive.estimate), format_estimate(self.adaptive.estimate)
        numbers = f"robust accuracy {seems} under the non-adaptive attack, {left} under the adaptive attack"
        return f"{who}: {numbers}. {_describe_comparison(self.comparison)}"


@collect_once
def build_naive_vs_adaptive(evidence: Evidence) -> list[NaiveVsAdaptive]:
    """Build one comparison per naive cell of the run, in the order of the grid."""
    cells = {(cell.subject, cell.record.attack): cell for cell in evidence.cells}
    return [_build_comparison(evidence, cell, cells) for cell in evidence.cells if cell.is_naive]


def _build_comparison(
    evidence: Evidence, naive: CellResult, cells: dict[tuple[EvaluatedModel, str], CellResult]
) -> NaiveVsAdaptive:
    attack = naive.record.attack.removesuffix("[naive]")
    adaptive = cells.get((naive.subject, attack))
    without = cells.get((EvaluatedModel(model=naive.record.model, defense=NO_DEFENSE), attack))
    images = _select_common_images([naive, adaptive, without])
    return NaiveVsAdaptive(
        subject=naive.subject,
        attack=attack,
        label=adaptive.label if adaptive else naive.family_label.removesuffix("[naive]"),
        threat=naive.threat,
        undefended=_build_entry(evidence, without, images),
        naive=_build_entry(evidence, naive, images),
        adaptive=_build_entry(evidence, adaptive, images),
        comparison=_compare_verdicts(naive, adaptive),
    )


def _select_common_images(cells: Sequence[CellResult | None]) -> list[str]:
    """Select the images common to all done cells."""
    met = [cell.verdicts for cell in cells if cell is not None and cell.is_done]
    return [image for image in met[0] if all(image in verdicts for verdicts in met)] if met else []


def _compare_verdicts(naive: CellResult, adaptive: CellResult | None) -> Comparison | None:
    if adaptive is None or not (naive.is_done and adaptive.is_done):
        return None
    images = [image for image in naive.verdicts if image in adaptive.verdicts]
    marks = (_mark_robust(naive, images), _mark_robust(adaptive, images))
    return compare_images(*marks, naive.groups) if images else None


def _mark_robust(cell: CellResult, images: Sequence[str]) -> dict[str, bool]:
    return {image: cell.verdicts[image].robust for image in images}


def _build_entry(evidence: Evidence, cell: CellResult | None, images: Sequence[str]) -> HeatMapEntry:
    """Build robust accuracy over these images, or over the cell's own if there are no common images."""
    if cell is None:
        return HeatMapEntry(
            estimate=compute_clopper_pearson(0, 0), status_text="not run", reason=NOT_IN_GRID_REASON
        )
    mark = format_mark(select_cell_distrust(evidence, cell))
    if cell.is_done and images:
        share = estimate_image_share(_mark_robust(cell, images), cell.groups)
        return HeatMapEntry(estimate=share, status_text=format_status(cell), mark=mark)
    return HeatMapEntry(
        estimate=cell.robust_accuracy,
        status_text=format_status(cell),
        reason=cell.problem or "",
        mark=mark,
    )


def _describe_comparison(test: Comparison) -> str:
    basis = f"same {format_count(test.n, 'image')}, {format_test(test)}"
    if not test.is_significant():
        return f"The difference is not significant ({basis}); the adaptive number counts."
    if test.only_second > test.only_first:
        weaker = "The adaptive attack is weaker than the non-adaptive one, so it is not adaptive enough"
        return (
            f"{weaker}: {format_count(test.only_second, 'image')} misclassified only under the other "
            f"({basis})."
        )
    only = (
        f"{format_count(test.only_first, 'image')} robust only while the attack does not know of the defense"
    )
    return f"{only} ({basis})."
