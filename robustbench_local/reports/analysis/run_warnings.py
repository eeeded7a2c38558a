"""What a reader must know before believing a number: what is missing, what is void, what is odd."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from robustbench_local.reports.analysis import attack_warnings as remarks
from robustbench_local.reports.analysis import eight_bit_warnings as eight_bit_remarks
from robustbench_local.reports.analysis.certified_vs_empirical import find_violations
from robustbench_local.reports.analysis.evidence import CellResult, Evidence, Subject
from robustbench_local.reports.analysis.sticker_results import StickerResult, make_stickers
from robustbench_local.reports.formatting.text import counted, full, interval, isolated, list_cells, percent
from robustbench_local.store import LEAST_CLEAN

Level = Literal["void", "incomplete", "warning", "note"]

FEW_IMAGES = 100
"""Below this many images the 95 % interval is wider than 20 points (diagnostic D23)."""
FEW_SIGNS = 20
"""Below this many signs that count, one more or less moves a share over views by points."""
FRAGILE_SHARE = 0.01
"""Share of verdicts within floating-point noise before we warn (V3)."""

_UNFINISHED = {
    "error": "failed",
    "timeout": "ran out of time",
    "skipped": "was skipped",
    "partial": "is unfinished",
}


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
    found = [finding for check in _CHECKS for finding in check(evidence)]
    order: tuple[Level, ...] = ("void", "incomplete", "warning", "note")
    return sorted(found, key=lambda finding: order.index(finding.level))


def is_guessing(evidence: Evidence, subject: Subject) -> bool:
    """Whether a subject is not measurably better than guessing on untouched images (diagnostic D22)."""
    clean, classes = evidence.clean_accuracy(subject), len(evidence.class_names(subject.model))
    return clean.known and classes > 1 and clean.low <= 1 / classes


def describe(cell: CellResult) -> str:
    """A cell in words: the attack on the subject."""
    return f"{isolated(cell.record.attack)} on {isolated(str(cell.subject))}"


def _violated(evidence: Evidence) -> Iterator[Finding]:
    """Certified above empirical (diagnostic D25)."""
    for violation in find_violations(evidence):
        if violation.blocks:
            why = "Certificate violated: one of the two is a bug, or the model is not deterministic. "
            yield Finding(
                level="void", text=f"{why}{violation.sentence} No number of this run is to be used."
            )
        else:
            alpha = violation.certificate.record.alpha
            allowed = f"It claims too much for {percent(alpha)} of the images at most, on average."
            yield Finding(level="warning", text=f"{violation.sentence} {allowed}")


def _guessing(evidence: Evidence) -> Iterator[Finding]:
    for subject in evidence.subjects:
        clean, classes = evidence.clean_accuracy(subject), len(evidence.class_names(subject.model))
        if not clean.known or classes < 2:
            continue
        if is_guessing(evidence, subject):
            chance = f"guessing among {classes} classes gives {percent(1 / classes)}"
            what = f"{isolated(str(subject))} is right on {full(clean)} of the untouched images; {chance}."
            yield Finding(level="void", text=f"{what} Its robust accuracy says nothing about attacks.")
        elif clean.value < 2 / classes and classes > 2:
            what = (
                f"{subject} is right on only {full(clean)} of the untouched images, less than twice chance."
            )
            yield Finding(level="warning", text=f"{what} Check its preprocessing and its class order.")


def _unfinished(evidence: Evidence) -> Iterator[Finding]:
    for cell in evidence.cells:
        if cell.to_itself:
            continue
        reason = f": {cell.problem.rstrip('.')}" if cell.problem else ""
        if cell.standing == "void":
            text = f"{describe(cell)} is void{reason}. It does not count in any worst case."
            yield Finding(level="void", text=text)
        elif cell.standing in _UNFINISHED:
            yield Finding(level="incomplete", text=f"{describe(cell)} {_UNFINISHED[cell.standing]}{reason}.")
    waiting = [describe(cell) for cell in evidence.cells if cell.standing == "not run"]
    if waiting:
        verb = "was" if len(waiting) == 1 else "were"
        text = (
            f"{counted(len(waiting), 'cell')} of {len(evidence.cells)} {verb} not run: {list_cells(waiting)}."
        )
        yield Finding(level="incomplete", text=text)


def _changing_answers(evidence: Evidence) -> Iterator[Finding]:
    for subject in evidence.subjects:
        seen: dict[str, set[bool]] = {}
        for cell in evidence.cells:
            if cell.subject == subject and not (cell.certificate or cell.viewed):
                for image, verdict in cell.verdicts.items():
                    seen.setdefault(image, set()).add(verdict.clean_correct)
        changing = sum(len(marks) > 1 for marks in seen.values())
        if changing:
            what = f"{counted(changing, 'untouched image')} differently from cell to cell."
            what = f"{isolated(str(subject))} reads {what}"
            text = f"{what} Its answers are not deterministic, and a single attack run overrates such models."
            yield Finding(level="warning", text=text)


def _tell(level: Level, tell: Callable[[Evidence], Iterator[str]]) -> Callable[[Evidence], Iterator[Finding]]:
    """A check whose every sentence is a finding of this level."""
    return lambda evidence: (Finding(level=level, text=text) for text in tell(evidence))


def _nonfinite_gradients(evidence: Evidence) -> Iterator[Finding]:
    cells = [cell for cell in evidence.attacks if cell.tally.nonfinite_gradients]
    if cells:
        where = _each(cells, lambda cell: counted(cell.tally.nonfinite_gradients, "image"))
        text = f"Gradients had entries that were NaN or infinite: {where}. What is not finite was taken out"
        more = "where it arises in the backward pass; mend the model's forward to be sure of its robustness."
        yield Finding(level="warning", text=f"{text} {more}")


def _missing_gradients(evidence: Evidence) -> Iterator[Finding]:
    cells = [cell for cell in evidence.attacks if cell.tally.gradients_missing]
    if cells:
        where = _each(cells, lambda cell: counted(cell.tally.gradients_missing, "image"))
        text = f"Gradients that were zero, or unconfirmed, at half or more of an attack's looks: {where}."
        more = "There the attack had nothing to follow: add one on the margin loss, or a black box."
        yield Finding(level="note", text=f"{text} {more}")


def _unverified(evidence: Evidence) -> Iterator[Finding]:
    for about in evidence.models:
        if about.get("wrapper") and not about["wrapper"]["surrogate"]:
            who = isolated(str(Subject(model=about["id"], defense=about["defense"])))
            text = f"What {who} withstands is unverified: no gradient goes through its defense, not even by "
            yield Finding(level="warning", text=f"{text}a surrogate, and gradient attacks were skipped.")


def _stickers(evidence: Evidence) -> Iterator[Finding]:
    for result in make_stickers(evidence):
        where = describe(result.cell)
        if not result.counted:
            needed = f"{100 * LEAST_CLEAN:.0f} % of its clean views"
            text = f"{where} says nothing: no sign is read rightly in {needed}."
            if result.left_out.known:
                text += f" In the views in which they are, {full(result.left_out)} were turned."
            yield Finding(level="void", text=text)
            continue
        yield from (Finding(level="warning", text=f"{where}: {text}") for text in _left_out(result))
        for control in result.controls:
            named = f"{where}, control “{control.name}”"
            if control.kept is False:
                share = f"{full(control.measured)} of the views, {control.expected} expected"
                yield Finding(level="warning", text=f"{named}: {share}; {control.remarks}.")
            elif control.barred:
                yield Finding(level="warning", text=f"{named}: {control.reason}.")


def _left_out(result: StickerResult) -> Iterator[str]:
    """Which signs the headline leaves out, and what the sticker does to them."""
    everyone = f"of {counted(len(result.rows), 'sign')}"
    void = sum(sign.standing == "void" for sign in result.void)
    if void:
        them = "it" if void == 1 else "them"
        why = f"{void} {everyone} {'is' if void == 1 else 'are'} left out because the model misreads {them}"
        most = f"in more than {100 - 100 * LEAST_CLEAN:.0f} % of the clean views"
        best = f"The headline is for the {result.counted} that it reads best"
        those = "the one" if void == 1 else "those"
        shares = f"on {those} left out {full(result.left_out)} of the views were turned"
        if not result.left_out.known:
            shares = f"of {those} left out no view is read rightly"
        yield f"{why} {most}. {best}; {shares}, on all together {full(result.together)}."
    wrong = sum(sign.standing == "clean-wrong" for sign in result.void)
    if wrong:
        verb, them = ("was", "it") if wrong == 1 else ("were", "them")
        yield f"{wrong} {everyone} {verb} not attacked because the model misreads {them} untouched."


def _few_images(evidence: Evidence) -> Iterator[Finding]:
    cells = [cell for cell in evidence.cells if cell.done and not cell.viewed and cell.tally.n]
    fewest = min(cells, key=lambda cell: cell.tally.n, default=None)
    if fewest is not None and fewest.tally.n < FEW_IMAGES:
        alike = all(cell.tally.n == fewest.tally.n for cell in cells)
        where = "" if alike else f" in {describe(fewest)}"
        text = f"Only {counted(fewest.tally.n, 'image')}{where}: the 95 % intervals are wide."
        yield Finding(level="warning", text=f"{text} Use 1,000 or more to rank.")


def _few_signs(evidence: Evidence) -> Iterator[Finding]:
    cells = [cell for cell in evidence.cells if 0 < len(_turned(cell)) < FEW_SIGNS]
    if cells:
        where = _each(cells, lambda cell: f"{counted(len(_turned(cell)), 'sign')}: {_spread(_turned(cell))}")
        text = f"Few signs, of which each has a sticker of its own. Views turned, sign by sign: {where}."
        more = "Intervals over views say nothing about other signs: do not rank models on this."
        yield Finding(level="warning", text=f"{text} {more}")


def _turned(cell: CellResult) -> list[float]:
    """Share of the views that are turned, of each sign that counts and was seen rightly at all."""
    signs = [sign for sign in cell.signs if sign.counted] if cell.done and cell.viewed else []
    hits = [sign.looks["view"].hits("sticker", cell.record.targets) for sign in signs]
    return [float(marks.mean()) for marks in hits if len(marks)]


def _spread(shares: Sequence[float]) -> str:
    if len(shares) == 1:
        return percent(shares[0])
    return f"{percent(min(shares))} to {percent(max(shares))}"


def _quarantine(evidence: Evidence) -> Iterator[Finding]:
    bad = len(evidence.data.get("quarantined") or ())
    if bad:
        verb = "was" if bad == 1 else "were"
        text = f"{counted(bad, 'file')} of the data could not be read and {verb} left out (listed below)."
        yield Finding(level="warning", text=text)


def _rejected(evidence: Evidence) -> Iterator[Finding]:
    cells = [cell for cell in evidence.attacks if cell.done and cell.tally.rejected]
    if cells:
        where = _each(cells, lambda cell: f"{cell.tally.rejected} of {cell.tally.clean_correct}")
        text = f"Candidates that broke a rule of the harness and count as failed attacks: {where}."
        yield Finding(
            level="warning", text=f"{text} The attack has a bug, or the model is not deterministic."
        )


def _misdirected(evidence: Evidence) -> Iterator[Finding]:
    cells = [cell for cell in evidence.certificates if cell.tally.rejected]
    if cells:
        where = _each(cells, lambda cell: counted(cell.tally.rejected, "image"))
        text = f"Proofs about a class that the classifier does not read, which count as none: {where}."
        yield Finding(level="void", text=f"{text} The certificate has a bug: believe none of its verdicts.")


def _not_finite(evidence: Evidence) -> Iterator[Finding]:
    cells = [cell for cell in evidence.cells if cell.tally.non_finite]
    if cells:
        where = _each(cells, lambda cell: counted(cell.tally.non_finite, "image"))
        text = f"The model gave NaN or infinite logits, which count as not robust: {where}."
        yield Finding(level="warning", text=text)


def _fragile(evidence: Evidence) -> Iterator[Finding]:
    cells = [
        cell for cell in evidence.cells if cell.done and cell.tally.fragile > FRAGILE_SHARE * cell.tally.n
    ]
    ball = [cell for cell in cells if cell.record.measure != "distance"]
    nearest = [cell for cell in cells if cell.record.measure == "distance"]
    if ball:
        where = _each(ball, _fragile_count)
        text = f"Verdicts within floating-point noise, which may turn on another machine: {where}."
        yield Finding(level="warning", text=text)
    if nearest:
        where = _each(nearest, _fragile_count)
        text = (
            f"Candidates within floating-point noise of the border: {where}. An attack that looks for the "
            "nearest one ends there by design: on another machine its distances would differ as little."
        )
        yield Finding(level="note", text=text)


def _fragile_count(cell: CellResult) -> str:
    return f"{cell.tally.fragile} of {cell.tally.n}"


def _toothless(evidence: Evidence) -> Iterator[Finding]:
    cells = [
        cell
        for cell in evidence.cells
        if cell.attack_success.known and cell.tally.broken == 0 and cell.record.eps > 0 and cell.in_worst_case
    ]
    if cells:
        where = _each(cells, lambda cell: f"{interval(cell.attack_success)}, n = {cell.attack_success.n}")
        text = f"Attacks that broke nothing: {where}. The ball is small, or they do not work on this model."
        yield Finding(level="note", text=text)


def _spared(evidence: Evidence) -> Iterator[Finding]:
    cells = [cell for cell in evidence.attacks if cell.tally.certified]
    if cells:
        where = _each(cells, lambda cell: f"{cell.tally.certified} of {cell.tally.n}")
        text = f"Proven, not attacked: {where}. There the attacks do not put the certificate to the test."
        yield Finding(level="note", text=text)


def _damaged_images(evidence: Evidence) -> Iterator[Finding]:
    for cell in evidence.cells:
        if cell.record.key in evidence.damaged_images:
            why = evidence.damaged_images[cell.record.key]
            text = (
                f"The images of {describe(cell)} are not shown: {why.rstrip('.')}. Its numbers do not rest "
            )
            more = "on them. Restore them from a copy, or run with --recompute-damaged."
            yield Finding(level="warning", text=f"{text}{more}")


def _unchecked(evidence: Evidence) -> Iterator[Finding]:
    if evidence.unchecked:
        text = "Part of this run was written before rows were checked: they have been whole since they were "
        yield Finding(
            level="note", text=f"{text}first opened with digests; before, damage would have gone unnoticed."
        )


def _each(cells: Sequence[CellResult], fact: Callable[[CellResult], str]) -> str:
    """The cells with a fact about each, as in a sentence; the first few if there are many."""
    return list_cells([f"{describe(cell)} ({fact(cell)})" for cell in cells])


_CHECKS: tuple[Callable[[Evidence], Iterator[Finding]], ...] = (
    _violated,
    _guessing,
    _unfinished,
    _changing_answers,
    _tell("warning", remarks.tell_masking),
    _tell("warning", remarks.tell_disagreements),
    _tell("warning", remarks.tell_doubts),
    _nonfinite_gradients,
    _missing_gradients,
    _tell("warning", remarks.tell_model_weaknesses),
    _unverified,
    _stickers,
    _few_images,
    _few_signs,
    _quarantine,
    _rejected,
    _misdirected,
    _not_finite,
    _tell("warning", eight_bit_remarks.tell_eight_bit_loss),
    _tell("note", eight_bit_remarks.tell_undecided_in_eight_bit),
    _fragile,
    _toothless,
    _spared,
    _tell("note", remarks.tell_partial_overlap),
    _tell("note", remarks.tell_breaks_elsewhere),
    _tell("note", remarks.tell_model_notes),
    _damaged_images,
    _unchecked,
)
