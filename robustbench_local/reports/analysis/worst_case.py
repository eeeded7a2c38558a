"""The worst case over attacks per image, for a subject under a threat model."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, KeysView, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import TypeVar

from robustbench_local.cluster_statistics import (
    Groups,
    Marks,
    build_share_estimator,
    estimate_image_share,
)
from robustbench_local.phased_estimates import Phase, estimate_phased_share
from robustbench_local.reports.analysis.attack_phases import (
    AttackPhase,
    PhasePlan,
    count_phases,
    has_image_limit,
    plan_phases,
)
from robustbench_local.reports.analysis.cell_result import CellResult
from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.analysis.image_verdict import ImageVerdict
from robustbench_local.reports.analysis.share_ceilings import lower_to_shares, lower_to_values
from robustbench_local.reports.analysis.success_norms import iterate_sizes
from robustbench_local.reports.analysis.threat import Threat
from robustbench_local.statistics import Estimate, estimate_partial_share, invert_share

_Counts = tuple[int, int]
_Value = TypeVar("_Value")
MarkImages = Callable[[Mapping[str, ImageVerdict]], Marks]
"""Verdicts -> whether each image that counts is marked."""


@dataclass(frozen=True, kw_only=True)
class WorstCase:
    """A subject under one untargeted threat model: each image under all done attacks (V6).

    An image counts as broken if one attack succeeded, whether or not the others were run on it.
    """

    subject: EvaluatedModel
    """The model and defense under test."""
    threat: Threat
    """The threat model."""
    attacks: tuple[str, ...]
    """The attacks that count."""
    missing_attacks: tuple[str, ...]
    """The other attacks of the grid: not run, failed, partial or void. With any of them, the worst case may
    be too high."""
    attack_labels: tuple[str, ...]
    """Labels in tables of the attacks that count."""
    missing_attack_labels: tuple[str, ...]
    """Labels in tables of the other attacks."""
    verdicts: Mapping[str, ImageVerdict] = field(repr=False)
    """Image id -> verdict over all the attacks, on the images common to all. All images, if those that are
    not common are broken or misclassified anyway."""
    any_attack_verdicts: Mapping[str, ImageVerdict] = field(repr=False)
    """Image id -> verdict over the attacks that were run on the image; ``robust`` means that none of these
    succeeded. The same as ``verdicts`` if all attacks have the same images."""
    other_breaking_attacks: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Image id -> label of an attack outside ``attacks`` that succeeded inside the same ball, over the images
    on which none of ``attacks`` succeeded: a transfer, a targeted attack, one of a smaller radius, or an
    unfinished one. These images count as broken."""
    groups: Groups = field(default_factory=dict, repr=False)
    """Group of each image; empty if the images are independent."""
    phases: tuple[AttackPhase, ...] = ()
    """The attacks by their images, if later ones have a random part of the images of earlier ones; empty if
    all have the same images, or if they are settled."""
    phase_obstacle: str = ""
    """Why attacks with different images are no phases; empty if they are, or if all images are settled."""
    limiting_attack_labels: tuple[str, ...] = ()
    """Labels of the attacks that count with the fewest images."""
    known_shares: dict[tuple[MarkImages, float], Estimate] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    """Shares that were computed; a changed copy starts without any."""
    ceilings: tuple[WorstCaseCeiling, ...] = field(default=(), repr=False)
    """What bounds the stated shares from above where images differ: each attack that counts, and the worst
    case in the next smaller ball. Empty if all have the same images."""

    @property
    def is_complete(self) -> bool:
        """Whether every attack of the grid counts."""
        return bool(self.attacks) and not self.missing_attacks

    @property
    def left_out_count(self) -> int:
        """Images that some of the attacks were not run on and on which no attack has succeeded so far."""
        return len(self.any_attack_verdicts) - len(self.verdicts)

    @property
    def stated_verdicts(self) -> Mapping[str, ImageVerdict]:
        """The verdicts behind the stated shares.

        Those of all images if the attacks have phases. Otherwise those of the common images, unless all
        images give a lower share (see ``estimate_partial_share``).
        """
        if self.phases or not self.left_out_count:
            return self.any_attack_verdicts
        common, every = _count_robust(self.verdicts), _count_robust(self.any_attack_verdicts)
        lower = every[1] and (not common[1] or every[0] * common[1] < common[0] * every[1])
        return self.any_attack_verdicts if lower else self.verdicts

    @property
    def clean_accuracy(self) -> Estimate:
        """Share of the images of ``stated_verdicts`` that are classified correctly clean."""
        if (_mark_correct, 0.95) not in self.known_shares:
            share = estimate_image_share(_mark_correct(self.stated_verdicts), self.groups)
            self.known_shares[_mark_correct, 0.95] = share
        return self.known_shares[_mark_correct, 0.95]

    @property
    def robust_accuracy(self) -> Estimate:
        """Share of robust images, with an interval that uses all images.

        With phases, the share that survives the first one, times the shares of the survivors that survive the
        later ones (see ``estimate_phased_share``); otherwise the share of ``stated_verdicts``. It is never
        above the share of one of the attacks on its own images, nor above the worst case in a smaller ball:
        the lowest of these is stated, and the interval reaches as far down.
        """
        return self.estimate_robust_accuracy()

    @property
    def attack_success(self) -> Estimate:
        """Share of the correctly classified images on which at least one attack succeeded."""
        if not (self.left_out_count or self.ceilings):
            marks = {image: verdict.broken for image, verdict in _select_correct(self.verdicts)}
            return estimate_image_share(marks, self.groups)
        return invert_share(self.estimate_marked_share(_mark_unbroken, 0.95))

    def estimate_robust_accuracy(self, level: float = 0.95) -> Estimate:
        """Estimate robust accuracy with an interval at another level."""
        return self.estimate_marked_share(_mark_robust, level)

    def count_robust_phases(self) -> list[Phase]:
        """Count the images of each phase; empty without phases."""
        return self._count_phases(_mark_robust)

    def count_unbroken_phases(self) -> list[Phase]:
        """Count the correctly classified images of each phase; robust are those without a success."""
        return self._count_phases(_mark_unbroken)

    def select_images(self, images: Collection[str]) -> WorstCase:
        """Return the worst case on these images alone, such as those of one class; in their order."""
        return replace(
            self,
            verdicts=_select_entries(self.verdicts, images),
            any_attack_verdicts=_select_entries(self.any_attack_verdicts, images),
            other_breaking_attacks=_select_entries(self.other_breaking_attacks, images),
            phases=tuple(
                replace(phase, verdicts=_select_entries(phase.verdicts, images)) for phase in self.phases
            ),
            ceilings=tuple(_select_ceiling(ceiling, images) for ceiling in self.ceilings),
        )

    def estimate_marked_share(self, mark: MarkImages, level: float) -> Estimate:
        """Estimate the share of marked images, lowered to its ceilings; each share is computed once."""
        if (mark, level) not in self.known_shares:
            self.known_shares[mark, level] = self._compute_marked_share(mark, level)
        return self.known_shares[mark, level]

    def _compute_marked_share(self, mark: MarkImages, level: float) -> Estimate:
        share = build_share_estimator(mark(self.verdicts), self.groups)
        if not self.left_out_count:
            estimate = share(level)
        elif self.phases:
            estimate = estimate_phased_share(self._count_phases(mark), level)
        else:
            every = build_share_estimator(mark(self.any_attack_verdicts), self.groups)
            estimate = estimate_partial_share(share, every, level)
        return self._lower_to_ceilings(estimate, mark)

    def _lower_to_ceilings(self, estimate: Estimate, mark: MarkImages) -> Estimate:
        wider = [one for one in self.ceilings if not isinstance(one, WorstCase)]
        nested = [
            one.estimate_marked_share(mark, 0.95) for one in self.ceilings if isinstance(one, WorstCase)
        ]
        lowered = lower_to_shares(estimate, map(mark, wider))
        return lower_to_values(lowered, (share.value for share in nested if share.is_known))

    def _count_phases(self, mark: MarkImages) -> list[Phase]:
        return count_phases([mark(phase.verdicts) for phase in self.phases]) if self.phases else []


