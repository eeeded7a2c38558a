"""Attackers who saw less and yet broke more: a sign that gradients mislead those who follow them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from robustbench_local.reports.analysis.attempts import Attempt, Attempts, index_attempts
from robustbench_local.reports.analysis.evidence import Evidence, Subject, Threat
from robustbench_local.statistics import Estimate, clopper_pearson

LEAST_IMAGES = 3
LEAST_SHARE = 0.01
"""Fewer images than this, or a smaller share, also sound models show (diagnostics D8 and D9)."""


@dataclass(frozen=True, kw_only=True)
class Surprise:
    """Images that fell only to attacks that see less than the white-box ones of the same threat."""

    subject: Subject
    """The model and defense."""
    threat: Threat
    """What the attacker may do."""
    transferred: bool
    """Whether candidates made on another model did it, or on this one without its defense; else attacks
    that see scores or labels, stages of ensembles among them."""
    attacks: tuple[str, ...]
    """The attacks that did."""
    share: Estimate
    """Images broken by them and by no white-box attack, among those that both kinds met to the end."""
    misled: tuple[Attempt, ...] = ()
    """The white-box attempts that missed them."""


def find_surprises(evidence: Evidence, known: Attempts | None = None) -> Iterator[Surprise]:
    """Every model and threat where black box beats white box, or a transfer does, beyond chance.

    Args:
        evidence: The run.
        known: Its attempts, where the caller has them at hand.
    """
    index = index_attempts(evidence) if known is None else known
    for subject in evidence.subjects:
        for threat in evidence.threats:
            attempts = index.get((subject, threat), ())
            white = [one for one in attempts if one.sees_gradients]
            for transferred in (False, True):
                black = [
                    one for one in attempts if not one.sees_gradients and one.cell.borrowed == transferred
                ]
                found = _surprise(white, black) if white and black else None
                if found is not None:
                    yield found


def exceeds_chance(count: int, images: int) -> bool:
    """Whether so many of the images are more than sound models show."""
    return count >= max(LEAST_IMAGES, LEAST_SHARE * images)


def _strongest(white: Sequence[Attempt]) -> Sequence[Attempt]:
    """Those of which an image has to have met one: iterative ones if there are any.

    A single step misses much on sound models, too.
    """
    return [one for one in white if not one.is_single_step] or white


def _union(sets: Iterable[frozenset[str]]) -> frozenset[str]:
    return frozenset[str]().union(*sets)


def _surprise(white: Sequence[Attempt], black: Sequence[Attempt]) -> Surprise | None:
    strongest = _strongest(white)
    held = _union(one.met for one in strongest) - _union(one.broken for one in white)
    fallen = {one.name: held & one.broken for one in black}
    count = len(_union(fallen.values()))
    images = len(_union(one.answered for one in strongest) & _union(one.answered for one in black))
    if not exceeds_chance(count, images):
        return None
    return Surprise(
        subject=white[0].cell.subject,
        threat=white[0].cell.threat,
        transferred=black[0].cell.borrowed,
        attacks=tuple(attack for attack, missed in fallen.items() if missed),
        share=clopper_pearson(count, images),
        misled=tuple(white),
    )
