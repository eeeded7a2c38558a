"""D1: are the images in [0, 1], as every attack and every radius assumes?"""

from __future__ import annotations

import torch

from robustbench_local.evaluation.diagnostics.diagnosed_model import DiagnosedModel
from robustbench_local.evaluation.diagnostics.diagnostic import Diagnostic, Reading

MAX_OVERSHOOT = 1e-6
"""Largest distance of a pixel from [0, 1] by rounding alone, as in `data.dataset`."""


class InputRange(Diagnostic):
    """Images outside [0, 1] mean that a loader has normalized them, or that they run from 0 to 255."""

    id = "D1"
    name = "range of the images"
    source = "the harness works in pixels of [0, 1]; foolbox checks its inputs in the same way"

    def check_model(self, model: DiagnosedModel) -> Reading:
        """Look at the sample; it takes no pass."""
        images = model.images
        finite = bool(torch.isfinite(images).all())
        low, high = float(images.nan_to_num().min()), float(images.nan_to_num().max())
        overshoot = max(-low, high - 1, 0.0)
        if finite and overshoot <= MAX_OVERSHOOT:
            sentence = f"The pixels run from {low:.3g} to {high:.3g}, inside [0, 1]."
            return Reading(
                status="ok", sentence=sentence, value=overshoot, limit=MAX_OVERSHOOT, n=len(images)
            )
        found = f"run from {low:.3g} to {high:.3g}" if finite else "are not all numbers"
        return Reading(
            status="block",
            sentence=f"The pixels {found} instead of lying in [0, 1], so that no radius means what it says.",
            value=overshoot,
            limit=MAX_OVERSHOOT,
            n=len(images),
            action="Load images in [0, 1], and normalize inside the model (normalize: in the grid).",
        )
