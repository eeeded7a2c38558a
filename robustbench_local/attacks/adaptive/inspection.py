"""The inspection of a model: a few passes that show why its gradients may be of no use."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from robustbench_local.attacks.adaptive.findings import GradientFindings, LayerFinding, ModelFindings
from robustbench_local.attacks.adaptive.gradient_checks import (
    check_gradients,
    compute_margin_gradient,
    compute_median_cosine,
)
from robustbench_local.attacks.adaptive.layer_checks import check_functions, check_layers
from robustbench_local.attacks.adaptive.logit_checks import check_logits
from robustbench_local.attacks.adaptive.operator_scan import OperatorScan, scan_operators
from robustbench_local.attacks.adaptive.part_search import find_parts
from robustbench_local.attacks.adaptive.randomness_checks import check_randomness
from robustbench_local.attacks.adaptive.view_spec import are_gradients_unsound
from robustbench_local.classifier import Classifier
from robustbench_local.classifier.pass_counter import PassCounter
from robustbench_local.classifier.wrapper import WrappedClassifier, find_innermost
from robustbench_local.randomness import RandomStream

MAX_PROBE_IMAGES = 12
"""Images that the inspection looks at: they cost about 500 passes each, where AutoAttack plans 7,000 for each
image of a cell."""


def inspect_model(
    classifier: Classifier, images: Tensor, labels: Tensor, stream: RandomStream
) -> ModelFindings:
    """Find out where a model's gradients, logits and random draws would mislead an attack.

    Nothing of the model or of the process is changed afterwards; where the model can be copied, a fresh copy
    is queried instead of itself.

    Args:
        classifier: Any classifier.
        images: (N, C, H, W) in [0, 1], N at least 1; the first `MAX_PROBE_IMAGES` are used.
        labels: True classes, (N,).
        stream: Random numbers of those images, in the same order.

    Raises:
        ModelError: If the model cannot answer.
    """
    images = images[:MAX_PROBE_IMAGES].to(classifier.device)
    labels = labels[:MAX_PROBE_IMAGES].to(classifier.device)
    with classifier.evaluation_mode(), classifier.open_fresh_copy() as twin:
        with twin.count_passes(len(images)) as counter:
            findings, rows = _inspect_whole(twin, images, labels, stream)
        core, counters = find_innermost(twin), [counter]
        with core.count_passes(len(images)) as counter:
            findings = _inspect_core(core, findings, images[rows], labels[rows], stream.select_images(rows))
        counters.append(counter)
    forward = torch.stack([counter.forward_passes for counter in counters]).sum(dim=0)
    backward = torch.stack([counter.backward_passes for counter in counters]).sum(dim=0)
    if classifier.open_counter is not None:
        _add_passes(classifier.open_counter, forward, backward)
    return replace(findings, passes=(int(forward.sum()), int(backward.sum())))


def _inspect_whole(
    classifier: Classifier, images: Tensor, labels: Tensor, stream: RandomStream
) -> tuple[ModelFindings, Tensor]:
    """Inspect a classifier with its wrappers; also return the rows of the images to probe."""
    with torch.no_grad():
        logits = classifier(images)
    is_correct = logits.argmax(dim=1) == labels
    rows = (is_correct if bool(is_correct.any()) else torch.ones_like(is_correct)).nonzero().flatten()
    probes = (images[rows], labels[rows])
    findings = ModelFindings(
        gradients=check_gradients(classifier, *probes, stream.select_images(rows)),
        logits=check_logits(logits),
        randomness=check_randomness(classifier, *probes),
        is_wrapped=isinstance(classifier, WrappedClassifier),
        images=len(images),
        passes=(0, 0),
    )
    return findings, rows


def _inspect_core(
    core: Classifier, findings: ModelFindings, images: Tensor, labels: Tensor, stream: RandomStream
) -> ModelFindings:
    """Inspect the model itself, without wrappers: its operators, layers and parts."""
    parts = find_parts(core, images) if core.access != "labels" else ()
    if core.access != "gradients":
        return replace(findings, parts=parts)
    gradients = check_gradients(core, images, labels, stream) if findings.is_wrapped else findings.gradients
    scan = scan_operators(core, images, labels, stream)
    cosine = _compare_with_surrogates(core, gradients, scan, images, labels, stream)
    return replace(
        findings,
        gradients=replace(findings.gradients, surrogate_cosine=cosine),
        operators=scan.operators + (check_functions(core, images) if gradients.has_graph else ()),
        layers=_list_saturated(scan)
        + (check_layers(core, images) if are_gradients_unsound(gradients) else ()),
        parts=parts,
        selections=scan.selections,
        optimizes_inside=scan.optimizes_inside,
        surrogate_error=scan.error,
    )


def _list_saturated(scan: OperatorScan) -> tuple[LayerFinding, ...]:
    """List the modules whose activations are saturated."""
    paths = dict.fromkeys(
        finding.path for finding in scan.operators if finding.operator.startswith("saturated")
    )
    return tuple(LayerFinding(path=path, kind="saturated") for path in paths)


def _compare_with_surrogates(
    core: Classifier,
    gradients: GradientFindings,
    scan: OperatorScan,
    images: Tensor,
    labels: Tensor,
    stream: RandomStream,
) -> float | None:
    """Return the cosine between the model's own gradient and the one through surrogates."""
    if not gradients.has_graph or gradients.error or scan.gradient is None:
        return None
    return compute_median_cosine(compute_margin_gradient(core, images, labels, stream), scan.gradient)


def _add_passes(counter: PassCounter, forward: Tensor, backward: Tensor) -> None:
    """Add the passes of a copy, one number per image."""
    for row, (forwards, backwards) in enumerate(zip(forward.tolist(), backward.tolist(), strict=True)):
        counter.add_forward(torch.tensor([row] * forwards, dtype=torch.int64), forwards)
        counter.add_backward(torch.tensor([row] * backwards, dtype=torch.int64), backwards)
