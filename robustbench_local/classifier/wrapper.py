"""A classifier around another one: the same network behind a change of its images or answers."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from robustbench_local.classifier import Access, Classifier, ClassifierSettings
from robustbench_local.classifier.image_borders import MASKED_BORDERS_NOTE


class WrappedClassifier(Classifier):
    """Wraps another classifier and shares its weights and preprocessing.

    A subclass implements ``_compute_logits`` and ``identity``. Passes are counted here per image, and not
    again in the wrapped classifier.

    Args:
        inner: The wrapped classifier; not changed, and still usable by itself.
        name: Name of the whole in messages; by default the name of the wrapped classifier.
        access: The attacker's access, by default that of the wrapped classifier.

    Attributes:
        has_approximated_gradient: Whether the gradient through the wrapper is that of a smooth approximation,
            as it declares (BPDA).
    """

    def __init__(self, inner: Classifier, *, name: str | None = None, access: Access | None = None) -> None:
        super().__init__(
            inner.model,
            num_classes=inner.num_classes,
            channels=inner.channels,
            class_names=inner.class_names,
            access=access or inner.access,
            output=inner.output,
            abstain=inner.abstention,
            name=name or inner.name,
            device=inner.device,
            preprocessing=inner.contract,
            provenance=inner.provenance,
            settings=ClassifierSettings(
                is_fork_safe=inner.settings.is_fork_safe, consistency=inner.settings.consistency
            ),
        )
        self._inner, self.memory_limit = inner, inner.memory_limit
        self.notes[:] = inner.notes
        self.has_approximated_gradient = False

    @property
    def inner(self) -> Classifier:
        """The wrapped classifier."""
        return self._inner

    @property
    @abstractmethod
    def identity(self) -> str:
        """The identity of the wrapper: everything besides the wrapped classifier that decides the answers."""

    @abstractmethod
    def _compute_logits(self, images: Tensor) -> Tensor:
        """Return logits, (N, K) float32, of checked images, (N, C, H, W) in [0, 1]."""

    @contextmanager
    def evaluation_mode(self) -> Iterator[None]:
        """See :meth:`Classifier.evaluation_mode`; the wrapped classifier is prepared too."""
        with self.inner.evaluation_mode(), super().evaluation_mode():
            yield

    @contextmanager
    def open_fresh_copy(self) -> Iterator[Classifier]:
        """See :meth:`Classifier.open_fresh_copy`; wraps a fresh copy of the wrapped classifier."""
        with self.inner.open_fresh_copy() as inner:
            yield self if inner is self.inner else self._wrap_copy(inner)

    def _remember_original(self) -> None:
        """Leave this to the wrapped classifier."""

    def _wrap_copy(self, inner: Classifier) -> Classifier:
        twin = copy.copy(self)
        twin._inner, twin._model, twin._pass_counters = inner, inner.model, []  # noqa: SLF001
        return twin

    def to(self, device: str | torch.device) -> Classifier:
        """See :meth:`Classifier.to`; the wrapped classifier moves too, because they share the module."""
        self.inner.to(device)
        return super().to(device)

    def describe_parts(self) -> dict[str, str]:
        """Describe the parts of the wrapped classifier's identity, and the wrapper."""
        around = f"{type(self).__name__}: {self.identity}"
        inner = self.inner.describe_parts()
        return {**inner, "wrapper": f"{inner['wrapper']}; {around}" if "wrapper" in inner else around}

    def find_masked_borders(self, images: Tensor) -> None:
        """See `Classifier`; the wrapped classifier is checked first."""
        self.inner.find_masked_borders(images)
        super().find_masked_borders(images)
        if self.inner.border_probe.masked:
            self.add_note(MASKED_BORDERS_NOTE)

    @property
    def forward_passes_per_call(self) -> int:
        """See `Classifier`; the wrapped classifier runs each of them."""
        return super().forward_passes_per_call * self.inner.forward_passes_per_call


def find_innermost(classifier: Classifier) -> Classifier:
    """Return the classifier of the model itself, within all wrappers."""
    while isinstance(classifier, WrappedClassifier):
        classifier = classifier.inner
    return classifier
