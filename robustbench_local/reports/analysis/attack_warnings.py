"""What a reader has to be told about attacks and models before believing their numbers, a sentence each."""

from __future__ import annotations

import re
from collections.abc import Iterator

from robustbench_local.reports.analysis.disagreements import find_disagreements
from robustbench_local.reports.analysis.doubt_finders import Doubt, find_doubts
from robustbench_local.reports.analysis.evidence import Evidence, Subject
from robustbench_local.reports.analysis.gradient_masking import find_surprises
from robustbench_local.reports.analysis.worst_case import WorstCase
from robustbench_local.reports.formatting.text import counted, isolated, listing, percent

_WEAKENING = re.compile(
    r"random numbers in its forward|probabilities|changed while|changes |clamp|NaN|finite|batch"
)
"""What a note speaks of that makes numbers about its model doubtful; other notes only say how it was made."""


def tell_masking(evidence: Evidence) -> Iterator[str]:
    """Models whose white-box attacks missed what attackers found who saw less."""
    for surprise in find_surprises(evidence):
        kind = "Transfer" if surprise.transferred else "Black box"
        where = f"{isolated(str(surprise.subject))} under {surprise.threat}"
        share = f"{surprise.share.count} of {counted(surprise.share.n, 'image')}"
        share = f"{share} ({percent(surprise.share.value)})"
        what = f"{kind} beats white box on {where}: {share} fell to {listing(surprise.attacks)} and to no"
        why = "Its gradients mislead the attacks that follow them, or those are too weak"
        text = f"{what} white-box attack. {why}; stronger attacks will lower its robust accuracy."
        yield text


def tell_disagreements(evidence: Evidence) -> Iterator[str]:
    """Other contradictions between the attacks of the run."""
    for found in find_disagreements(evidence):
        if found.told:
            where = f"Attacks on {isolated(str(found.subject))} under {found.threat} disagree"
            yield f"{where}: {found.reason}."


def tell_partial_overlap(evidence: Evidence) -> Iterator[str]:
    """Worst cases of attacks that met different images: what is stated over which."""
    for threat in evidence.threats:
        worst = [one for one in evidence.worst_cases if one.threat == threat and one.left_out]
        if worst:
            where = listing([_overlap(one) for one in worst])
            text = f"Attacks under {threat} met different images, and what one broke is broken: {where}."
            more = "Interval ends use all of them; give the attacks the same limit to compare them."
            yield f"{text} {more}"


def _overlap(worst: WorstCase) -> str:
    common = len(worst.verdicts)
    kept = sum(verdict.robust for verdict in worst.every.values())
    share = f"{kept} of the {len(worst.every)} that any met are unbroken so far"
    return f"{isolated(str(worst.subject))} ({counted(common, 'image')} met by all; {share})"


def tell_breaks_elsewhere(evidence: Evidence) -> Iterator[str]:
    """Images that count as broken because of a candidate that was made for something else."""
    found = [one for one in evidence.worst_cases if one.elsewhere]
    for one in found:
        names = listing([isolated(name) for name in dict.fromkeys(one.elsewhere.values())])
        what = f"{counted(len(one.elsewhere), 'image')} of {isolated(str(one.subject))}"
        why = f"fell to candidates of {names} inside the same ball and to none of the attacks themselves"
        text = f"Counted as broken under {one.threat}: {what} {why}."
        yield text


def tell_doubts(evidence: Evidence) -> Iterator[str]:
    """Images that nobody broke and whose robustness is not established all the same."""
    doubts = find_doubts(evidence)
    for subject, reason, remedy in dict.fromkeys((one.subject, one.reason, one.remedy) for one in doubts):
        alike = [one for one in doubts if (one.subject, one.reason) == (subject, reason)]
        where = [
            f"{counted(count, 'image')} under {one.threat}"
            for one in alike
            if (count := _count_open(evidence, one))
        ]
        if where:  # else others broke them: nothing is left to doubt but the attack that did not
            more = f" {remedy[0].upper()}{remedy[1:]}." if remedy else ""
            yield f"Not established for {isolated(str(subject))}: {listing(where)}: {reason}.{more}"


def _count_open(evidence: Evidence, doubt: Doubt) -> int:
    """Images in doubt that no attack broke."""
    worst = evidence.worst(doubt.subject, doubt.threat)
    if worst is None or doubt.clean:
        return len(doubt.images)
    broken = {image for image, verdict in worst.every.items() if not verdict.robust}
    return len(doubt.images - broken)


def tell_model_weaknesses(evidence: Evidence) -> Iterator[str]:
    """Notes on models that make their numbers doubtful."""
    return _tell_notes(evidence, weakening=True)


def tell_model_notes(evidence: Evidence) -> Iterator[str]:
    """The other notes on models."""
    return _tell_notes(evidence, weakening=False)


def _tell_notes(evidence: Evidence, *, weakening: bool) -> Iterator[str]:
    for about in evidence.models:
        every = (str(note).rstrip(".") for note in about.get("notes") or ())
        notes = [note for note in every if bool(_WEAKENING.search(note)) == weakening]
        if notes:
            who = Subject(model=about["id"], defense=about.get("defense") or "none")
            yield f"Noted about {isolated(str(who))}: {'; '.join(notes)}."
