"""What a sticker's success is read against: other things on the same sign, seen in the same views."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from robustbench_local.reports.analysis.evidence import CellResult
from robustbench_local.reports.analysis.sticker_views import Looks, dodged, share, turned
from robustbench_local.reports.formatting.text import SPACE, counted, full, p_value
from robustbench_local.statistics import Comparison, Estimate, clopper_pearson, mcnemar
from robustbench_local.store import LEAST_CLEAN

MOST_BY_CHANCE = 0.05
"""Share of views that random colours may turn; above it success is not due to the sticker's pattern."""
CLEARLY = 0.001
"""The sticker made without views has to be worse by a test at this level."""
NEARLY_ALL = 0.9
"""Share of views that painting the whole sign has to turn; below it the attack may just be weak."""
_NO_SIZE, _RANDOM, _WHOLE = "no-size", "random-colours", "whole-sign"
_UNKNOWN = clopper_pearson(0, 0)


@dataclass(frozen=True, kw_only=True)
class Control:
    """One condition that the sticker's success is read against."""

    name: str
    """What the sign had on it."""
    expected: str
    """What it should come to if the experiment is sound."""
    measured: Estimate
    """What it came to, on the signs on which it broke no rule."""
    kept: bool | None
    """Whether it did; None where that cannot be told."""
    consequence: str
    """What follows if it did not, half a sentence."""
    reason: str = ""
    """More about it, in one line."""
    dodged: Estimate = _UNKNOWN
    """Share of the views in which the sign was read as anything but what it is; unknown where that is what
    was measured, or its complement."""
    barred: int = 0
    """Signs that count on which it broke a rule, so that it was not looked at."""

    @property
    def remarks(self) -> str:
        """What follows if it was not kept, and more about it."""
        return "; ".join(filter(None, [self.consequence if self.kept is False else "", self.reason]))


def make_controls(cell: CellResult) -> tuple[Control, ...]:
    """The controls of a cell that is done; those that it does not have are left out."""
    found = (_nothing(cell), _no_size(cell), _random_colours(cell), _without_views(cell), _whole_sign(cell))
    return tuple(control for control in found if control is not None)


def against_no_views(cell: CellResult) -> Comparison | None:
    """The sticker against the one made without views, view by view; None without that control."""
    targets = cell.record.targets
    both = [looks for looks in _counted(cell) if "without-views" in looks.predictions]
    if not both:
        return None
    first = np.concatenate([looks.hits("sticker", targets) for looks in both])
    second = np.concatenate([looks.hits("without-views", targets) for looks in both])
    return mcnemar(first.tolist(), second.tolist())


def doubts(cell: CellResult, *, low: bool) -> list[str]:
    """Why nothing follows from a success that keeps a limit, a part of a sentence each.

    Args:
        cell: What was measured.
        low: Whether it keeps the limit by being low, as that of a weak attack is. Where the attack may paint
            the whole surface itself, it is not weak if it turns nearly all views.
    """
    void, whole = sum(not sign.counted for sign in cell.signs), _whole_sign(cell)
    found = []
    if 2 * void > len(cell.signs):
        found.append(f"more than half of the signs are void ({void} of {len(cell.signs)})")
    if not low or whole is None or (_paints_all(cell) and cell.sticker_success.value >= NEARLY_ALL):
        return found
    if whole.kept is False:
        told = f"{whole.name} turned {full(whole.measured)} of the views"
        found.append(f"{told}, not nearly all: the attack may just be weak")
    elif whole.kept is None:
        found.append(f"of {whole.name} nothing is known: {whole.reason}")
    return found


def _nothing(cell: CellResult) -> Control:
    """Over every sign that was looked at: those that count are read rightly by definition."""
    clean = share(sign.looks["view"].right for sign in cell.signs if sign.seen)
    return Control(
        name="clean sign, no sticker (all signs, void ones too)",
        expected=f"at least {_bound(LEAST_CLEAN)}",
        measured=clean,
        kept=clean.value >= LEAST_CLEAN if clean.known else None,
        consequence="the model misreads clean signs this often by itself: believe the number only for the "
        "signs that count",
    )


