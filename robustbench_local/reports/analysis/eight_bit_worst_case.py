"""The worst case over 8-bit images, the only ones that files and cameras hold."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from robustbench_local.cluster_statistics import Groups, Marks, estimate_image_share
from robustbench_local.phased_estimates import estimate_phased_share
from robustbench_local.reports.analysis.attack_phases import count_phases, has_image_limit
from robustbench_local.reports.analysis.cell_result import CellResult
from robustbench_local.reports.analysis.compute_once import collect_once
from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.image_verdict import ImageVerdict
from robustbench_local.reports.analysis.share_ceilings import lower_to_shares
from robustbench_local.reports.analysis.threat import Threat
from robustbench_local.reports.analysis.worst_case import WorstCase
from robustbench_local.statistics import Estimate, invert_share

MAX_EIGHT_BIT_GAP_SHARE = 0.01
"""Difference between attack success in floating point and in 8 bits above which a warning appears (V4)."""

EIGHT_BIT_EXPLANATION = (
    "A deployed classifier sees images of 8 bits, so an attacker needs one inside the ball. Image by image "
    "over all attacks, as the worst case; floating point over the same images. Left out: broken images "
    "of which no attack could try an 8-bit image inside the ball."
)
_SuccessMarks = Mapping[str, Sequence[bool | None]]
"""Image id -> whether each successful candidate also succeeds in 8 bits; None without such an image."""
_PhaseMarks = tuple[Mapping[str, ImageVerdict], _SuccessMarks]
"""Verdicts and 8-bit marks of one phase, or of all attacks on the same images."""


@dataclass(frozen=True, kw_only=True)
class EightBitCase:
    """Several attacks in floating point and in 8 bits, over the same images."""

    subject: EvaluatedModel
    """The model and defense under test."""
    threat: Threat
    """The threat model."""
    attacks: tuple[str, ...]
    """The attacks that count."""
    targeted: bool
    """Whether only certain classes count as success."""
    robust_accuracy: Estimate
    """Share of all images on which no attack succeeds with an 8-bit image."""
    attack_success: Estimate
    """Share of the correctly classified images on which an attack succeeds with an 8-bit image."""
    float_success: Estimate
    """Attack success of candidates in floating point, over the same images."""
    undecided_count: int
    """Broken images for which no attack has an 8-bit image inside the ball, mostly since the ball holds none;
    they are excluded from these shares."""

    @property
    def has_success_drop(self) -> bool:
        """Whether rounding lowers attack success enough for a warning."""
        if not self.attack_success.is_known:
            return False
        # compare counts, so that rounding does not decide a difference of exactly the gap
        lost = self.float_success.count - self.attack_success.count
        return lost > MAX_EIGHT_BIT_GAP_SHARE * self.attack_success.n + 1e-9


@collect_once
def find_eight_bit_cases(evidence: Evidence) -> tuple[EightBitCase, ...]:
    """Find the worst case in 8 bits for each untargeted threat model of a norm."""
    cases = []
    for worst in evidence.worst_cases:
        if worst.threat.norm in {"Linf", "L2", "L1", "L0"}:
            inside = _select_cells_inside(evidence.cells, worst.subject, worst.threat)
            cases.append(
                _build_case(
                    worst.subject,
                    worst.threat,
                    worst.attack_labels,
                    _list_phases(worst, inside),
                    worst.groups,
                    ceilings=_list_ceilings(worst, inside),
                )
            )
    return tuple(cases)


def _list_phases(worst: WorstCase, inside: Sequence[CellResult]) -> list[_PhaseMarks]:
    """List verdicts and 8-bit marks of each phase; attacks on a part of the images count in the last one."""
    if not worst.phases:
        return [(worst.stated_verdicts, _collect_marks(inside))]
    phases, known = list[_PhaseMarks](), set[str]()
    for phase in worst.phases:
        known |= set(phase.attacks)
        counted = [cell for cell in inside if cell.record.attack in known or not has_image_limit(cell)]
        phases.append((phase.verdicts, _collect_marks(counted)))
    return [*phases[:-1], (phases[-1][0], _collect_marks(inside))]


def _list_ceilings(worst: WorstCase, inside: Sequence[CellResult]) -> list[_PhaseMarks]:
    """List the attacks with fewer images than the case; it is never above one of them on its own images."""
    own = (cell for cell in inside if cell.record.attack in worst.attacks)
    return [
        (cell.verdicts, _collect_marks([cell]))
        for cell in own
        if len(cell.verdicts) < len(worst.any_attack_verdicts)
    ]


@collect_once
def find_eight_bit_goals(evidence: Evidence) -> tuple[EightBitCase, ...]:
    """Find 8-bit cases outside worst cases: targeted attacks by goal, and each transfer alone."""
    groups: dict[tuple[object, ...], list[CellResult]] = defaultdict(list)
    for cell in evidence.attack_cells:
        if (
            not (cell.is_in_worst_case or cell.is_sticker or cell.is_corruption or cell.is_self_transfer)
            and cell.is_done
        ):
            record = cell.record
            alone = record.key if cell.has_external_candidates else ""
            groups[cell.subject, cell.threat, record.targets, alone].append(cell)
    cases = []
    for cells in groups.values():
        verdicts = _merge_verdicts(cells)
        attacks = tuple(cell.label for cell in cells)
        case = _build_case(
            cells[0].subject,
            cells[0].threat,
            attacks,
            [(verdicts, _collect_marks(cells))],
            evidence.groups,
            targeted=cells[0].targeted,
        )
        cases.append(case)
    return tuple(cases)


def _select_cells_inside(
    cells: Iterable[CellResult], subject: EvaluatedModel, threat: Threat
) -> list[CellResult]:
    """Select cells whose 8-bit images lie in the ball: same norm, and at most its radius."""
    return [
        cell
        for cell in cells
        if cell.subject == subject and cell.record.norm == threat.norm and cell.record.eps <= threat.eps
    ]


def _collect_marks(cells: Iterable[CellResult]) -> _SuccessMarks:
    marks: dict[str, list[bool | None]] = defaultdict(list)
    for cell in cells:
        for image, mark in cell.success_8bit.items():
            marks[image].append(mark)
    return marks


def _merge_verdicts(cells: Sequence[CellResult]) -> dict[str, ImageVerdict]:
    """Merge the verdicts on each image over all cells that have it."""
    images = dict.fromkeys(image for cell in cells for image in cell.verdicts)
    merged = {}
    for image in images:
        met = [cell.verdicts[image] for cell in cells if image in cell.verdicts]
        correct = all(verdict.clean_correct for verdict in met)
        broken = correct and any(verdict.broken for verdict in met)
        robust = not broken and all(verdict.robust for verdict in met)
        merged[image] = ImageVerdict(clean_correct=correct, broken=broken, robust=robust)
    return merged


def _build_case(
    subject: EvaluatedModel,
    threat: Threat,
    attacks: tuple[str, ...],
    phases: Sequence[_PhaseMarks],
    groups: Groups,
    *,
    targeted: bool = False,
    ceilings: Sequence[_PhaseMarks] = (),
) -> EightBitCase:
    """Count verdicts and the 8-bit marks of broken images, in phases if there are several."""
    undecided = {image for phase in phases for image in _find_undecided(phase)}
    counted = [_mark_phase(phase, undecided) for phase in phases]
    bounds = [_mark_phase(phase, _find_undecided(phase)) for phase in ceilings]
    robust = _estimate_robust([phase.robust for phase in counted], groups)
    success = _estimate_success([phase.broken_8bit for phase in counted], groups)
    float_success = _estimate_success([phase.broken for phase in counted], groups)
    return EightBitCase(
        subject=subject,
        threat=threat,
        attacks=attacks,
        targeted=targeted,
        robust_accuracy=lower_to_shares(robust, [phase.robust for phase in bounds]),
        attack_success=_raise_to_shares(success, [phase.broken_8bit for phase in bounds]),
        float_success=_raise_to_shares(float_success, [phase.broken for phase in bounds]),
        undecided_count=len(undecided),
    )


class _Marks(NamedTuple):
    """Marks of the images of a phase that are decided in 8 bits."""

    robust: dict[str, bool]
    """Image id -> whether no attack succeeds with an 8-bit image."""
    broken_8bit: dict[str, bool]
    """Image id -> whether an attack does, over the correctly classified images."""
    broken: dict[str, bool]
    """Image id -> whether an attack succeeds in floating point, over the same images."""


def _find_undecided(phase: _PhaseMarks) -> set[str]:
    verdicts, marks = phase
    return {
        image
        for image, verdict in verdicts.items()
        if verdict.broken and not {True, False} & set(marks.get(image, ()))
    }


def _mark_phase(phase: _PhaseMarks, undecided: Collection[str]) -> _Marks:
    verdicts, marks = phase
    decided = {image: verdict for image, verdict in verdicts.items() if image not in undecided}
    success = {image: True in marks.get(image, ()) for image in decided if decided[image].broken}
    correct = [image for image, verdict in decided.items() if verdict.clean_correct]
    return _Marks(
        robust={image: verdict.robust or not success.get(image, True) for image, verdict in decided.items()},
        broken_8bit={image: success.get(image, False) for image in correct},
        broken={image: decided[image].broken for image in correct},
    )


def _raise_to_shares(estimate: Estimate, shares: Sequence[Marks]) -> Estimate:
    """Raise an attack success to the highest of these shares."""
    inverted = [{image: not is_marked for image, is_marked in marks.items()} for marks in shares]
    return invert_share(lower_to_shares(invert_share(estimate), inverted)) if shares else estimate


def _estimate_robust(marks: Sequence[Marks], groups: Groups) -> Estimate:
    """Estimate the share of marked images, in phases if there are several."""
    if len(marks) == 1:
        return estimate_image_share(marks[0], groups)
    return estimate_phased_share(count_phases(marks))


def _estimate_success(marks: Sequence[Marks], groups: Groups) -> Estimate:
    """Estimate the share of images that are marked in any phase."""
    if len(marks) == 1:
        return estimate_image_share(marks[0], groups)
    unmarked = [{image: not is_marked for image, is_marked in phase.items()} for phase in marks]
    return invert_share(estimate_phased_share(count_phases(unmarked)))
