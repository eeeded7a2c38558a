"""Verification: the harness checks every candidate of an attack, and only verified candidates count.

An attack's own success flag is never used. Every candidate is measured against the original image and
predicted again in a fresh forward pass in eval mode and fp32, in a batch other than the one it was made in,
and once more after rounding to 8 bits (trust invariants V1-V7, V11, V13-V15). Where the model can be copied,
the classifier for this is a copy that was given neither the clean images nor the search (see
``Classifier.fresh``). Where no norm bounds the change, an attack returns parameters instead: they are
checked, and the transformation is applied here.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import torch
from torch import Tensor

from robustbench_local.classifier import Classifier
from robustbench_local.classifier.stochastic import take_verdict_samples, with_verdict_draws
from robustbench_local.double_precision import to_float64
from robustbench_local.randomness import RandomStream
from robustbench_local.threats.eight_bit import round_to_8bit
from robustbench_local.threats.lp_ball import compute_norms, compute_tolerated_radius
from robustbench_local.threats.threat_model import ThreatModel
from robustbench_local.threats.transformations import apply_transformation, find_parameter_violations

_NO_CLASS = -2
"""Prediction that no answer has."""
FRAGILE_MARGIN_SHARE = 1e-4
"""Margins below this share of the logits' range may change sign by floating-point noise."""


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """The predictions of a classifier on a batch of images; all tensors lead with N, on the CPU."""

    prediction: Tensor
    """Class of the largest logit; -1 where a logit is not finite, and the number of classes where the model
    rejects the image."""
    correct: Tensor
    """The label's logit is finite and strictly larger than every other one: a tie is not correct."""
    margin: Tensor
    """The label's logit minus the largest other one; NaN where a logit is not finite."""
    fragile: Tensor
    """Whether |margin| is within floating-point noise of the boundary."""
    rejected: Tensor
    """Whether the model rejects the image."""
    draw_predictions: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.int64))
    """(N, D): the prediction of each draw of a verdict on a randomized classifier; D is 0 for others."""
    draw_correct: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.bool))
    """(N, D): whether it is correct."""

    @property
    def is_finite(self) -> Tensor:
        """Whether every logit of an image is finite."""
        return self.prediction >= 0


PREDICTION_FIELDS = tuple(entry.name for entry in fields(Predictions))
"""Names of the tensors of `Predictions`."""


@dataclass(frozen=True, kw_only=True)
class VerificationResult:
    """The harness's verdict on a batch of candidates; all tensors lead with N, on the CPU."""

    candidates: Tensor
    """(N, C, H, W): the candidate if it is valid, else the original."""
    rejection_reasons: tuple[str | None, ...]
    """The reason why a candidate was rejected; None where it was not."""
    predictions: Predictions
    """The classifier's predictions on ``candidates``."""
    broken: Tensor
    """(N,) boolean: the attacker's goal was reached, or the answer is not finite."""
    broken_8bit: tuple[bool | None, ...]
    """Broken after rounding to 8 bits in the ball; None if not broken or the ball has no such image."""
    linf: Tensor
    """(N,) largest change of a pixel."""
    l2: Tensor
    """(N,) Euclidean norm of the change."""
    l1: Tensor
    """(N,) sum of the changes."""
    l0: Tensor
    """(N,) number of changed pixels."""
    draws: Tensor
    """(N,) independent draws of the model's answer to the candidate; 0 where answers are not random."""
    successful_draws: Tensor
    """(N,) those of them that reach the attacker's goal, or are not finite."""
    broken_fixed_draw: tuple[bool, ...] = ()
    """Whether the attack reaches its goal against one fixed draw of each image; empty if it was not tried."""


