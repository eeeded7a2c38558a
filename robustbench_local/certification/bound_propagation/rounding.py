"""How far the rounding of a network's own arithmetic can move its values.

A proof about real numbers says nothing about the network that is deployed, which rounds after every
operation. So each node is given noise: at most what rounding can do there, whatever the order in which
products are added up. Bounds then hold for every rounded evaluation of the network, and attacks on it
cannot contradict them. Where a number may be too large for the format, there is no bound.

Certificates take float32's rounding everywhere, also in networks of float64: images are normalised and logits
read in float32 whatever the network computes in, and a sum of float64 is off by less.

The bounds themselves are computed in float64, and that rounds as well; but by the same formulas, on the same
products, and 2^29 times less than float32. `_OWN` covers it thousands of times over.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robustbench_local.certification.bound_propagation.graph import Node
from robustbench_local.certification.bound_propagation.operations import Activation, Affine, Sum

_OWN_ERROR_SHARE = 2.0**-40
"""Relative error that is added for the arithmetic of the bounds, each operation of which is off by 2^-53."""
_ABSOLUTE_NOISE = 1e-30
"""Absolute noise of a value: numbers below 1e-38 are lost on the way to zero."""


@dataclass(frozen=True)
class Rounding:
    """Rounding to the nearest number of a floating-point format.

    Args:
        unit: Largest relative error of one operation: 2^-24 for float32.
        largest: What the format's numbers cannot exceed.

    Source: Higham 2002, "Accuracy and stability of numerical algorithms", Sec. 3.1: a sum of n products, in
    any order, is off by at most n u / (1 - n u) times the sum of their absolute values.
    """

    unit_roundoff: float
    max_value: float

    @classmethod
    def from_dtype(cls, dtype: torch.dtype) -> Rounding:
        """Rounding to a dtype, and of the bounds themselves."""
        limits = torch.finfo(dtype)
        return cls(limits.eps / 2 + _OWN_ERROR_SHARE, limits.max / 2)  # the other half: what rounding adds

    def compute_noise(self, node: Node, sizes: list[Tensor]) -> Tensor | None:
        """Noise of a node's values.

        Args:
            node: What is computed.
            sizes: Largest absolute values of its inputs.

        Returns:
            Shaped like the node's values; None where nothing is rounded.
        """
        operation = node.operation
        if isinstance(operation, Affine):
            added = operation.apply_linear(sizes[0], absolute=True)
            offset = operation.bound_offset(added)
            return self._bound_error(operation.term_count, added if offset is None else added + offset)
        if isinstance(operation, Sum):
            return self._bound_error(1, sizes[0] + sizes[1])
        if isinstance(operation, Activation) and operation.slope:
            return self._bound_error(2, sizes[0])  # the slope is rounded, and the product
        return None

    def _bound_error(self, terms: int, size: Tensor) -> Tensor:
        relative = terms * self.unit_roundoff / (1 - terms * self.unit_roundoff)
        noise = size * relative + terms * _ABSOLUTE_NOISE
        return noise.masked_fill(size > self.max_value, torch.inf)
