"""Operations on bounds: forwards, forwards in absolute values, and backwards (transposed).

Every operation with known bounds is one of four: an affine map (convolution, linear layer, batch norm in
evaluation mode, average pooling, normalization), a change of shape, a (leaky) ReLU, or a sum. Parameters are
read from the module at every use, so that the bounds of a network in training are up to date.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

Shape = tuple[int, ...]
"""Shape of one image's values at a node, without the batch."""


class Affine(ABC):
    """A map ``x -> W x + b`` of one image's values."""

    mixes_values: ClassVar[bool] = True
    """Whether an output value depends on more than one input value."""

    @property
    @abstractmethod
    def term_count(self) -> int:
        """Largest number of terms in the sum of one value, forwards or backwards; rounding grows with it."""

    @abstractmethod
    def apply_linear(self, values: Tensor, *, absolute: bool = False) -> Tensor:
        """Compute ``W x``, or ``|W| x``; the batch is the first dimension of the values."""

    @abstractmethod
    def apply_transposed(self, rows: Tensor) -> Tensor:
        """Compute ``W^T a`` for rows shaped like the output, with any number of leading dimensions."""

    @abstractmethod
    def compute_offset(self, like: Tensor) -> Tensor | None:
        """Return ``b`` with dtype and device of ``like``, broadcast against an output; None: none."""

    def bound_offset(self, like: Tensor) -> Tensor | None:
        """Return a bound of the numbers that ``b`` is computed from, if they differ from ``b``."""
        offset = self.compute_offset(like)
        return None if offset is None else offset.abs()


