"""The question of a run and its answer, in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from robustbench_local.reports.analysis.certified_vs_empirical import is_blocked
from robustbench_local.reports.analysis.corruption_results import make_corruptions
from robustbench_local.reports.analysis.eight_bit_worst_case import find_eight_bit_cases
from robustbench_local.reports.analysis.evidence import CellResult, Evidence, Pair
from robustbench_local.reports.analysis.pairwise import tied
from robustbench_local.reports.analysis.run_warnings import is_guessing
from robustbench_local.reports.analysis.sticker_results import StickerResult, make_stickers, summary
from robustbench_local.reports.analysis.targeted_goal import aim, main_goal, tell
from robustbench_local.reports.analysis.worst_case import WorstCase
from robustbench_local.reports.formatting.text import budget, counted, full, isolated, p_value, permission

MOST_SUBJECTS = 4
"""Models that the answer names one by one; with more, it names the first and the last."""


def question(evidence: Evidence) -> str:
    """What was asked: the user's own words, or made from the headline threat."""
    if evidence.question:
        return evidence.question
    subjects, threat = evidence.subjects, evidence.headline
    who = isolated(str(subjects[0])) if len(subjects) == 1 else "each model"
    if threat is not None:
        may = f"when an attacker may {permission(threat.norm, threat.eps)}"
        return f"How often is {who} right {may}?"
    goal = main_goal(evidence) or [cell for cell in evidence.cells if cell.targeted]
    cell = goal[0] if goal else None
    if cell is None and any(cell.corrupted for cell in evidence.cells):
        return f"How often is {who} right on images that noise, blur, weather or compression have spoiled?"
    if cell is None:
        return "How often are the models right when someone works against them?"
    sources, targets = aim(evidence, cell)
    may = f"if an attacker may {permission(cell.record.norm, cell.record.eps, cell.record.surface)}"
    return f"How often can {who} be made to read {sources} as {targets} {may}?"


def answer(evidence: Evidence) -> str:
    """The answer in one sentence; none while a proof and an attack contradict each other (D25)."""
    if is_blocked(evidence):
        return (
            "No answer can be given: an attack broke what a certificate had proven, so one of them is wrong."
        )
    threat = evidence.headline
    if threat is None:
        return _targeted_answer(evidence)
    rows = [evidence.worst(subject, threat) for subject in evidence.subjects]
    known = [row for row in rows if row is not None and row.robust_accuracy.known]
    sound = [row for row in known if not is_guessing(evidence, row.subject)]
    if not known:
        return "Not known yet: no attack under this threat model has been carried through."
    if not sound:
        return "No answer can be given: untouched, no model is measurably better than guessing."
    return _sentence(sorted(sound, key=lambda row: -row.robust_accuracy.value), several=len(rows) > 1)


def comparisons(evidence: Evidence) -> list[str]:
    """What follows the answer: the best model against each other on the headline threat, and stickers."""
    if is_blocked(evidence):
        return []
    pairs = evidence.pairs(evidence.headline) if evidence.headline else []
    sound = (
        pair for pair in pairs if not any(is_guessing(evidence, one) for one in (pair.first, pair.second))
    )
    stickers = (
        f"{isolated(str(one.subject))} under {one.cell.record.attack}: {summary(one)}."
        for one in make_stickers(evidence)
    )
    return [*(_comparison(pair) for pair in sound), *stickers]


def in_eight_bits(evidence: Evidence) -> str:
    """What the answer is for 8-bit images, all that a deployed classifier sees; empty without an answer."""
    if is_blocked(evidence):
        return ""
    cases = [
        case
        for case in find_eight_bit_cases(evidence)
        if case.threat == evidence.headline and case.robust_accuracy.known
    ]
    sound = [case for case in cases if not is_guessing(evidence, case.subject)]
    if sound:
        ranked = sorted(sound, key=lambda case: -case.robust_accuracy.value)
        told = [(case.subject, case.robust_accuracy) for case in ranked]
        basis = "against the attacker's 8-bit images alone, which are what a deployed classifier sees"
    else:
        cells = main_goal(evidence) if evidence.headline is None else []
        told = [(cell.subject, cell.attack_success_8bit) for cell in cells if cell.attack_success_8bit.known]
        told.sort(key=lambda one: -one[1].value)
        basis = "with 8-bit images alone, which are what a deployed classifier sees"
    shown = told if len(told) <= MOST_SUBJECTS else [told[0], told[-1]]
    parts = [f"{isolated(str(subject))}: {full(share)}" for subject, share in shown]
    between = "" if shown is told else f" (the highest and the lowest of {len(told)})"
    left_out = sum(case.undecided for case in sound)
    without = (
        f"; {counted(left_out, 'image')} left out, of which no 8-bit image in the ball could be tried"
        if left_out
        else ""
    )
    return f"In 8 bits: {'; '.join(parts)}{between}, {basis}{without}." if parts else ""


