"""The first queries to a model, made before any attack so that mistakes show at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from robustbench_local.classifier import Classifier
from robustbench_local.classifier.foreign_errors import extract_first_line, is_out_of_memory
from robustbench_local.errors import ModelError, ModelTimeoutError, ProcessEndedError, RobustbenchError
from robustbench_local.evaluation.isolation.isolated_call import call_isolated
from robustbench_local.evaluation.probes.consistency_findings import ConsistencyResult
from robustbench_local.evaluation.probes.consistency_probe import probe_consistency
from robustbench_local.models.http_model import MAX_IDENTITY_IMAGES, Endpoint

MAX_COPY_SECONDS = 60.0
"""Seconds that a model may take for one image in a fork after it has answered before."""
_UNKNOWN_CONSISTENCY = ConsistencyResult(
    kind="consistent",
    notes=(
        (
            "its process ends when it is asked about made-up images: whether an image's answer is its own, "
            "and whether its gradients break off at black and white pixels, is not known"
        ),
    ),
)
"""The consistency of a model that can only be queried on images of the data."""

MAX_SINGLE_IMAGES = 3
"""Maximum number of images queried one by one, if the first ones together end the model's process."""


@dataclass(frozen=True, kw_only=True)
class ModelProbeResult:
    """Properties of a model found by its first queries; they can be sent to another process."""

    notes: tuple[str, ...]
    """Notes on the model for a reader of the results."""
    smallest_batch: int
    """Minimum batch size."""
    consistency: ConsistencyResult
    """Whether an answer depends on its image alone."""
    has_masked_borders: bool
    """Whether its gradients vanish at pixels of exactly 0 or 1."""
    first_labels: str
    """A service's answers, which are part of its identity; empty for other models."""
    is_complete: bool = True
    """Whether it was queried on all of the first images, and not on one of them only."""


def probe_model(
    classifier: Classifier, images: Tensor, *, should_compare: bool = True, should_use_gradients: bool = True
) -> ModelProbeResult:
    """Query some images together and, where queries are free, one and two of them.

    Args:
        classifier: The classifier.
        images: (N, C, H, W) in [0, 1], some of the images to evaluate.
        should_compare: Whether to check that an image's answer depends on it alone, which takes synthetic
            images.
        should_use_gradients: Whether gradients may be computed.

    Returns:
        The result; `apply_model_probe` applies it to the classifier in another process.

    Raises:
        ModelError: If the model cannot answer, or not as a classifier does.
    """
    images = images[:MAX_IDENTITY_IMAGES].to(classifier.device)
    with convert_model_errors(classifier.name), classifier.evaluation_mode(), torch.no_grad():
        if isinstance(classifier.model, Endpoint):
            classifier(images)
        else:
            _query_first_images(classifier, images)
        consistency = (
            probe_consistency(classifier, images, should_use_gradients=should_use_gradients)
            if should_compare
            else _UNKNOWN_CONSISTENCY
        )
        if should_compare and should_use_gradients and classifier.access == "gradients":
            classifier.find_masked_borders(images)
    model = classifier.model
    return ModelProbeResult(
        notes=tuple(classifier.notes),
        smallest_batch=classifier.settings.min_batch_size,
        consistency=consistency,
        has_masked_borders=classifier.border_probe.masked,
        first_labels=model.first_labels if isinstance(model, Endpoint) else "",
    )


def _query_first_images(classifier: Classifier, images: Tensor) -> None:
    """Query all images together, then two and one; a failing single image is left to the evaluation."""
    try:
        for chosen in (images, images[:1], images[:2]):
            classifier(chosen)
    except ModelError as problem:
        answered = [_is_answered(classifier, images[row : row + 1]) for row in range(len(images))]
        if all(answered) or not any(answered):  # it is the number of images, or any image
            raise
        classifier.add_note(f"fails on some of its first images: {problem}")


def _is_answered(classifier: Classifier, image: Tensor) -> bool:
    try:
        classifier(image)
    except ModelError:
        return False
    return True


_FIRST_ROWS = slice(0, MAX_IDENTITY_IMAGES)
"""The images that a probe looks at; a selection of all images would bring those on the disk into memory."""


