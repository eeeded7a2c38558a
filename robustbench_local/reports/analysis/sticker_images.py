"""Pictures of signs with stickers: the sign, simulated views, and frames of a drive-by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.example_images import FloatImage, convert_to_rgb
from robustbench_local.reports.analysis.sticker_results import StickerResult
from robustbench_local.reports.analysis.sticker_views import (
    NONFINITE_CLASS,
    SignResult,
    SignViews,
    mark_successes,
)
from robustbench_local.store import RunStore, ViewKind

MAX_SIGNS_PER_CELL = 2
"""Maximum signs shown per cell."""
MAX_SIGNS = 16
"""Maximum signs shown in total."""
SIGN_SELECTION_RULE = "the first signs that count, in the order of the data, each in the first views drawn"
"""The rule by which pictures are chosen, independent of their appearance."""

ArraysByName = Mapping[str, npt.NDArray[np.generic]]


@dataclass(frozen=True, kw_only=True)
class ViewImage:
    """The image of one view, with its prediction."""

    pixels: FloatImage
    """(H, W, 3), [0, 1]."""
    prediction: str
    """Name of the predicted class."""
    confidence: float
    """Softmax probability of that class; NaN if the output is not finite."""
    is_success: bool
    """Whether the attack succeeds."""
    is_correct: bool
    """Whether the prediction is the true class."""
    clean_prediction: str
    """Name of the class predicted for the clean sign in the same view."""
    size_pixels: float
    """Size of the sign in pixels."""
    angle_degrees: float
    """Angle from the perpendicular, in degrees."""

    @property
    def outcome(self) -> str:
        """``success``, ``correct`` or ``wrong``."""
        return "success" if self.is_success else "correct" if self.is_correct else "wrong"


@dataclass(frozen=True, kw_only=True)
class StickerImages:
    """One sign."""

    sign: SignResult
    """The sign's results over views."""
    label: str
    """Name of its true class."""
    prediction_without_camera: str
    """Name of the class predicted with the sticker and without the camera."""
    clean_image: FloatImage
    """The clean sign, (H, W, 3)."""
    stickered_image: FloatImage
    """The sign with the sticker; never larger than the image that the attack received."""
    view_images: tuple[ViewImage, ...]
    """Some of its test views."""
    frame_images: tuple[ViewImage, ...]
    """Some frames of the drive-by, from far to near."""
    total_variation: float
    """Total variation of the sticker: mean difference of neighboring pixels."""
    non_printability: float
    """Mean distance of its colors from the printable ones."""


def build_sticker_images(
    store: RunStore, evidence: Evidence, results: Sequence[StickerResult]
) -> dict[str, tuple[StickerImages, ...]]:
    """Build the pictures of each cell, by its key."""
    share = max(1, min(MAX_SIGNS_PER_CELL, MAX_SIGNS // max(len(results), 1)))
    return {result.cell.record.key: _build_cell_images(store, evidence, result, share) for result in results}


def _build_cell_images(
    store: RunStore, evidence: Evidence, result: StickerResult, share: int
) -> tuple[StickerImages, ...]:
    key, model = result.cell.record.key, result.cell.record.model
    arrays = {} if key in evidence.damaged_images else store.load_arrays(key)
    if not arrays:
        return ()
    flat = {row.position: row.adversarial_prediction for row in store.read_outcomes(key)}
    signs = {row.sign.position: row.sign for row in result.rows if row.sign.is_counted}
    stored = sorted((int(position), index) for index, position in enumerate(arrays["positions"]))
    return tuple(
        _build_sign_images(
            evidence,
            result,
            signs[position],
            {name: values[index] for name, values in arrays.items()},
            evidence.get_class_name(model, flat[position]),
        )
        for position, index in [pair for pair in stored if pair[0] in signs][:share]
    )


def _build_sign_images(
    evidence: Evidence, result: StickerResult, sign: SignResult, arrays: ArraysByName, read: str
) -> StickerImages:
    def strip(kind: ViewKind, pictures: str, numbers: str) -> tuple[ViewImage, ...]:
        return tuple(
            _build_view_image(evidence, result, sign.views[kind], int(number), picture)
            for picture, number in zip(arrays[pictures], arrays[numbers], strict=True)
        )

    return StickerImages(
        sign=sign,
        label=evidence.get_class_name(result.cell.record.model, sign.label),
        prediction_without_camera=read,
        clean_image=convert_to_rgb(arrays["original"]),
        stickered_image=convert_to_rgb(arrays["adversarial"]),
        view_images=strip("view", "photographs", "photograph_numbers"),
        frame_images=strip("approach", "frames", "frame_numbers"),
        total_variation=float(arrays["total_variation"]),
        non_printability=float(arrays["non_printability"]),
    )


def _build_view_image(
    evidence: Evidence,
    result: StickerResult,
    sign_views: SignViews,
    number: int,
    picture: npt.NDArray[np.generic],
) -> ViewImage:
    model = result.cell.record.model
    read, clean = sign_views.predictions["sticker"][number], sign_views.predictions["clean"][number]
    hit = mark_successes(
        sign_views.predictions["sticker"][number : number + 1], sign_views.label, result.cell.record.targets
    )
    return ViewImage(
        pixels=convert_to_rgb(np.asarray(picture, dtype=np.float32) / 255),
        prediction=evidence.get_class_name(model, None if read == NONFINITE_CLASS else int(read)),
        confidence=float(sign_views.confidences["sticker"][number]),
        is_success=bool(hit[0]),
        is_correct=bool(read == sign_views.label),
        clean_prediction=evidence.get_class_name(model, None if clean == NONFINITE_CLASS else int(clean)),
        size_pixels=float(sign_views.size_pixels[number]),
        angle_degrees=float(sign_views.angle_degrees[number]),
    )
