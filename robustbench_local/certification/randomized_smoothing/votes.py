"""Vote counts of a classifier on noisy images, for many images and draws at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from robustbench_local.attacks.core.engine import compute_default_batch_size
from robustbench_local.classifier import Classifier
from robustbench_local.randomness import RandomStream, sample_normal_at


class VoteCounter:
    """Counts a classifier's votes under Gaussian noise; the draws of an image are the same in any batch.

    Args:
        classifier: Inside ``classifier.evaluation_mode()``.
        images: (N, C, H, W) in [0, 1].
        sigma: Standard deviation of the noise in pixel units.
        stream: The images' random numbers.
    """

    def __init__(self, classifier: Classifier, images: Tensor, sigma: float, stream: RandomStream) -> None:
        self.classifier, self.images, self.sigma = classifier, images, sigma
        self._keys = stream.compute_keys("votes", images.device)
        self._batch_size = classifier.limit_batch_size(compute_default_batch_size(images))

    def count_votes(self, rows: Tensor, first_draw: int, draw_count: int) -> Tensor:
        """Count the votes on images; noise is added to the pixels, which may then leave [0, 1].

        Args:
            rows: Indices of the images, (M,).
            first_draw: Number of the first draw of each image.
            draw_count: Draws of each image.

        Returns:
            int64, (M, K + 1), on the CPU; the last column counts non-finite logits.
        """
        classes = self.classifier.num_classes
        counts = torch.zeros(len(rows) * (classes + 1), dtype=torch.int64, device=self.images.device)
        rows = rows.to(self.images.device)
        pairs = torch.arange(len(rows) * draw_count, device=self.images.device)
        for some in torch.split(pairs, self._batch_size):
            image_index, draw = some // draw_count, some % draw_count + first_draw
            votes = self._draw_votes(rows[image_index], draw)
            counts += torch.bincount(image_index * (classes + 1) + votes, minlength=len(counts))
        return counts.view(len(rows), classes + 1).cpu()

    def _draw_votes(self, rows: Tensor, draws: Tensor) -> Tensor:
        """Return the classes of one draw each, (B,); the number of classes if the logits are not finite."""
        chosen = self.images[rows]
        noise = sample_normal_at(self._keys[rows], draws, chosen[0].numel()).view_as(chosen)
        with torch.no_grad():
            logits = self.classifier(chosen + self.sigma * noise, rows)
        finite = torch.isfinite(logits).all(dim=1)
        return torch.where(finite, logits.argmax(dim=1), self.classifier.num_classes)
