"""The certificate of a served model: the one its card was measured with, the defense's, or a chosen one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from robustbench_local.certification import make_certificate
from robustbench_local.certification.base import Certificate
from robustbench_local.certification.randomized_smoothing.smoothed_classifier import SmoothedClassifier
from robustbench_local.certification.randomized_smoothing.smoothing_certificate import Smoothing
from robustbench_local.classifier import Classifier
from robustbench_local.errors import ConfigError, RobustbenchError
from robustbench_local.evaluation.grid.card_lookup import find_certificate_cards
from robustbench_local.threats.threat_model import ThreatModel

SMOOTHING_VOTES = 1_000
"""Votes of a smoothing certificate, unless a card is chosen: a tenth of the card's, for a quick answer."""
_METHODS = {"smoothing": "smoothing", "ibp": "ibp", "crown": "crown", "crown-ibp": "crown"}
"""Certificate in a weights' card -> method."""


@dataclass(frozen=True)
class ServedCertificate:
    """A certificate and its ball; it can be pickled."""

    certificate: Certificate
    """The method and its hyper-parameters."""
    threat: ThreatModel
    """The certified ball."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What /model says about it."""


def find_certificate(classifier: Classifier, card: str | None = None) -> ServedCertificate | None:
    """Find the certificate of a classifier.

    Args:
        classifier: The classifier.
        card: A chosen card, such as ``certify-ibp-linf-2``; None: a smoothed classifier's own certificate,
            else the last one that the weights' card was measured with.

    Returns:
        The certificate; None if nothing names one, or the classifier cannot be certified by it.

    Raises:
        RobustbenchError: If a chosen card does not exist or does not fit.
    """
    if card is not None:
        return _choose_card(classifier, card)
    certificate = _find_smoothed(classifier) or _find_measured(classifier.provenance)
    if certificate is None:
        return None
    try:
        certificate.certificate.check_support(certificate.threat, classifier)
    except RobustbenchError:
        return None
    return certificate


def _choose_card(classifier: Classifier, card: str) -> ServedCertificate:
    cards = find_certificate_cards(card, {}, [])
    if len(cards) > 1:
        raise ConfigError(f"{card} has several radii", where="--certificate", remedy="name a card with one")
    threat = cards[0].threat.build_threat_model()  # type: ignore[union-attr]  # every certificate has a ball
    chosen = build_served_certificate(make_certificate(cards[0].method, cards[0].parameters), threat)
    chosen.certificate.check_support(threat, classifier)
    return chosen


def _find_smoothed(classifier: Classifier) -> ServedCertificate | None:
    if not isinstance(classifier, SmoothedClassifier):
        return None
    certificate = Smoothing(sigma=classifier.sigma, n=SMOOTHING_VOTES)
    return build_served_certificate(certificate, ThreatModel(norm="L2", eps=classifier.sigma))


def _find_measured(provenance: Mapping[str, Any]) -> ServedCertificate | None:
    """Find the certificate of the last certified accuracy in a weights' card, if there is any."""
    rows = [row for row in provenance.get("measured") or () if isinstance(row, Mapping)]
    for row in reversed(rows):
        method = _METHODS.get(str(row.get("certificate")))
        if method is None:
            continue
        parameters: dict[str, Any] = {}
        if method == "smoothing":
            parameters = {"sigma": row["sigma"], "alpha": row.get("alpha", 0.001), "n": SMOOTHING_VOTES}
        threat = ThreatModel(norm=row["norm"], eps=row["eps"])
        return build_served_certificate(make_certificate(method, parameters), threat)
    return None


def build_served_certificate(certificate: Certificate, threat: ThreatModel) -> ServedCertificate:
    """Build a served certificate with its description."""
    settings = {
        "method": type(certificate).__name__,
        "configuration": repr(certificate),
        "norm": threat.norm,
        "eps": threat.eps,
        "threat": threat.name,
        "error_probability": certificate.error_probability,
        "caveat": certificate.describe_caveats(),
    }
    return ServedCertificate(certificate, threat, settings)
