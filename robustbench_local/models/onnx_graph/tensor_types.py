"""Types of ONNX tensors, and what torch computes them in."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from robustbench_local.models.onnx_graph.operator_table import UnsupportedOperatorError

_TORCH_TYPES = {
    1: torch.float32,
    2: torch.uint8,
    3: torch.int8,
    4: torch.int64,  # uint16
    5: torch.int16,
    6: torch.int32,
    7: torch.int64,
    9: torch.bool,
    10: torch.float32,  # float16
    11: torch.float64,
    12: torch.int64,  # uint32
    13: torch.int64,  # uint64
    16: torch.float32,  # bfloat16
    21: torch.uint8,  # uint4
    22: torch.int8,  # int4
}
"""By the number of ONNX's TensorProto.DataType. Half precision is computed in single: its gradients underflow
less, and onnxruntime computes it so on the CPU, too."""
HALF_TYPES = (10, 16)
"""float16 and bfloat16."""
INTEGER_RANGES = {2: (0, 255), 3: (-128, 127), 4: (0, 65535), 5: (-32768, 32767), 21: (0, 15), 22: (-8, 7)}
"""Smallest and largest value of the types that quantised values have."""


def find_torch_type(number: int) -> torch.dtype:
    """Return the type that torch computes an ONNX type in.

    Raises:
        UnsupportedOperatorError: If there is none, as for texts and complex numbers.
    """
    kind = _TORCH_TYPES.get(int(number))
    if kind is None:
        raise UnsupportedOperatorError(f"tensors of the ONNX type {number}")
    return kind


def convert_array(values: Any, number: int) -> Tensor:
    """Convert a numpy array of an ONNX type to a tensor with memory of its own.

    Args:
        values: The array, which may have a type of ml_dtypes.
        number: Its ONNX type.

    Raises:
        UnsupportedOperatorError: If torch computes nothing of this type.
    """
    kind = find_torch_type(number)
    wide = np.asarray(values).astype(np.float64 if kind.is_floating_point else np.int64)
    return torch.from_numpy(wide).to(kind)
