"""What a run will do, decided and checked before the first attack."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from robustbench_local.attacks.base import Attack
from robustbench_local.attacks.physical.eot import EOTAttack
from robustbench_local.certification.base import Certificate
from robustbench_local.classifier import Classifier
from robustbench_local.classifier.stochastic import passes_per_query
from robustbench_local.data.dataset import Dataset
from robustbench_local.errors import RobustbenchError
from robustbench_local.evaluation.harness.attack_job import AttackJob, Job
from robustbench_local.evaluation.harness.certificate_job import CertificateJob
from robustbench_local.evaluation.harness.sticker_job import StickerJob, list_controls
from robustbench_local.evaluation.harness.sticker_scene import APPROACH_FRAMES
from robustbench_local.evaluation.harness.success_robustness import (
    FINISHING_VERIFICATION_PASSES,
    count_finishing_passes,
)
from robustbench_local.store.records import CellRecord
from robustbench_local.store.run_labels import RunLabels
from robustbench_local.threats.threat_model import ThreatModel

HARNESS_PASSES = 3
"""The harness reads the clean image, the candidate, and the candidate rounded to 8 bits."""


@dataclass(frozen=True, kw_only=True)
class EvaluationSubject:
    """A classifier of the grid, with the data expressed in its class indices."""

    id: str
    """Model id from the grid file."""
    classifier: Classifier
    """The loaded classifier."""
    data: Dataset
    """The run's images, labels fitted to this classifier."""
    digest: str
    """SHA-256 of the weights and preprocessing."""
    description: dict[str, Any]
    """What the report says about the model."""
    defense: str = "none"
    """Name of its defense."""
    undefended: EvaluationSubject | None = None
    """The model without its wrapper, which a naive attacker takes it for; None if it has none."""
    problem: RobustbenchError | None = None
    """Why the model cannot be used, and its cells are errors; None if it can."""

    def __str__(self) -> str:
        return self.id if self.defense == "none" else f"{self.id} + {self.defense}"


@dataclass(frozen=True, kw_only=True)
class PlannedCell(ABC):
    """One cell, ready to run."""

    record: CellRecord
    """What the store keeps about it."""
    subject: EvaluationSubject
    """The classifier under test."""
    threat: ThreatModel
    """Budget and goal."""
    positions: Tensor
    """Which images of the data belong to the cell."""
    skip_reason: str | None = None
    """Why the cell cannot run on this model at all; None if it can."""

    @property
    @abstractmethod
    def queried_subject(self) -> EvaluationSubject:
        """The subject that most passes go through."""

    @property
    @abstractmethod
    def max_passes(self) -> tuple[int, int]:
        """Most forward and backward passes over all images."""

    @property
    def problem(self) -> RobustbenchError | None:
        """Why a model of the cell cannot be used; None if all can."""
        return self.subject.problem or self.queried_subject.problem

    @abstractmethod
    def build_job(self, seed: int) -> Job:
        """The work itself."""

    def build_job_arguments(self, seed: int) -> dict[str, Any]:
        """What every kind of work is about."""
        return {
            "key": self.record.key,
            "classifier": self.subject.classifier,
            "data": self.subject.data.select_images(self.positions),
            "threat": self.threat,
            "seed": seed,
        }

    def list_warnings(self) -> list[str]:
        """What is allowed but probably not meant, one line each."""
        return []


