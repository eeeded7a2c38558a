"""Results of stickers and patches: success over held-out views, with controls."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from robustbench_local.paired_tests import Comparison
from robustbench_local.reports.analysis.cell_result import CellResult
from robustbench_local.reports.analysis.compute_once import collect_once
from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.misclassification_severity import (
    SeveritySummary,
    SeverityTable,
    compute_severity,
    find_severity_table,
)
from robustbench_local.reports.analysis.sticker_controls import (
    StickerControl,
    build_sticker_controls,
    compare_with_no_views,
)
from robustbench_local.reports.analysis.sticker_viewpoints import ViewMap, build_view_map
from robustbench_local.reports.analysis.sticker_views import (
    NONFINITE_CLASS,
    SignResult,
    SignViews,
    compute_attack_success,
    compute_misread_rate,
    estimate_share,
    mark_successes,
)
from robustbench_local.reports.formatting.text import (
    MISSING_TEXT,
    format_count,
    format_estimate,
    format_percent,
    isolate_direction,
)
from robustbench_local.statistics import Estimate, compute_clopper_pearson, round_figure

if TYPE_CHECKING:
    from robustbench_local.reports.analysis.sticker_views import BoolArray

STICKERS_EXPLANATION = (
    "One sticker, or one patch beside the sign, for all views of a sign. It is optimized on training "
    "views and evaluated on held-out views. A view counts if the model classifies the clean sign "
    "correctly in that same view: same position, light and noise. The attack succeeds in a view if the "
    "sign is misclassified as a target or, without targets, as any wrong class. Attack success is the "
    "share of such views; n counts views. It has two intervals: over views, for further views of these "
    "signs, and over signs, for further signs, because views of one sign are alike. Gates use the "
    "interval over signs. A sign that is misclassified in more than 5% of its clean views is excluded "
    "(void). A bin holds the views of one range of distances and one range of angles. The worst bin is "
    "the worst of those with at least 10 views; its interval is corrected for their number (Bonferroni). "
    "A drive-by is one approach to the sign, with one light and one lens: its frames are not independent, "
    "so their share has no interval. The number of drives with success in at least half of their frames "
    "has one, over signs."
)
"""How to read the numbers of this section."""
SIMULATION_LIMITS = (
    "This is a simulation. Success here does not prove success on the road: ink, weather, real lenses, a "
    "detector in front of the classifier and temporal context are not simulated. Failure does not prove "
    "safety: a stronger attack may succeed."
)
"""A caveat that accompanies every such number."""


@dataclass(frozen=True, kw_only=True)
class PredictionShare:
    """The share of the views with one prediction."""

    name: str
    """Class, or ``another wrong class``, ...; of all targets together: ``any target``."""
    share: Estimate
    """Share of the views that count."""
    severity: float | None = None
    """Severity of the prediction; None if unknown."""
    is_target: bool = True
    """Whether it is a target."""


@dataclass(frozen=True, kw_only=True)
class DriveBy:
    """The drive-by: frames of one approach, from far to near."""

    success_share: float
    """Share of successful frames among those in which the clean sign is classified correctly; NaN without
    any. Frames of one drive are not independent, so there is no interval."""
    counted_frames: int
    """Frames in which the clean sign is classified correctly."""
    successful_drives: Estimate
    """Share of the drives, one per sign, with success in at least half of these frames."""
    longest_run: int
    """Longest run of successful frames."""
    frame_count: int
    """Number of frames of an approach."""


@dataclass(frozen=True, kw_only=True)
class SignRow:
    """One sign."""

    sign: SignResult
    """The sign's results over views."""
    attack_success: Estimate
    """Share of its views in which the sticker succeeds."""
    random_colours_success: Estimate
    """Success of random colors."""
    no_views_success: Estimate
    """Success of a sticker optimized without views."""
    drive_by: DriveBy | None
    """Its drive-by; None if it could not be evaluated."""


