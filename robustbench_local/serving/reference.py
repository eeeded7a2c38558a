"""The reference of a served model: beside its weights, or computed from data when the server starts."""

from __future__ import annotations

from dataclasses import dataclass

from robustbench_local.config.file_lookup import find_file
from robustbench_local.data.data_sources import load_dataset
from robustbench_local.data.reference_outputs import (
    MAX_REFERENCE_IMAGES,
    ReferenceOutputs,
    collect_reference,
    name_reference_file,
    read_reference,
)
from robustbench_local.errors import DataError
from robustbench_local.serving.prediction import convert_to_probabilities
from robustbench_local.serving.served_model import ServedModel


@dataclass(frozen=True, kw_only=True)
class ReferenceData:
    """Images that the served ones are compared with."""

    source: str
    """As in a grid file, such as ``folder:photos``."""
    split: str = "val"
    """Their split: held-out images, since a model is surer of those that it was trained on."""
    limit: int = MAX_REFERENCE_IMAGES
    """Largest number of images."""


def find_reference(model: ServedModel, data: ReferenceData | None) -> ReferenceOutputs | None:
    """Find the reference of a model.

    Args:
        model: The model.
        data: The images; None: the reference beside the weights, if there is one.

    Returns:
        The reference; None if there is none, or the model gives labels only.

    Raises:
        RobustbenchError: If the images or the file cannot be used.
    """
    if model.classifier.access == "labels":
        return None
    if data is not None:
        return compute_reference(model, data)
    kind, _, file = model.choice.source.partition(":")
    if kind != "checkpoint" or model.choice.defense is not None:
        return None
    path = name_reference_file(find_file(file, model.choice.base_folder))
    if not path.is_file():
        return None
    known = read_reference(path)
    if known.weights not in (None, model.classifier.provenance.get("sha256")):
        raise DataError(
            "the reference belongs to other weights",
            where=path.name,
            remedy="remove it, train again, or name images with --reference",
        )
    return known


def compute_reference(model: ServedModel, data: ReferenceData) -> ReferenceOutputs:
    """Compute the outputs of a model on reference images, and their statistics.

    Raises:
        RobustbenchError: If the images cannot be loaded, or are too few.
    """
    data_resize = model.contract.resize
    images = load_dataset(
        data.source,
        split=data.split,
        limit=data.limit,
        choose="random",  # evenly over the classes, the mix of classes would differ from that of all images
        size=model.size,
        resize="stretch" if isinstance(data_resize, tuple) else data_resize,
        interpolation=model.contract.interpolation,
        gray_to_rgb=model.channels == 3,
    ).images
    return collect_reference(
        lambda part: convert_to_probabilities(model, model.compute_logits(part)),
        images,
        f"{data.source}, {data.split}",
    )