WorstCaseCeiling = Mapping[str, ImageVerdict] | WorstCase
"""The verdicts of an attack on its own images, or a worst case."""


def _select_ceiling(ceiling: WorstCaseCeiling, images: Collection[str]) -> WorstCaseCeiling:
    if isinstance(ceiling, WorstCase):
        return ceiling.select_images(images)
    return _select_entries(ceiling, images)


def compute_worst_case(cells: Sequence[CellResult], other_cells: Sequence[CellResult] = ()) -> WorstCase:
    """Compute the worst case of each image over all of these cells.

    Args:
        cells: At least one; they share a subject and a threat model.
        other_cells: Cells of the run whose successes inside the same ball count as well; cells of other
            subjects, and ``cells`` themselves, may be among them.
    """
    done = [cell for cell in cells if cell.is_done]
    subject, threat = cells[0].subject, cells[0].threat
    elsewhere = find_breaks_inside(cells, other_cells)
    all_verdicts = _judge_images(done, elsewhere)
    if all(len(cell.verdicts) == len(all_verdicts) for cell in done):
        common = all_verdicts
    else:
        common = {
            image: verdict
            for image, verdict in all_verdicts.items()
            if all(image in cell.verdicts for cell in done)
        }
    settled = common is all_verdicts or all(
        image in common or not verdict.robust for image, verdict in all_verdicts.items()
    )
    plan = PhasePlan() if settled else plan_phases(done)
    return WorstCase(
        subject=subject,
        threat=threat,
        attacks=tuple(cell.record.attack for cell in done),
        missing_attacks=tuple(cell.record.attack for cell in cells if not cell.is_done),
        attack_labels=tuple(cell.label for cell in done),
        missing_attack_labels=tuple(cell.label for cell in cells if not cell.is_done),
        verdicts=all_verdicts if settled else common,
        any_attack_verdicts=all_verdicts,
        other_breaking_attacks={
            image: attack
            for image, attack in elsewhere.items()
            if image in all_verdicts and not any(_is_broken(cell, image) for cell in done)
        },
        groups=cells[0].groups,
        phases=_judge_phases(plan, cells, other_cells),
        phase_obstacle=plan.obstacle,
        limiting_attack_labels=_select_fewest_images(done),
        ceilings=_list_ceilings(done, all_verdicts.keys(), other_cells),
    )


