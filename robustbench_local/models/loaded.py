"""What is asked of a model source, and what each one answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from robustbench_local.classifier import Access
from robustbench_local.classifier.preprocessing import Normalization
from robustbench_local.errors import ModelError
from robustbench_local.models.files import find_file
from robustbench_local.models.http_client import EndpointOptions
from robustbench_local.models.weights import Weights, fitted, load_into, read_weights


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the user said about a model, besides its source.

    Args:
        weights: A file, the name of published weights, or None.
        architecture: Which network a checkpoint belongs to.
        num_classes: How many classes the user declares.
        default_classes: How many the data have.
        sha256: What the SHA-256 of the weights file must be.
        trust_pickle: ``"sha256:<hash>"`` of a weights file that may run code.
        allow_code: Whether Python files may be run.
        base: The folder that relative paths start from.
        access: What an attacker may use.
        output: Which of the model's outputs holds the logits.
        endpoint: How a service is asked.
    """

    weights: str | None = None
    architecture: str | None = None
    num_classes: int | None = None
    default_classes: int | None = None
    sha256: str | None = None
    trust_pickle: str | None = None
    allow_code: bool = False
    base: Path | None = None
    access: Access | None = None
    output: str | int | None = None
    endpoint: EndpointOptions | None = None

    def read(self, file: str) -> Weights:
        """Find and read a weights file under these conditions."""
        path = find_file(file, self.base)
        return read_weights(path, sha256=self.sha256, trust_pickle=self.trust_pickle)


@dataclass(kw_only=True)
class Loaded:
    """A model and what its source knows about it; None where it knows nothing.

    ``unnormalized`` is set where weights were most likely trained with a normalisation that nobody declared.
    """

    model: nn.Module | Callable[[Tensor], Tensor]
    num_classes: int
    normalize: Normalization | None = None
    unnormalized: bool = False
    input_size: tuple[int, int] | None = None
    channels: int | None = None
    class_names: Sequence[str] | None = None
    notes: list[str] = field(default_factory=list)
    provenance: dict[str, Any] = field(default_factory=dict)

    def came_from(self, weights: Weights) -> None:
        """Record the file of the weights."""
        self.notes += weights.notes
        self.provenance |= {"weights": weights.path.name, "sha256": weights.sha256}


def with_weights(
    factory: Callable[[int], nn.Module], default: int, weights: Weights | None, request: Request
) -> Loaded:
    """A network filled from a file, or with its initial weights.

    Args:
        factory: The network for a number of classes.
        default: How many classes the network has by itself.
        weights: The file's content, or None for initial weights.
        request: What the user said; without ``num_classes`` the file's last layer decides, without a file
            the data's number.

    Raises:
        ModelError: If the file does not fit the network, or has another number of classes than declared.
    """
    if weights is None:
        classes = request.num_classes or request.default_classes or default
        note = "random weights: no weights were given"
        return Loaded(model=factory(classes), num_classes=classes, notes=[note])
    network = factory(default)
    tensors, _ = fitted(weights, network.state_dict())
    classes = _classes_in(tensors, network, default)
    if request.num_classes not in (None, classes):
        raise ModelError(
            f"its last layer has {classes} outputs, but num_classes is {request.num_classes}",
            where=weights.path.name,
            remedy=f"set num_classes: {classes}, or leave it out",
        )
    if classes != default:
        network = factory(classes)
    found = Loaded(model=network, num_classes=classes, notes=load_into(network, weights))
    found.came_from(weights)
    return found


def _classes_in(tensors: Mapping[str, Any], network: nn.Module, default: int) -> int:
    """The number of outputs of the file's last layer; the default if the file has no such layer."""
    heads = [name for name, value in network.named_parameters() if value.ndim > 1 and len(value) == default]
    last = tensors.get(heads[-1]) if heads else None
    return len(last) if isinstance(last, Tensor) and last.ndim > 1 else default
