"""What a defense seems to be worth while nobody knows of it, and what is left once somebody does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from robustbench_local.reports.analysis.evidence import CellResult, Evidence, Subject, Threat
from robustbench_local.reports.analysis.heatmap import NOT_IN_GRID, Square, standing_word
from robustbench_local.reports.formatting.text import counted, full, isolated, p_value
from robustbench_local.statistics import Comparison, clopper_pearson, mcnemar

READING_LESSONS = (
    "Robust accuracy over all images; of a targeted attack, the share that is read rightly and not driven to "
    "its goal. The naive attacker works on the model without its defense, the adaptive one through it. The "
    "difference is what the defense hides. Only the adaptive number says what it withstands, and only that "
    "one counts in a worst case or a gate."
)
"""How the table of lessons is read."""
NONE = "none"
"""The defense of a model that has none."""


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """One attack on one defended model: crafted without a look at the defense, and through it."""

    subject: Subject
    """The model and defense."""
    attack: str
    """The attack, as the adaptive cell is called."""
    threat: Threat
    """What the attacker may do."""
    undefended: Square
    """Robust accuracy of the model without its defense under the same attack; all three of the same images,
    as far as there are images that all of them met."""
    naive: Square
    """Robust accuracy against candidates that were crafted on the model without its defense."""
    adaptive: Square
    """Robust accuracy against candidates that were crafted through the defense."""
    comparison: Comparison | None
    """The naive verdicts against the adaptive ones, on the same images; None if either is not done."""

    @property
    def sentence(self) -> str:
        """What the two numbers say, in words."""
        who = f"{isolated(str(self.subject))}, {isolated(self.attack)}"
        if self.comparison is None:
            return f"{who}: not known, for one of the two attacks was not carried through."
        seems, left = full(self.naive.estimate), full(self.adaptive.estimate)
        numbers = f"{seems} while the attacker does not know of it, {left} afterwards"
        return f"{who}: {numbers}. {_told(self.comparison)}"


def make_lessons(evidence: Evidence) -> list[Lesson]:
    """One for each naive cell of the run, in the order of the grid."""
    cells = {(cell.subject, cell.record.attack): cell for cell in evidence.cells}
    return [_lesson(cell, cells) for cell in evidence.cells if cell.naive]


def _lesson(naive: CellResult, cells: dict[tuple[Subject, str], CellResult]) -> Lesson:
    attack = naive.record.attack.removesuffix("[naive]")
    adaptive = cells.get((naive.subject, attack))
    without = cells.get((Subject(model=naive.record.model, defense=NONE), attack))
    images = _same_images([naive, adaptive, without])
    return Lesson(
        subject=naive.subject,
        attack=attack,
        threat=naive.threat,
        undefended=_square(without, images),
        naive=_square(naive, images),
        adaptive=_square(adaptive, images),
        comparison=_compared(naive, adaptive),
    )


def _same_images(cells: Sequence[CellResult | None]) -> list[str]:
    """The images that every cell that is done has met."""
    met = [cell.verdicts for cell in cells if cell is not None and cell.done]
    return [image for image in met[0] if all(image in one for one in met)] if met else []


def _compared(naive: CellResult, adaptive: CellResult | None) -> Comparison | None:
    if adaptive is None or not (naive.done and adaptive.done):
        return None
    images = [image for image in naive.verdicts if image in adaptive.verdicts]
    return mcnemar(_robust(naive, images), _robust(adaptive, images)) if images else None


def _robust(cell: CellResult, images: Sequence[str]) -> list[bool]:
    return [cell.verdicts[image].robust for image in images]


def _square(cell: CellResult | None, images: Sequence[str]) -> Square:
    """Robust accuracy over these images; over the cell's own where no image was met by all."""
    if cell is None:
        return Square(estimate=clopper_pearson(0, 0), word="not run", reason=NOT_IN_GRID)
    if cell.done and images:
        share = clopper_pearson(sum(_robust(cell, images)), len(images))
        return Square(estimate=share, word=standing_word(cell))
    return Square(estimate=cell.robust_accuracy, word=standing_word(cell), reason=cell.problem or "")


def _told(test: Comparison) -> str:
    basis = f"same {counted(test.n, 'image')}, exact McNemar {p_value(test.p_value)}"
    if not test.significant():
        return f"The two tie ({basis}); the second is the number that counts."
    if test.only_second > test.only_first:
        weaker = "The attack through the defense is the weaker one, so it is not yet the right one"
        return f"{weaker}: {counted(test.only_second, 'image')} fell to the other alone ({basis})."
    held = f"{counted(test.only_first, 'image')} held only because nobody looked"
    return f"{held} ({basis}): hidden, not withstood."
