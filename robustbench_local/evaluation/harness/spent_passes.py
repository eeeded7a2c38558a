"""The passes that an attack and the harness spend on the attacked images."""

from __future__ import annotations

import torch
from torch import Tensor

from robustbench_local.classifier import Classifier
from robustbench_local.classifier.pass_counter import GradientCounts, PassCounter


class SpentPasses:
    """Passes spent on the attacked images, available whether or not the attack finishes.

    With a surrogate, the attack's passes are those on the surrogate, and the harness's are those on the
    classifier.

    Args:
        attacked_model: The model that the attack queries.
        count: Number of attacked images.
    """

    def __init__(self, attacked_model: Classifier, count: int) -> None:
        self._attacked_model, self._count = attacked_model, count
        self.pass_counters: list[PassCounter] = []
        self.partial_pass_counters: list[tuple[PassCounter, Tensor]] = []
        """Meters of some of the images, with their rows, (M,) int64 on the CPU."""

    @property
    def stages(self) -> list[str]:
        """The stage of the attack, if it has stages, that found the candidate of each image."""
        return self.pass_counters[0].stages

    def collect_gradient_counts(self) -> list[GradientCounts]:
        """Return the gradient counts of each image; call it before `passes`, which resets external ones."""
        others = self.split_external_passes()[1].tolist()
        counted = self.pass_counters[0].gradient_counts
        return [
            counts._replace(steps=counts.steps + more) for counts, more in zip(counted, others, strict=True)
        ]

    def split_external_passes(self) -> tuple[Tensor, Tensor]:
        """Split the passes of other libraries so far, which know no images, evenly: forward and backward."""
        forward, backward = self._attacked_model.external_passes
        return _split_passes_evenly(forward, self._count), _split_passes_evenly(backward, self._count)

    def collect_passes(self) -> list[tuple[int, int]]:
        """Return each image's passes; those of other libraries count as passes of these images alone."""
        forward, backward = self.split_external_passes()
        self._attacked_model.take_external_passes()
        for counter in self.pass_counters:
            forward, backward = forward + counter.forward_passes, backward + counter.backward_passes
        for counter, rows in self.partial_pass_counters:
            forward.index_add_(0, rows, counter.forward_passes)
            backward.index_add_(0, rows, counter.backward_passes)
        return list(zip(forward.tolist(), backward.tolist(), strict=True))


def _split_passes_evenly(total: int, count: int) -> Tensor:
    """Split the passes of an external attack, which reports only their total, into equal integer shares."""
    return total // count + (torch.arange(count) < total % count).long()
