"""The largest effect of rounding in a network's own arithmetic on its values.

A bound in exact arithmetic does not hold for the deployed network, which rounds after every operation. Each
node is therefore given noise: an upper bound of its rounding error, for any order of summation. Bounds then
hold for every rounded evaluation of the network, and attacks on it cannot contradict them. Where a value may
exceed the range of the format, there is no bound.

Certificates assume the rounding of float32 everywhere, also in networks of float64: images are normalized and
logits are read in float32 in any case, and the error of float64 is smaller.

The bounds themselves are computed in float64 and rounded as well, by the same formulas on the same products,
with errors 2^29 times smaller than in float32. `_OWN_ERROR_SHARE` covers them thousands of times over.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robustbench_local.certification.bound_propagation.graph import Node
from robustbench_local.certification.bound_propagation.operations import Activation, Affine, Sum

_OWN_ERROR_SHARE = 2.0**-40
"""Relative error added for the arithmetic of the bounds, whose operations have a relative error of 2^-53."""
_ABSOLUTE_NOISE = 1e-30
"""Absolute noise of a value: numbers below 1e-38 underflow to zero."""


@dataclass(frozen=True)
class Rounding:
    """Rounding to the nearest number of a floating-point format.

    Args:
        unit_roundoff: Largest relative error of one operation, 2^-24 for float32.
        max_value: Largest magnitude of a value with a bound.

    Source: Higham 2002, "Accuracy and stability of numerical algorithms", Sec. 3.1: a sum of n products, in
    any order, is off by at most n u / (1 - n u) times the sum of their absolute values.
    """

    unit_roundoff: float
    max_value: float

    @classmethod
    def from_dtype(cls, dtype: torch.dtype) -> Rounding:
        """Return the rounding of a dtype, and of the bounds themselves."""
        limits = torch.finfo(dtype)
        return cls(limits.eps / 2 + _OWN_ERROR_SHARE, limits.max / 2)  # reserve of a factor 2 for rounding

    def compute_noise(self, node: Node, sizes: list[Tensor]) -> Tensor | None:
        """Compute the noise of a node's values.

        Args:
            node: The node.
            sizes: Largest absolute values of its inputs.

        Returns:
            Shaped like the node's values; None if nothing is rounded.
        """
        operation = node.operation
        if isinstance(operation, Affine):
            added = operation.apply_linear(sizes[0], absolute=True)
            offset = operation.bound_offset(added)
            return self._bound_error(operation.term_count, added if offset is None else added + offset)
        if isinstance(operation, Sum):
            return self._bound_error(1, sizes[0] + sizes[1])
        if isinstance(operation, Activation) and operation.slope:
            return self._bound_error(2, sizes[0])  # both the slope and the product are rounded
        return None

    def _bound_error(self, terms: int, size: Tensor) -> Tensor:
        relative = terms * self.unit_roundoff / (1 - terms * self.unit_roundoff)
        noise = size * relative + terms * _ABSOLUTE_NOISE
        return noise.masked_fill(size > self.max_value, torch.inf)
