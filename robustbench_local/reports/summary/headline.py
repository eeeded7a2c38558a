"""The question of a run and its answer, in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from robustbench_local.reports.analysis.attack_phases import describe_phases
from robustbench_local.reports.analysis.cell_result import CellResult
from robustbench_local.reports.analysis.certified_vs_empirical import has_blocking_violation
from robustbench_local.reports.analysis.corruption_results import build_corruption_maps
from robustbench_local.reports.analysis.distrust_reasons import explain_mark
from robustbench_local.reports.analysis.eight_bit_worst_case import find_eight_bit_cases
from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.model_comparison import ModelComparison
from robustbench_local.reports.analysis.pairwise import describe_tie
from robustbench_local.reports.analysis.run_diagnostics import is_guessing
from robustbench_local.reports.analysis.shard_evidence import format_shard_prefix
from robustbench_local.reports.analysis.sticker_results import (
    StickerResult,
    build_sticker_results,
    describe_sticker,
)
from robustbench_local.reports.analysis.stop_targets import StoppedEstimate, list_stopped_estimates
from robustbench_local.reports.analysis.strongest_pair import describe_strongest_pair, find_strongest_pair
from robustbench_local.reports.analysis.targeted_goal import (
    describe_main_goal,
    format_goal_classes,
    select_main_goal_cells,
)
from robustbench_local.reports.analysis.threat import Threat
from robustbench_local.reports.analysis.trust import mark_model, select_blocks, select_distrust
from robustbench_local.reports.analysis.worst_case import WorstCase
from robustbench_local.reports.formatting.text import (
    describe_budget,
    format_budget,
    format_count,
    format_estimate,
    format_test,
    isolate_direction,
    join_extremes,
)

MAX_NAMED_MODELS = 4
"""Models that the answer names; of more, it names the first and the last."""


def describe_question(evidence: Evidence) -> str:
    """Return the user's question, or one made from the headline threat model."""
    if evidence.question:
        return evidence.question
    subjects, threat = evidence.subjects, evidence.headline_threat
    who = isolate_direction(str(subjects[0])) if len(subjects) == 1 else "each model"
    if threat is not None:
        may = f"when an attacker may {describe_budget(threat.norm, threat.eps)}"
        return f"What is the robust accuracy of {who} {may}?"
    goal = select_main_goal_cells(evidence) or [cell for cell in evidence.cells if cell.targeted]
    cell = goal[0] if goal else None
    if cell is None and any(cell.is_corruption for cell in evidence.cells):
        return f"What is the accuracy of {who} under noise, blur, weather and compression?"
    if cell is None:
        return "How robust are the models?"
    sources, targets = format_goal_classes(evidence, cell)
    may = f"if an attacker may {describe_budget(cell.record.norm, cell.record.eps, cell.record.surface)}"
    return f"How often does {who} misclassify {sources} as {targets} {may}?"


def describe_answer(evidence: Evidence) -> str:
    """Describe the answer in a sentence; no answer while a certificate and an attack conflict (D25)."""
    return f"{format_shard_prefix(evidence)}{_describe_own_answer(evidence)}"


def _describe_own_answer(evidence: Evidence) -> str:
    """Describe the answer that the images of this run give."""
    if has_blocking_violation(evidence):
        return (
            "No answer: an attack found adversarial examples inside a certified ball, so one of the two "
            "is wrong."
        )
    threat = evidence.headline_threat
    if threat is None:
        return _describe_targeted_answer(evidence)
    rows = [evidence.get_worst_case(subject, threat) for subject in evidence.subjects]
    known = [row for row in rows if row is not None and row.robust_accuracy.is_known]
    sound = [row for row in known if not select_blocks(evidence, row.subject)]
    stopped = [one for one in list_stopped_estimates(evidence) if one.threat == threat]
    if stopped and len(stopped) >= len(known):
        return _describe_stopped(evidence, stopped, several=len(rows) > 1)
    if not known:
        return "Not known yet: no attack under this threat model has finished."
    if not sound:
        return f"No answer: {_describe_blocks(evidence, known)}"
    return _describe_worst_cases(
        evidence, sorted(sound, key=lambda row: -row.robust_accuracy.value), several=len(rows) > 1
    )


