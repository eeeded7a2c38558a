"""D2: does the model give finite numbers for clean images?"""

from __future__ import annotations

import torch

from robustbench_local.evaluation.diagnostics.diagnosed_model import DiagnosedModel
from robustbench_local.evaluation.diagnostics.diagnostic import Diagnostic, Reading, format_images


class OutputForm(Diagnostic):
    """NaN or infinity as an answer to a clean image; the shape is checked when the model is loaded."""

    id = "D2"
    name = "form of the output"
    source = "the harness counts an answer that is not finite as not robust"

    def check_model(self, model: DiagnosedModel) -> Reading:
        """Look at the answers to the first images; it takes no further pass."""
        n = len(model.logits)
        count = n - int(torch.isfinite(model.logits).all(dim=1).sum())
        if not count:
            sentence = f"The outputs for {format_images(n, n)} are finite numbers, one for each class."
            return Reading(status="ok", sentence=sentence, value=0.0, limit=0.0, n=n)
        return Reading(
            status="block",
            sentence=f"For {format_images(count, n)} without any attack the model's output is NaN or "
            "infinite.",
            value=count / n,
            limit=0.0,
            n=n,
            action="Mend the model's forward pass before its robustness is measured.",
        )
