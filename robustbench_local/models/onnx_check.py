"""Comparison of a conversion to torch with the ONNX file that it comes from, before anything is attacked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robustbench_local.counted_nouns import format_count

MAX_DIFFERENCE = 1e-3
"""Largest difference of two scores of one image, as a share of the largest score of the image, above which a
conversion is not used: a hundred times what the order of sums changes in single precision."""
MAX_HALF_DIFFERENCE = 2e-2
"""The same for files in half precision, whose answers are rounded to 11 bits at every layer."""
MAX_SLOPE_ERROR = 0.25
"""Largest difference between a slope by gradients and one by answers of the file, in the median and as a
share of what the gradient makes expect, above which gradients are not used: equal networks give 0.11."""
_RANDOM_IMAGES = 4
_STEPS = (1e-3, 2e-4)
"""Lengths of the steps by pixel for the slopes by answers: short ones cross fewer kinks, and drown in
rounding sooner."""
_NOISE = 1e-4
"""Share of the scores by which a step has to change them: less is lost in rounding."""
_LEAST_LOG_PROBABILITY = -80.0

Answer = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class ConversionCheck:
    """How a conversion agrees with its file.

    Args:
        count: Number of inputs.
        difference: Largest difference of two scores.
        share: The same, as a share of the largest score of the image.
        same_labels: Number of inputs with the same label, or with a lead below the difference.
        slope_error: Median error of the slopes, as a share; None where it was not measured.
    """

    count: int
    difference: float
    share: float
    same_labels: int
    slope_error: float | None

    def find_problem(self, *, is_half: bool) -> str | None:
        """Return why the conversion may not be used, or None.

        Args:
            is_half: Whether the file computes in half precision.
        """
        limit = MAX_HALF_DIFFERENCE if is_half else MAX_DIFFERENCE
        if not self.share <= limit:
            return (
                f"the conversion to torch differs from onnxruntime by {self.difference:.2g}, "
                f"{self.share:.2%} of the scores"
            )
        if self.same_labels < self.count:
            return (
                f"the conversion to torch has another label on {self.count - self.same_labels} of "
                f"{format_count(self.count, 'input')}"
            )
        if self.slope_error is not None and not self.slope_error <= MAX_SLOPE_ERROR:
            return f"its gradients differ by {self.slope_error:.0%} from the slopes of onnxruntime's scores"
        return None


def check_conversion(
    convert: nn.Module,
    answer: Callable[[Tensor], Any],
    images: Tensor,
    *,
    output: str | int | None,
    is_probability: bool = False,
    should_check_slopes: bool = True,
) -> ConversionCheck:
    """Compare a conversion with its file on inputs.

    Args:
        convert: The conversion.
        answer: The file.
        images: (N, C, H, W), inputs of both.
        output: The entry with the scores, if there are several.
        is_probability: Whether the file's scores are logarithms of probabilities, and those of the
            conversion the logits of the same softmax.
        should_check_slopes: Whether gradients are compared with differences of the file's scores.
    """

    def ask_conversion(values: Tensor) -> Tensor:
        return _centre_scores(_select_scores(convert(values), output), is_probability=is_probability)

    def ask_file(values: Tensor) -> Tensor:
        return _centre_scores(_select_scores(answer(values), output), is_probability=is_probability)

    with torch.no_grad():
        expected, found = ask_file(images), ask_conversion(images)
    if expected.shape != found.shape:
        return ConversionCheck(len(images), np.inf, np.inf, 0, None)
    differences = (expected - found).abs().amax(dim=1)
    sizes = expected.abs().amax(dim=1).clamp_min(torch.finfo(torch.float32).tiny)
    top = expected.topk(min(2, expected.shape[1]), dim=1).values
    is_tied = (top[:, 0] - top[:, -1]) <= 2 * differences
    same = (expected.argmax(dim=1) == found.argmax(dim=1)) | is_tied
    error = _measure_slope_error(ask_conversion, ask_file, images, expected) if should_check_slopes else None
    return ConversionCheck(
        count=len(images),
        difference=float(differences.max()),
        share=float((differences / sizes).max()),
        same_labels=int(same.sum()),
        slope_error=error,
    )


def make_check_inputs(samples: Tensor | None, shape: tuple[int, int, int], *, is_unit: bool) -> Tensor:
    """Return inputs to compare on: images, the same standardised as a normalisation does it, and noise.

    Args:
        samples: (N, C, H, W) in [0, 1], or None.
        shape: (C, H, W) of the input.
        is_unit: Whether the model takes [0, 1] only.

    Returns:
        (M, C, H, W).
    """
    generator = torch.Generator().manual_seed(0)
    uniform = torch.rand(_RANDOM_IMAGES, *shape, generator=generator)
    parts = [uniform]
    if not is_unit:
        parts.append(torch.randn(_RANDOM_IMAGES, *shape, generator=generator))
    if samples is not None and samples.shape[1] == shape[0]:
        sized = torch.nn.functional.interpolate(samples, shape[1:], mode="bilinear", antialias=True)
        parts.append(sized.clamp(0, 1))
        if not is_unit:
            deviations = sized.flatten(1).std(dim=1).clamp_min(0.05).view(-1, 1, 1, 1)
            parts.append((sized - sized.mean(dim=(1, 2, 3), keepdim=True)) / deviations)
    return torch.cat(parts)


def _measure_slope_error(
    ask_conversion: Answer, ask_file: Answer, images: Tensor, expected: Tensor
) -> float | None:
    """Return the median error of gradients against differences of the file's leads.

    It is the larger one of two directions: along the gradient, whose length it tells, and along random signs,
    which also see what the gradient misses.
    """
    if expected.shape[1] < 2:
        return None
    best = expected.topk(2, dim=1).indices

    def find_lead(scores: Tensor) -> Tensor:
        picked = scores.gather(1, best)
        return picked[:, 0] - picked[:, 1]

    with torch.enable_grad():
        leaf = images.clone().requires_grad_()
        lead = find_lead(ask_conversion(leaf))
        if not lead.requires_grad:
            return np.inf
        (gradient,) = torch.autograd.grad(lead.sum(), leaf, allow_unused=True)
    if gradient is None:
        return np.inf
    return _compare_slopes(ask_file, find_lead, images, gradient, expected)


def _compare_slopes(
    ask_file: Answer, find_lead: Answer, images: Tensor, gradient: Tensor, expected: Tensor
) -> float | None:
    """Compare gradients of leads, (N, C, H, W), with differences of leads of the file's scores, (N, K)."""
    norms = gradient.flatten(1).norm(dim=1)
    directions = gradient / norms.clamp_min(torch.finfo(gradient.dtype).tiny).view(-1, 1, 1, 1)
    signs = torch.randn(images.shape, generator=torch.Generator().manual_seed(1)).sign().to(images)
    length = images[0].numel() ** 0.5
    errors = []
    for direction, expected_slope in ((directions * length, norms * length), (signs, norms)):
        medians = []
        for size in _STEPS:
            step = size * direction
            measured = (find_lead(ask_file(images + step)) - find_lead(ask_file(images - step))) / 2
            predicted = (gradient * step).flatten(1).sum(dim=1)
            largest = torch.maximum(size * expected_slope, measured.abs())
            is_clear = largest > _NOISE * expected.abs().amax(dim=1)
            if bool(is_clear.any()):
                medians.append(float(((measured - predicted).abs() / largest)[is_clear].median()))
        errors += [min(medians)] if medians else []
    return max(errors, default=None)


def _select_scores(outputs: Any, output: str | int | None) -> Tensor:
    """Return the scores among outputs, (N, K); of several without a choice, the first with two axes."""
    if isinstance(outputs, Mapping):
        named = list(outputs.values())
        chosen = named[output] if isinstance(output, int) else outputs.get(output)
        outputs = next(value for value in named if value.ndim == 2) if chosen is None else chosen
    values = torch.from_numpy(outputs) if isinstance(outputs, np.ndarray) else outputs
    return values.to(torch.float64).reshape(len(values), -1)


def _centre_scores(scores: Tensor, *, is_probability: bool) -> Tensor:
    """Return scores whose mean is 0, since a softmax that is undone leaves one number open.

    Probabilities are cut where single precision has no smaller ones.
    """
    if is_probability:
        scores = torch.log_softmax(scores, dim=1).clamp_min(_LEAST_LOG_PROBABILITY)
    return scores - scores.mean(dim=1, keepdim=True)
