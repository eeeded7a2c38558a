"""The description of a gradient view, and which views fit what an inspection found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from robustbench_local.attacks.adaptive.findings import (
    GradientFindings,
    ModelFindings,
    PartFinding,
)

ViewKind = Literal["own", "bpda", "smooth", "part", "log", "rescaled", "undefended"]

MIN_COSINE = 0.95
"""Median cosine with finite differences below which gradients do not describe the model.

Measured: at least .999 on sound networks, at most .73 on masked ones."""
MAX_RELATIVE_ERROR = 0.1
"""Median error relative to finite differences above which gradients do not describe the model.

Measured: at most .02 on sound networks, at least .29 on masked ones."""
MIN_FAULT_SHARE = 0.01
"""Share of images with zero, tiny or non-finite gradients from which a view is worth its passes."""
MAX_LOGIT_RANGE = 100.0
"""Median logit range above which cross-entropy saturates in float32; measured: 10 to 22 on sound networks."""


USUAL_LOGIT_RANGE = 10.0
"""Logit range to which a view rescales; see `MAX_LOGIT_RANGE`."""
MAX_SURROGATE_COSINE = 0.999
"""Cosine of a model's own gradient with the one through surrogates above which it declares them itself."""
MAX_MEASURED_INPUTS = 128
"""Inputs per image up to which a layer's Jacobian is measured: two passes of the layer each."""


@dataclass(frozen=True, kw_only=True)
class ViewSpec:
    """How gradients are obtained; the answer is always the real model's, bit for bit.

    Attributes:
        kind: ``own``: the model's gradient; ``bpda``: operators without useful gradients are replaced during
            the backward pass; ``smooth``: activations have smoother backward passes; ``part``: the gradient
            of submodules' loss; ``log``: of the log of the output, for models that return probabilities;
            ``rescaled``: of the loss of logits divided by ``scale``; ``undefended``: of the classifier
            without its wrapper defense.
        paths: Module paths that it concerns: where operators are replaced (none: everywhere), or the parts.
        operators: Names of the operators that are replaced; none: all.
        bypassed: Paths of modules, from a shape to the same shape, that have the gradient of the identity.
        measured: Paths of modules with few inputs whose Jacobian is measured by finite differences.
        parts: What is known of the parts, in the order of ``paths``; empty: they are fed as the model is.
        label: Name for reports.
        draws: Draws over which a random model's gradient is averaged.
        scale: Divisor of the logits.
    """

    kind: ViewKind
    paths: tuple[str, ...] = ()
    operators: tuple[str, ...] = ()
    bypassed: tuple[str, ...] = ()
    measured: tuple[str, ...] = ()
    parts: tuple[PartFinding, ...] = ()
    label: str
    draws: int = 1
    scale: float = 1.0


def list_views(findings: ModelFindings) -> tuple[ViewSpec, ...]:
    """List the gradient views that a model's findings call for.

    Args:
        findings: What the inspection found.

    Returns:
        The most promising first; empty for a model whose own gradients are sound.
    """
    draws = findings.randomness.draws
    views: list[ViewSpec] = []
    if findings.logits.are_probabilities:
        views.append(ViewSpec(kind="log", label="log of the probabilities", draws=draws))
    elif has_saturated_softmax(findings):
        scale = max(1.0, findings.logits.range / USUAL_LOGIT_RANGE)
        views.append(ViewSpec(kind="rescaled", label="rescaled logits", draws=draws, scale=scale))
    if has_unsound_gradients(findings):
        views += _list_surrogate_views(findings)
    elif draws > 1:
        views.append(ViewSpec(kind="own", label=f"mean over {draws} draws", draws=draws))
    views += _list_part_views(findings)
    if findings.is_wrapped:
        views.append(ViewSpec(kind="undefended", label="transfer from the model without its defense"))
    return tuple(views)


def has_saturated_softmax(findings: ModelFindings) -> bool:
    """Check whether logits are so far apart that the cross-entropy's gradient is zero in float32.

    A tiny one is no fault: attacks use its signs.
    """
    gradients = findings.gradients
    vanishing_share = gradients.zero_cross_entropy_share - gradients.zero_margin_share
    return findings.logits.range > MAX_LOGIT_RANGE or vanishing_share >= MIN_FAULT_SHARE


def _list_surrogate_views(findings: ModelFindings) -> list[ViewSpec]:
    """List the views that replace operators, layers and activations."""
    draws = findings.randomness.draws
    cosine = findings.gradients.surrogate_cosine
    views = []
    if findings.operators and (cosine is None or cosine < MAX_SURROGATE_COSINE):
        paths = tuple(dict.fromkeys(finding.path for finding in findings.operators))
        names = tuple(dict.fromkeys(finding.operator for finding in findings.operators))
        label = f"BPDA through {_join_names(names)} in {_join_names(paths)}"
        views.append(ViewSpec(kind="bpda", paths=paths, operators=names, label=label, draws=draws))
    wrong = [layer for layer in findings.layers if layer.kind != "saturated" and layer.path]
    bypassed = tuple(layer.path for layer in wrong if layer.keeps_shape and not layer.is_declared_identity)
    if bypassed:
        label = f"BPDA with the identity for {_join_names(bypassed)}"
        views.append(ViewSpec(kind="bpda", bypassed=bypassed, label=label, draws=draws))
    measured = tuple(
        layer.path for layer in wrong if not layer.keeps_shape and layer.inputs <= MAX_MEASURED_INPUTS
    )
    if measured:
        label = f"measured Jacobian of {_join_names(measured)}"
        views.append(ViewSpec(kind="bpda", measured=measured, label=label, draws=draws))
    if not views and cosine is not None and cosine < MAX_SURROGATE_COSINE:
        views.append(ViewSpec(kind="bpda", label="BPDA through all operators", draws=draws))
    vanishing_share = max(findings.gradients.zero_margin_share, findings.gradients.nonfinite_share)
    if vanishing_share >= MIN_FAULT_SHARE and not findings.operators:
        views.append(ViewSpec(kind="smooth", label="smoothed activations", draws=draws))
    return views


def _join_names(names: tuple[str, ...]) -> str:
    shown = ", ".join(name or "the model" for name in names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def has_unsound_gradients(findings: ModelFindings) -> bool:
    """Check whether an operator, a layer or the gradient itself calls for surrogates."""
    return bool(findings.operators or findings.layers) or are_gradients_unsound(findings.gradients)


def are_gradients_unsound(gradients: GradientFindings) -> bool:
    """Check whether gradients are missing, zero, not finite or contradicted by finite differences."""
    if not gradients.has_graph or gradients.error:
        return True
    if max(gradients.zero_margin_share, gradients.nonfinite_share) >= MIN_FAULT_SHARE:
        return True
    if gradients.cosine is None or gradients.relative_error is None:
        return False
    return gradients.cosine < MIN_COSINE or gradients.relative_error > MAX_RELATIVE_ERROR


def _list_part_views(findings: ModelFindings) -> list[ViewSpec]:
    members = tuple(part for part in findings.parts if part.role == "member")
    choices = {
        (part,): f"transfer from member {number} ({part.path})" for number, part in enumerate(members, 1)
    }
    views: list[tuple[tuple[PartFinding, ...], str]] = list(choices.items())
    if len(members) > 1:
        views.insert(0, (members, "transfer from the mean of all members"))
    views += [((part,), f"transfer from {part.path}") for part in findings.parts if part.role == "base"]
    return [
        ViewSpec(kind="part", paths=tuple(part.path for part in parts), parts=parts, label=label)
        for parts, label in views
    ]
