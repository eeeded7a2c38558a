"""The files of a comparison of networks: what was compared, as JSON, CSV and Markdown."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from robustbench_local.counted_nouns import format_count
from robustbench_local.evaluation.training.stability import FIGURES
from robustbench_local.store.atomic_files import write_atomically

COMPARISON_FILE = "comparison"
"""Name of the files without the suffix."""
_COLUMNS = ("rank", "network", "parameters", "input", "epochs", "best_epoch", "seconds", "seeds")
_FIGURE_COLUMNS = ("value", "low", "high", "n")


def write_comparison(folder: Path, record: Mapping[str, Any]) -> None:
    """Write ``comparison.json``, ``.csv`` and ``.md`` into a folder.

    Args:
        folder: It exists.
        record: From `choose_network`.

    Raises:
        StorageError: If writing fails.
    """
    text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False)
    write_atomically(folder / f"{COMPARISON_FILE}.json", text + "\n")
    write_atomically(folder / f"{COMPARISON_FILE}.csv", _format_csv(record))
    write_atomically(folder / f"{COMPARISON_FILE}.md", format_markdown(record))


def _format_csv(record: Mapping[str, Any]) -> str:
    """Return one row for each network, the best first."""
    file = io.StringIO()
    rows = csv.writer(file)
    names = (*FIGURES, "score")
    rows.writerow((*_COLUMNS, *(f"{name}_{part}" for name in names for part in _FIGURE_COLUMNS)))
    for rank, network in enumerate(record["networks"], start=1):
        numbers = [network["figures"][name][part] for name in names for part in _FIGURE_COLUMNS]
        plain = (network["name"], network["parameters"], network["input"], network["epochs"])
        rows.writerow(
            (rank, *plain, network["best_epoch"], network["seconds"], len(network["seeds"]), *numbers)
        )
    return file.getvalue()


def format_markdown(record: Mapping[str, Any]) -> str:
    """Return the comparison for a reader: what was done, one table, and the test of the chosen network."""
    names = (*FIGURES, "score")
    lines = [
        f"# Networks compared on {record['data']['validation']['n']:,} validation images",
        "",
        f"Chosen: **{record['chosen']['name']}**, by the {record['rule']}.",
        "",
        "| network | weights | clean | corruption | attack | score | points behind the chosen one |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for network in record["networks"]:
        figures = " | ".join(format_figure(network["figures"][name]) for name in names)
        behind = format_difference(network["behind"]) if network["behind"] else "chosen"
        lines.append(
            f"| {_escape_bars(network['name'])} | {network['parameters']:,} | {figures} | {behind} |"
        )
    lines += ["", *(f"- {line}" for line in record["notes"]), "", "## Test of the chosen network", ""]
    lines += ["| images | accuracy | 95% interval | n |", "|---|--:|--:|--:|"]
    for row in record["test"]:
        interval = f"{row['low']:.1%} to {row['high']:.1%}"
        lines.append(f"| {describe_measurement(row)} | {row['accuracy']:.1%} | {interval} | {row['n']} |")
    return "\n".join([*lines, ""])


def format_figure(figure: Mapping[str, Any]) -> str:
    """Return a figure with its interval: ``93.3% [84.9, 97.8]``."""
    return f"{figure['value']:.1%} [{100 * figure['low']:.1f}, {100 * figure['high']:.1f}]"


def format_difference(difference: Mapping[str, Any]) -> str:
    """Return how much worse a network is, in points: ``-3.2 [-7.0, +0.6], undecided``."""
    value, low, high = (0.0 - 100 * difference[key] for key in ("value", "high", "low"))
    text = f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"
    return text if difference["is_decided"] else f"{text}, undecided"


def describe_measurement(row: Mapping[str, Any]) -> str:
    """Return what a measured accuracy is about, in a few words."""
    if row["attack"] == "none":
        return "clean"
    if row["attack"] == "corruptions":
        return f"{format_count(len(row['corruptions']), 'corruption')}, severity {row['severity']}"
    return f"{row['attack']}, {format_count(row['steps'], 'step')}, {row['norm']} {row['eps']:.4f}"


def _escape_bars(text: str) -> str:
    return text.replace("|", "\\|")
