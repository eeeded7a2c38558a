"""Networks of timm with their data configuration: by name, from the Hugging Face hub, or from a folder."""

from __future__ import annotations

import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from robustbench_local.classifier.foreign_errors import extract_first_line, refuse_shortage
from robustbench_local.classifier.input_contract import InputContract
from robustbench_local.errors import ConfigError, ModelError, did_you_mean
from robustbench_local.models.extra_libraries import import_extra
from robustbench_local.models.hugging_face.model_folder import (
    CONFIG_FILE,
    ModelFolder,
    find_local_folder,
    find_repository,
)
from robustbench_local.models.library_downloads import build_download_error, download_timeout
from robustbench_local.models.loaded_model import LoadedModel, ModelRequest, build_with_weights
from robustbench_local.models.networks.network_registry import fixed_initial_weights
from robustbench_local.models.timm_data_config import read_data_config


def load_timm(name: str, request: ModelRequest) -> LoadedModel:
    """Load a network of timm with the preprocessing of its weights.

    Args:
        name: A network, such as ``resnet18`` or ``resnet18.a1_in1k``; ``hf-hub:OWNER/NAME``, a repository of
            the Hugging Face hub; or ``local-dir:FOLDER``, a folder in the same layout.
        request: The user's options. ``weights`` is a file, ``DEFAULT``, or the tag of pretrained weights. A
            file's preprocessing is that of the tag in ``name``; without a tag, it is not known.

    Raises:
        ConfigError: If timm is not installed or has no such network, or an option does not apply.
        ModelError: If the weights cannot be obtained or do not fit.
        RefusedError: If a folder has its weights in a pickle.
    """
    timm = import_extra("timm", extra="timm")
    origin, colon, rest = name.partition(":")
    if colon:
        return _load_folder(timm, origin, rest, request)
    bare, _, tag = name.partition(".")
    if bare not in timm.list_models():
        raise ConfigError(f"timm has no network {bare!r}", remedy=did_you_mean(bare, timm.list_models()))
    wanted = _find_tag(tag, request.weights)
    _check_tag(timm, bare, tag or wanted)
    if wanted is not None:
        return _load_pretrained(timm, bare, wanted, request)
    weights = None if request.weights is None else request.read(request.weights)
    published = (
        timm.get_pretrained_cfg(name, allow_unregistered=False) if tag else timm.get_pretrained_cfg(bare)
    )
    default = getattr(published, "num_classes", 1000)
    loaded = build_with_weights(partial(_build_network, timm, bare), default, weights, request)
    config: dict[str, Any] = getattr(loaded.model, "pretrained_cfg", {})
    loaded.channels = config.get("input_size", (None,))[0]
    if config.get("fixed_input_size"):
        loaded.contract = InputContract(input_size=tuple(config["input_size"][1:]))
    if weights is not None and tag:
        _apply_data_config(timm, loaded, published.to_dict(), name)
        loaded.notes.append(f"images are prepared as for timm's {name}, because the source names it")
    elif weights is not None:
        loaded.is_unnormalized = True
    return loaded


def _find_tag(tag: str, weights: str | None) -> str | None:
    """Return the tag of pretrained weights: "" for the default ones, None for a file or random weights."""
    if weights in ("DEFAULT", "pretrained"):
        return tag
    return weights if weights is not None and not Path(weights).suffix and "/" not in weights else None


def _check_tag(timm: Any, name: str, tag: str | None) -> None:
    """Refuse a tag that timm does not know for a network."""
    tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{name}.*")]
    if tag and tag not in tags:
        what = f"timm has no pretrained weights {tag!r} for {name}"
        raise ConfigError(what, remedy=did_you_mean(tag, tags) if tags else "leave the tag out")


def _build_network(timm: Any, name: str, num_classes: int) -> nn.Module:
    with fixed_initial_weights():
        network: nn.Module = timm.create_model(name, num_classes=num_classes)
    return network.eval()


def _load_pretrained(timm: Any, name: str, tag: str, request: ModelRequest) -> LoadedModel:
    full = f"{name}.{tag}" if tag else name
    try:
        with download_timeout():
            network = timm.create_model(full, pretrained=True).eval()
    except Exception as error:
        refuse_shortage(error, full)
        raise build_download_error(full, error) from error
    return _describe_network(timm, network, full, request, {"published": full})


