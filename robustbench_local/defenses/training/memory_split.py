"""Training steps for which memory runs out: the networks are given fewer images at once.

The loss stays that of the whole batch. Only the calls of the networks inside it are computed part by part,
and their activations again in the backward pass (see `recomputed_parts`), so that a step is the same up to
rounding, whatever the loss does with the logits: weights that are perturbed, an adversary, draws. Two kinds
of layers see the parts: BatchNorm normalizes each part by itself, and layers that draw random numbers, such
as dropout, draw others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from robustbench_local.classifier.foreign_errors import is_out_of_memory
from robustbench_local.classifier.memory_limit import MemoryLimit
from robustbench_local.classifier.recomputed_parts import RowsFunction, compute_in_parts
from robustbench_local.classifier.state_guard import RandomStates
from robustbench_local.counted_nouns import format_count
from robustbench_local.errors import ModelMemoryError

T = TypeVar("T")
MIN_BATCH_NORM_IMAGES = 2
"""Least images of a part in training for a network with BatchNorm: the variance of one image may be none."""


class MemorySplit:
    """Repeats the work of a training with smaller parts where memory runs out, and remembers what fits.

    Args:
        report: Prints a line for the user.

    Attributes:
        limit: Knows how many images fit into memory at once.
    """

    def __init__(self, report: Callable[[str], None] = lambda _line: None) -> None:
        self.limit = MemoryLimit()
        self._report = report
        self._networks: list[nn.Module] = []
        self._own_forwards: list[RowsFunction | None] = []  # those that are not of the class

    def add_network(self, network: nn.Module) -> nn.Module:
        """Add a network whose calls may be split, and return it."""
        if all(network is not known for known in self._networks):
            self._networks.append(network)
            self._own_forwards.append(network.__dict__.get("forward"))
        return network

    def run(
        self,
        compute: Callable[[], T],
        count: int,
        *,
        generator: torch.Generator | None = None,
        forget: Callable[[], None] = lambda: None,
    ) -> T:
        """Return what a function computes with the networks; again with smaller parts if memory runs out.

        Args:
            compute: The function. Everything that it draws and every buffer of a network is put back before
                it is called again.
            count: Images that it is about.
            generator: The generator that it draws from.
            forget: Undoes what else a failed call has left behind.

        Raises:
            ModelMemoryError: If memory runs out even with the smallest parts.
            Exception: The function's.
        """
        before, start = self.limit.max_images, _StepState(self._networks, generator)
        is_repeated = False

        def attempt() -> T:
            nonlocal is_repeated
            if is_repeated:
                start.restore_state()
                forget()
            is_repeated = True
            with self._split_networks(count):
                return compute()

        try:
            result = self.limit.run_with_retries(attempt, count, min(self._min_part, count))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise self._build_error(count, error) from error
        if self.limit.max_images != before:
            self._report(self._describe_change(count if before is None else min(count, before)))
        return result

    def compute_rows(self, function: RowsFunction, rows: tuple[Tensor, ...]) -> Tensor:
        """Return a function's outputs, (N, K), in parts that fit; gradients reach weights inside it.

        Args:
            function: Tensors of N rows each to (N, K), each row by itself.
            rows: Its arguments.
        """

        def compute(*part: Tensor) -> Tensor:
            with self._whole_networks():  # it may trace them
                return function(*part)

        return compute_in_parts(compute, rows, self._choose_sizes(len(rows[0])), trains_weights=True)

    @property
    def _min_part(self) -> int:
        """Smallest part that the networks accept in their present mode."""
        layers = (layer for network in self._networks for layer in network.modules())
        has_batch_norm = any(_is_batch_norm(layer) and layer.training for layer in layers)
        return MIN_BATCH_NORM_IMAGES if has_batch_norm else 1

    def _choose_sizes(self, count: int) -> list[int]:
        """Return the sizes of the parts, as equal as they can be."""
        size = self.limit.limit_size(max(count, 1))
        parts = max(1, min(-(-count // size), count // self._min_part))
        return [count // parts + (number < count % parts) for number in range(parts)]

    @contextmanager
    def _split_networks(self, count: int) -> Iterator[None]:
        """Split the calls of the networks while the context is open, if the images do not fit at once."""
        if self.limit.max_images is None or self.limit.max_images >= count:
            yield
            return
        split = [partial(self._call_in_parts, network, network.forward) for network in self._networks]
        with self._use_forwards(split):
            yield

    @contextmanager
    def _whole_networks(self) -> Iterator[None]:
        """Give the networks their own ``forward`` back while the context is open."""
        with self._use_forwards(self._own_forwards):
            yield

    @contextmanager
    def _use_forwards(self, forwards: Sequence[RowsFunction | None]) -> Iterator[None]:
        """Give each network another ``forward`` while the context is open; None: that of its class."""
        before = [network.__dict__.get("forward") for network in self._networks]
        self._set_forwards(forwards)
        try:
            yield
        finally:
            self._set_forwards(before)

    def _set_forwards(self, forwards: Sequence[RowsFunction | None]) -> None:
        for network, forward in zip(self._networks, forwards, strict=True):
            network.__dict__.pop("forward", None)
            if forward is not None:
                network.__dict__["forward"] = forward

    def _call_in_parts(self, network: nn.Module, forward: RowsFunction, images: Tensor) -> Tensor:
        """Compute the logits of a network part by part, from its own ``forward``."""
        sizes = self._choose_sizes(len(images))
        if len(sizes) == 1:
            return forward(images)
        return compute_in_parts(
            forward,
            images,
            sizes,
            trains_weights=any(weight.requires_grad for weight in network.parameters()),
            make_second=lambda: _freeze_call(network, forward),
        )

    def _describe_change(self, tried: int) -> str:
        size = self.limit.max_images
        exceptions = [name for name, is_kind in _EXCEPTIONS.items() if self._has_layer(is_kind)]
        if not exceptions:
            same = "the steps stay the same"
        else:
            same = f"the steps stay the same but for {' and '.join(exceptions)}, whose layers see the parts"
        return f"out of memory with {format_count(tried, 'image')} at once: going on with {size}; {same}"

    def _has_layer(self, is_kind: Callable[[nn.Module], bool]) -> bool:
        return any(is_kind(layer) for network in self._networks for layer in network.modules())

    def _build_error(self, count: int, error: BaseException) -> ModelMemoryError:
        smallest = format_count(min(self._min_part, count), "image")
        return ModelMemoryError(
            f"memory runs out even with {smallest} at once ({type(error).__name__})",
            where="training",
            remedy="end other programs, or give it more memory, a smaller network or smaller images; the "
            "checkpoint is kept, and the same command goes on from it",
        )


class _StepState:
    """What a failed step may have changed: random states and the buffers of the networks."""

    def __init__(self, networks: list[nn.Module], generator: torch.Generator | None) -> None:
        self._randomness = RandomStates.from_process()
        self._generator = generator
        self._drawn = None if generator is None else generator.get_state()
        self._buffers = [
            (buffer, buffer.clone())
            for network in networks
            if network.training
            for buffer in network.buffers()
        ]

    @torch.no_grad()
    def restore_state(self) -> None:
        """Put everything back."""
        self._randomness.restore_states()
        if self._generator is not None and self._drawn is not None:
            self._generator.set_state(self._drawn)
        for buffer, value in self._buffers:
            buffer.copy_(value)


class _NetworkCall(nn.Module):
    """A network's own ``forward`` as a module, without the hooks of a whole call."""

    def __init__(self, network: nn.Module, forward: RowsFunction) -> None:
        super().__init__()
        self.network, self._compute = network, forward

    def forward(self, images: Tensor) -> Tensor:
        return self._compute(images)


def _freeze_call(network: nn.Module, forward: RowsFunction) -> RowsFunction:
    """Return the network's call with the weights of now, which leaves its buffers as they are.

    Weights may be exchanged for the time of a call, as by `perturb_weights`: the backward pass comes later.
    """
    whole = _NetworkCall(network, forward)
    weights, buffers = dict(whole.named_parameters()), dict(whole.named_buffers())

    def call(images: Tensor) -> Tensor:
        copies = {name: buffer.clone() for name, buffer in buffers.items()}
        logits: Tensor = functional_call(whole, {**weights, **copies}, (images,))
        return logits

    return call


def _is_batch_norm(layer: Any) -> bool:
    return isinstance(layer, nn.modules.batchnorm._BatchNorm)  # noqa: SLF001 - the base of all of them


def _is_random(layer: Any) -> bool:
    return isinstance(layer, nn.modules.dropout._DropoutNd) and layer.p > 0  # noqa: SLF001 - as above


_EXCEPTIONS: dict[str, Callable[[nn.Module], bool]] = {"BatchNorm": _is_batch_norm, "dropout": _is_random}
"""Layers for which a split batch is another one."""
