"""Requests and answers of the services that can be tested: ``rbl serve``, and those of ``http`` models."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from robustbench_local.errors import ConfigError, ModelError
from robustbench_local.models.http_answers import parse_outputs, select_entry

Protocol = Literal["serve", "json", "png"]
"""``serve``: the API of ``rbl serve``; ``json`` and ``png``: as ``endpoint: {format: ...}`` in a grid."""
NO_CLASS = -1
"""Stands for an image without a class: it is rejected, or its output is not finite."""
_BOUNDARY = "rbl-load-test-9f1c2e7b"
_MODES = {1: "L", 3: "RGB"}


@dataclass(frozen=True)
class Body:
    """The body of a request."""

    content: bytes
    """Its bytes."""
    content_type: str
    """Their media type."""


@dataclass(frozen=True)
class WireFormat:
    """How images are sent and answers are read."""

    protocol: Protocol
    """The form of both."""
    key: str = ""
    """Dotted path of scores or labels in an answer; empty: ``scores``, or else ``labels``."""

    def encode_images(self, images: Tensor) -> Body:
        """Encode a batch of images.

        Args:
            images: (N, C, H, W) in [0, 1]; PNG rounds them to 8 bits.

        Raises:
            ConfigError: If the protocol has no batches of this size, or no such images.
        """
        if self.protocol == "json":
            return Body(json.dumps({"images": images.tolist()}).encode(), "application/json")
        files = [encode_file(image) for image in images]
        if len(files) == 1:
            return Body(files[0], "image/png")
        if self.protocol == "png":
            raise ConfigError(
                "a PNG is one image", where="--batch-sizes", remedy="give 1, or --protocol json"
            )
        return Body(_join_files(files), f"multipart/form-data; boundary={_BOUNDARY}")

    def read_labels(self, content: bytes, count: int) -> tuple[int, ...]:
        """Read the predicted classes from an answer.

        Args:
            content: The body of the answer.
            count: Number of images that were sent.

        Returns:
            A class index for each image, or ``NO_CLASS``.

        Raises:
            ModelError: If they are not there.
        """
        try:
            answer = json.loads(content)
        except (ValueError, RecursionError):
            raise ModelError(f"the service answers {content[:60]!r}, which is not JSON") from None
        if self.protocol == "serve":
            return _read_served_labels(answer, count)
        key = self.key or ("labels" if isinstance(answer, dict) and "scores" not in answer else "scores")
        access = "labels" if key.rpartition(".")[2] == "labels" else "scores"
        outputs = parse_outputs(select_entry(answer, key, where=""), count, access, key=key, where="")
        if outputs.ndim == 1:
            return tuple(outputs.tolist())
        if outputs.ndim != 2 or not outputs.shape[1]:
            raise ModelError(f"{key!r} of the answer has the shape {outputs.shape}, not (images, classes)")
        finite = np.isfinite(outputs).all(axis=1)
        return tuple(np.where(finite, outputs.argmax(axis=1), NO_CLASS).tolist())


def encode_file(image: Tensor) -> bytes:
    """Encode an image (C, H, W) in [0, 1] as a PNG file of 8 bits.

    Raises:
        ConfigError: If it has neither one nor three channels.
    """
    mode = _MODES.get(len(image))
    if mode is None:
        raise ConfigError(
            f"a PNG has 1 or 3 channels, these images have {len(image)}", remedy="use --protocol json"
        )
    pixels = (image * 255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    stream = io.BytesIO()
    Image.fromarray(pixels[..., 0] if mode == "L" else pixels, mode).save(stream, "png", compress_level=1)
    return stream.getvalue()


def _join_files(files: Sequence[bytes]) -> bytes:
    parts: list[bytes] = []
    for number, content in enumerate(files):
        head = f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="{number}.png"\r\n'
        parts += [f"{head}Content-Type: image/png\r\n\r\n".encode(), content, b"\r\n"]
    return b"".join([*parts, f"--{_BOUNDARY}--\r\n".encode()])


def _read_served_labels(answer: Any, count: int) -> tuple[int, ...]:
    try:
        indices = [row["prediction"]["index"] for row in answer["images"]]
    except (KeyError, TypeError):
        raise ModelError("the answer is not one of rbl serve", remedy="give --protocol json or png") from None
    if len(indices) != count or not all(one is None or type(one) is int for one in indices):
        raise ModelError(f"the answer has {len(indices)} predictions for {count} images")
    return tuple(NO_CLASS if index is None else index for index in indices)
