"""The description of a gradient view, and which views fit what an inspection found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from robustbench_local.attacks.adaptive.findings import (
    GradientFindings,
    LayerFinding,
    ModelFindings,
    OperatorFinding,
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
        parts: What is known of the parts, in the order of ``paths``; empty: they are fed as the model is.
        label: Name for reports.
        draws: Draws over which a random model's gradient is averaged.
        scale: Divisor of the logits.
    """

    kind: ViewKind
    paths: tuple[str, ...] = ()
    operators: tuple[str, ...] = ()
    bypassed: tuple[str, ...] = ()
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
    elif findings.logits.range > MAX_LOGIT_RANGE:
        scale = findings.logits.range / 10
        views.append(ViewSpec(kind="rescaled", label="rescaled logits", draws=draws, scale=scale))
    if has_unsound_gradients(findings):
        faults: list[OperatorFinding | LayerFinding] = [*findings.operators, *findings.layers]
        paths = tuple(dict.fromkeys(fault.path for fault in faults))
        where = ", ".join(path or "the model" for path in paths[:3]) or "the model"
        views.append(ViewSpec(kind="bpda", paths=paths, label=f"BPDA through {where}", draws=draws))
    elif draws > 1:
        views.append(ViewSpec(kind="own", label=f"mean over {draws} draws", draws=draws))
    views += _list_part_views(findings)
    if findings.is_wrapped:
        views.append(ViewSpec(kind="undefended", label="transfer from the model without its defense"))
    return tuple(views)


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
