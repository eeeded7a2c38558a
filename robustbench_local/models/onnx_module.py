"""ONNX graphs as torch modules: a conversion that answers itself, or one that lends a file its slopes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_local.bpda import apply_straight_through
from robustbench_local.models.onnx_graph.graph_reader import OnnxGraph
from robustbench_local.models.onnx_graph.network import OnnxNetwork
from robustbench_local.models.onnx_input import ImageInput
from robustbench_local.models.onnx_model import OnnxModel


class OnnxModule(nn.Module):
    """The conversion of a graph to torch, from images (N, C, H, W) to the graph's outputs.

    Args:
        graph: The graph.
        image_input: How images enter it.
        graph_batch_size: The only number of images that the graph is given; None for any.
        identity: Identity of the graph, as text: the hashes of its files.

    Raises:
        UnsupportedOperatorError: Naming the operators that have no conversion.
    """

    def __init__(
        self, graph: OnnxGraph, image_input: ImageInput, graph_batch_size: int | None, identity: str
    ) -> None:
        super().__init__()
        self.network = OnnxNetwork(graph)
        self.image_input, self.identity = image_input, identity
        self.graph_batch_size = graph_batch_size

    def forward(self, images: Tensor) -> Tensor | dict[str, Tensor]:
        """Return the output, or several outputs by name, each with N rows."""
        size = self.graph_batch_size or len(images)
        parts = [self._run_batch(part, size) for part in torch.split(images, size)]
        names = self.network.outputs
        joined = {name: torch.cat([part[name] for part in parts]) for name in names}
        return joined if len(joined) > 1 else joined[names[0]]

    def _run_batch(self, images: Tensor, size: int) -> dict[str, Tensor]:
        count = len(images)
        if count < size:
            images = torch.cat([images, images[-1:].expand(size - count, -1, -1, -1)])
        values = {self.image_input.name: self.image_input.arrange_images(images)}
        values |= {name: torch.zeros(shape, dtype=torch.bool) for name, shape in self.image_input.flags}
        outputs = self.network(*(values[name] for name in self.network.inputs))
        if not self.image_input.has_batch:
            outputs = [value[None] if value.ndim < 2 else value for value in outputs]
        return {name: value[:count] for name, value in zip(self.network.outputs, outputs, strict=True)}


class OnnxStraightThroughModule(nn.Module):
    """The file's own answers, with the slopes of its conversion to torch: for files that round.

    Without gradients, only the file is asked.

    Args:
        module: The conversion, straight through each rounding.
        model: The file.

    Source: Athalye et al. 2018, arXiv:1802.00420, section 4.1.
    """

    libraries = ("onnxruntime",)
    lends_gradients = True

    def __init__(self, module: OnnxModule, model: OnnxModel) -> None:
        super().__init__()
        self.module, self.model = module, model

    def forward(self, images: Tensor) -> Tensor | dict[str, Tensor]:
        """Return the file's output, or several outputs by name, each with N rows."""
        answers: Tensor | dict[str, Tensor] = _make_tensors(self.model(images), images.device)
        if not (torch.is_grad_enabled() and images.requires_grad):
            return answers
        converted = self.module(images)
        if isinstance(answers, Tensor):
            return _replace_values(converted, answers)
        return {name: _replace_values(converted[name], value) for name, value in answers.items()}


def _replace_values(converted: Tensor, values: Tensor) -> Tensor:
    """Return other values with the slopes of the converted ones; integers as they are."""
    if not converted.requires_grad:
        return values
    return apply_straight_through(lambda _: values, converted)


def _make_tensors(answers: Any, device: torch.device) -> Any:
    if isinstance(answers, Mapping):
        return {name: _make_tensors(value, device) for name, value in answers.items()}
    tensor = torch.from_numpy(answers).to(device)
    return tensor.float() if tensor.is_floating_point() else tensor
