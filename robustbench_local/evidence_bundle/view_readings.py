"""The photographs of signs with stickers in a bundle, read again with a model that the verifier has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt
import torch

from robustbench_local.evaluation.planning.plan import EvaluationSubject
from robustbench_local.evidence_bundle.cell_threat import name_example
from robustbench_local.evidence_bundle.check_results import BundleError
from robustbench_local.evidence_bundle.example_checks import ListedExamples
from robustbench_local.evidence_bundle.readings import Readings
from robustbench_local.store.records import ViewPredictionsRecord

LIMIT_PROBABILITY = 1e-3
"""Largest difference between the probabilities of two classes that rounding may turn round."""
_KINDS = {"view": ("photographs", "photograph_numbers"), "approach": ("frames", "frame_numbers")}


def read_photographs(
    subject: EvaluationSubject, examples: ListedExamples, batch_size: int, readings: Readings
) -> None:
    """Read the stored photographs of one cell again.

    Args:
        subject: The model, defended as in the run.
        examples: The signs with their photographs and the predictions that are stated.
        batch_size: Images that are predicted together.
        readings: Receives what was found, one entry a photograph.
    """
    if not examples.images.photographs:
        readings.skipped["signs with stickers, whose photographs are not in the bundle"] += len(
            examples.outcomes
        )
        return
    unread = 0
    for row, outcome in enumerate(examples.outcomes):
        photographs = {name: values[row] for name, values in examples.images.photographs.items()}
        stated = examples.list_sticker_predictions(outcome.position)
        unread += sum(len(record.predictions) for record in stated.values())
        for pixels, name, predicted in _list_photographs(photographs, stated):
            unread -= len(pixels)
            for start in range(0, len(pixels), batch_size):
                rows = slice(start, start + batch_size)
                found, is_close = _predict(subject, pixels[rows])
                for index, (before, after) in enumerate(zip(predicted[rows], found, strict=True)):
                    where = f"{name_example(examples.cell, outcome)}, {name} {start + index + 1}"
                    _compare_reading(where, (before, after), readings, is_close=is_close[index])
    if unread:
        readings.skipped["views of signs, of which the run stores no photograph"] += unread


def _list_photographs(
    photographs: Mapping[str, npt.NDArray[np.generic]], stated: Mapping[str, ViewPredictionsRecord]
) -> Iterator[tuple[npt.NDArray[np.generic], str, list[int | None]]]:
    """List the photographs of a sign of each kind, their name, and the predictions that are stated."""
    for kind, (name, numbers) in _KINDS.items():
        if kind in stated and name in photographs:
            predictions = stated[kind].predictions
            chosen = [int(number) for number in photographs[numbers].ravel()]
            if len(set(chosen)) < len(chosen):
                raise BundleError("a photograph is listed twice")
            if not all(0 <= number < len(predictions) for number in chosen):
                raise BundleError("a photograph is of a view that has no prediction")
            yield photographs[name], name.removesuffix("s"), [predictions[number] for number in chosen]


def _predict(
    subject: EvaluationSubject, pixels: npt.NDArray[np.generic]
) -> tuple[list[int | None], list[bool]]:
    """Return the class of each photograph, None if the output is not finite, and whether two are close."""
    images = torch.from_numpy(pixels.astype(np.float32) / np.float32(255))
    classifier = subject.classifier
    with classifier.evaluation_mode(), classifier.open_fresh_copy() as judge, torch.no_grad():
        logits = judge(images.to(classifier.device)).cpu().double()
    finite = torch.isfinite(logits).all(dim=1)
    likely, classes = logits.masked_fill(~finite[:, None], 0.0).softmax(dim=1).topk(2, dim=1)
    found = [int(classes[row, 0]) if finite[row] else None for row in range(len(images))]
    return found, [is_close_reading(first, second) for first, second in likely.tolist()]


def is_close_reading(first: float, second: float) -> bool:
    """Return whether rounding may turn the two most probable classes round."""
    return first - second <= LIMIT_PROBABILITY


def _compare_reading(
    where: str,
    classes: tuple[int | None, int | None],
    readings: Readings,
    *,
    is_close: bool,
) -> None:
    stated, found = classes
    if stated == found:
        readings.stands += 1
        return
    line = f"{where}: class {stated} is stated, {found} is found"
    if readings.is_random:
        readings.doubts.append(f"{line}; the model answers at random")
    elif is_close:
        readings.doubts.append(f"{line}; the probabilities are within rounding")
    else:
        readings.failures.append(line)
