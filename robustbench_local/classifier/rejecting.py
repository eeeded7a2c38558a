"""The part of a classifier that knows about rejected images, and the view of it that attacks have."""

from __future__ import annotations

import copy
from typing import Final, Self

import torch
from torch import Tensor

from robustbench_local.classifier.abstention import merge_rejection
from robustbench_local.classifier.abstention_declaration import Abstention
from robustbench_local.classifier.pass_account import PassAccount


class RejectingClassifier(PassAccount):
    """A classifier that may reject images.

    Args:
        device: Device of the computation.
        abstention: How the model rejects images; None if it never does.

    Attributes:
        abstention: As above.
    """

    def __init__(self, device: torch.device, abstention: Abstention | None) -> None:
        super().__init__(device)
        self.abstention: Final = abstention
        self._accepted_labels: Tensor | None = None
        self._accepted_originals: Tensor | None = None

    def accept_only(self, originals: Tensor, labels: Tensor) -> Self:
        """Return the view that attacks have: a rejected image counts as classified as its label.

        It shares everything with this classifier, passes included. This classifier itself if it never
        rejects an image.

        Args:
            originals: The images under attack, (N, C, H, W): ``rows`` of later calls are their indices.
            labels: Their true classes, (N,).
        """
        if self.abstention is None:
            return self
        view = copy.copy(self)
        view._accepted_labels, view._accepted_originals = labels, originals  # noqa: SLF001 - a view of itself
        return view

    def copy_accepted_labels(self, other: RejectingClassifier) -> None:
        """Become the same view of attacks as another classifier."""
        self._accepted_labels = other._accepted_labels
        self._accepted_originals = other._accepted_originals

    def _merge_rejection(self, logits: Tensor, rows: Tensor | None) -> Tensor:
        """Merge the rejecting logit with the labels', see `merge_rejection`; only in the view of attacks."""
        if self._accepted_labels is None:
            return logits
        labels = self._accepted_labels.to(logits.device)
        own = labels[: len(logits)] if rows is None else labels[rows.to(labels.device)]
        return merge_rejection(logits, own)

    def _find_nearest_originals(self, images: Tensor) -> Tensor | None:
        """Return the index of the original nearest to each image, (N,): another library passes no rows."""
        originals = self._accepted_originals
        if originals is None:
            return None
        away = torch.cdist(images.detach().flatten(1), originals.to(images).flatten(1), p=torch.inf)
        return away.argmin(dim=1)