def _load_folder(timm: Any, origin: str, rest: str, request: ModelRequest) -> LoadedModel:
    """Load a network from a folder with ``config.json`` and ``model.safetensors``, as timm saves it."""
    if origin not in ("hf-hub", "local-dir"):
        raise ConfigError(
            f"timm has no model source {origin!r}",
            remedy=did_you_mean(origin, ["hf-hub", "local-dir"]),
        )
    for key in ("weights", "architecture", "entry"):
        if getattr(request, key) is not None:
            raise ConfigError(
                f"timm:{origin}:{rest} holds both network and weights", remedy=f"leave {key} out"
            )
    if origin == "hf-hub":
        reference, _, revision = rest.partition("@")  # as timm writes it
        folder = find_repository(reference, replace(request, revision=request.revision or revision or None))
    else:
        folder = find_local_folder(rest, request)
    if folder.read_json(CONFIG_FILE) is None:
        raise ModelError(
            f"has no {CONFIG_FILE}", where=folder.name, remedy="name a folder that timm has saved"
        )
    hashes = folder.hash_files(folder.list_weights_files())
    folder.check_sha256(hashes, request.sha256)
    provenance: dict[str, Any] = {"weights": next(iter(hashes)), "sha256": next(iter(hashes.values()))}
    if folder.commit is not None:
        provenance["commit"] = folder.commit
    network = _create_from_folder(timm, folder)
    loaded = _describe_network(timm, network, folder.name, request, provenance)
    loaded.notes[:0] = folder.notes
    return loaded


def _create_from_folder(timm: Any, folder: ModelFolder) -> nn.Module:
    try:
        with warnings.catch_warnings(action="ignore"):
            network: nn.Module = timm.create_model(f"local-dir:{folder.path}", pretrained=True).eval()
    except Exception as error:
        refuse_shortage(error, folder.name)
        lines = " ".join(str(error).split()) or type(error).__name__
        raise ModelError(
            f"timm cannot load it: {extract_first_line(ValueError(lines))}",
            where=folder.name,
            remedy=f"write hf: instead of timm: if its {CONFIG_FILE} is one of transformers",
        ) from error
    for name in ("pretrained_cfg", "default_cfg"):  # a moved folder is the same network
        config = {key: value for key, value in getattr(network, name).items() if key != "file"}
        setattr(network, name, config)
    return network


def _describe_network(
    timm: Any, network: Any, name: str, request: ModelRequest, provenance: dict[str, Any]
) -> LoadedModel:
    """Describe a network with its own weights: classes, names and preprocessing."""
    config = network.pretrained_cfg
    classes = int(network.num_classes)
    if request.num_classes not in (None, classes):
        raise ModelError(f"{name} has {classes} classes, not {request.num_classes}", where="timm")
    loaded = LoadedModel(
        model=network,
        num_classes=classes,
        channels=config["input_size"][0],
        class_names=_find_class_names(timm, config, classes),
        provenance=provenance,
    )
    _apply_data_config(timm, loaded, config, name)
    return loaded


def _apply_data_config(timm: Any, loaded: LoadedModel, config: dict[str, Any], name: str) -> None:
    """Set the contract that timm's evaluation transforms have for these weights."""
    data = timm.data.resolve_model_data_config(loaded.model, pretrained_cfg=config)
    loaded.contract = read_data_config(data, name)
    larger = config.get("test_input_size")
    if larger and tuple(larger) != tuple(data["input_size"]):
        height, width = larger[1:]
        loaded.notes.append(f"timm also evaluates it on images of {height}x{width}: set input_size for that")


def _find_class_names(timm: Any, config: dict[str, Any], classes: int) -> list[str] | None:
    """Return the names that the weights bring, or ImageNet's where their number of classes tells which."""
    names = config.get("label_names")
    if names is not None:
        described = config.get("label_descriptions") or {}
        return [
            str(described.get(name, name)) if isinstance(described, dict) else str(name) for name in names
        ]
    subset = timm.data.infer_imagenet_subset({"num_classes": classes})
    if subset is None:
        return None
    info = timm.data.ImageNetInfo(subset)
    return [info.index_to_description(index) for index in range(classes)]
