"""A whole attack as a step of an engine: it runs on the unfinished images, the engine judges the results."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from robustbench_local.attacks.base import BallAttack
from robustbench_local.attacks.core.engine import Engine
from robustbench_local.attacks.core.search import PointEvaluation, Search
from robustbench_local.attacks.core.work_items import ActiveSet, TensorTable
from robustbench_local.classifier import Classifier, ClassifierSettings
from robustbench_local.classifier.wrapper import WrappedClassifier
from robustbench_local.randomness import RandomStream
from robustbench_local.threats.threat_model import ThreatModel


def run_attack(engine: Engine, attack: BallAttack, threat: ThreatModel, name: str, restart: int) -> None:
    """Run an attack on the unfinished images, and collect its successes in the engine.

    Args:
        engine: Its classifier is queried.
        attack: The attack.
        threat: Budget, goal and region.
        name: Name of the step; it distinguishes its random numbers.
        restart: Index of the restart, likewise.
    """
    for rows in torch.split(engine.find_unfinished_rows(), engine.batch_size):
        inputs = engine.select_inputs(rows, threat)
        stream = replace(inputs.stream, attack=f"{inputs.stream.attack}/{name}/{restart}")
        model = ImageSubset(inputs.classifier, rows)
        candidates = attack.find_candidates(replace(inputs, classifier=model, stream=stream))
        known = engine.images.clone()
        known[rows] = candidates
        engine.run(_Candidates(known, threat), engine.build_items().select_rows(_find_places(engine, rows)))


def _find_places(engine: Engine, rows: Tensor) -> Tensor:
    """Return the places of images among the unfinished ones."""
    return torch.isin(engine.find_unfinished_rows(), rows).nonzero().flatten()


class ImageSubset(WrappedClassifier):
    """A classifier whose first image is another one of the open counter; it counts there.

    Args:
        inner: The classifier.
        rows: Rows of the images in its counter, (M,) int64.
    """

    def __init__(self, inner: Classifier, rows: Tensor) -> None:
        super().__init__(inner)
        self._rows = rows

    @property
    def identity(self) -> str:
        """The same model."""
        return "some of the images"

    @property
    def settings(self) -> ClassifierSettings:
        """The settings of the classifier."""
        return self.inner.settings

    @contextmanager
    def evaluation_mode(self) -> Iterator[None]:
        """See `Classifier.evaluation_mode`; that of the classifier."""
        with self.inner.evaluation_mode():
            yield

    def __call__(self, images: Tensor, rows: Tensor | None = None) -> Tensor:
        """See `Classifier.__call__`."""
        return self.inner(images, self._rows[: len(images)] if rows is None else self._rows[rows])

    def queries_left(self, rows: Tensor | None = None) -> Tensor | None:
        """See `PassAccount.queries_left`."""
        return self.inner.queries_left(self._rows if rows is None else self._rows[rows])

    def _compute_logits(self, images: Tensor) -> Tensor:
        return self.inner._compute_logits(images)  # noqa: SLF001


class _Candidates(Search[TensorTable]):
    """A search of no steps, from one candidate for each image."""

    def __init__(self, candidates: Tensor, threat: ThreatModel) -> None:
        self._candidates, self.threat, self.steps, self.name = candidates, threat, 0, "candidates"

    def start_items(self, front: ActiveSet, stream: RandomStream, draw_names: list[str]) -> TensorTable:  # noqa: ARG002 - it draws nothing
        """Start at the candidates."""
        front.points = self._candidates[front.rows]
        return TensorTable()

    def step(self, front: ActiveSet, state: TensorTable, evaluation: PointEvaluation) -> Tensor:  # noqa: ARG002
        """Stay there."""
        return front.points
