"""D26: are there operators without a useful gradient, and nothing declared that replaces it?"""

from __future__ import annotations

from robustbench_local.attacks.adaptive.findings import GradientFindings, ModelFindings
from robustbench_local.evaluation.diagnostics.diagnosed_model import DiagnosedModel
from robustbench_local.evaluation.diagnostics.diagnostic import (
    Diagnostic,
    Reading,
    build_unread,
)
from robustbench_local.evaluation.diagnostics.gradient_agreement import MIN_COSINE
from robustbench_local.evaluation.diagnostics.vanishing_gradient import MAX_ZERO_SHARE

MAX_NAMED_OPERATORS = 3
"""Operators that the sentence names."""
_HARMFUL_FAULTS = frozenset({"cut", "zero", "contradicted"})
"""Faults of a layer that such an operator explains."""


class BlockingOperators(Diagnostic):
    """Rounding, argmax, JPEG and the like where the gradient is measured to go wrong."""

    id = "D26"
    name = "adaptive attack for operators without gradient"
    source = "Tramer et al. 2020, arXiv:2002.08347 (adaptive attacks); Athalye et al. 2018 (BPDA)"

    def check_model(self, model: DiagnosedModel) -> Reading:
        """Read the inspection: operators, and layers where finite differences contradict the gradient."""
        if model.lacks_surrogate:
            return Reading(
                status="warn",
                sentence="The defense blocks gradients and declares no smooth approximation in their place, "
                "so its robustness is unverified: attacks with gradients are skipped.",
                value=1.0,
                limit=0.0,
                action="Declare a surrogate in the defense (gradient_mode), and attack again.",
            )
        reason = _find_obstacle(model)
        if reason:
            return build_unread(reason)
        found: ModelFindings = model.findings  # type: ignore[assignment]
        names = list(dict.fromkeys(finding.operator for finding in found.operators))
        faults = [layer for layer in found.layers if layer.kind in _HARMFUL_FAULTS]
        if not names:
            return Reading(
                status="ok", sentence="No operator without a useful gradient was found.", value=0.0
            )
        more = f" and {len(names) - MAX_NAMED_OPERATORS} more" if len(names) > MAX_NAMED_OPERATORS else ""
        named = f"{', '.join(names[:MAX_NAMED_OPERATORS])}{more}"
        is_faulty = bool(faults) if model.is_wholly_inspected else _is_gradient_faulty(found.gradients)
        if not is_faulty or model.declares_surrogate:
            what = (
                "are replaced by a smooth approximation that the model or its defense declares"
                if model.declares_surrogate
                else "do no harm here: the gradient passes them unharmed"
            )
            return Reading(
                status="info" if model.declares_surrogate else "ok",
                sentence=f"Operators without a useful gradient ({named}) {what}.",
                value=float(len(names)),
            )
        where = (faults[0].path if faults else "") or "the model itself"
        return Reading(
            status="warn",
            sentence=f"The gradient goes wrong at {where}, where the model uses an operator without a useful "
            f"one ({named}), and no approximation is declared.",
            value=float(len(faults) or len(names)),
            limit=0.0,
            n=found.images,
            action="Attack through a smooth approximation of it (BPDA), as adaptive does by itself.",
        )


def _is_gradient_faulty(found: GradientFindings) -> bool:
    """Return whether the gradient of the whole goes wrong, where single layers were not compared."""
    return (
        not found.has_graph
        or max(found.zero_margin_share, found.nonfinite_share) >= MAX_ZERO_SHARE
        or (found.cosine is not None and found.cosine < MIN_COSINE)
    )


def _find_obstacle(model: DiagnosedModel) -> str:
    """Return why operators are unknown, or an empty text."""
    if not model.gives_gradients:
        return f"the model gives {model.classifier.access} only, and no gradients"
    if model.findings is None:
        return model.missing_findings
    return ""
