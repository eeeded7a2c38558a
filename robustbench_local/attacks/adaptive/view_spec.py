"""The description of a gradient view, and which views fit what an inspection found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from robustbench_local.attacks.adaptive.findings import (
    GradientFindings,
    LayerFinding,
    ModelFindings,
    PartFinding,
    StudentRecord,
    read_part,
)

ViewKind = Literal[
    "own", "bpda", "smooth", "part", "log", "rescaled", "undefended", "wide", "neighborhood", "student"
]

MIN_COSINE = 0.95
"""Median cosine with finite differences below which gradients do not describe the model.

Measured: at least .999 on sound networks, at most .73 on masked ones."""
MAX_RELATIVE_ERROR = 0.2
"""Median error relative to finite differences above which gradients do not describe the model.

Measured: at most .15 on sound networks (a median filter, whose gradient jumps where neighbors are equal; .06
without), at least .21 on masked ones."""
MIN_FAULT_SHARE = 0.01
"""Share of images with zero, tiny or non-finite gradients from which a view is worth its passes."""
MAX_LOGIT_RANGE = 100.0
"""Median logit range above which cross-entropy saturates in float32; measured: 10 to 22 on sound networks."""


WIDE_SLOPES = (0.1, 0.5, 1.5)
"""Half the lengths of intervals for mean slopes, in standard deviations of a function's input: the change of
pixels within usual radii is a tenth of theirs, and a smooth activation bends over one or two."""
SMOOTH_LABEL = "smoothed activations"
"""Label of the view through gentler activations, a softmax among them."""
USUAL_LOGIT_RANGE = 10.0
"""Logit range to which a view rescales; see `MAX_LOGIT_RANGE`."""
TINY_RANGE = 1e-30
"""Smallest logit range that is told from zero."""
MAX_SURROGATE_COSINE = 0.999
"""Cosine of a model's own gradient with the one through surrogates above which it declares them itself."""
MAX_MEASURED_INPUTS = 128
"""Inputs per image up to which a layer's Jacobian is measured at each image: two passes of the layer each."""
MAX_AFFINE_INPUTS = 8192
"""Inputs up to which the Jacobian of a layer that is nearly affine is measured, once for all images."""
MIN_LOGIT_RANGE = 0.1
"""Median logit range below which unsound gradients may be those of underflow in half precision; sound
networks have 2 to 86, without training 0.3."""


