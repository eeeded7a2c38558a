"""The reference of a served model: beside its weights, or computed from data when the server starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from robustbench_local.config.file_lookup import find_file
from robustbench_local.data.data_sources import load_dataset
from robustbench_local.data.reference_outputs import (
    MIN_REFERENCE_IMAGES,
    ReferenceOutputs,
    compute_image_statistics,
    name_reference_file,
    read_reference,
)
from robustbench_local.errors import ConfigError
from robustbench_local.serving.prediction import read_answers
from robustbench_local.serving.served_model import ServedModel

_BATCH_SIZE = 32


@dataclass(frozen=True, kw_only=True)
class ReferenceData:
    """Images that the served ones are compared with."""

    source: str
    """As in a grid file, such as ``folder:photos``."""
    split: str = "val"
    """Their split: held-out images, since a model is surer of those that it was trained on."""
    limit: int = 500
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
    base = model.choice.settings.get("base_folder")
    path: Path = name_reference_file(find_file(file, base))
    return read_reference(path) if path.is_file() else None


def compute_reference(model: ServedModel, data: ReferenceData) -> ReferenceOutputs:
    """Compute the outputs of a model on reference images, and their statistics.

    Raises:
        RobustbenchError: If the images cannot be loaded, or are too few.
    """
    images = load_dataset(
        data.source,
        split=data.split,
        limit=data.limit,
        size=model.size,
        resize="stretch" if isinstance(model.contract.resize, tuple) else model.contract.resize,
        interpolation=model.contract.interpolation,
        gray_to_rgb=model.channels == 3,
    ).images
    if len(images) < MIN_REFERENCE_IMAGES:
        raise ConfigError(
            f"{data.source} has {len(images)} images, which say too little about what is usual",
            where="--reference",
            remedy=f"use {MIN_REFERENCE_IMAGES} or more",
        )
    answers = [
        answer
        for part in torch.split(images, _BATCH_SIZE)
        for answer in read_answers(model, model.compute_logits(part))
    ]
    kept = [answer.probabilities for answer in answers if answer.probabilities is not None]
    return ReferenceOutputs(
        probabilities=torch.tensor(kept),
        statistics=compute_image_statistics(images),
        source=f"{data.source}, {data.split}",
    )
