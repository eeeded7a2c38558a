"""A textual description of tensors for digests: their values, however they are stored."""

from __future__ import annotations

import hashlib
import re

import torch
from torch import Tensor

_MEMORY_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def remove_memory_addresses(text: str) -> str:
    """Remove the addresses of objects from a text."""
    return _MEMORY_ADDRESS.sub("", text)


def describe_tensor(value: Tensor) -> str:
    """Describe a tensor by shape, type and the SHA-256 of its bytes."""
    if hasattr(value, "__tensor_flatten__"):  # a tensor of several, such as torchao's quantized weights
        names, context = value.__tensor_flatten__()
        parts = [f"{name} {describe_tensor(getattr(value, name))}" for name in names]
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        return f"{kind} {parts} {remove_memory_addresses(repr(context))}"
    if value.is_quantized:
        return f"{describe_tensor(value.int_repr())} {value.dtype} {_describe_quantization(value)}"
    if value.is_meta:
        return f"tensor {tuple(value.shape)} {value.dtype} without values"
    if value.layout != torch.strided:
        return f"{value.layout} {describe_tensor(value.to_dense())}"
    content = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return f"tensor {tuple(value.shape)} {value.dtype} {hashlib.sha256(content.tobytes()).hexdigest()}"


def _describe_quantization(value: Tensor) -> str:
    """Describe the scales and zero points of a quantized tensor."""
    if value.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
        return f"{value.q_scale()!r} {value.q_zero_point()}"
    scales = (value.q_per_channel_scales(), value.q_per_channel_zero_points())
    return f"{value.q_per_channel_axis()} {' '.join(map(describe_tensor, scales))}"
