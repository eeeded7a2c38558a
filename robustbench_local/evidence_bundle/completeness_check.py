"""Whether the records of a bundle are those of all cells that its grid asks for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from robustbench_local.counted_nouns import format_count
from robustbench_local.evidence_bundle.bundle_files import RESULTS_NAME
from robustbench_local.evidence_bundle.check_results import BundleError, CheckResult, build_check
from robustbench_local.evidence_bundle.run_records import load_json, read_cells


def check_completeness(folder: Path) -> CheckResult:
    """Check that no cell of the grid was left out, with its records and its results.

    A run has a record of every cell from its start, whether or not the cell is run. Without a gap nothing is
    proven: whoever rewrites a bundle can rewrite its grid.

    Args:
        folder: The folder of the bundle's files.
    """
    name = "cells of the grid"
    good = "each attack of the grid has a record on each of its models"
    try:
        cells = read_cells(folder)
        missing = list(find_missing_cells(load_json(folder / RESULTS_NAME), cells))
    except BundleError as error:
        return CheckResult(name=name, status="failed", sentence=str(error))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        sentence = f"results.json has no readable grid ({type(error).__name__}: {error})"
        return CheckResult(name=name, status="failed", sentence=sentence)
    return build_check(
        name,
        doubts=missing,
        good=f"{good} ({format_count(len(cells), 'cell')})",
        bad="",
        open_="the bundle lacks cells that its run must have had",
    )


def find_missing_cells(results: Mapping[str, Any], cells: Sequence[Any]) -> Iterator[str]:
    """Find the cells that a run must have had, one line each.

    Args:
        results: Content of results.json.
        cells: The records of the run's cells.

    Yields:
        Positions in the grid that no record has, below the largest one; then attacks of the grid that a model
        has fewer records of than the grid asks for.
    """
    positions = {cell.position for cell in cells}
    for position in sorted(set(range(max(positions, default=-1) + 1)) - positions):
        yield f"no cell at position {position} of the grid"
    counts = Counter((cell.model, cell.defense, cell.card) for cell in cells)
    for about in results["models"]:
        model, defense = str(about["id"]), str(about["defense"])
        for card, asked in _count_asked(results["grid"], model).items():
            if counts[model, defense, card] < asked:
                subject = model if defense == "none" else f"{model} + {defense}"
                known = format_count(counts[model, defense, card], "cell")
                yield f"{known} of {card} on {subject}, and the grid asks for {asked}"


def _count_asked(grid: Mapping[str, Any], model: str) -> Counter[str]:
    """Count the entries of each card that concern a model; a transfer from the model to itself is no cell."""
    return Counter(
        str(entry["card"])
        for entry in grid["attacks"]
        if entry.get("transfer_from") != model and (not entry.get("models") or model in entry["models"])
    )
