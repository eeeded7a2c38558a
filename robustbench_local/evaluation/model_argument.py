"""Conversion of a caller's model and images to the classifier and data that the harness works on."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_local.classifier import Classifier
from robustbench_local.classifier.literals import BINARY_OUTPUT_REMEDY
from robustbench_local.data.dataset import Dataset, as_dataset
from robustbench_local.errors import ConfigError, DataError, ModelError
from robustbench_local.models.maite_model import follows_maite, make_maite_classifier

UNNORMALIZED_NOTE = "no normalization declared: images are passed on in [0, 1]"
"""Note about a network that was passed without a `Classifier` around it."""


def as_classifier(model: Any, images: Tensor, num_classes: int | None = None) -> Classifier:
    """Return the classifier itself, or wrap a network, which stays on its device, or a MAITE model.

    Args:
        model: A classifier, a network that takes images in [0, 1] as they are, or an object that follows
            MAITE's protocol of a model, which becomes a black box that gives scores.
        images: (N, C, H, W); the first one is passed through a network without a given number of classes.
        num_classes: Number of classes of a network.

    Raises:
        ConfigError: If it is neither, or ``num_classes`` is given with a classifier.
        ModelError: If the network is spread over several devices, or its number of classes cannot be found.
    """
    if isinstance(model, Classifier):
        if num_classes not in (None, model.num_classes):
            what = f"num_classes is {num_classes}, but the classifier has {model.num_classes}"
            raise ConfigError(what, remedy="leave num_classes out")
        return model
    name = type(model).__name__
    if not isinstance(model, nn.Module) and follows_maite(model):
        return make_maite_classifier(model, images, num_classes)
    if not isinstance(model, nn.Module):
        remedy = "wrap a function in rbl.Classifier(function, num_classes=...)"
        raise ConfigError(
            f"the classifier must be a Classifier or a torch.nn.Module, got {name}", remedy=remedy
        )
    devices = {tensor.device for tensor in (*model.parameters(), *model.buffers())}
    if len(devices) > 1:
        listed = " and ".join(sorted(map(str, devices)))
        raise ModelError(f"its tensors lie on {listed}", where=name, remedy="move the model to one device")
    device = devices.pop() if devices else torch.device("cpu")
    if num_classes is None:
        num_classes = find_class_count(model, images[:1].to(device))
    classifier = Classifier(model, num_classes=num_classes, name=name, device=device)
    classifier.add_note(UNNORMALIZED_NOTE)
    return classifier


def find_class_count(model: nn.Module, image: Tensor) -> int:
    """Find a network's number of logits, by a forward pass or, where that fails, from its last linear layer.

    The pass uses a copy where the network can be copied, so that the network itself has seen no image.

    Args:
        model: A network.
        image: (1, C, H, W) in [0, 1], on the network's device.

    Raises:
        ModelError: If neither works, or there is one output only.
    """
    name, remedy = type(model).__name__, "give num_classes=..."
    logits = _compute_first_logits(model, image)
    if isinstance(logits, Tensor) and logits.dim() == 2:
        count = logits.shape[1]
    elif logits is not None:
        got = (
            f"a tensor of shape {tuple(logits.shape)}"
            if isinstance(logits, Tensor)
            else type(logits).__name__
        )
        remedy = "wrap it in rbl.Classifier(model, num_classes=..., output=...)"
        raise ModelError(f"the output is {got}, not logits (N, K)", where=name, remedy=remedy)
    else:
        layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
        if not layers:
            raise ModelError("its number of classes cannot be found", where=name, remedy=remedy)
        count = layers[-1].out_features
    if count == 1:
        raise ModelError(
            "one output is not one class",
            where=name,
            remedy=f"wrap it in rbl.Classifier; {BINARY_OUTPUT_REMEDY}",
        )
    return count


def _compute_first_logits(model: nn.Module, image: Tensor) -> Any:
    """Return a network's answer to an image in evaluation mode; None if it raises."""
    try:
        queried = copy.deepcopy(model)
    except Exception:  # noqa: BLE001 - a user's module may refuse to be copied in any way
        queried = model
    modes = {module: module.training for module in queried.modules()}
    parameter = next((tensor for tensor in queried.parameters() if tensor.is_floating_point()), None)
    try:
        queried.eval()
        with torch.no_grad():
            return queried(image if parameter is None else image.to(parameter.dtype))
    except Exception:  # noqa: BLE001 - what it raises is reported when it is asked in earnest
        return None
    finally:
        for module, mode in modes.items():
            module.training = mode


def join_data(data: Any, labels: Any) -> Dataset:
    """Return the data set, or make one from images and labels as tensors, NumPy arrays or lists.

    Args:
        data: A data set, a pair of images and labels, or images alone: (N, C, H, W), uint8 or floats
            in [0, 1].
        labels: The labels, (N,), where ``data`` is images alone; else None.

    Raises:
        DataError: If they are not such images and labels.
    """
    if isinstance(data, Dataset):
        if labels is not None:
            raise DataError("labels are given twice", where=data.name, remedy="leave labels out")
        return data
    if labels is None:
        if not isinstance(data, tuple | list) or len(data) != 2:
            raise DataError("the images have no labels", remedy="give evaluate(classifier, images, labels)")
        data, labels = data
    return as_dataset((_convert_to_tensor(data, "images"), _convert_to_tensor(labels, "labels")))


def _convert_to_tensor(values: Any, what: str) -> Tensor:
    """Convert images or labels to a tensor on the CPU."""
    if isinstance(values, Sequence) and values and all(isinstance(tensor, Tensor) for tensor in values):
        shapes = {tuple(tensor.shape) for tensor in values}
        if len(shapes) > 1:
            listed = ", ".join(map(str, sorted(shapes)[:3]))
            raise DataError(f"{what} have several shapes: {listed}", remedy="resize them to one size")
        return torch.stack([tensor.detach().cpu() for tensor in values])
    try:
        return torch.as_tensor(values).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise DataError(
            f"the {what} cannot be read as an array: {reason}",
            remedy=f"give {what} as a tensor or a NumPy array",
        ) from None
