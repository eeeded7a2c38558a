"""D13: would more steps still succeed more often?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import permutations

from robustbench_local.reports.analysis.attempts import Attempt, index_attempts
from robustbench_local.reports.analysis.diagnostic_text import build_diagnostic, format_part
from robustbench_local.reports.analysis.disagreements import find_differing_parameters
from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.threat import Threat
from robustbench_local.reports.formatting.text import isolate_direction
from robustbench_local.store.diagnostic_records import DiagnosticResult
from robustbench_local.store.outcome_limits import MIN_EXCESS_IMAGES, MIN_EXCESS_SHARE

MIN_STEPS_RATIO = 2.0
"""Factor between the numbers of steps from which on a comparison says whether an attack has converged."""
_NAME = "attack has converged"
_SOURCE = "Pintor et al. 2022, arXiv:2106.09947 (incomplete optimization); limit: 1 % and 3 images a doubling"


def check_convergence(evidence: Evidence, subject: EvaluatedModel) -> Iterator[DiagnosticResult]:
    """Yield D13 for each threat model under which an attack ran with two numbers of steps.

    What counts is the net gain of a doubling: another one is what the number still lacks.
    """
    found = False
    for (who, threat), attempts in index_attempts(evidence).items():
        if who != subject:
            continue
        result = _compare_steps(subject, threat, [one for one in attempts if one.sees_gradients])
        if result is not None:
            found = True
            yield result
    if not found:
        sentence = "Not checked: no attack ran twice with at least double the steps."
        yield build_diagnostic("D13", _NAME, subject, None, "not run", sentence, source=_SOURCE)


def _compare_steps(
    subject: EvaluatedModel, threat: Threat, attempts: Sequence[Attempt]
) -> DiagnosticResult | None:
    """Compare the largest number of steps with the next smaller one of the same attack."""
    pairs = [
        (short, long)
        for short, long in permutations(attempts, 2)
        if find_differing_parameters(short, long) == {"steps"}
        and _get_steps(long) >= MIN_STEPS_RATIO * _get_steps(short)
    ]
    if not pairs:
        return None
    short, long = max(pairs, key=lambda pair: (_get_steps(pair[1]), _get_steps(pair[0])))
    both = short.completed_images & long.completed_images
    gained = len(short.unbroken_images & long.broken_images)
    doublings = math.log2(_get_steps(long) / max(_get_steps(short), 1.0))
    lost = len(long.unbroken_images & short.broken_images)
    further = (gained - lost) / doublings
    others = [one for one in attempts if one.method != long.method and not one.is_single_step]
    settled = any(len(one.broken_images & both) >= len(long.broken_images & both) for one in others)
    figures = (
        f"{format_part(gained, len(both))} are misclassified with {_get_steps(long):g} steps of "
        f"{isolate_direction(long.name)} and not with {_get_steps(short):g}"
    )
    if further < max(MIN_EXCESS_IMAGES, MIN_EXCESS_SHARE * len(both)):
        status, sentence, action = "ok", f"{figures}: more steps would hardly change the number.", ""
    elif settled:
        status, sentence = "info", f"{figures}; another attack of the run succeeds as often, so it decides."
        action = ""
    else:
        status, sentence = "fail", f"{figures}: the attack has not converged, and still more would follow."
        action = "Double the steps until the number stays, or run autoattack."
    return build_diagnostic(
        "D13",
        _NAME,
        subject,
        threat,
        status,  # type: ignore[arg-type]
        sentence,
        value=further / max(len(both), 1),
        limit=MIN_EXCESS_SHARE,
        n=len(both),
        source=_SOURCE,
        action=action,
    )


def _get_steps(attempt: Attempt) -> float:
    steps = attempt.parameters.get("steps")
    return float(steps) if isinstance(steps, int | float) else 0.0
