"""Warnings about attacks and models that limit the meaning of their numbers, a sentence each."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from robustbench_local.counted_nouns import choose_form
from robustbench_local.reports.analysis.attack_phases import describe_phases
from robustbench_local.reports.analysis.doubt_finders import Doubt, find_doubts
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.threat import Threat
from robustbench_local.reports.analysis.trust import select_diagnostics
from robustbench_local.reports.analysis.worst_case import WorstCase
from robustbench_local.reports.formatting.text import (
    format_count,
    isolate_direction,
    join_in_sentence,
)

_WEAKENING_NOTE_PATTERN = re.compile(
    r"random numbers in its forward|probabilities|changed while|changes |NaN|finite|batch|as its twin"
)
"""Words in a note that make the numbers of its model doubtful; other notes say how it was made."""


def describe_partial_overlap(evidence: Evidence) -> Iterator[str]:
    """Describe worst cases of attacks with different images, and the images of the stated share."""
    for threat in evidence.threats:
        worst = [
            worst_case
            for worst_case in evidence.worst_cases
            if worst_case.threat == threat and worst_case.left_out_count
        ]
        yield from _describe_phases([worst_case for worst_case in worst if worst_case.phases], threat)
        worst = [worst_case for worst_case in worst if not worst_case.phases]
        if worst:
            where = join_in_sentence([_format_overlap(worst_case) for worst_case in worst])
            text = (
                f"Attacks under {threat} ran on different images; an image counts as not robust as soon "
                f"as one succeeds: {where}."
            )
            more = "The intervals use all images. Give the attacks the same limit to compare them."
            obstacles = dict.fromkeys(one.phase_obstacle for one in worst if one.phase_obstacle)
            why = "".join(f" They are not taken as two phases, since {obstacle}." for obstacle in obstacles)
            yield f"{text} {more}{why}"


def _describe_phases(worst: Sequence[WorstCase], threat: Threat) -> Iterator[str]:
    """Describe how the attacks of one threat model count in phases."""
    by_phases: dict[str, list[str]] = {}
    for worst_case in worst:
        name = isolate_direction(str(worst_case.subject))
        by_phases.setdefault(describe_phases(worst_case.phases), []).append(name)
    for phases, subjects in by_phases.items():
        yield (
            f"Robust accuracy of {join_in_sentence(subjects)} under {threat} is estimated in {phases}. It is "
            f"the share of images that are robust to the first phase, times the share of those that are "
            f"robust to the next one on its part, which was drawn at random; the interval accounts for both."
        )


def _format_overlap(worst: WorstCase) -> str:
    common = len(worst.verdicts)
    kept = sum(verdict.robust for verdict in worst.any_attack_verdicts.values())
    share = f"{kept} of all {len(worst.any_attack_verdicts)} {choose_form(kept, 'is', 'are')} robust so far"
    return (
        f"{isolate_direction(str(worst.subject))} ({format_count(common, 'image')} attacked by all; {share})"
    )


def describe_breaks_by_other_attacks(evidence: Evidence) -> Iterator[str]:
    """Describe images misclassified by candidates of attacks outside the worst case."""
    worst_cases = [worst_case for worst_case in evidence.worst_cases if worst_case.other_breaking_attacks]
    for worst_case in worst_cases:
        names = join_in_sentence(
            [isolate_direction(name) for name in dict.fromkeys(worst_case.other_breaking_attacks.values())]
        )
        what = (
            f"{format_count(len(worst_case.other_breaking_attacks), 'image')} of "
            f"{isolate_direction(str(worst_case.subject))}"
        )
        why = (
            f"{choose_form(len(worst_case.other_breaking_attacks), 'is', 'are')} misclassified on "
            f"candidates of {names} inside the same ball, and under none of the "
            f"attacks themselves"
        )
        text = f"Counted as not robust under {worst_case.threat}: {what} {why}."
        yield text


def describe_doubts(evidence: Evidence) -> Iterator[str]:
    """Describe images that are not shown to be robust although no attack succeeded.

    Doubts that a diagnostic of the same subject reports are left to it.
    """
    doubts = [doubt for doubt in find_doubts(evidence) if not _is_reported(evidence, doubt)]
    for subject, reason, hint in dict.fromkeys((doubt.subject, doubt.reason, doubt.hint) for doubt in doubts):
        alike = [doubt for doubt in doubts if (doubt.subject, doubt.reason) == (subject, reason)]
        where = [
            f"{format_count(count, 'image')} under {doubt.threat}"
            for doubt in alike
            if (count := _count_unbroken(evidence, doubt))
        ]
        if where:  # otherwise other attacks succeeded on these images
            more = f" {hint[0].upper()}{hint[1:]}." if hint else ""
            yield (
                f"Robustness not established for {isolate_direction(str(subject))}: "
                f"{join_in_sentence(where)}: {reason}.{more}"
            )


def _is_reported(evidence: Evidence, doubt: Doubt) -> bool:
    """Return whether a diagnostic of the same subject and threat model reports the same fact."""
    return any(
        result.id == doubt.diagnostic and result.status in {"block", "fail", "warn"}
        for result in select_diagnostics(evidence, doubt.subject)
        if result.threat in {None, doubt.threat.name}
    )


def _count_unbroken(evidence: Evidence, doubt: Doubt) -> int:
    """Count images in doubt without a successful attack."""
    worst = evidence.get_worst_case(doubt.subject, doubt.threat)
    if worst is None or doubt.concerns_clean_answers:
        return len(doubt.images)
    broken = {image for image, verdict in worst.any_attack_verdicts.items() if not verdict.robust}
    return len(doubt.images - broken)


def describe_model_weaknesses(evidence: Evidence) -> Iterator[str]:
    """Describe notes on models that make their numbers doubtful."""
    return _describe_notes(evidence, weakening=True)


def describe_model_notes(evidence: Evidence) -> Iterator[str]:
    """Describe the other notes on models."""
    return _describe_notes(evidence, weakening=False)


def _describe_notes(evidence: Evidence, *, weakening: bool) -> Iterator[str]:
    for about in evidence.models:
        every = (str(note).rstrip(".") for note in about.get("notes") or ())
        notes = [note for note in every if bool(_WEAKENING_NOTE_PATTERN.search(note)) == weakening]
        if notes:
            who = evidence.get_subject(about["id"], about["defense"])
            yield f"Note on {isolate_direction(str(who))}: {'; '.join(notes)}."
