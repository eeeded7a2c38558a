"""The part of a classifier that knows how it is used: its settings, and how many images fit into memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Self

import torch

from robustbench_local.classifier.abstention_declaration import Abstention
from robustbench_local.classifier.memory_limit import MemoryLimit
from robustbench_local.classifier.rejecting import RejectingClassifier
from robustbench_local.classifier.settings import ClassifierSettings


class ConfiguredClassifier(RejectingClassifier):
    """A classifier with settings of its use.

    Args:
        device: Device of the computation.
        abstention: How the model rejects images; None if it never does.
        settings: The settings to begin with.

    Attributes:
        memory_limit: Knows how many images fit into memory at once, wherever memory has run out.
    """

    def __init__(
        self, device: torch.device, abstention: Abstention | None, settings: ClassifierSettings
    ) -> None:
        super().__init__(device, abstention)
        self._settings = settings
        self.memory_limit = MemoryLimit()

    @property
    def settings(self) -> ClassifierSettings:
        """The settings of its use."""
        return self._settings

    def configure(self, **changes: Any) -> Self:
        """Change how the classifier is used; its identity stays.

        Args:
            **changes: Fields of `ClassifierSettings`; the others stay.

        Returns:
            This classifier.
        """
        self._settings = replace(self._settings, **changes)
        return self

    @contextmanager
    def use_batch_size(self, batch_size: int | None) -> Iterator[None]:
        """Set the batch size of attacks while the context is open; see `ClassifierSettings.batch_size`."""
        before = self._settings.batch_size
        self.configure(batch_size=batch_size)
        try:
            yield
        finally:
            self.configure(batch_size=before)

    def limit_batch_size(self, default: int) -> int:
        """Return the batch size of `ClassifierSettings`, or the default; less where memory ran out before."""
        return self.memory_limit.limit_size(self.settings.batch_size or default)

    @property
    def _smallest_part(self) -> int:
        """Smallest number of images that the model may be given at once."""
        return self._settings.fixed_batch_size or 1
