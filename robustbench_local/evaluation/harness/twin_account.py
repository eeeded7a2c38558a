"""What a batch of a twin job spends and finds, image by image: passes on the twin are counted apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from robustbench_local.classifier import Classifier
from robustbench_local.classifier.pass_counter import GradientCounts, PassCounter
from robustbench_local.evaluation.harness.spent_passes import SpentPasses
from robustbench_local.store.records import SearchPhase


@dataclass
class TwinLedger:
    """The candidates that an attack on the twin left, the phase of each success, and the twin's passes."""

    candidates: dict[str, Tensor] = field(default_factory=dict)
    """The candidate of each image for the twin itself, (C, H, W), by the image's id."""
    phases: dict[str, SearchPhase] = field(default_factory=dict)
    """The phase that found the success of an image."""
    passes: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Forward and backward passes on the twin."""

    def add_passes(self, ids: Sequence[str], forward: Tensor, backward: Tensor) -> None:
        """Add passes on the twin of images, (N,) int64 each."""
        for image, steps, slopes in zip(ids, forward.tolist(), backward.tolist(), strict=True):
            known = self.passes.get(image, (0, 0))
            self.passes[image] = (known[0] + steps, known[1] + slopes)

    def add_phase(self, ids: Sequence[str], phase: SpentPasses, twin: PassCounter) -> None:
        """Add the twin's passes in a phase of the search; another library's went through both models.

        Args:
            ids: The images of the phase.
            phase: The account of the phase, before its passes are collected.
            twin: The counter of the twin.
        """
        forward, backward = phase.split_external_passes()
        self.add_passes(ids, twin.forward_passes + forward, twin.backward_passes + backward)


class TwinSpentPasses(SpentPasses):
    """The account of the artefact's passes over several phases; gradients are those of the twin.

    Args:
        attacked_model: The view that the search queries.
        count: Number of attacked images.
    """

    def __init__(self, attacked_model: Classifier, count: int) -> None:
        super().__init__(attacked_model, count)
        self._stages = [""] * count
        self._forward = torch.zeros(count, dtype=torch.int64)
        self._gradients = [GradientCounts(0, 0, 0, 0, 0) for _ in range(count)]

    @property
    def stages(self) -> list[str]:
        """The stage of the attack, if it has stages, that found the candidate of each image."""
        return self._stages

    def add_phase(self, phase: SpentPasses, rows: Tensor, twin: PassCounter) -> None:
        """Add the passes and gradients of a phase of the search on some images.

        Args:
            phase: The account of the phase.
            rows: The rows of its images here, (M,) int64 on the CPU.
            twin: The counter of the twin in that phase.
        """
        counted = zip(phase.collect_gradient_counts(), twin.gradient_counts, strict=True)
        for row, pair in zip(rows.tolist(), counted, strict=True):
            sums = [sum(values) for values in zip(self._gradients[row], *pair, strict=True)]
            self._gradients[row] = GradientCounts(*sums)
        spent = torch.tensor(phase.collect_passes(), dtype=torch.int64).reshape(-1, 2)
        self._forward.index_add_(0, rows, spent[:, 0])

    def record_stages(self, phase: SpentPasses, rows: Tensor, places: Sequence[int]) -> None:
        """Record the stages of the candidates that were taken over from a phase."""
        stages = phase.stages
        for place in places:
            self._stages[int(rows[place])] = stages[place]

    def collect_gradient_counts(self) -> list[GradientCounts]:
        """Return the gradient counts of each image."""
        return self._gradients

    def collect_passes(self) -> list[tuple[int, int]]:
        """Return each image's passes on the artefact, which has no backward ones."""
        forward = self._forward.clone()
        for counter, rows in self.partial_pass_counters:
            forward.index_add_(0, rows, counter.forward_passes)
        return [(count, 0) for count in forward.tolist()]
