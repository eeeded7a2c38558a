"""The choice of job for a method: the only place that tells attacks, stickers and certificates apart."""

from __future__ import annotations

from typing import TypedDict, Unpack

from torch import Tensor

from robustbench_local.attacks.base import Attack
from robustbench_local.attacks.physical.eot import EOTAttack
from robustbench_local.certification.base import Certificate
from robustbench_local.classifier import Classifier
from robustbench_local.classifier.twin_view import TwinView
from robustbench_local.data.dataset import Dataset
from robustbench_local.errors import ConfigError
from robustbench_local.evaluation.harness.artefact_finish import FINISH_QUERIES
from robustbench_local.evaluation.harness.attack_job import AttackJob
from robustbench_local.evaluation.harness.certificate_job import CertificateJob
from robustbench_local.evaluation.harness.job import Job
from robustbench_local.evaluation.harness.sticker_job import TEST_VIEWS, StickerJob
from robustbench_local.evaluation.harness.twin_job import TwinAttackJob
from robustbench_local.threats.threat_model import ThreatModel


class JobInputs(TypedDict):
    """Inputs common to all jobs; see the fields of :class:`~robustbench_local.evaluation.harness.job.Job`."""

    key: str
    classifier: Classifier
    data: Dataset
    positions: Tensor | None
    threat: ThreatModel
    seed: int


def make_job(
    method: Attack | Certificate,
    *,
    surrogate: Classifier | None = None,
    view: TwinView | None = None,
    finish_queries: int = FINISH_QUERIES,
    test_views: int = TEST_VIEWS,
    **inputs: Unpack[JobInputs],
) -> Job:
    """Make the job of an attack or a certificate, by the measurement that it declares.

    Args:
        method: The attack or the certificate.
        surrogate: The model that an attack's candidates are crafted on; None: the classifier under test.
        view: The classifier with the gradients of its float twin, which attacks search on; None without
            one. Certificates are about the classifier itself, and transfers follow the surrogate.
        finish_queries: Queries of the classifier for each image that a search through the twin leaves.
        test_views: Number of views in which a sticker or a patch is evaluated.
        inputs: Inputs common to all jobs.

    Raises:
        ConfigError: If an attack declares views but is not built on the class that provides them.
    """
    if isinstance(method, Certificate):
        return CertificateJob(certificate=method, **inputs)
    if method.measure != "views":
        if view is not None and surrogate is None:
            return TwinAttackJob(attack=method, view=view, finish_queries=finish_queries, **inputs)
        return AttackJob(attack=method, surrogate=surrogate, **inputs)
    if not isinstance(method, EOTAttack):
        name = type(method).__name__
        raise ConfigError(f"{name} declares the measure 'views'", remedy="derive it from EOTAttack")
    return StickerJob(attack=method, test_views=test_views, view=view, **inputs)
