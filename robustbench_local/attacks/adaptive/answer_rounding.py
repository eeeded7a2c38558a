"""The rounding of a model's answers in half precision, and finite differences that rise above it.

In float16 or bfloat16 an answer changes by its rounding alone more than by the steps that suit float32. The
noise is measured by changes of the pixels that such a format rounds away; the steps are longer and lean on
the gradient, so that a sound one predicts changes well above the noise; and what remains of the noise is
subtracted.

Source: Moré & Wild 2011, "Estimating computational noise" (SIAM J. Sci. Comput. 33); step sizes as the cube
root of the rounding, e.g. Nocedal & Wright, "Numerical Optimization", section 8.1.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from robustbench_local.attacks.adaptive.fixed_draws import fix_draws, preserve_randomness
from robustbench_local.attacks.core.losses import compute_margin
from robustbench_local.classifier import Classifier
from robustbench_local.classifier.device import find_computing_dtype
from robustbench_local.classifier.dtype_recorder import record_dtypes
from robustbench_local.classifier.wrapper import find_innermost
from robustbench_local.randomness import RandomStream

REPEATS = 4
"""Answers beside each image whose scatter is the noise."""
SCATTER_PER_EPSILON = 0.25
"""Largest change of a pixel for the scatter, in units of the format's epsilon: its values near 1/2 lie twice
as far apart."""
MIN_NOISE_PER_EPSILON = 0.25
"""Least noise of an answer, in units of the format's epsilon times its largest logit: rounding the logits
alone gives it."""
MAX_NOISE_PER_EPSILON = 4.0
"""Most noise, likewise. Measured: at most 1.3 on sound networks; ripples, which are no noise, 23."""
STEPS_PER_CUBE_ROOT = (0.1, 0.04)
"""Pixel changes along random directions, in units of the cube root of the epsilon: 0.01 and 0.004 in float16,
0.02 and 0.008 in bfloat16. The better agreement counts."""
SHORTEST_STEP_PER_CUBE_ROOT = 0.01
"""The shortest change along the gradient; the longest is that of random directions."""
AIMED_CHANGES_PER_NOISE = (30.0, 12.0)
"""Predicted norms of the changes, in units of their noise, that steps along the gradient aim at: kinks show
at long ones, rounding at short ones."""
MIN_CHANGE_PER_MEASURED_NOISE = 4.0
"""Norm of the measured differences, in units of their noise, from which they are informative. The noise is
subtracted: it leaves a cosine uncertain by less than .02 for a single image."""
_MIN_REAL_SHARE = 0.5
"""Share of the squared changes that is never taken for noise."""
_BLOCKS = 16
"""Groups of pixels that keep or turn the gradient's signs together."""


@dataclass(frozen=True)
class AnswerRounding:
    """The noise of a model's answers.

    Args:
        epsilon: Distance of the computation's coarsest format between 1 and the next number.
        noise_share: Standard deviation of a margin, as a share of the largest logit; not measured in float32.
    """

    epsilon: float
    noise_share: float

    @property
    def is_coarse(self) -> bool:
        """Whether a part of the computation is in half precision."""
        return self.epsilon > torch.finfo(torch.float32).eps

    @property
    def random_steps(self) -> tuple[float, ...]:
        """Pixel changes along random directions, in half precision."""
        return tuple(float(factor * self.epsilon ** (1 / 3)) for factor in STEPS_PER_CUBE_ROOT)

    def choose_step(self, gradient: Tensor, sizes: Tensor, aimed: float) -> Tensor:
        """Choose a pixel change along the gradient for each image, (N, 1, 1, 1), in half precision.

        Args:
            gradient: Of the margin, (N, C, H, W).
            sizes: The largest logit of each image, (N,).
            aimed: Predicted change in units of its noise.
        """
        per_step = 2 * gradient.flatten(1).abs().sum(dim=1) / _BLOCKS**0.5
        wanted: Tensor = aimed * self.compute_noise(sizes) / per_step.clamp_min(1e-30)
        shortest = float(SHORTEST_STEP_PER_CUBE_ROOT * self.epsilon ** (1 / 3))
        return wanted.clamp(shortest, max(self.random_steps)).to(gradient).view(-1, 1, 1, 1)

    def compute_noise(self, sizes: Tensor) -> Tensor:
        """Return the standard deviation of a difference of two margins with the largest logits ``sizes``."""
        return sizes * (2**0.5 * self.noise_share)


