"""Attacks of one run that contradict each other: the stronger one found less, so something misleads it.

What is compared is compared on the same images, image by image, and below the thresholds of trust diagnostics
D8, D9, D12, D15 and D17, which sound models do not reach, nothing is said.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations
from typing import Literal

from robustbench_local.reports.analysis.attempts import Attempt, Attempts, index_attempts, split_losses
from robustbench_local.reports.analysis.doubt import Doubt
from robustbench_local.reports.analysis.evidence import Evidence, Subject, Threat
from robustbench_local.reports.analysis.gradient_masking import exceeds_chance, find_surprises
from robustbench_local.reports.formatting.text import counted, isolated, listing, percent, radius

LOSS_GAP = 0.05
"""Share of the images that the margin may break and the cross-entropy not, on sound models (D17), and a start
at the image itself against one beside it."""
ROUNDING = 1e-4
"""Share of a radius by which a distance may exceed it and still be inside: x + eps is rounded, too."""
_BUDGETS = ("steps", "restarts", "queries", "samples", "draws", "probes")
"""Hyper-parameters of which more should break more."""
_STRONGER_IS_MISLED = "its gradients mislead the attacks that follow them, or the attack is at fault"


@dataclass(frozen=True, kw_only=True)
class Disagreement:
    """A contradiction between attacks on one subject under one threat."""

    subject: Subject
    """The model and defense."""
    threat: Threat
    """What the attacker may do; of two radii the larger one."""
    reason: str
    """What contradicts what, with figures: a sentence without its full stop."""
    misled: tuple[Attempt, ...]
    """The attempts that found less than they should."""
    about: Literal["gradients", "cross-entropy", "attacks"]
    """What follows: all gradients of the model mislead, or those of the cross-entropy, whatever the threat;
    or only these attempts are at fault."""
    remedy: str
    """What would settle it, without a full stop."""
    told: bool = True
    """Whether it is a finding of its own; else another finding tells of it."""


def find_disagreements(evidence: Evidence, known: Attempts | None = None) -> Iterator[Disagreement]:
    """Every contradiction between the attacks of a run, subject by subject and threat by threat.

    Args:
        evidence: The run.
        known: Its attempts, where the caller has them at hand.
    """
    index = index_attempts(evidence) if known is None else known
    yield from _surprises(evidence, index)
    for subject in evidence.subjects:
        for threat in evidence.threats:
            attempts = index.get((subject, threat), ())
            own = [one for one in attempts if not one.cell.borrowed]
            for compare in (_losses, _single_steps, _budgets, _starts):
                yield from compare(own)
        yield from _radii(evidence, subject, index)
        yield from _distances(evidence, subject, index)


def find_disagreement_doubts(evidence: Evidence) -> Iterator[Doubt]:
    """The images whose robustness rests on attempts that other attempts contradict.

    Where the gradients of the model mislead, they do so at every radius: attempts under its other threats of
    the same norm are as doubtful. An image is not in doubt if an attempt that is not contradicted came to its
    end on it and did not break it, or if it is proven; a black box has to have asked often enough. An image
    that others broke is in doubt, too: a gate on the contradicted attack alone says nothing.
    """
    index = index_attempts(evidence)
    for found in find_disagreements(evidence, index):
        alike = [one for one in evidence.threats if one.norm == found.threat.norm]
        threats = [found.threat] if found.about == "attacks" else alike
        for threat in threats:
            attempts = index.get((found.subject, threat), ())
            misled = [one for one in attempts if _is_misled(one, found)]
            cleared = _union(one.unbroken for one in attempts if one not in misled and _clears(one))
            images = _union(one.unbroken for one in misled) - cleared
            yield Doubt(
                subject=found.subject,
                threat=threat,
                images=images - _proven(evidence, found.subject, threat),
                reason=found.reason,
                remedy=found.remedy,
            )


def _is_misled(attempt: Attempt, found: Disagreement) -> bool:
    """Whether a contradiction concerns an attempt, be it under another threat."""
    if found.about == "attacks":
        return attempt.name in {one.name for one in found.misled}
    return attempt.sees_gradients and (found.about == "gradients" or attempt.loss == "ce")


def _clears(attempt: Attempt) -> bool:
    """Whether what this attempt did not break may be believed, although others were misled."""
    if attempt.is_black_box:
        return attempt.is_thorough
    return attempt.sees_gradients and not attempt.is_single_step


def _proven(evidence: Evidence, subject: Subject, threat: Threat) -> frozenset[str]:
    return frozenset(
        image
        for cell in evidence.certificates
        if cell.subject == subject and cell.record.norm == threat.norm and cell.record.concerns == "model"
        for image, radius in cell.proven.items()
        if radius >= threat.eps
    )


def _surprises(evidence: Evidence, index: Attempts) -> Iterator[Disagreement]:
    """Black box or transfer beats white box (D8, D9); the finding about masked gradients tells of it."""
    for one in find_surprises(evidence, index):
        kind = "transfers" if one.transferred else "black-box attacks"
        count = f"{one.share.count} of {counted(one.share.n, 'image')}"
        what = f"{count} fell to {kind} ({listing(one.attacks)}) and to no white-box attack"
        yield Disagreement(
            subject=one.subject,
            threat=one.threat,
            reason=f"{what}: its gradients mislead",
            misled=one.misled,
            about="gradients",
            remedy="run a black box such as square with 5,000 queries on the same images",
            told=False,
        )


def _losses(attempts: Sequence[Attempt]) -> Iterator[Disagreement]:
    """Cross-entropy against margin (D17): alike but for the loss, or the stages of one ensemble."""
    white = [one for one in attempts if one.sees_gradients]
    pairs = [
        (first, second)
        for first, second in permutations(white, 2)
        if (first.loss, second.loss) == ("ce", "margin")
        and first.method == second.method
        and _effort(second) <= _effort(first)
    ]
    cells = dict.fromkeys(one.cell.record.key for one in white if one.cell.stages)
    staged = (split_losses(one.cell) for one in white if one.cell.record.key in cells)
    pairs += [(first, second) for first, second in staged]
    for first, second in pairs:
        only_margin = first.unbroken & second.broken
        only_ce = second.unbroken & first.broken
        images = first.met & (second.met | first.broken)
        gap = len(only_margin) - len(only_ce)
        if gap > LOSS_GAP * len(images) and exceeds_chance(gap, len(images)):
            left = percent(len(images - first.broken) / len(images))
            after = percent(len(images - second.broken - only_ce) / len(images))
            weak, strong = _named(first, "cross-entropy"), _named(second, "margin")
            same = f"the same {counted(len(images), 'clean-correct image')}"
            yield _disagreement(
                first,
                f"{weak} leaves {left}, {strong} {after} of {same}: the first one's gradient misleads",
                misled=[one for one in white if one.loss == "ce"],
                about="cross-entropy",
                remedy="attack every image on the margin or the DLR loss as well",
            )


def _named(attempt: Attempt, loss: str) -> str:
    return isolated(attempt.name) if loss in attempt.name else f"{isolated(attempt.name)} ({loss})"


def _single_steps(attempts: Sequence[Attempt]) -> Iterator[Disagreement]:
    """A single step beats an iterative attack (D15)."""
    for single in attempts:
        for other in attempts:
            if single.is_single_step and _is_iterative(other):
                lost, images = _net_loss(single, other)
                if exceeds_chance(lost, images):
                    yield _contradiction(single, other, images, "one step beats many", _STRONGER_IS_MISLED)


def _budgets(attempts: Sequence[Attempt]) -> Iterator[Disagreement]:
    """More steps, restarts or queries break less."""
    for small, large in permutations(attempts, 2):
        if _is_larger(large, small):
            lost, images = _net_loss(small, large)
            if exceeds_chance(lost, images):
                yield _contradiction(small, large, images, "more effort breaks less", _STRONGER_IS_MISLED)


def _starts(attempts: Sequence[Attempt]) -> Iterator[Disagreement]:
    """A start at the image itself against one beside it: the gradient at one of the two places misleads."""
    for first, second in combinations(attempts, 2):
        if _differ_in(first, second) != {"random_start"}:
            continue
        weak, strong = sorted((first, second), key=lambda one: len(one.broken & first.met & second.met))
        lost, images = _net_loss(strong, weak)
        if lost > LOSS_GAP * images and exceeds_chance(lost, images):
            why = "where it starts decides what it finds, so its gradients mislead in places"
            yield _contradiction(strong, weak, images, "the start decides", why)


def _radii(evidence: Evidence, subject: Subject, index: Attempts) -> Iterator[Disagreement]:
    """The same attack breaks less at a larger radius (D12)."""
    threats = [one for one in evidence.threats if one.norm not in {"corruption", "sticker", "patch"}]
    for small, large in permutations(threats, 2):
        alike = (small.norm, small.sources) == (large.norm, large.sources) and small.kind == large.kind
        if not (alike and small.eps < large.eps):
            continue
        for first in index.get((subject, small), ()):
            for second in index.get((subject, large), ()):
                if first.cell.borrowed or second.cell.borrowed or _differ_in(first, second):
                    continue
                lost, images = _net_loss(first, second)
                missed = len(first.broken & second.unbroken)
                if lost > 1 or (not second.is_single_step and exceeds_chance(missed, images)):
                    why = "a single step overshoots" if second.is_single_step else _STRONGER_IS_MISLED
                    yield _contradiction(first, second, images, "a larger radius breaks less", why)


def _distances(evidence: Evidence, subject: Subject, index: Attempts) -> Iterator[Disagreement]:
    """A search for the nearest goes farther than an attack within a smaller ball shows to be needed."""
    every = [one for threat in evidence.threats for one in index.get((subject, threat), ())]
    own = [one for one in every if one.sees_gradients]
    for far in (one for one in own if one.cell.radii):
        for near in own:
            alike = near.cell.threat.norm == far.cell.threat.norm and near.cell is not far.cell
            if alike and near.cell.record.eps <= far.cell.record.eps:
                yield from _compare_distances(far, near)


def _compare_distances(far: Attempt, near: Attempt) -> Iterator[Disagreement]:
    radii, eps = far.cell.radii, near.cell.record.eps
    both = [image for image in near.met if radii.get(image, 0) > 0]
    late = sum(radii[image] > eps * (1 + ROUNDING) for image in both if image in near.broken)
    early = sum(radii[image] <= eps * (1 + ROUNDING) for image in both if image in near.unbroken)
    if late - early > LOSS_GAP * len(both) and exceeds_chance(late - early, len(both)):
        what = f"{counted(late, 'image')} fell to {isolated(near.name)} within {radius(eps)}"
        than = f"that {isolated(far.name)} finds farther away, {early:,} the other way round"
        yield _disagreement(
            far,
            f"distances are too large: {what} {than} (same {counted(len(both), 'image')})",
            misled=[far],
            remedy="measure distances by another attack such as fmn or curve",
        )


def _contradiction(
    weak: Attempt, strong: Attempt, images: int, headline: str, consequence: str
) -> Disagreement:
    """A weaker attempt broke images that a stronger one did not."""
    missed, gained = len(weak.broken & strong.unbroken), len(strong.broken & weak.unbroken)
    only = f"{counted(missed, 'image')} fell only to {isolated(weak.name)}, {gained:,} only to"
    figures = f"{only} {isolated(strong.name)} (same {counted(images, 'image')})"
    return _disagreement(
        strong,
        f"{headline}: {figures}; {consequence}",
        misled=[] if strong.is_single_step else [strong, weak],
        remedy="add autoattack or a black box such as square on the same images",
    )


def _disagreement(
    attempt: Attempt,
    reason: str,
    *,
    misled: Sequence[Attempt],
    remedy: str,
    about: Literal["cross-entropy", "attacks"] = "attacks",
) -> Disagreement:
    return Disagreement(
        subject=attempt.cell.subject,
        threat=attempt.cell.threat,
        reason=reason,
        misled=tuple(misled),
        about=about,
        remedy=remedy,
    )


def _net_loss(weak: Attempt, strong: Attempt) -> tuple[int, int]:
    """By how many images the weaker attempt is ahead, and of how many that both met."""
    both = weak.met & strong.met
    ahead = len(weak.broken & strong.unbroken) - len(strong.broken & weak.unbroken)
    return ahead, len(both)


def _is_iterative(attempt: Attempt) -> bool:
    """Whether it should break nearly all that a single step breaks; attacks made for transfer need not."""
    ball = attempt.cell.record.measure == "ball" and attempt.sees_gradients
    return ball and not attempt.method.endswith("fgsm")


def _is_larger(large: Attempt, small: Attempt) -> bool:
    """Whether two attempts are alike but for a larger effort of one."""
    differing = _differ_in(small, large)
    if not differing or not differing <= set(_BUDGETS):
        return False
    return all(_number(small, name) < _number(large, name) for name in differing)


def _differ_in(first: Attempt, second: Attempt) -> set[str]:
    """The hyper-parameters in which two attempts differ; ``method`` where they are different attacks."""
    if first.knowledge != second.knowledge or first.name.partition(", ")[2] != second.name.partition(", ")[2]:
        return {"method"}
    names = {*first.parameters, *second.parameters}
    return {name for name in names if first.parameters.get(name) != second.parameters.get(name)}


def _number(attempt: Attempt, name: str) -> float:
    value = attempt.parameters.get(name)
    return float(value) if isinstance(value, int | float) else float("nan")


def _effort(attempt: Attempt) -> float:
    """Gradient steps on all paths."""
    steps = attempt.parameters.get("steps") or 1
    return float(steps) * float(attempt.parameters.get("restarts") or 1)


def _union(sets: Iterable[frozenset[str]]) -> frozenset[str]:
    return frozenset[str]().union(*sets)
