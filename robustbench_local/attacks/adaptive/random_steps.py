"""The steps against a model whose answers vary by chance: every evaluation is a mean over draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from robustbench_local.attacks.adaptive.steps import AttackStep
from robustbench_local.threats.threat_model import ThreatModel

MAX_RANDOM_TARGETS = 3
"""Target classes of an image: each costs as much as an untargeted path, times the draws."""
RANDOM_GRADIENT_STEPS = 60
"""Steps of a path of APGD: with 20 draws each, two paths cost half of the standard AutoAttack."""
RANDOM_SQUARE_STEPS = 500
"""Proposals of Square where gradients help; without them `BLIND_SQUARE_STEPS`."""
BLIND_SQUARE_STEPS = 2000
"""Proposals of Square where nothing but answers is to be had."""
SQUARE_DRAWS = 10
"""Draws per proposal of Square."""


def compose_random_steps(
    ranked: Sequence[AttackStep], draws: int, threat: ThreatModel, *, follows_gradients: bool
) -> tuple[AttackStep, ...]:
    """Compose the steps for a model whose answers vary by chance.

    FAB is left out, as in AutoAttack's version for random defenses: it walks along the decision boundary,
    which moves with each draw.

    Args:
        ranked: Usable steps of APGD on the margin for views of the gradients, the best first.
        draws: Passes averaged per evaluation.
        threat: Budget, goal and region.
        follows_gradients: Whether the model's own gradients exist and are not zero everywhere.
    """
    paths = tuple(replace(step, steps=RANDOM_GRADIENT_STEPS, draws=draws) for step in ranked)
    steps = list(paths)
    if follows_gradients:
        steps.append(
            AttackStep(
                label=f"cross-entropy over {draws} draws",
                search="apgd",
                steps=RANDOM_GRADIENT_STEPS,
                draws=draws,
            )
        )
    steps += [
        replace(step, label=f"{step.label}, targeted", targets=MAX_RANDOM_TARGETS) for step in paths[:1]
    ]
    if threat.region == "image":
        square_draws = min(draws, SQUARE_DRAWS)
        steps.append(
            AttackStep(
                label=f"square over {square_draws} draws",
                search="square",
                steps=RANDOM_SQUARE_STEPS if paths or follows_gradients else BLIND_SQUARE_STEPS,
                draws=square_draws,
            )
        )
    return tuple(steps)
