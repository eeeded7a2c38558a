"""The tables of the study: one row a case, and the short form for the page of results."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from benchmarks.broken_models.case_result import MAX_EXCESS_POINTS, CaseResult

_ADAPTIVE, _AUTOATTACK = "adaptive-linf-8", "autoattack-linf-8"
_COLUMNS = (
    "case",
    "sound",
    "threat",
    "n",
    "clean",
    "autoattack",
    "adaptive",
    "honest",
    "headline",
    "marked",
    "gate",
    "block_or_fail",
    "warn",
    "words",
    "problems",
    "expected",
    "cpu_seconds",
)


def write_csv(results: Sequence[CaseResult]) -> str:
    """All cases, one row each; counts are images of n."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows(_list_values(result) for result in results)
    return text.getvalue()


def _list_values(result: CaseResult) -> list[object]:
    warned = [ident for ident, status, _ in result.diagnostics if status == "warn"]
    return [
        result.case.name,
        "yes" if result.case.is_sound else "no",
        result.case.threat,
        result.n,
        _show(result.clean),
        _show(result.robust.get(_AUTOATTACK)),
        _show(result.robust.get(_ADAPTIVE)),
        _show(result.honest),
        _show(result.headline),
        "yes" if result.is_marked else "no",
        result.gate,
        " ".join(result.failed_diagnostics),
        " ".join(warned),
        len(result.words),
        "; ".join(f"{card}: {problem}" for card, problem in result.problems.items()),
        result.case.expected,
        result.seconds,
    ]


def _show(count: int | None) -> str:
    return "" if count is None else str(count)


def format_summary(results: Sequence[CaseResult]) -> str:
    """What was caught, what was not, and the false alarms, in a few lines."""
    sound = [result for result in results if result.case.is_sound]
    broken = [result for result in results if not result.case.is_sound]
    silent = [result for result in broken if result.is_silent]
    high = [result for result in broken if result.is_too_high]
    passed = [result for result in broken if result.gate == "pass"]
    alarms = [result for result in sound if result.is_marked or result.words or result.problems]
    blind = [result for result in broken if is_blind_spot(result)]
    lines = [
        f"{len(sound)} sound and {len(broken)} broken models.",
        f"Broken, nothing said: {_count_names(silent)}.",
        f"Broken, headline over {MAX_EXCESS_POINTS:g} points too high and not marked: {_count_names(high)}.",
        f"Broken, gate passed: {_count_names(passed)}.",
        f"Broken, neither BLOCK or FAIL nor the honest accuracy found: {_count_names(blind)}.",
        f"Sound, false alarm: {_count_names(alarms)}.",
    ]
    return "\n".join(f"- {line}" for line in lines)


def is_blind_spot(result: CaseResult) -> bool:
    """Whether neither a diagnostic nor an attack shows that the model is broken."""
    excess = result.excess_points
    return not result.is_marked and (excess is None or excess > MAX_EXCESS_POINTS)


def _count_names(results: Sequence[CaseResult]) -> str:
    if not results:
        return "none"
    return f"{len(results)} ({'; '.join(result.case.name for result in results)})"


def format_table(results: Sequence[CaseResult]) -> str:
    """All cases, in Markdown: images that stay robust of n, and what caught the model."""
    lines = [
        "| model | n | clean | AutoAttack | adaptive | by hand | BLOCK or FAIL | gate |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        cells = [
            result.case.name,
            str(result.n),
            _show(result.clean) or "-",
            _show_attack(result, _AUTOATTACK),
            _show_attack(result, _ADAPTIVE),
            _show(result.honest) or "-",
            " ".join(result.failed_diagnostics) or ("refused" if "run" in result.problems else "-"),
            result.gate or "-",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def format_catches(results: Sequence[CaseResult]) -> str:
    """The short form, in Markdown: what each diagnostic or an attack alone caught, and what is missed."""
    broken = [result for result in results if not result.case.is_sound]
    groups: dict[str, list[CaseResult]] = {}
    for result in broken:
        for catcher in _list_catchers(result):
            groups.setdefault(catcher, []).append(result)
    lines = ["| caught by | broken models |", "|---|---|"]
    for catcher in sorted(groups, key=_get_order):
        names = ", ".join(result.case.name for result in groups[catcher])
        lines.append(f"| {catcher} ({len(groups[catcher])}) | {names} |")
    return "\n".join(lines)


_REFUSED, _ATTACKED, _MISSED = "refused before any attack", "the attack alone", "nothing"


def _list_catchers(result: CaseResult) -> tuple[str, ...]:
    if "run" in result.problems:
        return (_REFUSED,)
    if result.failed_diagnostics:
        return tuple(dict.fromkeys(result.failed_diagnostics))
    return (_MISSED,) if is_blind_spot(result) else (_ATTACKED,)


def _get_order(catcher: str) -> tuple[int, str]:
    digits = "".join(character for character in catcher if character.isdigit())
    last = (_REFUSED, _ATTACKED, _MISSED)
    return (int(digits), catcher) if digits else (100 + last.index(catcher), catcher)


def _show_attack(result: CaseResult, card: str) -> str:
    if card in result.robust:
        return str(result.robust[card])
    return "not finished" if card in result.problems else "-"
