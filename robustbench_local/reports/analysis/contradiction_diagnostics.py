"""D12, D14, D15 and D17: do the attacks of a run contradict each other?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from robustbench_local.reports.analysis.attempts import Attempt, index_attempts
from robustbench_local.reports.analysis.diagnostic_text import build_diagnostic, build_sentence
from robustbench_local.reports.analysis.disagreements import (
    Disagreement,
    find_disagreement_doubts,
    find_disagreements,
)
from robustbench_local.reports.analysis.doubt import Doubt
from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.store.diagnostic_records import DiagnosticResult


@dataclass(frozen=True, kw_only=True)
class _Comparison:
    """What a diagnostic compares."""

    id: str
    name: str
    source: str
    agreement: str
    """The sentence where nothing contradicts."""
    missing: str
    """Why nothing was compared; it completes "not checked: "."""
    can_compare: Callable[[Sequence[Attempt]], bool]
    """Whether a subject's attempts hold two that can be compared."""


def _has_two_radii(attempts: Sequence[Attempt]) -> bool:
    balls = {(attempt.cell.threat.norm, attempt.cell.record.eps) for attempt in attempts}
    return len(balls) > len({norm for norm, _ in balls})


def _has_two_starts(attempts: Sequence[Attempt]) -> bool:
    return len({attempt.parameters.get("random_start") for attempt in attempts} - {None}) > 1


def _has_two_efforts(attempts: Sequence[Attempt]) -> bool:
    steps = {attempt.parameters.get("steps") for attempt in attempts} - {None}
    return len(steps) > 1 or (
        any(attempt.is_single_step for attempt in attempts)
        and any(not attempt.is_single_step for attempt in attempts)
    )


def _has_two_losses(attempts: Sequence[Attempt]) -> bool:
    losses = {attempt.loss for attempt in attempts if attempt.sees_gradients}
    return {"ce", "margin"} <= losses or any(
        attempt.cell.successful_stages for attempt in attempts if attempt.sees_gradients
    )


COMPARISONS: tuple[_Comparison, ...] = (
    _Comparison(
        id="D12",
        name="larger budgets succeed more often",
        source="Carlini et al. 2019, arXiv:1902.06705; DEEPSEC's success that fell with eps",
        agreement="Attacks with a larger budget succeed at least as often, as they must.",
        missing="the run has one budget for each norm",
        can_compare=_has_two_radii,
    ),
    _Comparison(
        id="D14",
        name="starting points and restarts agree",
        source="Carlini et al. 2019, arXiv:1902.06705 (restarts)",
        agreement="The starting point of an attack hardly matters.",
        missing="no attack ran from two kinds of starting point",
        can_compare=_has_two_starts,
    ),
    _Comparison(
        id="D15",
        name="more effort succeeds more often",
        source="Carlini et al. 2019, arXiv:1902.06705 (iterative attacks beat single steps)",
        agreement="Attacks with more steps succeed at least as often as those with fewer.",
        missing="no two attacks differ in their number of steps",
        can_compare=_has_two_efforts,
    ),
    _Comparison(
        id="D17",
        name="losses agree",
        source="Croce & Hein 2020, arXiv:2003.01690; limit: 5 points, sound networks stay within 4",
        agreement="Attacks on the cross-entropy and on the margin loss agree within 5 points.",
        missing="no attack ran on both the cross-entropy and the margin loss",
        can_compare=_has_two_losses,
    ),
)


def check_contradictions(evidence: Evidence, subject: EvaluatedModel) -> Iterator[DiagnosticResult]:
    """Yield D12, D14, D15 and D17: one result for each contradiction, or one that says there is none."""
    attempts = [
        attempt
        for (who, _), found in index_attempts(evidence).items()
        if who == subject
        for attempt in found
        if not attempt.cell.has_external_candidates
    ]
    for comparison in COMPARISONS:
        found = [
            one
            for one in find_disagreements(evidence)
            if one.subject == subject and one.diagnostic == comparison.id
        ]
        for disagreement in found:
            yield _build_contradicted(evidence, comparison, disagreement)
        if found:
            continue
        can = comparison.can_compare(attempts)
        sentence = comparison.agreement if can else f"Not checked: {comparison.missing}."
        yield build_diagnostic(
            comparison.id,
            comparison.name,
            subject,
            None,
            "ok" if can else "not run",
            sentence,
            source=comparison.source,
        )


def _select_unbroken(evidence: Evidence, doubt: Doubt) -> frozenset[str]:
    """Select the images of a doubt on which no attack at all succeeded."""
    worst = evidence.get_worst_case(doubt.subject, doubt.threat)
    known = {} if worst is None else worst.any_attack_verdicts
    return frozenset(image for image in doubt.images if image not in known or known[image].robust)


def _build_contradicted(
    evidence: Evidence, comparison: _Comparison, disagreement: Disagreement
) -> DiagnosticResult:
    """Build the result: it fails if images rely on the misled attacks, and warns where others decide."""
    relying = any(
        _select_unbroken(evidence, doubt)
        for doubt in find_disagreement_doubts(evidence)
        if (doubt.subject, doubt.reason) == (disagreement.subject, disagreement.reason)
    )
    return build_diagnostic(
        comparison.id,
        comparison.name,
        disagreement.subject,
        disagreement.threat,
        "fail" if relying else "warn",
        build_sentence(disagreement.reason),
        source=comparison.source,
        action=build_sentence(disagreement.hint),
    )
