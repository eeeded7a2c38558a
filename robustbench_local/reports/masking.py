"""Attackers who saw less and yet broke more: a sign that gradients mislead those who follow them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from robustbench_local.reports.evidence import CellResult, Evidence, Subject, Threat
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
    that see scores or labels."""
    attacks: tuple[str, ...]
    """The attacks that did."""
    share: Estimate
    """Images broken by them and by no white-box attack, among those that both kinds met to the end."""


def find_surprises(evidence: Evidence) -> Iterator[Surprise]:
    """Every model and threat where black box beats white box, or a transfer does, beyond chance."""
    for subject in evidence.subjects:
        for threat in evidence.threats:
            cells = [
                cell
                for cell in evidence.attacks
                if (cell.subject, cell.threat) == (subject, threat) and cell.done and not cell.targeted
            ]
            white = [cell for cell in cells if cell.record.knowledge == "white-box"]
            for transferred in (False, True):
                black = [
                    cell
                    for cell in cells
                    if cell.record.knowledge != "white-box" and cell.borrowed == transferred
                ]
                found = _surprise(white, black) if white and black else None
                if found is not None:
                    yield found


def _surprise(white: Sequence[CellResult], black: Sequence[CellResult]) -> Surprise | None:
    met = [
        image
        for image in white[0].verdicts
        if all(_met(cell, image) for cell in white) and any(_met(cell, image) for cell in black)
    ]
    held = {image for image in met if not any(cell.verdicts[image].broken for cell in white)}
    fallen = {cell.record.attack: {i for i in held if _broke(cell, i)} for cell in black}
    count = len(set().union(*fallen.values()))
    if count < max(LEAST_IMAGES, LEAST_SHARE * len(met)):
        return None
    return Surprise(
        subject=white[0].subject,
        threat=white[0].threat,
        transferred=black[0].borrowed,
        attacks=tuple(attack for attack, images in fallen.items() if images),
        share=clopper_pearson(count, len(met)),
    )


def _met(cell: CellResult, image: str) -> bool:
    return image in cell.verdicts and cell.verdicts[image].known


def _broke(cell: CellResult, image: str) -> bool:
    return image in cell.verdicts and cell.verdicts[image].broken
