"""The device, data type and memory layout of a network's weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustbench_local.classifier.foreign_errors import extract_first_line, is_out_of_memory
from robustbench_local.errors import ConfigError, ModelError

_MIN_CHANNELS = 32
"""Number of channels from which channels-last is faster: measured on fourteen networks."""


def resolve_device(device: str | torch.device) -> torch.device:
    """Resolve a device by its name; ``"auto"`` is CUDA where available, otherwise the CPU.

    Raises:
        ConfigError: If there is no such device here.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        wanted = torch.device(device)
        torch.empty(0, device=wanted)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        if is_out_of_memory(error):  # another program's, on a device that exists
            raise
        raise ConfigError(
            f"device {str(device)!r} cannot be used: {extract_first_line(error)}", remedy="use cpu or auto"
        ) from error
    return wanted


def move_batch(batch: Tensor, device: torch.device) -> Tensor:
    """Return a batch on a device; a copy to a GPU is queued, and the host does not wait for it.

    Args:
        batch: Any tensor on the CPU or the device.
        device: The target. To CUDA the values travel from page-locked memory on the current stream, so that
            every later operation there sees them.
    """
    if device.type != "cuda" or batch.device.type != "cpu":
        return batch.to(device)
    return batch.pin_memory().to(device, non_blocking=True)


def move_to_device(module: nn.Module | None, device: torch.device, name: str) -> None:
    """Move a network to a device.

    Args:
        module: The network; changed in place. None: nothing to move.
        device: The target device.
        name: Name of the network in messages.

    Raises:
        ModelError: If it cannot be moved.
    """
    if module is None:
        return
    try:
        module.to(device)
    except (RuntimeError, NotImplementedError) as error:
        if is_out_of_memory(error):
            raise
        raise ModelError(f"cannot be moved to {device}: {extract_first_line(error)}", where=name) from error


def find_computing_dtype(module: nn.Module | None) -> torch.dtype:
    """Return a model's computing dtype: that of its first floating parameter, or float32 without one."""
    parameters = module.parameters() if module is not None else iter(())
    return next((p.dtype for p in parameters if p.is_floating_point()), torch.float32)


class ChannelsLast:
    """Stores a network's convolution weights channels-last until they are restored.

    Convolutions in this layout are fastest on a GPU, and up to twice as fast on a CPU where channels are
    many. A network whose convolutions all read few channels keeps its layout, because it would be a tenth
    slower. Values are the same; sums may be taken in another order.

    Args:
        module: The network; its parameters stay the same objects.
    """

    def __init__(self, module: nn.Module) -> None:
        self._original_layouts: list[tuple[nn.Parameter, Tensor]] = []
        layers = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)]
        if all(layer.in_channels < _MIN_CHANNELS for layer in layers):
            return
        weights = (dict(layer.named_parameters(recurse=False)).get("weight") for layer in layers)
        for weight in dict.fromkeys(weight for weight in weights if weight is not None):
            last = weight.data.clone(memory_format=torch.channels_last)
            if last.stride() != weight.stride():
                self._original_layouts.append((weight, weight.data))
                weight.data = last

    def restore_layout(self) -> bool:
        """Restore the weights' layout and keep their values; return False if it already is the original."""
        lain, self._original_layouts = self._original_layouts, []
        for weight, data in lain:
            data.copy_(weight.data)
            weight.data = data
        return bool(lain)

    def is_cause_of(self, error: BaseException) -> bool:
        """Check whether the layout caused an error, as in a network that flattens its features by a view."""
        return bool(self._original_layouts) and "view size is not compatible" in str(error)
