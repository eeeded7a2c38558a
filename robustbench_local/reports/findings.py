"""What a reader must know before believing a number: what is missing, what is void, what is odd."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from robustbench_local.reports.evidence import CellResult, Evidence, Subject
from robustbench_local.reports.words import counted, full, interval, percent
from robustbench_local.statistics import Estimate

Level = Literal["void", "incomplete", "warning", "note"]

FEW_IMAGES = 100
"""Below this many images the 95 % interval is wider than 20 points (diagnostic D23)."""
EIGHT_BIT_GAP = 0.01
"""Attack success in floating point and in 8 bits may differ by so much before we warn (V4)."""
FRAGILE_SHARE = 0.01
"""Share of verdicts within floating-point noise before we warn (V3)."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One sentence, and how much it matters."""

    level: Level
    """``void``: the number means nothing. ``incomplete``: something was not measured. ``warning``: read
    the number with this in mind. ``note``: good to know."""
    text: str
    """The sentence."""


def find(evidence: Evidence) -> list[Finding]:
    """All findings, the gravest first; within a level in the order of the grid."""
    found = [
        *_guessing(evidence),
        *_unfinished(evidence),
        *_changing_answers(evidence),
        *_few_images(evidence),
        *_quarantine(evidence),
    ]
    for cell in evidence.cells:
        found += [finding for check in _CELL_CHECKS for finding in check(cell)]
    order: tuple[Level, ...] = ("void", "incomplete", "warning", "note")
    return sorted(found, key=lambda finding: order.index(finding.level))


def is_guessing(evidence: Evidence, subject: Subject) -> bool:
    """Whether a subject is not measurably better than guessing on untouched images (diagnostic D22)."""
    clean, classes = evidence.clean_accuracy(subject), len(evidence.class_names(subject.model))
    return clean.known and classes > 1 and clean.low <= 1 / classes


def describe(cell: CellResult) -> str:
    """A cell in words: the attack on the subject."""
    return f"{cell.record.attack} on {cell.subject}"


def _guessing(evidence: Evidence) -> Iterator[Finding]:
    for subject in evidence.subjects:
        clean, classes = evidence.clean_accuracy(subject), len(evidence.class_names(subject.model))
        if not clean.known or classes < 2:
            continue
        if is_guessing(evidence, subject):
            chance = f"guessing among {classes} classes gives {percent(1 / classes)}"
            what = f"{subject} is right on {full(clean)} of the untouched images; {chance}."
            yield Finding(level="void", text=f"{what} Its robust accuracy says nothing about attacks.")
        elif clean.value < 2 / classes and classes > 2:
            what = (
                f"{subject} is right on only {full(clean)} of the untouched images, less than twice chance."
            )
            yield Finding(level="warning", text=f"{what} Check its preprocessing and its class order.")


def _unfinished(evidence: Evidence) -> Iterator[Finding]:
    for cell in evidence.cells:
        if cell.done:
            continue
        reason = f": {cell.problem.rstrip('.')}" if cell.problem else ""
        if cell.standing == "void":
            text = f"{describe(cell)} is void{reason}. It does not count in any worst case."
            yield Finding(level="void", text=text)
            continue
        words = {"error": "failed", "timeout": "ran out of time", "skipped": "was skipped"}
        words |= {"not run": "was not run", "partial": "is unfinished"}
        yield Finding(level="incomplete", text=f"{describe(cell)} {words[cell.standing]}{reason}.")


def _changing_answers(evidence: Evidence) -> Iterator[Finding]:
    for subject in evidence.subjects:
        seen: dict[str, set[bool]] = {}
        for cell in evidence.cells:
            if cell.subject == subject:
                for image, verdict in cell.verdicts.items():
                    seen.setdefault(image, set()).add(verdict.clean_correct)
        changing = sum(len(marks) > 1 for marks in seen.values())
        if changing:
            what = f"{subject} reads {counted(changing, 'untouched image')} differently from cell to cell."
            text = f"{what} Its answers are not deterministic, and a single attack run overrates such models."
            yield Finding(level="warning", text=text)


def _few_images(evidence: Evidence) -> Iterator[Finding]:
    sizes = [cell.tally.n for cell in evidence.cells if cell.done and not cell.targeted]
    if sizes and 0 < min(sizes) < FEW_IMAGES:
        text = f"Only {counted(min(sizes), 'image')}: the 95 % intervals are wide. Use 1,000 or more to rank."
        yield Finding(level="warning", text=text)


def _quarantine(evidence: Evidence) -> Iterator[Finding]:
    bad = len(evidence.data.get("quarantined") or ())
    if bad:
        verb = "was" if bad == 1 else "were"
        text = f"{counted(bad, 'file')} of the data could not be read and {verb} left out (listed below)."
        yield Finding(level="warning", text=text)


def _rejected(cell: CellResult) -> Iterator[Finding]:
    if cell.done and cell.tally.rejected:
        what = f"{describe(cell)}: {counted(cell.tally.rejected, 'candidate')} of {cell.tally.clean_correct}"
        text = f"{what} left the threat model and counted as failed attacks. The attack has a bug."
        yield Finding(level="warning", text=text)


def _not_finite(cell: CellResult) -> Iterator[Finding]:
    if cell.tally.non_finite:
        what = f"{describe(cell)}: the model gave NaN or infinite logits"
        text = f"{what} on {counted(cell.tally.non_finite, 'image')}; these count as not robust."
        yield Finding(level="warning", text=text)


def _failing_images(cell: CellResult) -> Iterator[Finding]:
    if cell.done and cell.tally.errors:
        text = f"{describe(cell)}: {counted(cell.tally.errors, 'image')} could not be evaluated at all."
        yield Finding(level="incomplete", text=text)


def _rounding(cell: CellResult) -> Iterator[Finding]:
    exact, rounded = cell.attack_success, cell.attack_success_8bit
    if exact.known and exact.value - rounded.value > EIGHT_BIT_GAP:
        what = f"{describe(cell)}: attack success is {percent(exact.value)} in floating point"
        text = f"{what} but {percent(rounded.value)} once images are rounded to 8 bits, as files hold them."
        yield Finding(level="warning", text=text)


def _fragile(cell: CellResult) -> Iterator[Finding]:
    if cell.done and cell.tally.fragile > FRAGILE_SHARE * cell.tally.n:
        what = f"{describe(cell)}: {counted(cell.tally.fragile, 'verdict')} of {cell.tally.n} lie within"
        yield Finding(level="warning", text=f"{what} floating-point noise and may turn on another machine.")


def _toothless(cell: CellResult) -> Iterator[Finding]:
    success: Estimate = cell.attack_success
    if success.known and success.value == 0 and cell.record.eps > 0 and not cell.targeted:
        what = (
            f"{describe(cell)} broke nothing ({interval(success)}, {counted(success.n, 'image')} attacked)."
        )
        text = f"{what} Either the ball is small, or the attack does not work on this model."
        yield Finding(level="note", text=text)


_CELL_CHECKS: tuple[Callable[[CellResult], Iterator[Finding]], ...] = (
    _failing_images,
    _rejected,
    _not_finite,
    _rounding,
    _fragile,
    _toothless,
)
