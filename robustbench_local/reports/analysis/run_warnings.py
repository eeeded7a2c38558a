"""Findings that limit the meaning of numbers: missing, void or suspicious results."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from robustbench_local.reports.analysis import (
    attack_warnings,
    diagnostic_findings,
    eight_bit_warnings,
    rejections,
    shard_evidence,
    sticker_warnings,
)
from robustbench_local.reports.analysis.cell_result import CellResult
from robustbench_local.reports.analysis.compute_once import collect_once
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.finding import (
    LEVEL_ORDER,
    Finding,
    FindingLevel,
    format_cell,
    format_cells_with_facts,
)
from robustbench_local.reports.formatting.text import (
    format_cells,
    format_count,
    format_interval,
    format_sample,
    isolate_direction,
)

MAX_FRAGILE_SHARE = 0.01
"""Share of verdicts within floating-point noise above which a warning appears (V3)."""

_UNFINISHED_PHRASES = {
    "error": "failed",
    "timeout": "ran out of time",
    "skipped": "was skipped",
    "partial": "is unfinished",
    "stopped": "stopped early",
}


@collect_once
def list_findings(evidence: Evidence) -> list[Finding]:
    """List all findings, the most serious level first; within a level in the order of the grid."""
    findings = [finding for check in _FINDERS for finding in check(evidence)]
    return sorted(findings, key=lambda finding: LEVEL_ORDER.index(finding.level))


def _find_unfinished_cells(evidence: Evidence) -> Iterator[Finding]:
    for cell in evidence.cells:
        if cell.is_self_transfer:
            continue
        reason = f": {cell.problem.rstrip('.')}" if cell.problem else ""
        if cell.reported_status == "void":
            text = f"{format_cell(cell)} is void{reason}. It counts in no worst case."
            yield Finding(level="void", text=text)
        elif cell.reported_status in _UNFINISHED_PHRASES:
            yield Finding(
                level="note" if cell.reported_status == "stopped" else "incomplete",
                text=f"{format_cell(cell)} {_UNFINISHED_PHRASES[cell.reported_status]}{reason}.",
            )
    waiting = [format_cell(cell) for cell in evidence.cells if cell.reported_status == "not run"]
    if waiting:
        verb = "was" if len(waiting) == 1 else "were"
        text = (
            f"{format_count(len(waiting), 'cell')} of {len(evidence.cells)} {verb} not run: "
            f"{format_cells(waiting)}."
        )
        yield Finding(level="incomplete", text=text)


def _find_changing_answers(evidence: Evidence) -> Iterator[Finding]:
    for subject in evidence.subjects:
        seen: dict[str, bool] = {}
        different = set[str]()
        for cell in evidence.cells:
            if cell.subject == subject and not (cell.is_certificate or cell.is_sticker):
                marks = {image: verdict.clean_correct for image, verdict in cell.verdicts.items()}
                if marks != seen:
                    different |= {image for image, mark in marks.items() if seen.get(image, mark) != mark}
                    seen = marks | seen
        changing = len(different)
        if changing:
            what = (
                f"{isolate_direction(str(subject))} classifies {format_count(changing, 'clean image')} "
                f"differently"
            )
            text = (
                f"{what} from cell to cell. It is not deterministic, and a single attack run overrates "
                f"such models."
            )
            yield Finding(level="warning", text=text)


def _build_finder(
    level: FindingLevel, tell: Callable[[Evidence], Iterator[str]]
) -> Callable[[Evidence], Iterator[Finding]]:
    """Build a check whose sentences are findings of this level."""
    return lambda evidence: (Finding(level=level, text=text) for text in tell(evidence))


def _find_nonfinite_gradients(evidence: Evidence) -> Iterator[Finding]:
    cells = [cell for cell in evidence.attack_cells if cell.tally.nonfinite_gradients]
    if cells:
        where = format_cells_with_facts(
            cells, lambda cell: format_count(cell.tally.nonfinite_gradients, "image")
        )
        text = (
            f"Gradients had NaN or infinite entries: {where}. They were removed where they arise in the "
            f"backward"
        )
        more = "pass. Fix the forward pass of the model to be sure of its robustness."
        yield Finding(level="warning", text=f"{text} {more}")


def _find_missing_gradients(evidence: Evidence) -> Iterator[Finding]:
    cells = [cell for cell in evidence.attack_cells if cell.tally.missing_gradients]
    if cells:
        where = format_cells_with_facts(
            cells, lambda cell: format_count(cell.tally.missing_gradients, "image")
        )
        text = (
            f"At least half of an attack's gradients were zero or not confirmed by finite differences: "
            f"{where}."
        )
        more = "Such an attack is ineffective there: add one on the margin loss, or a black-box attack."
        yield Finding(level="note", text=f"{text} {more}")


def _find_quarantined_files(evidence: Evidence) -> Iterator[Finding]:
    bad = len(evidence.data.get("quarantined") or ())
    if bad:
        verb = "was" if bad == 1 else "were"
        text = (
            f"{format_count(bad, 'file')} of the data could not be read and {verb} excluded (listed below)."
        )
        yield Finding(level="warning", text=text)


def _find_undeclared_groups(evidence: Evidence) -> Iterator[Finding]:
    note = evidence.data.get("undeclared_groups")
    if note:
        yield Finding(level="warning", text=f"Images that may not be independent: {note}.")


def _find_rejected_candidates(evidence: Evidence) -> Iterator[Finding]:
    cells = [cell for cell in evidence.attack_cells if cell.is_done and cell.tally.rejected]
    if cells:
        where = format_cells_with_facts(
            cells, lambda cell: f"{cell.tally.rejected} of {cell.tally.clean_correct}"
        )
        text = f"Candidates that violated the threat model and count as failed attacks: {where}."
        yield Finding(
            level="warning", text=f"{text} The attack has a bug, or the model is not deterministic."
        )


def _find_misdirected_proofs(evidence: Evidence) -> Iterator[Finding]:
    cells = [cell for cell in evidence.certificate_cells if cell.tally.rejected]
    if cells:
        where = format_cells_with_facts(cells, lambda cell: format_count(cell.tally.rejected, "image"))
        text = f"Certificates for a class that the classifier does not predict, which do not count: {where}."
        yield Finding(level="void", text=f"{text} The certificate has a bug: do not use its verdicts.")


def _find_nonfinite_logits(evidence: Evidence) -> Iterator[Finding]:
    cells = [cell for cell in evidence.cells if cell.tally.non_finite]
    if cells:
        where = format_cells_with_facts(cells, lambda cell: format_count(cell.tally.non_finite, "image"))
        text = f"The model gave NaN or infinite logits, which count as not robust: {where}."
        yield Finding(level="warning", text=text)


def _find_fragile_verdicts(evidence: Evidence) -> Iterator[Finding]:
    cells = [
        cell
        for cell in evidence.cells
        if cell.is_done and cell.tally.fragile > MAX_FRAGILE_SHARE * cell.tally.n
    ]
    ball = [cell for cell in cells if cell.record.measure != "distance"]
    nearest = [cell for cell in cells if cell.record.measure == "distance"]
    if ball:
        where = format_cells_with_facts(ball, _format_fragile_count)
        text = f"Verdicts within floating-point noise, which may differ on another machine: {where}."
        yield Finding(level="warning", text=text)
    if nearest:
        where = format_cells_with_facts(nearest, _format_fragile_count)
        text = (
            f"Candidates within floating-point noise of the decision boundary: {where}. A minimum-norm "
            "attack ends there "
            "by design; on another machine its distances differ by as little."
        )
        yield Finding(level="note", text=text)


def _format_fragile_count(cell: CellResult) -> str:
    return f"{cell.tally.fragile} of {cell.tally.n}"


def _find_ineffective_attacks(evidence: Evidence) -> Iterator[Finding]:
    cells = [
        cell
        for cell in evidence.cells
        if cell.attack_success.is_known
        and cell.tally.broken == 0
        and cell.record.eps > 0
        and cell.is_in_worst_case
    ]
    if cells:
        where = format_cells_with_facts(
            cells,
            lambda cell: f"{format_interval(cell.attack_success)}, {format_sample(cell.attack_success)}",
        )
        text = (
            f"Attacks without any success: {where}. The perturbation budget is small, or the attack does "
            f"not work on this model."
        )
        yield Finding(level="note", text=text)


def _find_proven_images(evidence: Evidence) -> Iterator[Finding]:
    cells = [cell for cell in evidence.attack_cells if cell.tally.certified]
    if cells:
        where = format_cells_with_facts(cells, lambda cell: f"{cell.tally.certified} of {cell.tally.n}")
        text = (
            f"Certified and therefore not attacked: {where}. On these images the attacks do not test the "
            f"certificate."
        )
        yield Finding(level="note", text=text)


def _find_damaged_images(evidence: Evidence) -> Iterator[Finding]:
    for cell in evidence.cells:
        if cell.record.key in evidence.damaged_images:
            why = evidence.damaged_images[cell.record.key]
            text = (
                f"The images of {format_cell(cell)} are not shown: {why.rstrip('.')}. Its numbers do not "
                f"depend "
            )
            more = "on them. Restore them from a copy, or run with --recompute-damaged."
            yield Finding(level="warning", text=f"{text}{more}")


def _find_unchecked_rows(evidence: Evidence) -> Iterator[Finding]:
    if evidence.has_unchecked_rows:
        text = (
            "Part of this run was written before rows had digests. It is intact since it was first "
            "opened with "
        )
        yield Finding(level="note", text=f"{text}digests; damage before that would have gone unnoticed.")


_FINDERS: tuple[Callable[[Evidence], Iterator[Finding]], ...] = (
    diagnostic_findings.find_diagnostic_findings,
    diagnostic_findings.find_unasked_findings,
    shard_evidence.find_shard,
    _find_unfinished_cells,
    _find_changing_answers,
    rejections.find_undeclared_rejections,
    _build_finder("warning", attack_warnings.describe_doubts),
    _find_nonfinite_gradients,
    _find_missing_gradients,
    _build_finder("warning", attack_warnings.describe_model_weaknesses),
    sticker_warnings.find_sticker_problems,
    sticker_warnings.find_few_signs,
    _find_quarantined_files,
    _find_undeclared_groups,
    _find_rejected_candidates,
    _find_misdirected_proofs,
    _find_nonfinite_logits,
    eight_bit_warnings.find_eight_bit_loss,
    _build_finder("note", eight_bit_warnings.describe_undecided_in_eight_bit),
    _find_fragile_verdicts,
    _find_ineffective_attacks,
    _find_proven_images,
    _build_finder("note", attack_warnings.describe_partial_overlap),
    _build_finder("note", attack_warnings.describe_breaks_by_other_attacks),
    _build_finder("note", attack_warnings.describe_model_notes),
    _find_damaged_images,
    _find_unchecked_rows,
)
