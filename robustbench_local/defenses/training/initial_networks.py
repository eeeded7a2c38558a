"""Initial networks of a training: any source of models, with normalization and a head for the classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from robustbench_local.classifier.input_contract import InputContract, override_contract
from robustbench_local.classifier.preprocessing import fit_size, scale_values
from robustbench_local.defenses.training.layer_groups import find_head
from robustbench_local.errors import ModelError
from robustbench_local.models.loaded_model import LoadedModel, ModelRequest
from robustbench_local.models.model_sources import load_model
from robustbench_local.models.networks.network_registry import (
    find_architecture,
    fixed_initial_weights,
    seeded_initial_weights,
)
from robustbench_local.models.zoo import list_zoo
from robustbench_local.randomness import derive_seed


class NormalizedNetwork(nn.Module):
    """A network behind its preprocessing: images in [0, 1] to logits.

    Args:
        network: Preprocessed images to logits; only its weights are saved.
        contract: How the network takes its images.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, contract: InputContract) -> None:
        super().__init__()
        self.network, self.contract = network, contract
        mean, std = contract.normalization or ((0.0,), (1.0,))
        # Not part of the weights: the code that loads them normalizes outside the network, see Classifier.
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)
        self.register_forward_hook(_check_logits)

    def extra_repr(self) -> str:
        """Return the description of the network besides its layers."""
        extras = "".join(f", {name}={value}" for name, value in self.contract.list_extras())
        return f"input_size={self.contract.input_size}{extras}"

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, C, H, W) in [0, 1] to logits (N, K).

        Calling the module checks the logits; ``forward`` itself can be traced for bounds.
        """
        images = scale_values(fit_size(images, self.contract), self.contract)
        logits: Tensor = self.network((images - self.mean) / self.std)
        return logits


def _check_logits(_module: nn.Module, _images: Any, logits: Any) -> None:
    """Refuse a network that does not return logits (N, K)."""
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        raise ModelError(
            f"returns a {type(logits).__name__} in training, not logits (N, K)",
            where="training",
            remedy="wrap the network so that it returns its logits alone",
        )


@dataclass(frozen=True, kw_only=True)
class InitialNetwork:
    """The starting point of a training.

    Attributes:
        module: The network behind its preprocessing.
        architecture: Description of the network on the card beside the weights.
        num_classes: Number of logits.
        contract: How the network takes its images.
        origin: Source of the weights, with their SHA-256; empty for initial weights.
    """

    module: NormalizedNetwork
    architecture: str
    num_classes: int
    contract: InputContract
    origin: dict[str, str]


def load_initial_network(
    model: str,
    *,
    num_classes: int,
    seed: int,
    weights: str | None = None,
    entry: str | None = None,
    architecture: str | None = None,
    normalize: tuple[Sequence[float], Sequence[float]] | str | None = None,
    input_size: tuple[int, int] | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    allow_code: bool = False,
    base_folder: Path | None = None,
    declared_classes: int | None = None,
    sha256: str | None = None,
    trust_pickle: str | None = None,
) -> InitialNetwork:
    """Load the initial network of a training.

    Args:
        model: A built-in architecture, or a source of models such as ``torchvision:resnet50``.
        num_classes: Number of classes of the training data; if the weights have another number, the last
            layer is replaced.
        seed: Seed of initial weights.
        weights: A file, or the name of published weights such as ``"DEFAULT"``; None for initial ones.
        entry: Entry of the file, if more than one fits.
        architecture: For ``checkpoint:FILE``, the architecture, if there is no card beside it.
        normalize: Means and standard deviations, a name, or ``"none"``; None for those of the model or its
            weights.
        input_size: (H, W) that images are resized to; None for that of the model.
        preprocessing: Other fields of the model's `InputContract` to override.
        allow_code: Whether a Python file may be run.
        base_folder: The folder that relative paths start from.
        declared_classes: Number of classes of the model given by the user.
        sha256: Expected SHA-256 of the weights file.
        trust_pickle: ``"sha256:<hash>"`` of a weights file that may run code during loading.

    Raises:
        ConfigError: If the model or a name in it is unknown.
        ModelError: If it cannot be trained, or the weights do not fit.
        RefusedError: If loading could run code that was not allowed.
    """
    request = ModelRequest(
        weights=weights,
        entry=entry,
        architecture=architecture,
        num_classes=declared_classes,
        default_classes=num_classes,
        sha256=sha256,
        trust_pickle=trust_pickle,
        allow_code=allow_code,
        base_folder=base_folder,
    )
    with seeded_initial_weights(derive_seed(seed, "initial weights")):
        loaded = _load_source(model, request)
        loaded.check_normalization(normalize)
        if not isinstance(loaded.model, nn.Module):
            raise ModelError("is not a torch module, so it cannot be trained", where=model)
        if loaded.num_classes != num_classes:
            _replace_head(loaded.model, loaded.num_classes, num_classes, model)
    contract = override_contract(
        loaded.contract,
        normalize=normalize,
        input_size=input_size,
        preprocessing=preprocessing,
        channels=loaded.channels,
    )
    sha = loaded.provenance.get("sha256") or loaded.provenance.get("published")
    return InitialNetwork(
        module=NormalizedNetwork(loaded.model.requires_grad_(True), contract),
        architecture=str(loaded.provenance.get("architecture") or model),
        num_classes=num_classes,
        contract=contract,
        origin={"weights": str(loaded.provenance.get("weights", weights)), "sha256": str(sha)} if sha else {},
    )


def build_teacher_loader(
    device: torch.device,
    base_folder: Path | None = None,
    *,
    allow_code: bool = False,
    num_classes: int | None = None,
) -> Callable[[str], nn.Module]:
    """Return a loader of a teacher: a shipped network, a weights file, or a source of models.

    Args:
        device: Device of the teacher.
        base_folder: The folder that relative paths start from.
        allow_code: Whether a Python file may be run.
        num_classes: Number of classes of the student, for a teacher of unknown number of classes.
    """

    def load(name: str) -> nn.Module:
        source = f"zoo:{name}" if name in list_zoo() else name if ":" in name else f"checkpoint:{name}"
        request = ModelRequest(base_folder=base_folder, allow_code=allow_code, default_classes=num_classes)
        loaded = load_model(source, request)
        if not isinstance(loaded.model, nn.Module):
            raise ModelError("is not a torch module, so it cannot be a teacher", where=name)
        loaded.check_normalization(None)
        network = NormalizedNetwork(loaded.model, loaded.contract)
        return network.to(device).eval().requires_grad_(False)

    return load


def _load_source(model: str, request: ModelRequest) -> LoadedModel:
    if ":" in model:
        return load_model(model, request)
    own = find_architecture(model)
    if request.weights is not None:
        return load_model(f"checkpoint:{request.weights}", replace(request, weights=None, architecture=model))
    classes = request.default_classes or own.num_classes
    return LoadedModel(
        model=own.build_network(classes),
        num_classes=classes,
        contract=InputContract(normalization=own.normalize),
    )


def _replace_head(network: nn.Module, before: int, after: int, where: str) -> None:
    """Replace the last layer by a new one for other classes."""
    name = find_head(network, before)
    if name is None:
        raise ModelError(f"has no last layer of {before} outputs to replace", where=where)
    old = network.get_submodule(name)
    with fixed_initial_weights():
        bias = old.bias is not None
        if isinstance(old, nn.Conv2d):
            head: nn.Module = nn.Conv2d(old.in_channels, after, 1, bias=bias)
        else:
            head = nn.Linear(cast("nn.Linear", old).in_features, after, bias=bias)
    parent, _, attribute = name.rpartition(".")
    setattr(network.get_submodule(parent), attribute, head)
