"""The certificates of a bundle, proved again with a model that the verifier has."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from scipy.special import ndtr

from robustbench_local.certification.base import Certificate
from robustbench_local.certification.randomized_smoothing.smoothing_certificate import Smoothing
from robustbench_local.data.dataset import Dataset
from robustbench_local.errors import ConfigError, RobustbenchError
from robustbench_local.evaluation.grid.schema import Grid
from robustbench_local.evaluation.harness.certificate_job import CertificateJob
from robustbench_local.evaluation.planning.entry_cards import make_method, resolve_entry_cards
from robustbench_local.evaluation.planning.outside_code import describe_code
from robustbench_local.evaluation.planning.plan import EvaluationSubject
from robustbench_local.evidence_bundle.cell_threat import name_example
from robustbench_local.evidence_bundle.proof_images import ListedProofs
from robustbench_local.evidence_bundle.readings import Readings
from robustbench_local.store import CellRecord, OutcomeRecord

BOUND_TOLERANCE = 1e-3
"""Largest difference of a bound or radius that was stated and one proved again, relative and absolute: sums
of float32 in another order, magnified by the layers."""
VOTE_TOLERANCE = 0.002
"""Largest share of votes under noise that other rounding may move."""


@dataclass(frozen=True, kw_only=True)
class ProofSettings:
    """How certificates are proved again."""

    grid: Grid
    """The grid of the run, with its seed and its certificates."""
    class_names: tuple[str, ...]
    """Names of the classes."""
    batch_size: int
    """Images per pass."""
    limit: int | None
    """Largest number of images of each certificate; None: all in the bundle."""


def read_proofs(
    subject: EvaluationSubject, proofs: ListedProofs, settings: ProofSettings, readings: Readings
) -> None:
    """Prove the images of one certificate again.

    The same noise is drawn as in the run: its seed, the image's id and the certificate decide it.

    Args:
        subject: The model, defended as in the run.
        proofs: The images and what is stated about them.
        settings: How to prove.
        readings: Receives what was found.
    """
    name, count = proofs.cell.attack, len(proofs.outcomes)
    if proofs.missing:
        readings.skipped[f"by {name}: {proofs.missing}"] += 1
    chosen = count if settings.limit is None else min(count, settings.limit)
    if chosen < count:
        readings.skipped[f"of {name} beyond --proofs {settings.limit}"] += count - chosen
    if not chosen:
        return
    try:
        certificate = find_certificate(settings.grid, proofs.cell)
        found = _prove_again(subject, proofs, certificate, settings, chosen)
    except RobustbenchError as error:
        readings.doubts.append(f"{name}: {chosen} could not be proved again: {error}")
        return
    for stated, again in zip(proofs.outcomes[:chosen], found, strict=True):
        compare_proof(proofs.cell, stated, again, certificate, readings)


def find_certificate(grid: Grid, cell: CellRecord) -> Certificate:
    """Make the certificate of a cell from the entry of the grid that describes it.

    Raises:
        RobustbenchError: If there is none, or it is code from outside this package.
    """
    stated = cell.identity.get("certificate")
    problem: RobustbenchError | None = None
    for entry in grid.attacks:
        try:
            cards = [
                card for _, card in resolve_entry_cards(grid.model_copy(update={"attacks": [entry]}), ())
            ]
        except RobustbenchError as error:
            problem = error
            continue
        for card in cards:
            method = make_method(card)
            if not isinstance(method, Certificate) or repr(method) != stated:
                continue
            if describe_code(method):
                raise ConfigError("it is code from outside this package")
            return method
    raise problem or ConfigError("the grid of the run has no such certificate")


def _prove_again(
    subject: EvaluationSubject,
    proofs: ListedProofs,
    certificate: Certificate,
    settings: ProofSettings,
    count: int,
) -> list[OutcomeRecord]:
    """Run the certificate as the run did, and return an outcome for each image."""
    outcomes = proofs.outcomes[:count]
    certificate.check_support(proofs.threat, subject.classifier)
    job = CertificateJob(
        key=proofs.cell.key,
        classifier=subject.classifier,
        data=Dataset(
            images=torch.from_numpy(proofs.clean[:count].copy()),
            labels=torch.tensor([row.label for row in outcomes]),
            ids=tuple(row.image for row in outcomes),
            class_names=settings.class_names,
            name="images of certificates",
        ),
        threat=proofs.threat,
        seed=settings.grid.seed,
        certificate=certificate,
    )
    with subject.classifier.evaluation_mode():
        batches = [job.run(positions) for positions in job.build_queue(settings.batch_size, set())]
    return [row for batch in batches for row in batch.outcomes]


def compare_proof(
    cell: CellRecord,
    stated: OutcomeRecord,
    found: OutcomeRecord,
    certificate: Certificate,
    readings: Readings,
) -> None:
    """Compare what is stated about an image with what was proved again.

    Args:
        cell: The certificate's cell.
        stated: The outcome in the bundle.
        found: The outcome that was proved again.
        certificate: The certificate.
        readings: Receives what was found.
    """
    numbers = _list_numbers(stated, found)
    is_close = all(_is_same_number(number, *pair, certificate) for number, pair in numbers.items())
    same = _list_claims(stated) == _list_claims(found)
    if same and is_close:
        readings.stands += 1
        return
    name = name_example(cell, stated)
    line = f"{name}: {_describe_proof(stated)} is stated, {_describe_proof(found)} is found"
    if same:
        parts = [
            f"{number} {_format_number(before)} is stated, {_format_number(after)} is found"
            for number, (before, after) in numbers.items()
            if not _is_same_number(number, before, after, certificate)
        ]
        readings.failures.append(f"{name}: {'; '.join(parts)}")
    elif is_close and _is_at_limit(cell, found, certificate):
        readings.doubts.append(f"{line}; the bound is within rounding of the limit")
    else:
        readings.failures.append(line)


def _list_numbers(
    stated: OutcomeRecord, found: OutcomeRecord
) -> dict[str, tuple[float | None, float | None]]:
    return {"radius": (stated.radius, found.radius), "bound": (stated.margin, found.margin)}


def _is_same_number(name: str, stated: float | None, found: float | None, certificate: Certificate) -> bool:
    """Return whether a number is the stated one, but for rounding or some votes."""
    if stated is None or found is None:
        return stated is found
    if name == "radius" and isinstance(certificate, Smoothing):
        if stated > certificate.largest_radius * (1 + BOUND_TOLERANCE):
            return False  # more than all votes together can prove
        shares = [float(ndtr(radius / certificate.sigma)) for radius in (stated, found)]
        return bool(abs(shares[0] - shares[1]) <= VOTE_TOLERANCE + 1 / certificate.n)
    return math.isclose(stated, found, rel_tol=BOUND_TOLERANCE, abs_tol=BOUND_TOLERANCE)


def _is_at_limit(cell: CellRecord, found: OutcomeRecord, certificate: Certificate) -> bool:
    """Return whether rounding may decide what is proved about an image."""
    if found.margin is not None:
        return abs(found.margin) <= BOUND_TOLERANCE
    return _is_same_number("radius", cell.eps, found.radius, certificate)


def _list_claims(row: OutcomeRecord) -> tuple[object, ...]:
    return row.certified, row.abstained, row.clean_correct, row.clean_prediction


def _describe_proof(row: OutcomeRecord) -> str:
    proof = "certified" if row.certified else "not certified"
    if row.abstained:
        return f"an abstention, {proof}"
    known = "without a class" if row.clean_prediction is None else f"class {row.clean_prediction}"
    return f"{known} ({'correct' if row.clean_correct else 'wrong'}), {proof}"


def _format_number(value: float | None) -> str:
    return "none" if value is None else f"{value:.6g}"
