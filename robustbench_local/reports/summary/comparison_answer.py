"""The answer of a comparison, in sentences: is one run worse than the other?"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence

from robustbench_local.counted_nouns import choose_form
from robustbench_local.reports.analysis.certified_vs_empirical import has_blocking_violation
from robustbench_local.reports.analysis.compared_rows import ComparedRow
from robustbench_local.reports.analysis.distrust_reasons import explain_mark
from robustbench_local.reports.analysis.gate_changes import GateChange
from robustbench_local.reports.analysis.run_comparison import ModelChange, RunComparison
from robustbench_local.reports.analysis.run_pairs import SubjectPair
from robustbench_local.reports.analysis.share_change import ChangeVerdict, ShareChange
from robustbench_local.reports.analysis.trust import format_mark, select_blocks, select_cell_distrust
from robustbench_local.reports.formatting.text import (
    format_count,
    format_estimate,
    format_percent,
    format_points,
    format_test,
    isolate_direction,
    join_in_sentence,
    shorten_text,
)
from robustbench_local.reports.summary.run_verdict import MAX_NAME_CHARACTERS

MAX_NAMED_MODELS = 4
"""Models that the first sentence names for each verdict."""

MAX_NAMED_GATES = 3
"""Gates with another verdict that are described one by one; of more, their directions are counted."""

MAX_LIMIT_CHARACTERS = 120
"""Characters of a gate's limit in a sentence; the table has the whole."""

_COUNTED_AS = {
    "robust accuracy": "robust",
    "certified accuracy": "certified",
    "clean accuracy": "correctly classified",
}


def describe_question(comparisons: Sequence[RunComparison]) -> str:
    """Return the question that a comparison answers."""
    names = [isolate_direction(comparison.candidate.name) for comparison in comparisons]
    baseline = isolate_direction(comparisons[0].baseline.name)
    verb = choose_form(len(names), "Is", "Are")
    return f"{verb} {join_in_sentence(names)} worse than {baseline}?"


def describe_comparison_answer(comparisons: Sequence[RunComparison]) -> str:
    """Describe the answer: one sentence for one model, else a count for each verdict."""
    if len(comparisons) == 1 and len(comparisons[0].models) == 1:
        return describe_model_change(comparisons[0], comparisons[0].models[0])
    return " ".join(map(_describe_count, comparisons))


def list_change_sentences(comparison: RunComparison, *, is_single: bool) -> list[str]:
    """List the sentences that follow the answer.

    Args:
        comparison: The comparison.
        is_single: Whether the answer is about its only model.
    """
    sentences = [] if is_single else [describe_model_change(comparison, model) for model in comparison.models]
    main_rows = [model.main_row for model in comparison.models]
    others = [
        row
        for row in (*comparison.tables["worst_cases"], *comparison.tables["clean"])
        if row.change.verdict in {"worse", "better"} and not any(row is main for main in main_rows)
    ]
    if not any(find_obstacle(comparison, pair) for pair in comparison.pairs):
        sentences += [_describe_row(comparison, row, lead="Also ") for row in others]
    return [*sentences, *_list_gate_sentences(comparison)]


def list_cautions(comparison: RunComparison) -> list[str]:
    """List why a difference may come from something else than the models, one line each."""
    names = isolate_direction(comparison.baseline.name), isolate_direction(comparison.candidate.name)
    lines = [
        difference.describe_values(*names)
        for difference in comparison.differences
        if difference.effect != "noted"
    ]
    lines += [
        f"not compared, without a counterpart: {join_in_sentence(models)} in {isolate_direction(run)}"
        for run, models in comparison.unmatched_models
    ]
    lines += [
        f"{names[1]} has the model {isolate_direction(str(pair.second))}, {names[0]} has "
        f"{isolate_direction(str(pair.first))}: they are compared with each other"
        for pair in comparison.pairs
        if pair.is_renamed
    ]
    if not comparison.is_paired:
        lines.append(
            "the runs have other images: no image is compared with itself, so intervals are wider, and "
            "harder images in one run look like a worse model"
        )
    return list(dict.fromkeys(lines))


def list_noted_differences(comparison: RunComparison) -> list[str]:
    """List the differences that are what is compared, or hardly matter."""
    names = isolate_direction(comparison.baseline.name), isolate_direction(comparison.candidate.name)
    noted = [difference for difference in comparison.differences if difference.effect == "noted"]
    lines = [difference.describe_values(*names) for difference in noted]
    same = ["weights and settings of the models are the same"] if comparison.has_same_weights else []
    return [*same, *lines]


