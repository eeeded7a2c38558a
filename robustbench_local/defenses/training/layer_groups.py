"""The last layer of a network and the layers below it, which a fine-tuning trains at different rates."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import nn

from robustbench_local.errors import ModelError


@dataclass(frozen=True)
class LayerGroups:
    """The trainable parameters of a network, in two groups.

    Attributes:
        head: Those of the last layer.
        backbone: All others.
        backbone_layers: The layers below the last one, whose statistics a frozen backbone keeps, and what
            contains them.
    """

    head: list[nn.Parameter]
    backbone: list[nn.Parameter]
    backbone_layers: list[nn.Module]


def find_head(network: nn.Module, num_classes: int) -> str | None:
    """Return the dotted name of the last layer with one output for each class, or None.

    That is a linear layer, or a final convolution of 1x1, as SqueezeNet has one.

    Args:
        network: Images to logits.
        num_classes: Number of logits.
    """
    layers: list[tuple[str, nn.Module]] = [
        (name, layer) for name, layer in network.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)
    ]
    linear = [
        name for name, layer in layers if isinstance(layer, nn.Linear) and layer.out_features == num_classes
    ]
    if linear:
        return linear[-1]
    for name, last in layers[-1:]:
        if isinstance(last, nn.Conv2d) and (last.out_channels, last.kernel_size) == (num_classes, (1, 1)):
            return name
    return None


def group_layers(network: nn.Module, num_classes: int) -> LayerGroups:
    """Divide the trainable parameters of a network into those of the last layer and all others.

    Args:
        network: Images to logits.
        num_classes: Number of logits.

    Raises:
        ModelError: If no layer has one output for each class.
    """
    name = find_head(network, num_classes)
    if name is None:
        raise ModelError(
            f"has no last layer of {num_classes} outputs",
            where="training",
            remedy="set head_epochs=0 and backbone_rate=1, which treat all layers alike",
        )
    head_layer = network.get_submodule(name)
    of_head = {id(parameter) for parameter in head_layer.parameters()}
    trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
    inside_head = {id(layer) for layer in head_layer.modules()}
    return LayerGroups(
        head=[parameter for parameter in trainable if id(parameter) in of_head],
        backbone=[parameter for parameter in trainable if id(parameter) not in of_head],
        backbone_layers=[layer for layer in network.modules() if id(layer) not in inside_head],
    )


@contextmanager
def frozen_backbone(groups: LayerGroups) -> Iterator[None]:
    """Keep everything but the last layer as it is inside the context, statistics of batches included."""
    modes = [layer.training for layer in groups.backbone_layers]
    for parameter in groups.backbone:
        parameter.requires_grad_(False)
    for layer in groups.backbone_layers:
        layer.training = False  # of this layer alone: one that contains the head is among them
    try:
        yield
    finally:
        for parameter in groups.backbone:
            parameter.requires_grad_(True)
        for layer, mode in zip(groups.backbone_layers, modes, strict=True):
            layer.training = mode
