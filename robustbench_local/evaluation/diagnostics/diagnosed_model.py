"""A model under diagnosis: its sample of images, its answers so far, and what it may still be asked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from robustbench_local.attacks.adaptive.findings import ModelFindings
from robustbench_local.attacks.core.engine import compute_default_batch_size
from robustbench_local.classifier import Classifier
from robustbench_local.classifier.stochastic import RandomizedClassifier, passes_per_query
from robustbench_local.evaluation.diagnostics.pass_budget import PassBudget
from robustbench_local.store.preprocessing_record import PreprocessingCheck
from robustbench_local.threats.threat_model import ThreatModel


@dataclass(kw_only=True)
class DiagnosedModel:
    """A classifier in evaluation mode, with a fixed sample of the run's images."""

    id: str
    """Model id from the grid file."""
    defense: str
    """Name of its defense."""
    classifier: Classifier
    """The classifier, a defended one as a whole."""
    images: Tensor
    """The first images of the data, (N, C, H, W)."""
    labels: Tensor
    """Their labels, (N,)."""
    ids: tuple[str, ...]
    """Their ids."""
    budget: PassBudget
    """Passes that may be taken."""
    seed: int
    """The run's seed."""
    declares_surrogate: bool = False
    """Whether its gradient is that of a smooth approximation (BPDA), as the model or its defense declares."""
    is_wrapped: bool = False
    """Whether a wrapper defense is around the model."""
    lacks_surrogate: bool = False
    """Whether its defense blocks gradients and declares nothing that replaces them."""
    preprocessing_check: PreprocessingCheck | None = None
    """What the first look at the model, without its wrapper, found; None if there was none."""
    class_names: tuple[str, ...] = ()
    """Names of the data's classes."""
    logits: Tensor = field(default_factory=lambda: torch.zeros(0, 2))
    """Answers to the first images, (M, K), M at most N."""
    threat: ThreatModel | None = None
    """The threat model of a diagnostic that runs for each norm."""
    findings: ModelFindings | None = None
    """What the inspection of the model found; None if there was none."""
    is_wholly_inspected: bool = False
    """Whether the inspection looked at operators and layers as well."""
    knows_parts: bool = False
    """Whether a shorter inspection looked for networks inside, as a whole one does."""
    missing_findings: str = "the model was not inspected"
    """Why there are no findings, without a full stop."""

    @property
    def draws_randomly(self) -> bool:
        """Whether the classifier declares its random numbers, and averages over draws itself."""
        return isinstance(self.classifier, RandomizedClassifier)

    @property
    def is_random(self) -> bool:
        """Whether answers vary, whether declared or not."""
        return self.draws_randomly or (self.findings is not None and self.findings.randomness.is_random)

    @property
    def gives_gradients(self) -> bool:
        """Whether attackers may use gradients."""
        return self.classifier.access == "gradients"

    @property
    def passes_per_query(self) -> int:
        """Forward passes of one answer."""
        return passes_per_query(self.classifier)[0]

    @property
    def correct_rows(self) -> Tensor:
        """Rows of the images that are classified correctly, in the order of the data, (M,)."""
        labels = self.labels[: len(self.logits)]
        return (self.logits.argmax(dim=1) == labels).nonzero().flatten()

    @contextmanager
    def track_passes(self, count: int) -> Iterator[list[int]]:
        """Count passes while open, against the budget; yields a list that holds them at the end.

        Args:
            count: Largest number of images in the batches that are counted.
        """
        spent = [0, 0]
        with self.classifier.count_passes(max(count, 1)) as counter:
            try:
                yield spent
            finally:
                spent[:] = [int(counter.forward_passes.sum()), int(counter.backward_passes.sum())]
                self.budget.spent += sum(spent)

    def compute_logits(self, images: Tensor) -> Tensor:
        """Return the answers to images, (N, K), in batches that fit into memory and without gradients."""
        size = compute_default_batch_size(images)
        with torch.no_grad():
            parts = [
                self.classifier(images[start : start + size].to(self.classifier.device)).cpu()
                for start in range(0, len(images), size)
            ]
        return torch.cat(parts)
