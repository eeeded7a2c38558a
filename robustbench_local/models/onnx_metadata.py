"""What the makers of an ONNX file wrote beside the graph: class names, normalization, order of channels.

Sources: the metadata of Windows ML (``Image.BitmapPixelFormat``, ``Image.NominalPixelRange``), of
Ultralytics (``names``), of OpenVINO's Model API (``model_info labels``, ...), and ``mean`` and ``std`` as
export scripts write them.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from robustbench_local.classifier.normalizations import Normalization

_MAX_CHARACTERS = 1 << 20
_NAME_KEYS = ("names", "class_names", "classes", "labels", "model_info labels")
_MEAN_KEYS = ("mean", "means", "model_info mean_values")
_STD_KEYS = ("std", "stds", "model_info scale_values")
_RANGES: Mapping[str, tuple[float, Normalization | None]] = {
    "nominalrange_0_255": (255.0, None),
    "normalized_0_1": (1.0, None),
    "normalized_1_1": (1.0, ((0.5,), (0.5,))),
}
_LARGEST_UNIT_MEAN = 2.0
"""Means above this are those of pixels from 0 to 255."""


@dataclass(frozen=True, kw_only=True)
class OnnxMetadata:
    """The entries that concern a classifier of images."""

    class_names: tuple[str, ...] = ()
    """One for each class; empty where the file has none."""
    normalization: Normalization | None = None
    """In the units of ``value_scale``."""
    value_scale: float | None = None
    """Value of white; None where the file does not tell."""
    is_bgr: bool = False
    """Whether the network takes blue first."""

    @property
    def describes_pixels(self) -> bool:
        """Return whether the file says what values its pixels have, or in which order."""
        return self.normalization is not None or self.value_scale is not None or self.is_bgr


def read_metadata(entries: Mapping[str, str]) -> OnnxMetadata:
    """Return what a file says about itself; entries that cannot be read count as missing.

    Args:
        entries: The file's ``metadata_props``.
    """
    is_embedded = entries.get("model_info embedded_processing", "").lower() == "true"
    scale, normalization = _RANGES.get(entries.get("Image.NominalPixelRange", "").lower(), (None, None))
    numbers = _read_mean_and_std({} if is_embedded else entries)
    if numbers is not None:
        is_model_info = "model_info mean_values" in entries or "model_info scale_values" in entries
        is_byte_mean = max(numbers[0]) > _LARGEST_UNIT_MEAN or is_model_info
        scale, normalization = (255.0 if is_byte_mean else 1.0), numbers
    reverses = entries.get("model_info reverse_input_channels", "").lower() == "true"
    return OnnxMetadata(
        class_names=_read_class_names(entries),
        normalization=normalization,
        value_scale=scale,
        is_bgr=entries.get("Image.BitmapPixelFormat", "").lower().startswith("bgr") or reverses,
    )


def _read_class_names(entries: Mapping[str, str]) -> tuple[str, ...]:
    """Return the names: a list, a mapping from class numbers, or words."""
    text = next((entries[key] for key in _NAME_KEYS if entries.get(key)), "")
    value = _read_value(text)
    if isinstance(value, Mapping):
        with suppress(TypeError, ValueError):
            numbered = {int(key): str(name) for key, name in value.items()}
            return tuple(numbered[place] for place in sorted(numbered))
        return ()
    if isinstance(value, list | tuple):
        return tuple(str(name) for name in value)
    words = text.split(",") if "," in text else text.split()
    return tuple(word.strip() for word in words)


def _read_mean_and_std(entries: Mapping[str, str]) -> Normalization | None:
    """Return means and standard deviations; None unless both are there, or one is of the Model API."""
    mean, std = (
        _read_numbers(next((entries[key] for key in keys if entries.get(key)), ""))
        for keys in (_MEAN_KEYS, _STD_KEYS)
    )
    if any(key.startswith("model_info ") for key in entries) and (mean or std):
        mean, std = mean or (0.0,) * len(std), std or (1.0,) * len(mean)
    is_usable = len(mean) == len(std) > 0 and all(value > 0 for value in std)
    return (mean, std) if is_usable else None


def _read_numbers(text: str) -> tuple[float, ...]:
    value = _read_value(text)
    values: Sequence[Any] = value if isinstance(value, list | tuple) else text.replace(",", " ").split()
    with suppress(TypeError, ValueError):
        return tuple(float(entry) for entry in values)
    return ()


def _read_value(text: str) -> Any:
    """Return a text's value as JSON or as Python writes it; None if it is neither."""
    if len(text) > _MAX_CHARACTERS:
        return None
    with suppress(ValueError, RecursionError):
        return json.loads(text)
    with suppress(ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return ast.literal_eval(text)
    return None