def describe_model_change(comparison: RunComparison, model: ModelChange) -> str:
    """Describe whether a model is worse than in the baseline, in one sentence."""
    obstacle = find_obstacle(comparison, model.subjects)
    if obstacle:
        return f"No answer: {obstacle}"
    if model.main_row is None:
        first, second = _name_sides(comparison, model.subjects)
        return f"Nothing is known of {second} against {first}: the runs have no finished result in common."
    if not _is_unchanged(comparison, model):
        return _describe_row(comparison, model.main_row)
    first, second = _name_sides(comparison, model.subjects)
    change = model.main_row.change
    marks = _describe_marks(comparison, model.main_row)
    return (
        f"Nothing changed: {second} has the weights of {first}, and the same verdict on each of the "
        f"{format_count(change.second.n, 'image')} {_describe_place(model.main_row)} "
        f"({model.main_row.metric} {format_percent(change.second.value)}).{marks}"
    )


def describe_change(change: ShareChange) -> str:
    """Describe a change in figures: both shares, the difference with its interval, and the test."""
    shares = (
        f"{format_percent(change.first.value)} \N{RIGHTWARDS ARROW} {format_percent(change.second.value)}"
    )
    interval = f"95% interval {format_points(change.low)} to {format_points(change.high)}"
    test = "" if change.test is None else f"; {format_test(change.test)}"
    return f"{shares}: {format_points(change.value)} points, {interval}{test}"


def _describe_row(comparison: RunComparison, row: ComparedRow, lead: str = "") -> str:
    """Describe a row in a sentence; ``lead`` stands in front of a difference."""
    first, second = _name_sides(comparison, row.subjects)
    where = _describe_place(row)
    change = row.change
    basis = f"{row.metric} {describe_change(change)}"
    marks = _describe_marks(comparison, row)
    if change.test is None:
        return f"{lead}{_describe_unpaired(first, second, where, change)} ({basis}).{marks}"
    counts = (
        f"{change.test.only_first:,} of the same {format_count(change.test.n, 'image')} lost, "
        f"{change.test.only_second:,} won"
    )
    if change.verdict in {"worse", "better"}:
        return f"{lead}{second} is {change.verdict} than {first} {where}: {counts} ({basis}).{marks}"
    limit = _describe_resolution(change)
    return (
        f"No difference between {second} and {first} can be shown {where}: {counts} ({basis}). {limit}{marks}"
    )


def _describe_marks(comparison: RunComparison, row: ComparedRow) -> str:
    """Describe why a change may come from something else than the model, distrust with its reasons."""
    first, second = comparison.baseline, comparison.candidate
    sides = ((first, [pair.first for pair in row.cells]), (second, [pair.second for pair in row.cells]))
    explained = {}
    for run, cells in sides:
        distrust = [result for cell in cells for result in select_cell_distrust(run.evidence, cell)]
        mark = f"{format_mark(distrust)} in {run.name}"
        explained[mark] = f"in {isolate_direction(run.name)} {explain_mark(distrust)}"
    marks = [explained.get(mark, mark) for mark in row.marks]
    return f" But: {'; '.join(marks)}." if marks else ""


def _describe_unpaired(first: str, second: str, where: str, change: ShareChange) -> str:
    samples = f"{format_estimate(change.first)} against {format_estimate(change.second)}"
    if change.verdict in {"worse", "better"}:
        return f"{second} is {change.verdict} than {first} {where}, on other images: {samples}"
    return f"No difference between {second} and {first} can be shown {where}, on other images: {samples}"


def _describe_resolution(change: ShareChange) -> str:
    """Describe which differences so many images can show."""
    if change.test is None:
        return ""
    sample = (
        format_count(change.test.groups, "group")
        if change.test.groups
        else format_count(change.test.n, "image")
    )
    verb = choose_form(change.test.groups or change.test.n, "is", "are")
    if math.isinf(change.smallest_difference):
        return f"{sample} {verb} too few to show any difference."
    least = f"{100 * change.smallest_difference:.1f}"
    return f"With {sample} no difference below {least} points can be shown."


def _describe_place(row: ComparedRow) -> str:
    """Describe the threat model, or the certificate."""
    if row.threat is None:
        return "without attack"
    ball = f"{row.threat.name} ({row.threat})"
    if row.metric == "certified accuracy":
        return f"by {isolate_direction(row.label)} for {ball}"
    return f"under {ball}"