@dataclass(frozen=True)
class Convolution(Affine):
    """A two-dimensional convolution with zero padding; average pooling is a special case.

    Args:
        read_weight: Returns the kernel, (out, in / groups, kH, kW).
        read_bias: Returns the bias, (out,) or None.
        stride: Steps of the window.
        padding: Zeros around the image.
        dilation: Spacing of the kernel's elements.
        groups: Number of independent groups of channels.
        input_shape: Shape (C, H, W) of the input.
        output_shape: Shape of the output.
    """

    read_weight: Callable[[], Tensor]
    read_bias: Callable[[], Tensor | None]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    input_shape: Shape
    output_shape: Shape

    @property
    def term_count(self) -> int:
        """Size of the window forwards, number of windows that contain a pixel backwards."""
        outputs, inputs, height, width = self.read_weight().shape
        covering = math.ceil(height / self.stride[0]) * math.ceil(width / self.stride[1])
        return int(max(inputs * height * width, outputs // self.groups * covering)) + 1

    def apply_linear(self, values: Tensor, *, absolute: bool = False) -> Tensor:
        """Compute ``W x``, or ``|W| x``."""
        weight = self.read_weight().to(values)
        weight = weight.abs() if absolute else weight
        return functional.conv2d(values, weight, None, self.stride, self.padding, self.dilation, self.groups)

    def apply_transposed(self, rows: Tensor) -> Tensor:
        """Compute ``W^T a``: the transposed convolution, padded to the input's size."""
        kernel = self.read_weight().shape[2:]
        covered = (
            (self.output_shape[1 + axis] - 1) * self.stride[axis]
            - 2 * self.padding[axis]
            + self.dilation[axis] * (kernel[axis] - 1)
            + 1
            for axis in (0, 1)
        )
        missing = [size - reached for size, reached in zip(self.input_shape[1:], covered, strict=True)]
        return functional.conv_transpose2d(
            rows,
            self.read_weight().to(rows),
            None,
            self.stride,
            self.padding,
            missing,
            self.groups,
            self.dilation,
        )

    def compute_offset(self, like: Tensor) -> Tensor | None:
        """Return the bias, one number per channel."""
        bias = self.read_bias()
        return None if bias is None else bias.to(like).view(-1, 1, 1)


@dataclass(frozen=True)
class Dense(Affine):
    """A linear layer on the last axis.

    Args:
        read_weight: Returns the matrix, (out, in).
        read_bias: Returns the bias, (out,) or None.
    """

    read_weight: Callable[[], Tensor]
    read_bias: Callable[[], Tensor | None]

    @property
    def term_count(self) -> int:
        """Number of inputs forwards, of outputs backwards."""
        return max(self.read_weight().shape) + 1

    def apply_linear(self, values: Tensor, *, absolute: bool = False) -> Tensor:
        """Compute ``W x``, or ``|W| x``."""
        weight = self.read_weight().to(values)
        return functional.linear(values, weight.abs() if absolute else weight)

    def apply_transposed(self, rows: Tensor) -> Tensor:
        """Compute ``W^T a``."""
        return rows @ self.read_weight().to(rows)

    def compute_offset(self, like: Tensor) -> Tensor | None:
        """Return the bias."""
        bias = self.read_bias()
        return None if bias is None else bias.to(like)


@dataclass(frozen=True)
class Diagonal(Affine):
    """An elementwise scale and offset (normalization, batch norm, constants).

    Args:
        read_terms: Takes a tensor for its dtype and device; returns the scale, the offset and the magnitude
            of the numbers that the offset is computed from, all broadcast against one image's values.
        operation_count: Number of rounded operations per value.
    """

    read_terms: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
    operation_count: int = 8
    mixes_values: ClassVar[bool] = False

    @property
    def term_count(self) -> int:
        """Number of rounded operations."""
        return self.operation_count

    def apply_linear(self, values: Tensor, *, absolute: bool = False) -> Tensor:
        """Compute ``W x``, or ``|W| x``."""
        scale = self.read_terms(values)[0]
        return values * (scale.abs() if absolute else scale)

    def apply_transposed(self, rows: Tensor) -> Tensor:
        """Compute ``W^T a``."""
        return rows * self.read_terms(rows)[0]

    def compute_offset(self, like: Tensor) -> Tensor | None:
        """Return the offset."""
        return self.read_terms(like)[1]

    def bound_offset(self, like: Tensor) -> Tensor | None:
        """Return at least ``|b|``: a batch norm's offset is a difference of two possibly large numbers."""
        return self.read_terms(like)[2]


@dataclass(frozen=True)
class ReversedChannels(Affine):
    """The channels of an image in reverse order: RGB to BGR; nothing is rounded."""

    mixes_values: ClassVar[bool] = False

    @property
    def term_count(self) -> int:
        """No operation is rounded."""
        return 0

    def apply_linear(self, values: Tensor, *, absolute: bool = False) -> Tensor:  # noqa: ARG002
        """Reverse the channels of values (N, C, H, W)."""
        return values.flip(-3)

    def apply_transposed(self, rows: Tensor) -> Tensor:
        """Reverse the channels: the map is its own inverse and transpose."""
        return rows.flip(-3)

    def compute_offset(self, like: Tensor) -> None:  # noqa: ARG002
        """Return None: there is no offset."""
        return


@dataclass(frozen=True)
class Reshape:
    """The same values in another shape.

    Args:
        input_shape: Shape before.
        output_shape: Shape after.
    """

    input_shape: Shape
    output_shape: Shape


@dataclass(frozen=True)
class Activation:
    """``max(x, slope x)`` of each value.

    Args:
        slope: Slope below zero, in [0, 1]; 0 is the ReLU.
    """

    slope: float = 0.0

    def __call__(self, values: Tensor) -> Tensor:
        """Apply the function, which is non-decreasing."""
        return functional.relu(values) if self.slope == 0 else functional.leaky_relu(values, self.slope)


@dataclass(frozen=True)
class Sum:
    """The sum or difference of two nodes of equal shape.

    Args:
        sign: Sign of the second node, 1.0 or -1.0.
    """

    sign: float = 1.0


@dataclass(frozen=True)
class InputNode:
    """The images themselves."""


Operation = Affine | Reshape | Activation | Sum | InputNode


def build_rounding() -> Affine:
    """Return the conversion to a coarser format: the identity with one rounding."""

    def read(like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return like.new_ones(()), like.new_zeros(()), like.new_zeros(())

    return Diagonal(read, operation_count=1)


def broadcast_channels(values: Tensor, like: Tensor) -> Tensor:
    """Broadcast one number per channel, (C,), against (C, H, W), with dtype and device of ``like``."""
    return torch.as_tensor(values).to(like).view(-1, 1, 1)
