"""Common random numbers: every query inside draws the same numbers, where that can be arranged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from robustbench_local.classifier import Classifier
from robustbench_local.classifier.state_guard import RandomStates, seed_everything
from robustbench_local.classifier.stochastic import RandomizedClassifier
from robustbench_local.randomness import RandomNumbers, RandomStream

PROBE_SEED = 20180201
"""Seed of the global generators in passes that have to draw the same numbers."""


@contextmanager
def preserve_randomness() -> Iterator[None]:
    """Restore the global random states afterwards."""
    states = RandomStates.from_process()
    try:
        yield
    finally:
        states.restore_states()


@contextmanager
def fix_draws(classifier: Classifier, stream: RandomStream) -> Iterator[Callable[[], None]]:
    """Make the draws of a classifier the same in every query.

    Args:
        classifier: Any classifier.
        stream: The images' random numbers.

    Yields:
        A function to call before each query.
    """
    draws: AbstractContextManager[None] = nullcontext()
    if isinstance(classifier, RandomizedClassifier):
        numbers = RandomNumbers(stream.compute_keys("probe", classifier.device))
        draws = classifier._use_numbers(numbers)  # noqa: SLF001
    with preserve_randomness(), draws:
        yield lambda: seed_everything(PROBE_SEED)