def predict(
    classifier: Classifier,
    images: Tensor,
    labels: Tensor,
    rows: Tensor | None = None,
    stream: RandomStream | None = None,
    *,
    allows_rejection: bool = False,
) -> Predictions:
    """Query the classifier in a fresh forward pass without gradients.

    Args:
        classifier: In eval mode (see ``Classifier.evaluation_mode``).
        images: (N, C, H, W) in [0, 1].
        labels: True classes, (N,).
        rows: The row of each image in the open pass counter and in the stream, (N,).
        stream: The images' random numbers, which decide the draws of a randomized classifier's verdict.
        allows_rejection: Whether a rejected image is as good as a correct one, as under attack; a rejected
            clean image is not correct.

    Returns:
        The predictions. NaN and infinite logits are never correct, whatever their argmax.
    """
    with torch.no_grad(), with_verdict_draws(classifier, stream):
        logits = classifier(images, rows).float().cpu()
        samples = take_verdict_samples(classifier)
    labels = labels.cpu()
    if samples is None:
        draws = torch.zeros(len(images), 0, dtype=torch.int64), torch.zeros(len(images), 0, dtype=torch.bool)
    else:
        draws = read_draws(samples, labels, classifier, allows_rejection=allows_rejection)
    reject_class = None if classifier.abstention is None else classifier.num_classes
    return _read_logits(logits, labels, reject_class, *draws, allows_rejection=allows_rejection)


def read_draws(
    samples: Tensor, labels: Tensor, classifier: Classifier, *, allows_rejection: bool
) -> tuple[Tensor, Tensor]:
    """Return the prediction of each draw and whether it is correct, both (N, D), of logits, (D, N, K)."""
    count = len(samples)
    readings = _read_logits(
        samples.float().cpu().flatten(0, 1),
        labels.cpu().repeat(count),
        None if classifier.abstention is None else classifier.num_classes,
        allows_rejection=allows_rejection,
    )
    shape = (count, len(labels))
    return readings.prediction.view(shape).T, readings.correct.view(shape).T


def _read_logits(
    logits: Tensor, labels: Tensor, reject_class: int | None, *draws: Tensor, allows_rejection: bool
) -> Predictions:
    """Read predictions from logits, (N, K), or (N, K + 1) with a rejecting class; float32 on the CPU."""
    finite = torch.isfinite(logits).all(dim=1)
    safe = logits.masked_fill(~finite[:, None], 0.0)
    own = safe.gather(1, labels[:, None]).squeeze(1)
    others = safe.scatter(1, labels[:, None], -torch.inf)
    prediction = torch.where(finite, safe.argmax(dim=1), -1)
    if reject_class is not None and allows_rejection:
        own = torch.maximum(own, safe[:, reject_class])
        others = others[:, :reject_class]
    others = others.amax(dim=1)
    margin = own - others
    spread = safe.amax(dim=1) - safe.amin(dim=1)
    return Predictions(
        prediction=prediction,
        rejected=prediction == (_NO_CLASS if reject_class is None else reject_class),
        correct=finite & (margin > 0),
        margin=margin.masked_fill(~finite, torch.nan),
        fragile=finite & (margin.abs() < FRAGILE_MARGIN_SHARE * spread.clamp_min(1e-12)),
        **dict(zip(("draw_predictions", "draw_correct"), draws, strict=False)),
    )


