"""Adversarial examples as small pictures, and the cells whose examples may be shown."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from robustbench_local.reports.analysis.cell_result import CellResult
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.per_target import find_goal_parts
from robustbench_local.reports.formatting.text import redact_private_data
from robustbench_local.store import OutcomeRecord

MAX_SIDE_PIXELS = 160
"""Longer side of a picture; larger images are scaled down so that the page stays small."""

_AMPLIFICATION_FACTORS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 25, 32, 50, 64, 100, 128, 200, 255)
_MIDDLE_GREY = 0.5

FloatImage = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class ExampleImage:
    """One adversarial example."""

    image: str
    """Id of the image."""
    label: str
    """Name of its true class."""
    prediction: str
    """Name of the class predicted under attack."""
    linf: float
    """Largest change of a pixel."""
    l2: float
    """Euclidean norm of the change."""
    clean_image: FloatImage
    """(H, W, 3), [0, 1]."""
    adversarial_image: FloatImage
    """(H, W, 3), [0, 1]."""
    difference_image: FloatImage
    """(H, W, 3), [0, 1]: the amplified change around middle gray."""


def select_example_cells(evidence: Evidence) -> list[CellResult]:
    """Select the cells whose adversarial examples may be shown.

    Of attacks on several targets that were also run on single ones, only the joint attack is shown; of each
    corruption only the highest severity. Stickers have pictures of their own.
    """
    parts = find_goal_parts(evidence.cells)
    return [
        cell
        for cell in _select_shown_cells(evidence.attack_cells)
        if not cell.is_sticker and not cell.is_self_transfer and cell.record.key not in parts
    ]


def _select_shown_cells(cells: Sequence[CellResult]) -> list[CellResult]:
    """Select the attacks, followed by the highest severity of each corruption."""
    corrupted = [cell for cell in cells if cell.is_corruption]
    hardest: dict[str, float] = {}
    for cell in corrupted:
        kind = cell.threat.kind
        hardest[kind] = max(hardest.get(kind, 0.0), cell.record.eps)
    worst = [cell for cell in corrupted if cell.record.eps == hardest[cell.threat.kind]]
    return [*(cell for cell in cells if not cell.is_corruption), *worst]


def encode_png(pixels: FloatImage) -> bytes:
    """Encode a picture, (H, W, 3) in [0, 1], as PNG; larger ones are scaled down by averaging."""
    picture = Image.fromarray(np.round(pixels * 255).astype(np.uint8))
    picture.thumbnail((MAX_SIDE_PIXELS, MAX_SIDE_PIXELS), Image.Resampling.BOX)
    content = io.BytesIO()
    picture.save(content, format="PNG", optimize=True)
    return content.getvalue()


def convert_to_rgb(image: npt.NDArray[np.generic]) -> FloatImage:
    """Convert an image, (C, H, W) in [0, 1], to RGB, (H, W, 3); fewer channels become gray."""
    channels = np.nan_to_num(np.asarray(image, dtype=np.float32), nan=0.0, posinf=1.0, neginf=0.0)
    coloured = channels[:3] if len(channels) >= 3 else np.repeat(channels[:1], 3, axis=0)
    return np.clip(coloured, 0, 1).transpose(1, 2, 0).astype(np.float32)


def build_example_image(
    evidence: Evidence,
    cell: CellResult,
    outcome: OutcomeRecord,
    pair: tuple[FloatImage, FloatImage],
    factor: int,
) -> ExampleImage:
    """Build the example of an image whose clean and adversarial forms, (H, W, 3), were stored.

    Args:
        evidence: The run; it knows the names of the classes.
        cell: The attack on the model.
        outcome: The outcome of the image.
        pair: The clean and the adversarial image.
        factor: Amplification of the change.
    """
    clean, adversarial = pair
    difference = np.clip(_MIDDLE_GREY + factor * (adversarial - clean), 0, 1)
    return ExampleImage(
        image=redact_private_data(outcome.image),
        label=evidence.get_class_name(cell.record.model, outcome.label),
        prediction=evidence.get_class_name(cell.record.model, outcome.adversarial_prediction),
        linf=outcome.linf,
        l2=outcome.l2,
        clean_image=clean,
        adversarial_image=adversarial,
        difference_image=difference,
    )


def choose_amplification(pairs: Sequence[tuple[FloatImage, FloatImage]]) -> int:
    """Choose the largest round factor that keeps every change within the gray range, within one level."""
    largest = max((float(np.abs(after - before).max()) for before, after in pairs), default=0.0)
    fitting = [factor for factor in _AMPLIFICATION_FACTORS if factor * largest <= _MIDDLE_GREY + 2 / 255]
    return fitting[-1] if fitting else 1
