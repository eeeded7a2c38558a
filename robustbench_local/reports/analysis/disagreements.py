"""Disagreements: a stronger attack of a run finds less than a weaker one, so it is misled.

Attacks are compared on the same images. Differences below the thresholds of diagnostics D8, D9, D12,
D15 and D17, which sound models do not exceed, are not reported.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations
from typing import Literal

from robustbench_local.reports.analysis.attempts import (
    Attempt,
    AttemptsByThreat,
    index_attempts,
    split_by_loss,
)
from robustbench_local.reports.analysis.compute_once import collect_once
from robustbench_local.reports.analysis.doubt import Doubt
from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.gradient_masking import find_gradient_masking
from robustbench_local.reports.analysis.threat import Threat
from robustbench_local.reports.formatting.text import (
    format_count,
    format_percent,
    format_radius,
    isolate_direction,
    join_in_sentence,
)
from robustbench_local.store.outcome_limits import MAX_LOSS_GAP_SHARE, exceeds_chance

RADIUS_SLACK_SHARE = 1e-4
"""Relative tolerance of a distance beyond a radius, since x + eps is rounded as well."""
_EFFORT_PARAMETERS = ("steps", "restarts", "queries", "samples", "draws", "probes")
"""Hyper-parameters whose increase should increase attack success."""
_MISLED_REASON = "its gradients are misleading, or the attack is at fault"


@dataclass(frozen=True, kw_only=True)
class Disagreement:
    """A disagreement between attacks on one subject under one threat model."""

    subject: EvaluatedModel
    """The model and defense."""
    threat: Threat
    """The threat model; of two radii the larger one."""
    reason: str
    """The disagreement with its numbers: a sentence without its full stop."""
    misled_attempts: tuple[Attempt, ...]
    """The attempts that found less than they should."""
    scope: Literal["gradients", "cross-entropy", "attacks"]
    """The consequence: all gradients of the model, or those of the cross-entropy, are misleading under every
    threat model; or only these attempts are."""
    hint: str
    """How to resolve it, without a full stop."""
    diagnostic: str
    """Id of the diagnostic that reports it."""


@collect_once
def find_disagreements(evidence: Evidence) -> Iterator[Disagreement]:
    """Find every disagreement between attacks of a run, by subject and threat model."""
    index = index_attempts(evidence)
    yield from _find_masking_disagreements(evidence)
    for subject in evidence.subjects:
        for threat in evidence.threats:
            met = index.get((subject, threat), ())
            own = [one for one in met if not one.cell.has_external_candidates]
            for compare in (
                _find_loss_disagreements,
                _find_single_step_disagreements,
                _find_effort_disagreements,
                _find_start_disagreements,
            ):
                yield from compare(own)
        yield from _find_radius_disagreements(evidence, subject, index)
        yield from _find_distance_disagreements(evidence, subject, index)


@collect_once
def find_disagreement_doubts(evidence: Evidence) -> Iterator[Doubt]:
    """Find images whose robustness depends on misled attempts.

    Misleading gradients mislead at every radius, so attempts under other threat models of the same norm are
    doubtful as well. An image is not in doubt if it is certified, or if an attempt that is not misled
    completed on it without success; a black-box attack needs enough queries for that. An image on which
    other attacks succeeded is in doubt too, since a gate may name the misled attack alone.
    """
    index = index_attempts(evidence)
    for disagreement in find_disagreements(evidence):
        alike = [threat for threat in evidence.threats if threat.norm == disagreement.threat.norm]
        threats = [disagreement.threat] if disagreement.scope == "attacks" else alike
        for threat in threats:
            attempts = index.get((disagreement.subject, threat), ())
            misled = [attempt for attempt in attempts if _is_misled(attempt, disagreement)]
            cleared = _merge_images(
                attempt.unbroken_images
                for attempt in attempts
                if attempt not in misled and _is_trustworthy(attempt)
            )
            images = _merge_images(attempt.unbroken_images for attempt in misled) - cleared
            yield Doubt(
                subject=disagreement.subject,
                threat=threat,
                images=images - _select_certified_images(evidence, disagreement.subject, threat),
                reason=disagreement.reason,
                hint=disagreement.hint,
                diagnostic=disagreement.diagnostic,
            )


def _is_misled(attempt: Attempt, disagreement: Disagreement) -> bool:
    """Return whether a disagreement concerns an attempt, possibly under another threat model."""
    if disagreement.scope == "attacks":
        return attempt.name in {misled_attempt.name for misled_attempt in disagreement.misled_attempts}
    return attempt.sees_gradients and (disagreement.scope == "gradients" or attempt.loss == "ce")


def _is_trustworthy(attempt: Attempt) -> bool:
    """Return whether the failures of this attempt are evidence although others were misled."""
    if attempt.is_black_box:
        return attempt.has_enough_queries
    return attempt.sees_gradients and not attempt.is_single_step


def _select_certified_images(evidence: Evidence, subject: EvaluatedModel, threat: Threat) -> frozenset[str]:
    return frozenset(
        image
        for cell in evidence.certificate_cells
        if cell.subject == subject and cell.record.norm == threat.norm and cell.record.concerns == "model"
        for image, radius in cell.certified_radii.items()
        if radius >= threat.eps
    )


def _find_masking_disagreements(evidence: Evidence) -> Iterator[Disagreement]:
    """Find black-box or transfer attacks that beat white-box ones (D8, D9); another finding reports them.

    Where the adaptive attack found all of these images, what it left met its search without gradients.
    """
    for masking in find_gradient_masking(evidence):
        if masking.is_counted_by_adaptive:
            continue
        kind = "transfer attacks" if masking.transferred else "black-box attacks"
        count = f"{masking.missed_share.count} of {format_count(masking.missed_share.n, 'image')}"
        what = (
            f"{count} are misclassified under {kind} ({join_in_sentence(masking.attacks)}) and under no "
            f"white-box attack"
        )
        yield Disagreement(
            subject=masking.subject,
            threat=masking.threat,
            reason=f"{what}: gradient masking",
            misled_attempts=masking.misled_attempts,
            scope="gradients",
            hint="run a black-box attack such as square with 5,000 queries on the same images",
            diagnostic="D9" if masking.transferred else "D8",
        )


def _find_loss_disagreements(attempts: Sequence[Attempt]) -> Iterator[Disagreement]:
    """Find cross-entropy attempts that margin attempts beat (D17): same settings, or same ensemble."""
    white = [attempt for attempt in attempts if attempt.sees_gradients]
    pairs = [
        (first, second)
        for first, second in permutations(white, 2)
        if (first.loss, second.loss) == ("ce", "margin")
        and first.method == second.method
        and _compute_effort(second) <= _compute_effort(first)
    ]
    cells = dict.fromkeys(attempt.cell.record.key for attempt in white if attempt.cell.successful_stages)
    staged = (split_by_loss(attempt.cell) for attempt in white if attempt.cell.record.key in cells)
    pairs += [(first, second) for first, second in staged]
    for first, second in pairs:
        only_margin = first.unbroken_images & second.broken_images
        only_ce = second.unbroken_images & first.broken_images
        images = first.completed_images & (second.completed_images | first.broken_images)
        gap = len(only_margin) - len(only_ce)
        if gap > MAX_LOSS_GAP_SHARE * len(images) and exceeds_chance(gap, len(images)):
            before = format_percent(len(images - first.broken_images) / len(images))
            after = format_percent(len(images - second.broken_images - only_ce) / len(images))
            weak, strong = (
                _format_attempt_name(first, "cross-entropy"),
                _format_attempt_name(second, "margin"),
            )
            same = f"the same {format_count(len(images), 'clean-correct image')}"
            yield _build_disagreement(
                first,
                f"robust accuracy is {before} under {weak} and {after} under {strong} on {same}: the "
                "gradient of the first is misleading",
                misled=[attempt for attempt in white if attempt.loss == "ce"],
                scope="cross-entropy",
                hint="attack every image on the margin or DLR loss as well",
                diagnostic="D17",
            )


def _format_attempt_name(attempt: Attempt, loss: str) -> str:
    return (
        isolate_direction(attempt.name)
        if loss in attempt.name
        else f"{isolate_direction(attempt.name)} ({loss})"
    )


def _find_single_step_disagreements(attempts: Sequence[Attempt]) -> Iterator[Disagreement]:
    """Find iterative attacks that a single step beats (D15)."""
    for single in attempts:
        for other in attempts:
            if single.is_single_step and _is_iterative(other):
                lost, images = _count_net_loss(single, other)
                if exceeds_chance(lost, images):
                    headline = "a single step succeeds more often than many"
                    yield _build_contradiction(single, other, images, headline, _MISLED_REASON, "D15")


def _find_effort_disagreements(attempts: Sequence[Attempt]) -> Iterator[Disagreement]:
    """Find attacks that succeed less with more steps, restarts or queries."""
    for small, large in permutations(attempts, 2):
        if _is_larger(large, small):
            lost, images = _count_net_loss(small, large)
            if exceeds_chance(lost, images):
                yield _build_contradiction(
                    small, large, images, "more effort succeeds less often", _MISLED_REASON, "D15"
                )


def _find_start_disagreements(attempts: Sequence[Attempt]) -> Iterator[Disagreement]:
    """Find attacks whose success depends on a start at the image or beside it: one gradient misleads."""
    for first, second in combinations(attempts, 2):
        if find_differing_parameters(first, second) != {"random_start"}:
            continue
        weak, strong = sorted(
            (first, second),
            key=lambda one: len(one.broken_images & first.completed_images & second.completed_images),
        )
        lost, images = _count_net_loss(strong, weak)
        if lost > MAX_LOSS_GAP_SHARE * images and exceeds_chance(lost, images):
            why = "the result depends on the starting point, so gradients are misleading in places"
            yield _build_contradiction(strong, weak, images, "the starting point decides", why, "D14")


def _find_radius_disagreements(
    evidence: Evidence, subject: EvaluatedModel, index: AttemptsByThreat
) -> Iterator[Disagreement]:
    """Find attacks that succeed less at a larger radius (D12)."""
    threats = [one for one in evidence.threats if one.norm not in {"corruption", "sticker", "patch"}]
    for small, large in permutations(threats, 2):
        alike = (small.norm, small.sources) == (large.norm, large.sources) and small.kind == large.kind
        if not (alike and small.eps < large.eps):
            continue
        for first in index.get((subject, small), ()):
            for second in index.get((subject, large), ()):
                if (
                    first.cell.has_external_candidates
                    or second.cell.has_external_candidates
                    or find_differing_parameters(first, second)
                ):
                    continue
                lost, images = _count_net_loss(first, second)
                missed = len(first.broken_images & second.unbroken_images)
                if lost > 1 or (not second.is_single_step and exceeds_chance(missed, images)):
                    why = "a single step overshoots" if second.is_single_step else _MISLED_REASON
                    yield _build_contradiction(
                        first, second, images, "a larger radius succeeds less often", why, "D12"
                    )


def _find_distance_disagreements(
    evidence: Evidence, subject: EvaluatedModel, index: AttemptsByThreat
) -> Iterator[Disagreement]:
    """Find minimum-norm attacks whose distance exceeds the radius at which another attack succeeds."""
    attempts = [attempt for threat in evidence.threats for attempt in index.get((subject, threat), ())]
    own = [attempt for attempt in attempts if attempt.sees_gradients]
    for far in (attempt for attempt in own if attempt.cell.radii):
        for near in own:
            alike = near.cell.threat.norm == far.cell.threat.norm and near.cell is not far.cell
            if alike and near.cell.record.eps <= far.cell.record.eps:
                yield from _compare_distances(far, near)


def _compare_distances(far: Attempt, near: Attempt) -> Iterator[Disagreement]:
    radii, eps = far.cell.radii, near.cell.record.eps
    both = [image for image in near.completed_images if radii.get(image, 0) > 0]
    late = sum(radii[image] > eps * (1 + RADIUS_SLACK_SHARE) for image in both if image in near.broken_images)
    early = sum(
        radii[image] <= eps * (1 + RADIUS_SLACK_SHARE) for image in both if image in near.unbroken_images
    )
    if late - early > MAX_LOSS_GAP_SHARE * len(both) and exceeds_chance(late - early, len(both)):
        what = (
            f"{isolate_direction(near.name)} succeeds within {format_radius(eps)} on "
            f"{format_count(late, 'image')}"
        )
        than = (
            f"for which {isolate_direction(far.name)} reports a larger distance, {early:,} the other way "
            f"round"
        )
        yield _build_disagreement(
            far,
            f"distances are too large: {what} {than} (same {format_count(len(both), 'image')})",
            misled=[far],
            hint="measure distances with another attack such as fmn or curve",
            diagnostic="D12",
        )


def _build_contradiction(
    weak: Attempt, strong: Attempt, images: int, headline: str, consequence: str, diagnostic: str
) -> Disagreement:
    """Build a disagreement: a weaker attempt succeeded on images on which a stronger one failed."""
    missed, gained = (
        len(weak.broken_images & strong.unbroken_images),
        len(strong.broken_images & weak.unbroken_images),
    )
    only = f"only {isolate_direction(weak.name)} succeeds on {format_count(missed, 'image')}, only"
    figures = f"{only} {isolate_direction(strong.name)} on {gained:,} (same {format_count(images, 'image')})"
    return _build_disagreement(
        strong,
        f"{headline}: {figures}; {consequence}",
        misled=[] if strong.is_single_step else [strong, weak],
        hint="add autoattack or a black-box attack such as square on the same images",
        diagnostic=diagnostic,
    )


def _build_disagreement(
    attempt: Attempt,
    reason: str,
    *,
    misled: Sequence[Attempt],
    hint: str,
    diagnostic: str,
    scope: Literal["cross-entropy", "attacks"] = "attacks",
) -> Disagreement:
    return Disagreement(
        subject=attempt.cell.subject,
        threat=attempt.cell.threat,
        reason=reason,
        misled_attempts=tuple(misled),
        scope=scope,
        hint=hint,
        diagnostic=diagnostic,
    )


def _count_net_loss(weak: Attempt, strong: Attempt) -> tuple[int, int]:
    """Count the images by which the weaker attempt is ahead, and the images common to both."""
    if weak.completed_images == strong.completed_images:  # as usual; it spares many unions of large sets
        return len(weak.broken_images) - len(strong.broken_images), len(weak.completed_images)
    both = weak.completed_images & strong.completed_images
    ahead = len(weak.broken_images & both) - len(strong.broken_images & both)
    return ahead, len(both)


def _is_iterative(attempt: Attempt) -> bool:
    """Return whether it should succeed nearly wherever a single step does; transfer methods need not."""
    ball = attempt.cell.record.measure == "ball" and attempt.sees_gradients
    return ball and not attempt.method.endswith("fgsm")


def _is_larger(large: Attempt, small: Attempt) -> bool:
    """Return whether two attempts differ only in the larger effort of one."""
    differing = find_differing_parameters(small, large)
    if not differing or not differing <= set(_EFFORT_PARAMETERS):
        return False
    return all(_get_number(small, name) < _get_number(large, name) for name in differing)


def find_differing_parameters(first: Attempt, second: Attempt) -> set[str]:
    """Find the hyper-parameters in which two attempts differ; ``method`` for different attacks."""
    if first.knowledge != second.knowledge or first.stages != second.stages:
        return {"method"}
    names = {*first.parameters, *second.parameters}
    return {name for name in names if first.parameters.get(name) != second.parameters.get(name)}


def _get_number(attempt: Attempt, name: str) -> float:
    value = attempt.parameters.get(name)
    return float(value) if isinstance(value, int | float) else float("nan")


def _compute_effort(attempt: Attempt) -> float:
    """Compute the number of gradient steps over all restarts and samples."""
    steps = attempt.parameters.get("steps") or 1
    return float(steps) * float(attempt.parameters.get("restarts") or 1)


def _merge_images(sets: Iterable[frozenset[str]]) -> frozenset[str]:
    return frozenset[str]().union(*sets)
