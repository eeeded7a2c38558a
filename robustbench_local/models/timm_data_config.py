"""The input contract in timm's data configuration of a network: what its evaluation transforms do."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from robustbench_local.classifier.input_contract import InputContract
from robustbench_local.errors import ConfigError

_CENTER, _SQUASH = "center", "squash"


def read_data_config(config: Mapping[str, Any], where: str | None = None) -> InputContract:
    """Return the contract of ``timm.data.create_transform(**config, is_training=False)``.

    Args:
        config: As ``timm.data.resolve_model_data_config`` returns it.
        where: The network, for messages.

    Raises:
        ConfigError: If its crop pads images, or depends on their aspect ratio in another way.
    """
    _, height, width = config["input_size"]
    size, mode = (int(height), int(width)), config.get("crop_mode") or _CENTER
    before = tuple(math.floor(side / config["crop_pct"]) for side in size)
    if mode not in (_CENTER, _SQUASH) or config.get("crop_border_pixels"):
        raise ConfigError(f"it prepares images by the crop mode {mode!r}, which pads them", where=where)
    if mode == _CENTER and before[0] != before[1]:
        raise ConfigError(f"it crops {height}x{width} from images of any aspect ratio", where=where)
    interpolation = config["interpolation"]
    return InputContract(
        input_size=size,
        resize=before[0] if mode == _CENTER else (before[0], before[1]),
        interpolation="bilinear" if interpolation == "random" else interpolation,
        normalization=(tuple(map(float, config["mean"])), tuple(map(float, config["std"]))),
        origin="timm's data config",
    )
