"""Networks of torchvision, with published weights, the user's own file, or initial weights."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from robustbench_local.classifier.input_contract import InputContract
from robustbench_local.errors import ConfigError, did_you_mean
from robustbench_local.models.library_downloads import build_download_error, download_timeout
from robustbench_local.models.loaded_model import LoadedModel, ModelRequest, build_with_weights
from robustbench_local.models.networks.network_registry import fixed_initial_weights
from robustbench_local.models.stored_tensors import StoredTensors
from robustbench_local.models.weight_files import WeightsFile, read_weights

_FIXED_INPUT_SIZES = {"inception_v3": (299, 299), "maxvit_t": (224, 224)}  # other networks accept many sizes


def load_torchvision(name: str, request: ModelRequest) -> LoadedModel:
    """Load a classification network of torchvision.

    Published weights, named by their enum or given as torchvision's file, define the normalization, input
    size and class names.

    Raises:
        ConfigError: If torchvision has no such network or weights.
        ModelError: If the weights cannot be obtained or do not fit.
    """
    from torchvision import models as torchvision_models  # noqa: PLC0415 - seconds, for its networks only

    known = torchvision_models.list_models(module=torchvision_models)
    if name not in known:
        raise ConfigError(f"torchvision has no network {name!r}", remedy=did_you_mean(name, known))
    enum: Any = torchvision_models.get_model_weights(name)
    entry = _find_named_weights(enum, request)
    if entry is not None:
        weights: WeightsFile | None = read_weights(
            _download_weights(entry), sha256=request.sha256, entry=request.entry
        )
    else:
        weights = None if request.weights is None else request.read(request.weights)
        entry = _find_published_weights(enum, weights)
    if weights is not None and name.startswith("densenet"):
        weights = replace(weights, stored=_rename_densenet_tensors(weights.stored))
    loaded = build_with_weights(
        partial(_build_torchvision_network, name, weights, entry), 1000, weights, request
    )
    loaded.channels, loaded.contract = 3, InputContract(input_size=_FIXED_INPUT_SIZES.get(name))
    if entry is not None:
        loaded.contract = _read_preset(entry.transforms())
        loaded.class_names = entry.meta["categories"]
        loaded.provenance["published"] = f"{name} {entry.name}"
    elif weights is not None:
        loaded.is_unnormalized = True
    size = getattr(loaded.model, "image_size", None)
    if size and loaded.contract.input_size != (size, size):
        loaded.contract = replace(loaded.contract, input_size=(size, size), resize=None)
    return loaded


def _read_preset(preset: Any) -> InputContract:
    """Return the contract of torchvision's evaluation transforms, ``ImageClassification``."""
    crop, resize = preset.crop_size[0], preset.resize_size
    return InputContract(
        normalization=(tuple(preset.mean), tuple(preset.std)),
        input_size=(crop, crop),
        resize=resize[0] if len(resize) == 1 else tuple(resize),
        interpolation=preset.interpolation.value,
        antialias=preset.antialias,
        origin="torchvision's preset",
    )


def _find_named_weights(enum: Any, request: ModelRequest) -> Any:
    """Return the published weights that the user named, or None."""
    wanted = request.weights
    if wanted is None:
        return None
    names = [entry.name for entry in enum]
    if wanted in ("DEFAULT", *names):
        return enum[wanted]
    if Path(wanted).suffix or "/" in wanted:
        return None
    raise ConfigError(
        f"there are no published weights {wanted!r}",
        remedy=did_you_mean(wanted, ["DEFAULT", *names]),
    )


def _find_published_weights(enum: Any, weights: WeightsFile | None) -> Any:
    """Return the published weights that a local file is a copy of, by its name and the hash in that name."""
    for entry in enum:
        if weights is not None and Path(entry.url).name == weights.path.name:
            return entry if weights.sha256.startswith(_parse_hash(weights.path)) else None
    return None


def _parse_hash(path: Path) -> str:
    return path.stem.rpartition("-")[2]


def _build_torchvision_network(
    name: str, weights: WeightsFile | None, entry: Any, num_classes: int
) -> nn.Module:
    options: dict[str, Any] = {"num_classes": num_classes}
    if name in ("googlenet", "inception_v3"):
        names = weights.stored.tensors if weights is not None else ["aux1.", "AuxLogits."]
        options["aux_logits"] = any(re.search(r"(^|\.)(aux1|AuxLogits)\.", key) for key in names)
        # torchvision's published files come from TensorFlow, whose normalization the network applies itself
        options |= {"init_weights": False, "transform_input": entry is not None}
    if name.startswith("vit_") and entry is not None:
        options["image_size"] = entry.transforms().crop_size[0]
    from torchvision import models as torchvision_models  # noqa: PLC0415 - seconds, for its networks only

    with fixed_initial_weights():
        network: nn.Module = torchvision_models.get_model(name, weights=None, **options)
    return network.eval()


def _rename_densenet_tensors(stored: StoredTensors) -> StoredTensors:
    """Rename ``norm.1`` in DenseNet's published files to the layers' name ``norm1``."""
    names = {
        key: re.sub(r"(denselayer\d+\.(?:norm|relu|conv))\.(?=\d)", r"\1", key) for key in stored.tensors
    }
    return replace(
        stored,
        tensors={names[key]: tensor for key, tensor in stored.tensors.items()},
        containers={names[key]: container for key, container in stored.containers.items()},
    )


def _download_weights(entry: Any) -> Path:
    """Return the file of published weights in torch's cache; download and check it if it is missing."""
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(entry.url).name
    if file.is_file():
        return file
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with download_timeout():
            torch.hub.download_url_to_file(
                entry.url, str(file), hash_prefix=_parse_hash(file), progress=sys.stderr.isatty()
            )
    except (OSError, RuntimeError) as error:
        raise build_download_error(f"{entry.name}, {file.name},", error) from error
    return file