def _list_ceilings(
    done: Sequence[CellResult], images: KeysView[str], other_cells: Sequence[CellResult]
) -> tuple[WorstCaseCeiling, ...]:
    """List what bounds a worst case from above, unless the same images bound it anyway."""
    if not done:
        return ()
    own = [cell.verdicts for cell in done if len(cell.verdicts) < len(images)]
    narrower = _select_next_smaller_ball(done[0], other_cells)
    if all(cell.verdicts.keys() == images for cell in narrower if cell.is_done):
        return tuple(own)
    return (*own, compute_worst_case(narrower, other_cells))


def _select_next_smaller_ball(cell: CellResult, other_cells: Iterable[CellResult]) -> list[CellResult]:
    """Select the attacks of the largest ball inside that of a cell; a worst case there bounds its own."""
    inside = [
        other
        for other in other_cells
        if other.is_in_worst_case
        and other.subject == cell.subject
        and other.threat.norm == cell.threat.norm
        and other.threat.kind == cell.threat.kind
        and other.record.eps < cell.record.eps
        and _is_masked(other) == _is_masked(cell)
    ]
    largest = max((other.record.eps for other in inside), default=0.0)
    return [other for other in inside if other.record.eps == largest]


def _select_fewest_images(done: Sequence[CellResult]) -> tuple[str, ...]:
    fewest = min((len(cell.verdicts) for cell in done), default=0)
    return tuple(cell.label for cell in done if len(cell.verdicts) == fewest)


def _judge_phases(
    plan: PhasePlan, cells: Sequence[CellResult], other_cells: Sequence[CellResult]
) -> tuple[AttackPhase, ...]:
    """Judge the images of each phase over its attacks and those of all earlier phases.

    Other cells of the run whose images were drawn by a limit count in the last phase alone: in earlier ones
    they would be known of a part of the images only, and that may be the part of a later phase.
    """
    if not plan.cells:
        return ()
    everywhere = find_breaks_inside(cells, [cell for cell in other_cells if not has_image_limit(cell)])
    anywhere = find_breaks_inside(cells, other_cells)
    phases, earlier = [], list[CellResult]()
    for index, own in enumerate(plan.cells):
        earlier.extend(own)
        elsewhere = anywhere if index == len(plan.cells) - 1 else everywhere
        phases.append(
            AttackPhase(
                attacks=tuple(cell.record.attack for cell in own),
                attack_labels=tuple(cell.label for cell in own),
                verdicts=_judge_images(earlier, elsewhere, own[0].verdicts),
            )
        )
    return tuple(phases)


