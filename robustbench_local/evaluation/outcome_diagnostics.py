"""Diagnostics of a single evaluation that need its outcomes: those of a report that one attack allows.

D8 and D17 compare the stages of an ensemble, D10 compares noise with the attack, D22 looks at clean accuracy,
and D5 and D18 fail where the attack follows the cross-entropy alone. D9 and D12 to D15 need several attacks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from robustbench_local.attacks.adaptive.adaptive import Adaptive
from robustbench_local.attacks.base import Attack
from robustbench_local.attacks.ensembles.ensemble import Ensemble
from robustbench_local.counted_nouns import choose_form, format_count
from robustbench_local.evaluation.harness.job import Job
from robustbench_local.statistics import Estimate
from robustbench_local.store.diagnostic_records import DiagnosticResult, DiagnosticStatus
from robustbench_local.store.diagnostic_revisions import (
    advise_after_adaptive,
    fail_cross_entropy,
    fail_without_adaptive,
)
from robustbench_local.store.outcome_limits import (
    MAX_LOSS_GAP_SHARE,
    exceeds_chance,
    get_least_accuracy,
    is_guessing_accuracy,
)
from robustbench_local.store.records import BLACK_BOX_STAGES, OutcomeRecord

_NOTED_STATUSES = frozenset({"block", "fail", "warn"})
"""Diagnostics that every reader of a result has to know."""
_MARGIN_STAGES = frozenset({"apgd-t", "apgd-dlr", "fab", "fab-t"})


def complete_diagnostics(
    found: Sequence[DiagnosticResult],
    job: Job,
    method: Attack,
    rows: Sequence[OutcomeRecord],
    clean: Estimate,
) -> tuple[DiagnosticResult, ...]:
    """Complete the answers of a model by what its outcomes say, in the order of the ids' numbers.

    Args:
        found: What the model was asked before the attack.
        job: The attack on the model itself.
        method: The attack.
        rows: Its outcomes.
        clean: Clean accuracy.
    """
    results = [_weigh_result(result, method, rows) for result in found]
    results += _judge_outcomes(job, method, rows, clean)
    revise = advise_after_adaptive if isinstance(method, Adaptive) else fail_without_adaptive
    return tuple(sorted(map(revise, results), key=_get_number))


def list_diagnostic_notes(results: Sequence[DiagnosticResult]) -> Iterator[str]:
    """Yield a line for each diagnostic that a reader has to know, and one for the questions not asked."""
    for result in results:
        if result.status in _NOTED_STATUSES:
            yield f"{result.id} ({result.status}): {result.sentence} {result.action}".rstrip()
    unasked = [result for result in results if result.is_unasked]
    if unasked:
        reason = unasked[0].sentence.removeprefix("Not checked: ").rstrip(".")
        named = ", ".join(f"{result.id} ({result.name})" for result in unasked)
        yield f"{format_count(len(unasked), 'question')} to the model not asked, because {reason}: {named}."


def _get_number(result: DiagnosticResult) -> int:
    return int("".join(letter for letter in result.id if letter.isdigit()))


def _weigh_result(
    result: DiagnosticResult, method: Attack, rows: Sequence[OutcomeRecord]
) -> DiagnosticResult:
    """Revise one answer of the model by what the attack did."""
    if result.id == "D10" and result.status != "not run":
        return _compare_noise(result, rows)
    follows = getattr(method, "loss", "") == "ce" and not isinstance(method, Ensemble)
    return fail_cross_entropy(result) if follows else result


def _compare_noise(result: DiagnosticResult, rows: Sequence[OutcomeRecord]) -> DiagnosticResult:
    """Complete D10: images that noise misclassifies and the attack does not."""
    unbroken = {row.image for row in rows if row.clean_correct and not row.broken and row.status != "error"}
    missed = [image for image in result.images if image in unbroken]
    if not missed:
        return replace(result, images=())
    return replace(
        result,
        status="fail" if exceeds_chance(len(missed), result.n) else "warn",
        sentence=f"Random noise misclassifies {_format_part(len(missed), result.n)} on which the attack of "
        "the same size fails, although it searches and noise does not.",
        value=len(missed) / max(result.n, 1),
        limit=0.0,
        action="Run adaptive, or more restarts: the attack misses what a random draw finds.",
        images=(),
    )


def _judge_outcomes(
    job: Job, method: Attack, rows: Sequence[OutcomeRecord], clean: Estimate
) -> Iterator[DiagnosticResult]:
    """Yield D8 and D17 for an ensemble whose stages are known, and D22."""
    known = [row for row in rows if row.status != "error"]
    if isinstance(method, Ensemble) and not job.threat.targets and known:
        yield _compare_black_box(job, known, is_adaptive=isinstance(method, Adaptive))
        yield _compare_losses(job, known)
    if clean.is_known:
        yield _judge_clean_accuracy(job, clean)


def _compare_black_box(job: Job, rows: Sequence[OutcomeRecord], *, is_adaptive: bool) -> DiagnosticResult:
    """Return D8: images on which only a stage without gradients succeeds.

    It fails where adaptive, which searches without gradients from many starts, may still find more.
    """
    count, n = sum(row.broken and row.stage in BLACK_BOX_STAGES for row in rows), len(rows)
    is_failed = exceeds_chance(count, n)
    more = ", although those know more: gradient masking" if is_failed else ""
    sentence = (
        f"{_format_part(count, n)} are misclassified under a stage without gradients and no other{more}."
    )
    return _build_result(
        job,
        "D8",
        "white-box beats black-box",
        ("warn" if is_adaptive else "fail") if is_failed else "info" if count else "ok",
        sentence,
        value=count / n,
        n=n,
        action="Run adaptive, on all images, and state the lower number." if is_failed else "",
    )


def _compare_losses(job: Job, rows: Sequence[OutcomeRecord]) -> DiagnosticResult:
    """Return D17: images on which the margin succeeds and the cross-entropy before it does not."""
    attacked = [row for row in rows if row.clean_correct]
    gap, n = sum(row.broken and row.stage in _MARGIN_STAGES for row in attacked), len(attacked)
    is_large = gap > MAX_LOSS_GAP_SHARE * n and exceeds_chance(gap, n)
    sentence = (
        f"{_format_part(gap, n)} {choose_form(gap, 'is', 'are')} misclassified under the margin loss and not "
        "under the cross-entropy"
        f"{': its gradient is misleading' if is_large else ''}."
    )
    return _build_result(
        job,
        "D17",
        "losses agree",
        "warn" if is_large else "ok",
        sentence,
        value=gap / max(n, 1),
        n=n,
        action="Do not rely on attacks on the cross-entropy alone." if is_large else "",
    )


def _judge_clean_accuracy(job: Job, clean: Estimate) -> DiagnosticResult:
    """Return D22: is the model better than guessing?"""
    classes = job.classifier.num_classes
    status: DiagnosticStatus = "ok"
    sentence, action = f"Clean accuracy, without any attack, is {clean}.", ""
    if is_guessing_accuracy(clean, classes):
        status, action = "block", "Check weights, preprocessing and the order of classes."
        sentence = (
            f"Clean accuracy is {clean}, but guessing among {format_count(classes, 'class')} gives "
            f"{1 / classes:.0%}, so that robust accuracy is meaningless."
        )
    elif classes > 1 and clean.value < get_least_accuracy(classes):
        status, action = "warn", "Check its preprocessing and class order."
        sentence = (
            f"Clean accuracy is only {clean}, where guessing among {format_count(classes, 'class')} gives "
            f"{1 / classes:.0%}."
        )
    return _build_result(
        job, "D22", "clean accuracy", status, sentence, value=clean.value, n=clean.n, action=action
    )


def _build_result(
    job: Job,
    identifier: str,
    name: str,
    status: DiagnosticStatus,
    sentence: str,
    *,
    value: float,
    n: int,
    action: str,
) -> DiagnosticResult:
    return DiagnosticResult(
        id=identifier,
        name=name,
        model=job.classifier.name,
        status=status,
        sentence=sentence,
        value=value,
        n=n,
        source="limits as in a report",
        action=action,
    )


def _format_part(count: int, n: int) -> str:
    """Format ``3 of 100 images``."""
    return f"{count:,} of {format_count(n, 'image')}"
