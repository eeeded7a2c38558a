"""Answers of a model in words and numbers: classes with probabilities, and rejected images."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from robustbench_local.serving.served_model import ServedModel


@dataclass(frozen=True)
class Answer:
    """The answer of a model to one image."""

    class_index: int | None
    """The predicted class; None if the image is rejected, or the output is not finite."""
    probabilities: tuple[float, ...] | None
    """The softmax of the logits over the classes, or the shares of votes, (K,), each in [0, 1]; None for a
    model that gives labels only, and for output that is not finite."""
    is_rejected: bool
    """Whether the model rejects the image."""

    @property
    def confidence(self) -> float | None:
        """The probability of the predicted class."""
        if self.class_index is None or self.probabilities is None:
            return None
        return self.probabilities[self.class_index]

    def to_json(self, names: Sequence[str], top: int) -> dict[str, Any]:
        """Return the answer for JSON.

        Args:
            names: Names of the classes.
            top: Number of classes to list, the most probable first.
        """
        ranked: list[dict[str, Any]] = []
        if self.probabilities is not None:
            order = sorted(range(len(names)), key=lambda index: (-self.probabilities[index], index))  # type: ignore[index]
            ranked = [
                {"index": index, "name": names[index], "probability": self.probabilities[index]}
                for index in order[:top]
            ]
        chosen = self.class_index
        return {
            "index": chosen,
            "name": None if chosen is None else names[chosen],
            "probability": self.confidence,
            "rejected": self.is_rejected,
            "classes": ranked,
        }


def read_answers(model: ServedModel, logits: Tensor) -> list[Answer]:
    """Read the answers from logits.

    Args:
        model: The model.
        logits: (N, K), or (N, K + 1) if the model may reject images.
    """
    count = model.classifier.num_classes
    finite = logits[:, :count].isfinite().all(dim=1)
    chosen = logits.argmax(dim=1)
    gives_scores = model.classifier.access != "labels"
    probabilities = convert_to_probabilities(model, logits)
    answers = []
    for row in range(len(logits)):
        is_rejected = bool(finite[row]) and int(chosen[row]) >= count
        is_usable = bool(finite[row]) and not is_rejected
        answers.append(
            Answer(
                class_index=int(chosen[row]) if is_usable else None,
                probabilities=tuple(probabilities[row].tolist()) if gives_scores and finite[row] else None,
                is_rejected=is_rejected,
            )
        )
    return answers


def convert_to_probabilities(model: ServedModel, logits: Tensor) -> Tensor:
    """Convert logits to the probabilities of the classes, (N, K), float64; a rejecting logit is left out."""
    classes = logits[:, : model.classifier.num_classes].double()
    return classes if model.gives_probabilities else torch.softmax(classes, dim=1)


def encode_png(image: Tensor) -> str:
    """Encode an image (C, H, W) in [0, 1] as the data URL of a PNG file, rounded to 8 bits."""
    levels = (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    pixels = levels[..., 0] if levels.shape[2] == 1 else np.ascontiguousarray(levels)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
