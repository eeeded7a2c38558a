"""Queries to a fresh copy of a model, with a count of the passes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from robustbench_local.classifier import Classifier
from robustbench_local.classifier.foreign_errors import is_out_of_memory
from robustbench_local.classifier.state_guard import RandomStates, seed_everything
from robustbench_local.classifier.stochastic import RandomizedClassifier
from robustbench_local.errors import ModelError, UnreachableError
from robustbench_local.evaluation.probes.consistency_findings import ConsistencyFindings
from robustbench_local.evaluation.probes.probe_images import PROBE_SEED


@dataclass(frozen=True)
class ModelQueries:
    """Queries to one classifier and the findings from them."""

    classifier: Classifier
    findings: ConsistencyFindings
    should_use_gradients: bool = True
    """Whether gradients may be computed."""

    @property
    def has_gradients(self) -> bool:
        """Whether gradients are to be computed and the model has any."""
        return self.should_use_gradients and self.classifier.access == "gradients"

    @contextmanager
    def open_fresh_copy(self) -> Iterator[Classifier]:
        """Return a fresh copy of which each query is one draw."""
        with self.classifier.open_fresh_copy() as model:
            if not isinstance(model, RandomizedClassifier):
                yield model
                return
            with model.use_draws(1):
                yield model

    def query_model(
        self, model: Classifier, images: Tensor, *, recorded: bool = False, seed: int = PROBE_SEED
    ) -> Tensor:
        """Return answers, (N, K) double on the CPU, with the same global random states before each call.

        Args:
            model: The classifier to query.
            images: (N, C, H, W).
            recorded: Whether gradients are recorded meanwhile.
            seed: Seed of the global random states.
        """
        seed_everything(seed)
        before = RandomStates.from_process()
        self.findings.queried_images += len(images)
        with torch.set_grad_enabled(recorded):
            answers = model(images.detach().requires_grad_(recorded)).detach().cpu().double()
        self.findings.may_be_random = self.findings.may_be_random or not before.is_same_as(
            RandomStates.from_process()
        )
        return answers

    def query_pair(self, image: Tensor, neighbour: Tensor) -> Tensor:
        """Return the answers of a fresh copy to two images at once."""
        with self.open_fresh_copy() as model:
            return self.query_model(model, torch.cat([image, neighbour]))

    def run_backward(self, model: Classifier, images: Tensor) -> bool:
        """Run a forward and a backward pass; return whether there is one."""
        if not self.has_gradients:
            return False
        self.findings.queried_images += len(images)
        try:
            model.compute_gradient(images, lambda logits: logits.logsumexp(dim=1))
        except (ModelError, RuntimeError) as error:
            if is_out_of_memory(error) or isinstance(error, UnreachableError):
                raise
            return False  # gradient errors are checked elsewhere
        return True

    def query_one_by_one(self, model: Classifier, pair: Tensor) -> Tensor:
        """Return the answers to some images, each queried alone."""
        return torch.cat([self.query_model(model, image) for image in torch.split(pair, 1)])
