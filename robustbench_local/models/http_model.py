"""Models behind a URL: images are sent as JSON or PNG, scores or labels are returned as JSON."""

from __future__ import annotations

import io
import json
from hashlib import sha256

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from robustbench_local.errors import ConfigError, ModelError
from robustbench_local.models.endpoint_options import EndpointOptions
from robustbench_local.models.http_answers import parse_outputs, select_entry
from robustbench_local.models.http_client import EndpointClient
from robustbench_local.models.loaded_model import LoadedModel, ModelRequest

MAX_IDENTITY_IMAGES = 8
"""Number of images whose labels identify a state of a service."""
_PNG_TOLERANCE = 1e-3
"""Distance from [0, 1] that is rounding or interpolation."""
_PNG_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


class Endpoint:
    """A service that maps images (N, C, H, W) in [0, 1] to scores (N, K) or labels (N,).

    Args:
        client: The client of the service.
        options: Format of the images and key in the answer.
        access: ``"scores"`` or ``"labels"``.

    Attributes:
        first_labels: Labels of the first images, as text; empty before the first call.
    """

    def __init__(self, client: EndpointClient, options: EndpointOptions, access: str) -> None:
        self._client, self._options, self._access = client, options, access
        self._key = options.key or access
        self.first_labels = ""

    @property
    def identity(self) -> str:
        """Identity of the service, as far as it can be known: the URL and the first images' labels."""
        url = sha256(self._client.url.encode()).hexdigest()
        return f"{url} {self._options.format} {self._key} {self.first_labels}"

    def __call__(self, images: Tensor) -> Tensor:
        """Query the service, with one request per ``batch`` images, or per image as PNG."""
        size = 1 if self._options.format == "png" else self._options.batch
        parts = [images[first : first + size].detach().cpu() for first in range(0, len(images), size)]
        answers = np.concatenate([self._query_service(part) for part in parts])
        if not self.first_labels:
            first = answers[:MAX_IDENTITY_IMAGES]
            self.first_labels = str((first.argmax(axis=1) if first.ndim == 2 else first).tolist())
        return torch.from_numpy(answers)

    def count_images_within(self, seconds: float) -> int | None:
        """Return how many images the limit on requests lets through in a time, at least one; None without it.

        Args:
            seconds: The time.
        """
        if self._options.rate is None:
            return None
        size = 1 if self._options.format == "png" else self._options.batch
        return max(1, int(self._options.rate * seconds)) * size

    def _query_service(self, images: Tensor) -> np.ndarray:
        if self._options.format == "png":
            answer = self._client.post_request(self._encode_png(images[0]), "image/png")
        else:
            body = json.dumps({"images": images.tolist()}).encode()
            answer = self._client.post_request(body, "application/json")
        entry = select_entry(answer, self._key, where=self._client.display_url)
        return parse_outputs(entry, len(images), self._access, key=self._key, where=self._client.display_url)

    def _encode_png(self, image: Tensor) -> bytes:
        mode = _PNG_MODES.get(len(image))
        if mode is None:
            raise ModelError(
                f"a PNG has 1, 3 or 4 channels, this image has {len(image)}",
                where=self._client.display_url,
                remedy="set endpoint: {format: json}",
            )
        if float(image.min()) < -_PNG_TOLERANCE or float(image.max()) > 1 + _PNG_TOLERANCE:
            raise ModelError(
                f"a PNG holds pixels of 0 to 1, and preprocessing gives {float(image.min()):.3g} to "
                f"{float(image.max()):.3g}",
                where=self._client.display_url,
                remedy="leave normalize and value_scale out, which the service applies, or set endpoint: "
                "{format: json}",
            )
        pixels = (image * 255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
        stream = io.BytesIO()
        Image.fromarray(pixels[..., 0] if mode == "L" else pixels, mode).save(stream, "png")
        return stream.getvalue()


def load_endpoint(url: str, request: ModelRequest) -> LoadedModel:
    """Return the service at a URL as a model; it is not queried before the first images.

    Raises:
        ConfigError: If an option of the model does not apply to a service.
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
            "its number of classes is unknown", where=client.display_url, remedy="set num_classes"
        )
    loaded = LoadedModel(model=Endpoint(client, options, request.access or "scores"), num_classes=classes)
    if options.format == "png":
        loaded.notes.append("gets its images as PNG, rounded to 8 bits")
    loaded.provenance = {"format": options.format}
    return loaded
