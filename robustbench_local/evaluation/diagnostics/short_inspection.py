"""Shorter inspections, for runs that cannot afford one of every layer: the same on less evidence."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name everyone uses

from robustbench_local.attacks.adaptive.answer_rounding import (
    AIMED_CHANGES_PER_NOISE,
    MIN_CHANGE_PER_MEASURED_NOISE,
    compute_agreement,
    follow_gradient,
    measure_rounding,
)
from robustbench_local.attacks.adaptive.findings import GradientFindings, ModelFindings, RandomnessFindings
from robustbench_local.attacks.adaptive.fixed_draws import fix_draws, preserve_randomness
from robustbench_local.attacks.adaptive.gradient_checks import (
    JITTER,
    MIN_CHANGE_PER_NOISE,
    ROUNDING_SHARE,
    TINY_GRADIENT,
    check_gradients,
    compute_margin_gradient,
    compute_median_cosine,
    draw_signs,
    measure_change,
)
from robustbench_local.attacks.adaptive.layer_checks import check_functions
from robustbench_local.attacks.adaptive.logit_checks import check_logits
from robustbench_local.attacks.adaptive.operator_scan import scan_operators
from robustbench_local.attacks.adaptive.part_search import find_parts
from robustbench_local.attacks.adaptive.randomness_checks import check_randomness
from robustbench_local.attacks.core.losses import compute_cross_entropy, compute_margin
from robustbench_local.classifier import Classifier
from robustbench_local.classifier.pass_counter import PassCounter
from robustbench_local.classifier.wrapper import WrappedClassifier, find_innermost
from robustbench_local.errors import ModelError
from robustbench_local.randomness import RandomStream

SCANNED_IMAGES = 2
"""Images on which operators are looked at: six passes each."""
BRIEF_REPEATS = 5
"""Repetitions of the first image: a model that chooses among two ways is found with a chance of 97 %."""
BRIEF_DIRECTIONS = 3
"""Sign directions of the brief inspection; the slopes of all images are compared together."""
BRIEF_STEP = 1e-4
"""Pixel change of its finite differences. With 1e-3 the kinks of sound networks show (cosine .93 for
MobileNetV2 with random weights, .995 with this); float32 still resolves the change."""


def inspect_gradients(
    classifier: Classifier, images: Tensor, labels: Tensor, stream: RandomStream
) -> ModelFindings:
    """Look at gradients, logits, random draws and operators; arguments as for `inspect_model`.

    Returns:
        Findings whose layers are unknown; their passes count in the open counter.
    """
    with torch.no_grad():
        logits = classifier(images)
    findings = _build_findings(
        classifier,
        logits,
        check_gradients(classifier, images, labels, stream),
        check_randomness(classifier, images, labels),
    )
    findings = _add_operators(classifier, findings, images, labels, stream)
    core = find_innermost(classifier)
    rows = images[:SCANNED_IMAGES]
    with _count_apart(core, len(rows), classifier.open_counter):
        return replace(findings, parts=find_parts(core, rows) if core.access != "labels" else ())


def inspect_briefly(
    classifier: Classifier, images: Tensor, labels: Tensor, stream: RandomStream
) -> ModelFindings:
    """Ask the same in about 17 passes an image, except for parts; arguments as for `inspect_gradients`."""
    with preserve_randomness(), torch.no_grad():
        logits = classifier(images)
        # alone each time: in half precision an answer depends on the size of the batch
        again = torch.cat([classifier(images[:1]) for _ in range(BRIEF_REPEATS + 1)])
    unit = F.normalize(again.double(), dim=1)
    difference = float(torch.nan_to_num((unit - unit[0]).norm(dim=1)).max())
    randomness = RandomnessFindings(
        max_difference=difference,
        changed_labels=int(bool((again.argmax(dim=1) != again[0].argmax()).any())),
        is_repeated_by_seed=False,
    )
    if not randomness.is_random:
        randomness = replace(randomness, is_repeated_by_seed=True)
    findings = _build_findings(
        classifier, logits, _check_gradients_briefly(classifier, images, labels, stream), randomness
    )
    return _add_operators(classifier, findings, images, labels, stream)


def _build_findings(
    classifier: Classifier, logits: Tensor, gradients: GradientFindings, randomness: RandomnessFindings
) -> ModelFindings:
    return ModelFindings(
        gradients=gradients,
        logits=check_logits(logits),
        randomness=randomness,
        is_wrapped=isinstance(classifier, WrappedClassifier),
        images=len(logits),
        passes=(0, 0),
    )


def _check_gradients_briefly(
    classifier: Classifier, images: Tensor, labels: Tensor, stream: RandomStream
) -> GradientFindings:
    """As `check_gradients`, with the slopes of all images compared as one vector."""
    if classifier.access != "gradients":
        return GradientFindings(
            has_graph=False, has_access=False, error=f"gives {classifier.access} only", images=len(images)
        )
    peaks, nonfinite = [], torch.zeros(len(images), dtype=torch.bool)
    with fix_draws(classifier, stream) as seed_draws:
        try:
            for compute_loss in (compute_margin, compute_cross_entropy):
                seed_draws()
                with _count_apart(classifier, len(images)) as counter:
                    gradient = classifier.compute_gradient(
                        images, partial(_compute_loss, compute_loss, labels)
                    )[2]
                peaks.append(gradient.flatten(1).abs().amax(dim=1))
                if compute_loss is compute_margin:
                    nonfinite = torch.tensor(
                        [counts.nonfinite_steps > 0 for counts in counter.gradient_counts]
                    )
        except ModelError as error:
            has_graph = "no gradient path" not in error.what
            return GradientFindings(
                has_graph=has_graph, error=error.what if has_graph else "", images=len(images)
            )
    cosine, relative_error = _compare_pooled_slopes(classifier, images, labels, stream)
    margin, entropy = peaks
    return GradientFindings(
        has_graph=True,
        zero_margin_share=_compute_share(margin == 0),
        tiny_margin_share=_compute_share(margin < TINY_GRADIENT),
        zero_cross_entropy_share=_compute_share(entropy == 0),
        tiny_cross_entropy_share=_compute_share(entropy < TINY_GRADIENT),
        nonfinite_share=_compute_share(nonfinite),
        cosine=cosine,
        relative_error=relative_error,
        informative_share=0.0 if cosine is None else 1.0,
        images=len(images),
    )


def _compare_pooled_slopes(
    classifier: Classifier, images: Tensor, labels: Tensor, stream: RandomStream
) -> tuple[float | None, float | None]:
    """Return cosine and relative error of all measured and predicted slopes, each image in its own unit."""
    noise = stream.sample_uniform(images.shape[1:], draw="jitter", device=images.device)
    images = (images + JITTER * (2 * noise - 1)).clamp(0, 1)
    gradient = compute_margin_gradient(classifier, images, labels, stream)
    rounding = measure_rounding(classifier, images, labels, stream)
    step: Tensor | float = BRIEF_STEP
    if rounding.is_coarse:
        with torch.no_grad():
            largest = classifier(images).abs().amax(dim=1)
        step = rounding.choose_step(gradient, largest, min(AIMED_CHANGES_PER_NOISE))
    changes: list[list[Tensor]] = [[], [], []]
    for number in range(BRIEF_DIRECTIONS):
        direction = draw_signs(images, stream, number)
        if rounding.is_coarse:
            direction = follow_gradient(gradient, direction, stream, f"direction {number}")
        parts = measure_change(classifier, images, labels, stream, gradient, step * direction)
        for values, kept in zip(parts, changes, strict=True):
            kept.append(values)
    measured, predicted, sizes = (torch.stack(part, dim=1) for part in changes)
    if rounding.is_coarse:
        return pool_slopes(measured, predicted, rounding.compute_noise(sizes), is_measured=True)
    return pool_slopes(measured, predicted, ROUNDING_SHARE * sizes)


def pool_slopes(
    measured: Tensor, predicted: Tensor, rounding: Tensor, *, is_measured: bool = False
) -> tuple[float | None, float | None]:
    """Compare slopes, (N, D) each: N images in units of their own, D directions; None where all is rounding.

    Args:
        measured: Differences of the loss.
        predicted: The same as the gradient predicts them.
        rounding: Rounding errors of the differences: bounds, or standard deviations that were measured.
        is_measured: Whether they were, so that they are subtracted.
    """
    sizes = torch.maximum(measured.norm(dim=1), predicted.norm(dim=1))
    limit = MIN_CHANGE_PER_MEASURED_NOISE if is_measured else MIN_CHANGE_PER_NOISE
    known = sizes > limit * rounding.norm(dim=1)
    if not bool(known.any()):
        return None, None
    came, foretold, noise = (
        (part[known] / sizes[known, None]).flatten() for part in (measured, predicted, rounding)
    )
    cosine, error = compute_agreement(came, foretold, noise if is_measured else torch.zeros_like(noise))
    return float(cosine), min(float(error), 1e6)


def _add_operators(
    classifier: Classifier, findings: ModelFindings, images: Tensor, labels: Tensor, stream: RandomStream
) -> ModelFindings:
    """Add operators without a useful gradient, and whether surrogates for them change the gradient."""
    core = find_innermost(classifier)
    if core.access != "gradients":
        return findings
    rows = torch.arange(min(SCANNED_IMAGES, len(images)))
    inputs = (images[: len(rows)], labels[: len(rows)], stream.select_images(rows))
    cosine = None
    with _count_apart(core, len(rows), classifier.open_counter):
        scan = scan_operators(core, *inputs)
        functions = check_functions(core, inputs[0]) if findings.gradients.has_graph else ()
        if findings.gradients.has_graph and not findings.gradients.error and scan.gradient is not None:
            cosine = compute_median_cosine(compute_margin_gradient(core, *inputs), scan.gradient)
    return replace(
        findings,
        gradients=replace(findings.gradients, surrogate_cosine=cosine),
        operators=scan.operators + functions,
        selections=scan.selections,
        optimizes_inside=scan.optimizes_inside,
        surrogate_error=scan.error,
    )


@contextmanager
def _count_apart(
    classifier: Classifier, count: int, outer: PassCounter | None = None
) -> Iterator[PassCounter]:
    """Count the passes of ``count`` images by themselves while open, then in the outer counter as well."""
    outer = outer or classifier.open_counter
    with classifier.count_passes(count) as counter:
        try:
            yield counter
        finally:
            if outer is not None:
                for row in range(count):
                    index = torch.tensor([row])
                    for _ in range(int(counter.forward_passes[row])):
                        outer.add_forward(index, 1)
                    outer.add_backward(index, 1, int(counter.backward_passes[row]))


def _compute_loss(compute: Callable[[Tensor, Tensor], Tensor], labels: Tensor, logits: Tensor) -> Tensor:
    return compute(logits, labels)


def _compute_share(marks: Tensor) -> float:
    return float(marks.float().mean()) if len(marks) else 0.0
