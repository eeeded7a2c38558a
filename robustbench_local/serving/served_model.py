"""A served model: its classifier, the images that it takes, and its card."""

from __future__ import annotations

import hashlib
import math
import threading
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from robustbench_local.certification.randomized_smoothing.smoothed_classifier import SmoothedClassifier
from robustbench_local.classifier import Classifier
from robustbench_local.classifier.image_resize import find_resized_size
from robustbench_local.classifier.input_contract import InputContract, override_contract
from robustbench_local.classifier.stochastic import with_verdict_draws
from robustbench_local.data.resize import format_preparation, prepare_pixels
from robustbench_local.errors import ConfigError, DataError
from robustbench_local.models.networks.network_registry import ARCHITECTURES
from robustbench_local.randomness import RandomStream
from robustbench_local.serving.certificate_choice import ServedCertificate, find_certificate
from robustbench_local.serving.image_upload import UploadedImage, convert_to_tensor, fit_channels
from robustbench_local.serving.model_choice import ModelChoice
from robustbench_local.serving.problems import ProblemError

MAX_RESIZED_PIXELS = 50_000_000
"""Largest image between resizing and crop, less than data sets may have: anybody may send one."""
Resize = int | Literal["stretch"] | None


@dataclass(frozen=True)
class PreparedImage:
    """An image as the model sees it."""

    tensor: Tensor
    """(1, C, H, W), float32 in [0, 1], on the 8-bit grid."""
    notes: tuple[str, ...]
    """Conversions applied to the upload."""
    is_enlarged: bool
    """Whether the upload has fewer pixels on a side than the model takes."""


class ServedModel:
    """A classifier that answers for uploaded images.

    Args:
        choice: How it was chosen.
        classifier: The classifier.
        size: (H, W) that uploads are brought to; None: what the model says.
        resize: Length of the shorter side before the center crop, ``"stretch"``, or None to cover the size.
        certificate: Card of the certificate; None: what the weights' card says.

    Raises:
        ConfigError: If no size is known.
    """

    def __init__(
        self,
        choice: ModelChoice,
        classifier: Classifier,
        *,
        size: tuple[int, int] | None = None,
        resize: Resize = None,
        certificate: str | None = None,
    ) -> None:
        self.choice, self.classifier = choice, classifier
        self.contract = override_contract(
            classifier.contract,
            input_size=size or find_input_size(classifier),
            preprocessing=None if resize is None else {"resize": resize},
        )
        self.channels = find_channels(classifier)
        self.digest = classifier.compute_digest()
        self.certificate: ServedCertificate | None = find_certificate(classifier, certificate)
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """Its name in answers."""
        return self.choice.name

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) that uploads are brought to."""
        size = self.contract.input_size
        assert size is not None  # noqa: S101 - the constructor sets it
        return size

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name per class; a class without a name has its number."""
        names = self.classifier.class_names
        return tuple(names) if names else tuple(map(str, range(self.classifier.num_classes)))

    def prepare_image(self, image: UploadedImage) -> PreparedImage:
        """Bring an upload to the size and channels of the model, as data of a grid file are.

        Raises:
            ProblemError: 422 for an image so long and thin that it would be enlarged beyond all bounds.
        """
        height, width = image.pixels.shape[:2]
        pixels, notes = fit_channels(image.pixels, self.channels)
        if _count_resized_pixels((height, width), self.contract) > MAX_RESIZED_PIXELS:
            raise ProblemError(
                422,
                f"{image.upload.name}: {width} x {height} pixels are too long and thin; cut out the object",
            )
        prepared = prepare_pixels(pixels, self.contract)
        is_enlarged = height < self.size[0] or width < self.size[1]
        return PreparedImage(convert_to_tensor(prepared), (*image.notes, *notes), is_enlarged)

    def compute_logits(self, images: Tensor) -> Tensor:
        """Compute the logits of prepared images, (N, K), or (N, K + 1) if the model may reject images.

        The draws of a random model belong to the image, so that the same image has the same answer.
        """
        with self._lock, torch.no_grad(), with_verdict_draws(self.classifier, _build_stream(images)):
            return self.classifier(images).cpu()

    @property
    def gives_probabilities(self) -> bool:
        """Whether the outputs are probabilities already: the shares of the votes of a smoothed classifier."""
        return isinstance(self.classifier, SmoothedClassifier)

    def describe_input(self) -> dict[str, Any]:
        """Describe the images that the model takes, and what happens to uploads."""
        return {
            "height": self.size[0],
            "width": self.size[1],
            "channels": self.channels,
            "preparation": format_preparation(self.contract),
            **self.contract.describe_fields(),
        }


def _count_resized_pixels(size: tuple[int, int], contract: InputContract) -> float:
    """Count the pixels of an image, (H, W), after resizing; infinity beyond the bound of data sets."""
    try:
        height, width = find_resized_size(size, contract.resize, contract.input_size or size)
    except DataError:
        return math.inf
    return height * width


def _build_stream(images: Tensor) -> RandomStream:
    """Build the random numbers of images, which depend on their pixels alone."""
    ids = tuple(hashlib.sha256(image.numpy().tobytes()).hexdigest() for image in images)
    return RandomStream(0, ids, "serving")


def find_input_size(classifier: Classifier) -> tuple[int, int]:
    """Find the size of the images that a classifier takes.

    Raises:
        ConfigError: If nothing says it.
    """
    if classifier.input_size is not None:
        return classifier.input_size
    architecture = ARCHITECTURES.get(str(classifier.provenance.get("architecture")))
    if architecture is not None:
        return architecture.input_shape[1:]
    raise ConfigError(
        "the size of its images is not known",
        where=classifier.name,
        remedy="give the size that it was trained on, such as --size 224",
    )


def find_channels(classifier: Classifier) -> int:
    """Find the number of channels that a classifier takes; 3 if nothing says it."""
    if classifier.channels is not None:
        return classifier.channels
    architecture = ARCHITECTURES.get(str(classifier.provenance.get("architecture")))
    return 3 if architecture is None else architecture.input_shape[0]


def check_same_classes(first: ServedModel, second: ServedModel) -> None:
    """Check that two models answer with the same classes.

    Raises:
        ConfigError: If they do not.
    """
    if first.class_names != second.class_names:
        raise ConfigError(
            f"{second.name} has other classes than {first.name}", remedy="compare models of the same classes"
        )
