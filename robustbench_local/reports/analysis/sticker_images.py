"""Pictures of stickered signs: the sign itself, simulated views of it, and the film of a drive-by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.example_images import Floats, show
from robustbench_local.reports.analysis.sticker_results import StickerResult
from robustbench_local.reports.analysis.sticker_views import NOT_FINITE, Looks, Sign, reached
from robustbench_local.store import RunStore, ViewKind

MOST_SIGNS = 2
"""Signs of a cell that are shown."""
MOST_PAGES = 16
"""Signs that are shown in all."""
RULE_OF_SIGNS = "the first signs that count, in the order of the data, each in the first views drawn"
"""How pictures are chosen. Not by looks."""

Arrays = Mapping[str, npt.NDArray[np.generic]]


@dataclass(frozen=True, kw_only=True)
class Photograph:
    """What the model saw in one view, and what it read."""

    pixels: Floats
    """(H, W, 3), [0, 1]."""
    read: str
    """Name of the class that was read."""
    confidence: float
    """Softmax probability of that class; NaN if the answer is not finite."""
    hit: bool
    """Whether that is what the attacker wants."""
    right: bool
    """Whether it is what the sign says."""
    clean: str
    """Name of the class that the clean sign is read as in the same view."""
    distance: float
    """Size of the sign in pixels."""
    angle: float
    """Angle from the perpendicular, in degrees."""

    @property
    def mark(self) -> str:
        """``hit``, ``right`` or ``wrong``."""
        return "hit" if self.hit else "right" if self.right else "wrong"


@dataclass(frozen=True, kw_only=True)
class Page:
    """One sign."""

    sign: Sign
    """Its looks."""
    label: str
    """Name of its true class."""
    read: str
    """What it is read as with the sticker and without a camera."""
    clean: Floats
    """The sign as it is, (H, W, 3)."""
    stickered: Floats
    """The same with what the attack made; never larger than the image it was made on."""
    views: tuple[Photograph, ...]
    """Some of its test views."""
    frames: tuple[Photograph, ...]
    """Some frames of the drive-by, from far to near."""
    roughness: float
    """Total variation of the sticker: mean difference of neighbouring pixels."""
    unprintable: float
    """Mean distance of its colours from what a printer covers."""


def make_albums(
    store: RunStore, evidence: Evidence, results: Sequence[StickerResult]
) -> dict[str, tuple[Page, ...]]:
    """The pictures of each cell, by its key."""
    share = max(1, min(MOST_SIGNS, MOST_PAGES // max(len(results), 1)))
    return {result.cell.record.key: _pages(store, evidence, result, share) for result in results}


def _pages(store: RunStore, evidence: Evidence, result: StickerResult, share: int) -> tuple[Page, ...]:
    key, model = result.cell.record.key, result.cell.record.model
    arrays = {} if key in evidence.damaged_images else store.load_arrays(key)
    if not arrays:
        return ()
    flat = {row.position: row.adversarial_prediction for row in store.outcomes(key)}
    signs = {row.sign.position: row.sign for row in result.rows if row.sign.counted}
    kept = sorted((int(position), place) for place, position in enumerate(arrays["positions"]))
    return tuple(
        _page(
            evidence,
            result,
            signs[position],
            {name: values[place] for name, values in arrays.items()},
            evidence.class_name(model, flat[position]),
        )
        for position, place in [one for one in kept if one[0] in signs][:share]
    )


def _page(evidence: Evidence, result: StickerResult, sign: Sign, arrays: Arrays, read: str) -> Page:
    def strip(kind: ViewKind, pictures: str, numbers: str) -> tuple[Photograph, ...]:
        return tuple(
            _photograph(evidence, result, sign.looks[kind], int(number), picture)
            for picture, number in zip(arrays[pictures], arrays[numbers], strict=True)
        )

    return Page(
        sign=sign,
        label=evidence.class_name(result.cell.record.model, sign.label),
        read=read,
        clean=show(arrays["original"]),
        stickered=show(arrays["adversarial"]),
        views=strip("view", "photographs", "photograph_numbers"),
        frames=strip("approach", "frames", "frame_numbers"),
        roughness=float(arrays["total_variation"]),
        unprintable=float(arrays["non_printability"]),
    )


def _photograph(
    evidence: Evidence,
    result: StickerResult,
    looks: Looks,
    number: int,
    picture: npt.NDArray[np.generic],
) -> Photograph:
    model = result.cell.record.model
    read, clean = looks.predictions["sticker"][number], looks.predictions["clean"][number]
    hit = reached(looks.predictions["sticker"][number : number + 1], looks.label, result.cell.record.targets)
    return Photograph(
        pixels=show(np.asarray(picture, dtype=np.float32) / 255),
        read=evidence.class_name(model, None if read == NOT_FINITE else int(read)),
        confidence=float(looks.confidences["sticker"][number]),
        hit=bool(hit[0]),
        right=bool(read == looks.label),
        clean=evidence.class_name(model, None if clean == NOT_FINITE else int(clean)),
        distance=float(looks.distance[number]),
        angle=float(looks.obliqueness[number]),
    )