@dataclass(frozen=True, kw_only=True)
class AttackCell(PlannedCell):
    """A cell that attacks."""

    attack: Attack
    """The attack."""
    surrogate: EvaluationSubject | None = None
    """The model that candidates are crafted on; None: the one under test."""

    @property
    def queried_subject(self) -> EvaluationSubject:
        """What the attack sees."""
        return self.surrogate or self.subject

    @property
    def max_passes(self) -> tuple[int, int]:
        """Most forward and backward passes over all images; images that break early cost less."""
        costs = (self.attack.estimate_cost(self.threat), count_finishing_passes(self.attack, self.threat))
        forward, backward = (sum(each) for each in zip(*costs, strict=True))
        draws = passes_per_query(self.queried_subject.classifier)[0]
        if draws > 1:  # it averages itself, whatever the attack would have averaged
            forward, backward = (passes * draws // self.attack.eot_samples for passes in (forward, backward))
        reading = passes_per_query(self.subject.classifier)[1]
        count = 0 if self.skip_reason else len(self.positions)
        harness = HARNESS_PASSES + (FINISHING_VERIFICATION_PASSES if self.threat.is_ball else 0)
        return count * (forward + harness * reading), count * backward

    def build_job(self, seed: int) -> Job:
        """The work itself."""
        return AttackJob(
            **self.build_job_arguments(seed),
            attack=self.attack,
            surrogate=None if self.surrogate is None else self.surrogate.classifier,
        )

    def list_warnings(self) -> list[str]:
        """The attack's own."""
        return self.attack.list_warnings(self.threat)


@dataclass(frozen=True, kw_only=True)
class StickerCell(AttackCell):
    """A cell that puts stickers on signs, and looks at them."""

    attack: EOTAttack
    """The attack."""
    test_views: int
    """Views that each sign is judged over."""

    @property
    def max_passes(self) -> tuple[int, int]:
        """Most forward and backward passes over all signs: sticker, controls, and every look at them."""
        made = [(self.attack, self.threat)]
        made += [(attack, threat) for _, attack, threat in list_controls(self.attack, self.threat)]
        costs = [attack.estimate_cost(threat) for attack, threat in made]
        forward, backward = (sum(each) for each in zip(*costs, strict=True))
        looks = (
            len(made) + 2
        ) * self.test_views + 2 * APPROACH_FRAMES  # the clean sign and random colours, too
        look, reading = passes_per_query(self.subject.classifier)
        count = 0 if self.skip_reason else len(self.positions)
        return count * (forward * look + (looks + HARNESS_PASSES) * reading), count * backward * look

    def build_job(self, seed: int) -> StickerJob:
        """The work itself."""
        return StickerJob(
            **self.build_job_arguments(seed),
            attack=self.attack,
            test_views=self.test_views,
        )


@dataclass(frozen=True, kw_only=True)
class CertificateCell(PlannedCell):
    """A cell that seeks proofs."""

    certificate: Certificate
    """The method and its hyper-parameters."""

    @property
    def queried_subject(self) -> EvaluationSubject:
        """What is asked: the model within, where the certificate is about the votes of one."""
        within = self.certificate.get_base_classifier(self.subject.classifier) is not self.subject.classifier
        return self.subject.undefended or self.subject if within else self.subject

    @property
    def max_passes(self) -> tuple[int, int]:
        """Most forward and backward passes over all images; votes that stop early cost less."""
        forward, backward = self.certificate.estimate_cost(self.threat)
        count = 0 if self.skip_reason else len(self.positions)
        return count * (forward + 1), count * backward

    def build_job(self, seed: int) -> CertificateJob:
        """The work itself."""
        return CertificateJob(
            **self.build_job_arguments(seed),
            certificate=self.certificate,
        )


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A whole run."""

    name: str
    """Name of the grid."""
    resolved_yaml: str
    """The grid with every default written out, as YAML."""
    seed: int
    """The run's seed."""
    batch_size: int | None
    """Images in a pass; None: measured on each model before its first cell."""
    workers: int
    """Processes that share the images of a cell where that pays."""
    max_example_images: int
    """How many broken images a cell keeps for the gallery."""
    data: Dataset
    """The run's images as loaded."""
    subjects: tuple[EvaluationSubject, ...]
    """The classifiers."""
    cells: tuple[PlannedCell, ...]
    """In the order of the grid; cheap attacks stand first if the grid says so."""
    labels: RunLabels
    """What tables call the attacks and models."""
    identity: dict[str, str]
    """Everything that decides the verdicts, by name: what a resumed run must agree with."""
    timeout: float | None = None
    """Seconds within which a model has to finish a pass; None for any time."""
    cell_timeout: float | None = None
    """Seconds that a cell may take; None for any time."""
    skip_verified: bool = False
    """Whether images that a certificate has proven robust are spared the attacks that it covers."""
    description: dict[str, Any] = field(default_factory=dict)
    """What the store keeps for the report: grid, data, models, environment."""
    warnings: tuple[str, ...] = ()
    """What the user should know before it starts."""