def measure_rounding(
    classifier: Classifier, images: Tensor, labels: Tensor, stream: RandomStream
) -> AnswerRounding:
    """Measure the noise of a model's margins; in float32 nothing is asked beyond the formats.

    Args:
        classifier: In evaluation mode.
        images: (N, C, H, W) in [0, 1].
        labels: (N,).
        stream: The images' random numbers.
    """
    epsilon = _find_epsilon(classifier, images)
    if epsilon <= torch.finfo(torch.float32).eps:
        return AnswerRounding(epsilon, epsilon)
    margins, sizes = [], []
    with fix_draws(classifier, stream) as seed_draws, torch.no_grad():
        for number in range(REPEATS):
            noise = stream.sample_uniform(images.shape[1:], draw=f"scatter {number}", device=images.device)
            seed_draws()
            logits = classifier(
                (images + SCATTER_PER_EPSILON * epsilon * (2 * noise - 1)).clamp(0, 1)
            ).double()
            margins.append(compute_margin(logits, labels))
            sizes.append(logits.abs().amax(dim=1))
    largest = torch.stack(sizes).amax(dim=0).clamp_min(torch.finfo(torch.float32).tiny)
    shares = torch.stack(margins).std(dim=0) / largest
    usual = shares.clamp(MIN_NOISE_PER_EPSILON * epsilon, MAX_NOISE_PER_EPSILON * epsilon)
    return AnswerRounding(epsilon, float(usual.square().mean().sqrt()))


def follow_gradient(gradient: Tensor, signs: Tensor, stream: RandomStream, draw: str) -> Tensor:
    """Return directions of signs along which a gradient predicts large changes of either sign.

    Args:
        gradient: (N, C, H, W).
        signs: Random signs, likewise: they stand where the gradient is zero.
        stream: The images' random numbers.
        draw: Name of the draw.
    """
    shape = gradient.shape[1:]
    block = stream.sample_uniform(shape, draw=f"{draw}, blocks", device=gradient.device)
    turned = stream.sample_uniform(torch.Size([_BLOCKS]), draw=f"{draw}, turns", device=gradient.device) < 0.5
    index = (block * _BLOCKS).long().clamp(0, _BLOCKS - 1).flatten(1)
    turns = torch.where(turned, -1.0, 1.0).gather(1, index).view(gradient.shape)
    return torch.where(gradient == 0, signs, gradient.sign()).to(signs) * turns


def compute_agreement(measured: Tensor, predicted: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Return cosine and relative error of measured and predicted changes, without the noise's share.

    Args:
        measured: (..., D), changes along D directions.
        predicted: Likewise.
        noise: Likewise, standard deviations of the measured ones; zero: nothing is subtracted.
    """
    tiny = torch.finfo(torch.float64).tiny
    spread, whole = noise.square().sum(dim=-1), measured.square().sum(dim=-1)
    real = torch.maximum(whole - spread, _MIN_REAL_SHARE * whole).clamp_min(tiny)
    cosine = (measured * predicted).sum(dim=-1) / (real.sqrt() * predicted.norm(dim=-1)).clamp_min(tiny)
    wrong = ((measured - predicted).square().sum(dim=-1) - spread).clamp_min(0.0)
    return cosine.clamp(-1.0, 1.0), (wrong / real).sqrt()


def _find_epsilon(classifier: Classifier, images: Tensor) -> float:
    """Return the epsilon of the coarsest format that the model computes in, at least that of float32."""
    formats = {torch.float32, find_computing_dtype(find_innermost(classifier).module)}
    with suppress(Exception), preserve_randomness(), torch.no_grad(), record_dtypes() as recorder:
        classifier(images[:1])  # code that cannot be watched may raise: then its weights speak for it
        formats |= recorder.dtypes
    return max(torch.finfo(dtype).eps for dtype in formats)
