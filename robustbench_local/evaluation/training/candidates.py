"""The networks that a comparison trains: what the user names, with pretrained or fresh weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path

import torch

from robustbench_local.classifier.foreign_errors import extract_first_line
from robustbench_local.classifier.input_contract import InputContract, override_contract
from robustbench_local.defenses.training.initial_networks import (
    InitialNetwork,
    NormalizedNetwork,
    load_initial_network,
)
from robustbench_local.errors import ConfigError, ModelError, RobustbenchError, did_you_mean
from robustbench_local.models.networks.network_registry import ARCHITECTURES

DEFAULT_NETWORK = "resnet50"
"""What is trained if no network is named."""
PUBLISHED = "DEFAULT"
"""Name of a library's own choice of published weights."""
_DEFAULT_SIDE_PIXELS, _DEFAULT_RESIZE_PIXELS = 224, 256
"""Side of the images, and of the shorter side before the crop, for networks that do not say theirs."""
_LIBRARIES = ("torchvision:", "timm:")
"""Sources whose networks have published weights, trained with ImageNet's normalization."""


_NOT_RELOADABLE = ("timm:hf-hub:", "timm:local-dir:")
"""Sources of network and weights together, which take no other weights: a card cannot name the network."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A network to train.

    Attributes:
        name: Its name in tables and of its files.
        source: A built-in network, or a source of models.
        weights: A file, the name of published weights, or None for those of the source.
        is_fresh: Whether it starts from random weights.
    """

    name: str
    source: str
    weights: str | None
    is_fresh: bool


@dataclass(frozen=True, kw_only=True)
class CandidateOptions:
    """What holds for all networks of a comparison.

    Attributes:
        size: Side of the images in pixels; None for each network's own.
        normalize: Name of a normalization; None for each network's own.
        allow_code: Whether Python files may be run.
        base: Folder that relative paths start from.
    """

    size: int | None = None
    normalize: str | None = None
    allow_code: bool = False
    base: Path | None = None


def parse_candidates(text: str, *, from_scratch: bool) -> tuple[Candidate, ...]:
    """Parse names of networks, separated by commas; ``NAME=FILE`` names weights.

    Args:
        text: Such as ``resnet50,convnext_tiny=convnext.pth,timm:resnet18``. A bare name is a built-in network
            or one of torchvision.
        from_scratch: Whether networks of which no weights are named start from random ones.

    Raises:
        ConfigError: If a name is unknown or comes twice, or a network has no weights to start from.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words:
        raise ConfigError(
            "names no network", where="--models", remedy=f"name some, such as {DEFAULT_NETWORK}"
        )
    candidates = tuple(_parse_word(word, from_scratch=from_scratch) for word in words)
    names = [candidate.name for candidate in candidates]
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise ConfigError(f"names {repeated!r} twice", where="--models", remedy="name each network once")
    return candidates


def load_candidate(
    candidate: Candidate, options: CandidateOptions, *, num_classes: int, channels: int, seed: int
) -> InitialNetwork:
    """Load a network with a head for the classes, and try one pass.

    The input contract of pretrained weights is kept. Networks of a library that do not say theirs get
    ImageNet's normalization and images of 224 pixels.

    Args:
        candidate: The network.
        options: What holds for all networks.
        num_classes: Number of classes of the data.
        channels: Channels of the images.
        seed: Seed of weights that are not pretrained.

    Raises:
        ConfigError: If there is no such network.
        ModelError: If the weights cannot be obtained or do not fit, or the network cannot take the images.
        RefusedError: If loading could run code that was not allowed.
    """
    size = None if options.size is None else (options.size, options.size)
    try:
        start = load_initial_network(
            candidate.source,
            num_classes=num_classes,
            seed=seed,
            weights=candidate.weights,
            normalize=options.normalize,
            input_size=size,
            allow_code=options.allow_code,
            base_folder=options.base,
        )
    except ModelError as error:
        if candidate.weights != PUBLISHED:
            raise
        raise _explain_missing_weights(candidate, error) from error
    start = _complete_contract(start, candidate, options)
    _try_pass(start, candidate.name, channels)
    return start


def _parse_word(word: str, *, from_scratch: bool) -> Candidate:
    """Parse one network, with its weights where they are named."""
    source, equals, weights = word.partition("=")
    if equals and not weights:
        raise ConfigError(f"{word!r} names no file", where="--models", remedy="write NAME=FILE")
    if source.startswith(_NOT_RELOADABLE):
        raise ConfigError(
            f"{source} can be tested, but weights trained from it cannot be loaded again",
            where="--models",
            remedy="name the network by torchvision, or as timm:NAME with its weights as timm:NAME=FILE",
        )
    is_built_in = source in ARCHITECTURES
    if ":" not in source and not is_built_in:
        source = _find_torchvision_name(source)
    has_published = source.startswith(_LIBRARIES)
    if weights or (":" in source and not has_published):
        is_fresh, chosen = False, weights or None
    else:
        is_fresh, chosen = from_scratch, None if from_scratch else PUBLISHED
    if is_built_in and chosen == PUBLISHED:
        raise ConfigError(
            f"{source} has no published weights",
            where="--models",
            remedy=f"write {source}=FILE, or train from random weights with --from-scratch",
        )
    name = word.partition("=")[0].removeprefix("torchvision:")
    return Candidate(name=name, source=source, weights=chosen, is_fresh=is_fresh)


def _find_torchvision_name(name: str) -> str:
    """Return the source of a bare name.

    Raises:
        ConfigError: If neither torchvision nor this package has such a network.
    """
    models = import_module("torchvision.models")  # seconds, for who names one of its networks only
    known = models.list_models(module=models)
    if name not in known:
        remedy = did_you_mean(name, [*known, *ARCHITECTURES])
        raise ConfigError(f"there is no network {name!r}", where="--models", remedy=remedy)
    return f"torchvision:{name}"


def _explain_missing_weights(candidate: Candidate, error: ModelError) -> ModelError:
    """Say how to go on without the published weights, in this command's words."""
    return ModelError(
        error.what,
        where=candidate.name,
        remedy=f"get the file and write {candidate.name}=FILE in --models, train from random weights with "
        "--from-scratch, or connect to the network",
    )