def _sentence(rows: Sequence[WorstCase], *, several: bool) -> str:
    shown = rows if len(rows) <= MOST_SUBJECTS else [rows[0], rows[-1]]
    parts = [f"{_name(row, several)}{full(row.robust_accuracy)}" for row in shown]
    between = f" (the highest and the lowest of {len(rows)})" if shown is not rows else ""
    missing = any(row.missing for row in rows)
    caveat = "the attacks that did not finish" if missing else "stronger ones"
    return f"{'; '.join(parts)}{between}, {_method(rows)}; {caveat} can only lower this."


def _name(row: WorstCase, several: bool) -> str:
    return f"{isolated(str(row.subject))}: " if several else ""


def _method(rows: Sequence[WorstCase]) -> str:
    """How many attacks stand behind the numbers."""
    numbers = {len(row.attacks) for row in rows}
    if numbers == {1}:
        return f"under a single attack ({rows[0].attacks[0]})"
    if any(row.left_out and row.basis is row.every for row in rows):
        return f"each image against the worst of those of up to {max(numbers)} attacks that met it"
    over = f"{min(numbers)} to {max(numbers)}" if len(numbers) > 1 else str(max(numbers))
    return f"each image against the worst of {over} attacks"


def _comparison(pair: Pair) -> str:
    test = pair.comparison
    first, second = isolated(str(pair.first)), isolated(str(pair.second))
    verb = "holds" if test.only_first == 1 else "hold"
    split = (
        f"{counted(test.only_first, 'image')} {verb} only on {first}, {test.only_second:,} only on {second}"
    )
    basis = f"{split} (same {counted(test.n, 'image')}, exact McNemar {p_value(test.p_value)})"
    if test.significant():
        return f"{first} holds more often than {second}: {basis}."
    return f"{tied(first, second, test)}: {basis}."


def _targeted_answer(evidence: Evidence) -> str:
    return tell(evidence, MOST_SUBJECTS) or _sticker_answer(evidence) or _average_answer(evidence)


def _sticker_answer(evidence: Evidence) -> str:
    """Where stickers are all that was tried; nothing if none was."""
    results = make_stickers(evidence)
    known = [one for one in results if one.success.known]
    if results and not known:
        return "No answer can be given: no sign is read rightly in enough of its clean views."
    several = len({(one.cell.record.norm, one.cell.record.eps) for one in known}) > 1
    told = [
        f"{isolated(str(one.subject))}{_worn(one.cell) if several else ''}, on {one.of_signs}: {_shares(one)}"
        for one in known[:MOST_SUBJECTS]
    ]
    basis = "of the simulated views in which the clean sign is read rightly"
    return f"{'; '.join(told)}, {basis}; stronger attacks can only raise this." if told else ""


def _shares(result: StickerResult) -> str:
    """What the attacker wants, and misreadings of any kind."""
    if not result.cell.targeted:
        return f"{full(result.success)} misread"
    whole = f"{full(result.dodged)} not read as {isolated(result.own)}"
    return f"{full(result.success)} read as a target, {whole}"


def _worn(cell: CellResult) -> str:
    return f" with a {budget(cell.record.norm, cell.record.eps, cell.record.surface)}"


def _average_answer(evidence: Evidence) -> str:
    """Where nobody attacked the models themselves: corruptions, if there are any."""
    maps = [one for one in make_corruptions(evidence) if one.mean.overall.estimate.known]
    if maps:
        shown = (f"{isolated(str(one.subject))}: {full(one.mean.overall.estimate)}" for one in maps)
        basis = f"on average over {counted(len(maps[0].rows), 'corruption')} and the severities tried"
        return f"{'; '.join(list(shown)[:MOST_SUBJECTS])}, {basis}; an adversary can do worse."
    proven = [cell for cell in evidence.certificates if cell.certified_accuracy.known]
    if proven:
        told = [f"{_certified(cell)}: {full(cell.certified_accuracy)}" for cell in proven[:MOST_SUBJECTS]]
        return f"{'; '.join(told)}, whatever the attack; none was tried."
    if any(cell.transferred and cell.done for cell in evidence.cells):
        return "Not known: attacks were only transferred from other models, none worked on these."
    return "Not known yet: no attack has been carried through."


def _certified(cell: CellResult) -> str:
    """What is proven, and within which ball."""
    who = isolated(str(cell.subject)) + (", its vote under noise," if cell.record.concerns != "model" else "")
    return f"{who} certified right at {budget(cell.record.norm, cell.record.eps)}"
