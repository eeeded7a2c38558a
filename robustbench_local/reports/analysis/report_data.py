"""What the forms of the report share: everything counted, chosen and judged, nothing formatted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from robustbench_local.reports.analysis.certified_accuracy import CertifiedGroup, build_certified_groups
from robustbench_local.reports.analysis.certified_vs_empirical import (
    RobustAccuracyBounds,
    build_accuracy_bounds,
)
from robustbench_local.reports.analysis.confusion_by_target import TargetMatrix, build_target_matrices
from robustbench_local.reports.analysis.corruption_results import CorruptionMap, build_corruption_maps
from robustbench_local.reports.analysis.distances import DistanceGroup, build_distance_groups
from robustbench_local.reports.analysis.evidence import CellResult, Evidence
from robustbench_local.reports.analysis.example_images import CellExamples, build_cell_examples
from robustbench_local.reports.analysis.gates import GateReport, judge_evidence
from robustbench_local.reports.analysis.heatmap import HeatMap, build_heatmap
from robustbench_local.reports.analysis.methods import MethodDescription, build_method_descriptions
from robustbench_local.reports.analysis.naive_vs_adaptive import NaiveVsAdaptive, build_naive_vs_adaptive
from robustbench_local.reports.analysis.per_target import GoalTable, build_goal_tables
from robustbench_local.reports.analysis.read_run import read_evidence
from robustbench_local.reports.analysis.robustness_curves import CurvePanel, build_curve_panels
from robustbench_local.reports.analysis.run_warnings import Finding, list_findings
from robustbench_local.reports.analysis.sticker_images import StickerImages, build_sticker_images
from robustbench_local.reports.analysis.sticker_results import StickerResult, build_sticker_results
from robustbench_local.reports.analysis.transfer_results import TransferMatrix, build_transfer_matrices
from robustbench_local.store import RunStore


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """The content of a report."""

    evidence: Evidence
    """What was found."""
    findings: tuple[Finding, ...]
    """What to know before believing it, the gravest first."""
    gate_report: GateReport
    """The verdicts of the grid's gates."""
    heatmap: HeatMap
    """Models by attacks."""
    curve_panels: tuple[CurvePanel, ...]
    """Curves over eps."""
    cell_examples: tuple[CellExamples, ...]
    """Adversarial images."""
    target_matrices: tuple[TargetMatrix, ...]
    """Targeted attacks."""
    goal_tables: tuple[GoalTable, ...] = ()
    """Targeted attacks that were also given each of their targets alone."""
    distance_groups: tuple[DistanceGroup, ...] = ()
    """Attacks that measure how far each image is from its nearest adversarial one."""
    transfer_matrices: tuple[TransferMatrix, ...] = ()
    """Attacks whose candidates were made on another model."""
    certified_groups: tuple[CertifiedGroup, ...] = ()
    """What is proven."""
    naive_vs_adaptive: tuple[NaiveVsAdaptive, ...] = ()
    """Defenses against attackers who do not know of them, and who do."""
    accuracy_bounds: tuple[RobustAccuracyBounds, ...] = ()
    """What is proven and what attacks left, for the same images."""
    corruption_maps: tuple[CorruptionMap, ...] = ()
    """Accuracy on corrupted images."""
    sticker_results: tuple[StickerResult, ...] = ()
    """Stickers and patches, judged over views."""
    method_descriptions: tuple[MethodDescription, ...] = ()
    """What was tried."""
    sticker_images: Mapping[str, tuple[StickerImages, ...]] = field(default_factory=dict)
    """Pictures of stickered signs, by the key of the cell."""

    @property
    def sticker_groups(self) -> list[list[StickerResult]]:
        """The stickers of one attack together, whatever the model."""
        attacks = dict.fromkeys(one.cell.record.attack for one in self.sticker_results)
        return [
            [one for one in self.sticker_results if one.cell.record.attack == attack] for attack in attacks
        ]

    @property
    def has_limited_knowledge(self) -> bool:
        """Whether some attacker saw less of a model than its gradients."""
        return any(cell.record.knowledge != "white-box" for cell in self.adversary_cells)

    @property
    def adversary_cells(self) -> list[CellResult]:
        """The cells where somebody attacked who saw what there was: no corruption, no transfer to itself.

        Stickers have a section of their own.
        """
        return [cell for cell in self.evidence.cells if not _has_no_attacker(cell)]


def _has_no_attacker(cell: CellResult) -> bool:
    return (
        cell.is_corruption or cell.is_self_transfer or cell.is_naive or cell.is_certificate or cell.is_sticker
    )


def read_report_data(store: RunStore) -> ReportData:
    """Read everything a report needs from an open run."""
    evidence = replace(read_evidence(store), damaged_images=store.find_damaged_arrays())
    stickers = build_sticker_results(evidence)
    return ReportData(
        evidence=evidence,
        findings=tuple(list_findings(evidence)),
        gate_report=judge_evidence(evidence),
        heatmap=build_heatmap(evidence),
        curve_panels=tuple(build_curve_panels(evidence)),
        cell_examples=tuple(build_cell_examples(store, evidence)),
        target_matrices=tuple(build_target_matrices(store, evidence)),
        goal_tables=tuple(build_goal_tables(evidence)),
        distance_groups=tuple(build_distance_groups(evidence)),
        transfer_matrices=tuple(build_transfer_matrices(evidence)),
        certified_groups=tuple(build_certified_groups(evidence)),
        naive_vs_adaptive=tuple(build_naive_vs_adaptive(evidence)),
        accuracy_bounds=tuple(build_accuracy_bounds(evidence)),
        corruption_maps=tuple(build_corruption_maps(evidence)),
        sticker_results=tuple(stickers),
        method_descriptions=build_method_descriptions(evidence),
        sticker_images=build_sticker_images(store, evidence, stickers),
    )
