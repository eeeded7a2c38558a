"""What a run will do, decided and checked before the first attack."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from robustbench_local.attacks.base import Attack
from robustbench_local.classifier import Classifier
from robustbench_local.data.dataset import Dataset
from robustbench_local.evaluation.cell import Task
from robustbench_local.store.records import CellRecord
from robustbench_local.threat import ThreatModel

PIXELS_AT_A_TIME = 128 * 3 * 32 * 32
"""Pixel values in a batch when nobody says otherwise: 128 images of 32 px."""
HARNESS_PASSES = 3
"""The harness reads the clean image, the candidate, and the candidate rounded to 8 bits."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A classifier of the grid, with the data expressed in its class indices."""

    id: str
    """Model id from the grid file."""
    classifier: Classifier
    """The loaded classifier."""
    data: Dataset
    """The run's images, labels fitted to this classifier."""
    digest: str
    """SHA-256 of the weights and preprocessing."""
    about: dict[str, Any]
    """What the report says about the model."""


@dataclass(frozen=True, kw_only=True)
class PlannedCell:
    """One cell, ready to run."""

    record: CellRecord
    """What the store keeps about it."""
    subject: Subject
    """The classifier under test."""
    attack: Attack
    """The attack."""
    threat: ThreatModel
    """Budget and goal."""
    positions: Tensor
    """Which images of the data belong to the cell."""
    skipped: str | None = None
    """Why the cell cannot run on this model at all; None if it can."""

    @property
    def passes(self) -> tuple[int, int]:
        """Most forward and backward passes over all images; images that break early cost less."""
        forward, backward = self.attack.cost(self.threat)
        count = 0 if self.skipped else len(self.positions)
        return count * (forward + HARNESS_PASSES), count * backward

    def task(self, seed: int) -> Task:
        """The work itself."""
        return Task(
            key=self.record.key,
            classifier=self.subject.classifier,
            data=self.subject.data.select(self.positions),
            attack=self.attack,
            threat=self.threat,
            seed=seed,
        )


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Seconds an image for one pass, measured once on a model."""

    forward: float
    """One forward pass."""
    backward: float
    """What a backward pass adds to a forward pass."""

    def seconds(self, passes: tuple[int, int]) -> float:
        """Time for so many forward and backward passes."""
        return passes[0] * self.forward + passes[1] * self.backward


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A whole run."""

    name: str
    """Name of the grid."""
    resolved: str
    """The grid with every default written out, as YAML."""
    seed: int
    """The run's seed."""
    batch_size: int
    """Images at a time."""
    keep: int
    """How many broken images a cell keeps for the gallery."""
    data: Dataset
    """The run's images as loaded."""
    subjects: tuple[Subject, ...]
    """The classifiers."""
    cells: tuple[PlannedCell, ...]
    """In the order of the grid; cheap attacks stand first if the grid says so."""
    identity: dict[str, str]
    """Everything that decides the verdicts, by name: what a resumed run must agree with."""
    about: dict[str, Any] = field(default_factory=dict)
    """What the store keeps for the report: grid, data, models, environment."""
    warnings: tuple[str, ...] = ()
    """What the user should know before it starts."""


def cell_key(identity: dict[str, str]) -> str:
    """SHA-256 over a cell's identity, as 64 hex digits."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def automatic_batch_size(data: Dataset) -> int:
    """A batch size that keeps the working set about the same for every image size."""
    pixels = int(data.images[0].numel())
    return max(2, min(256, PIXELS_AT_A_TIME // pixels))


def measure_speed(subject: Subject, batch_size: int) -> Speed:
    """Time one forward and, where there are gradients, one backward pass on the first images."""
    classifier = subject.classifier
    images = subject.data.images[: min(batch_size, 32)].to(classifier.device)
    with classifier.attacked(), torch.no_grad():
        forward = _time(lambda: classifier(images)) / len(images)
    backward = 0.0
    if classifier.access == "gradients":
        with classifier.attacked():
            both = _time(lambda: classifier.gradient(images, lambda logits: logits.sum(dim=1))) / len(images)
        backward = max(both - forward, 0.0)
    return Speed(forward=forward, backward=backward)


def _time(call: Any) -> float:
    """Wall seconds of a call with the device's queue: the best of three, for others use the machine too."""
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return min(seconds)
