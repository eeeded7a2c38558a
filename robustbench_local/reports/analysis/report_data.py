"""What the forms of the report share: everything counted, chosen and judged, nothing formatted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from robustbench_local.reports.analysis.certified_accuracy import CertifiedGroup, make_certified
from robustbench_local.reports.analysis.certified_vs_empirical import Bracket, make_brackets
from robustbench_local.reports.analysis.confusion_by_target import TargetMatrix, make_matrices
from robustbench_local.reports.analysis.corruption_results import CorruptionMap, make_corruptions
from robustbench_local.reports.analysis.distances import DistanceGroup, make_groups
from robustbench_local.reports.analysis.evidence import CellResult, Evidence
from robustbench_local.reports.analysis.example_images import Exhibit, make_gallery
from robustbench_local.reports.analysis.gates import GateReport, judge_evidence
from robustbench_local.reports.analysis.heatmap import HeatMap, make_heatmap
from robustbench_local.reports.analysis.methods import Trial, make_trials
from robustbench_local.reports.analysis.naive_vs_adaptive import Lesson, make_lessons
from robustbench_local.reports.analysis.per_target import GoalTable, make_goal_tables
from robustbench_local.reports.analysis.read_run import read_evidence
from robustbench_local.reports.analysis.robustness_curves import Panel, make_panels
from robustbench_local.reports.analysis.run_warnings import Finding, find
from robustbench_local.reports.analysis.sticker_images import Page, make_albums
from robustbench_local.reports.analysis.sticker_results import StickerResult, make_stickers
from robustbench_local.reports.analysis.transfer_results import TransferMatrix, make_transfers
from robustbench_local.store import RunStore


@dataclass(frozen=True, kw_only=True)
class Content:
    """The content of a report."""

    evidence: Evidence
    """What was found."""
    findings: tuple[Finding, ...]
    """What to know before believing it, the gravest first."""
    gates: GateReport
    """The verdicts of the grid's gates."""
    heatmap: HeatMap
    """Models by attacks."""
    panels: tuple[Panel, ...]
    """Curves over eps."""
    exhibits: tuple[Exhibit, ...]
    """Adversarial images."""
    matrices: tuple[TargetMatrix, ...]
    """Targeted attacks."""
    goals: tuple[GoalTable, ...] = ()
    """Targeted attacks that were also given each of their targets alone."""
    distances: tuple[DistanceGroup, ...] = ()
    """Attacks that measure how far each image is from its nearest adversarial one."""
    transfers: tuple[TransferMatrix, ...] = ()
    """Attacks whose candidates were made on another model."""
    certified: tuple[CertifiedGroup, ...] = ()
    """What is proven."""
    lessons: tuple[Lesson, ...] = ()
    """Defenses against attackers who do not know of them, and who do."""
    brackets: tuple[Bracket, ...] = ()
    """What is proven and what attacks left, for the same images."""
    corruptions: tuple[CorruptionMap, ...] = ()
    """Accuracy on corrupted images."""
    stickers: tuple[StickerResult, ...] = ()
    """Stickers and patches, judged over views."""
    trials: tuple[Trial, ...] = ()
    """What was tried."""
    albums: Mapping[str, tuple[Page, ...]] = field(default_factory=dict)
    """Pictures of stickered signs, by the key of the cell."""

    @property
    def sticker_groups(self) -> list[list[StickerResult]]:
        """The stickers of one attack together, whatever the model."""
        attacks = dict.fromkeys(one.cell.record.attack for one in self.stickers)
        return [[one for one in self.stickers if one.cell.record.attack == attack] for attack in attacks]

    @property
    def seen_less(self) -> bool:
        """Whether some attacker saw less of a model than its gradients."""
        return any(cell.record.knowledge != "white-box" for cell in self.attackers)

    @property
    def attackers(self) -> list[CellResult]:
        """The cells where somebody attacked who saw what there was: no corruption, no transfer to itself.

        Stickers have a section of their own.
        """
        return [cell for cell in self.evidence.cells if not _no_attacker(cell)]


def _no_attacker(cell: CellResult) -> bool:
    return cell.corrupted or cell.to_itself or cell.naive or cell.certificate or cell.viewed


def read_content(store: RunStore) -> Content:
    """Read everything a report needs from an open run."""
    evidence = replace(read_evidence(store), damaged_images=store.find_damaged_arrays())
    stickers = make_stickers(evidence)
    return Content(
        evidence=evidence,
        findings=tuple(find(evidence)),
        gates=judge_evidence(evidence),
        heatmap=make_heatmap(evidence),
        panels=tuple(make_panels(evidence)),
        exhibits=tuple(make_gallery(store, evidence)),
        matrices=tuple(make_matrices(store, evidence)),
        goals=tuple(make_goal_tables(evidence)),
        distances=tuple(make_groups(evidence)),
        transfers=tuple(make_transfers(evidence)),
        certified=tuple(make_certified(evidence)),
        lessons=tuple(make_lessons(evidence)),
        brackets=tuple(make_brackets(evidence)),
        corruptions=tuple(make_corruptions(evidence)),
        stickers=tuple(stickers),
        trials=make_trials(evidence),
        albums=make_albums(store, evidence, stickers),
    )