def _describe_blocks(evidence: Evidence, rows: Sequence[WorstCase]) -> str:
    """Describe why no model has a robustness number."""
    if all(is_guessing(evidence, row.subject) for row in rows):
        return "no model is significantly better than guessing."
    first = select_blocks(evidence, rows[0].subject)[0]
    return f"{first.sentence[:1].lower()}{first.sentence[1:]}"


def describe_comparisons(evidence: Evidence) -> list[str]:
    """Name the strongest targeted finding, compare the best model with each other one, describe stickers."""
    if has_blocking_violation(evidence):
        return []
    pairs = evidence.compare_models(evidence.headline_threat) if evidence.headline_threat else []
    sound = (
        pair
        for pair in pairs
        if not any(select_blocks(evidence, subject) for subject in (pair.first, pair.second))
    )
    stickers = (
        f"{isolate_direction(str(result.subject))} under {result.cell.label}: {describe_sticker(result)}"
        f"{_format_mark(evidence, result.subject, result.cell.threat)}."
        for result in build_sticker_results(evidence)
    )
    strongest = describe_strongest_pair(evidence) if evidence.headline_threat else ""
    first = [strongest] if strongest else []
    return [*first, *(_describe_comparison(evidence, pair) for pair in sound), *stickers]


def describe_eight_bit_answer(evidence: Evidence) -> str:
    """Describe the answer for 8-bit images, which a deployed classifier sees; empty if unknown."""
    if has_blocking_violation(evidence):
        return ""
    stopped = {(one.subject, one.threat) for one in list_stopped_estimates(evidence)}
    cases = [
        case
        for case in find_eight_bit_cases(evidence)
        if case.threat == evidence.headline_threat
        and case.robust_accuracy.is_known
        and (case.subject, case.threat) not in stopped  # only some of their attacks are done
    ]
    sound = [case for case in cases if not select_blocks(evidence, case.subject)]
    if sound:
        ranked = sorted(sound, key=lambda case: -case.robust_accuracy.value)
        shares = [(case.subject, case.robust_accuracy) for case in ranked]
        threat = evidence.headline_threat
        basis = "counting only 8-bit adversarial examples, which are what a deployed classifier sees"
    else:
        cells = select_main_goal_cells(evidence) if evidence.headline_threat is None else []
        shares = [
            (cell.subject, cell.attack_success_8bit) for cell in cells if cell.attack_success_8bit.is_known
        ]
        shares.sort(key=lambda pair: -pair[1].value)
        threat = cells[0].threat if cells else None
        basis = "counting only 8-bit adversarial examples, which are what a deployed classifier sees"
    shown = shares if len(shares) <= MAX_NAMED_MODELS else [shares[0], shares[-1]]
    parts = [
        f"{isolate_direction(str(subject))}: {format_estimate(share)}"
        f"{_format_mark(evidence, subject, threat)}"
        for subject, share in shown
    ]
    left_out = sum(case.undecided_count for case in sound)
    without = (
        f"; {format_count(left_out, 'image')} excluded because no attack found an 8-bit image in the ball"
        if left_out
        else ""
    )
    return f"In 8 bits: {join_extremes(parts, len(shares))}, {basis}{without}." if parts else ""


def _describe_worst_cases(evidence: Evidence, rows: Sequence[WorstCase], *, several: bool) -> str:
    shown = rows if len(rows) <= MAX_NAMED_MODELS else [rows[0], rows[-1]]
    parts = [
        f"{_format_model_name(row, several)}{format_estimate(row.robust_accuracy)}"
        f"{_explain_mark(evidence, row.subject, row.threat)}"
        for row in shown
    ]
    missing = any(row.missing_attacks for row in rows)
    caveat = "unfinished attacks" if missing else "stronger attacks"
    shares = f"{_describe_number(rows[0].threat)}{join_extremes(parts, len(rows))}"
    return f"{shares}. {_describe_method(rows)}; {caveat} can only lower this."


