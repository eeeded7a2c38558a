"""Stickers and patches, evaluated over views of a sign."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.misclassification_severity import VIEW_SEVERITY_EXPLANATION
from robustbench_local.reports.analysis.sticker_controls import StickerControl
from robustbench_local.reports.analysis.sticker_images import (
    SIGN_SELECTION_RULE,
    StickerImages,
    build_sticker_images,
)
from robustbench_local.reports.analysis.sticker_results import (
    SIMULATION_LIMITS,
    STICKERS_EXPLANATION,
    DriveBy,
    StickerResult,
    build_sticker_results,
)
from robustbench_local.reports.formatting.markdown_tables import escape_markdown, render_table
from robustbench_local.reports.formatting.text import (
    EN_DASH,
    MISSING_TEXT,
    format_budget,
    format_estimate,
    format_interval,
    format_percent,
)
from robustbench_local.reports.sections.section import JsonDict, Section
from robustbench_local.reports.sections.sticker_json import encode_sticker
from robustbench_local.statistics import Estimate
from robustbench_local.store import RunStore

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SUMMARY_COLUMNS = (
    "model", "attack success over views", "misclassified", "signs with success in most views",
    "mean confidence in a target", "worst bin", "frames of the drive-by",
    "drives with success in at least half of their frames", "longest run", "expected severity",
    "worst prediction",
)  # fmt: skip


class Stickers(NamedTuple):
    """Results of the stickers of a run."""

    results: tuple[StickerResult, ...]
    """The cells about views."""
    images: Mapping[str, tuple[StickerImages, ...]]
    """Pictures of signs with stickers, by the key of the cell."""

    @property
    def groups(self) -> list[list[StickerResult]]:
        """Results of all models, grouped by attack."""
        attacks = dict.fromkeys(result.cell.record.attack for result in self.results)
        return [
            [result for result in self.results if result.cell.record.attack == attack] for attack in attacks
        ]


class StickersSection(Section[Stickers]):
    """One sticker for all views of a sign."""

    anchor = "stickers"
    title = "Stickers"
    link_text = "Stickers"
    template = "stickers.html.j2"
    explanation = STICKERS_EXPLANATION
    severity_explanation = VIEW_SEVERITY_EXPLANATION
    simulation_limits = SIMULATION_LIMITS
    sign_selection_rule = SIGN_SELECTION_RULE

    def build_content(self, evidence: Evidence, store: RunStore) -> Stickers:
        """Build the results, and some pictures of each."""
        results = build_sticker_results(evidence)
        return Stickers(results, build_sticker_images(store, evidence, results))

    def is_shown(self, content: Stickers) -> bool:
        """Return whether a cell is evaluated over views."""
        return bool(content.results)

    def to_markdown(self, content: Stickers, evidence: Evidence) -> Iterable[str]:
        """Render tables for each attack."""
        return _render_stickers(content.groups)

    def to_json(self, evidence: Evidence) -> JsonDict:
        """Encode ``stickers``."""
        return {"stickers": [encode_sticker(result) for result in build_sticker_results(evidence)]}

    def draw_figures(
        self, content: Stickers, names: Mapping[EvaluatedModel, str]
    ) -> Iterator[tuple[str, Figure]]:
        """Draw one figure per cell with counted signs."""
        from robustbench_local.reports.figures.share_tables import draw_view_map

        counted = (result for result in content.results if result.counted_signs)
        for number, result in enumerate(counted, start=1):
            yield f"stickers-{number}.png", draw_view_map(result, names)


STICKERS = StickersSection()


def _render_stickers(groups: Sequence[Sequence[StickerResult]]) -> Iterator[str]:
    """Render the section of report.md."""
    yield from ("## Stickers", "", STICKERS_EXPLANATION, "", f"**{SIMULATION_LIMITS}**", "")
    for group in groups:
        record = group[0].cell.record
        size = escape_markdown(format_budget(record.norm, record.eps, record.surface))
        yield from (f"### {escape_markdown(group[0].cell.label)}: {size}", "")
        yield from _iterate_paragraphs(result.surface_text for result in group)
        yield from render_table(_SUMMARY_COLUMNS, map(_format_summary_row, group))
        yield ""
        rules = (result.severity_rule for result in group if result.severity)
        yield from _iterate_paragraphs(
            f"Severity, from 0 to 1: {rule}. {VIEW_SEVERITY_EXPLANATION}" for rule in rules
        )
        rows = (_format_control_row(result, control) for result in group for control in result.controls)
        yield from render_table(["model", "control", "expected", "measured", "met"], rows)
        yield ""
        parts = [escape_markdown(part.name) for part in group[0].prediction_shares]
        read = (
            [
                escape_markdown(str(result.subject)),
                *(format_estimate(part.share) for part in result.prediction_shares),
            ]
            for result in group
            if result.counted_signs
        )
        yield from render_table(["model, prediction", *parts], read)
        yield ""


def _iterate_paragraphs(sentences: Iterable[str]) -> Iterator[str]:
    """Yield each distinct sentence as a paragraph."""
    return (part for text in dict.fromkeys(filter(None, sentences)) for part in (escape_markdown(text), ""))


def _format_summary_row(result: StickerResult) -> list[str]:
    who, worst, drive = escape_markdown(str(result.subject)), result.view_map.worst_bin, result.drive_by
    if not result.counted_signs:
        reason = "void: no sign is classified correctly in enough of its clean views"
        return [who, reason, *[""] * (len(_SUMMARY_COLUMNS) - 2)]
    severity = result.severity
    return [
        who,
        f"{format_estimate(result.attack_success)}; over signs {format_interval(result.success_over_signs)}",
        format_estimate(result.misread_rate),
        f"{result.broken_signs} of {result.counted_signs}"
        + (f", {len(result.void_signs)} excluded" if result.void_signs else ""),
        format_percent(result.mean_confidence),
        MISSING_TEXT if worst is None else str(worst),
        MISSING_TEXT if drive is None else format_percent(drive.success_share),
        MISSING_TEXT if drive is None else _format_successful_drives(drive),
        MISSING_TEXT if drive is None else f"{drive.longest_run} of {drive.frame_count}",
        MISSING_TEXT if severity is None else _format_mean(severity.expected),
        escape_markdown(result.worst_severity_text),
    ]


def _format_control_row(result: StickerResult, control: StickerControl) -> list[str]:
    verdict = {None: "unknown", True: "yes", False: "**no**"}[control.is_met]
    remarks = f": {escape_markdown(control.remarks)}" if control.remarks else ""
    measured = format_estimate(control.success_share)
    if control.misread_rate.is_known:
        measured += f"; misclassified {format_estimate(control.misread_rate)}"
    who = escape_markdown(str(result.subject))
    return [who, control.name, escape_markdown(control.expected), measured, f"{verdict}{remarks}"]


def _format_mean(expected: Estimate) -> str:
    return f"{expected.value:.3f} ({expected.low:.3f}{EN_DASH}{expected.high:.3f}, n = {expected.n})"


def _format_successful_drives(drive: DriveBy) -> str:
    share = drive.successful_drives
    return f"{share.count} of {share.n} ({format_interval(share)})"
