"""Small models, images and applications for the tests of the server."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from robustbench_local.classifier import Classifier
from robustbench_local.serving.analysis_process import run_analysis
from robustbench_local.serving.application import Application
from robustbench_local.serving.model_choice import ModelChoice
from robustbench_local.serving.served_model import ServedModel
from robustbench_local.serving.serving_options import ServingOptions

NAMES = ("red", "green", "blue")
SIDE = 8


class MeanColor(nn.Module):
    """Logits are the mean of each channel, times a factor."""

    def __init__(self, factor: float = 10.0) -> None:
        super().__init__()
        self.flatten, self.linear = nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 3)
        weight = torch.zeros(3, 3, SIDE * SIDE)
        weight[range(3), range(3)] = factor / (SIDE * SIDE)
        self.linear.weight.data = weight.flatten(1)
        self.linear.bias.data.zero_()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.linear(self.flatten(images))


def make_model(network: Any = None, name: str = "colors", **options: Any) -> ServedModel:
    """A served model of three classes, of images 8x8."""
    served = {key: options.pop(key) for key in ("size", "resize", "certificate") if key in options}
    settings = {"num_classes": 3, "class_names": NAMES, "input_size": (SIDE, SIDE), **options}
    classifier = Classifier(MeanColor().eval() if network is None else network, name=name, **settings)
    return ServedModel(ModelChoice(name=name, source="python:colors.py:network"), classifier, **served)


class DirectAnalyst:
    """Attacks in this process, as the process of the attacks does."""

    def __init__(self, models: list[ServedModel]) -> None:
        self.models, self.is_stopped = models, False

    async def analyze_image(self, request: Any) -> dict[str, Any]:
        return run_analysis(self.models, request)

    async def stop(self) -> None:
        self.is_stopped = True


def make_application(
    *models: ServedModel, has_attacks: bool = True, monitor: Any = None, **options: Any
) -> Application:
    chosen = list(models) or [make_model()]
    analyst = DirectAnalyst(chosen) if has_attacks else None
    return Application(chosen, ServingOptions(**options), analyst=analyst, monitor=monitor)


def encode_image(pixels: np.ndarray | tuple[int, int, int], form: str = "PNG", **options: Any) -> bytes:
    """An image file of an array, or 12x12 of one color."""
    if isinstance(pixels, tuple):
        pixels = np.tile(np.array(pixels, np.uint8), (12, 12, 1))
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, **options)
    return buffer.getvalue()


def make_bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that announces so many pixels."""

    def make_chunk(kind: bytes, content: bytes) -> bytes:
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = make_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    data = make_chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    return b"\x89PNG\r\n\x1a\n" + header + data + make_chunk(b"IEND", b"")


RED, GREEN, BLUE = (encode_image(color) for color in ((220, 40, 40), (40, 220, 40), (40, 40, 220)))
