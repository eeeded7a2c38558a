"""What the makers of an OpenVINO file wrote beside the network: class names, normalization, channel order.

Source: the ``model_info`` section that OpenVINO's Model API reads.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from robustbench_local.classifier.normalizations import Normalization

_SECTION = "model_info"


@dataclass(frozen=True, kw_only=True)
class OpenVINOInfo:
    """The section's entries that concern a classifier of images."""

    class_names: tuple[str, ...] = ()
    """One for each class; empty where the file has none."""
    normalization: Normalization | None = None
    """Of pixels from 0 to 255; None where there is none, or it is a part of the network."""
    is_bgr: bool = False
    """Whether the network takes blue first."""


def read_info(network: Any) -> OpenVINOInfo:
    """Return what a network's file says about itself.

    Args:
        network: The network as OpenVINO reads it.
    """
    names = tuple(_read_entry(network, "labels").split())
    if _read_entry(network, "embedded_processing").lower() == "true":
        return OpenVINOInfo(class_names=names)
    is_bgr = _read_entry(network, "reverse_input_channels").lower() == "true"
    return OpenVINOInfo(class_names=names, normalization=_read_normalization(network), is_bgr=is_bgr)


def _read_normalization(network: Any) -> Normalization | None:
    """Return the means and scales; None where there are none, or one cannot be read."""
    with suppress(ValueError):
        mean, scale = (
            tuple(float(value) for value in _read_entry(network, key).split())
            for key in ("mean_values", "scale_values")
        )
        if not mean and not scale:
            return None
        mean, scale = mean or (0.0,) * len(scale), scale or (1.0,) * len(mean)
        if len(mean) == len(scale) and all(value > 0 for value in scale):
            return mean, scale
    return None


def _read_entry(network: Any, key: str) -> str:
    """Return an entry as text; empty where there is none."""
    path = [_SECTION, key]
    if not network.has_rt_info(path):
        return ""
    value = network.get_rt_info(path)
    value = getattr(value, "value", value)
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
