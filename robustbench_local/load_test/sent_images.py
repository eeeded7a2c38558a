"""The images that a load test sends: held-out ones with labels, corrupted ones, or noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from robustbench_local.counted_nouns import format_count
from robustbench_local.data.class_labels import fit_labels
from robustbench_local.data.data_sources import load_dataset
from robustbench_local.data.dataset import Dataset
from robustbench_local.errors import ConfigError, did_you_mean
from robustbench_local.load_test.service import Service
from robustbench_local.randomness import RandomStream
from robustbench_local.threats.corruptions import CORRUPTION_FUNCTIONS, corrupt_images

CLEAN = "clean"
DEFAULT_CORRUPTIONS = "gaussian_noise-3,motion_blur-3,fog-3,jpeg_compression-3"
"""One corruption of each family."""
_ALL, _NONE = "all", "none"
_DEFAULT_SEVERITY = 3
_NOISE_IMAGES = 64


@dataclass(frozen=True)
class SentImages:
    """The images of a load test."""

    description: str
    """What they are, in a few words."""
    clean: Tensor
    """(N, C, H, W) in [0, 1]."""
    ids: tuple[str, ...]
    """Name of each image."""
    labels: tuple[int, ...] | None = None
    """Class of each image; None for noise."""
    corrupted: Mapping[str, Tensor] = field(default_factory=dict)
    """The same images with each corruption, by its name with the severity."""
    groups: Mapping[str, str] = field(default_factory=dict)
    """Group of each image, if they show the same objects."""

    @property
    def sets(self) -> dict[str, Tensor]:
        """All sets of images, the clean ones first."""
        return {CLEAN: self.clean, **self.corrupted}


def parse_corruptions(text: str) -> list[tuple[str, int]]:
    """Parse names such as ``fog-3,gaussian_noise-5``, ``all`` or ``none``.

    Raises:
        ConfigError: If a corruption or a severity does not exist.
    """
    if text.strip() == _NONE:
        return []
    wanted: dict[tuple[str, int], None] = {}
    for word in filter(None, (part.strip() for part in text.split(","))):
        name, _, digits = word.rpartition("-") if word[-1:].isdigit() else (word, "", "")
        name, severity = name.replace("-", "_"), digits or str(_DEFAULT_SEVERITY)
        if name != _ALL and name not in CORRUPTION_FUNCTIONS:
            remedy = did_you_mean(name, [*CORRUPTION_FUNCTIONS, _ALL, _NONE])
            raise ConfigError(f"there is no corruption {name!r}", where="--corruptions", remedy=remedy)
        if severity not in {"1", "2", "3", "4", "5"}:
            raise ConfigError(
                f"the severity of {word!r} is not 1 to 5", where="--corruptions", remedy="write fog-3"
            )
        names = CORRUPTION_FUNCTIONS if name == _ALL else (name,)
        wanted.update(dict.fromkeys((one, int(severity)) for one in names))
    return list(wanted)


def load_images(
    service: Service,
    source: str | None,
    *,
    split: str,
    limit: int,
    corruptions: Sequence[tuple[str, int]],
    seed: int,
    allow_code: bool = False,
) -> SentImages:
    """Load the images of a load test, in the size that the service's model takes.

    Args:
        service: The service.
        source: As in a grid file, such as ``folder:photos``; None: noise, which has no accuracy.
        split: Their split.
        limit: Largest number of them.
        corruptions: Names and severities.
        seed: Seed of the choice, of the corruptions and of noise.
        allow_code: Allow a Python file that is named as the source to be run.

    Raises:
        ConfigError: If there is no source, and the service does not say the size of its images.
        RobustbenchError: If the images cannot be loaded, or have other classes.
    """
    if source is None:
        return _draw_noise(service, seed)
    dataset = load_dataset(
        source,
        split=split,
        limit=limit,
        seed=seed,
        size=service.size,
        resize=service.resize if service.size else None,
        interpolation=service.interpolation if service.size else None,
        gray_to_rgb=service.channels == 3,
        allow_code=allow_code,
    )
    if service.class_names:
        dataset = fit_labels(dataset, len(service.class_names), service.class_names)
    return SentImages(
        description=f"{format_count(len(dataset), 'image')} of {dataset.name}, {split}",
        clean=dataset.images,
        ids=dataset.ids,
        labels=tuple(dataset.labels.tolist()),
        corrupted=_corrupt_dataset(dataset, corruptions, seed),
        groups=dataset.group_by_image,
    )


def _corrupt_dataset(
    dataset: Dataset, corruptions: Sequence[tuple[str, int]], seed: int
) -> dict[str, Tensor]:
    stream = RandomStream(seed, dataset.ids, "corruption")
    return {
        f"{name}-{severity}": corrupt_images(dataset.images, name, severity, stream)
        for name, severity in corruptions
    }


def _draw_noise(service: Service, seed: int) -> SentImages:
    if service.size is None or service.channels is None:
        raise ConfigError(
            "the service does not say the size of its images",
            where=service.address.url,
            remedy="name images with --data, such as --data folder:photos",
        )
    draws = torch.Generator().manual_seed(seed)
    shape = (_NOISE_IMAGES, service.channels, *service.size)
    images = torch.randint(0, 256, shape, generator=draws).float() / 255
    return SentImages(
        description=f"{_NOISE_IMAGES} images of noise",
        clean=images,
        ids=tuple(f"noise {number}" for number in range(_NOISE_IMAGES)),
    )
