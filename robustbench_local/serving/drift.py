"""Drift of the inputs: do the images of late still look like the reference images, to the model and at all?

Two questions, each with a known rate of false alarms on images of the reference's distribution:

- **Drift**: black-box shift detection on softmax outputs (BBSDs). The softmax outputs of each window of
  images are compared with the reference's, class by class, by two-sample Kolmogorov-Smirnov tests, and the
  smallest p-value is corrected for the number of classes (Bonferroni). Windows do not overlap, so that each
  is a test of its own: at most a share `DRIFT_ALPHA` of them is a false alarm.
- **Out of range**: an image whose brightness, contrast or sharpness is below or above that of every reference
  image. Of n reference images, each statistic has at most 2 / (n + 1) false alarms.

Source: Rabanser, Guenemann & Lipton 2019, "Failing loudly", arXiv:1810.11953, sections 3.1 and 3.2; the
outputs are those of Lipton, Wang & Smola 2018, arXiv:1802.03916.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import ks_2samp
from torch import Tensor

from robustbench_local.data.reference_outputs import (
    IMAGE_STATISTICS,
    ReferenceOutputs,
    compute_image_statistics,
)
from robustbench_local.errors import ConfigError

DRIFT_ALPHA = 0.01
"""Largest share of windows without drift that raise an alarm."""


@dataclass(frozen=True)
class DriftTest:
    """The test of one window."""

    p_value: float
    """Corrected for the number of classes; at most 1."""
    class_index: int
    """The class whose outputs differ most."""
    n: int
    """Number of images in the window."""

    @property
    def is_alarm(self) -> bool:
        """Whether the window differs from the reference."""
        return self.p_value < DRIFT_ALPHA


class DriftMonitor:
    """Compares the images of a server with a reference.

    Args:
        reference: Outputs and statistics of reference images.
        num_classes: Number of the model's classes.
        window: Number of images in each test.

    Raises:
        ConfigError: If the reference is of a model with other classes.
    """

    def __init__(self, reference: ReferenceOutputs, num_classes: int, window: int) -> None:
        if reference.probabilities.shape[1] != num_classes:
            raise ConfigError(
                f"the reference has {reference.probabilities.shape[1]} classes, the model {num_classes}",
                where=reference.source,
                remedy="make a reference with this model",
            )
        self.reference, self.window = reference, window
        self.window_count = self.alarm_count = 0
        self.latest: DriftTest | None = None
        self._probabilities: npt.NDArray[Any] = np.sort(reference.probabilities.double().numpy(), axis=0)
        self._limits = torch.stack([reference.statistics.amin(dim=0), reference.statistics.amax(dim=0)])
        self._waiting: list[tuple[float, ...]] = []
        self._lock = threading.Lock()

    @property
    def waiting_count(self) -> int:
        """Number of images of the next window that have come."""
        return len(self._waiting)

    def add_outputs(self, probabilities: Sequence[tuple[float, ...]]) -> list[DriftTest]:
        """Add the softmax outputs of images.

        Args:
            probabilities: One value per class for each image.

        Returns:
            The tests of the windows that are full now.
        """
        tests = []
        with self._lock:
            self._waiting += probabilities
            while len(self._waiting) >= self.window:
                part, self._waiting = self._waiting[: self.window], self._waiting[self.window :]
                test = self.compare_outputs(np.asarray(part))
                self.latest = test
                self.window_count += 1
                self.alarm_count += test.is_alarm
                tests.append(test)
        return tests

    def compare_outputs(self, probabilities: npt.NDArray[Any]) -> DriftTest:
        """Compare softmax outputs, (N, K), with the reference's."""
        p_values = [
            float(ks_2samp(column, known, method="asymp").pvalue)
            for column, known in zip(probabilities.T, self._probabilities.T, strict=True)
        ]
        worst = int(np.argmin(p_values))
        return DriftTest(min(1.0, p_values[worst] * len(p_values)), worst, len(probabilities))

    def find_unusual_statistics(self, images: Tensor) -> list[list[str]]:
        """Find the statistics of images, (N, C, H, W), that lie outside the reference's range."""
        values = compute_image_statistics(images)
        outside = (values < self._limits[0]) | (values > self._limits[1])
        return [
            [name for name, is_outside in zip(IMAGE_STATISTICS, row, strict=True) if is_outside]
            for row in outside.tolist()
        ]

    def to_json(self) -> dict[str, Any]:
        """Return the state for JSON."""
        latest = self.latest
        return {
            "reference": self.reference.source,
            "reference_images": len(self.reference.probabilities),
            "test": "Kolmogorov-Smirnov tests of softmax outputs, Bonferroni correction (BBSDs)",
            "alpha": DRIFT_ALPHA,
            "window": self.window,
            "waiting": self.waiting_count,
            "windows": self.window_count,
            "alarms": self.alarm_count,
            "latest": None
            if latest is None
            else {"p_value": latest.p_value, "class_index": latest.class_index, "alarm": latest.is_alarm},
        }
