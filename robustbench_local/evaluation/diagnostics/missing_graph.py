"""D6a: is there a gradient from the output to the pixels at all?"""

from __future__ import annotations

from robustbench_local.evaluation.diagnostics.diagnosed_model import DiagnosedModel
from robustbench_local.evaluation.diagnostics.diagnostic import Diagnostic, Reading, build_unread


class MissingGraph(Diagnostic):
    """A forward pass that cuts the gradient, or a defense without a surrogate."""

    id = "D6a"
    name = "gradient reaches the pixels"
    source = "Athalye et al. 2018, arXiv:1802.00420, section 3 (shattered gradients)"

    def check_model(self, model: DiagnosedModel) -> Reading:
        """Read the inspection."""
        if not model.gives_gradients:
            return build_unread(f"the model gives {model.classifier.access} only, and no gradients")
        if model.findings is None:
            return build_unread(model.missing_findings)
        found = model.findings.gradients
        if found.has_graph and not found.error:
            return Reading(
                status="ok", sentence="A gradient leads from the output back to the pixels.", n=found.images
            )
        why = f" ({found.error.rstrip('.')})" if found.error else ""
        return Reading(
            status="fail",
            sentence="The model cuts the gradient, the direction that white-box attacks follow, between its "
            f"output and the pixels{why}: attacks that need it cannot be run.",
            value=0.0,
            limit=1.0,
            n=found.images,
            action="Remove no_grad, detach or numpy from the forward pass, or attack without gradients "
            "(square with 5,000 queries).",
        )
