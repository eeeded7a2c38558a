"""A model behind a URL: images go out as JSON or PNG, scores or labels come back as JSON."""

from __future__ import annotations

import io
import json
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from robustbench_local.errors import ConfigError, ModelError
from robustbench_local.models.endpoint_options import EndpointOptions
from robustbench_local.models.http_client import EndpointClient
from robustbench_local.models.loaded_model import LoadedModel, ModelRequest

MAX_IDENTITY_IMAGES = 8
"""Images whose labels tell one state of a service from another."""
_PNG_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


class Endpoint:
    """Images (N, C, H, W) in [0, 1] to the service's scores (N, K) or labels (N,).

    Args:
        client: Asks the service.
        options: Format of the images and key of the answer.
        access: ``"scores"`` or ``"labels"``.

    Attributes:
        first_labels: What it answered to the first images, as text; empty before.
    """

    def __init__(self, client: EndpointClient, options: EndpointOptions, access: str) -> None:
        self._client, self._options, self._access = client, options, access
        self._key = options.key or access
        self.first_labels = ""

    @property
    def identity(self) -> str:
        """What decides its answers, as far as it can be known: the URL and the first images' labels."""
        url = sha256(self._client.url.encode()).hexdigest()
        return f"{url} {self._options.format} {self._key} {self.first_labels}"

    def __call__(self, images: Tensor) -> Tensor:
        """Ask the service; one request for every ``batch`` images, or for each as PNG."""
        size = 1 if self._options.format == "png" else self._options.batch
        parts = [images[first : first + size].detach().cpu() for first in range(0, len(images), size)]
        answers = np.concatenate([self._query_service(part) for part in parts])
        if not self.first_labels:
            first = answers[:MAX_IDENTITY_IMAGES]
            self.first_labels = str((first.argmax(axis=1) if first.ndim == 2 else first).tolist())
        return torch.from_numpy(answers)

    def _query_service(self, images: Tensor) -> np.ndarray:
        if self._options.format == "png":
            answer = self._client.post_request(self._encode_png(images[0]), "image/png")
        else:
            body = json.dumps({"images": images.tolist()}).encode()
            answer = self._client.post_request(body, "application/json")
        return self._parse_answer(self._select_entry(answer), len(images))

    def _select_entry(self, answer: Any) -> Any:
        """The part of the answer that the key names."""
        for step in self._key.split("."):
            if not isinstance(answer, dict) or step not in answer:
                there = f"the keys {', '.join(map(str, answer))}" if isinstance(answer, dict) else "no keys"
                raise ModelError(
                    f"the answer has no {self._key!r}, at {step!r} there are {there}",
                    where=self._client.display_url,
                    remedy="set endpoint: {key: ...} to where the answer holds them",
                )
            answer = answer[step]
        return answer

    def _parse_answer(self, value: Any, count: int) -> np.ndarray:
        """Scores as float32 (N, K), or labels as int64 (N,); the classifier checks whether they fit."""
        try:
            found = np.asarray(value)
        except ValueError:
            found = np.asarray(None)
        if found.dtype.kind not in "iuf":
            raise ModelError(
                f"{self._key!r} of the answer holds {str(value)[:60]!r}, not numbers",
                where=self._client.display_url,
            )
        wanted = 1 if self._access == "labels" and found.dtype.kind != "f" else 2
        if count == 1 and found.ndim == wanted - 1:
            found = found[None]  # a single image may be answered without a list around it
        if found.ndim == 0 or len(found) != count:
            raise ModelError(
                f"{self._key!r} of the answer has the shape {found.shape} for {count} images",
                where=self._client.display_url,
            )
        return found.astype(np.int64 if wanted == 1 else np.float32)

    def _encode_png(self, image: Tensor) -> bytes:
        mode = _PNG_MODES.get(len(image))
        if mode is None:
            raise ModelError(
                f"a PNG has 1, 3 or 4 channels, this image has {len(image)}",
                where=self._client.display_url,
                remedy="set endpoint: {format: json}",
            )
        pixels = (image * 255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
        stream = io.BytesIO()
        Image.fromarray(pixels[..., 0] if mode == "L" else pixels, mode).save(stream, "png")
        return stream.getvalue()


def load_endpoint(url: str, request: ModelRequest) -> LoadedModel:
    """The service at a URL; it is not asked before the first images.

    Raises:
        ConfigError: If what was said about the model makes no sense for a service.
    """
    options = request.endpoint or EndpointOptions()
    client = EndpointClient(url, options)
    if request.weights is not None or request.architecture is not None or request.sha256 is not None:
        raise ConfigError(
            "a service takes no weights, architecture or sha256",
            where=client.display_url,
            remedy="leave them out",
        )
    if request.access == "gradients":
        raise ConfigError(
            "a service gives no gradients", where=client.display_url, remedy="set access: scores, or labels"
        )
    classes = request.num_classes or request.default_classes
    if classes is None:
        raise ConfigError(
            "nobody says how many classes it has", where=client.display_url, remedy="set num_classes"
        )
    found = LoadedModel(model=Endpoint(client, options, request.access or "scores"), num_classes=classes)
    if options.format == "png":
        found.notes.append("gets its images as PNG, so it reads them rounded to 8 bits")
    found.provenance = {"format": options.format}
    return found