def _complete_contract(
    start: InitialNetwork, candidate: Candidate, options: CandidateOptions
) -> InitialNetwork:
    """Fill in what a network does not say: the normalization of a library's, size, and how it is reached."""
    contract = start.contract
    is_library, is_built_in = candidate.source.startswith(_LIBRARIES), start.architecture in ARCHITECTURES
    if is_library and contract.normalization is None and options.normalize is None:
        contract = override_contract(contract, normalize="imagenet", channels=3)
    if contract.input_size is None and is_built_in:
        contract = replace(contract, input_size=ARCHITECTURES[start.architecture].input_shape[1:])
    elif contract.input_size is None and is_library:
        contract = replace(contract, input_size=(_DEFAULT_SIDE_PIXELS,) * 2, resize=_DEFAULT_RESIZE_PIXELS)
    is_chosen_here = is_library or is_built_in or options.size is not None
    if is_chosen_here and contract.input_size is not None and contract.resize is None:
        contract = replace(contract, resize=min(contract.input_size))  # covered, and the center is cut out
    return replace_contract(start, contract)


def replace_contract(start: InitialNetwork, contract: InputContract) -> InitialNetwork:
    """Return the same network behind another preprocessing."""
    if contract == start.contract:
        return start
    return replace(start, module=NormalizedNetwork(start.module.network, contract), contract=contract)


def _try_pass(start: InitialNetwork, name: str, channels: int) -> None:
    """Refuse a network that cannot take images of its size, before anything is trained."""
    height, width = start.contract.input_size or (_DEFAULT_SIDE_PIXELS,) * 2
    start.module.eval()
    try:
        with torch.no_grad():
            logits = start.module(torch.zeros(2, channels, height, width))
    except RobustbenchError:
        raise
    except Exception as error:
        kind = "gray" if channels == 1 else "color"
        raise ModelError(
            f"cannot take {kind} images of {width}x{height}: {extract_first_line(error)}",
            where=name,
            remedy="set another --size, or name another network"
            if channels == 3
            else "add --data-option gray_to_rgb=true",
        ) from error
    if logits.shape[1] != start.num_classes:
        raise ModelError(
            f"returns {logits.shape[1]} logits for {start.num_classes} classes",
            where=name,
            remedy="name another network",
        )