def _name_sides(comparison: RunComparison, subjects: SubjectPair) -> tuple[str, str]:
    """Name both sides: by run, and by model where a run has several or they differ."""
    runs = isolate_direction(comparison.baseline.name), isolate_direction(comparison.candidate.name)
    if len(comparison.pairs) == 1 and not comparison.unmatched_models:
        return runs
    first, second = isolate_direction(str(subjects.first)), isolate_direction(str(subjects.second))
    return f"{first} in {runs[0]}", f"{second} in {runs[1]}"


def _is_unchanged(comparison: RunComparison, model: ModelChange) -> bool:
    row = model.main_row
    if row is None or row.change.test is None or not comparison.has_same_weights:
        return False
    return not (row.change.test.only_first or row.change.test.only_second)


def find_obstacle(comparison: RunComparison, subjects: SubjectPair) -> str:
    """Return why a model has no answer, in a sentence; empty if it has one."""
    for run, subject in ((comparison.baseline, subjects.first), (comparison.candidate, subjects.second)):
        name = isolate_direction(run.name)
        if has_blocking_violation(run.evidence):
            return (
                f"in {name} an attack found adversarial examples inside a certified ball, so one of the two "
                f"is wrong."
            )
        blocks = select_blocks(run.evidence, subject)
        if blocks:
            return f"in {name}, {blocks[0].sentence[:1].lower()}{blocks[0].sentence[1:]}"
    return ""


def _describe_count(comparison: RunComparison) -> str:
    """Count the verdicts of several models, in a sentence."""
    first, second = isolate_direction(comparison.baseline.name), isolate_direction(comparison.candidate.name)
    named: dict[ChangeVerdict, list[str]] = {
        "worse": [],
        "better": [],
        "no difference shown": [],
        "unknown": [],
    }
    for model in comparison.models:
        is_known = model.main_row is not None and not find_obstacle(comparison, model.subjects)
        verdict = model.main_row.change.verdict if model.main_row is not None and is_known else "unknown"
        named[verdict].append(isolate_direction(str(model.subjects.second)))
    total = len(comparison.models)
    words = {
        "worse": "worse for",
        "better": "better for",
        "no difference shown": "not shown to differ for",
        "unknown": "without an answer for",
    }
    parts = [
        f"{words[verdict]} {_count_models(models, total)}" for verdict, models in named.items() if models
    ]
    return f"{second} against {first}: {'; '.join(parts)}."


def _count_models(models: Sequence[str], total: int) -> str:
    if total == 1:
        return models[0]
    shown = [*models[:MAX_NAMED_MODELS]]
    more = len(models) - len(shown)
    names = join_in_sentence([*shown, f"{more} more"] if more else shown)
    return f"{len(models)} of {format_count(total, 'model')} ({names})"


def _list_gate_sentences(comparison: RunComparison) -> Iterator[str]:
    """Describe how many gates changed and in which direction, if there are any."""
    common = [gate for gate in comparison.gates if gate.first and gate.second]
    changed = [gate for gate in common if gate.is_changed]
    if common:
        verb = choose_form(len(changed), "has", "have")
        counted = f"{len(changed):,} of {format_count(len(common), 'common gate')} {verb} another verdict"
        yield f"{counted}{_describe_gate_changes(comparison, changed)}."
    for run, alone in (
        (comparison.baseline, sum(gate.second is None for gate in comparison.gates)),
        (comparison.candidate, sum(gate.first is None for gate in comparison.gates)),
    ):
        if alone:
            verb = choose_form(alone, "is", "are")
            yield f"{format_count(alone, 'gate')} {verb} in {isolate_direction(run.name)} only."


def _describe_gate_changes(comparison: RunComparison, changed: Sequence[GateChange]) -> str:
    """Describe each change of a few gates with model and limit; of more, how many went from what to what."""
    runs = isolate_direction(comparison.baseline.name), isolate_direction(comparison.candidate.name)
    if len(changed) > MAX_NAMED_GATES:
        counts = Counter((gate.first_ruling, gate.second_ruling) for gate in changed)
        parts = [f"{number:,} from {first} to {second}" for (first, second), number in counts.items()]
        return f", from {runs[0]} to {runs[1]}: {join_in_sentence(parts)}"
    named = [
        f"{isolate_direction(shorten_text(gate.model_text, MAX_NAME_CHARACTERS))}, "
        f"{isolate_direction(shorten_text(gate.limit_text, MAX_LIMIT_CHARACTERS))}: "
        f"{gate.first_ruling} in {runs[0]}, {gate.second_ruling} in {runs[1]}"
        for gate in changed
    ]
    return f". {'; '.join(named)}" if named else ""