def find_breaks_inside(cells: Sequence[CellResult], other_cells: Iterable[CellResult]) -> dict[str, str]:
    """Find images on which other attacks of a run succeeded inside the ball of these cells.

    Args:
        cells: They share a subject and a threat model.
        other_cells: Any cells.

    Returns:
        Image id -> label of the first such attack. A candidate counts if it was verified on the same subject
        and its change lies inside the ball, be it crafted on another model, for a target class, at a smaller
        radius, without a norm, or by an attack that did not finish. Objects that are evaluated over views
        (stickers) never count; nor does anything if all of ``cells`` are confined to a mask.
    """
    if all(_is_masked(cell) for cell in cells):
        return {}
    own = {cell.record.key for cell in cells if cell.is_done}
    subject, threat = cells[0].subject, cells[0].threat
    attack_by_image: dict[str, str] = {}
    for other in other_cells:
        if other.subject == subject and other.record.key not in own and not other.is_sticker:
            label = other.label
            for image in _select_inside(other, threat):
                attack_by_image.setdefault(image, label)
    return attack_by_image


def _select_inside(cell: CellResult, threat: Threat) -> Iterable[str]:
    """Select the images on which a cell succeeded with a candidate inside a ball.

    A threat model without a norm contains smaller ones of the same kind.
    """
    same = cell.record.norm == threat.norm and cell.threat.kind == threat.kind
    if same and threat.norm != "corruption" and cell.record.eps <= threat.eps:
        return cell.success_norms
    lengths = iterate_sizes(cell.success_norms, threat.norm)
    return [image for image, length in lengths if length <= threat.eps]


def _is_masked(cell: CellResult) -> bool:
    """Return whether the change is confined to a mask of each image."""
    return "region='mask'" in cell.record.identity.get("threat", "")


def _judge_images(
    cells: Sequence[CellResult], elsewhere: Collection[str], images: Collection[str] | None = None
) -> dict[str, ImageVerdict]:
    """Judge images over all cells that have them; None: all images of the cells."""
    if images is None:
        images = dict.fromkeys(chain.from_iterable(cell.verdicts for cell in cells))
    known: dict[tuple[tuple[ImageVerdict | None, ...], bool], ImageVerdict] = {}  # few combinations occur
    judged = {}
    rows = zip(*(map(cell.verdicts.get, images) for cell in cells), strict=True) if cells else ()
    for image, verdicts in zip(images, rows, strict=True):
        is_broken = image in elsewhere
        verdict = known.get((verdicts, is_broken))
        if verdict is None:
            met = [verdict for verdict in verdicts if verdict is not None]
            verdict = _judge_image(met, broken_elsewhere=is_broken)
            known[verdicts, is_broken] = verdict
        judged[image] = verdict
    return judged


def _judge_image(met: Sequence[ImageVerdict], *, broken_elsewhere: bool) -> ImageVerdict:
    """Judge one image by the verdicts of the cells that have it, at least one."""
    correct = all(verdict.clean_correct for verdict in met)
    broken = correct and (broken_elsewhere or any(verdict.broken for verdict in met))
    robust = not broken and all(verdict.robust for verdict in met)
    return ImageVerdict(clean_correct=correct, broken=broken, robust=robust)


def _is_broken(cell: CellResult, image: str) -> bool:
    return image in cell.verdicts and cell.verdicts[image].broken


def _count_robust(verdicts: Mapping[str, ImageVerdict]) -> _Counts:
    return sum(verdict.robust for verdict in verdicts.values()), len(verdicts)


def _mark_correct(verdicts: Mapping[str, ImageVerdict]) -> dict[str, bool]:
    return {image: verdict.clean_correct for image, verdict in verdicts.items()}


def _mark_robust(verdicts: Mapping[str, ImageVerdict]) -> dict[str, bool]:
    return {image: verdict.robust for image, verdict in verdicts.items()}


def _mark_unbroken(verdicts: Mapping[str, ImageVerdict]) -> dict[str, bool]:
    """Mark the correctly classified images on which no attack succeeded."""
    return {image: not verdict.broken for image, verdict in _select_correct(verdicts)}


def _select_entries(values: Mapping[str, _Value], images: Collection[str]) -> dict[str, _Value]:
    """Select the entries of some images, without a walk over all: it is called for each of 1,000 classes."""
    if not values:
        return {}
    return {image: values[image] for image in images if image in values}


def _select_correct(verdicts: Mapping[str, ImageVerdict]) -> list[tuple[str, ImageVerdict]]:
    """Select the images that are correctly classified clean."""
    return [(image, verdict) for image, verdict in verdicts.items() if verdict.clean_correct]
