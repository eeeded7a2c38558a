"""Numbers in float64, also for tensors on a device that has none, such as Apple's MPS."""

from __future__ import annotations

import torch
from torch import Tensor

_DEVICES_WITHOUT_FLOAT64 = frozenset({"mps"})


def lacks_float64(device: torch.device) -> bool:
    """Return whether a device cannot compute in float64."""
    return device.type in _DEVICES_WITHOUT_FLOAT64


def to_float64(tensor: Tensor) -> Tensor:
    """Return a tensor's values in float64: on its device, or on the CPU where its device has no float64."""
    return (tensor.cpu() if lacks_float64(tensor.device) else tensor).double()
