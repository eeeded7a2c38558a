"""The figures that a model card states: one list for its table and its metadata."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from robustbench_local.counted_nouns import format_count
from robustbench_local.reports.analysis.cell_result import CellResult
from robustbench_local.reports.analysis.certified_accuracy import CertifiedCell
from robustbench_local.reports.analysis.corruption_results import build_corruption_maps
from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.heatmap import format_status
from robustbench_local.reports.analysis.stop_targets import StoppedEstimate, list_stopped_estimates
from robustbench_local.reports.analysis.targeted_goal import format_goal_classes
from robustbench_local.reports.analysis.trust import (
    VOID_WORD,
    format_mark,
    select_blocks,
    select_cell_distrust,
    select_distrust,
)
from robustbench_local.reports.analysis.worst_case import WorstCase
from robustbench_local.sequential_decision import SEQUENCE_ERROR
from robustbench_local.statistics import Estimate


@dataclass(frozen=True, kw_only=True)
class ModelFigure:
    """One share of one model, with all that a reader needs to judge it."""

    metric: str
    """``clean_accuracy``, ``robust_accuracy``, ``certified_accuracy``, ``attack_success`` or
    ``corruption_accuracy``."""
    name: str
    """What was measured, in words."""
    estimate: Estimate
    """The share with its interval."""
    attacks: tuple[str, ...] = ()
    """Labels of the attacks or certificates behind it."""
    status_text: str = ""
    """Why it is not known; empty if it is."""
    caveat: str = ""
    """What a reader must know beside the number; empty if nothing."""
    level: float = 0.95
    """Confidence of the interval."""

    @property
    def is_void(self) -> bool:
        """Whether a diagnostic forbids the number."""
        return self.caveat.startswith(VOID_WORD)


def list_model_figures(evidence: Evidence, subject: EvaluatedModel) -> list[ModelFigure]:
    """List the figures of a model: clean, under attack, certified, targeted, corrupted."""
    own = [cell for cell in evidence.cells if cell.subject == subject]
    stopped = [one for one in list_stopped_estimates(evidence) if one.subject == subject]
    known = {one.threat for one in stopped}
    worst_cases = [one for one in evidence.worst_cases if one.subject == subject and one.threat not in known]
    return [
        ModelFigure(
            metric="clean_accuracy",
            name="Accuracy without attack",
            estimate=evidence.compute_clean_accuracy(subject),
            caveat=format_mark(select_blocks(evidence, subject)),
        ),
        *(_make_worst_figure(evidence, one) for one in worst_cases),
        *(_make_stopped_figure(evidence, one) for one in stopped),
        *(_make_certified_figure(evidence, cell) for cell in own if cell.is_certificate),
        *_list_targeted_figures(evidence, own),
        *_list_corruption_figures(evidence, subject),
    ]


def _make_worst_figure(evidence: Evidence, worst: WorstCase) -> ModelFigure:
    mark = format_mark(select_distrust(evidence, worst.subject, worst.threat))
    missing = f"without {', '.join(worst.missing_attack_labels)}, so it may be too high"
    return ModelFigure(
        metric="robust_accuracy",
        name=f"Robust accuracy under {worst.threat}",
        estimate=worst.robust_accuracy,
        attacks=worst.attack_labels,
        status_text="" if worst.robust_accuracy.is_known else "no attack has finished",
        caveat="; ".join(filter(None, [mark, missing if worst.missing_attacks else ""])),
    )


def _make_stopped_figure(evidence: Evidence, one: StoppedEstimate) -> ModelFigure:
    """State the worst case of a run that stopped early, as its report does."""
    population = format_count(one.state.interval.population, "image")
    about = f"among all {population} of the data" if one.is_about_data else "over images like these"
    level = 1 - SEQUENCE_ERROR if one.is_about_data else 0.95
    caveat = f"stopped early: a {100 * level:g}% interval {about}, valid whenever the run stops"
    mark = format_mark(select_distrust(evidence, one.subject, one.threat))
    return ModelFigure(
        metric="robust_accuracy",
        name=f"Robust accuracy under {one.threat}",
        estimate=one.stated,
        attacks=one.attack_labels,
        caveat="; ".join(filter(None, [mark, caveat])),
        level=level,
    )


def _make_certified_figure(evidence: Evidence, cell: CellResult) -> ModelFigure:
    certified = CertifiedCell(cell=cell)
    return ModelFigure(
        metric="certified_accuracy",
        name=f"Certified accuracy at {cell.threat}, of {certified.certified_classifier}",
        estimate=cell.certified_accuracy,
        attacks=(cell.label,),
        status_text="" if cell.certified_accuracy.is_known else format_status(cell),
        caveat="; ".join(
            filter(None, [format_mark(select_cell_distrust(evidence, cell)), certified.guarantee])
        ),
    )


def _list_targeted_figures(evidence: Evidence, cells: list[CellResult]) -> Iterator[ModelFigure]:
    for cell in cells:
        if not (cell.targeted or cell.is_sticker) or cell.has_external_candidates or cell.is_certificate:
            continue
        sources, targets = format_goal_classes(evidence, cell)
        share = cell.sticker_success_over_signs if cell.is_sticker else cell.attack_success
        end = f"as {targets}" if cell.targeted else "as another class"
        yield ModelFigure(
            metric="attack_success",
            name=f"Misclassification of {sources} {end} under {cell.threat}",
            estimate=share,
            attacks=(cell.label,),
            status_text="" if share.is_known else format_status(cell),
            caveat="; ".join(
                filter(
                    None,
                    [
                        format_mark(select_cell_distrust(evidence, cell)),
                        "views of signs in simulation, interval over signs" if cell.is_sticker else "",
                    ],
                )
            ),
        )


def _list_corruption_figures(evidence: Evidence, subject: EvaluatedModel) -> Iterator[ModelFigure]:
    for one in build_corruption_maps(evidence):
        if one.subject == subject:
            mean = one.mean_row.mean_entry
            yield ModelFigure(
                metric="corruption_accuracy",
                name=f"Mean accuracy over {len(one.rows)} corruptions at severities "
                f"{', '.join(map(str, one.severities))}",
                estimate=mean.estimate,
                attacks=tuple(row.label for row in one.rows),
                status_text="" if mean.estimate.is_known else mean.status_text,
                caveat="; ".join(filter(None, ["average case, no adversary", mean.reason])),
            )
