"""The request to a model source, and the model that it returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from robustbench_local.classifier import Access
from robustbench_local.classifier.input_contract import InputContract
from robustbench_local.classifier.literals import BINARY_OUTPUT_REMEDY
from robustbench_local.classifier.normalizations import Normalization, parse_normalization
from robustbench_local.config.file_lookup import find_file
from robustbench_local.counted_nouns import format_count
from robustbench_local.errors import ModelError
from robustbench_local.models.endpoint_options import EndpointOptions
from robustbench_local.models.weight_files import WeightsFile, read_weights
from robustbench_local.models.weight_loading import fit_weights, load_fitted_weights

_NORMALIZATION_TOLERANCE = 1e-3
"""Means and deviations that differ by less count as equal."""


@dataclass(frozen=True, kw_only=True)
class ModelRequest:
    """The user's options for a model, besides its source.

    Args:
        weights: A file, the name of published weights, or None.
        entry: Dotted path of the part of a weights file to use.
        architecture: The network of a checkpoint.
        num_classes: Number of classes that the user declares.
        default_classes: Number of classes of the data.
        sha256: Required SHA-256 of the weights file.
        trust_pickle: ``"sha256:<hash>"`` of a weights file that may run code.
        allow_code: Allow Python files to be run.
        base_folder: The folder in which relative paths are looked up.
        access: The output that an attacker may use.
        output: The entry of the model's output with the logits.
        endpoint: Options of a service.
        image_shape: (C, H, W) of the images that the model will get, where known.
        revision: Commit, branch or tag of a repository on the Hugging Face hub.
        class_names: The names that the user gives the classes.
        default_class_names: The names of the data's classes, if they have any.
        templates: Prompts of a zero-shot classifier, with ``{}`` for the name of the class.
        declares_preprocessing: Whether the user declares how images are prepared, instead of the source.
        input_size: (H, W) that the user declares.
        sample_images: Some of these images as they are loaded, (N, C, H, W) in [0, 1], where known.
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
    image_shape: tuple[int, int, int] | None = None
    revision: str | None = None
    class_names: Sequence[str] | None = None
    default_class_names: Sequence[str] | None = None
    templates: Sequence[str] | None = None
    declares_preprocessing: bool = False
    input_size: tuple[int, int] | None = None
    sample_images: Tensor | None = None

    def read(self, file: str) -> WeightsFile:
        """Find and read a weights file under these options."""
        path = find_file(file, self.base_folder)
        return read_weights(path, sha256=self.sha256, trust_pickle=self.trust_pickle, entry=self.entry)


@dataclass(kw_only=True)
class LoadedModel:
    """A model and the metadata of its source; None for what the source does not know.

    ``contract`` is how the model takes its images: size, resizing, interpolation, channels, values.
    ``is_unnormalized`` is set if the weights were probably trained with a normalization that is not declared.
    ``stored_normalization`` is stored beside the weights in their file; it is not applied. ``access`` is what
    the source found that the model offers, for users who declare none.
    """

    model: nn.Module | Callable[[Tensor], Tensor]
    num_classes: int
    contract: InputContract = field(default_factory=InputContract)
    is_unnormalized: bool = False
    stored_normalization: Normalization | None = None
    channels: int | None = None
    class_names: Sequence[str] | None = None
    access: Access | None = None
    notes: list[str] = field(default_factory=list)
    provenance: dict[str, Any] = field(default_factory=dict)

    def record_weights(self, weights: WeightsFile) -> None:
        """Record the weights' file."""
        self.notes += weights.notes
        self.provenance |= {"weights": weights.path.name, "sha256": weights.sha256}
        if weights.entry is not None:
            self.provenance["entry"] = weights.entry

    def check_normalization(self, declared: tuple[Sequence[float], Sequence[float]] | str | None) -> None:
        """Compare the normalization in the weights file, if there is one, with the one that is applied.

        Args:
            declared: The user's normalization; None for the source's.

        Raises:
            ModelError: If the user declares none, and the source has none or a different one.
        """
        stored = self.stored_normalization
        applied = (
            self.contract.normalization if declared is None else parse_normalization(declared, self.channels)
        )
        if stored is None or _is_close(stored, applied):
            return
        mean, std = (list(part) for part in stored)
        if declared is None:
            raise ModelError(
                f"has a normalization beside the network, mean {mean}, std {std}, and normalize is not set",
                where=str(self.provenance.get("weights")),
                remedy=f"set normalize: {{mean: {mean}, std: {std}}}, or what the network was trained with",
            )
        self.notes.append(
            f"normalize is not the normalization in {self.provenance.get('weights')} (mean {mean}, std {std})"
        )


def _is_close(first: Normalization, second: Normalization | None) -> bool:
    """Return True if two normalizations are equal up to rounding; one value applies to all channels."""
    if second is None:
        return all(value == 0 for value in first[0]) and all(value == 1 for value in first[1])
    count = max(len(first[0]), len(second[0]))
    pairs = (
        (part * count if len(part) == 1 else part, known * count if len(known) == 1 else known)
        for part, known in zip(first, second, strict=True)
    )
    return all(
        len(part) == len(known)
        and all(abs(a - b) < _NORMALIZATION_TOLERANCE for a, b in zip(part, known, strict=True))
        for part, known in pairs
    )


def build_with_weights(
    factory: Callable[[int], nn.Module], default: int, weights: WeightsFile | None, request: ModelRequest
) -> LoadedModel:
    """Build a network with weights from a file, or with its initial weights.

    Args:
        factory: Builds the network for a number of classes.
        default: The network's default number of classes.
        weights: The file's content, or None for initial weights.
        request: The user's options; without ``num_classes`` the file's last layer decides, without a file the
            number of classes of the data.

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
        layer = (
            f"its last layer has {format_count(classes, 'output')}"
            if fit.head
            else f"it fits a network of {classes}"
        )
        raise ModelError(
            f"{layer}, but num_classes is {request.num_classes}{f' ({fit.head})' if fit.head else ''}",
            where=weights.path.name,
            remedy=BINARY_OUTPUT_REMEDY if classes == 1 else f"set num_classes: {classes}, or leave it out",
        )
    if classes != default:
        network = factory(classes)
    loaded = LoadedModel(
        model=network, num_classes=classes, notes=load_fitted_weights(network, fit, weights.path.name)
    )
    loaded.stored_normalization = fit.normalization
    loaded.record_weights(weights)
    return loaded


def _find_head(network: nn.Module, classes: int) -> str | None:
    """Return the name of the last layer with one row per class, or None."""
    heads = [name for name, value in network.named_parameters() if value.ndim > 1 and len(value) == classes]
    return heads[-1].removesuffix(".weight") if heads and heads[-1].endswith(".weight") else None
