"""D16, D21 to D25: are the attacks, the data and the certificates of a run fit to carry its numbers?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from robustbench_local.reports.analysis.cell_result import CellResult
from robustbench_local.reports.analysis.certified_vs_empirical import find_violations
from robustbench_local.reports.analysis.diagnostic_text import (
    build_diagnostic,
    format_part,
)
from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.formatting.text import (
    format_count,
    format_estimate,
    format_percent,
    isolate_direction,
    join_in_sentence,
)
from robustbench_local.store.diagnostic_records import DiagnosticResult
from robustbench_local.store.outcome_limits import get_least_accuracy, is_guessing_accuracy

MIN_IMAGES = 100
"""Number of images below which the 95% interval is wider than 20 points (D23)."""
MAX_DECLARED_GAP = 0.005
"""Difference from a declared clean accuracy up to which it counts as the same (D22)."""
_OUTSIDE_METHODS = ("torchattacks:", "reference:", "foolbox:", "art:", "python:")
"""Prefixes of attacks that other libraries run."""


def check_silent_success(evidence: Evidence, subject: EvaluatedModel) -> Iterator[DiagnosticResult]:
    """Yield D16: adversarial images on the way of an attack that it does not return."""
    cells = [cell for cell in evidence.attack_cells if cell.subject == subject and cell.is_done]
    outside = sorted({cell.label for cell in cells if _is_outside(cell)})
    source = "Pintor et al. 2022, arXiv:2106.09947 (silent success)"
    name = "no success is thrown away"
    if outside:
        what = join_in_sentence([isolate_direction(label) for label in outside])
        sentence = (
            f"Not checked for attacks of other libraries ({what}), whose points on the way are not seen."
        )
        yield build_diagnostic("D16", name, subject, None, "not run", sentence, source=source)
    elif cells:
        sentence = "Every attack of this package returns the first success that it meets, by construction."
        yield build_diagnostic("D16", name, subject, None, "ok", sentence, source=source)


def _is_outside(cell: CellResult) -> bool:
    return str(cell.record.parameters.get("method", "")).startswith(_OUTSIDE_METHODS)


def check_averaging(
    evidence: Evidence, subject: EvaluatedModel, randomness: DiagnosticResult | None
) -> Iterator[DiagnosticResult]:
    """Yield D21: do attacks on a random model average over its draws?

    Args:
        evidence: The run.
        subject: The model.
        randomness: Its stored D4; None in older runs.
    """
    name, source = "attacks average over random draws", "Athalye et al. 2018, arXiv:1707.07397 (EOT)"
    if randomness is None or randomness.status == "not run":
        sentence = "Not checked: whether the model is random is not known (D4)."
        yield build_diagnostic("D21", name, subject, None, "not run", sentence, source=source)
    elif randomness.status == "info":
        sentence = "The declared random defense answers attacks with the mean over its draws."
        yield build_diagnostic("D21", name, subject, None, "ok", sentence, source=source)
    elif randomness.status == "ok":
        sentence = "The model is not random, so there is nothing to average over."
        yield build_diagnostic("D21", name, subject, None, "ok", sentence, source=source)
    else:
        cells = [cell for cell in evidence.attack_cells if cell.subject == subject and cell.is_done]
        averaged = [cell for cell in cells if _averages_draws(cell)]
        if averaged:
            labels = join_in_sentence([isolate_direction(cell.label) for cell in averaged])
            sentence = (
                f"Only {labels} average over the model's random draws; other attacks follow single ones."
            )
        else:
            sentence = (
                "No attack averages over the model's random draws: each follows a single one, and "
                "may fail by bad luck."
            )
        yield build_diagnostic(
            "D21",
            name,
            subject,
            None,
            "warn" if averaged else "fail",
            sentence,
            source=source,
            action="" if averaged else "Run adaptive-linf-8, or declare the random defense.",
        )


def _averages_draws(cell: CellResult) -> bool:
    parameters = cell.record.parameters
    names = ("eot_samples", "samples", "draws")
    samples = next((parameters[name] for name in names if parameters.get(name)), 1)
    steps = [] if cell.adaptation is None else cell.adaptation.description.get("steps", [])
    if any(step.get("draws", 1) > 1 for step in steps):
        return True
    return parameters.get("version") == "rand" or (isinstance(samples, int) and samples > 1)


def check_clean_accuracy(evidence: Evidence, subject: EvaluatedModel) -> Iterator[DiagnosticResult]:
    """Yield D22: is the model better than guessing, and as accurate as declared?"""
    clean = evidence.compute_clean_accuracy(subject)
    classes = len(evidence.get_class_names(subject.model))
    name, source = "clean accuracy", "RobustBench checks stated accuracies; Carlini et al. 2019"
    if not clean.is_known:
        sentence = "Not checked: no attack has finished."
        yield build_diagnostic("D22", name, subject, None, "not run", sentence, source=source)
        return
    declared = _find_declared_accuracy(evidence, subject)
    status, limit, action = "ok", 0.0, ""
    sentence = f"Clean accuracy, without any attack, is {format_estimate(clean)}."
    if classes > 1:
        limit = 1 / classes
        chance = f"guessing among {classes} classes gives {format_percent(limit)}"
        if is_guessing(evidence, subject):
            status = "block"
            sentence = (
                f"Clean accuracy is {format_estimate(clean)}, but {chance}, so that robust accuracy is "
                "meaningless."
            )
            action = "Check weights, preprocessing and the order of classes."
        elif clean.value < get_least_accuracy(classes):
            status = "warn"
            sentence = f"Clean accuracy is only {format_estimate(clean)}, where {chance}."
            action = "Check its preprocessing and class order."
        elif clean.low <= limit:
            status = "warn"
            sentence = f"Clean accuracy is {format_estimate(clean)}: too few images to tell it from chance."
            action = f"Evaluate more images: {chance}."
    gap = None if declared is None else abs(clean.value - declared)
    if declared is not None and gap is not None and status != "block":
        outside = gap > MAX_DECLARED_GAP and not clean.low <= declared <= clean.high
        limit = declared
        if outside:
            status, action = "block", "Check weights, preprocessing, the order of channels and of classes."
            sentence = (
                f"Clean accuracy is {format_estimate(clean)}, but {format_percent(declared)} is "
                "declared: this is not the model, or not the data, that the number belongs to."
            )
    yield build_diagnostic(
        "D22",
        name,
        subject,
        None,
        status,  # type: ignore[arg-type]
        sentence,
        value=clean.value,
        limit=limit,
        n=clean.n,
        source=source,
        action=action,
    )


def _find_declared_accuracy(evidence: Evidence, subject: EvaluatedModel) -> float | None:
    """Find the clean accuracy that the grid declares for a model without its defense."""
    declared: Any = (evidence.grid.get("declared") or {}).get("clean_accuracy") or {}
    value = declared.get(subject.model) if subject.defense == "none" else None
    return float(value) if isinstance(value, int | float) else None


def is_guessing(evidence: Evidence, subject: EvaluatedModel) -> bool:
    """Return whether a subject is not significantly better than guessing on enough clean images (D22)."""
    clean, classes = evidence.compute_clean_accuracy(subject), len(evidence.get_class_names(subject.model))
    return is_guessing_accuracy(clean, classes)


def check_sample_size(evidence: Evidence, subject: EvaluatedModel) -> Iterator[DiagnosticResult]:
    """Yield D23: are there enough images?"""
    cells = [
        cell
        for cell in evidence.cells
        if cell.subject == subject and cell.is_done and not cell.is_sticker and cell.tally.n
    ]
    fewest = min(cells, key=lambda cell: cell.tally.n, default=None)
    if fewest is None:
        return
    n = fewest.tally.n
    alike = all(cell.tally.n == n for cell in cells)
    where = "" if alike else f" under {isolate_direction(fewest.label)}"
    few = n < MIN_IMAGES
    yield build_diagnostic(
        "D23",
        "number of images",
        subject,
        None,
        "warn" if few else "ok",
        f"Only {format_count(n, 'image')}{where}: the 95% intervals are wide."
        if few
        else f"{format_count(n, 'image')} or more under each attack.",
        value=float(n),
        limit=float(MIN_IMAGES),
        n=n,
        source="Clopper & Pearson 1934: at 100 images the interval spans up to 20 points",
        action=f"Use 1,000 or more{' to rank models' if len(evidence.subjects) > 1 else ''}." if few else "",
    )


def check_origin(evidence: Evidence, subject: EvaluatedModel) -> Iterator[DiagnosticResult]:
    """Yield D24: were the adversarial examples made on this very model?"""
    cells = [cell for cell in evidence.attack_cells if cell.subject == subject and not cell.is_self_transfer]
    attacks = [cell for cell in cells if not cell.is_corruption]
    own = [cell for cell in attacks if not cell.has_external_candidates]
    name, source = "attacked model is the evaluated one", "DEEPSEC (attacks replayed from another model)"
    if own:
        outside = len(attacks) - len(own)
        apart = f"; {format_count(outside, 'transfer')} count apart" if outside else ""
        sentence = (
            f"{format_part(len(own), len(attacks)).replace('image', 'attack')} ran on this very model{apart}."
        )
        yield build_diagnostic("D24", name, subject, None, "ok", sentence, source=source)
    elif attacks:
        sentence = (
            "Every adversarial example was crafted on another model, so that the numbers say how well "
            "attacks transfer and not how robust this model is."
        )
        yield build_diagnostic(
            "D24",
            name,
            subject,
            None,
            "warn",
            sentence,
            source=source,
            action="Attack this model itself as well, for example with adaptive or autoattack.",
        )


def check_certificates(evidence: Evidence, subject: EvaluatedModel) -> Iterator[DiagnosticResult]:
    """Yield D25: does any attack contradict a certificate?"""
    name, source = "attacks respect certificates", "soundness of the certificate, on the same images"
    violations = [
        violation for violation in find_violations(evidence) if violation.certificate_cell.subject == subject
    ]
    for violation in violations:
        cell = violation.certificate_cell
        if violation.is_blocking:
            sentence = (
                "Certificate violated: the certificate or the attack has a bug, or the model is not "
                f"deterministic. {violation.sentence}"
            )
            action = "Do not use any number of this run."
        else:
            allowed = f"errs on at most {format_percent(cell.record.alpha)} of the images on average"
            sentence = f"{violation.sentence} By its own account, the certificate {allowed}."
            action = ""
        yield build_diagnostic(
            "D25",
            name,
            subject,
            cell.threat,
            "block" if violation.is_blocking else "warn",
            sentence,
            value=float(len(violation.images)),
            limit=0.0,
            n=cell.tally.n,
            source=source,
            action=action,
        )
    if not violations and any(cell.subject == subject for cell in evidence.certificate_cells):
        sentence = "No attack found an adversarial example inside a certified ball."
        yield build_diagnostic(
            "D25", name, subject, None, "ok", sentence, value=0.0, limit=0.0, source=source
        )
