"""D3: is the whole model in evaluation mode while it is measured?"""

from __future__ import annotations

from robustbench_local.evaluation.diagnostics.diagnosed_model import DiagnosedModel
from robustbench_local.evaluation.diagnostics.diagnostic import Diagnostic, Reading, build_unread

MAX_NAMED_LAYERS = 3
"""Layers that the sentence names."""


class TrainingMode(Diagnostic):
    """Layers that stay in training mode although the harness has switched the model to evaluation."""

    id = "D3"
    name = "evaluation mode"
    source = "foolbox and RobustBench warn of models in training mode"

    def check_model(self, model: DiagnosedModel) -> Reading:
        """Look at the flags of all layers; it takes no pass."""
        if model.classifier.module is None:
            return build_unread("the model is not a torch module")
        layers = [
            path or "the model" for path, part in model.classifier.module.named_modules() if part.training
        ]
        if not layers:
            sentence = "Every layer is in evaluation mode."
            return Reading(status="ok", sentence=sentence, value=0.0, limit=0.0)
        more = f" and {len(layers) - MAX_NAMED_LAYERS} more" if len(layers) > MAX_NAMED_LAYERS else ""
        named = f"{', '.join(layers[:MAX_NAMED_LAYERS])}{more}"
        return Reading(
            status="block",
            sentence=f"Layers stay in training mode ({named}), where dropout draws at random and batch "
            "normalization mixes the images of a batch.",
            value=float(len(layers)),
            limit=0.0,
            action="Let eval() switch every layer, and measure again.",
        )
