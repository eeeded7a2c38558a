"""Models that bring a smooth approximation for their own steps without a gradient (BPDA).

Their gradient contradicts finite differences by design, and attacks that follow it still work.

Source: Athalye et al. 2018, arXiv:1802.00420, section 4.1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robustbench_local.attacks.adaptive.findings import ModelFindings
from robustbench_local.attacks.adaptive.fixed_draws import preserve_randomness
from robustbench_local.attacks.adaptive.gradient_checks import (
    JITTER,
    compute_margin_gradient,
    compute_median_cosine,
)
from robustbench_local.attacks.adaptive.layer_checks import has_straight_functions
from robustbench_local.attacks.adaptive.local_slopes import has_identity_slope
from robustbench_local.attacks.adaptive.module_records import ModuleRecord, record_modules
from robustbench_local.attacks.adaptive.operator_scan import scan_operators
from robustbench_local.bpda import is_own_surrogate, is_straight_through
from robustbench_local.classifier import Classifier
from robustbench_local.classifier.autograd_graph import walk_graph
from robustbench_local.classifier.wrapper import find_innermost
from robustbench_local.randomness import RandomStream

MIN_SURROGATE_COSINE = 0.95
"""Smallest cosine between a model's gradient and the one through surrogates of its operators from which on
the model counts as having surrogates of its own."""
_ROUNDING_NODES = ("FakeQuantize", "FusedMovingAvgObsFq")
"""How the nodes begin by which torch imitates quantization; their gradients pass straight through."""
PROBED_IMAGES = 2
"""Images on which layers are looked at."""


def has_own_surrogates(classifier: Classifier, findings: ModelFindings, images: Tensor) -> bool:
    """Check whether a model replaces each gradient that goes wrong by another one itself.

    Args:
        classifier: In evaluation mode; one forward pass of a few images is made.
        findings: What the inspection found.
        images: (N, C, H, W) in [0, 1].

    Returns:
        True if this package itself gives the model's answers other gradients, as to rounded files, if its
        gradient is the one through surrogates of its operators, beside the images as well, or if every layer
        where the gradient goes wrong lies in one that has the gradient of the identity by its own doing.
    """
    if is_own_surrogate(find_innermost(classifier).model):
        return True
    cosine = findings.gradients.surrogate_cosine
    if cosine is not None and cosine >= MIN_SURROGATE_COSINE:
        agreement = findings.gradients.cosine
        is_contradicted = agreement is not None and agreement < MIN_SURROGATE_COSINE
        # where an activation saturates, its small slope is right, and declares nothing
        if any(not finding.operator.startswith("saturated") for finding in findings.operators):
            return not is_contradicted or _follows_surrogates_nearby(classifier, images)
        if is_contradicted and _goes_straight(classifier, images):
            return True
    faults = [layer for layer in findings.layers if layer.kind != "saturated"]
    waiting = {layer.path for layer in faults if not layer.is_declared_identity}
    if not faults or not waiting:
        return bool(faults)
    with preserve_randomness(), record_modules(find_innermost(classifier).model) as records, torch.no_grad():
        classifier(images[:PROBED_IMAGES])
    around = [record for record in records if any(_contains_module(record.path, path) for path in waiting)]
    declared = {record.path for record in around if _declares_identity(record)}
    return all(any(_contains_module(outer, path) for outer in declared) for path in waiting)


def _goes_straight(classifier: Classifier, images: Tensor) -> bool:
    """Return whether the model lets a gradient go straight through a function that changes its values.

    The classifier itself uses it where gradients vanish at pixels of exactly 0 or 1: that declares nothing.
    """
    outer, inner = classifier.border_probe, find_innermost(classifier).border_probe
    exact = outer.use_exact_gradients(), inner.use_exact_gradients()
    with preserve_randomness(), torch.enable_grad(), exact[0], exact[1]:
        answer = classifier(images[:PROBED_IMAGES].detach().clone().requires_grad_())
    nodes = list(walk_graph(answer))
    if any(is_straight_through(node) or node.name().startswith(_ROUNDING_NODES) for node in nodes):
        return True
    # on the 8-bit grid, rounding to it changes nothing
    return has_straight_functions(find_innermost(classifier), _move_beside(images[:PROBED_IMAGES]))


def _follows_surrogates_nearby(classifier: Classifier, images: Tensor) -> bool:
    """Return whether the gradient is the one through surrogates a fraction of a pixel level away as well.

    A model may be smooth on the 8-bit grid, where images lie, and without a useful gradient beside it, where
    attacks go.
    """
    core, points = find_innermost(classifier), _move_beside(images[:PROBED_IMAGES])
    stream = _make_stream(points)
    with preserve_randomness(), torch.no_grad():
        labels = core(points).argmax(dim=1)
    scan = scan_operators(core, points, labels, stream)
    if scan.gradient is None:
        return True
    own = compute_margin_gradient(core, points, labels, stream)
    return compute_median_cosine(own, scan.gradient) >= MIN_SURROGATE_COSINE


def _move_beside(images: Tensor) -> Tensor:
    """Return points a fraction of a pixel level away from images."""
    noise = _make_stream(images).sample_uniform(images.shape[1:], draw="jitter", device=images.device)
    return (images + JITTER * (2 * noise - 1)).clamp(0, 1)


def _make_stream(images: Tensor) -> RandomStream:
    return RandomStream(0, tuple(str(row) for row in range(len(images))), "surrogates")


def _contains_module(outer: str, path: str) -> bool:
    """Return whether a module, other than the model itself, holds another one."""
    return bool(outer) and path.startswith(f"{outer}.")


def _declares_identity(record: ModuleRecord) -> bool:
    source, output = record.source, record.output
    if source is None or output is None or output.shape != source.shape:
        return False
    with preserve_randomness():
        return has_identity_slope(record.call_module, source)