@dataclass(frozen=True, kw_only=True)
class StickerResult:
    """Results of a sticker's cell."""

    cell: CellResult
    """The attack on the model."""
    attack_success: Estimate
    """Share of the views in which the sticker succeeds."""
    success_over_signs: Estimate
    """The same share, with an interval that covers further signs."""
    misread_rate: Estimate
    """Share of the views in which the sign is misclassified."""
    void_success: Estimate
    """Success over the views of the void signs."""
    overall_success: Estimate
    """Success over all evaluated signs, void or not."""
    label_name: str
    """Name of the signs' class; ``what it is`` if there are several classes."""
    mean_confidence: float
    """Mean softmax probability of the successful predictions; NaN without any."""
    controls: tuple[StickerControl, ...]
    """The controls of the sticker."""
    no_views_comparison: Comparison | None
    """Comparison with the sticker optimized without views, on the same views; None without that control."""
    prediction_shares: tuple[PredictionShare, ...]
    """Predictions of the views: each target, all targets together, other classes, the correct class."""
    view_map: ViewMap
    """Success over distance and angle."""
    drive_by: DriveBy | None
    """All drive-bys together."""
    severity_rule: str
    """Source of the severities; empty if there are none."""
    severity: SeveritySummary | None
    """Severity over all counted views."""
    worst_class_name: str
    """Name of the most severe predicted class."""
    rows: tuple[SignRow, ...]
    """One per sign, void ones included."""

    @property
    def subject(self) -> EvaluatedModel:
        """The model and defense."""
        return self.cell.subject

    @property
    def counted_signs(self) -> int:
        """Number of counted signs."""
        return sum(row.sign.is_counted for row in self.rows)

    @property
    def sign_count_text(self) -> str:
        """Number of counted signs out of all signs."""
        return f"{self.counted_signs} of {format_count(len(self.rows), 'sign')}"

    @property
    def broken_signs(self) -> int:
        """Number of counted signs with success in most of their views."""
        return sum(row.sign.broken for row in self.rows if row.sign.is_counted)

    @property
    def other_class_rate(self) -> Estimate:
        """Share of the views in which the sign is misclassified as no target."""
        return compute_clopper_pearson(
            self.misread_rate.count - self.attack_success.count, self.misread_rate.n
        )

    @property
    def random_colours_misread_rate(self) -> Estimate:
        """Share of the views in which random colors cause a misclassification."""
        return compute_misread_rate((row.sign for row in self.rows if row.sign.is_counted), "random-colours")

    @property
    def surface_text(self) -> str:
        """Description of the surface that the sticker may cover; empty if unknown, and for a patch."""
        surface, area = self.cell.record.surface, self.cell.record.eps
        if surface is None:
            return ""
        part = "all" if area == 1 else f"{100 * area:.3g}%"
        pixels = f"{surface.covered:,.0f} of {surface.image_pixels:,} pixels"
        covers = (
            f"A sticker may cover {part} of the surface: on average {pixels}, "
            f"{format_percent(surface.coverable_share)} of"
        )
        return f"{covers} the image. The surface is {surface.what}."

    @property
    def worst_severity_text(self) -> str:
        """The worst severity, its class, and its number of views."""
        worst = self.severity
        if worst is None or not worst.worst_severity:
            return MISSING_TEXT if worst is None else "none"
        share = f"{worst.worst_count:,} of {format_count(self.attack_success.n, 'view')}"
        return f"{worst.worst_severity:.2f}: {self.worst_class_name}, {share}"

    @property
    def void_signs(self) -> tuple[SignResult, ...]:
        """The signs that are not counted."""
        return tuple(row.sign for row in self.rows if not row.sign.is_counted)


@collect_once
def build_sticker_results(evidence: Evidence) -> list[StickerResult]:
    """Build the results of the done cells over views, in the order of the grid."""
    return [_build_result(evidence, cell) for cell in evidence.cells if cell.is_sticker and cell.is_done]


def _build_result(evidence: Evidence, cell: CellResult) -> StickerResult:
    targets, counting = cell.record.targets, [sign for sign in cell.signs if sign.is_counted]
    views = [sign.views["view"] for sign in counting]
    wanted = [
        sign_views.confidences["sticker"][sign_views.clean_correct][
            sign_views.mark_successes("sticker", targets)
        ]
        for sign_views in views
    ]
    rule, severity, table = _compute_severity(evidence, cell, views)
    return StickerResult(
        cell=cell,
        attack_success=cell.sticker_success,
        success_over_signs=cell.sticker_success_over_signs,
        misread_rate=compute_misread_rate(counting, "sticker"),
        void_success=compute_attack_success(
            (sign for sign in cell.signs if sign.status == "void"), "sticker", targets
        ),
        overall_success=compute_attack_success(cell.signs, "sticker", targets),
        label_name=_find_label_name(evidence, cell),
        mean_confidence=round_figure(float(np.concatenate(wanted).mean()))
        if any(map(len, wanted))
        else math.nan,
        controls=build_sticker_controls(cell),
        no_views_comparison=compare_with_no_views(cell),
        prediction_shares=_build_prediction_shares(evidence, cell, views, table),
        view_map=build_view_map(views, targets, evidence.data.get("image_shape") or ()),
        drive_by=_build_drive_by(counting, targets),
        severity_rule=rule,
        severity=severity,
        worst_class_name=evidence.get_class_name(cell.record.model, severity.worst_class) if severity else "",
        rows=tuple(_build_sign_row(sign, targets) for sign in cell.signs),
    )


def _find_label_name(evidence: Evidence, cell: CellResult) -> str:
    labels = {sign.label for sign in cell.signs}
    return evidence.get_class_name(cell.record.model, *labels) if len(labels) == 1 else "what it is"


def _compute_severity(
    evidence: Evidence, cell: CellResult, views: Sequence[SignViews]
) -> tuple[str, SeveritySummary | None, SeverityTable | None]:
    table = find_severity_table(evidence, cell.record.model, cell.record.sources)
    if table is None or not views:
        return "", None, table
    readings = (
        (None if read == NONFINITE_CLASS else int(read), sign_views.label)
        for sign_views in views
        for read in sign_views.select_predictions("sticker")
    )
    return table.rule, compute_severity(table, readings), table


