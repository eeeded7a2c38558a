"""Features of a frozen network: what enters its last linear layer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robustbench_local.classifier.device import resolve_device
from robustbench_local.classifier.input_contract import InputContract
from robustbench_local.data.checks.image_survey import ImageEmbedding
from robustbench_local.data.decode import Pixels
from robustbench_local.data.resize import prepare_pixels
from robustbench_local.defenses.training.initial_networks import NormalizedNetwork
from robustbench_local.errors import ModelError
from robustbench_local.models.loaded_model import ModelRequest
from robustbench_local.models.model_sources import load_model

_DEFAULT_SIDE = 32


def load_embedding(
    model: str, *, weights: str | None = None, device: str = "auto", allow_code: bool = False
) -> ImageEmbedding:
    """Load a network, and return a function from images to its features.

    Args:
        model: A source of models, such as ``torchvision:resnet50``.
        weights: A file, or the name of published weights such as ``DEFAULT``.
        device: ``cpu``, ``cuda`` or ``auto``.
        allow_code: Whether code from files may run.

    Returns:
        A function from images, (H, W, C) of any size, to features (N, D): the input of the last linear layer;
        scaled to length 1.

    Raises:
        ConfigError: If the model is unknown.
        ModelError: If it has no linear layer, or cannot be loaded.
    """
    loaded = load_model(
        model,
        ModelRequest(weights=weights, allow_code=allow_code, base_folder=Path.cwd(), default_classes=1000),
    )
    loaded.check_normalization(None)
    network = loaded.model
    if not isinstance(network, nn.Module):
        raise ModelError("is not a torch module, so it has no features", where=model)
    linear = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
    if not linear:
        raise ModelError("has no linear layer before which features could be taken", where=model)
    torch_device = resolve_device(device)
    normalized = NormalizedNetwork(network, loaded.contract).to(torch_device).eval().requires_grad_(False)
    contract = _find_contract(loaded.contract)

    def embed(images: Sequence[Pixels]) -> Tensor:
        prepared = [_to_tensor(prepare_pixels(pixels, contract), loaded.channels) for pixels in images]
        seen: list[Tensor] = []
        hook = linear[-1].register_forward_pre_hook(
            lambda _layer, inputs: seen.append(_flatten_features(inputs))
        )
        try:
            with torch.no_grad():
                normalized(torch.stack(prepared).to(torch_device))
        finally:
            hook.remove()
        if not seen or len(seen[-1]) != len(images):
            raise ModelError("does not pass each image through its last linear layer once", where=model)
        return torch.nn.functional.normalize(seen[-1].float(), dim=1).cpu()

    return embed


def _find_contract(contract: InputContract) -> InputContract:
    if contract.input_size is not None:
        return contract
    return InputContract(input_size=(_DEFAULT_SIDE, _DEFAULT_SIDE))


def _flatten_features(inputs: tuple[Any, ...]) -> Tensor:
    features: Tensor = inputs[0].detach()
    return features.flatten(1)


def _to_tensor(pixels: Pixels, channels: int | None) -> Tensor:
    image = torch.tensor(pixels).permute(2, 0, 1).float()  # a copy: decoded pixels are read-only
    image = image / 255 if pixels.dtype == np.uint8 else image
    if channels == 1 and image.shape[0] == 3:
        return image.mean(dim=0, keepdim=True)
    return image.expand(3, -1, -1) if channels in (None, 3) and image.shape[0] == 1 else image
