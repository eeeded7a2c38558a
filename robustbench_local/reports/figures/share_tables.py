"""Tables of shares: transfers, corruptions, single targets, and views of signs."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure

from robustbench_local.reports.analysis.corruption_results import CorruptionMap
from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.analysis.per_target import GoalTable
from robustbench_local.reports.analysis.sticker_results import StickerResult
from robustbench_local.reports.analysis.transfer_results import TransferMatrix
from robustbench_local.reports.figures.layout import (
    SHARE_COLOURMAP,
    build_table_axes,
    draw_entry,
)
from robustbench_local.reports.formatting.fonts import select_drawable_text
from robustbench_local.reports.formatting.text import (
    format_percent,
)


def draw_transfer(matrix: TransferMatrix, names: Mapping[EvaluatedModel, str]) -> Figure:
    """Draw the success of one attack by surrogate model and attacked model."""
    columns = [names[target] for target in matrix.attacked_models]
    rows = [
        select_drawable_text(row.surrogate, f"surrogate {number}")
        for number, row in enumerate(matrix.rows, start=1)
    ]
    attack = select_drawable_text(matrix.label, "attack")
    title = f"{attack}, {matrix.threat}: attack success; columns: attacked model, rows: surrogate"
    figure, axes = build_table_axes(columns, rows, title)
    for y, row in enumerate(matrix.rows):
        for x, entry in enumerate(row.entries):
            draw_entry(axes, x, y, entry, colours=SHARE_COLOURMAP.reversed())
    return figure


def draw_corruptions(corruption_map: CorruptionMap, names: Mapping[EvaluatedModel, str]) -> Figure:
    """Draw the accuracy of one model by corruption and severity."""
    columns = [*(f"severity {severity}" for severity in corruption_map.severities), "mean"]
    labels = [
        select_drawable_text(row.label, f"corruption {number}")
        for number, row in enumerate(corruption_map.rows, start=1)
    ]
    clean = format_percent(corruption_map.clean_accuracy.value)
    title = f"{names[corruption_map.subject]}: accuracy, {clean} clean, n = {corruption_map.image_counts}"
    figure, axes = build_table_axes(columns, [*labels, "mean"], title)
    for y, row in enumerate([*corruption_map.rows, corruption_map.mean_row]):
        for x, entry in enumerate([*row.entries, row.mean_entry]):
            draw_entry(axes, x, y, entry, worst=row is corruption_map.mean_row)
    return figure


def draw_goals(table: GoalTable, names: Mapping[EvaluatedModel, str]) -> Figure:
    """Draw the success of one attack by target and model."""
    labels = [
        select_drawable_text(row.goal_name, f"target {number}")
        for number, row in enumerate(table.rows, start=1)
    ]
    attack, sources = (
        select_drawable_text(table.label, "attack"),
        select_drawable_text(table.source_names, "the source class"),
    )
    title = f"{attack}: how often {sources} is misclassified as each target"
    figure, axes = build_table_axes([names[subject] for subject in table.subjects], labels, title)
    for y, row in enumerate(table.rows):
        for x, entry in enumerate(row.entries):
            draw_entry(axes, x, y, entry, colours=SHARE_COLOURMAP.reversed())
    return figure


def draw_view_map(result: StickerResult, names: Mapping[EvaluatedModel, str]) -> Figure:
    """Draw the success of one sticker by size of the sign and angle."""
    view_map = result.view_map
    attack = f"{select_drawable_text(result.cell.label, 'sticker')} on {names[result.subject]}"
    title = f"{attack}: attack success over views, by size of the sign (far to near) and angle"
    columns = [f"{distance} px" for distance in view_map.distance_labels]
    figure, axes = build_table_axes(columns, [f"{angle} degrees" for angle in view_map.angle_labels], title)
    for y, row in enumerate(view_map.rows):
        for x, entry in enumerate(row):
            draw_entry(axes, x, y, entry, colours=SHARE_COLOURMAP.reversed())
    return figure
