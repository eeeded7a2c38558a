"""What a sticker's success is read against: other things on the same sign, seen in the same views."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from robustbench_local.reports.evidence import CellResult
from robustbench_local.reports.sightings import Looks, share
from robustbench_local.reports.words import SPACE, counted, full, p_value
from robustbench_local.statistics import Comparison, Estimate, mcnemar
from robustbench_local.store import LEAST_CLEAN

MOST_BY_CHANCE = 0.05
"""Share of views that random colours may turn; above it success is not due to the sticker's pattern."""
CLEARLY = 0.001
"""The sticker made without views has to be worse by a test at this level."""
NEARLY_ALL = 0.9
"""Share of views that painting the whole sign has to turn; below it the attack may just be weak."""
_NO_SIZE = "no-size"


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
    reason: str = ""
    """More about it, in one line."""
    barred: int = 0
    """Signs that count on which it broke a rule, so that it was not looked at."""


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


def doubts(cell: CellResult) -> list[str]:
    """Why nothing follows from a success that keeps a limit, a part of a sentence each."""
    void, whole = sum(not sign.counted for sign in cell.signs), _whole_sign(cell)
    found = []
    if 2 * void > len(cell.signs):
        found.append(f"more than half of the signs are void ({void} of {len(cell.signs)})")
    if whole is not None and whole.kept is False:
        turned = f"{whole.name} turned {full(whole.measured)} of the views"
        found.append(f"{turned}, not nearly all: the attack may just be weak")
    elif whole is not None and whole.kept is None:
        found.append(f"of {whole.name} nothing is known: {whole.reason}")
    return found


def _nothing(cell: CellResult) -> Control:
    """Over every sign that was looked at: those that count are read rightly by definition."""
    clean = share(sign.looks["view"].right for sign in cell.signs if "view" in sign.looks)
    return _control(
        "nothing: read rightly, void signs included",
        f"at least {_bound(LEAST_CLEAN)}",
        clean,
        lambda x: x >= LEAST_CLEAN,
    )


def _no_size(cell: CellResult) -> Control | None:
    """The same way through attack, camera and model with nothing to show for it: it must not turn a view."""
    seen = [sign.looks["view"].predictions for sign in cell.signs if "view" in sign.looks]
    pairs = [(read[_NO_SIZE], read["clean"]) for read in seen if _NO_SIZE in read]
    others = sum(int((first != second).sum()) for first, second in pairs)
    views = counted(sum(len(first) for first, _ in pairs), "view")
    told = f"{others:,} of {views} are read otherwise than the clean sign in the same view"
    control = Control(
        name="a sticker of no size",
        expected="no view turned, each read as on the clean sign",
        measured=_measured(cell, _NO_SIZE),
        kept=others == 0,
        reason=told if others else "",
    )
    return _present(_barred(control, cell, _NO_SIZE))


def _random_colours(cell: CellResult) -> Control:
    control = _control(
        "random colours in the same place",
        f"at most {_bound(MOST_BY_CHANCE)}",
        _measured(cell, "random-colours"),
        lambda x: x <= MOST_BY_CHANCE,
    )
    return _barred(control, cell, "random-colours")


def _without_views(cell: CellResult) -> Control | None:
    comparison, kept, reason = against_no_views(cell), None, ""
    if comparison is not None and not cell.sticker_success.count:
        reason = "the sticker itself turned no view"
    elif comparison is not None:
        kept = comparison.only_first > comparison.only_second and comparison.significant(CLEARLY)
        reason = _told(comparison)
    control = Control(
        name="made on the sign as it is, without views",
        expected=f"clearly lower (p{SPACE}<{SPACE}{CLEARLY:g})",
        measured=_measured(cell, "without-views"),
        kept=kept,
        reason=reason,
    )
    return _present(_barred(control, cell, "without-views"))


def _whole_sign(cell: CellResult) -> Control | None:
    control = _control(
        "the whole sign painted",
        f"nearly all, at least {_bound(NEARLY_ALL)}",
        _measured(cell, "whole-sign"),
        lambda x: x >= NEARLY_ALL,
        "the attack is weak or the model withstands it: see both",
    )
    return _present(_barred(control, cell, "whole-sign"))


def _counted(cell: CellResult) -> list[Looks]:
    """The test views of the signs that count."""
    return [sign.looks["view"] for sign in cell.signs if sign.counted]


def _measured(cell: CellResult, condition: str) -> Estimate:
    seen = (looks for looks in _counted(cell) if condition in looks.predictions)
    return share(looks.hits(condition, cell.record.targets) for looks in seen)


def _control(
    name: str, expected: str, measured: Estimate, keeps: Callable[[float], bool], reason: str = ""
) -> Control:
    kept = keeps(measured.value) if measured.known else None
    return Control(
        name=name, expected=expected, measured=measured, kept=kept, reason=reason if kept is False else ""
    )


def _barred(control: Control, cell: CellResult, condition: str) -> Control:
    """The control, of which nothing can be told if it broke a rule on any sign that counts."""
    signs = [sign for sign in cell.signs if sign.counted]
    barred = [sign for sign in signs if condition in sign.looks["view"].barred]
    if not barred:
        return control
    told = f"it broke a rule on {len(barred)} of {counted(len(signs), 'sign')} ({barred[0].problem})"
    return replace(control, kept=None, reason=told, barred=len(barred))


def _present(control: Control) -> Control | None:
    """None where no such control was run."""
    return control if control.measured.known or control.barred else None


def _bound(share: float) -> str:
    return f"{100 * share:.0f}{SPACE}%"


def _told(comparison: Comparison) -> str:
    split = (
        f"{comparison.only_first:,} views fell to the sticker alone, {comparison.only_second:,} to this alone"
    )
    return f"{split}; exact McNemar {p_value(comparison.p_value)}"
