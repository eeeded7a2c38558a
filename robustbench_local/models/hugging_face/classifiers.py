"""Image classifiers of transformers: the network of a folder, and its image processor as input contract."""

from __future__ import annotations

import re
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import Any, cast

from torch import Tensor, nn

from robustbench_local.classifier.input_contract import InputContract
from robustbench_local.counted_nouns import format_count
from robustbench_local.errors import ConfigError, ModelError
from robustbench_local.models.hugging_face.image_processors import read_processor
from robustbench_local.models.hugging_face.model_folder import (
    PROCESSOR_FILES,
    ModelFolder,
    find_model_folder,
)
from robustbench_local.models.hugging_face.transformers_loading import (
    load_network,
    quiet_transformers,
    read_config,
)
from robustbench_local.models.loaded_model import LoadedModel, ModelRequest, build_with_weights
from robustbench_local.models.networks.network_registry import fixed_initial_weights

_PLACEHOLDER_NAME = re.compile(r"LABEL_\d+")


class LogitsNetwork(nn.Module):
    """A network of transformers that returns its logits alone.

    Args:
        network: Maps ``pixel_values`` (N, C, H, W) to an output with ``logits`` (N, K).
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, K) of normalized images (N, C, H, W)."""
        logits: Tensor = self.network(pixel_values=images).logits
        return logits


def load_hugging_face(reference: str, request: ModelRequest) -> LoadedModel:
    """Load an image classifier of transformers with its image processor.

    Args:
        reference: A folder that ``save_pretrained`` has written, or ``OWNER/NAME`` on the Hugging Face hub.
        request: The user's options; ``weights`` is the file of a training here that began with this network.

    Raises:
        ConfigError: If transformers is not installed, or an option does not apply.
        ModelError: If it is no image classifier, its files do not fit, or they cannot be obtained.
        RefusedError: If it is pickled or needs code of its own.
    """
    if request.weights is not None:
        return _load_own_weights(reference, request)
    check_options(f"hf:{reference}", request)
    folder = find_model_folder(reference, request)
    with quiet_transformers(folder) as transformers:
        config = read_config(transformers, folder)
        _check_task(transformers, config, folder)
        network, notes, provenance = load_network(
            transformers.AutoModelForImageClassification, config, folder, request
        )
        contract, remarks = read_input_contract(transformers, folder, request)
    classes = int(config.num_labels)
    if request.num_classes not in (None, classes):
        raise ModelError(
            f"has {format_count(classes, 'class')}, but num_classes is {request.num_classes}",
            where=folder.name,
            remedy=f"set num_classes: {classes}, or leave it out",
        )
    if getattr(config, "problem_type", None) == "multi_label_classification":
        remarks.append(
            "was trained to give an image several labels: only the one with the highest logit counts"
        )
    return LoadedModel(
        model=LogitsNetwork(network).eval(),
        num_classes=classes,
        contract=contract or InputContract(),
        is_unnormalized=contract is None,
        channels=find_channels(config),
        class_names=_read_class_names(config, classes),
        notes=[*notes, *remarks],
        provenance=provenance,
    )


def _load_own_weights(reference: str, request: ModelRequest) -> LoadedModel:
    """Load the network of a folder with the weights of another file."""
    weights = request.read(str(request.weights))
    if not any("network." in name for name in weights.stored.tensors):
        raise ConfigError(
            "was not trained here, and transformers alone knows how to read its names",
            where=weights.path.name,
            remedy=f"name it model.safetensors, beside a copy of the other files of {reference}",
        )
    described = replace(request, weights=None, architecture=None, entry=None, num_classes=None)
    base = load_hugging_face(reference, replace(described, sha256=None, trust_pickle=None))
    loaded = build_with_weights(partial(_rebuild_network, base), base.num_classes, weights, request)
    loaded.contract, loaded.is_unnormalized = base.contract, base.is_unnormalized
    loaded.channels = base.channels
    loaded.class_names = base.class_names if loaded.num_classes == base.num_classes else None
    return loaded


def _rebuild_network(base: LoadedModel, num_classes: int) -> nn.Module:
    """Return the network itself, or one of the same configuration for another number of classes."""
    network: Any = base.model
    if num_classes == base.num_classes:
        return cast("nn.Module", network)
    config = deepcopy(network.network.config)
    config.num_labels = num_classes
    with fixed_initial_weights():
        return LogitsNetwork(type(network.network)(config)).eval()


def check_options(source: str, request: ModelRequest) -> None:
    """Refuse options of other sources.

    Raises:
        ConfigError: If one is set.
    """
    for key in ("weights", "architecture", "entry"):
        if getattr(request, key) is not None:
            raise ConfigError(f"{source} holds both network and weights", remedy=f"leave {key} out")


def read_input_contract(
    transformers: Any, folder: ModelFolder, request: ModelRequest
) -> tuple[InputContract | None, list[str]]:
    """Read a folder's image processor; None, with a note, if it has none.

    Raises:
        ModelError: If it is not reproduced, and the user does not declare how images are prepared.
    """
    contents = [folder.read_json(file) for file in PROCESSOR_FILES]
    is_timm = "pretrained_cfg" in (folder.read_json("config.json") or {})
    if not any(contents) and not is_timm:
        return None, [f"its folder has no {PROCESSOR_FILES[0]}: how it prepares images is not known"]
    processor = transformers.AutoImageProcessor.from_pretrained(
        str(folder.path), local_files_only=True, trust_remote_code=False
    )
    try:
        return read_processor(processor)
    except ModelError as error:
        if not request.declares_preprocessing:
            raise ModelError(error.what, where=folder.name, remedy=error.remedy) from error
        return None, [f"{error.what}: images are prepared as the grid declares"]


def find_channels(config: Any) -> int | None:
    """Return the number of image channels in a configuration, if it says so."""
    for part in (config, getattr(config, "vision_config", None)):
        channels = getattr(part, "num_channels", None)
        if isinstance(channels, int):
            return channels
    return None


def _check_task(transformers: Any, config: Any, folder: ModelFolder) -> None:
    """Refuse networks that are no image classifiers."""
    kinds = transformers.models.auto.modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES
    if config.model_type not in kinds:
        raise ModelError(
            f"{config.model_type} is no image classifier of transformers",
            where=folder.name,
            remedy="write clip: instead of hf: to classify by class names"
            if hasattr(config, "text_config")
            else "name an image classifier",
        )
    if getattr(config, "problem_type", None) == "regression":
        raise ModelError("was trained for regression", where=folder.name, remedy="name an image classifier")


def _read_class_names(config: Any, classes: int) -> Sequence[str] | None:
    """Return the names of the classes, unless they are the placeholders of transformers."""
    names = [str(config.id2label.get(index, "")) for index in range(classes)]
    if all(_PLACEHOLDER_NAME.fullmatch(name) for name in names) or not all(names):
        return None
    return names
