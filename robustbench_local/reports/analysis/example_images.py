"""Which adversarial images are shown, and how their pixels become small pictures."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from robustbench_local.reports.analysis.evidence import CellResult, Evidence
from robustbench_local.reports.analysis.per_target import parts_of_goals
from robustbench_local.reports.formatting.text import private
from robustbench_local.store import OutcomeRecord, RunStore

MOST_IN_CELL = 6
MOST_IN_ALL = 24
MOST_PIXELS = 160
"""Longer side of a picture; larger images are scaled down so that the page stays small."""
RULE = "the first images, in the order of the data, that the attack broke"
"""How examples are chosen. Not by looks."""

_FACTORS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 25, 32, 50, 64, 100, 128, 200, 255)
_MIDDLE = 0.5

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Example:
    """One broken image."""

    image: str
    """Id of the image."""
    label: str
    """Name of its true class."""
    prediction: str
    """Name of the class it is read as under attack."""
    linf: float
    """Largest change of a pixel."""
    l2: float
    """Euclidean norm of the change."""
    clean: Floats
    """(H, W, 3), [0, 1]."""
    adversarial: Floats
    """(H, W, 3), [0, 1]."""
    difference: Floats
    """(H, W, 3), [0, 1]: the change times the exhibit's factor, around middle grey."""


@dataclass(frozen=True, kw_only=True)
class Exhibit:
    """The examples of one cell."""

    cell: CellResult
    """The attack on the model."""
    examples: tuple[Example, ...]
    """In the order of the data."""
    factor: int
    """How many times the change is amplified in the difference."""


def make_gallery(store: RunStore, evidence: Evidence) -> list[Exhibit]:
    """The first broken images of each cell that kept any: a few each, so that the page stays small.

    Where several targets were also tried one by one, only the attack on all of them is shown.
    """
    parts = parts_of_goals(evidence.cells)
    broken = [
        cell
        for cell in _shown(evidence.attacks)
        if cell.done and cell.tally.broken and not cell.viewed and cell.record.key not in parts
    ]
    share = max(1, min(MOST_IN_CELL, MOST_IN_ALL // max(len(broken), 1)))
    exhibits = (_exhibit(store, evidence, cell, share) for cell in broken[:MOST_IN_ALL])
    return [exhibit for exhibit in exhibits if exhibit is not None]


def _shown(cells: Sequence[CellResult]) -> list[CellResult]:
    """The attacks, and after them the hardest severity of each corruption."""
    corrupted = [cell for cell in cells if cell.corrupted]
    hardest: dict[str, float] = {}
    for cell in corrupted:
        kind = cell.threat.kind
        hardest[kind] = max(hardest.get(kind, 0.0), cell.record.eps)
    worst = [cell for cell in corrupted if cell.record.eps == hardest[cell.threat.kind]]
    return [*(cell for cell in cells if not cell.corrupted), *worst]


def png(pixels: Floats) -> bytes:
    """A picture, (H, W, 3) in [0, 1], as PNG; larger ones are scaled down by averaging."""
    picture = Image.fromarray(np.round(pixels * 255).astype(np.uint8))
    picture.thumbnail((MOST_PIXELS, MOST_PIXELS), Image.Resampling.BOX)
    content = io.BytesIO()
    picture.save(content, format="PNG", optimize=True)
    return content.getvalue()


def show(image: npt.NDArray[np.generic]) -> Floats:
    """An image, (C, H, W) in [0, 1], as red, green and blue, (H, W, 3); fewer channels are shown as grey."""
    channels = np.nan_to_num(np.asarray(image, dtype=np.float32), nan=0.0, posinf=1.0, neginf=0.0)
    coloured = channels[:3] if len(channels) >= 3 else np.repeat(channels[:1], 3, axis=0)
    return np.clip(coloured, 0, 1).transpose(1, 2, 0).astype(np.float32)


def _exhibit(store: RunStore, evidence: Evidence, cell: CellResult, share: int) -> Exhibit | None:
    if cell.record.key in evidence.damaged_images:
        return None
    arrays = store.load_arrays(cell.record.key)
    if not arrays:
        return None
    outcomes = {row.position: row for row in store.outcomes(cell.record.key)}
    positions = [int(position) for position in arrays["positions"]]
    chosen = sorted((position, place) for place, position in enumerate(positions) if position in outcomes)[
        :share
    ]
    pairs = [(show(arrays["original"][place]), show(arrays["adversarial"][place])) for _, place in chosen]
    factor = _factor(pairs)
    examples = (
        _example(evidence, cell, outcomes[position], pair, factor)
        for (position, _), pair in zip(chosen, pairs, strict=True)
    )
    return Exhibit(cell=cell, examples=tuple(examples), factor=factor)


def _example(
    evidence: Evidence, cell: CellResult, outcome: OutcomeRecord, pair: tuple[Floats, Floats], factor: int
) -> Example:
    clean, adversarial = pair
    difference = np.clip(_MIDDLE + factor * (adversarial - clean), 0, 1)
    return Example(
        image=private(outcome.image),
        label=evidence.class_name(cell.record.model, outcome.label),
        prediction=evidence.class_name(cell.record.model, outcome.adversarial_prediction),
        linf=outcome.linf,
        l2=outcome.l2,
        clean=clean,
        adversarial=adversarial,
        difference=difference,
    )


def _factor(pairs: Sequence[tuple[Floats, Floats]]) -> int:
    """The largest round factor that keeps every change inside the range of grey, give or take a level."""
    largest = max((float(np.abs(after - before).max()) for before, after in pairs), default=0.0)
    fitting = [factor for factor in _FACTORS if factor * largest <= _MIDDLE + 2 / 255]
    return fitting[-1] if fitting else 1
