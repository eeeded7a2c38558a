"""Classifiers behind a defense that changes their images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from torch import Tensor

from robustbench_local.classifier import Access, Classifier
from robustbench_local.classifier.stochastic import RandomizedClassifier
from robustbench_local.classifier.wrapper import WrappedClassifier
from robustbench_local.errors import ConfigError
from robustbench_local.randomness import RandomNumbers

UNVERIFIED_NOTE = (
    "its defense has no surrogate that gradients could go back through: gradient attacks are skipped, and "
    "what it seems to withstand is unverified"
)
"""Caveat of a defense that only masks gradients."""


Transform = TypeVar("Transform", bound=Callable[..., Tensor])


class _DefendedBase(WrappedClassifier, Generic[Transform]):
    """The common part of both classifiers: the transform, and whether gradients pass through it."""

    def __init__(
        self,
        inner: Classifier,
        transform: Transform,
        *,
        identity: str,
        has_gradient: bool,
        is_approximated: bool = False,
    ) -> None:
        super().__init__(inner, access=_restrict_access(inner, has_gradient))
        self.has_approximated_gradient = is_approximated
        self._transform, self._identity = transform, identity
        if not has_gradient:
            self.add_note(UNVERIFIED_NOTE)


class DefendedClassifier(_DefendedBase[Callable[[Tensor], Tensor]]):
    """A classifier behind a deterministic transform of its images.

    Args:
        inner: The wrapped classifier.
        transform: (N, C, H, W) in [0, 1] to the same.
        identity: Description of all that determines ``transform``.
        has_gradient: Whether gradients pass through ``transform``, exactly or by a surrogate.
        is_approximated: Whether it is by a surrogate (BPDA).
    """

    @property
    def identity(self) -> str:
        """Identity of the transform."""
        return self._identity

    def _compute_logits(self, images: Tensor) -> Tensor:
        return self.inner(self._transform(images))


class RandomlyDefendedClassifier(
    _DefendedBase[Callable[[Tensor, RandomNumbers], Tensor]], RandomizedClassifier
):
    """A classifier behind a random transform of its images.

    Args:
        inner: The wrapped classifier.
        transform: (N, C, H, W) in [0, 1] and random numbers to the same shape.
        identity: Description of all that determines ``transform``.
        has_gradient: Whether gradients pass through ``transform``, exactly or by a surrogate.
        is_approximated: Whether it is by a surrogate (BPDA).
    """

    @property
    def identity(self) -> str:
        """Identity of the transform, and the number of draws averaged."""
        return f"{self._identity}, {self.draws} and {self.verdict_draws} draws"

    def sample(self, images: Tensor, numbers: RandomNumbers) -> Tensor:
        """See :meth:`RandomizedClassifier.sample`."""
        return self.inner(self._transform(images, numbers))


def _restrict_access(inner: Classifier, verified: bool) -> Access:
    """Return the access of the whole; refuses draws that the harness would not know of."""
    if isinstance(inner, RandomizedClassifier):
        raise ConfigError(
            "is stochastic and cannot be wrapped by another defense",
            where=inner.name,
            remedy="put the random defense around the other one",
        )
    return "scores" if inner.access == "gradients" and not verified else inner.access
