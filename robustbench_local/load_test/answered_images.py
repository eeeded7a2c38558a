"""Answers of a service to images, one set after another: accuracies, and whether answers stay the same."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from torch import Tensor

from robustbench_local.cluster_statistics import estimate_image_share
from robustbench_local.errors import ModelError, UnreachableError
from robustbench_local.load_test.http_connections import HttpConnections, RequestError
from robustbench_local.load_test.sent_images import SentImages
from robustbench_local.load_test.service import Service
from robustbench_local.load_test.wire_formats import Body
from robustbench_local.store.load_test_records import AccuracyRow, Figure

UNANSWERED = -2
"""Stands for an image whose request failed."""
_REQUESTS_AT_ONCE = 4
_REMEDIES = {
    413: "send smaller batches, or raise its --max-body",
    422: "send smaller batches, or name the right --protocol",
    429: "start it with --rate 0",
    503: "start it with a longer --max-queue",
}
Predictions = Mapping[str, Sequence[int]]
"""Predicted class of each image, by the name of the set."""


async def predict_sets(
    service: Service,
    connections: HttpConnections,
    images: SentImages,
    *,
    batch_size: int,
    timeout: float,
    tolerates_failures: bool,
) -> Predictions:
    """Ask for the class of every image.

    Args:
        service: The service.
        connections: Connections to it.
        images: The images.
        batch_size: Images in a request.
        timeout: Seconds after which a request has failed.
        tolerates_failures: Whether an image of a failed request is ``UNANSWERED``.

    Raises:
        UnreachableError: If a request fails, unless that is tolerated.
        ModelError: If an answer cannot be read, unless that is tolerated.
    """
    slots = asyncio.Semaphore(_REQUESTS_AT_ONCE)

    async def predict_part(part: Tensor) -> tuple[int, ...]:
        body = service.wire.encode_images(part)
        async with slots:
            try:
                return await _predict_part(service, connections, body, len(part), timeout)
            except ModelError:
                if tolerates_failures:
                    return (UNANSWERED,) * len(part)
                raise

    answers = {}
    for name, tensor in images.sets.items():
        parts = [tensor[first : first + batch_size] for first in range(0, len(tensor), batch_size)]
        labels = await asyncio.gather(*(predict_part(part) for part in parts))
        answers[name] = [label for part in labels for label in part]
    return answers


async def _predict_part(
    service: Service, connections: HttpConnections, body: Body, count: int, timeout: float
) -> tuple[int, ...]:
    where = service.address.url
    try:
        async with asyncio.timeout(timeout):
            answer = await connections.post_body(body.content, body.content_type)
    except TimeoutError:
        raise UnreachableError(
            f"no answer within {timeout:g} s", where=where, remedy="raise --timeout, or check it"
        ) from None
    except RequestError as error:
        raise UnreachableError(f"it does not answer: {error.kind}", where=where, remedy="check it") from None
    if answer.status != 200:
        remedy = _REMEDIES.get(answer.status, "check the URL, --protocol and --token")
        raise UnreachableError(f"it answers {answer.status}", where=where, remedy=remedy)
    return service.wire.read_labels(answer.content, count)


def compare_accuracies(images: SentImages, before: Predictions, after: Predictions) -> list[AccuracyRow]:
    """Compare the answers before the loads with those after them; without labels there is no accuracy."""
    rows = []
    for name in images.sets:
        pairs = list(zip(before[name], after[name], strict=True))
        changed = sum(first != second for first, second in pairs)
        first, second = (_estimate_accuracy(images, answers[name]) for answers in (before, after))
        rows.append(AccuracyRow(images=name, before=first, after=second, changed=changed, n=len(pairs)))
    return rows


def _estimate_accuracy(images: SentImages, predictions: Sequence[int]) -> Figure:
    if images.labels is None:
        return Figure(value=None, low=None, high=None, n=0)
    marks = {
        name: prediction == label
        for name, prediction, label in zip(images.ids, predictions, images.labels, strict=True)
    }
    return Figure.from_estimate(estimate_image_share(marks, images.groups))