def predict_in_shuffled_batches(
    classifier: Classifier,
    images: Tensor,
    labels: Tensor,
    stream: RandomStream | None = None,
    *,
    allows_rejection: bool = False,
) -> Predictions:
    """Predict as `predict` does, with the images rotated by a third and in two batches.

    Args:
        classifier: In eval mode, a copy without earlier queries.
        images: (N, C, H, W) in [0, 1], as returned by an attack.
        labels: True classes, (N,).
        stream: See `predict`.
        allows_rejection: See `predict`.

    Returns:
        The predictions in the order of the images.
    """
    count = len(images)
    if count < 2:
        return predict(classifier, images, labels, stream=stream, allows_rejection=allows_rejection)
    first = -(-count // 3)
    order = torch.arange(count).roll(-first)
    parts = [
        predict(
            classifier,
            images[rows],
            labels[rows],
            rows=rows,
            stream=stream,
            allows_rejection=allows_rejection,
        )
        for rows in torch.split(order.to(images.device), count - first)
    ]
    back = order.argsort()
    joined = {name: torch.cat([getattr(part, name) for part in parts])[back] for name in PREDICTION_FIELDS}
    return Predictions(**joined)


def find_ball_violations(
    candidates: Tensor, originals: Tensor, threat: ThreatModel, masks: Tensor | None = None
) -> list[str | None]:
    """Find the rule that each candidate breaks, measured against the original image.

    Args:
        candidates: The images returned by the attack.
        originals: (N, C, H, W) in [0, 1].
        threat: The budget.
        masks: (N, 1, H, W) boolean; with ``threat.region == "mask"`` nothing outside may change by a bit.

    Returns:
        One reason or None for each image.
    """
    count = len(originals)
    if not isinstance(candidates, Tensor) or candidates.shape != originals.shape:
        shape = tuple(candidates.shape) if isinstance(candidates, Tensor) else type(candidates).__name__
        return [f"the attack returned {shape}, not {tuple(originals.shape)}"] * count
    if candidates.dtype != originals.dtype:
        return [f"the attack returned {candidates.dtype}, not {originals.dtype}"] * count
    flat = candidates.flatten(1)
    finite = torch.isfinite(flat).all(dim=1)
    low, high = flat.amin(dim=1), flat.amax(dim=1)
    size = compute_norms(to_float64(candidates) - to_float64(originals), threat.norm)
    limit = compute_tolerated_radius(threat.norm, threat.eps)
    outside = torch.zeros(count, dtype=torch.bool, device=candidates.device)
    if threat.region == "mask" and masks is not None:
        outside = ((candidates != originals) & ~masks.to(candidates.device)).flatten(1).any(dim=1)

    reasons: list[str | None] = []
    rows = zip(finite.tolist(), low.tolist(), high.tolist(), size.tolist(), outside.tolist(), strict=True)
    for is_finite, least, most, norm, left_mask in rows:
        if not is_finite:
            reasons.append("the candidate has NaN or infinite pixels")
        elif least < 0 or most > 1:
            reasons.append(f"the candidate leaves the box [0, 1]: {least:.6g} to {most:.6g}")
        elif norm > limit:
            reasons.append(f"the candidate leaves the ball: {threat.norm} {norm:.6g} > {threat.eps:.6g}")
        elif left_mask:
            reasons.append("the candidate changes pixels outside the mask")
        else:
            reasons.append(None)
    return reasons


def verify(
    classifier: Classifier,
    originals: Tensor,
    labels: Tensor,
    candidates: Tensor,
    threat: ThreatModel,
    *,
    masks: Tensor | None = None,
    stream: RandomStream | None = None,
) -> VerificationResult:
    """Verify candidates for correctly classified images.

    Args:
        classifier: The classifier under test, in eval mode: a fresh copy of the attacked one.
        originals: (N, C, H, W) in [0, 1], all clean-correct.
        labels: True classes, (N,).
        candidates: The attack's result: images of the same shape, or parameters of a transformation.
        threat: Budget and goal.
        masks: (N, 1, H, W) boolean, for ``region="mask"``.
        stream: The images' random numbers, which corruptions and randomized classifiers need.

    Returns:
        One verdict per image. A candidate that breaks a rule is replaced by the original and is a failure
        of the attack, never a success.
    """
    checked, reasons = _select_valid_candidates(candidates, originals, threat, masks, stream)
    legal = torch.tensor([reason is None for reason in reasons], dtype=torch.bool)
    reading = predict_in_shuffled_batches(classifier, checked, labels, stream, allows_rejection=True)
    broken = has_reached_goal(reading, labels, threat) & legal
    change = (to_float64(checked) - to_float64(originals)).cpu()
    return VerificationResult(
        candidates=checked.cpu(),
        rejection_reasons=tuple(reasons),
        predictions=reading,
        broken=broken,
        broken_8bit=_verify_after_rounding(classifier, checked, originals, labels, threat, broken, stream),
        linf=compute_norms(change, "Linf"),
        l2=compute_norms(change, "L2"),
        l1=change.flatten(1).abs().sum(dim=1),
        l0=compute_norms(change, "L0"),
        draws=torch.full((len(labels),), reading.draw_predictions.shape[1]),
        successful_draws=count_successful_draws(
            reading.draw_predictions, reading.draw_correct, labels, threat, classifier
        ),
    )


def has_reached_goal(reading: Predictions, labels: Tensor, threat: ThreatModel) -> Tensor:
    """Return whether predictions under attack reach the attacker's goal or are not finite, (N,) boolean.

    Args:
        reading: The predictions on candidates, in which a rejected image counts as correct.
        labels: True classes, (N,).
        threat: Its goal.
    """
    goal = threat.is_success(reading.prediction, labels.cpu()) & ~reading.rejected
    if not threat.targets:
        goal |= ~reading.correct  # a tie with the label is not a correct answer, whatever argmax picks
    return ~reading.is_finite | goal


def count_successful_draws(
    predictions: Tensor, correct: Tensor, labels: Tensor, threat: ThreatModel, classifier: Classifier
) -> Tensor:
    """Count the draws of each image that reach the attacker's goal or are not finite, (N,) int64.

    Args:
        predictions: (N, D), the prediction of each draw; -1 where it is not finite.
        correct: (N, D), whether it is the label without a tie.
        labels: True classes, (N,).
        threat: Budget and goal.
        classifier: The classifier, which may reject images: that is never a success.
    """
    flat, own = predictions.flatten(), labels.cpu().repeat_interleave(predictions.shape[1])
    goal = threat.is_success(flat, own)
    if classifier.abstention is not None:
        goal &= flat != classifier.num_classes
    success = (goal | (flat < 0)).view_as(correct)
    if not threat.targets:
        success |= ~correct
    return success.sum(dim=1)


def _select_valid_candidates(
    candidates: Tensor,
    originals: Tensor,
    threat: ThreatModel,
    masks: Tensor | None,
    stream: RandomStream | None,
) -> tuple[Tensor, list[str | None]]:
    """Return each image's candidate if valid, else the original, and the rules that are broken."""
    if threat.is_ball:
        reasons = find_ball_violations(candidates, originals, threat, masks)
    else:
        reasons = find_parameter_violations(candidates, originals, threat)
    valid = originals.clone()
    rows = [row for row, reason in enumerate(reasons) if reason is None]
    if rows:
        chosen = candidates[rows].detach()
        own = None if stream is None else stream.select_images(rows)
        valid[rows] = chosen if threat.is_ball else apply_transformation(originals[rows], chosen, threat, own)
    return valid, reasons


def _verify_after_rounding(
    classifier: Classifier,
    candidates: Tensor,
    originals: Tensor,
    labels: Tensor,
    threat: ThreatModel,
    broken: Tensor,
    stream: RandomStream | None,
) -> tuple[bool | None, ...]:
    """Check whether each successful candidate still succeeds as an 8-bit image."""
    result: list[bool | None] = [None] * len(broken)
    index = broken.nonzero().flatten()
    if len(index):
        at = index.to(originals.device)
        rounded, exists = round_to_8bit(candidates[at], originals[at], threat)
        again = predict(classifier, rounded, labels[at], rows=index, stream=stream, allows_rejection=True)
        goal = threat.is_success(again.prediction, labels[at].cpu()) & ~again.rejected | ~again.is_finite
        if not threat.targets:
            goal |= ~again.correct
        for row, holds, possible in zip(index.tolist(), goal.tolist(), exists.tolist(), strict=True):
            result[row] = bool(holds) if possible else None
    return tuple(result)
