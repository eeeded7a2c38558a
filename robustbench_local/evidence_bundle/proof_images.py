"""The clean images of certificates in a bundle, so that a verifier can prove them again.

A run stores the images of successful attacks alone, and a certificate matters where there is none. So its
images are read from the run's data, where they are on this machine, and held against their hashes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from robustbench_local.counted_nouns import format_count
from robustbench_local.errors import DataError
from robustbench_local.evidence_bundle.bundle_files import DESCRIPTION_NAME
from robustbench_local.evidence_bundle.cell_threat import name_example, parse_threat
from robustbench_local.evidence_bundle.check_results import BundleError
from robustbench_local.evidence_bundle.clean_images import (
    CleanImages,
    Images,
    hash_image_bytes,
    index_clean_images,
    load_clean_image,
)
from robustbench_local.evidence_bundle.example_files import ExampleChoice, rank_image
from robustbench_local.evidence_bundle.run_records import load_json, read_cells, read_outcomes
from robustbench_local.run_data import DataImages
from robustbench_local.store import CellRecord, OutcomeRecord, RunStore
from robustbench_local.threats.threat_model import ThreatModel

MAX_PROOF_IMAGES = 64
"""Images of each certificate in a bundle, unless the user says how many: proofs cost a verifier time."""


@dataclass(frozen=True, kw_only=True)
class ListedProofs:
    """Images of a certificate's cell with their outcomes."""

    cell: CellRecord
    """The cell."""
    threat: ThreatModel
    """Its threat model."""
    outcomes: tuple[OutcomeRecord, ...]
    """One for each image."""
    clean: Images
    """(N, C, H, W), float32 in [0, 1]."""
    missing: str
    """How many of the cell's images are not in the bundle, and why; empty if all are."""


def write_proof_images(store: RunStore, choice: ExampleChoice, clean: CleanImages) -> list[dict[str, Any]]:
    """Add the clean images of certificates to a bundle.

    Args:
        store: The run.
        choice: Which of them.
        clean: Receives the images.

    Returns:
        One entry for each certificate with outcomes: its images, and why some are missing.
    """
    entries, data = [], DataImages(store)
    for cell in store.read_cells():
        if cell.measure != "certificate":
            continue
        outcomes = [row for row in store.read_outcomes(cell.key) if row.status != "error"]
        if not outcomes:
            continue
        limit = MAX_PROOF_IMAGES if choice.count is None else choice.count
        ranked = sorted(outcomes, key=lambda row: rank_image(choice.seed, row.image))[:limit]
        problem = "images are left out"
        images: list[dict[str, Any]] = []
        if choice.has_images:
            data.start_loading(wait_seconds=None)
            images, problem = _add_images(data, ranked, clean)
        entries.append(
            {
                "cell": cell.key,
                "model": cell.model,
                "defense": cell.defense,
                "attack": cell.attack,
                "outcomes": len(outcomes),
                "included": len(images),
                "problem": problem,
                "images": images,
            }
        )
    return entries


def _add_images(
    data: DataImages, outcomes: Sequence[OutcomeRecord], clean: CleanImages
) -> tuple[list[dict[str, Any]], str]:
    """Add the images of some outcomes; return those that there are, and why one is missing."""
    images, problem = [], ""
    for row in sorted(outcomes, key=lambda row: row.position):
        try:
            pixels = np.ascontiguousarray(data.load_image(row.image, row.original_hash), dtype=np.float32)
        except DataError as error:
            problem = problem or error.what
            continue
        clean.add(pixels[None])
        images.append(
            {"position": row.position, "image": row.image, "clean_sha256": hash_image_bytes(pixels)}
        )
    return images, problem


def read_proof_images(folder: Path) -> Iterator[ListedProofs]:
    """Read the images of every certificate in a bundle.

    Args:
        folder: The folder of the bundle's files.

    Raises:
        BundleError: If images are missing or changed, or are not those of the outcomes.
    """
    try:
        yield from _read_listed_proofs(folder)
    except BundleError:
        raise
    except Exception as error:  # a file from anyone may hold anything
        what = f"the images of certificates cannot be read ({type(error).__name__}: {error})"
        raise BundleError(what) from error


def _read_listed_proofs(folder: Path) -> Iterator[ListedProofs]:
    entries = {entry["cell"]: entry for entry in load_json(folder / DESCRIPTION_NAME).get("proofs", [])}
    clean = index_clean_images(folder)
    certificates = {cell.key: cell for cell in read_cells(folder) if cell.measure == "certificate"}
    if foreign := [key for key in entries if key not in certificates]:
        raise BundleError(f"{DESCRIPTION_NAME} lists images of {foreign[0]:.16}, which is no certificate")
    for key, cell in certificates.items():
        by_position = {row.position: row for row in read_outcomes(folder, cell) if row.status != "error"}
        entry = entries.get(key, {"images": [], "problem": "the bundle is older than such images"})
        listed = entry["images"]
        outcomes = tuple(_find_outcome(row, by_position, cell) for row in listed)
        images = [load_clean_image(clean, row["clean_sha256"], row["image"]) for row in listed]
        yield ListedProofs(
            cell=cell,
            threat=parse_threat(cell),
            outcomes=outcomes,
            clean=np.stack(images) if images else np.empty((0, 1, 1, 1), np.float32),
            missing=_describe_missing(len(by_position), entry["problem"]),
        )


def _find_outcome(
    row: Mapping[str, Any], by_position: dict[int, OutcomeRecord], cell: CellRecord
) -> OutcomeRecord:
    """Find the outcome of a listed image, each only once."""
    outcome = by_position.pop(row["position"], None)
    if outcome is None:
        raise BundleError(f"the image at position {row['position']} of {cell.attack} has no outcome")
    same_image = row["image"] == outcome.image and row["clean_sha256"].startswith(outcome.original_hash)
    if not same_image or not outcome.original_hash:
        raise BundleError(f"{name_example(cell, outcome)}: another image than that of the outcome")
    return outcome


def _describe_missing(count: int, problem: str) -> str:
    if count <= 0:
        return ""
    reason = f" ({problem})" if problem else ""
    return f"{format_count(count, 'image')} not in the bundle{reason}"
