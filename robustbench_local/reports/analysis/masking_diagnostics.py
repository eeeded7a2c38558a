"""D8, D9 and D10: do attacks that know less, or mere noise, succeed where white-box attacks fail?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from robustbench_local.reports.analysis.attempts import index_attempts
from robustbench_local.reports.analysis.diagnostic_text import build_diagnostic, build_sentence, format_part
from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.gradient_masking import (
    MaskingEvidence,
    compare_by_knowledge,
)
from robustbench_local.reports.analysis.threat import Threat
from robustbench_local.reports.formatting.text import format_percent, join_in_sentence
from robustbench_local.store.diagnostic_records import DiagnosticResult, DiagnosticStatus
from robustbench_local.store.outcome_limits import MIN_EXCESS_IMAGES, MIN_EXCESS_SHARE, exceeds_chance

_SOURCES = {
    "D8": "Carlini et al. 2019, arXiv:1902.06705; limit: 1 % of the images and 3 images, which sound "
    "networks do not reach",
    "D9": "Carlini et al. 2019, arXiv:1902.06705 (transfer); limit as for D8",
}
_NAMES = {"D8": "white-box beats black-box", "D9": "white-box beats transfer"}
_KINDS = {"D8": "attacks without gradients", "D9": "adversarial examples crafted on another model"}
_MISSING = {
    "D8": "no attack without gradients ran beside white-box ones",
    "D9": "no transfer attack ran beside white-box ones",
}
_ADVICE = {
    "D8": "Run adaptive, or square with 5,000 queries, on all images, and state the lower number.",
    "D9": "Run adaptive, which transfers from other models by itself, and state the lower number.",
}
_COUNTED_BY_ADAPTIVE = ". The attack adaptive, which searches without gradients too, succeeds on all of them"
"""What makes it a warning: nothing is left to run, and a gate that no attack can settle helps nobody."""


def check_masking(evidence: Evidence, subject: EvaluatedModel) -> Iterator[DiagnosticResult]:
    """Yield D8 and D9 for each untargeted threat model with both kinds of attack."""
    for identifier in ("D8", "D9"):
        compared = [
            found
            for found in compare_by_knowledge(evidence)
            if found.subject == subject and found.transferred == (identifier == "D9")
        ]
        for found in compared:
            yield _judge_comparison(identifier, found)
        if not compared:
            sentence = f"Not checked: {_MISSING[identifier]}."
            yield build_diagnostic(identifier, _NAMES[identifier], subject, None, "not run", sentence)


def _judge_comparison(identifier: str, found: MaskingEvidence) -> DiagnosticResult:
    count, n = found.missed_share.count, found.missed_share.n
    names = join_in_sentence(found.attacks)
    what = f"{format_part(count, n)} ({format_percent(found.missed_share.value)})"
    alone = f"{what} are misclassified under {_KINDS[identifier]} ({names}) and under no white-box attack"
    status: DiagnosticStatus = "info" if count else "ok"
    if found.is_beyond_chance:
        status = "warn" if found.is_counted_by_adaptive else "fail"
    sentence = f"No image of {n:,} is misclassified under {_KINDS[identifier]} alone"
    if found.is_beyond_chance:
        sentence = f"{alone}, although those know more: gradient masking, or white-box attacks too weak"
        sentence += _COUNTED_BY_ADAPTIVE if found.is_counted_by_adaptive else ""
    elif count:
        sentence = f"{alone}, as few as on sound models"
    return build_diagnostic(
        identifier,
        _NAMES[identifier],
        found.subject,
        found.threat,
        status,
        build_sentence(sentence),
        value=found.missed_share.value,
        limit=max(MIN_EXCESS_SHARE, MIN_EXCESS_IMAGES / n) if n else MIN_EXCESS_SHARE,
        n=n,
        source=_SOURCES[identifier],
        action=_ADVICE[identifier] if found.is_beyond_chance else "",
    )


def compare_noise(evidence: Evidence, subject: EvaluatedModel, noise: DiagnosticResult) -> DiagnosticResult:
    """Complete D10: images that noise breaks and no attack of the same size or less does.

    Args:
        evidence: The run.
        subject: The model.
        noise: The stored result, with the images that noise misclassified.
    """
    if noise.status == "not run":
        return noise
    threats = [one for one in evidence.threats if one.name == noise.threat]
    attempts = [
        attempt
        for (who, threat), found in index_attempts(evidence).items()
        for attempt in found
        if who == subject and _contains_ball(threat, threats)
    ]
    completed = frozenset[str]().union(*(attempt.completed_images for attempt in attempts))
    broken = frozenset[str]().union(*(attempt.broken_images for attempt in attempts))
    known = [image for image in noise.images if image in completed]
    missed = [image for image in known if image not in broken]
    if not attempts or not threats:
        return replace(noise, sentence=f"{noise.sentence} No attack under it has finished.", images=())
    if not missed:
        sentence = f"{noise.sentence} Attacks succeed on each of them." if known else noise.sentence
        return replace(noise, sentence=sentence, images=())
    return replace(
        noise,
        status="fail" if exceeds_chance(len(missed), noise.n) else "warn",
        sentence=f"Random noise misclassifies {format_part(len(missed), noise.n)} on which every attack of "
        "the same size fails, although attacks search and noise does not.",
        value=len(missed) / max(noise.n, 1),
        limit=0.0,
        action="Run adaptive, or more restarts: the attacks miss what a random draw finds.",
        images=(),
    )


def _contains_ball(threat: Threat, threats: list[Threat]) -> bool:
    """Return whether the ball of a threat model lies inside one that the noise was drawn from."""
    return any(threat.norm == one.norm and threat.eps <= one.eps for one in threats)
