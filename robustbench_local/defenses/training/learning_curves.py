"""Learning curves beside the weights: a file of numbers and a figure."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from robustbench_local.defenses.training.training_result import EpochResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CURVE_COLUMNS = (
    "epoch", "seconds", "learning_rate", "loss",
    "training_clean", "training_robust", "validation_clean", "validation_robust",
)  # fmt: skip
"""Columns of the CSV file; accuracies are shares, empty if there is no adversary."""

_CLEAN_COLOUR, _ROBUST_COLOUR = "#1f77b4", "#d62728"


def write_curves(out: Path, curves: Sequence[EpochResult], *, best: int, title: str) -> None:
    """Write ``NAME.curves.csv`` and ``NAME.curves.png`` beside the weights.

    Args:
        out: The weights file.
        curves: One entry per epoch.
        best: The selected epoch, counted from 1.
        title: Title of the figure.
    """
    with out.with_suffix(".curves.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(CURVE_COLUMNS)
        for result in curves:
            shares = (
                result.training.clean,
                result.training.robust,
                result.validation.clean,
                result.validation.robust,
            )
            numbers = (f"{result.seconds:.1f}", f"{result.learning_rate:.6g}", f"{result.loss:.6g}")
            accuracies = ("" if share is None else f"{share:.4f}" for share in shares)
            rows.writerow((result.validation.epoch, *numbers, *accuracies))
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - only who trains waits for it
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(7, 4), layout="constrained")
    _draw_curves(figure.subplots(), curves, best, title)
    FigureCanvasAgg(figure)
    figure.savefig(out.with_suffix(".curves.png"), metadata={"Software": None})


def _draw_curves(axes: Axes, curves: Sequence[EpochResult], best: int, title: str) -> None:
    epochs = [result.validation.epoch for result in curves]
    lines: list[tuple[str, str, str, list[float | None]]] = [
        ("clean, training", _CLEAN_COLOUR, "--", [result.training.clean for result in curves]),
        ("clean, validation", _CLEAN_COLOUR, "-", [result.validation.clean for result in curves]),
        ("robust, training", _ROBUST_COLOUR, "--", [result.training.robust for result in curves]),
        ("robust, validation", _ROBUST_COLOUR, "-", [result.validation.robust for result in curves]),
    ]
    for label, colour, style, shares in lines:
        percentages = [100 * share for share in shares if share is not None]
        if percentages:
            axes.plot(epochs, percentages, style, color=colour, label=label)
    axes.axvline(best, color="#888888", linewidth=1, label="kept")
    axes.set(xlabel="epoch", ylabel="accuracy, %", ylim=(0, 100), title=title)
    axes.grid(alpha=0.3)
    axes.legend(loc="best", fontsize="small")
