"""The largest batch of a model that fits into memory, found where a larger one did not.

Every question to a model goes through this limit, so that memory that runs out in a probe, a search, a
verification or a service costs another pass and never a verdict.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import TypeVar

import torch
from torch import Tensor

from robustbench_local.classifier.foreign_errors import is_out_of_memory
from robustbench_local.classifier.recomputed_parts import compute_in_parts

T = TypeVar("T")


class MemoryLimit:
    """Repeats a computation with fewer images at once where memory runs out, and remembers how many fit.

    Attributes:
        max_images: Images that a model is given at once; None until memory has run out.
    """

    def __init__(self) -> None:
        self.max_images: int | None = None
        self._is_watching = False

    def limit_size(self, size: int) -> int:
        """Return a batch size that fits: ``size``, or the limit if that is smaller."""
        return size if self.max_images is None else min(size, self.max_images)

    def lower_limit(self, max_images: int | None) -> None:
        """Lower the limit to one that is known from elsewhere, such as another process; None: unknown."""
        if max_images is not None:
            self.max_images = self.limit_size(max(1, max_images))

    @contextmanager
    def raise_at_once(self) -> Iterator[None]:
        """Let errors of memory pass while open, as a measurement of batch sizes needs."""
        before, self._is_watching = self._is_watching, True
        try:
            yield
        finally:
            self._is_watching = before

    def run_with_retries(self, compute: Callable[[], T], count: int, min_size: int = 1) -> T:
        """Call a function again with a lower limit, as often as memory runs out in it.

        Args:
            compute: The function; it gives the model no more than `max_images` images at once.
            count: Images that it is about.
            min_size: The smallest number of images that the model accepts.

        Returns:
            Its result.

        Raises:
            Exception: The function's; an error of memory once ``min_size`` images do not fit. The limit is
                then what it was, because the number of images is not the cause.
        """
        if self._is_watching:
            return compute()
        before = self.max_images
        with self.raise_at_once():
            while True:
                try:
                    return compute()
                except Exception as error:
                    if not is_out_of_memory(error):
                        raise
                    tried = self.limit_size(count)
                    if tried <= min_size:
                        self.max_images = before
                        raise
                # outside of the handler: its traceback holds the tensors of the failed attempt
                self.max_images = max(min_size, halve_size(tried))
                release_memory()

    def repeat_with_less(self, compute: Callable[[], T], count: int) -> T:
        """Call a function again with a lower limit where memory runs out beside its questions to the model.

        Its questions are repeated by themselves first, as always; only an error of memory that none of them
        could help repeats the whole.

        Args:
            compute: The function.
            count: Images that it is about.

        Returns:
            Its result.

        Raises:
            Exception: The function's; an error of memory that comes twice while the model is given one image
                at a time. The limit is then what it was.
        """
        before, is_last = self.max_images, False
        while True:
            try:
                return compute()
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                tried = self.limit_size(count)
                if is_last:
                    self.max_images = before
                    raise
                is_last = tried <= 1  # what is released may be enough
            self.max_images = halve_size(tried)
            release_memory()

    def compute_logits(
        self, function: Callable[[Tensor], Tensor], images: Tensor, *, min_size: int = 1
    ) -> Tensor:
        """Return logits of images, (N, K), in parts that fit into memory.

        With gradients, a part's activations are computed again in the backward pass, so that those of one
        part only are in memory at a time.

        Args:
            function: (N, C, H, W) to (N, K).
            images: (N, C, H, W).
            min_size: The smallest number of images that it accepts; parts are multiples of it.
        """
        return self.run_with_retries(
            lambda: self._compute_in_parts(function, images, min_size), len(images), min_size
        )

    def _compute_in_parts(
        self, function: Callable[[Tensor], Tensor], images: Tensor, min_size: int
    ) -> Tensor:
        size = max(self.limit_size(len(images)) // min_size, 1) * min_size
        if size >= len(images):
            return function(images)
        return compute_in_parts(function, images, size)


@cache
def _find_malloc_trim() -> Callable[[int], int] | None:
    """Return the function of the C library that gives freed memory back to the system; None without one."""
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None


def halve_size(size: int) -> int:
    """Return half of a size of at least 1, rounded up."""
    return (size + 1) // 2


def drop_tracebacks(error: BaseException) -> None:
    """Forget the frames that an exception and its causes were raised in: they hold the tensors of then."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        if (one := waiting.pop()) is not None and id(one) not in seen:
            seen.add(id(one))
            one.__traceback__ = None
            waiting += [one.__cause__, one.__context__]


def release_memory() -> None:
    """Give memory back that nothing uses, before a retry: Python's cycles and the caches of devices."""
    gc.collect()
    if (trim := _find_malloc_trim()) is not None:
        trim(0)  # pieces of freed memory that lie between others hold no tensor
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()
