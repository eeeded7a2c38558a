"""Isolation of other libraries' attacks: NaN, global seeds, log handlers and tracing."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

import numpy as np
import torch
from torch import Tensor, nn

from robustbench_local.classifier.state_guard import RandomStates
from robustbench_local.threats.lp_ball import compute_norms
from robustbench_local.threats.threat_model import ThreatModel


class FiniteLogits(nn.Module):
    """A classifier that always returns finite logits and records the points where the model did not.

    Other libraries count NaN logits as a success, and NaN reaches the pixels of their next step. Here such a
    row becomes a tie. The point is stored if it is inside the ball, because the harness counts an image with
    non-finite logits as misclassified.

    Args:
        model: Images (N, C, H, W) to logits (N, K).
        originals: The images under attack.
        threat: The ball around them.
        num_classes: K.
    """

    def __init__(self, model: nn.Module, originals: Tensor, threat: ThreatModel, num_classes: int) -> None:
        super().__init__()
        self.model = model
        self._originals, self._threat, self._num_classes = originals, threat, num_classes
        self._nonfinite_points: dict[int, Tensor] = {}
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, (N, K); N may be 0, as Square queries once no image is left to attack."""
        if len(images) == 0:
            return images.new_zeros(0, self._num_classes)
        logits: Tensor = self.model(images)
        finite = torch.isfinite(logits).all(dim=1)
        if bool(finite.all()):
            return logits
        for point in images.detach()[~finite]:
            distance = compute_norms(point - self._originals, self._threat.norm)
            for row in (distance <= self._threat.eps).nonzero().flatten().tolist():
                self._nonfinite_points.setdefault(row, point.clone())
        return torch.where(finite[:, None], logits, 0.0)

    def replace_nonfinite_candidates(self, candidates: Tensor) -> Tensor:
        """Replace the candidates of images with non-finite logits by the stored points."""
        finite = torch.isfinite(candidates).flatten(1).all(dim=1).view(-1, 1, 1, 1)
        settled = torch.where(finite, candidates, self._originals).to(self._originals.dtype)
        for row, point in self._nonfinite_points.items():
            settled[row] = point
        return settled


@contextmanager
def seed_global_generators(seed: int) -> Iterator[None]:
    """Seed every global generator inside the context, and restore them afterwards.

    Args:
        seed: At least 0 and below 2**32, NumPy's limit.
    """
    before = RandomStates.from_process()
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    try:
        yield
    finally:
        before.restore_states()


@contextmanager
def silence_autoattack() -> Iterator[None]:
    """Run pyautoattack without its log and without two checks that the harness does itself.

    ``check_dynamic`` disables any running debugger or coverage measurement. It also counts in a dictionary
    that is never reset, so that it reports every model after the first dynamic one as dynamic.
    """
    checks, logger = import_module("pyautoattack.checks"), logging.getLogger("auto-attack")
    before = {name: getattr(checks, name) for name in ("check_dynamic", "check_randomized")}
    disabled, logger.disabled = logger.disabled, True
    for name in before:
        setattr(checks, name, lambda *_, **__: None)
    try:
        yield
    finally:
        logger.disabled = disabled
        for name, function in before.items():
            setattr(checks, name, function)