class ProbeFunction(Protocol):
    """Queries a model on some of the images; see `probe_model`."""

    def __call__(self, rows: slice, *, should_compare: bool, should_use_gradients: bool) -> ModelProbeResult:
        """Return the result for those images."""


def probe_in_child(count: int, probe: ProbeFunction, *, timeout: float | None, name: str) -> ModelProbeResult:
    """Probe in a child process; if that ends or hangs, retry without gradients or image by image.

    A process that still ends may have failed on a synthetic image of the comparison: then only images of the
    data are queried.

    Args:
        count: Number of images.
        probe: The probe.
        timeout: Seconds within which a pass has to finish; None for no limit.
        name: Name of the model in messages.

    Raises:
        ProcessEndedError: If the model ends its process on every query.
        ModelTimeoutError: If it hangs.
    """

    def ask(
        rows: slice, *, should_compare: bool = True, should_use_gradients: bool = True
    ) -> ModelProbeResult:
        question = partial(
            probe, rows, should_compare=should_compare, should_use_gradients=should_use_gradients
        )
        return call_isolated(question, timeout=timeout, name=name)

    try:
        return ask(_FIRST_ROWS)
    except (ProcessEndedError, ModelTimeoutError) as problem:
        with suppress(ProcessEndedError, ModelTimeoutError):
            note = f"asked its first questions without a backward pass, for with one {problem.what}"
            return _add_note(ask(_FIRST_ROWS, should_use_gradients=False), note)
        hangs = isinstance(problem, ModelTimeoutError)  # which costs the whole timeout each time
        rows = range(min(MAX_SINGLE_IMAGES - 2 * hangs, count) if count > 1 else 0)
        note = f"asked its first questions about a single image, for among several {problem.what}"
        for compare in (True,) if hangs else (True, False):
            for row in rows:
                with suppress(ProcessEndedError, ModelTimeoutError):
                    result = ask(slice(row, row + 1), should_compare=compare)
                    return replace(_add_note(result, note), is_complete=False)
        raise


def _add_note(probe: ModelProbeResult, note: str) -> ModelProbeResult:
    return replace(probe, notes=(*probe.notes, note))


def probe_copying(classifier: Classifier, images: Tensor, timeout: float | None) -> None:
    """Check whether a model still answers in a fork of this process, and store the result.

    A model with threads of its own, such as a session of another library, hangs there: it runs here.

    Args:
        classifier: The classifier.
        images: (N, C, H, W), some of the images to evaluate.
        timeout: Seconds that an answer may take; None for no limit.
    """
    patience = min(timeout or MAX_COPY_SECONDS, MAX_COPY_SECONDS)

    def ask() -> None:
        with classifier.evaluation_mode(), torch.no_grad(), suppress(ModelError):
            classifier(images[:1])

    try:
        call_isolated(ask, timeout=patience, name=classifier.name)
    except ProcessEndedError:
        pass  # which the evaluation will show
    except ModelTimeoutError:
        classifier.configure(is_fork_safe=False)
        classifier.add_note(
            "hangs in a copy of the process (has it threads of its own?): it is used in the run's"
        )


def apply_model_probe(classifier: Classifier, probe: ModelProbeResult) -> None:
    """Apply the result of a probe in another process to a classifier."""
    for note in probe.notes:
        classifier.add_note(note)
    classifier.configure(min_batch_size=probe.smallest_batch)
    classifier.border_probe.set_result(masked=probe.has_masked_borders)
    if isinstance(classifier.model, Endpoint):
        classifier.model.first_labels = probe.first_labels


@contextmanager
def convert_model_errors(name: str) -> Iterator[None]:
    """Convert every exception of a model that is not this package's own to a model error.

    Args:
        name: Name of the model.
    """
    try:
        yield
    except RobustbenchError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            what = f"runs out of memory on its first images: {extract_first_line(error)}"
            remedy = "give it more memory, or smaller images"
            raise ModelError(what, where=name, remedy=remedy) from error
        what = f"raised {type(error).__name__} before any attack: {extract_first_line(error)}"
        remedy = "see that it can be put into evaluation mode and called with images in [0, 1]"
        raise ModelError(what, where=name, remedy=remedy) from error
