"""D10: does random noise of the allowed size already change the class?"""

from __future__ import annotations

import torch
from torch import Tensor

from robustbench_local.evaluation.diagnostics.diagnosed_model import DiagnosedModel
from robustbench_local.evaluation.diagnostics.diagnostic import (
    TOO_SMALL_REASON,
    Diagnostic,
    Reading,
    build_unread,
    format_images,
)
from robustbench_local.randomness import RandomStream
from robustbench_local.threats.lp_ball import project_to_box, sample_random_start
from robustbench_local.threats.threat_model import ThreatModel

MAX_DRAWS = 100
"""Most draws of noise for an image."""
MAX_IMAGES = 64
"""Most images."""
MIN_DRAWS = 10
"""With fewer draws the check says nothing."""
PASSES_SHARE = 0.30
"""Share of the budget that the check may take."""


class RandomNoise(Diagnostic):
    """Noise breaks images that attacks do not: then the attacks are misled. Their results decide later."""

    id = "D10"
    name = "attacks beat random noise"
    source = "Carlini et al. 2019, arXiv:1902.06705, section 5 (random noise as the weakest attack)"
    is_per_norm = True

    def check_model(self, model: DiagnosedModel) -> Reading:
        """Ask about noisy copies; `reports.analysis.noise_comparison` compares them with the attacks."""
        threat = model.threat
        if threat is None or threat.eps == 0:
            return build_unread("there is no ball of a norm")
        if model.is_random:
            return build_unread("random answers change the class by themselves (D4)")
        rows = model.correct_rows
        n = model.budget.count_images(MIN_DRAWS, min(MAX_IMAGES, len(rows)), PASSES_SHARE)
        if not n:
            return build_unread(TOO_SMALL_REASON)
        draws = min(MAX_DRAWS, max(MIN_DRAWS, int(PASSES_SHARE * model.budget.limit) // n))
        draws = min(draws, model.budget.left // n)
        broken = self._find_broken(model, rows[:n], threat, draws)
        count = int(broken.sum())
        return Reading(
            status="ok",
            sentence=f"Random noise of this size changes the class of {format_images(count, n)} "
            f"in {draws} draws.",
            value=count / n,
            n=n,
            images=tuple(model.ids[row] for row in rows[:n][broken].tolist()),
        )

    def _find_broken(self, model: DiagnosedModel, rows: Tensor, threat: ThreatModel, draws: int) -> Tensor:
        """Return which of these images any draw misclassifies, (N,) boolean."""
        originals, labels = model.images[rows], model.labels[rows]
        stream = RandomStream(model.seed, tuple(model.ids[row] for row in rows.tolist()), "random noise")
        broken = torch.zeros(len(rows), dtype=torch.bool)
        for draw in range(draws):
            noisy = project_to_box(
                originals + _sample_noise(originals, stream, threat, draw), originals, threat
            )
            answers = model.compute_logits(noisy).argmax(dim=1)
            broken |= (answers != labels) & (answers < model.classifier.num_classes)  # rejected is not broken
        return broken


def _sample_noise(originals: Tensor, stream: RandomStream, threat: ThreatModel, draw: int) -> Tensor:
    """Return noise, as large as the ball allows: random corners under Linf, random points otherwise.

    Under L0, random pixels get random colors of the corners of the box.
    """
    shape = tuple(originals.shape[1:])
    if threat.norm == "L0":
        colors = (stream.sample_uniform(shape, draw=f"noise/{draw}", device="cpu") >= 0.5).to(originals)
        pixels = sample_random_start(stream, shape, threat, draw=f"noise/{draw}/pixels", device="cpu") != 0
        return (colors - originals) * pixels.any(dim=1, keepdim=True)
    if threat.norm == "Linf":
        return threat.eps * (stream.sample_uniform(shape, draw=f"noise/{draw}", device="cpu") - 0.5).sign()
    return sample_random_start(stream, shape, threat, draw=f"noise/{draw}", device=torch.device("cpu"))
