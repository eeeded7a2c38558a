"""Certification of one classifier in memory: a certificate's result for each image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from torch import nn

from robustbench_local.certification import make_certificate
from robustbench_local.certification.base import Certificate, Concern
from robustbench_local.classifier import Classifier
from robustbench_local.cluster_statistics import Groups, estimate_image_share
from robustbench_local.config.cards import CardThreat
from robustbench_local.data.class_labels import fit_labels
from robustbench_local.data.dataset import Dataset
from robustbench_local.errors import ConfigError
from robustbench_local.evaluation.evaluate import ArrayLike, build_outcome_table, estimate_rows, run_job
from robustbench_local.evaluation.grid.card_lookup import find_certificate_cards
from robustbench_local.evaluation.harness.cell_key import cell_key
from robustbench_local.evaluation.harness.make_job import make_job
from robustbench_local.evaluation.model_argument import as_classifier, join_data
from robustbench_local.evaluation.options import (
    DEFAULT_OPTIONS,
    Options,
    check_parameter_names,
    check_whole_number,
)
from robustbench_local.evaluation.probes.consistency_policy import check_consistency
from robustbench_local.extensions.code_permission import permit_code
from robustbench_local.statistics import Estimate
from robustbench_local.store.records import OutcomeCounts, OutcomeRecord, count_outcomes
from robustbench_local.threats.threat_model import ThreatModel, parse_eps, parse_norm

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class CertificationResult:
    """The result of certifying a classifier, or its vote under noise; ``concerns`` says which."""

    certificate: Certificate
    """The method and its hyper-parameters."""
    threat: ThreatModel
    """The certified ball."""
    concerns: Concern
    """``"model"``: the classifier itself. ``"smoothed"``: the majority vote of the classifier under noise."""
    counts: OutcomeCounts
    """The counts behind the rates."""
    outcomes: pd.DataFrame
    """One row per image, with the columns of outcomes.csv."""
    predictions: tuple[int | None, ...]
    """The class that each verdict is about; None where the certificate abstains."""
    radii: tuple[float | None, ...]
    """Certified radius of each prediction, 0 where nothing is certified; None where the method only answers
    yes or no."""
    notes: tuple[str, ...] = ()
    """Notes on the model, the data and the certificate for a reader of the results."""
    groups: Groups = field(default_factory=dict, repr=False)
    """Group of each image, which intervals are over; empty if the images are independent."""

    @property
    def certified_accuracy(self) -> Estimate:
        """Share of all images that are correctly classified and certified in the whole ball."""
        return estimate_rows(self.outcomes, self.outcomes["certified"].eq(True), self.groups)  # None: no

    @property
    def accuracy(self) -> Estimate:
        """Clean accuracy of the certified classifier; abstentions count as wrong."""
        return estimate_rows(self.outcomes, self.outcomes["clean_correct"], self.groups)

    def compute_certified_accuracy(self, radius: float) -> Estimate:
        """Return the share of all images that are correctly classified and certified within a radius.

        Args:
            radius: In the norm of the threat model; above its eps only methods that return radii certify
                anything.
        """
        right = self.outcomes["clean_correct"].tolist()
        reached = [
            bool(ok) and radius <= (certified_radius or 0.0)
            for ok, certified_radius in zip(right, self.radii, strict=True)
        ]
        if radius <= self.threat.eps:
            certified = self.outcomes["certified"].tolist()
            reached = [known or bool(proven) for known, proven in zip(reached, certified, strict=True)]
        return estimate_image_share(dict(zip(self.outcomes["image"], reached, strict=True)), self.groups)

    def __repr__(self) -> str:
        what = f"{self.certificate!r}, {self.threat.name}, concerns={self.concerns!r}"
        return f"CertificationResult({what}, certified_accuracy={self.certified_accuracy})"


def certify(
    classifier: Classifier | nn.Module,
    data: Dataset | tuple[ArrayLike, ArrayLike] | ArrayLike,
    labels: ArrayLike | None = None,
    *,
    certificate: str | Certificate,
    norm: str | None = None,
    eps: float | str | None = None,
    seed: int = 0,
    num_classes: int | None = None,
    options: Options = DEFAULT_OPTIONS,
    **parameters: Any,
) -> CertificationResult:
    """Certify that no perturbation inside a ball makes an image misclassified, image by image.

    Example:
        >>> import robustbench_local as rbl, torch
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 3))
        >>> images, labels = torch.rand(2, 3, 8, 8), [0, 1]
        >>> result = rbl.certify(network, images, labels, certificate="certify-ibp-linf-1", eps="0.5/255")
        >>> result.certified_accuracy.n
        2

    Args:
        classifier: The classifier, left exactly as it was; or a network that takes images in [0, 1] as they
            are, and stays on its device.
        data: A data set, a pair (images, labels), or images (N, C, H, W), uint8 or floats in [0, 1].
        labels: True classes, (N,), where ``data`` is images alone.
        certificate: A card such as ``"certify-smoothing-l2-0.5"`` or ``"certify-crown-linf-2"``, or an
            instance; also a method such as ``"ibp"``, an entry point or
            ``"python:FILE.py:NAME"``, with norm and eps.
        norm: Norm of the ball; by default that of the card.
        eps: Radius, a number or ``"8/255"``; by default that of the card.
        seed: Decides every random draw.
        num_classes: Classes of a bare network; by default found by a forward pass.
        options: Computing options, such as ``rbl.Options(device="cuda", batch_size=64)``: ``device``,
            ``batch_size``, ``cards``, ``allow_batch_dependence``, ``allow_code`` and ``timeout``; the others
            are for grids.
        **parameters: Overrides of the card: ``sigma=0.5``, ``n=100_000``.

    Returns:
        The result. Randomized smoothing certifies the vote of the classifier under noise, for each image with
        probability 1 - alpha; IBP and CROWN certify the classifier itself, deterministically.

    Raises:
        RobustbenchError: If the model, the data, the certificate and the ball do not fit each other.
    """
    check_whole_number("seed", seed, least=0)
    check_parameter_names("certify", parameters)
    options.check_applicable("certify")
    known = join_data(data, labels)
    classifier = as_classifier(classifier, known.images, num_classes)
    if options.device is not None:
        classifier.to(options.device)
    with permit_code(options.allow_code):
        method, threat = _resolve_certificate(
            certificate, norm, eps, parameters, [Path(folder) for folder in options.cards]
        )
    method.check_support(threat, classifier)
    fitted = fit_labels(known, classifier.num_classes, classifier.class_names)
    check_consistency(
        classifier,
        fitted.images,
        allowed=options.allow_batch_dependence,
        batch_size=options.batch_size,
        timeout=options.timeout,
    )
    key = cell_key({"model": classifier.name, "certificate": repr(method), "threat": repr(threat)})
    job = make_job(
        method,
        key=key,
        classifier=classifier,
        data=fitted,
        positions=None,
        threat=threat,
        seed=seed,
    )
    batches, heard, _ = run_job(job, options)
    rows = [row for batch in batches for row in batch.outcomes]
    notes = (*classifier.notes, *fitted.notes, method.describe_caveats(), *heard)
    result = _build_result(method, method.get_concern(classifier), threat, rows, notes)
    return replace(result, groups=fitted.group_by_image)


def _build_result(
    certificate: Certificate,
    concerns: Concern,
    threat: ThreatModel,
    rows: Sequence[OutcomeRecord],
    notes: Sequence[str],
) -> CertificationResult:
    return CertificationResult(
        certificate=certificate,
        threat=threat,
        concerns=concerns,
        counts=count_outcomes(rows),
        outcomes=build_outcome_table(rows),
        predictions=tuple(row.clean_prediction for row in rows),
        radii=tuple(row.radius for row in rows),
        notes=tuple(note for note in notes if note),
    )


def _resolve_certificate(
    certificate: str | Certificate,
    norm: str | None,
    eps: float | str | None,
    parameters: dict[str, Any],
    folders: Sequence[Path],
) -> tuple[Certificate, ThreatModel]:
    """Resolve a caller's certificate argument to a certificate and its ball."""
    if isinstance(certificate, Certificate):
        if norm is None or eps is None or parameters:
            what = "needs norm and eps" if not parameters else "has its parameters already"
            raise ConfigError(f"{type(certificate).__name__} {what}")
        return certificate, ThreatModel(norm=parse_norm(norm), eps=parse_eps(eps))
    given_overrides = {"norm": norm, "eps": eps, **parameters}
    overrides = {key: value for key, value in given_overrides.items() if value is not None}
    cards = find_certificate_cards(certificate, overrides, folders)
    if len(cards) > 1:
        raise ConfigError("certify takes one eps", remedy="use run_grid for several")
    return make_certificate(cards[0].method, cards[0].parameters), cast(
        "CardThreat", cards[0].threat
    ).build_threat_model()
