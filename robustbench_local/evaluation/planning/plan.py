"""The plan of a run, decided and checked before the first attack."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from robustbench_local.attacks.base import Attack
from robustbench_local.certification.base import Certificate
from robustbench_local.classifier import Classifier
from robustbench_local.classifier.twin_view import TwinView
from robustbench_local.data.dataset import Dataset
from robustbench_local.errors import RobustbenchError
from robustbench_local.evaluation.harness.artefact_finish import FINISH_QUERIES
from robustbench_local.evaluation.harness.job import Job
from robustbench_local.evaluation.harness.make_job import make_job
from robustbench_local.evaluation.harness.sticker_job import TEST_VIEWS
from robustbench_local.shard import Shard
from robustbench_local.store.records import CellRecord
from robustbench_local.store.run_labels import RunLabels
from robustbench_local.store.stop_record import StopRule
from robustbench_local.threats.threat_model import ThreatModel


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
    """The model's description for the report."""
    network: str = ""
    """Digest of everything in the model's identity but its weights: models that share it take the same time
    for a pass. Empty if unknown."""
    defense: str = "none"
    """Name of its defense."""
    twin: EvaluationSubject | None = None
    """The float network that the model was made from, which attacks search on; None without one."""
    finish_queries: int = FINISH_QUERIES
    """Queries of the model for each image that a search through its twin leaves."""
    undefended: EvaluationSubject | None = None
    """The model without its wrapper, for attacks unaware of the defense; None if it has none."""
    problem: RobustbenchError | None = None
    """The reason why the model cannot be used, which makes its cells errors; None if it can."""

    @cached_property
    def view(self) -> TwinView | None:
        """The classifier with the gradients of its twin; None without one."""
        if self.twin is None or self.problem is not None or self.twin.problem is not None:
            return None
        return TwinView(self.classifier, self.twin.classifier)

    @property
    def attacked_classifier(self) -> Classifier:
        """The classifier as attacks see it: with the gradients of its twin, if it has one."""
        return self.view or self.classifier

    def __str__(self) -> str:
        return self.id if self.defense == "none" else f"{self.id} + {self.defense}"


@dataclass(frozen=True, kw_only=True)
class CellSpec:
    """One cell of a grid: an attack or certificate, a model, and the images it runs on."""

    record: CellRecord
    """The stored record of the cell."""
    subject: EvaluationSubject
    """The classifier under test."""
    method: Attack | Certificate
    """The attack or the certificate, with its hyper-parameters."""
    threat: ThreatModel
    """Budget and goal."""
    positions: Tensor
    """Positions of the cell's images in the data, int64."""
    seed: int
    """The run's seed."""
    surrogate: EvaluationSubject | None = None
    """The model that candidates are crafted on; None: the one under test."""
    test_views: int = TEST_VIEWS
    """Number of views in which a sign is evaluated, for a sticker or a patch."""
    skip_reason: str | None = None
    """Reason why the cell cannot run on this model; None if it can."""
    own_positions: tuple[int, ...] | None = None
    """Ascending positions in the cell that this run has to run, from 0: those of a shard; None: all."""

    @property
    def image_count(self) -> int:
        """Number of images that this run has to run."""
        return len(self.positions) if self.own_positions is None else len(self.own_positions)

    @property
    def is_certificate(self) -> bool:
        """Whether the cell runs a certificate."""
        return self.record.measure == "certificate"

    @property
    def queried_subject(self) -> EvaluationSubject:
        """The subject that most passes go through: for votes under noise, the wrapped model."""
        if self.surrogate is not None:
            return self.surrogate
        if self.subject.twin is not None:
            return self.subject
        is_inner = self.make_job().queried_model is not self.subject.classifier
        return (self.subject.undefended or self.subject) if is_inner else self.subject

    @property
    def max_cell_passes(self) -> tuple[int, int]:
        """Maximum number of forward and backward passes over all images of the cell, whoever runs them."""
        return (0, 0) if self.skip_reason else self.make_job().max_passes

    @property
    def max_passes(self) -> tuple[int, int]:
        """Maximum number of forward and backward passes over the images that this run has to run."""
        return self._scale_to_run(self.max_cell_passes)

    @property
    def work_passes(self) -> tuple[int, int]:
        """Numbers of passes that take as long as the images that this run has to run, at most."""
        return (0, 0) if self.skip_reason else self._scale_to_run(self.make_job().work_passes)

    def _scale_to_run(self, passes: tuple[int, int]) -> tuple[int, int]:
        forward, backward = passes
        if self.own_positions is None or not len(self.positions):
            return forward, backward
        whole, own = len(self.positions), len(self.own_positions)
        return -(-forward * own // whole), -(-backward * own // whole)

    @property
    def problem(self) -> RobustbenchError | None:
        """The reason why a model of the cell cannot be used; None if all can."""
        return self.subject.problem or self.queried_subject.problem

    def make_job(self) -> Job:
        """Make the cell's job."""
        return make_job(
            self.method,
            key=self.record.key,
            classifier=self.subject.classifier,
            data=self.subject.data,
            positions=self.positions,
            threat=self.threat,
            seed=self.seed,
            surrogate=None if self.surrogate is None else self.surrogate.classifier,
            view=self.subject.view,
            finish_queries=self.subject.finish_queries,
            test_views=self.test_views,
        )


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The plan of a whole run."""

    name: str
    """Name of the grid."""
    resolved_yaml: str
    """The grid with every default written out, as YAML."""
    seed: int
    """The run's seed."""
    batch_size: int | None
    """Images per pass; None: measured on each model before its first cell."""
    measures_batch_size: bool = False
    """Whether batch sizes that an earlier call of the run measured are measured again."""
    workers: int
    """Number of processes that share the images of a cell where that pays."""
    max_example_images: int
    """Maximum number of broken images that a cell stores for the gallery."""
    data: Dataset
    """The run's images as loaded."""
    subjects: tuple[EvaluationSubject, ...]
    """The classifiers."""
    cells: tuple[CellSpec, ...]
    """In the order of the grid; cheap attacks stand first if the grid says so."""
    labels: RunLabels
    """Table names of the attacks and models."""
    identity: dict[str, str]
    """Everything that decides the verdicts, by name; a resumed run has to agree with it."""
    timeout: float | None = None
    """Seconds within which a model has to finish a pass; None for no limit."""
    cell_timeout: float | None = None
    """Time limit of a cell in seconds; None for no limit."""
    shard: Shard | None = None
    """The part of the images that this run has; None: all of them."""
    stop: StopRule | None = None
    """When the run ends before its last image; None: it runs on all images."""
    skip_verified: bool = False
    """Whether attacks skip images that a certificate has proven robust against them."""
    description: dict[str, Any] = field(default_factory=dict)
    """The stored description for the report: grid, data, models, environment."""
    base_folder: Path = Path()
    """Folder that relative paths of the grid start from."""
    warnings: tuple[str, ...] = ()
    """Warnings for the user before the run starts."""