@dataclass(frozen=True, kw_only=True)
class ViewSpec:
    """How gradients are obtained; the answer is always the real model's, bit for bit.

    Attributes:
        kind: ``own``: the model's gradient; ``bpda``: operators without useful gradients are replaced during
            the backward pass; ``smooth``: activations have smoother backward passes; ``part``: the gradient
            of submodules' loss; ``log``: of the log of the output, for models that return probabilities;
            ``rescaled``: of the loss of logits divided by ``scale``; ``undefended``: of the classifier
            without its wrapper defense; ``wide``: functions of single values have their mean slope over an
            interval; ``neighborhood``: the mean of the model's gradients at points around the image;
            ``student``: of a network distilled from the answers.
        paths: Module paths that it concerns: where operators are replaced (none: everywhere), or the parts.
        operators: Names of the operators that are replaced, in ``wide`` of those by rank; none: all.
        bypassed: Paths of modules, from a shape to the same shape, that have the gradient of the identity.
        measured: Paths of modules with few inputs whose Jacobian is measured by finite differences.
        anchors: Paths of parts in ``bpda``: whatever the model does before them has the gradient of the
            straight line of `PartInput`.
        parts: What is known of the parts, in the order of ``paths`` or ``anchors``; empty: they are fed as
            the model is.
        label: Name for reports.
        draws: Draws over which a random model's gradient is averaged.
        scale: Divisor of the logits.
        width: Half the length of the interval of ``wide``, in standard deviations of the functions' input.
        radius: Size of a neighborhood: the norm of the offsets, in Linf the standard deviation of a pixel.
        norm: The norm of that size.
        student: The distilled network.
    """

    kind: ViewKind
    paths: tuple[str, ...] = ()
    operators: tuple[str, ...] = ()
    bypassed: tuple[str, ...] = ()
    measured: tuple[str, ...] = ()
    anchors: tuple[str, ...] = ()
    parts: tuple[PartFinding, ...] = ()
    label: str
    draws: int = 1
    scale: float = 1.0
    width: float = 0.0
    radius: float = 0.0
    norm: str = "Linf"
    student: StudentRecord | None = None

    def __post_init__(self) -> None:
        """Make tuples and findings of the lists and dicts that JSON has instead."""
        for name in ("paths", "operators", "bypassed", "measured", "anchors"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        parts = tuple(read_part(part) if isinstance(part, dict) else part for part in self.parts)
        object.__setattr__(self, "parts", parts)


def list_views(findings: ModelFindings) -> tuple[ViewSpec, ...]:
    """List the gradient views that a model's findings call for.

    Args:
        findings: What the inspection found.

    Returns:
        The most promising first; at most transfers from parts for a model whose own gradients are sound.
    """
    draws = findings.randomness.draws
    undefended = ViewSpec(kind="undefended", label="transfer from the model without its defense")
    if not findings.gradients.has_access:
        return (undefended,) if findings.is_wrapped else ()
    views: list[ViewSpec] = []
    if findings.randomness.is_random and findings.gradients.has_graph and not findings.gradients.error:
        views.append(ViewSpec(kind="own", label=f"EOT over {draws} draws", draws=draws))
    if findings.logits.are_probabilities and findings.gradients.has_graph:
        views.append(ViewSpec(kind="log", label="log of the probabilities", draws=draws))
    elif has_extreme_logits(findings) and findings.gradients.has_graph:
        scale = max(TINY_RANGE, findings.logits.range) / USUAL_LOGIT_RANGE
        views.append(ViewSpec(kind="rescaled", label="rescaled logits", draws=draws, scale=scale))
    if has_unsound_gradients(findings) or findings.optimizes_inside:
        views += _list_surrogate_views(findings)
    views += _list_part_views(findings)
    if findings.is_wrapped:
        views.append(undefended)
    return tuple(views)


def list_trial_views(findings: ModelFindings) -> tuple[ViewSpec, ...]:
    """List views for faults that a look cannot see: correct gradients that say nothing at some distance.

    Each is used only where its short version succeeds on an image on which the model's own gradients do not.
    """
    gradients = findings.gradients
    if not gradients.has_access:
        return ()
    draws = findings.randomness.draws
    views = [
        ViewSpec(kind="wide", label=f"mean slopes over {width:g} deviations", width=width, draws=draws)
        for width in WIDE_SLOPES
    ]
    views.append(ViewSpec(kind="smooth", label=SMOOTH_LABEL, draws=draws))
    if gradients.has_graph and not gradients.error and draws == 1:
        views.append(ViewSpec(kind="neighborhood", label="mean gradients of a neighborhood"))
    return tuple(views)


def has_extreme_logits(findings: ModelFindings) -> bool:
    """Check whether logits are so far apart, or so close, that gradients are zero in the arithmetic used.

    A tiny one is no fault: attacks use its signs.
    """
    gradients = findings.gradients
    vanishing_share = gradients.zero_cross_entropy_share - gradients.zero_margin_share
    if findings.logits.range < MIN_LOGIT_RANGE:
        return gradients.zero_margin_share >= MIN_FAULT_SHARE or are_gradients_unsound(gradients)
    return findings.logits.range > MAX_LOGIT_RANGE or vanishing_share >= MIN_FAULT_SHARE


def _list_surrogate_views(findings: ModelFindings) -> list[ViewSpec]:
    """List the views that replace operators, layers and activations."""
    draws = findings.randomness.draws
    cosine = findings.gradients.surrogate_cosine
    views = []
    if findings.operators and not declares_surrogates(findings):
        paths = tuple(dict.fromkeys(finding.path for finding in findings.operators))
        names = tuple(dict.fromkeys(finding.operator for finding in findings.operators))
        label = f"BPDA through {_join_names(names)} in {_join_names(paths)}"
        views.append(ViewSpec(kind="bpda", paths=paths, operators=names, label=label, draws=draws))
    wrong = [layer for layer in findings.layers if layer.kind != "saturated" and layer.path]
    bypassed = tuple(layer.path for layer in wrong if layer.keeps_shape and not layer.is_declared_identity)
    if bypassed:
        label = f"BPDA with the identity for {_join_names(bypassed)}"
        views.append(ViewSpec(kind="bpda", bypassed=bypassed, label=label, draws=draws))
    measured = tuple(layer.path for layer in wrong if _is_measurable(layer))
    if measured:
        label = f"measured Jacobian of {_join_names(measured)}"
        views.append(ViewSpec(kind="bpda", measured=measured, label=label, draws=draws))
    bases = tuple(part for part in findings.parts if part.role == "base")
    if bases and not declares_surrogates(findings):
        anchors = tuple(part.path for part in bases)
        label = f"BPDA with the identity up to {_join_names(anchors)}"
        views.append(ViewSpec(kind="bpda", anchors=anchors, parts=bases, label=label, draws=draws))
    if not views and not findings.surrogate_error and (cosine is None or cosine < MAX_SURROGATE_COSINE):
        views.append(ViewSpec(kind="bpda", label="BPDA through all operators", draws=draws))
    gradients = findings.gradients
    vanishes = gradients.has_graph and (gradients.tiny_margin_share >= MIN_FAULT_SHARE)
    if vanishes and not findings.operators:
        views.append(ViewSpec(kind="smooth", label=SMOOTH_LABEL, draws=draws))
    return views


def declares_surrogates(findings: ModelFindings) -> bool:
    """Check that the model gives its operators or layers the gradients of surrogates by itself."""
    cosine = findings.gradients.surrogate_cosine
    if findings.operators:
        return cosine is not None and cosine >= MAX_SURROGATE_COSINE
    return bool(findings.layers) and all(layer.is_declared_identity for layer in findings.layers)


def _is_measurable(layer: LayerFinding) -> bool:
    largest = MAX_AFFINE_INPUTS if layer.is_affine else MAX_MEASURED_INPUTS
    return not layer.keeps_shape and layer.inputs <= largest


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
        return gradients.tiny_margin_share >= MIN_FAULT_SHARE  # nothing moves the loss
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