def _no_size(cell: CellResult) -> Control | None:
    """The same way through attack, camera and model with nothing to show for it: it must not turn a view."""
    seen = [sign.looks["view"].predictions for sign in cell.signs if sign.seen]
    pairs = [(read[_NO_SIZE], read["clean"]) for read in seen if _NO_SIZE in read]
    others = sum(int((first != second).sum()) for first, second in pairs)
    views = counted(sum(len(first) for first, _ in pairs), "view")
    told = f"{others:,} of {views} are read otherwise than the clean sign in the same view"
    return _present(
        _control(
            cell,
            _NO_SIZE,
            name="a sticker of no size",
            expected="no view turned, each read as on the clean sign",
            kept=others == 0,
            consequence="model or camera do not answer the same twice: nothing here can be repeated",
            reason=told if others else "",
        )
    )


def _random_colours(cell: CellResult) -> Control:
    chance = _measured(cell, _RANDOM)
    return _control(
        cell,
        _RANDOM,
        name="random colours in the same place",
        expected=f"at most {_bound(MOST_BY_CHANCE)}",
        kept=chance.value <= MOST_BY_CHANCE if chance.known else None,
        consequence="any colours turn the model, not this pattern: success says little about the attack",
    )


def _without_views(cell: CellResult) -> Control | None:
    comparison, kept, reason = against_no_views(cell), None, ""
    if comparison is not None and not cell.sticker_success.count:
        reason = "the sticker itself turned no view"
    elif comparison is not None:
        kept = comparison.only_first > comparison.only_second and comparison.significant(CLEARLY)
        reason = _told(comparison)
    return _present(
        _control(
            cell,
            "without-views",
            name="made on the sign as it is, without views",
            expected=f"clearly lower (p{SPACE}<{SPACE}{CLEARLY:g})",
            kept=kept,
            consequence="making it for many views made no clear difference",
            reason=reason,
        )
    )


def _whole_sign(cell: CellResult) -> Control | None:
    whole = _measured(cell, _WHOLE)
    control = _control(
        cell,
        _WHOLE,
        name="the whole sign painted",
        expected=f"nearly all, at least {_bound(NEARLY_ALL)}",
        kept=whole.value >= NEARLY_ALL if whole.known else None,
        consequence="the attack is weak or the model withstands it: a low success proves nothing",
    )
    if _paints_all(cell):
        why = "not run, since the attack may already paint all of the surface"
        return replace(control, reason=f"{why}; a low success may mean a weak attack")
    return _present(control)


def _paints_all(cell: CellResult) -> bool:
    """Whether the attack itself is the control that paints the whole surface, so that there is no other."""
    seen = [sign.looks["view"] for sign in cell.signs if sign.seen]
    run = any(_WHOLE in {*looks.predictions, *looks.barred} for looks in seen)
    return cell.record.norm == "sticker" and cell.record.eps == 1 and not run


def _counted(cell: CellResult) -> list[Looks]:
    """The test views of the signs that count."""
    return [sign.looks["view"] for sign in cell.signs if sign.counted]


def _measured(cell: CellResult, condition: str) -> Estimate:
    return turned((sign for sign in cell.signs if sign.counted), condition, cell.record.targets)


def _control(
    cell: CellResult,
    condition: str,
    *,
    name: str,
    expected: str,
    kept: bool | None,
    consequence: str,
    reason: str = "",
) -> Control:
    """A control on the signs that count; nothing can be told if it broke a rule on any of them."""
    signs = [sign for sign in cell.signs if sign.counted]
    barred = [sign for sign in signs if condition in sign.looks["view"].barred]
    if barred:
        told = f"it broke a rule on {len(barred)} of {counted(len(signs), 'sign')} ({barred[0].problem})"
        kept, reason = None, told
    return Control(
        name=name,
        expected=expected,
        measured=_measured(cell, condition),
        kept=kept,
        consequence=consequence,
        reason=reason,
        dodged=dodged(signs, condition) if cell.targeted else _UNKNOWN,
        barred=len(barred),
    )


def _present(control: Control) -> Control | None:
    """None where no such control was run."""
    return control if control.measured.known or control.barred else None


def _bound(share: float) -> str:
    return f"{100 * share:.0f}{SPACE}%"


def _told(comparison: Comparison) -> str:
    alone = f"{counted(comparison.only_first, 'view')} fell to the sticker alone"
    split = f"{alone}, {comparison.only_second:,} to this alone"
    return f"{split}; exact McNemar {p_value(comparison.p_value)}"
