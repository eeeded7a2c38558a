"""Models that follow MAITE's protocol for image classification, recognized by their shape alone.

Source: MAITE (Modular AI Trustworthy Engineering), ``maite.protocols.image_classification.Model``: a call
takes a sequence of images (C, H, W) and returns a sequence of scores (K,), probabilities or logits;
``metadata`` has an ``id`` and may have ``index2label``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor, nn

from robustbench_local.classifier import Classifier
from robustbench_local.classifier.code_identity import CODE_RECORD_ATTRIBUTE
from robustbench_local.classifier.foreign_errors import extract_first_line
from robustbench_local.errors import ConfigError, ModelError
from robustbench_local.extensions.user_import import digest_file
from robustbench_local.models.loaded_model import LoadedModel, ModelRequest
from robustbench_local.models.probability_scores import convert_where_probabilities
from robustbench_local.models.user_code import run_user_code


def follows_maite(model: Any) -> bool:
    """Return True if an object has what MAITE asks of a model: a call, and metadata with an id."""
    metadata = getattr(model, "metadata", None)
    return callable(model) and isinstance(metadata, Mapping) and isinstance(metadata.get("id"), str)


def wrap_maite_model(model: Any) -> Callable[[Tensor], np.ndarray]:
    """Return a function from images (N, C, H, W) in [0, 1] to scores (N, K) that asks such a model.

    It belongs to the model's code: identity and copies are those of the model.
    """
    wrapped = partial(_ask_model, model)
    record = getattr(model, "__dict__", {}).get(CODE_RECORD_ATTRIBUTE)
    if record is not None:
        setattr(wrapped, CODE_RECORD_ATTRIBUTE, record)
    return wrapped


def read_class_names(model: Any) -> tuple[str, ...] | None:
    """Return the class names in a model's metadata, in the order of its scores; None if there are none.

    Raises:
        ModelError: If the classes are not numbered from 0 without gaps.
    """
    names = model.metadata.get("index2label")
    if not names:
        return None
    if isinstance(names, Mapping):  # the numbers are texts where the metadata come from JSON
        names = {int(key) if str(key).isdecimal() else key: name for key, name in names.items()}
    if not isinstance(names, Mapping) or set(names) != set(range(len(names))):
        numbers = ", ".join(map(str, list(names)[:5]))
        raise ModelError(
            f"index2label names the classes {numbers}, not 0 to {len(names) - 1}",
            where=model.metadata["id"],
            remedy="give a name to each class, from 0",
        )
    return tuple(str(names[number]) for number in range(len(names)))


def make_maite_classifier(model: Any, images: Tensor, num_classes: int | None = None) -> Classifier:
    """Return a classifier over a MAITE model, a black box that gives scores.

    Args:
        model: The model.
        images: (N, C, H, W); without a number of classes, the model is asked about the first one.
        num_classes: K; by default the number of names in its metadata.

    Raises:
        ModelError: If it raises, or its metadata are wrong.
    """
    names, name = read_class_names(model), model.metadata["id"]
    wrapped = wrap_maite_model(model)
    classes = num_classes or (len(names) if names else None)
    if classes is None:
        try:
            classes = wrapped(images[:1]).shape[1]
        except Exception as error:  # a user's object may raise anything
            what = f"raised {type(error).__name__}: {extract_first_line(error)}"
            raise ModelError(what, where=name, remedy="check it, or give num_classes=...") from error
    return Classifier(
        wrapped,  # type: ignore[arg-type]  # arrays are handled like tensors
        num_classes=classes,
        class_names=names if names and len(names) == classes else None,
        access="scores",
        name=name,
    )


def load_maite(reference: str, request: ModelRequest) -> LoadedModel:
    """Load the model that ``FILE.py:NAME`` is or returns, which follows MAITE's protocol.

    Raises:
        RefusedError: Unless ``allow_code`` is set.
        ConfigError: If the reference is not ``FILE.py:NAME``, or an option does not apply.
        ModelError: If the file raises, the object does not follow the protocol, or its number of classes is
            unknown.
    """
    if request.weights is not None or request.architecture is not None:
        raise ConfigError(f"maite:{reference} holds its weights", remedy="leave weights and architecture out")
    if request.access == "gradients":
        raise ConfigError(
            f"maite:{reference} gives no gradients",
            remedy="set access: scores or labels, or name its torch module with python:FILE.py:NAME",
        )
    path, model = run_user_code(reference, request)
    if not follows_maite(model):
        raise ModelError(
            f"is a {type(model).__name__} that does not follow MAITE's protocol of a model",
            where=reference,
            remedy="give it metadata = {'id': ...} and a call from a batch of images to a batch of scores",
        )
    if isinstance(model, nn.Module):
        model.eval()
    names = read_class_names(model)
    classes = request.num_classes or (len(names) if names else None) or request.default_classes
    if classes is None:
        raise ModelError("its number of classes is unknown", where=reference, remedy="set num_classes")
    return LoadedModel(
        model=wrap_maite_model(model),  # type: ignore[arg-type]  # arrays are handled like tensors
        num_classes=classes,
        class_names=names if names and len(names) == classes else None,
        access="scores",
        notes=[f"built by running {path.name} (code was allowed)", f"MAITE model {model.metadata['id']!r}"],
        provenance={"code": path.name, "code_sha256": digest_file(path), "maite_id": model.metadata["id"]},
    )


def _ask_model(model: Any, images: Tensor) -> np.ndarray:
    """Return the scores of a batch, (N, K), as float32; the logarithms of probabilities."""
    batch = [np.ascontiguousarray(image) for image in images.detach().cpu().numpy()]
    rows = model(batch)
    scores = [_convert_row(row) for row in rows]
    if len(scores) != len(batch):
        raise ValueError(f"{len(scores)} answers to {len(batch)} images")
    return convert_where_probabilities(np.stack(scores))


def _convert_row(row: Any) -> np.ndarray:
    """Return one answer as a vector of float32, from a list, an array or a tensor of any library."""
    if isinstance(row, Tensor):
        row = row.detach().cpu()
    values = np.asarray(row)
    if values.ndim != 1:
        raise ValueError(f"an answer has the shape {values.shape}, not (K,)")
    return values.astype(np.float32)