def _describe_stopped(evidence: Evidence, rows: Sequence[StoppedEstimate], *, several: bool) -> str:
    """Describe the worst cases of a run that stopped early, with intervals that hold whenever it stops."""
    ranked = sorted(rows, key=lambda one: -one.stated.value)
    shown = ranked if len(ranked) <= MAX_NAMED_MODELS else [ranked[0], ranked[-1]]
    parts = [
        (f"{isolate_direction(str(one.subject))}: " if several else "")
        + f"{format_estimate(one.stated)}{_explain_mark(evidence, one.subject, one.threat)}"
        for one in shown
    ]
    whole = format_count(rows[0].state.interval.population, "image")
    about = f" about these {whole}" if rows[0].is_about_data else ""
    return (
        f"{_describe_number(rows[0].threat)}{join_extremes(parts, len(rows))}, anytime-valid{about}: the run "
        f"stopped before it had all {whole}, because the rest could not change an answer; stronger attacks "
        "can only lower this."
    )


def _describe_number(threat: Threat) -> str:
    """Describe which number follows, and against what."""
    may = describe_budget(threat.norm, threat.eps)
    return f"Share of images classified correctly although an attacker may {may}: "


def _format_mark(evidence: Evidence, subject: EvaluatedModel, threat: Threat | None) -> str:
    """Return the mark of a number that diagnostics find not trustworthy, with their ids."""
    mark = mark_model(evidence, subject, threat)
    return f", {mark}" if mark else ""


def _explain_mark(evidence: Evidence, subject: EvaluatedModel, threat: Threat) -> str:
    """Return the mark of a number in the answer, with its reasons; later sentences have the ids alone."""
    mark = explain_mark(select_distrust(evidence, subject, threat))
    return f", {mark}" if mark else ""


def _format_model_name(row: WorstCase, several: bool) -> str:
    return f"{isolate_direction(str(row.subject))}: " if several else ""


def _describe_method(rows: Sequence[WorstCase]) -> str:
    """Describe how many attacks the worst case is over."""
    numbers = {len(row.attacks) for row in rows}
    if numbers == {1}:
        return f"Under a single attack ({rows[0].attack_labels[0]})"
    if all(row.phases for row in rows) and len({describe_phases(row.phases) for row in rows}) == 1:
        return f"Worst case in {describe_phases(rows[0].phases)}"
    if any(row.left_out_count and row.stated_verdicts is row.any_attack_verdicts for row in rows):
        return f"Worst case over up to {format_count(max(numbers), 'attack')} an image"
    over = f"{min(numbers)} to {max(numbers)}" if len(numbers) > 1 else str(max(numbers))
    return f"Worst case over {over} attacks"


def _describe_comparison(evidence: Evidence, pair: ModelComparison) -> str:
    test, threat = pair.comparison, evidence.headline_threat
    marks = [
        f"{mark}: {isolate_direction(str(subject))}"
        for subject in (pair.first, pair.second)
        if (mark := mark_model(evidence, subject, threat))
    ]
    caveat = f" But {'; '.join(marks)}." if marks else ""
    first, second = isolate_direction(str(pair.first)), isolate_direction(str(pair.second))
    split = (
        f"{format_count(test.only_first, 'image')} robust only on {first}, {test.only_second:,} only on "
        f"{second}"
    )
    basis = f"{split} (same {format_count(test.n, 'image')}, {format_test(test)})"
    if test.is_significant():
        return f"{first} is more robust than {second}: {basis}.{caveat}"
    return f"{describe_tie(first, second, test)}: {basis}.{caveat}"


