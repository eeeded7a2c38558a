"""Dynamic batching: images of several requests share a pass of the model."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from robustbench_local.classifier.foreign_errors import is_out_of_memory
from robustbench_local.serving.problems import build_overload_problem


@dataclass(frozen=True)
class _WaitingImages:
    """The images of one request that wait for the model."""

    images: Tensor
    answer: asyncio.Future[Tensor]


class BatchQueue:
    """Collects images of one size and gives them to a model in batches, one batch at a time.

    A batch starts when it is full, or when its first image has waited for ``max_wait_seconds``. If a batch
    of several requests fails, each request is tried alone, so that none can fail another. Where memory runs
    out, the model itself is given fewer images at once, see `MemoryLimit`.

    Args:
        compute: Images (N, C, H, W) to outputs (N, ...); it runs in ``executor``, off the event loop.
        executor: Runs the model.
        max_batch: Largest batch.
        max_wait_seconds: Longest wait for further images.
        max_waiting: Largest number of waiting images.
        observe_batch: Called with the number of images of each batch.
    """

    def __init__(
        self,
        compute: Callable[[Tensor], Tensor],
        executor: Executor,
        *,
        max_batch: int,
        max_wait_seconds: float,
        max_waiting: int,
        observe_batch: Callable[[int], None] = lambda _size: None,
    ) -> None:
        self._compute, self._executor, self._observe_batch = compute, executor, observe_batch
        self._max_batch, self._max_wait, self._max_waiting = max_batch, max_wait_seconds, max_waiting
        self._waiting: deque[_WaitingImages] = deque()
        self._waiting_count = 0
        self._has_work, self._is_full = asyncio.Event(), asyncio.Event()
        self._worker: asyncio.Task[None] | None = None

    @property
    def waiting_count(self) -> int:
        """Number of images that wait."""
        return self._waiting_count

    def start(self) -> None:
        """Start the worker; the event loop has to run."""
        self._worker = asyncio.create_task(self._work_forever())

    async def stop(self) -> None:
        """Stop the worker."""
        if self._worker is not None:
            self._worker.cancel()
            with suppress(asyncio.CancelledError):
                await self._worker

    def check_room(self, count: int) -> None:
        """Check before any work that there is room for so many images.

        Raises:
            ProblemError: 503 if there is none.
        """
        if self._waiting_count + count > self._max_waiting:
            raise build_overload_problem("too many images wait for the model")

    async def submit(self, images: Tensor) -> Tensor:
        """Wait for the outputs of some images.

        Args:
            images: (N, C, H, W), N at least 1.

        Raises:
            ProblemError: 503 if too many images wait, or memory runs out even for one.
            Exception: The model's.
        """
        self.check_room(len(images))
        request = _WaitingImages(images, asyncio.get_running_loop().create_future())
        self._waiting.append(request)
        self._waiting_count += len(images)
        self._has_work.set()
        if self._waiting_count >= self._max_batch:
            self._is_full.set()
        return await request.answer

    async def _work_forever(self) -> None:
        while True:
            await self._has_work.wait()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._is_full.wait(), self._max_wait)
            await self._run_batch(self._take_batch())

    def _take_batch(self) -> list[_WaitingImages]:
        """Take the requests of the next batch, at least one; a cancelled request is left out."""
        batch: list[_WaitingImages] = []
        size = 0
        while self._waiting and (not batch or size + len(self._waiting[0].images) <= self._max_batch):
            request = self._waiting.popleft()
            self._waiting_count -= len(request.images)
            if not request.answer.done():
                batch.append(request)
                size += len(request.images)
        if not self._waiting:
            self._has_work.clear()
        if self._waiting_count < self._max_batch:
            self._is_full.clear()
        return batch

    async def _run_batch(self, batch: Sequence[_WaitingImages]) -> None:
        if not batch:
            return
        try:
            outputs = await self._compute_outputs(torch.cat([request.images for request in batch]))
        except Exception as error:  # noqa: BLE001 - it belongs to the requests, not to the worker
            if len(batch) > 1:
                for request in batch:
                    await self._run_batch([request])
            elif not batch[0].answer.done():
                is_shortage = is_out_of_memory(error)  # even with one image: another request may fit
                problem = build_overload_problem("memory ran out for the model") if is_shortage else error
                batch[0].answer.set_exception(problem)
            return
        sizes = [len(request.images) for request in batch]
        for request, output in zip(batch, torch.split(outputs, sizes), strict=True):
            if not request.answer.done():
                request.answer.set_result(output)

    async def _compute_outputs(self, images: Tensor) -> Tensor:
        """Compute the outputs of some images in batches of at most the largest size."""
        loop = asyncio.get_running_loop()
        parts = []
        for part in torch.split(images, self._max_batch):
            self._observe_batch(len(part))
            parts.append(await loop.run_in_executor(self._executor, self._compute, part))
        return torch.cat(parts)