def _build_prediction_shares(
    evidence: Evidence, cell: CellResult, views: Sequence[SignViews], table: SeverityTable | None
) -> tuple[PredictionShare, ...]:
    """Build the shares of predictions: each view is in one row, targets also in a row for all targets."""
    record = cell.record
    sizes = sum(int(sign_views.clean_correct.sum()) for sign_views in views)

    def build_share(
        name: str, marks: Sequence[BoolArray], *, cost: float | None = None, target: bool = True
    ) -> PredictionShare:
        hits = sum(int(array.sum()) for array in marks)
        return PredictionShare(
            name=name, share=compute_clopper_pearson(hits, sizes), severity=cost, is_target=target
        )

    readings = [sign_views.select_predictions("sticker") for sign_views in views]
    labels = [sign_views.label for sign_views in views]
    own = [read == label for read, label in zip(readings, labels, strict=True)]
    wanted = [
        mark_successes(read, label, record.targets) for read, label in zip(readings, labels, strict=True)
    ]
    rows = [
        build_share(
            evidence.get_class_name(record.model, target),
            [read == target for read in readings],
            cost=None if table is None else table.get_severity(target, labels[0] if labels else -1),
        )
        for target in record.targets
    ]
    rows.append(build_share("any target" if record.targets else "any wrong class", wanted))
    if record.targets:
        other = [~(mine | hit) for mine, hit in zip(own, wanted, strict=True)]
        rows.append(build_share("another wrong class", other, target=False))
    rows.append(build_share("correct class", own, target=False))
    return tuple(rows)


def _build_drive_by(signs: Sequence[SignResult], targets: Sequence[int]) -> DriveBy | None:
    drives = [sign.views["approach"] for sign in signs if "approach" in sign.views]
    if not drives:
        return None
    hits = [sign_views.mark_successes("sticker", targets) for sign_views in drives]
    hit, frame_count = sum(int(marks.sum()) for marks in hits), sum(map(len, hits))
    return DriveBy(
        success_share=hit / frame_count if frame_count else math.nan,
        counted_frames=frame_count,
        successful_drives=estimate_share(
            [np.array([2 * marks.sum() >= len(marks) for marks in hits if len(marks)])]
        ),
        longest_run=max(
            _find_longest_run(mark_successful_frames(sign_views, targets)) for sign_views in drives
        ),
        frame_count=max(len(sign_views.clean_correct) for sign_views in drives),
    )


def mark_successful_frames(sign_views: SignViews, targets: Sequence[int]) -> BoolArray:
    """Mark successful frames; a frame in which the clean sign is misclassified is none."""
    return sign_views.clean_correct & mark_successes(
        sign_views.predictions["sticker"], sign_views.label, targets
    )


def _find_longest_run(marks: BoolArray) -> int:
    """Find the length of the longest run of true marks."""
    longest = run = 0
    for mark in marks.tolist():
        run = run + 1 if mark else 0
        longest = max(longest, run)
    return longest


def _build_sign_row(sign: SignResult, targets: Sequence[int]) -> SignRow:
    test_views = sign.views.get("view")

    def compute_success(condition: str) -> Estimate:
        return estimate_share(
            [test_views.mark_successes(condition, targets)]
            if test_views and condition in test_views.predictions
            else []
        )

    driven = "approach" in sign.views and "sticker" in sign.views["approach"].predictions
    return SignRow(
        sign=sign,
        attack_success=compute_success("sticker"),
        random_colours_success=compute_success("random-colours"),
        no_views_success=compute_success("without-views"),
        drive_by=_build_drive_by([sign], targets) if driven else None,
    )


def describe_sticker(result: StickerResult) -> str:
    """Describe the result in one or two sentences without the last full stop."""
    if not result.counted_signs:
        return (
            f"void: {format_count(len(result.void_signs), 'sign')}, none classified correctly in enough "
            f"of its clean views"
        )
    wanted = "misclassified as a target" if result.cell.targeted else "misread"
    worst = f"; at worst {result.view_map.worst_bin}" if result.view_map.worst_bin else ""
    views = f"{format_estimate(result.attack_success)} of the views of {result.sign_count_text} are {wanted}"
    most = (
        f"{result.broken_signs} of {format_count(result.counted_signs, 'sign')} in more than half of "
        f"their views"
    )
    chance = f"with random colours {format_estimate(result.random_colours_misread_rate)}"
    if not result.cell.targeted:
        return f"{views}, {most}{worst}; {chance}"
    more = (
        f"In a further {format_estimate(result.other_class_rate)} the sign is misclassified as a class "
        f"that is not a target"
    )
    whole = (
        f"not classified as {isolate_direction(result.label_name)}: "
        f"{format_estimate(result.misread_rate)}, {chance}"
    )
    return f"{views}, {most}{worst}. {more}; {whole}"
