"""The comparison as lines of text, as Markdown and as CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator

from robustbench_local.attack_score.optimality import EXPLANATION
from robustbench_local.attack_score.scoring import AttackRow, AttackScore
from robustbench_local.reports.formatting.markdown_tables import escape_markdown, render_table
from robustbench_local.reports.formatting.text import format_count, join_in_sentence

HEAD = ("attack", "optimality (95% interval)", "distance", "missed", "calls", "invalid")
"""Columns of the table."""


def format_cells(row: AttackRow) -> tuple[str, ...]:
    """Return the cells of a row, one for each entry of ``HEAD``."""
    name = row.attack if row.is_own else f"{row.library} {row.attack}"
    if row.failure:
        return (name, "failed", *[""] * (len(HEAD) - 2))
    known = row.optimality
    return (
        name,
        "-" if known is None else f"{known.value:.3f} ({known.low:.3f} to {known.high:.3f})",
        _format_ratio(row.median_ratio),
        str(row.missed),
        f"{row.calls:.0f}",
        str(row.violations),
    )


def format_title(score: AttackScore) -> str:
    """Return what was compared, in one line."""
    parts = [f"{model.model} (n={model.n})" for model in score.models]
    return f"Minimum-norm attacks under {score.options.norm} on {join_in_sentence(parts)}"


def list_notes(score: AttackScore) -> list[str]:
    """Return what a reader of the table needs to know, one sentence a line."""
    notes = [EXPLANATION, _describe_columns(score)]
    if verdict := _compare_with_libraries(score):
        notes.append(verdict)
    for model in score.models:
        unknown = sum(math.isinf(distance) for distance in model.envelope)
        if unknown:
            notes.append(
                f"On {model.model}, no attack finds an adversarial example of "
                f"{format_count(unknown, 'image')} of {model.n} within {model.max_distance:.4g}."
            )
    notes += [f"{row.library} {row.attack} failed: {row.failure}." for row in score.rows if row.failure]
    notes += _describe_violations(score)
    return [*notes, *(f"Missing from the comparison: {line}." for line in score.missing)]


def render_markdown(score: AttackScore) -> str:
    """Return the page with the table and its notes."""
    table = render_table(HEAD, [tuple(map(escape_markdown, format_cells(row))) for row in score.rows])
    notes = (f"- {escape_markdown(note)}" for note in list_notes(score))
    return "\n".join([f"# {escape_markdown(format_title(score))}", "", *table, "", *notes, ""])


def render_csv(score: AttackScore) -> str:
    """Return one line for each attack, model and image: the smallest verified distance."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("model", "library", "attack", "position", "distance", "nearest_known"))
    for model in score.models:
        for entry in model.finished:
            for position, pair in enumerate(zip(entry.distances, model.envelope, strict=True)):
                distances = ("" if math.isinf(value) else repr(value) for value in pair)
                writer.writerow((model.model, entry.library, entry.attack, position, *distances))
    return text.getvalue()


def _describe_columns(score: AttackScore) -> str:
    own, others = score.options.own_budget or score.options.budget, score.options.budget
    budget = f"{others}" if own == others else f"{others}, for ours {own}"
    return (
        "Distance: median of its ratio to the smallest known one; missed: images that only other attacks "
        f"succeed on; calls: forward and backward passes per image (budget {budget}); invalid: candidates "
        "outside [0, 1] or not finite, which count as no success. Attacks without a library are ours."
    )


def _compare_with_libraries(score: AttackScore) -> str:
    """Return the best of ours beside the best of the other libraries; empty without either."""
    known = [row for row in score.rows if row.optimality is not None]
    ours = next((row for row in known if row.is_own), None)
    peer = next((row for row in known if not row.is_own), None)
    if ours is None or peer is None or ours.optimality is None or peer.optimality is None:
        return ""
    best_own = f"{ours.attack}, {ours.optimality.value:.3f} with {ours.calls:.0f} calls"
    best_peer = f"{peer.library} {peer.attack}, {peer.optimality.value:.3f} with {peer.calls:.0f}"
    return f"Best of ours: {best_own}; best of the other libraries: {best_peer}."


def _describe_violations(score: AttackScore) -> Iterator[str]:
    for model in score.models:
        for entry in model.finished:
            if entry.violations:
                image, reason = entry.violations[0]
                yield (
                    f"{entry.library} {entry.attack} on {model.model}: "
                    f"{format_count(len(entry.violations), 'invalid candidate')}, "
                    f"the first for image {image}: {reason}."
                )


def _format_ratio(ratio: float | None) -> str:
    if ratio is None:
        return "-"
    return "none" if math.isinf(ratio) else f"{ratio:.3f}"
