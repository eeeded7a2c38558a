"""Checks of the examples of a bundle against the outcomes: identity, perturbation budget and norms."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from robustbench_local.counted_nouns import format_count
from robustbench_local.evaluation.harness.verify import find_ball_violations
from robustbench_local.evidence_bundle.bundle_files import DESCRIPTION_NAME, RESULTS_NAME
from robustbench_local.evidence_bundle.cell_threat import name_example, parse_threat
from robustbench_local.evidence_bundle.check_results import BundleError, CheckResult, build_check
from robustbench_local.evidence_bundle.clean_images import hash_image_bytes, index_clean_images
from robustbench_local.evidence_bundle.example_files import BundledExamples, read_examples
from robustbench_local.evidence_bundle.run_records import (
    load_json,
    read_cells,
    read_outcomes,
    read_view_predictions,
)
from robustbench_local.store import CellRecord, OutcomeRecord
from robustbench_local.store.records import ViewPredictionsRecord
from robustbench_local.threats.lp_ball import compute_norms
from robustbench_local.threats.threat_model import ThreatModel

NORM_TOLERANCE = 1e-6
"""Largest relative difference of a norm that was stated and one computed again, both in float64."""
_NORM_FIELDS = {"linf": "Linf", "l2": "L2", "l1": "L1"}


@dataclass(frozen=True, kw_only=True)
class ListedExamples:
    """The examples of a cell with their outcomes."""

    cell: CellRecord
    """The cell."""
    threat: ThreatModel
    """Its threat model."""
    outcomes: tuple[OutcomeRecord, ...]
    """One for each example."""
    images: BundledExamples
    """The images."""
    view_predictions: tuple[ViewPredictionsRecord, ...] = ()
    """What is stated about the views of signs with stickers; empty for other cells."""

    def list_sticker_predictions(self, position: int) -> dict[str, ViewPredictionsRecord]:
        """List the predictions of a sign with its sticker, by the kind of the views."""
        records = (row for row in self.view_predictions if row.position == position)
        return {row.kind: row for row in records if row.condition == "sticker"}


def read_all_examples(folder: Path) -> Iterator[ListedExamples]:
    """Read the examples of every cell that has images in the bundle.

    Args:
        folder: The folder of the bundle's files.

    Raises:
        BundleError: If images are missing or changed, or have no outcome.
    """
    try:
        yield from _read_listed_examples(folder)
    except BundleError:
        raise
    except Exception as error:  # a file from anyone may hold anything
        raise BundleError(f"the examples cannot be read ({type(error).__name__}: {error})") from error


def _read_listed_examples(folder: Path) -> Iterator[ListedExamples]:
    cells = {cell.key: cell for cell in read_cells(folder)}
    clean = index_clean_images(folder)
    for entry in _read_entries(folder):
        cell = cells.get(entry["cell"])
        if cell is None:
            raise BundleError(f"{DESCRIPTION_NAME} lists examples of a cell that the run does not have")
        images = read_examples(folder, cell, entry, clean)
        if images is None:
            continue
        by_position = {row.position: row for row in read_outcomes(folder, cell)}
        if len(set(images.positions)) < len(images.positions):
            raise BundleError(f"an example of {cell.attack} is listed twice")
        if missing := [position for position in images.positions if position not in by_position]:
            raise BundleError(f"the example at position {missing[0]} of {cell.attack} has no outcome")
        outcomes = tuple(by_position[position] for position in images.positions)
        yield ListedExamples(
            cell=cell,
            threat=parse_threat(cell),
            outcomes=outcomes,
            images=images,
            view_predictions=tuple(read_view_predictions(folder, cell)),
        )


def check_examples(folder: Path) -> CheckResult:
    """Check that the examples are those of the outcomes, inside their budgets and of the stated norms.

    Args:
        folder: The folder of the bundle's files.
    """
    name = "examples and budgets"
    failures: list[str] = []
    count = unbounded = masked = 0
    try:
        for examples in read_all_examples(folder):
            count += len(examples.outcomes)
            unbounded += 0 if examples.threat.is_ball else len(examples.outcomes)
            masked += len(examples.outcomes) if examples.threat.region == "mask" else 0
            failures += _find_problems(examples)
        absent = sum(len(entry["images"]) for entry in _read_entries(folder) if entry["file"] is None)
        doubts = list(_find_missing_examples(folder))
    except (BundleError, KeyError, TypeError, ValueError, AttributeError) as error:
        return CheckResult(name=name, status="failed", sentence=str(error))
    if not count:
        sentence = "the bundle has no images" + (f", and hashes of {absent}" if absent else "")
        return CheckResult(name=name, status="not checked", sentence=sentence)
    parts = []
    if bounded := count - unbounded:
        parts = [f"{format_count(bounded, 'example')} inside their budgets, with the norms that are stated"]
    if unbounded:
        parts.append(
            f"{unbounded} of a family without a norm, whose images alone were compared with their hashes"
        )
    good = "; ".join(parts)
    if masked:
        good += f"; the masks of {masked} are not in the bundle"
    return build_check(
        name,
        failures=failures,
        doubts=doubts,
        good=good,
        bad=f"{format_count(len(failures), 'problem')} with {format_count(count, 'example')}",
        open_=f"{good}; {format_count(len(doubts), 'attack')} with fewer examples than a run stores",
    )


def _read_entries(folder: Path) -> list[Mapping[str, Any]]:
    try:
        entries = load_json(folder / DESCRIPTION_NAME)["examples"]["cells"]
        for entry in entries:
            rows = [
                (row["position"], row["image"], row["clean_sha256"], row["adversarial_sha256"])
                for row in entry["images"]
            ]
            if len(rows) != entry["included"] or not isinstance(entry["cell"], str) or "file" not in entry:
                raise BundleError(
                    f"{DESCRIPTION_NAME} lists {len(rows)} of {entry['included']} examples of a cell"
                )
    except (KeyError, TypeError, AttributeError) as error:
        raise BundleError(f"{DESCRIPTION_NAME} is not of the form of a bundle") from error
    return list(entries)


def _find_missing_examples(folder: Path) -> Iterator[str]:
    """Find attacks with fewer examples than the run stores of their successes and the bundle takes."""
    examples = load_json(folder / DESCRIPTION_NAME)["examples"]
    included = {entry["cell"]: entry["included"] for entry in examples["cells"]}
    limits = [int(examples["limit"])] if examples["limit"] is not None else []
    gallery = load_json(folder / RESULTS_NAME)["grid"].get("gallery")
    limits += [int(gallery)] if gallery is not None else []
    for cell in read_cells(folder):
        if cell.measure not in {"ball", "distance"} or not limits:
            continue
        successes = sum(row.broken for row in read_outcomes(folder, cell))
        expected, found = min(successes, *limits), included.get(cell.key, 0)
        if found < expected:
            yield (
                f"{cell.attack} on {cell.model}: {found} of the {expected} that are expected of "
                f"{format_count(successes, 'success', 'successes')}"
            )


def _find_problems(examples: ListedExamples) -> Iterator[str]:
    images = examples.images
    for row, outcome in enumerate(examples.outcomes):
        hashes = hash_image_bytes(images.clean[row]), hash_image_bytes(images.adversarial[row])
        stated = outcome.original_hash, outcome.adversarial_hash
        if examples.cell.measure != "views" and any(
            known and not full.startswith(known) for full, known in zip(hashes, stated, strict=True)
        ):
            yield f"{name_example(examples.cell, outcome)}: another image than that of the outcome"
    if not examples.threat.is_ball:
        return
    clean, candidates = torch.from_numpy(images.clean), torch.from_numpy(images.adversarial)
    reasons = find_ball_violations(candidates, clean, examples.threat)
    for row, (outcome, reason) in enumerate(zip(examples.outcomes, reasons, strict=True)):
        if reason is not None:
            yield f"{name_example(examples.cell, outcome)}: {reason}"
            continue
        change = candidates[row : row + 1].double() - clean[row : row + 1].double()
        for field, norm in _NORM_FIELDS.items():
            size, known = float(compute_norms(change, norm)), getattr(outcome, field)
            if not is_same_norm(size, known):
                name = name_example(examples.cell, outcome)
                yield f"{name}: {norm} is {size:.6g}, and {known:.6g} is stated"


def is_same_norm(size: float, stated: float) -> bool:
    """Return whether a norm is the stated one, but for rounding."""
    return math.isclose(size, stated, rel_tol=NORM_TOLERANCE, abs_tol=NORM_TOLERANCE)
