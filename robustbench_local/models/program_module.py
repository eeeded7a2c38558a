"""A program from a file behind the interface of a module, in batches of the sizes that it takes."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

LARGEST_BATCH = 2**31 - 1
"""The largest batch of a program without a limit of its own."""


@dataclass(frozen=True)
class ProgramInput:
    """What a program takes.

    Args:
        dtype: Data type of its images.
        min_batch: Its smallest batch.
        max_batch: The most images that it is asked about at once; below ``min_batch``, copies fill them up.
        keyword: The name of its argument, where it has to be named.
        is_channels_last: Whether it takes images (N, H, W, C).
    """

    dtype: torch.dtype = torch.float32
    min_batch: int = 1
    max_batch: int = LARGEST_BATCH
    keyword: str | None = None
    is_channels_last: bool = False


class ProgramModule(nn.Module):
    """A TorchScript module or an exported program as a module from images (N, C, H, W) to its output.

    Batches of other sizes than the program takes are cut, and filled up with copies of their images, whose
    answers are dropped. TorchScript runs without the optimizations that make later calls differ from the
    first ones.

    Args:
        program: The program.
        takes: What it takes.
        file_sha256: SHA-256 of its file, hexadecimal: a part of the model's identity.
        is_stateless: Whether it keeps nothing between two calls: copies of this module then share it.
    """

    def __init__(
        self, program: nn.Module, takes: ProgramInput, *, file_sha256: str, is_stateless: bool = False
    ) -> None:
        super().__init__()
        self.program, self.takes = program, takes
        self.file_sha256, self.is_stateless = file_sha256, is_stateless
        for part in program.modules():
            if not isinstance(part, torch.jit.ScriptModule):
                part.training = (
                    False  # an exported program, whose mode is fixed, keeps the flags of its making
                )
        self.train(mode=False)

    def forward(self, images: Tensor) -> Any:
        """Return the program's output, with N rows in each of its entries.

        Args:
            images: (N, C, H, W), floating.
        """
        takes, count = self.takes, len(images)
        if count == 0 or takes.min_batch <= count <= takes.max_batch:
            return self._run(images)
        parts = []
        for part in torch.split(images, takes.max_batch):
            size = max(len(part), takes.min_batch)
            filled = part[torch.arange(size, device=part.device) % len(part)]
            parts.append(_take_rows(self._run(filled), size, len(part)))
        return _join_outputs(parts)

    def train(self, mode: bool = True) -> Self:
        """Set the training flag; the mode of an exported program is fixed, and its own ``train`` raises."""
        if isinstance(self.program, torch.jit.ScriptModule):
            return super().train(mode)
        self.training = mode
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        state = dict(vars(self))
        if self.is_stateless:
            memo |= {id(part): part for part in self.program.modules()}
        vars(twin).update(copy.deepcopy(state, memo))
        return twin

    def _run(self, images: Tensor) -> Any:
        images = images.to(self.takes.dtype)
        if self.takes.is_channels_last:
            images = images.permute(0, 2, 3, 1)
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            if self.takes.keyword is not None:
                return self.program(**{self.takes.keyword: images})
            return self.program(images)


def _take_rows(output: Any, size: int, count: int) -> Any:
    """Return the first ``count`` rows of every tensor in an output with ``size`` rows, one for each image."""
    if isinstance(output, Tensor):
        return output[:count] if output.ndim and len(output) == size else output
    if isinstance(output, Mapping):
        return {key: _take_rows(value, size, count) for key, value in output.items()}
    if isinstance(output, tuple | list):
        return [_take_rows(value, size, count) for value in output]
    return output


def _join_outputs(parts: Sequence[Any]) -> Any:
    """Join the outputs for the parts of a batch: tensors row by row; of everything else the first is kept."""
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat(list(parts)) if first.ndim else first
    if isinstance(first, Mapping):
        return {key: _join_outputs([part[key] for part in parts]) for key in first}
    if isinstance(first, tuple | list):
        return [_join_outputs(entries) for entries in zip(*parts, strict=True)]
    return first
