"""What is asked of a model source, and what each one answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from robustbench_local.classifier import Access
from robustbench_local.classifier.literals import BINARY_OUTPUT_REMEDY
from robustbench_local.classifier.normalizations import Normalization
from robustbench_local.classifier.preprocessing import parse_normalization
from robustbench_local.errors import ModelError
from robustbench_local.models.endpoint_options import EndpointOptions
from robustbench_local.models.model_files import find_file
from robustbench_local.models.weight_files import WeightsFile, read_weights
from robustbench_local.models.weight_loading import fit_weights, load_fitted_weights

_NORMALIZATION_TOLERANCE = 1e-3
"""Means and deviations that differ by less are the same, written with other digits."""


@dataclass(frozen=True, kw_only=True)
class ModelRequest:
    """What the user said about a model, besides its source.

    Args:
        weights: A file, the name of published weights, or None.
        entry: Which part of a weights file to take, as a dotted path.
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
    entry: str | None = None
    architecture: str | None = None
    num_classes: int | None = None
    default_classes: int | None = None
    sha256: str | None = None
    trust_pickle: str | None = None
    allow_code: bool = False
    base_folder: Path | None = None
    access: Access | None = None
    output: str | int | None = None
    endpoint: EndpointOptions | None = None

    def read(self, file: str) -> WeightsFile:
        """Find and read a weights file under these conditions."""
        path = find_file(file, self.base_folder)
        return read_weights(path, sha256=self.sha256, trust_pickle=self.trust_pickle, entry=self.entry)


@dataclass(kw_only=True)
class LoadedModel:
    """A model and what its source knows about it; None where it knows nothing.

    ``is_unnormalized`` is set where weights were most likely trained with a normalisation that nobody declared;
    ``stored_normalization`` is one that lies beside the weights in their file, and is not applied.
    """

    model: nn.Module | Callable[[Tensor], Tensor]
    num_classes: int
    normalize: Normalization | None = None
    is_unnormalized: bool = False
    stored_normalization: Normalization | None = None
    input_size: tuple[int, int] | None = None
    channels: int | None = None
    class_names: Sequence[str] | None = None
    notes: list[str] = field(default_factory=list)
    provenance: dict[str, Any] = field(default_factory=dict)

    def record_weights(self, weights: WeightsFile) -> None:
        """Record the file of the weights."""
        self.notes += weights.notes
        self.provenance |= {"weights": weights.path.name, "sha256": weights.sha256}
        if weights.entry is not None:
            self.provenance["entry"] = weights.entry

    def check_normalization(self, declared: tuple[Sequence[float], Sequence[float]] | str | None) -> None:
        """Compare the normalisation in the weights file, if there is one, with the one that will be applied.

        Args:
            declared: What the user wrote; None for what the source knows.

        Raises:
            ModelError: If nobody declared one, and the source knows none or another one.
        """
        stored = self.stored_normalization
        applied = self.normalize if declared is None else parse_normalization(declared, self.channels)
        if stored is None or _is_close(stored, applied):
            return
        mean, std = (list(part) for part in stored)
        if declared is None:
            raise ModelError(
                f"has a normalisation beside the network, mean {mean}, std {std}, and normalize is not set",
                where=str(self.provenance.get("weights")),
                remedy=f"set normalize: {{mean: {mean}, std: {std}}}, or what the network was trained with",
            )
        self.notes.append(
            f"normalize is not the normalisation in {self.provenance.get('weights')} (mean {mean}, std {std})"
        )


def _is_close(one: Normalization, other: Normalization | None) -> bool:
    """Whether two normalisations are the same but for rounding; one value stands for all channels."""
    if other is None:
        return all(value == 0 for value in one[0]) and all(value == 1 for value in one[1])
    count = max(len(one[0]), len(other[0]))
    pairs = (
        (part * count if len(part) == 1 else part, known * count if len(known) == 1 else known)
        for part, known in zip(one, other, strict=True)
    )
    return all(
        len(part) == len(known)
        and all(abs(a - b) < _NORMALIZATION_TOLERANCE for a, b in zip(part, known, strict=True))
        for part, known in pairs
    )


def build_with_weights(
    factory: Callable[[int], nn.Module], default: int, weights: WeightsFile | None, request: ModelRequest
) -> LoadedModel:
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
        return LoadedModel(model=factory(classes), num_classes=classes, notes=[note])
    network = factory(default)
    fit = fit_weights(weights, network, _find_head(network, default))
    classes = fit.num_classes or default
    if request.num_classes not in (None, classes):
        layer = f"its last layer has {classes} outputs" if fit.head else f"it fits a network of {classes}"
        raise ModelError(
            f"{layer}, but num_classes is {request.num_classes}{f' ({fit.head})' if fit.head else ''}",
            where=weights.path.name,
            remedy=BINARY_OUTPUT_REMEDY if classes == 1 else f"set num_classes: {classes}, or leave it out",
        )
    if classes != default:
        network = factory(classes)
    found = LoadedModel(
        model=network, num_classes=classes, notes=load_fitted_weights(network, fit, weights.path.name)
    )
    found.stored_normalization = fit.normalization
    found.record_weights(weights)
    return found


def _find_head(network: nn.Module, classes: int) -> str | None:
    """The layer whose rows are the classes: the last one with as many."""
    heads = [name for name, value in network.named_parameters() if value.ndim > 1 and len(value) == classes]
    return heads[-1].removesuffix(".weight") if heads and heads[-1].endswith(".weight") else None