def _describe_targeted_answer(evidence: Evidence) -> str:
    return (
        _describe_strongest_first(evidence)
        or _describe_sticker_answer(evidence)
        or _describe_unattacked_answer(evidence)
    )


def _describe_strongest_first(evidence: Evidence) -> str:
    """Describe the main goal and the strongest pair of classes, the one of higher success first."""
    goal, found = describe_main_goal(evidence, MAX_NAMED_MODELS), find_strongest_pair(evidence)
    if not goal or found is None:
        return goal
    highest = max(cell.attack_success.value for cell in select_main_goal_cells(evidence))
    pair = describe_strongest_pair(evidence)
    return f"{goal} {pair}" if highest > found.success.value else f"{pair} {goal}"


def _describe_sticker_answer(evidence: Evidence) -> str:
    """Describe the answer of a run with stickers only; empty without stickers."""
    results = build_sticker_results(evidence)
    known = [result for result in results if result.attack_success.is_known]
    if results and not known:
        return "No answer: no sign is classified correctly in enough of its clean views."
    several = len({(result.cell.record.norm, result.cell.record.eps) for result in known}) > 1
    parts = [
        f"{isolate_direction(str(result.subject))}{_format_sticker_budget(result.cell) if several else ''}, "
        f"on {result.sign_count_text}: {_format_sticker_shares(result)}"
        f"{_format_mark(evidence, result.subject, result.cell.threat)}"
        for result in known[:MAX_NAMED_MODELS]
    ]
    basis = "of the simulated views in which the clean sign is classified correctly"
    return f"{'; '.join(parts)}, {basis}; stronger attacks can only raise this." if parts else ""


def _format_sticker_shares(result: StickerResult) -> str:
    """Format the attack success and, for targets, the rate of any misclassification."""
    if not result.cell.targeted:
        return f"{format_estimate(result.attack_success)} misclassified"
    whole = f"{format_estimate(result.misread_rate)} not classified as {isolate_direction(result.label_name)}"
    return f"{format_estimate(result.attack_success)} misclassified as a target, {whole}"


def _format_sticker_budget(cell: CellResult) -> str:
    return f" with a {format_budget(cell.record.norm, cell.record.eps, cell.record.surface)}"


def _describe_unattacked_answer(evidence: Evidence) -> str:
    """Describe the answer of a run without attacks on its models, from corruptions or certificates."""
    maps = [
        corruption_map
        for corruption_map in build_corruption_maps(evidence)
        if corruption_map.mean_row.mean_entry.estimate.is_known
    ]
    if maps:
        shown = (
            f"{isolate_direction(str(corruption_map.subject))}: "
            f"{format_estimate(corruption_map.mean_row.mean_entry.estimate)}"
            for corruption_map in maps
        )
        basis = (
            f"on average over {format_count(len(maps[0].rows), 'corruption')} and the severities evaluated"
        )
        return f"{'; '.join(list(shown)[:MAX_NAMED_MODELS])}, {basis}; an adversary can do more damage."
    proven = [cell for cell in evidence.certificate_cells if cell.certified_accuracy.is_known]
    if proven:
        parts = [
            f"{_format_certificate(cell)}: {format_estimate(cell.certified_accuracy)}"
            for cell in proven[:MAX_NAMED_MODELS]
        ]
        return f"{'; '.join(parts)}, whatever the attack; no attack was run."
    if any(cell.transferred and cell.is_done for cell in evidence.cells):
        return "Not known: attacks were only transferred from other models, none was run on these models."
    return "Not known yet: no attack has finished."


def _format_certificate(cell: CellResult) -> str:
    """Format the certified classifier and the ball."""
    who = isolate_direction(str(cell.subject)) + (
        ", its majority vote under noise," if cell.record.concerns != "model" else ""
    )
    return f"{who} certified accuracy at {format_budget(cell.record.norm, cell.record.eps)}"
